"""Latency of models that are run once per input, by batch size and length."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeq.errors import DataError, UnsupportedError, UsageError
from edgeq.onnx_runtime import DEFAULT_LEVEL, OptimizationLevel, ordered_level
from edgeq.pipeline.saturating import saturated_here, saturating_in, saturating_layers
from edgeq.processors.text_padding import full_batch
from edgeq.report.measured import EncoderTime, Times, encoder_times
from edgeq.runtime.adapter import FeedAdapter, HasSignature, Signature
from edgeq.runtime.footprint import measure_ram_bytes
from edgeq.runtime.session import VariantSession
from edgeq.runtime.timing import Timing, interleave
from edgeq.tasks.tokens import Tokens
from edgeq.types import ONNX_RUNTIME, Feeds, Role

if TYPE_CHECKING:
    from edgeq.bundle.golden import GoldenCase
    from edgeq.bundle.reader import Bundle
    from edgeq.pipeline.bench.request import BenchRequest
    from edgeq.progress import Progress

CASES = ((1, 16), (1, 128), (8, 128))
ROUNDS = 40
CASE_BUDGET_S = 8.0
MEMORY_TOKENS = 128


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

    def timed(self, contender: str) -> EncoderTime:
        """For a bundle's page."""
        timing = self.timing
        return EncoderTime(contender, self.batch, self.tokens, timing.p50_ms, timing.p95_ms, timing.ratio)


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

    @property
    def row(self) -> tuple[str, ...]:
        """Of the table."""
        latencies = (f"{case.timing.p50_ms:.1f} ({case.timing.ratio:.2f}x)" for case in self.cases)
        return (self.id, *latencies, f"{self.load_ms:.0f}", f"{self.rss_mb:.0f}")


@dataclass(frozen=True, slots=True)
class LatencyReport:
    """What all contenders took."""

    baseline: str
    contenders: tuple[VariantBench, ...]

    @property
    def title(self) -> str:
        """Of the table."""
        return f"median latency, and ratio to {self.baseline} in the same rounds"

    @property
    def columns(self) -> tuple[str, ...]:
        """Headings of the table."""
        cases = self.contenders[0].cases
        return ("", *(f"{case.batch}x{case.tokens} ms" for case in cases), "load ms", "RSS MiB")

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """Of the table."""
        return [item.row for item in self.contenders]

    def times(self, machine: str, preferred: str) -> Times:
        """For a bundle's page.

        Args:
            machine: its processor, and how many threads ran.
            preferred: the bundle's first variant.
        """
        rows = [case.timed(item.id) for item in self.contenders for case in item.cases]
        return encoder_times(machine, self.baseline, rows, preferred)


@dataclass(frozen=True, slots=True)
class Model:
    """A file to time, and how an app would open it."""

    path: Path
    signature: HasSignature
    level: OptimizationLevel
    saturates: tuple[str, ...] | None
    pad_id: int = 0

    @property
    def static_length(self) -> int | None:
        """Tokens of the static sequence; None when the length is free."""
        return FeedAdapter(self.signature).static_length


