"""A graph cut into segments of nodes that read few weights each, and what crosses from one into the next."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeq.errors import ModelError
from edgeq.graph.edit import attribute
from edgeq.graph.streamed_tensor import streamed
from edgeq.quantize.segmented.nodes import Feed, Lookup, OrtSegment, Segment, WeightsOf, WideProduct
from edgeq.quantize.segmented.values import Values, ValueStore
from edgeq.quantize.segmented.weights import StreamedWeight, Weight, weight_of_tensor
from edgeq.quantize.streaming.stacked_rows import StackedRows

if TYPE_CHECKING:
    import onnx_ir as ir

SEGMENT_BYTES = 128 << 20
"""Weights of one segment as float32; a matrix larger than this is multiplied a part at a time."""
READERS = {"MatMul": 1, "Gemm": 1, "Gather": 0}
"""Operators that read weights, and the input that is one."""


@dataclass(frozen=True, slots=True)
class Chain:
    """Batches that continue the one before, as chunks of one text do over a KV cache.

    Attributes:
        links: inputs of the graph that are outputs of the batch before.
        continues: by batch.
    """

    links: Mapping[str, str]
    continues: Sequence[bool]


def run_over(
    segment: Segment, values: ValueStore, weights: WeightsOf, chain: Chain | None = None
) -> Iterator[Values]:
    """What is known of each batch behind a segment: the values in front of it, and those it computes."""
    run = segment.bind(weights)
    before: Values = {}
    for index, batch in enumerate(values):
        if chain is not None and chain.continues[index]:
            batch |= {name: before[source] for name, source in chain.links.items() if source in before}
        before = run(batch)
        yield batch | before


class Walk:
    """The nodes of a graph in order, a segment at a time.

    Weights are no part of a segment's session: they are fed, so that two versions of a graph share one, and so that
    large ones can be read, used and forgotten.

    Args:
        model: in topological order; not changed.
        replaceable: initializers that a version may replace. Streamed ones that only products and lookups read are
            fed in any case; all others are constants of the sessions.
        outputs: values that are wanted at the end.
        segment_bytes: most bytes of fed weights in one segment.
        threads: of onnxruntime; None leaves the choice to it.
    """

    def __init__(
        self,
        model: ir.Model,
        *,
        replaceable: Collection[str] = (),
        outputs: Collection[str] = (),
        segment_bytes: int = SEGMENT_BYTES,
        threads: int | None = None,
    ) -> None:
        self._model, self._segment_bytes, self._threads = model, segment_bytes, threads
        self._feeds = _feeds(model, replaceable)
        # Transposes and casts of weights are done where the weights are read.
        self._nodes = [node for node in model.graph if node.outputs[0].name not in self._feeds]
        self._index = {str(node.name): index for index, node in enumerate(self._nodes)}
        self.inputs = tuple(str(value.name) for value in model.graph.inputs)
        self._made, self._last = self._lifetimes(outputs)
        self._last_read = {
            self._feeds[name].initializer: index
            for index, node in enumerate(self._nodes)
            for name in self._reads(node)
        }

    @property
    def end(self) -> int:
        """The place behind the last node."""
        return len(self._nodes)

    def place(self, node: str) -> int:
        """The place in front of a node.

        Raises:
            ModelError: there is none of that name.
        """
        if node not in self._index:
            raise ModelError(f"no node `{node}` in the graph")
        return self._index[node]

    def original(self, initializer: str) -> Weight:
        """A weight as the graph has it."""
        tensor = self._model.graph.initializers[initializer].const_value
        assert tensor is not None
        return weight_of_tensor(tensor)

    def is_read(self, initializer: str, place: int) -> bool:
        """Whether a weight is read at a place or behind it."""
        return self._last_read.get(initializer, -1) >= place

    def crossing(self, place: int) -> list[str]:
        """Values made before a place, or fed, that somebody behind it reads."""
        return [name for name, made in self._made.items() if made < place <= self._last.get(name, -1)]

    def segments(self, start: int, end: int) -> Iterator[tuple[int, Segment]]:
        """The nodes from one place to another, cut; each segment with the place behind it."""
        first, read, size = start, set[str](), 0
        for index in range(start, end):
            alone = self._alone(self._nodes[index])
            names = self._reads(self._nodes[index]) | self._constants(self._nodes[index])
            added = sum(self._bytes(name) for name in names - read)
            if alone is not None or (read and size + added > self._segment_bytes):
                if first < index:
                    yield index, self._segment(first, index)
                first, read, size = index, set(), 0
                added = sum(self._bytes(name) for name in names)
            if alone is not None:
                yield index + 1, alone
                first = index + 1
                continue
            read |= names
            size += added
        if first < end:
            yield end, self._segment(first, end)

    def step(
        self,
        segment: Segment,
        place: int,
        values: ValueStore,
        weights: WeightsOf,
        ram_bytes: int,
        chain: Chain | None = None,
    ) -> ValueStore:
        """Run a segment over all batches.

        Args:
            segment: from `segments`.
            place: behind it.
            values: in front of it.
            weights: of the version that is run.
            ram_bytes: of the store that is returned.
            chain: which batches continue the one before.

        Returns:
            What crosses the place behind the segment.
        """
        kept, found = self.crossing(place), ValueStore(ram_bytes)
        for batch in run_over(segment, values, weights, chain):
            found.append({name: batch[name] for name in kept})
        return found

    def _lifetimes(self, outputs: Collection[str]) -> tuple[dict[str, int], dict[str, int]]:
        """Where each value is made, and the last place in front of which it is still needed."""
        made = dict.fromkeys(self.inputs, -1)
        last: dict[str, int] = {}
        for index, node in enumerate(self._nodes):
            made |= {str(value.name): index for value in node.outputs if value.name}
            last |= {
                str(value.name): index
                for value in node.inputs
                if value is not None and not value.is_initializer() and value.name not in self._feeds
            }
        last |= dict.fromkeys(outputs, self.end)
        return made, last

    def _reads(self, node: ir.Node) -> set[str]:
        return {str(value.name) for value in node.inputs if value is not None and value.name in self._feeds}

    def _constants(self, node: ir.Node) -> set[str]:
        """Streamed initializers that become constants of the node's session (codes and scales)."""
        return {
            str(value.name)
            for value in node.inputs
            if value is not None and value.name not in self._feeds and streamed(value) is not None
        }

    def _bytes(self, name: str) -> int:
        """Of a weight that is fed, as float32; of a constant, twice: it is packed for the kernels."""
        is_fed = name in self._feeds
        tensor = self._model.graph.initializers[self._feeds[name].initializer if is_fed else name].const_value
        assert tensor is not None
        return 4 * tensor.size if is_fed else 2 * tensor.nbytes

    def _alone(self, node: ir.Node) -> Segment | None:
        """A streamed table is looked up, and a product with a very large weight computed, without a session."""
        names = self._reads(node)
        if len(names) != 1 or node.op_type not in ("Gather", "MatMul"):
            return None
        (name,) = names
        feed = self._feeds[name]
        if not isinstance(self.original(feed.initializer), StreamedWeight):
            return None
        if node.op_type == "MatMul":
            return WideProduct(node, feed) if self._bytes(name) > self._segment_bytes else None
        return None if attribute(node, "axis", 0) != 0 or feed.is_turned else Lookup(node, feed)

    def _segment(self, start: int, end: int) -> Segment:
        wanted = [name for name in self.crossing(end) if start <= self._made[name] < end]
        nodes = self._nodes[start:end]
        feeds = {name: self._feeds[name] for node in nodes for name in self._reads(node)}
        return OrtSegment(
            nodes, wanted, feeds, dict(self._model.opset_imports), self._threads, f"nodes {start} and on"
        )


