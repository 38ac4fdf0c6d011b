"""A component: one named ONNX graph of a model, in clean high-level operators, whatever the targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeq.types import Array, Feeds, Role, TensorSpec

if TYPE_CHECKING:
    import onnx_ir as ir

CANONICAL_OPSET = 20
"""First opset with `Gelu`; LayerNormalization came with 17."""

BATCH = "batch"
SEQUENCE = "sequence"
"""Names of the axes that exporters of text models free."""


@dataclass(frozen=True, slots=True)
class Axis:
    """A free dimension.

    Attributes:
        name: as the specs of inputs and outputs have it.
        default: its size where a target needs one and nobody asked for another.
        most: the largest size that the model takes; None where any works.
    """

    name: str
    default: int = 1
    most: int | None = None


@dataclass(frozen=True, slots=True)
class Padding:
    """Samples of other sizes share a batch: the shorter ones are filled up along an axis, and an input says where.

    Attributes:
        axis: name of the axis.
        mask_input: name of the input `[batch, axis]` that is zero at what was filled.
    """

    axis: str
    mask_input: str

    def mask(self, feeds: Feeds) -> Array | None:
        """`[batch, axis]`, nonzero where a position is real; None where the feeds do not say."""
        return feeds.get(self.mask_input)


@dataclass(frozen=True, slots=True)
class State:
    """What a graph remembers from one run to the next: an output that is its own input the next time."""

    past: str
    present: str


@dataclass(frozen=True, slots=True)
class Wire:
    """What one component of a model gives another: an encoder's states that a decoder attends to, say.

    Attributes:
        source: name of the component that computes it.
        output: its output.
        target: name of the component that reads it.
        input: its input.
    """

    source: str
    output: str
    target: str
    input: str


@dataclass(frozen=True, slots=True)
class Component:
    """One graph of a model, with named inputs, roles and axes.

    Operators are the high-level ones (LayerNormalization, Gelu, MatMul, Softmax, Gather); weights are
    initializers in float32, `[in, out]` for MatMul; the mask of the padding enters as an additive float term
    computed by `(1 - mask) * -10000` style arithmetic, never by Where or Equal.

    Attributes:
        name: of the part of the model that it is; a model of one graph calls it `model`.
        model: the graph. Passes are run on clones.
        inputs: free dimensions have the names of axes.
        outputs: the same.
        axes: free dimensions with their limits.
        padding: how samples of other sizes share a batch; None where they have to be alike.
        state: what it remembers; empty for graphs that are run once per sample.
    """

    name: str
    model: ir.Model
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    axes: tuple[Axis, ...] = ()
    padding: Padding | None = None
    state: tuple[State, ...] = ()

    def axis(self, name: str) -> Axis:
        """An axis by its name.

        Raises:
            KeyError: the graph has none of that name.
        """
        return {axis.name: axis for axis in self.axes}[name]

    @property
    def max_length(self) -> int:
        """The longest sample: what the axis that is padded may be.

        Raises:
            ValueError: nothing is padded, or any length works.
        """
        limit = None if self.padding is None else self.axis(self.padding.axis).most
        if limit is None:
            raise ValueError(f"the component `{self.name}` has no longest sample")
        return limit

    def sizes(self, length: int) -> dict[str, int]:
        """A size for every axis: `length` for the one that is padded, its default for any other."""
        padded = None if self.padding is None else self.padding.axis
        return {axis.name: length if axis.name == padded else axis.default for axis in self.axes}


def check_wires(components: Sequence[Component], wires: Sequence[Wire]) -> None:
    """Whether the components of a model have names of their own, and every wire fits at both ends.

    Raises:
        ValueError: two have one name; or a wire starts or ends at nothing, carries another type or shape than its
            end takes, or ends where another does.
    """
    named = {component.name: component for component in components}
    if len(named) < len(components):
        raise ValueError(f"two components have one name: {[component.name for component in components]}")
    ends = [(wire.target, wire.input) for wire in wires]
    for wire in wires:
        given = _spec(named, wire.source, wire.output, "outputs")
        taken = _spec(named, wire.target, wire.input, "inputs")
        if given.dtype != taken.dtype or len(given.shape) != len(taken.shape) or not _fits(given, taken):
            raise ValueError(f"{wire} carries {given.dtype} {given.shape} to {taken.dtype} {taken.shape}")
        if ends.count((wire.target, wire.input)) > 1:
            raise ValueError(f"two wires end at `{wire.input}` of `{wire.target}`")


def _spec(named: Mapping[str, Component], component: str, name: str, side: str) -> TensorSpec:
    specs: Sequence[TensorSpec] = getattr(named[component], side) if component in named else ()
    for spec in specs:
        if spec.name == name:
            return spec
    raise ValueError(
        f"a wire is tied to `{name}` of the {side} of `{component}`, which has none of that name"
    )


def _fits(given: TensorSpec, taken: TensorSpec) -> bool:
    """Free dimensions take any size."""
    pairs = zip(given.shape, taken.shape, strict=True)
    return all(isinstance(a, str) or isinstance(b, str) or a == b for a, b in pairs)


def text_component(
    model: ir.Model, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], longest: int
) -> Component:
    """The single graph of a text model, and its state where inputs and outputs have that role.

    Args:
        model: the graph; batch and sequence are free.
        inputs: token ids, mask, and what else it takes.
        outputs: what it returns.
        longest: sequence in tokens.
    """
    free = {dim for spec in inputs for dim in spec.shape if isinstance(dim, str)} - {BATCH, SEQUENCE}
    mask = next((spec.name for spec in inputs if spec.role is Role.ATTENTION_MASK), None)
    past = [spec.name for spec in inputs if spec.role is Role.PAST]
    present = [spec.name for spec in outputs if spec.role is Role.PRESENT]
    return Component(
        "model",
        model,
        tuple(inputs),
        tuple(outputs),
        (Axis(BATCH), Axis(SEQUENCE, most=longest), *(Axis(name, most=longest) for name in sorted(free))),
        None if mask is None else Padding(SEQUENCE, mask),
        tuple(State(*pair) for pair in zip(past, present, strict=True)),
    )