class ForwardTimer:
    """Times models in this process.

    Args:
        bundle: its golden texts are what models are timed on.
        request: what is asked for.

    Raises:
        UsageError: what only language models have.
    """

    def __init__(self, bundle: Bundle, request: BenchRequest) -> None:
        if request.prompt_tokens or request.new_tokens or request.llama_python:
            raise UsageError(
                f"`{bundle.manifest.name}` is a {bundle.manifest.source.task} model: it reads no prompt, writes no "
                "tokens and has no counterpart in llama.cpp",
                hint=f"edgeq bench {request.bundle}",
            )
        self._bundle, self._threads = bundle, request.threads

    def nothing(self) -> UnsupportedError:
        """Why none of the bundle's variants can be timed here."""
        runtimes = ", ".join(dict.fromkeys(variant.runtime for variant in self._bundle.variants))
        return UnsupportedError(
            f"the bundle's variants run on {runtimes}, whose speed this machine cannot tell; bench times ONNX Runtime",
            hint="time it on the device (Core ML: Xcode's performance report of the .mlpackage), or export the same "
            "model with --target cpu and bench that",
        )

    def variants(self, bundle: Bundle, prefix: str) -> dict[str, Model]:
        """Those variants of a bundle that ONNX Runtime runs, by id behind a prefix."""
        return {
            f"{prefix}{variant.id}": Model(
                bundle.model_path(variant),
                variant,
                ordered_level(variant.requirements),
                saturated_here(partial(saturating_layers, bundle, variant)),
                bundle.manifest.text_processor.pad_id if bundle.manifest.text_processor else 0,
            )
            for variant in bundle.variants
            if variant.runtime == ONNX_RUNTIME
        }

    def file(self, path: Path, mine: Mapping[str, Model]) -> dict[str, Model]:
        """An `.onnx` file, which is given the inputs of a variant: of one that takes any length, if there is one.

        Raises:
            DataError: it is another file.
        """
        if path.suffix != ".onnx":
            raise DataError(f"`{path}` is neither a bundle nor an .onnx file")
        models = list(mine.values())
        free = next((model for model in models if model.static_length is None), models[0])
        signature = Signature(free.signature.inputs, free.signature.outputs)
        saturates = saturated_here(partial(saturating_in, path))
        return {path.name: Model(path, signature, DEFAULT_LEVEL, saturates)}

    def time(
        self, mine: Mapping[str, Model], theirs: Mapping[str, Model], progress: Progress
    ) -> LatencyReport:
        """Time all in turn; ratios are to the first of the others, or else to the first variant.

        Raises:
            UnsupportedError: the bundle has no texts to time on.
            ModelError: a file cannot be loaded.
        """
        contenders = {**theirs, **mine}
        baseline = next(iter(contenders))
        sessions, load_ms = {}, {}
        for name, model in {**mine, **theirs}.items():
            started = time.perf_counter()
            sessions[name] = self._session(model)
            load_ms[name] = (time.perf_counter() - started) * 1e3
        limit = self._longest(contenders)
        cases = self._cases({name: sessions[name] for name in contenders}, baseline, limit, progress)
        memory = _memory(contenders, limit, progress)
        found = (
            VariantBench(name, tuple(cases[name]), memory[name], load_ms[name], model.saturates)
            for name, model in contenders.items()
        )
        return LatencyReport(baseline, tuple(found))

    def _session(self, model: Model) -> VariantSession:
        return VariantSession(
            model.path,
            model.signature,
            threads=self._threads,
            pad_id=model.pad_id,
            spin=False,
            level=model.level,
            exact=False,
        )

    def _longest(self, contenders: Mapping[str, Model]) -> int:
        """Tokens that every contender takes."""
        static = [length for model in contenders.values() if (length := model.static_length) is not None]
        tokenizer = self._bundle.manifest.text_processor
        return min([MEMORY_TOKENS, *static, *([tokenizer.max_length] if tokenizer else [])])

    def _cases(
        self, sessions: Mapping[str, VariantSession], baseline: str, limit: int, progress: Progress
    ) -> dict[str, list[Case]]:
        feeds = _real_tokens(self._bundle)
        found: dict[str, list[Case]] = {name: [] for name in sessions}
        with progress.stage("timing", len(CASES)) as stage:
            for batch, tokens in CASES:
                case = full_batch(feeds, min(tokens, limit), batch)
                runs = {name: _runner(session, case) for name, session in sessions.items()}
                timings = interleave(runs, baseline=baseline, rounds=ROUNDS, budget_s=CASE_BUDGET_S)
                for name, timing in timings.items():
                    found[name].append(Case(batch, min(tokens, limit), timing))
                stage.advance()
        return found


def _memory(contenders: Mapping[str, Model], limit: int, progress: Progress) -> dict[str, float]:
    """Growth of RSS in MiB of each, in a process of its own."""
    found = {}
    with progress.stage("measuring memory", len(contenders)) as stage:
        for name, model in contenders.items():
            bytes_ = measure_ram_bytes(model.path, model.signature.inputs, tokens=limit, level=model.level)
            found[name] = bytes_ / 2**20
            stage.advance()
    return found


def _real_tokens(bundle: Bundle) -> Feeds:
    """The golden case of the most tokens."""
    longest = max(bundle.golden_cases(), key=_length, default=None)
    if longest is None or not any(spec.role is Role.TOKEN_IDS for spec in bundle.variants[0].inputs):
        raise UnsupportedError(
            "bench knows text models with golden cases; this bundle has none",
            hint="bench the bundle it was packed from: a bundle packed with --drop-goldens has no inputs to time",
        )
    return longest.feeds


def _length(case: GoldenCase) -> int:
    ids = Tokens.of_case(case).ids
    return 0 if ids is None else int(ids.shape[1])


def _runner(session: VariantSession, feeds: Feeds) -> Callable[[], object]:
    return lambda: session.run(feeds)
