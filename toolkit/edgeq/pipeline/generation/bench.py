"""`edgeq bench` of a language model: its variants beside a bundle, a folder of ONNX Runtime GenAI or a `.gguf` file."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeq.errors import DataError, UnsupportedError
from edgeq.onnx_runtime import ordered_level
from edgeq.pipeline.saturating import saturated_here, saturating_in
from edgeq.report.measured import Times
from edgeq.runtime.generation.bench import GenerationSpeed, check_lengths, prompt_of, race
from edgeq.runtime.generation.engine_process import (
    GENAI,
    LLAMA_CPP,
    ONNX_RUNTIME,
    Answer,
    EngineProcess,
    EngineSpec,
)
from edgeq.runtime.generation.settings import GENERATION_FILE, GenerationSettings
from edgeq.runtime.model import require_language_model

if TYPE_CHECKING:
    from edgeq.bundle.reader import Bundle
    from edgeq.pipeline.bench.request import BenchRequest
    from edgeq.progress import Progress

GENAI_CONFIG = "genai_config.json"
PROMPT_TOKENS, NEW_TOKENS, ROUNDS = 128, 64, 5


@dataclass(frozen=True, slots=True)
class Lengths:
    """What is read and written.

    Attributes:
        prompt_tokens: read.
        new_tokens: written after the first.
        rounds: of all contenders in turn, one more warms up.
    """

    prompt_tokens: int = PROMPT_TOKENS
    new_tokens: int = NEW_TOKENS
    rounds: int = ROUNDS


@dataclass(frozen=True, slots=True)
class EngineBench:
    """One contender.

    Attributes:
        id: the variant's; of another bundle with its name before it; or a file's or folder's name.
        engine: and its version.
        speed: medians.
        load_ms: time to open the model.
        rss_mb: growth of peak memory to load, read and write, in a process of its own.
        kv_bytes_per_token: growth of the cache.
        saturates: layers whose integer sums saturate in this CPU's kernels; None where nothing here can tell.
    """

    id: str
    engine: str
    speed: GenerationSpeed
    load_ms: float
    rss_mb: float
    kv_bytes_per_token: int
    saturates: tuple[str, ...] | None = ()

    def to_json(self) -> dict[str, Any]:
        """As `bench --json` prints it."""
        rest = {
            "load_ms": self.load_ms,
            "rss_mb": self.rss_mb,
            "kv_bytes_per_token": self.kv_bytes_per_token,
            "saturates": None if self.saturates is None else list(self.saturates),
        }
        return {"id": self.id, "engine": self.engine, **asdict(self.speed), **rest}

    @property
    def row(self) -> tuple[str, ...]:
        """Of the table."""
        speed = self.speed
        return (
            self.id,
            self.engine,
            f"{speed.first_token_ms:.1f} ({speed.prompt_ratio:.2f}x)",
            f"{speed.prompt_tokens_per_second:.0f}",
            f"{speed.tokens_per_second:.1f} ({speed.ratio:.2f}x)",
            f"{speed.cpu_ms_per_token:.2f} ({speed.cpu_ratio:.2f}x)",
            f"{self.load_ms:.0f}",
            f"{self.rss_mb:.0f}",
            f"{self.kv_bytes_per_token}",
        )


@dataclass(frozen=True, slots=True)
class SpeedReport:
    """What all contenders took."""

    baseline: str
    contenders: tuple[EngineBench, ...]

    @property
    def title(self) -> str:
        """Of the table."""
        return f"medians, and ratio to {self.baseline} in the same rounds: above 1 is faster"

    @property
    def columns(self) -> tuple[str, ...]:
        """Headings of the table."""
        speed = self.contenders[0].speed
        return (
            "",
            "engine",
            f"first token of {speed.prompt_tokens} ms",
            "prompt tok/s",
            f"tok/s over {speed.generated_tokens}",
            "CPU ms/tok",
            "load ms",
            "RSS MiB",
            "KV B/token",
        )

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """Of the table."""
        return [item.row for item in self.contenders]

    def times(self, machine: str, preferred: str) -> Times:
        """For a bundle's page.

        Args:
            machine: its processor, and how many threads ran.
            preferred: the bundle's first variant; no one number stands for it.
        """
        note = (
            f"Medians; in brackets the ratio to {self.baseline} in the same rounds, where above 1 is faster."
        )
        return Times(machine, note, self.columns, self.rows)


class GenerationTimer:
    """Times engines, each in a process of its own.

    Args:
        bundle: of a language model.
        request: what is asked for.
    """

    def __init__(self, bundle: Bundle, request: BenchRequest) -> None:
        self._threads, self._python = request.threads, request.llama_python
        self._lengths = Lengths(request.prompt_tokens or PROMPT_TOKENS, request.new_tokens or NEW_TOKENS)

    def nothing(self) -> UnsupportedError:
        """Why none of the bundle's variants can be timed here."""
        return UnsupportedError(
            "none of the bundle's variants runs on ONNX Runtime or llama.cpp; there is nothing to time here",
            hint="export the same model with --target cpu or gguf, and bench that",
        )

    def variants(self, bundle: Bundle, prefix: str) -> dict[str, EngineSpec]:
        """Those variants of a bundle that an engine here runs, by id behind a prefix.

        Raises:
            UnsupportedError: it is a bundle of another task.
        """
        require_language_model(bundle.manifest)
        return variant_specs(bundle, prefix, self._threads, self._python)

    def file(self, path: Path, mine: Mapping[str, EngineSpec]) -> dict[str, EngineSpec]:
        """A folder of GenAI or a `.gguf` file.

        Raises:
            DataError: it is neither.
        """
        if (path / GENAI_CONFIG).is_file():
            return {path.name: EngineSpec(GENAI, path, self._threads)}
        if path.suffix == ".gguf" and path.is_file():
            return {path.name: EngineSpec(LLAMA_CPP, path, self._threads, python=self._python)}
        if not path.exists():
            raise DataError(f"there is no `{path}` to compare with")
        raise DataError(
            f"`{path}` is nothing a language model can be compared with, expected a bundle, a folder with "
            f"{GENAI_CONFIG} or a .gguf file"
        )

    def time(
        self, mine: Mapping[str, EngineSpec], theirs: Mapping[str, EngineSpec], progress: Progress
    ) -> SpeedReport:
        """Time all in turn; ratios are to the first of the others, or else to the first variant.

        Raises:
            UsageError: prompt and answer do not fit the context.
            EdgeqError: an engine cannot be started or fails.
        """
        twins = _on_genai(mine) if any(spec.engine == GENAI for spec in theirs.values()) else {}
        return time_engines({**theirs, **mine, **twins}, self._lengths, progress)


