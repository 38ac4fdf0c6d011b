"""From a Hugging Face model to semantic search with its int8 bundle, in one file.

Run it without arguments for the sample model, or point it at a bundle you have:

    python samples/quickstart/quickstart.py
    python samples/quickstart/quickstart.py --bundle out/my-bundle --corpus notes.txt --query "cheap flights"
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

import edgeq
from edgeq.calibration import load_samples
from edgeq.errors import EdgeqError

QUERIES = (
    "strikes and labour disputes",
    "my phone keeps restarting",
    "walking the dog",
    "when does the shop open?",
)
BUILT_IN_TEXTS = 1000
"""More than the built-in set holds: all of it."""
SHOWN_CHARACTERS = 96
TIMED_RUNS = 20


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    try:
        search(options.bundle, options.model, options.corpus, options.query or QUERIES, options.top)
    except EdgeqError as error:
        print(f"error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"\nhint: {error.hint}", file=sys.stderr)
        return int(error.exit_code)
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Semantic search with an int8 bundle.")
    parser.add_argument("--bundle", type=Path, help="a bundle to use; made in out/quickstart when left out")
    parser.add_argument("--model", help="what to export; the sample model all-MiniLM-L6-v2 when left out")
    parser.add_argument(
        "--corpus", type=Path, help="texts to search, one a line; edgeq's built-in ones when left out"
    )
    parser.add_argument("--query", action="append", help="repeat for several")
    parser.add_argument("--top", type=int, default=3, help="hits to print per query")
    return parser.parse_args(arguments)


def search(
    bundle: Path | None, model: str | None, corpus: Path | None, queries: Sequence[str], top: int
) -> None:
    """Export unless there is a bundle, index the corpus, and answer the queries."""
    path = bundle or export(model, Path("out/quickstart"))
    with edgeq.load(path) as runtime:
        texts = read_corpus(corpus)
        started = time.perf_counter()
        index = unit(runtime.encode(texts))
        seconds = time.perf_counter() - started
        size = runtime.variant.size_bytes / 1e6
        print(f"{runtime.manifest.name}, variant {runtime.variant.id}, {size:.1f} MB")
        print(f"indexed {len(texts)} texts in {seconds:.1f} s, vectors of {index.shape[1]} dimensions")
        vectors = unit(runtime.encode(list(queries)))
        for query, scores in zip(queries, vectors @ index.T, strict=True):
            print(f"\n{query}")
            for best in np.argsort(-scores, kind="stable")[:top]:
                print(f"  {scores[best]:.3f}  {shorten(texts[best])}")
        latency = median_ms(lambda: runtime.encode([queries[0]]))
    print(f"\none query: {latency:.1f} ms, median of {TIMED_RUNS} on this machine's CPU")


def export(model: str | None, output: Path) -> Path:
    """The bundle in `output`; an earlier one is used again."""
    if (output / "edgeq.json").is_file():
        print(f"using the bundle in {output}")
        return output
    print(f"exporting to {output}, once")
    return edgeq.export(model, target="android", precision="int8", variants=["cpu"], output=output).path


def read_corpus(path: Path | None) -> list[str]:
    """Lines of a file, blank ones left out."""
    if path is None:
        return [text for sample in load_samples(None, count=BUILT_IN_TEXTS).samples for text in sample.texts]
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1, so that dot products are cosines whether or not the model normalizes."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(norms, np.finfo(np.float32).tiny)


def median_ms(run: Callable[[], object]) -> float:
    """Median milliseconds of a few runs after one to warm up."""
    run()
    times = []
    for _ in range(TIMED_RUNS):
        started = time.perf_counter()
        run()
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times)


def shorten(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 1]}…"


if __name__ == "__main__":
    sys.exit(main())
