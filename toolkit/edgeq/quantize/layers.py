"""The layers of a canonical graph as recipes see them, and the weights behind them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeq.quantize.recipes import LayerRef, layer_refs
from edgeq.quantize.sites import EmbeddingSite, LinearSite, Sites, find_sites, weight_of
from edgeq.types import Array

if TYPE_CHECKING:
    import onnx_ir as ir

MIN_TABLE_ROWS = 64
"""Smaller tables (token types) are not worth their scales; they stay in float without being named."""


@dataclass(frozen=True, slots=True)
class ModelLayers:
    """Layers in graph order.

    Attributes:
        refs: as recipes match them.
        sites: where they are in the graph.
        initializers: weight by layer name; several layers may share one.
        tied: tables that are also the output head.
    """

    refs: tuple[LayerRef, ...]
    sites: Sites
    initializers: dict[str, str]
    tied: frozenset[str]

    def ref(self, name: str) -> LayerRef:
        """The layer of that name."""
        return next(ref for ref in self.refs if ref.name == name)


def find_layers(model: ir.Model) -> ModelLayers:
    """Linear layers and embedding tables with their roles, numbers and shapes `(in, out)`, tables `(columns, rows)`."""
    sites = find_sites(model, min_table_rows=1)
    tables = {site.name: site for site in sites.embeddings}
    tied = frozenset(name for name, site in tables.items() if _is_head(model, site.table))
    shapes = [(site.name, site.shape) for site in sites.linears]
    shapes += [(name, (site.shape[1], site.shape[0])) for name, site in tables.items()]
    initializers = {site.name: site.weight for site in sites.linears}
    initializers |= {name: site.table for name, site in tables.items()}
    return ModelLayers(layer_refs(shapes, sorted(tied)), sites, initializers, tied)


def layer_weight(model: ir.Model, site: LinearSite | EmbeddingSite) -> Array:
    """The layer's weight as `[in, out]`; a table as `[columns, rows]`."""
    if isinstance(site, LinearSite):
        return weight_of(model, site)
    tensor = model.graph.initializers[site.table].const_value
    assert tensor is not None
    return np.ascontiguousarray(tensor.numpy().T)


def _is_head(model: ir.Model, table: str) -> bool:
    """Whether a matrix product reads the table too, directly or transposed."""
    readers = list(model.graph.initializers[table].consumers())
    readers += [
        user for node in readers if node.op_type == "Transpose" for user in node.outputs[0].consumers()
    ]
    return any(node.op_type in ("MatMul", "Gemm") for node in readers)
