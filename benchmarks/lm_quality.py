"""Recipes and weight-only methods on a causal language model, as `edgeq export` ships them, run by ONNX Runtime.

Two tables: every method on recipe `int4` (head and embeddings included) in blocks of 32 and 128, with the share of the
gap between rounding to nearest and the original that it closes; then every recipe, smallest first. Held-out and
calibration text come from a file (`--text`, one text per line; every fourth judges) or, without one, the model writes
them itself at temperature 0.8.

    python benchmarks/lm_quality.py MODEL [--text FILE] [--methods rtn gptq ...] [--recipes q8 int4 ...] [--prompt TEXT]
"""

from __future__ import annotations

import argparse
import math
import platform
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnxruntime

from edgeq.calibration.data import CalibrationData
from edgeq.exporters.causal_lm import ExportedLanguageModel, load_language_model
from edgeq.pipeline.generation.data import LanguageData, divide_language
from edgeq.pipeline.generation.planning import language_recipe
from edgeq.pipeline.quantizing import quantize_model
from edgeq.processors.prompts import PromptTokenizer
from edgeq.progress import SilentProgress
from edgeq.quantize.recipes import Recipe, load_recipe
from edgeq.runtime.generation.generator import OnnxTokens
from edgeq.runtime.generation.sampling import Sampling
from edgeq.runtime.generation.session import DecoderSession
from edgeq.runtime.perplexity import agreement_length, compare_on, greedy
from edgeq.samples import Text
from edgeq.targets.cpu import lower_for_cpu
from edgeq.targets.onnx_file import save_onnx
from edgeq.types import Array, FloatArray

METHODS = ("rtn", "hqq", "scale_search", "awq", "gptq")
RECIPES = ("int4", "w4a8", "q4", "q4_k_s", "q4_k_m", "q5_k_m", "q6", "q8", "int8", "fp16")
HEAD = f"{'':22}       MB   bits  perplexity  KL +- SE              KL p99   top-1   RMS dp  greedy"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table."""

    name: str
    size_mb: float
    bits: float
    metrics: Mapping[str, float]
    greedy: int
    seconds: float


def main() -> None:
    arguments = parse()
    exported = load_language_model(arguments.model)
    tokenizer = PromptTokenizer(exported.preprocessor.tokenizer_json)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        fp32 = folder / "fp32.onnx"
        save_onnx(exported.canonical.model.clone(), fp32)
        texts = read_texts(arguments, exported, tokenizer, fp32)
        data = divide_language(
            CalibrationData(tuple(map(Text, texts)), "benchmark", "", len(texts)), exported, len(texts)
        )
        scored = sum(len(window.ids) - window.first_scored for window in data.windows)
        print(
            f"{Path(arguments.model).name}: {scored} held-out tokens in windows of {len(data.windows[0].ids)}, "
            f"{data.sets.calibration_samples} texts calibrate; graph by {exported.graph_source}, onnxruntime "
            f"{onnxruntime.__version__}, {platform.machine()}"
        )
        bench = Bench(exported, data, tokenizer.encode(arguments.prompt), arguments.tokens, folder)
        print(HEAD)
        show(bench.row(load_recipe("fp32"), "fp32"))
        for symmetric in (True, False):
            for block in arguments.blocks:
                methods_table(bench, arguments.methods, block, symmetric)
        print(f"\n{HEAD}         s")
        found = [bench.row(language_recipe(load_recipe(n), SilentProgress()), n) for n in arguments.recipes]
        for row in sorted(found, key=lambda item: item.size_mb):
            show(row, f"  {row.seconds:8.1f}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="a Hugging Face folder")
    parser.add_argument(
        "--text", type=Path, help="UTF-8, one text per line; without it the model writes its own"
    )
    parser.add_argument("--texts", type=int, default=96, help="texts the model writes")
    parser.add_argument("--length", type=int, default=200, help="tokens of each")
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=METHODS)
    parser.add_argument("--blocks", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--recipes", nargs="*", default=list(RECIPES))
    parser.add_argument("--prompt", default="Once upon a time, there was a little girl")
    parser.add_argument("--tokens", type=int, default=80, help="tokens of the greedy answer")
    return parser.parse_args()


def methods_table(bench: Bench, methods: Sequence[str], block: int, symmetric: bool) -> None:
    """Methods at the same size, each with the share of the first one's gap that it closes."""
    first: Mapping[str, float] | None = None
    for method in methods:
        label = f"{method} {'sym' if symmetric else 'asym'} {block}"
        row = bench.row(with_method(load_recipe("int4"), method, block, symmetric), label)
        first = first or row.metrics
        closed = [100 * (1 - gap(row.metrics, kind) / gap(first, kind)) for kind in ("perplexity", "kl")]
        show(row, f"  closes {closed[0]:5.1f} % of the log perplexity gap, {closed[1]:5.1f} % of KL")