def _feeds(model: ir.Model, replaceable: Collection[str]) -> dict[str, Feed]:
    """Values that are fed as weights: initializers, and transposes and casts of them."""
    found: dict[str, Feed] = {}
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        is_streamed = isinstance(tensor, StackedRows) and len(tensor.shape) == 2
        if name in replaceable or (is_streamed and _is_weight(value)):
            found |= _views(value, Feed(name))
    return found


def _views(value: ir.Value, feed: Feed) -> dict[str, Feed]:
    """A value and the transposes and casts of it that are read as weights too."""
    found = {str(value.name): feed}
    for node in value.consumers():
        view = node.outputs[0]
        if _is_view(node) and _is_weight(view):
            turned = feed.is_turned != (node.op_type == "Transpose")
            found |= _views(view, Feed(feed.initializer, turned))
    return found


def _is_weight(value: ir.Value) -> bool:
    """Whether products and lookups alone read a value, directly or through a view."""
    return bool(value.consumers()) and all(
        index == READERS.get(node.op_type) or (_is_view(node) and _is_weight(node.outputs[0]))
        for node, index in value.uses()
    )


def _is_view(node: ir.Node) -> bool:
    import onnx_ir as ir

    if node.op_type == "Cast":
        return bool(attribute(node, "to", 0) == int(ir.DataType.FLOAT))
    return node.op_type == "Transpose" and list(attribute(node, "perm", [])) == [1, 0]