def time_engines(specs: Mapping[str, EngineSpec], lengths: Lengths, progress: Progress) -> SpeedReport:
    """Time engines in turn, each in a process of its own, on the same token ids; the first is the baseline.

    Raises:
        UsageError: prompt and answer do not fit a context.
        EdgeqError: an engine cannot be started or fails.
    """
    baseline = next(iter(specs))
    with ExitStack() as stack:
        running: dict[str, EngineProcess] = {}
        with progress.stage("loading", len(specs)) as stage:
            for name, spec in specs.items():
                running[name] = stack.enter_context(EngineProcess(spec))
                stage.advance()
        check_lengths(
            lengths.prompt_tokens, lengths.new_tokens, min(item.context for item in running.values())
        )
        prompt = prompt_of(lengths.prompt_tokens, min(item.vocabulary for item in running.values()))
        with progress.stage("reading and writing", lengths.rounds + 1) as stage:
            speed, last = race(
                running,
                prompt,
                lengths.new_tokens,
                rounds=lengths.rounds,
                baseline=baseline,
                on_round=stage.advance,
            )
        found = (_found(name, item, speed[name], last[name]) for name, item in running.items())
        return SpeedReport(baseline, tuple(found))


def _found(name: str, process: EngineProcess, speed: GenerationSpeed, last: Answer) -> EngineBench:
    return EngineBench(
        name,
        f"{process.spec.engine} {process.version}",
        speed,
        1e3 * process.load_s,
        last.peak_bytes / 2**20,
        last.kv_bytes_per_token,
        saturated_here(partial(_saturating, process.spec)),
    )


def _saturating(spec: EngineSpec) -> tuple[str, ...] | None:
    """Layers of an engine's graphs that can saturate; llama.cpp's codes, at most 127 on both sides, cannot."""
    graphs = {ONNX_RUNTIME: [spec.model], GENAI: sorted(spec.model.glob("*.onnx"))}.get(spec.engine, [])
    found = [saturating_in(path) for path in graphs]
    return None if None in found else tuple(name for layers in found if layers for name in layers)


def variant_specs(
    bundle: Bundle, prefix: str, threads: int | None, llama_python: Path | None
) -> dict[str, EngineSpec]:
    """A bundle's variants by id: graphs on plain ONNX Runtime, GGUF files on llama.cpp."""
    settings = GenerationSettings.load(bundle.file(GENERATION_FILE))
    found: dict[str, EngineSpec] = {}
    for variant in bundle.variants:
        name, model = f"{prefix}{variant.id}", bundle.model_path(variant)
        if variant.runtime == ONNX_RUNTIME:
            shape = (settings.cache, settings.context_length, settings.vocabulary)
            level = ordered_level(variant.requirements)
            found[name] = EngineSpec(ONNX_RUNTIME, model, threads, *shape, level=level)
        elif variant.runtime == LLAMA_CPP:
            found[name] = EngineSpec(LLAMA_CPP, model, threads, python=llama_python)
    return found


def _on_genai(variants: Mapping[str, EngineSpec]) -> dict[str, EngineSpec]:
    """The same files on GenAI, so that graph and runtime can be told apart."""
    return {
        f"{name} on genai": EngineSpec(GENAI, spec.model.parent, spec.threads, level=spec.level)
        for name, spec in variants.items()
        if spec.engine == ONNX_RUNTIME and (spec.model.parent / GENAI_CONFIG).is_file()
    }