def gap(metrics: Mapping[str, float], kind: str) -> float:
    """How far from the original."""
    if kind == "kl":
        return metrics["kl_mean"]
    return math.log(metrics["perplexity"] / metrics["perplexity_original"])


def with_method(recipe: Recipe, method: str, block: int, symmetric: bool) -> Recipe:
    """The recipe with every 4-bit layer by one method in one form; tables fall back to the best without inputs."""
    form = {"method": method, "block_size": block, "symmetric": symmetric}
    rules = tuple(
        replace(rule, set=tuple((key, form.get(key, value)) for key, value in rule.set))
        for rule in recipe.rules
        if dict(rule.set).get("bits", 4) == 4
    )
    return replace(recipe, default=replace(recipe.default, **form), rules=rules)


def read_texts(
    arguments: argparse.Namespace, exported: ExportedLanguageModel, tokenizer: PromptTokenizer, fp32: Path
) -> list[str]:
    if arguments.text is not None:
        return [line for line in arguments.text.read_text("utf-8").splitlines() if line.strip()]
    settings = exported.settings
    session = DecoderSession(fp32, settings.cache, settings.context_length)
    start = tokenizer.encode("") or [exported.genai_config["model"]["bos_token_id"]]
    texts = []
    for seed in range(arguments.texts):
        ids = []
        for token in OnnxTokens(session)(start, Sampling(temperature=0.8, seed=seed), arguments.length):
            if token in settings.stop_ids:
                break
            ids.append(token)
        texts.append(tokenizer.decode(ids))
    return [text for text in texts if text.strip()]


@dataclass(frozen=True, slots=True)
class Bench:
    """The model, its texts, and what the original answers."""

    exported: ExportedLanguageModel
    data: LanguageData
    prompt: Sequence[int]
    tokens: int
    folder: Path

    def reference(self, ids: Array) -> FloatArray:
        """The original's logits, `[tokens, vocabulary]`."""
        return self.exported.reference(ids[None])[0]

    def row(self, recipe: Recipe, label: str) -> Row:
        """Quantize, lower, save, and run the file."""
        exported, path = self.exported, self.folder / "model.onnx"
        started = time.process_time()
        done = quantize_model(exported.canonical, self.data.sets, recipe, SilentProgress())
        lowered = lower_for_cpu(done.lowering_input(exported.canonical))
        seconds = time.process_time() - started
        save_onnx(lowered, path)
        session = DecoderSession(path, exported.settings.cache, exported.settings.context_length)
        found = compare_on(self.reference, session.logits, self.data.windows)
        expected = greedy(self.reference, self.prompt, self.tokens)
        agreed = agreement_length(expected, greedy(session.logits, self.prompt, self.tokens))
        size = path.stat().st_size
        return Row(label, size / 1e6, 8 * size / exported.source.parameters, found, agreed, seconds)


def show(row: Row, more: str = "") -> None:
    """Print a line."""
    found = row.metrics
    print(
        f"{row.name:22} {row.size_mb:8.3f}  {row.bits:5.2f}  {found['perplexity']:10.4f}  "
        f"{found['kl_mean']:.6f} +- {found['kl_se']:.6f}  {found['kl_p99']:.4f}  {found['top1_agreement']:6.2%}  "
        f"{found['delta_p_rms']:6.2%}  {row.greedy:6d}{more}",
        flush=True,
    )


if __name__ == "__main__":
    main()
