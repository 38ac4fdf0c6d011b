"""`edgeq bench`: latency of a bundle's variants, interleaved with something to compare with, load time and memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeq.errors import DataError, UnsupportedError, UsageError
from edgeq.onnx_runtime import DEFAULT_LEVEL, OptimizationLevel, ordered_level
from edgeq.pipeline.forward.measure import bench_feeds
from edgeq.pipeline.generation.bench import (
    NEW_TOKENS,
    PROMPT_TOKENS,
    EngineBench,
    Lengths,
    bench_language_model,
    peer_specs,
)
from edgeq.pipeline.saturating import saturated_here, saturating_in, saturating_layers
from edgeq.progress import Progress, SilentProgress
from edgeq.runtime.adapter import HasSignature, Signature
from edgeq.runtime.footprint import measure_ram_bytes
from edgeq.runtime.session import VariantSession
from edgeq.runtime.timing import Timing, interleave
from edgeq.tasks import is_autoregressive
from edgeq.types import ONNX_RUNTIME, Feeds, Role

if TYPE_CHECKING:
    from edgeq.bundle.reader import Bundle

CASES = ((1, 16), (1, 128), (8, 128))
ROUNDS = 40
CASE_BUDGET_S = 8.0
MEMORY_TOKENS = 128


@dataclass(frozen=True, slots=True)
class BenchRequest:
    """What to time.

    Attributes:
        bundle: path.
        against: the baseline of ratios: another bundle or an `.onnx` file with the same inputs; for a language model
            another bundle, a folder of ONNX Runtime GenAI or a `.gguf` file.
        threads: intra-op threads; None leaves the choice to the engines.
        prompt_tokens: of a language model's prompt.
        new_tokens: that it writes.
        llama_python: interpreter that has llama-cpp-python; this one when left out.
    """

    bundle: Path
    against: Path | None = None
    threads: int | None = None
    force: bool = False
    prompt_tokens: int | None = None
    new_tokens: int | None = None
    llama_python: Path | None = None

    @property
    def lengths(self) -> Lengths:
        """Of a language model's prompt and answer."""
        return Lengths(self.prompt_tokens or PROMPT_TOKENS, self.new_tokens or NEW_TOKENS)


@dataclass(frozen=True, slots=True)
class Case:
    """One batch size and length."""

    batch: int
    tokens: int
    timing: Timing

    def to_json(self) -> dict[str, Any]:
        """As `bench --json` prints it."""
        latency = {"p50": self.timing.p50_ms, "p95": self.timing.p95_ms}
        return {"batch": self.batch, "tokens": self.tokens, "latency_ms": latency, "ratio": self.timing.ratio}


@dataclass(frozen=True, slots=True)
class VariantBench:
    """One contender, as an app runs it: at the level its bundle orders, with this CPU's own kernels.

    Attributes:
        id: of the variant, or the file's name.
        cases: times.
        rss_mb: growth of peak memory to load and run it.
        load_ms: time to open it.
        saturates: layers whose integer sums saturate in these kernels; None where nothing here can tell.
    """

    id: str
    cases: tuple[Case, ...]
    rss_mb: float
    load_ms: float
    saturates: tuple[str, ...] | None = ()

    def to_json(self) -> dict[str, Any]:
        """As `bench --json` prints it."""
        return {
            "id": self.id,
            "cases": [case.to_json() for case in self.cases],
            "rss_mb": self.rss_mb,
            "load_ms": self.load_ms,
            "saturates": None if self.saturates is None else list(self.saturates),
        }


@dataclass(frozen=True, slots=True)
class _Model:
    """A file to time, and how an app would open it."""

    id: str
    path: Path
    signature: HasSignature
    level: OptimizationLevel
    saturates: tuple[str, ...] | None
    pad_id: int = 0


@dataclass(frozen=True, slots=True)
class _Contender:
    """A model that was opened."""

    model: _Model
    session: VariantSession
    load_ms: float


def run_bench(
    request: BenchRequest, progress: Progress | None = None
) -> tuple[str, list[VariantBench] | list[EngineBench]]:
    """Time every variant; ratios are to the returned baseline in the same rounds.

    Raises:
        UnsupportedError: nothing in the bundle runs on ONNX Runtime, or it is neither a text nor a language model.
        UsageError: the request asks for what only language models have, or for more tokens than fit.
        EdgeqError: the bundle or what it is compared with cannot be opened.
    """
    from edgeq.bundle.reader import open_bundle

    progress = progress or SilentProgress()
    with ExitStack() as stack:
        bundle = stack.enter_context(open_bundle(request.bundle, force=request.force))
        if not is_autoregressive(bundle.manifest.source.task):
            return _bench_encoder(bundle, request, progress, stack)
        others = (
            peer_specs(request.against, request.threads, request.llama_python, stack, force=request.force)
            if request.against
            else {}
        )
        return bench_language_model(
            bundle,
            others,
            request.lengths,
            progress,
            threads=request.threads,
            llama_python=request.llama_python,
        )


