"""ONNX operators that move, cut and repeat data; their shapes are known for every sequence length."""

from __future__ import annotations

import numpy as np

from edgeq.errors import UnsupportedError
from edgeq.targets.coreml.context import Var, dtype_of
from edgeq.targets.coreml.decisions import equalization_of
from edgeq.targets.coreml.known import Known
from edgeq.targets.coreml.ops_elementwise import Lowering, identity
from edgeq.targets.coreml.site import Site
from edgeq.targets.coreml.weights import row_weight
from edgeq.types import Array

Shape = tuple[int, ...]
Bound = tuple[int, int, int, bool]


def reshape_to(site: Site, x: Var, shapes: list[Shape]) -> Var:
    """Reshape to a shape per sequence length: fixed, with one inferred axis, or built at run time."""
    varying = [axis for axis, dims in enumerate(zip(*shapes, strict=True)) if len(set(dims)) > 1]
    if len(varying) == 1:
        target = list(shapes[0])
        target[varying[0]] = -1
    else:
        target = site.context.vector(shapes, site.name)
    return site.context.learn(site.mb.reshape(x=x, shape=target, name=site.name), shapes)


def reshape(site: Site) -> Var:
    """Reshape, its 0 and -1 resolved for every sequence length."""
    keep_zero = bool(site.attr("allowzero", 0))
    shapes: list[Shape] = [
        _resolve(dims, [int(d) for d in target], keep_zero)
        for dims, target in zip(site.dims(0), site.knowns(1), strict=True)
    ]
    return identity(site) if shapes == site.dims(0) else reshape_to(site, site.var(0), shapes)


def _resolve(dims: Shape, target: list[int], keep_zero: bool) -> Shape:
    if not keep_zero:
        target = [dims[axis] if dim == 0 else dim for axis, dim in enumerate(target)]
    if -1 in target:
        rest = int(np.prod([dim for dim in target if dim != -1], dtype=np.int64))
        target[target.index(-1)] = int(np.prod(dims, dtype=np.int64)) // rest
    return tuple(target)


def transpose(site: Site) -> Var:
    """Transpose; without perm it reverses the axes."""
    perm = list(site.attr("perm", range(site.rank())[::-1]))
    return site.mb.transpose(x=site.var(0), perm=perm, name=site.name)


def unsqueeze(site: Site) -> Var:
    """Unsqueeze."""
    axes = site.known(1).reshape(-1)
    rank = site.rank() + len(axes)
    return site.mb.expand_dims(x=site.var(0), axes=sorted(int(a) % rank for a in axes), name=site.name)


def squeeze(site: Site) -> Var:
    """Squeeze; without axes, every axis of size 1."""
    ones = [axis for axis, dim in enumerate(site.dims()[0]) if dim == 1]
    axes = site.known_or(1, np.array(ones))
    assert axes is not None
    return site.mb.squeeze(
        x=site.var(0), axes=sorted(int(a) % site.rank() for a in axes.reshape(-1)), name=site.name
    )


def flatten(site: Site) -> Var:
    """Flatten to a matrix."""
    axis = site.axis(1)
    shapes: list[Shape] = [
        (int(np.prod(d[:axis], dtype=np.int64)), int(np.prod(d[axis:], dtype=np.int64))) for d in site.dims()
    ]
    return reshape_to(site, site.var(0), shapes)


def concat(site: Site) -> Var:
    """Concat."""
    values = [site.var(index) for index in range(len(site.node.inputs))]
    if len(values) == 1:
        return identity(site)
    return site.mb.concat(values=values, axis=site.axis(0), name=site.name)


