"""What a target is: capabilities as data, and a function that lowers the canonical graph to each of its variants."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from edgeq.onnx_runtime import DEFAULT_LEVEL, OptimizationLevel
from edgeq.types import Feeds, FloatArray, Outputs, Precision, SourceInfo, TensorSpec, Verification

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeq.graph.component import Component
    from edgeq.graph.static_weight import StaticWeight
    from edgeq.quantize.plan import QuantizationPlan
    from edgeq.quantize.recipes import Recipe
    from edgeq.quantize.streaming import StoredTensor
    from edgeq.quantize.weight_only import LayerStats, QuantizedWeight
    from edgeq.quantize.weight_only.palette import Palette
    from edgeq.runtime.adapter import HasSignature
    from edgeq.runtime.generation.settings import GenerationSettings


@dataclass(frozen=True, slots=True)
class VariantSpec:
    """One way a target can run a model.

    Attributes:
        id: `cpu-int8`, `nnapi-fp32`, `cpu-q4_k_m`; the folder in the bundle.
        engine: the part before the dash, as `--variants` names it.
        precision: the recipe's name.
        runtime: program that runs it.
        execution_provider: the provider or compute unit.
        architecture: CPU it is made for, `arm64` or `x86-64`.
        level: graph optimizations that its sessions of ONNX Runtime are to be opened with, here and in the app.
        one_partition: the target promises that the accelerator takes the whole graph in one piece.
        refusal: why this engine cannot honour the recipe; None where it can. Such a variant is not built.
    """

    id: str
    engine: str
    precision: str
    runtime: str
    execution_provider: str
    architecture: str
    level: OptimizationLevel = DEFAULT_LEVEL
    one_partition: bool = False
    refusal: str | None = None


@dataclass(frozen=True, slots=True)
class LoweringOptions:
    """Choices that shape the lowered graph.

    Attributes:
        seq_len: tokens of variants with a static shape; the longest of `seq_lens`.
        seq_lens: every length asked for, for targets whose variants take several; empty means `seq_len` alone.
        ios: oldest iOS to run on; None lets the precision decide.
    """

    seq_len: int = 128
    seq_lens: tuple[int, ...] = ()
    ios: int | None = None

    @property
    def lengths(self) -> tuple[int, ...]:
        """Sequence lengths, ascending."""
        return tuple(sorted(set(self.seq_lens or (self.seq_len,))))


@dataclass(frozen=True, slots=True, eq=False)
class LoweringInput:
    """What a target gets.

    Attributes:
        canonical: the model.
        plan: what was decided per layer; None for floating point.
        equalized: the canonical graph with the plan's equalizations applied; None for floating point.
        weights: codes of the weight-only layers and tables (`plan.weights`), by initializer name. They belong to
            `graph()`.
        static: codes of the static int8 layers (`plan.linears`), by initializer name of `graph()`.
        precision: the family of the recipe: its narrowest weights, or how its floats are stored.
        palettes: lookup tables of the palettized weights, by initializer name, for targets that take them.
        calibration: feeds that show which values the model reaches, for targets that compute in float16.
        about: where the model comes from, for targets whose files say so.
    """

    canonical: Component
    plan: QuantizationPlan | None = None
    equalized: ir.Model | None = None
    weights: Mapping[str, QuantizedWeight] = field(default_factory=dict)
    precision: Precision = Precision.FP32
    calibration: Iterable[Feeds] = ()
    about: SourceInfo | None = None
    palettes: Mapping[str, Palette] = field(default_factory=dict)
    static: Mapping[str, StaticWeight] = field(default_factory=dict)

    def graph(self) -> ir.Model:
        """The graph to lower: equalized where there is a plan."""
        return self.canonical.model if self.equalized is None else self.equalized


@dataclass(frozen=True, slots=True, eq=False)
class CheckpointInput:
    """What a target gets whose files are made of a checkpoint's tensors, not of a graph.

    Attributes:
        name: of the model, for file names.
        config: of the model, the defaults of its class filled in.
        tensors: by parameter name, read a piece at a time.
        tokenizer_json: the tokenizer.
        special_ids: token id by role (`bos_token`, ...).
        settings: context length, stop tokens, chat template.
        about: where the model comes from.
        observe: statistics of the inputs of some weights on the calibration texts, with X^T X if the second
            argument says so.
        advance: called for each tensor that is done.
    """

    name: str
    config: Mapping[str, Any]
    tensors: Mapping[str, StoredTensor]
    tokenizer_json: str
    special_ids: Mapping[str, int]
    settings: GenerationSettings
    about: SourceInfo
    observe: Callable[[Sequence[str], bool], Mapping[str, LayerStats]]
    advance: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class Lowered:
    """A variant that was written.

    Attributes:
        model: the file, or the folder of a Core ML package.
        inputs: as the runtime takes them.
        outputs: as it returns them.
        opset: ONNX opset; None for other formats.
        placement: nodes per execution provider, partitions, reasons (JSON values).
        requirements: runtime version, API level, ABI (JSON values).
        notes: what whoever exports should know.
        details: what a reader of the report may want to know besides.
    """

    model: Path
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    opset: int | None
    placement: Mapping[str, Any] = field(default_factory=dict)
    requirements: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    details: tuple[str, ...] = ()

    @property
    def remarks(self) -> list[str]:
        """All that a bundle keeps."""
        return [*self.notes, *self.details]


@dataclass(frozen=True, slots=True)
class Twin:
    """A variant computed in another way that is as right as its own: what differs is kernel noise.

    Attributes:
        kind: what is other, in the plural where several may be run (`draws of last bits`).
        run: outputs of every feeds, in order.
        most_cases: how many golden cases are worth its time; None for all.
    """

    kind: str
    run: Callable[[Sequence[Feeds]], list[Outputs]]
    most_cases: int | None = None


class HasTwins(Protocol):
    """Anything whose outputs another machine may compute a little otherwise."""

    def twins(self, seeds: int) -> Iterator[Twin]:
        """Ways to compute the same variant that differ in rounding alone, one open at a time.

        Args:
            seeds: draws of random last bits.
        """

    def louder_twins(self, seeds: int, last_bits: int) -> Iterator[Twin]:
        """The same with larger noise, for files in which a last bit moves hardly any code; often none.

        Args:
            seeds: draws.
            last_bits: times a last bit.
        """


class Session(HasTwins, Protocol):
    """A written variant, ready for canonical feeds `[batch, sequence]` of any size it can be fitted to."""

    @property
    def static_length(self) -> int | None:
        """Most tokens it takes; None when the length is free."""

    @property
    def verification(self) -> Verification:
        """How real its outputs are."""

    @property
    def environment(self) -> Mapping[str, str]:
        """What runs it: the program and its version first, then architecture, CPU, provider."""

    @property
    def rounding_noise(self) -> float:
        """Relative error that its number format may add to an output; 0 where it computes in float32."""

    @property
    def also(self) -> tuple[Session, ...]:
        """The same variant run in the other ways that this machine has (on the CPU only, say); often none."""

    def run(self, feeds: Feeds) -> Outputs:
        """All outputs, of the feeds' own batch and length."""


