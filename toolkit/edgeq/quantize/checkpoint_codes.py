"""Weights that come quantized with a checkpoint, found again in a graph by what they stand for, row by row.

The graph is made from the dequantized model, whatever fuses, permutes or ties its matrices on the way. Each row of such
a matrix is looked up by its bytes: the codes that are stored for it are those that dequantize to exactly that row, so
the match is its own proof.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from edgeq.errors import UnsupportedError
from edgeq.graph.block_factors import BlockFactors, join_factors
from edgeq.quantize.formats import Blocks
from edgeq.quantize.weight_only.quantized_weight import QuantizedWeight
from edgeq.types import Array, FloatArray

DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True, eq=False)
class PackedTensor:
    """One quantized tensor of a checkpoint.

    Attributes:
        name: of the parameter.
        kind: of its storage, for people: `Q4_K`, `GPTQ 4-bit group 128`.
        load: the codes, rows being output channels; read when they are needed.
    """

    name: str
    kind: str
    load: Callable[[], QuantizedWeight]


@dataclass(slots=True, eq=False)
class PackedWeights:
    """The quantized tensors of a checkpoint, and where each of their rows is.

    Attributes:
        label: of the whole, as recipes and bundles name it: `q4_k_m`, `gptq-4bit`.
        tensors: in the order they were added.
    """

    label: str
    tensors: list[PackedTensor] = field(default_factory=list)
    _rows: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    _unread: set[int] = field(default_factory=set)

    def add(self, tensor: PackedTensor, dense: FloatArray) -> None:
        """Remember a tensor by its dequantized rows `[out, in]`."""
        number = len(self.tensors)
        self.tensors.append(tensor)
        for row, digest in enumerate(_digests(dense)):
            if self._rows.setdefault(digest, (number, row)) == (number, row):
                self._unread.add(number)

    def unread(self) -> list[str]:
        """Tensors no weight has been found to be made of; not those all of whose rows are in an earlier tensor too."""
        return [self.tensors[number].name for number in sorted(self._unread)]

    def find(self, weight: Array) -> QuantizedWeight | None:
        """The codes of a weight `[in, out]` of the graph; None where some row is not one of the checkpoint's.

        Rows of several tensors (a fused projection) are joined; where those differ in format, in the finest of them.

        Raises:
            UnsupportedError: tensors to be joined want their inputs in different orders.
        """
        places = [self._rows.get(digest) for digest in _digests(np.ascontiguousarray(weight.T, np.float32))]
        if not places or any(place is None for place in places):
            return None
        numbers = np.array([place[0] for place in places if place is not None])
        rows = np.array([place[1] for place in places if place is not None])
        used = {int(number): self.tensors[int(number)].load() for number in np.unique(numbers)}
        self._unread -= used.keys()
        self._check_orders(used)
        widest = _common(list(used.values()))
        loaded = {number: _as(weight_, widest) for number, weight_ in used.items()}
        kinds = ", ".join(dict.fromkeys(self.tensors[number].kind for number in used))
        return _gather(loaded, numbers, rows, kinds)

    def _check_orders(self, used: Mapping[int, QuantizedWeight]) -> None:
        first, *others = used
        for number in others:
            if not _same(used[first].input_order, used[number].input_order):
                names = f"`{self.tensors[first].name}` and `{self.tensors[number].name}`"
                raise UnsupportedError(
                    f"{names} are one matrix in the graph, and want its input in different orders"
                )


def _same(first: Array | None, second: Array | None) -> bool:
    """Whether two orders of inputs are one."""
    if first is None or second is None:
        return first is second
    return np.array_equal(first, second)


def _digests(rows: FloatArray) -> list[bytes]:
    # Zero has two signs; which one a product gave is no difference.
    clean = np.ascontiguousarray(rows + np.float32(0), np.float32)
    return [hashlib.blake2b(row.tobytes(), digest_size=DIGEST_BYTES).digest() for row in clean]


def _common(weights: list[QuantizedWeight]) -> tuple[Blocks, bool, bool]:
    """The spec that holds all of these exactly, and whether zero points and offsets are needed."""
    first = weights[0].spec
    width = {
        weight.in_features if w.block_size == -1 else w.block_size
        for weight in weights
        for w in [weight.spec]
    }
    spec = Blocks(
        bits=max(weight.spec.bits for weight in weights),
        block_size=first.block_size if len(width) == 1 else min(width),
        symmetric=all(weight.zero_points is None for weight in weights),
        scale_dtype="float32" if any(w.spec.scale_dtype == "float32" for w in weights) else "float16",
    )
    return spec, not spec.symmetric, any(weight.offsets is not None for weight in weights)


def _as(weight: QuantizedWeight, wanted: tuple[Blocks, bool, bool]) -> QuantizedWeight:
    """The same values in a finer format."""
    spec, zeros, offsets = wanted
    rows, blocks, width = weight.q.shape
    times = 1 if spec.block_size in (-1, width) else width // spec.block_size
    shift = spec.middle - weight.spec.middle
    q = (weight.q.astype(np.int16) + (shift if weight.zero_points is None else 0)).astype(np.uint8)
    middle = np.full((rows, blocks), spec.middle, np.uint8)
    points = weight.zero_points if weight.zero_points is not None else middle
    lifts = weight.offsets if weight.offsets is not None else np.zeros((rows, blocks), np.float32)
    return replace(
        weight,
        q=q.reshape(rows, blocks * times, width // times),
        scales=np.repeat(weight.scales, times, axis=1),
        zero_points=np.repeat(points, times, axis=1) if zeros else None,
        offsets=np.repeat(lifts, times, axis=1) if offsets else None,
        spec=spec,
        factors=weight.factors if times == 1 and offsets == (weight.offsets is not None) else None,
    )


def _gather(
    loaded: Mapping[int, QuantizedWeight], numbers: Array, rows: Array, kinds: str
) -> QuantizedWeight:
    """Rows of several weights of one format, in the order asked for."""
    first = next(iter(loaded.values()))
    if len(loaded) == 1 and np.array_equal(rows, np.arange(first.out_features)):
        return replace(first, method=kinds)

    def joined(part: Callable[[QuantizedWeight], Array | None]) -> Array | None:
        example = part(first)
        if example is None:
            return None
        result = np.empty((len(rows), *example.shape[1:]), example.dtype)
        for number, weight in loaded.items():
            mine, source = numbers == number, part(weight)
            assert source is not None
            result[mine] = source[rows[mine]]
        return result

    q, scales = joined(lambda w: w.q), joined(lambda w: w.scales)
    assert q is not None and scales is not None
    return replace(
        first,
        q=q,
        scales=scales,
        zero_points=joined(lambda w: w.zero_points),
        offsets=joined(lambda w: w.offsets),
        factors=_joined_factors(loaded, numbers, rows),
        method=kinds,
    )


def _joined_factors(
    loaded: Mapping[int, QuantizedWeight], numbers: Array, rows: Array
) -> BlockFactors | None:
    """Those of the rows asked for, where every weight has them in one form."""
    found = [(number, weight.factors) for number, weight in loaded.items()]
    known = [(number, factors) for number, factors in found if factors is not None]
    forms = {(f.center, f.minimum is None, f.scale.coarse.shape[1], f.scale.fine.shape[1]) for _, f in known}
    if len(known) < len(found) or len(forms) != 1:
        return None
    order = np.concatenate([np.flatnonzero(numbers == number) for number, _ in known])
    stacked = join_factors([factors.rows(rows[numbers == number]) for number, factors in known])
    return stacked.rows(np.argsort(order))