def split(site: Site) -> list[Var]:
    """Split into given or equal parts."""
    axis, count = site.axis(0), len(site.node.outputs)
    dim = _same(site, [dims[axis] for dims in site.dims()])
    part = -(-dim // count)
    equal = np.array([part] * (count - 1) + [dim - part * (count - 1)])
    sizes = site.known_or(1, equal)
    assert sizes is not None
    if count == 1:
        return [identity(site)]
    return list(
        site.mb.split(x=site.var(0), split_sizes=[int(size) for size in sizes], axis=axis, name=site.name)
    )


def _same(site: Site, dims: list[int]) -> int:
    if len(set(dims)) != 1:
        raise UnsupportedError(
            f"{site.where} cuts the sequence axis, whose length varies", hint="lower with one --seq-len"
        )
    return dims[0]


def slice_(site: Site) -> Var:
    """Slice along any axes with positive steps; places that move with the sequence are computed at run time."""
    bounds = [_bounds(site, index, dims) for index, dims in enumerate(site.dims())]
    begin, end, stride, edge = (list(column) for column in zip(*bounds[0], strict=True))
    if all(edge) and not any(begin) and set(stride) == {1}:
        return identity(site)
    if any(_moves(here, first) for other in bounds[1:] for here, first in zip(other, bounds[0], strict=True)):
        return _moving_slice(site, bounds)
    # An axis that is open on both sides keeps its name in MIL's shape inference.
    return site.mb.slice_by_index(
        x=site.var(0),
        begin=begin,
        end=end,
        stride=stride,
        begin_mask=[start == 0 for start in begin],
        end_mask=edge,
        name=site.name,
    )


def _moves(here: Bound, first: Bound) -> bool:
    """Whether a bound differs between sequence lengths other than by following the edge."""
    return here != first and not (here[3] and first[3] and here[0] == first[0])


def _moving_slice(site: Site, bounds: list[list[Bound]]) -> Var:
    if any(step != 1 for axes in bounds for _, _, step, _ in axes):
        raise UnsupportedError(f"{site.where} steps over places that vary", hint="lower with one --seq-len")
    begin = site.context.vector([tuple(b[0] for b in axes) for axes in bounds], f"{site.name}_begin")
    shapes = [tuple(b[1] - b[0] for b in axes) for axes in bounds]
    to_edge = [all(axes[axis][3] for axes in bounds) for axis in range(site.rank())]
    sizes = [tuple(-1 if open_ else n for n, open_ in zip(s, to_edge, strict=True)) for s in shapes]
    size = site.context.vector(sizes, f"{site.name}_size")
    cut = site.mb.slice_by_size(x=site.var(0), begin=begin, size=size, name=site.name)
    return site.context.learn(cut, shapes)


def _bounds(site: Site, index: int, dims: Shape) -> list[Bound]:
    """`(begin, end, step, whether it ends at the edge)` per axis at one sequence length."""
    starts, ends = (site.knowns(i)[index].reshape(-1) for i in (1, 2))
    axes = site.knowns(3)[index].reshape(-1) if site.has(3) else np.arange(len(starts))
    steps = site.knowns(4)[index].reshape(-1) if site.has(4) else np.ones(len(starts), np.int64)
    result = [(0, dim, 1, True) for dim in dims]
    for start, stop, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step < 1:
            raise UnsupportedError(f"{site.where} has step {step}; only positive steps can be lowered")
        dim = dims[int(axis)]
        first, last, _ = slice(int(start), int(stop), int(step)).indices(dim)
        result[int(axis) % len(dims)] = (first, last, int(step), last == dim)
    return result


def gather(site: Site) -> Var:
    """Gather: an embedding lookup, one position, or any other."""
    axis = site.axis(0)
    table, indices = site.seen(0), site.seen(1)
    if isinstance(table, Known) and not isinstance(indices, Known):
        return site.mb.gather(x=_table(site, table, axis), indices=site.var(1), axis=axis, name=site.name)
    if isinstance(indices, Known):
        return _gather_known(site, indices, axis)
    return site.mb.gather(x=site.var(0), indices=site.var(1), axis=axis, name=site.name)


def _table(site: Site, table: Known, axis: int) -> Var:
    if axis == 0 and table.source is not None and table.longest.ndim == 2:
        if equalization_of(site.context.weights.get(table.source)) is not None:
            raise UnsupportedError(
                f"{site.where} looks up `{table.source}`, whose decision equalizes its inputs"
            )
        return row_weight(site.context, table, site.dtype, site.name)
    return site.var(0)


def _gather_known(site: Site, indices: Known, axis: int) -> Var:
    if indices.varies:
        return site.mb.gather(x=site.var(0), indices=site.var(1), axis=axis, name=site.name)
    index = indices.longest
    if (index < 0).any():
        index = np.where(index < 0, index + _same(site, [dims[axis] for dims in site.dims()]), index)
    if index.ndim == 0:
        return _pick(site, axis, int(index))
    known = Known.same(index, len(site.context.lengths))
    picked = site.context.constant(known, "int32", f"{site.name}_indices")
    return site.mb.gather(x=site.var(0), indices=picked, axis=axis, name=site.name)


def _pick(site: Site, axis: int, index: int) -> Var:
    """One position along an axis, which is dropped (a sentence's first token)."""
    here = [number == axis for number in range(site.rank())]
    return site.mb.slice_by_index(
        x=site.var(0),
        begin=[index if this else 0 for this in here],
        end=[index + 1 if this else 0 for this in here],
        begin_mask=[not this for this in here],
        end_mask=[not this for this in here],
        squeeze_mask=here,
        name=site.name,
    )


def gather_elements(site: Site) -> Var:
    """GatherElements."""
    return site.mb.gather_along_axis(x=site.var(0), indices=site.var(1), axis=site.axis(0), name=site.name)


def gather_nd(site: Site) -> Var:
    """GatherND."""
    batch_dims = int(site.attr("batch_dims", 0))
    return site.mb.gather_nd(x=site.var(0), indices=site.var(1), batch_dims=batch_dims, name=site.name)


def expand(site: Site) -> Var:
    """Expand: repeat the axes of size 1."""
    targets = [tuple(int(dim) for dim in target) for target in site.knowns(1)]
    shapes = [np.broadcast_shapes(d, t) for d, t in zip(site.dims(), targets, strict=True)]
    if shapes == site.dims():
        return identity(site)
    x = site.var(0)
    missing = len(shapes[0]) - site.rank()
    if missing:
        x = site.mb.expand_dims(x=x, axes=list(range(missing)))
    padded = [(1,) * missing + dims for dims in site.dims()]
    reps = [
        tuple(o // i for o, i in zip(out, dims, strict=True))
        for out, dims in zip(shapes, padded, strict=True)
    ]
    return _tile(site, x, reps)


def tile(site: Site) -> Var:
    """Tile."""
    return _tile(site, site.var(0), [tuple(int(count) for count in reps) for reps in site.knowns(1)])


def _tile(site: Site, x: Var, reps: list[Shape]) -> Var:
    if dtype_of(x) == "bool":
        whole = site.mb.tile(x=site.context.cast(x, "int32"), reps=site.context.vector(reps, site.name))
        return site.mb.cast(x=whole, dtype="bool", name=site.name)
    return site.mb.tile(x=x, reps=site.context.vector(reps, site.name), name=site.name)


def pad(site: Site) -> Var:
    """Pad with a constant."""
    site.only("mode", "constant")
    pads = site.known(1).reshape(2, -1)
    axes = site.known_or(3, np.arange(pads.shape[1]))
    assert axes is not None
    full = np.zeros((site.rank(), 2), np.int32)
    full[axes.astype(int) % site.rank()] = pads.T
    fill = site.known_or(2, np.zeros(()))
    assert fill is not None
    value = np.float16(fill.item()) if site.dtype == "fp16" else np.float32(fill.item())
    return site.mb.pad(
        x=site.var(0), pad=full.reshape(-1), mode="constant", constant_val=value, name=site.name
    )


def cumsum(site: Site) -> Var:
    """CumSum along a constant axis."""
    axis = int(site.known(1)) % site.rank()
    flags = {name: bool(site.attr(name, 0)) for name in ("exclusive", "reverse")}
    return site.mb.cumsum(x=site.var(0), axis=axis, name=site.name, **flags)


def trilu(site: Site) -> Var:
    """Trilu as a product with (floats, integers) a triangle of ones."""
    k = int(site.known(1)) if site.has(1) else 0
    keep = np.triu if site.attr("upper", 1) else np.tril
    masks: list[Array] = [keep(np.ones(dims[-2:], np.float32), k) for dims in site.dims()]
    x = site.var(0)
    mask = site.context.constant(Known(tuple(masks)), dtype_of(x), f"{site.name}_triangle")
    return site.mb.mul(x=x, y=mask, name=site.name)


SHAPE: dict[str, Lowering] = {
    "Concat": concat,
    "CumSum": cumsum,
    "Expand": expand,
    "Flatten": flatten,
    "Gather": gather,
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "Pad": pad,
    "Reshape": reshape,
    "Slice": slice_,
    "Split": split,
    "Squeeze": squeeze,
    "Tile": tile,
    "Transpose": transpose,
    "Trilu": trilu,
    "Unsqueeze": unsqueeze,
}