class Target(Protocol):
    """What every platform has; see `GraphTarget` and `CheckpointTarget` for the two ways to make its files."""

    @property
    def name(self) -> str:
        """As `--target` spells it."""

    @property
    def title(self) -> str:
        """One line for `edgeq targets`."""

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """Families of recipes it can be asked for."""

    @property
    def own_runtimes(self) -> tuple[str, ...]:
        """Runtimes besides ONNX Runtime whose variants `open` executes or simulates."""

    @property
    def option_names(self) -> tuple[str, ...]:
        """Options of its own that it reads (`ios`)."""

    @property
    def made_from(self) -> Literal["graph", "checkpoint"]:
        """Which of the two it is."""

    @property
    def own_precisions(self) -> Mapping[str, str]:
        """Names of its file types that `--precision` takes, with a line about each."""

    def variants(self, recipe: Recipe) -> tuple[VariantSpec, ...]:
        """Variants of a bundle, most preferred first; those that cannot honour the recipe say why (`refusal`)."""

    def check(self, recipe: Recipe, options: LoweringOptions) -> None:
        """Refuse, before any work, options that the recipe cannot be lowered with.

        Raises:
            UnsupportedError: says what is needed.
        """

    def open(self, spec: VariantSpec, model: Path, signature: HasSignature, *, pad_id: int = 0) -> Session:
        """A written variant as a session on this machine.

        Raises:
            ModelError: it cannot be loaded.
        """