def _bench_encoder(
    bundle: Bundle, request: BenchRequest, progress: Progress, stack: ExitStack
) -> tuple[str, list[VariantBench]]:
    if request.prompt_tokens or request.new_tokens or request.llama_python:
        raise UsageError(
            f"`{bundle.manifest.name}` is a {bundle.manifest.source.task} model: it reads no prompt, writes no tokens "
            "and has no counterpart in llama.cpp",
            hint=f"edgeq bench {request.bundle}",
        )
    mine = _variants(bundle, "", request.threads)
    if not mine:
        runtimes = ", ".join(dict.fromkeys(variant.runtime for variant in bundle.variants))
        raise UnsupportedError(
            f"the bundle's variants run on {runtimes}, whose speed this machine cannot tell; bench times ONNX Runtime",
            hint="time it on the device (Core ML: Xcode's performance report of the .mlpackage), or export the same "
            "model with --target cpu and bench that",
        )
    others = _others(request, mine, stack) if request.against else []
    contenders = {item.model.id: item for item in [*others, *mine]}
    baseline = next(iter(contenders))
    limit = _longest(bundle, contenders.values())
    cases = _time(contenders, baseline, _real_tokens(bundle), limit, progress)
    memory = _memory(contenders, limit, progress)
    return baseline, [
        VariantBench(name, tuple(cases[name]), memory[name], item.load_ms, item.model.saturates)
        for name, item in contenders.items()
    ]


def _longest(bundle: Bundle, contenders: Iterable[_Contender]) -> int:
    """Tokens that every contender takes."""
    static = [length for item in contenders if (length := item.session.static_length) is not None]
    tokenizer = bundle.manifest.text_processor
    return min([MEMORY_TOKENS, *static, *([tokenizer.max_length] if tokenizer else [])])


def _memory(contenders: Mapping[str, _Contender], limit: int, progress: Progress) -> dict[str, float]:
    """Growth of RSS in MiB of each, in a process of its own."""
    found = {}
    with progress.stage("measuring memory", len(contenders)) as stage:
        for name, item in contenders.items():
            model = item.model
            bytes_ = measure_ram_bytes(model.path, model.signature.inputs, tokens=limit, level=model.level)
            found[name] = bytes_ / 2**20
            stage.advance()
    return found


def _variants(bundle: Bundle, prefix: str, threads: int | None) -> list[_Contender]:
    pad_id = bundle.manifest.text_processor.pad_id if bundle.manifest.text_processor else 0
    models = [
        _Model(
            f"{prefix}{variant.id}",
            bundle.model_path(variant),
            variant,
            ordered_level(variant.requirements),
            saturated_here(partial(saturating_layers, bundle, variant)),
            pad_id,
        )
        for variant in bundle.variants
        if variant.runtime == ONNX_RUNTIME
    ]
    return [_load(model, threads) for model in models]


def _others(request: BenchRequest, mine: Sequence[_Contender], stack: ExitStack) -> list[_Contender]:
    """What is compared with; an archive stays unpacked until the stack is closed."""
    from edgeq.bundle.reader import looks_like_bundle, open_bundle

    path = request.against
    assert path is not None
    if looks_like_bundle(path):
        other = stack.enter_context(open_bundle(path, force=request.force))
        return _variants(other, f"{path.name}/", request.threads)
    if path.suffix != ".onnx":
        raise DataError(f"`{path}` is neither a bundle nor an .onnx file")
    free = next((item for item in mine if item.session.static_length is None), mine[0]).model
    signature = Signature(free.signature.inputs, free.signature.outputs)
    saturates = saturated_here(partial(saturating_in, path))
    return [_load(_Model(path.name, path, signature, DEFAULT_LEVEL, saturates), request.threads)]


def _load(model: _Model, threads: int | None) -> _Contender:
    started = time.perf_counter()
    session = VariantSession(
        model.path,
        model.signature,
        threads=threads,
        pad_id=model.pad_id,
        spin=False,
        level=model.level,
        exact=False,
    )
    return _Contender(model, session, (time.perf_counter() - started) * 1e3)


def _real_tokens(bundle: Bundle) -> Feeds:
    cases = bundle.golden_cases()
    longest = max(
        cases,
        key=lambda case: case.feeds["input_ids"].shape[1] if "input_ids" in case.feeds else 0,
        default=None,
    )
    if longest is None or not any(spec.role is Role.TOKEN_IDS for spec in bundle.variants[0].inputs):
        raise UnsupportedError(
            "bench knows text models with golden cases; this bundle has none",
            hint="bench the bundle it was packed from: a bundle packed with --drop-goldens has no inputs to time",
        )
    return longest.feeds


def _time(
    contenders: Mapping[str, _Contender], baseline: str, feeds: Feeds, limit: int, progress: Progress
) -> dict[str, list[Case]]:
    found: dict[str, list[Case]] = {name: [] for name in contenders}
    with progress.stage("timing", len(CASES)) as stage:
        for batch, tokens in CASES:
            case = bench_feeds(feeds, min(tokens, limit), batch)
            runs = {name: _runner(item.session, case) for name, item in contenders.items()}
            for name, timing in interleave(
                runs, baseline=baseline, rounds=ROUNDS, budget_s=CASE_BUDGET_S
            ).items():
                found[name].append(Case(batch, min(tokens, limit), timing))
            stage.advance()
    return found


def _runner(session: VariantSession, feeds: Feeds) -> Callable[[], object]:
    return lambda: session.run(feeds)