class GraphTarget(Target, Protocol):
    """A platform that runs graphs. Adding one is a module with an instance of this, and a line in `TARGETS`."""

    def lower(
        self, spec: VariantSpec, source: LoweringInput, options: LoweringOptions, folder: Path
    ) -> Lowered:
        """Write one variant into a folder.

        Raises:
            UnsupportedError: the graph holds what this target cannot run, or a promised placement is not reached.
        """


class CheckpointTarget(Target, Protocol):
    """A platform with graphs of its own, which takes tensors and settings. It is added as a `GraphTarget` is."""

    def write(self, spec: VariantSpec, source: CheckpointInput, folder: Path) -> Lowered:
        """Write one variant into a folder, a tensor at a time.

        Raises:
            UnsupportedError: the platform would run this model as something else.
            OutputError: the disk is full.
        """

    def check_family(self, model_type: str, positions: str) -> None:
        """Whether its files can say how a family computes, by its config alone.

        Args:
            model_type: of the config.
            positions: type of its rotary positions.

        Raises:
            UnsupportedError: they cannot.
        """

    def stored_bytes(
        self, spec: VariantSpec, config: Mapping[str, Any], matrices: Mapping[str, tuple[int, ...]]
    ) -> int:
        """Bytes of some matrices `(out, in)` in a variant's file, by parameter name."""

    def read_back(
        self, model: Path, config: Mapping[str, Any], parameters: Mapping[str, tuple[int, ...]]
    ) -> Mapping[str, FloatArray]:
        """The parameters that a written file stands for, each read when it is looked up.

        Args:
            model: the file.
            config: of the original.
            parameters: shapes of its parameters.

        Raises:
            ModelError: the file is damaged, or of another model.
        """

    def formats(
        self, model: Path, config: Mapping[str, Any], parameters: Mapping[str, tuple[int, ...]]
    ) -> Mapping[str, str]:
        """The type of each parameter that a written file stores as codes; arguments and errors as `read_back`."""

    def rounding(
        self, model: Path, config: Mapping[str, Any], parameters: Mapping[str, tuple[int, ...]]
    ) -> Mapping[str, Callable[[FloatArray], FloatArray]]:
        """By parameter, what its runtime makes of the rows `[tokens, K]` before it multiplies them."""

    def can_execute(self) -> bool:
        """Whether `open` has its runtime on this machine."""

    def ram_bytes(self, model: Path, context: int) -> int:
        """Growth of memory to load a file, read a prompt and write some tokens with its runtime.

        Raises:
            ModelError: the runtime fails.
        """

    @property
    def cache_bytes_per_value(self) -> int:
        """Bytes of each number that its runtime keeps of the past."""

    def is_calibrated(self, spec: VariantSpec) -> bool:
        """Whether `write` looks at calibration texts."""

    def recipe_of(self, spec: VariantSpec) -> Recipe:
        """What makes the same variant again with this target (`recipe.yaml`)."""

    def precision_of(self, spec: VariantSpec) -> Precision:
        """The family of a variant, which decides the default gate."""


@runtime_checkable
class ChecksGraphs(Protocol):
    """A target that can tell from a graph alone that it cannot lower it."""

    def check_graph(self, graph: ir.Model) -> None:
        """Refuse a canonical graph before it is calibrated and quantized.

        Raises:
            UnsupportedError: names what it holds.
        """


def check_graph(target: Target, graph: ir.Model) -> None:
    """Let a target refuse a graph early, where it can.

    Raises:
        UnsupportedError: names what the target cannot run.
    """
    if isinstance(target, ChecksGraphs):
        target.check_graph(graph)
