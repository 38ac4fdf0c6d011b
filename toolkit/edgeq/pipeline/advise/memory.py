"""Memory a model needs in ONNX Runtime, from its shape and its storage formats.

The constants come from `python benchmarks/advise_accuracy.py --fit` (ONNX Runtime 1.32, x86-64, Linux): growth of
peak RSS of processes that load and run files as the CPU target writes them, of five encoders and a decoder of random
weights by six recipes, by least squares. Single digits are not to be trusted: costs trade against each other, and one
whose peak another always hides (a float table while it runs) is left near whatever the fit found. The sums agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgeq.exporters.shapes import ModelShape
from edgeq.numerics import block_count
from edgeq.quantize.formats import PER_CHANNEL, Blocks, Float, StaticInt8
from edgeq.quantize.recipes import LayerRef, LayerSpec
from edgeq.quantize.weight_only.matmul_nbits import storage_block_size

LIBRARY_BYTES = 21_000_000
"""ONNX Runtime's code and data, touched by loading it."""
SESSION_BYTES = 12_600_000
"""A session without weights that has run once: the graph, its kernels, the allocator's first pages."""
GRAPH_BYTES = 30_000
"""Nodes and names of one layer in the file."""
EXTERNAL_BYTES = 1_900_000_000
"""Larger weights lie in a file beside the graph (`targets.onnx_file.EXTERNAL_DATA_BYTES`; a test holds them equal)."""
STREAMED_BYTES = 64_000_000
"""Of language models, whose weights come by reference, already these (`targets.onnx_file.STREAMED_BYTES`)."""
FLOAT_BYTES = 4
"""Activations and the cache are float32 in every CPU recipe."""
PROMPT_TOKENS = 512
"""Tokens of a prompt that are read at once; logits of all of them are in memory."""


@dataclass(frozen=True, slots=True)
class LoadCost:
    """Bytes of memory per byte in the file.

    A session goes through two peaks: while the parsed file and the tensors made of it are both there (`_loading`),
    and, once the file is gone and matrices are packed for the CPU's kernels, while it runs.

    Attributes:
        table_loading: embedding tables, in the first.
        linear_loading: linear layers, in the first.
        table: tables, in the second.
        linear: linear layers, in the second.
    """

    table_loading: float
    linear_loading: float
    table: float
    linear: float


INLINE_COSTS: dict[str, LoadCost] = {
    "fp32": LoadCost(1.94, 1.13, 0.02, 1.77),
    # Stored as float16, folded to float32 by the session: twice the bytes to begin with.
    "fp16": LoadCost(3.92, 2.87, 1.41, 2.64),
    "int8-static": LoadCost(1.86, 1.06, 1.02, 1.65),
    "weight-only 8": LoadCost(2.90, 1.24, 0.92, 1.76),
    "weight-only 4": LoadCost(2.84, 1.33, 1.75, 2.03),
}
"""Weights inside the ONNX file, by `WeightFormat.kernel`. Tables with one int8 scale per row count as
`int8-static`, whatever the recipe."""
EXTERNAL_COSTS: dict[str, LoadCost] = {
    # Tables are mapped, and only the rows that are read become memory.
    "fp32": LoadCost(0.00, 1.04, 0.01, 1.00),
    "fp16": LoadCost(2.93, 1.73, 1.75, 2.32),
    "int8-static": INLINE_COSTS["int8-static"],
    "weight-only 8": LoadCost(1.84, 0.59, 1.12, 1.37),
    "weight-only 4": LoadCost(1.67, 1.02, 1.07, 1.67),
}
"""Weights in a file beside it, which ONNX Runtime maps; static int8 was not measured there, and is taken as inline."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes of one recipe.

    Attributes:
        model_file: what is downloaded, the tokenizer left out.
        weights: in memory while it runs, packed for the CPU's kernels.
        loading: in memory at the peak of loading, instead of `weights` and what a run needs.
        kv_cache: keys and values of the whole context.
        activations: of one run.
        runtime: ONNX Runtime itself.
    """

    model_file: int
    weights: int
    loading: int
    kv_cache: int
    activations: int
    runtime: int

    @property
    def ram(self) -> int:
        """Peak: the larger of loading and running."""
        return self.runtime + max(self.loading, self.weights + self.kv_cache + self.activations)


def estimate(
    shape: ModelShape,
    layers: Sequence[LayerRef],
    specs: Mapping[str, LayerSpec],
    tokens: int,
    *,
    cache_copies: int = 1,
    external: bool | None = None,
) -> Footprint:
    """The footprint of a model by a recipe.

    Args:
        shape: of the model.
        layers: its matrices.
        specs: what each becomes.
        tokens: of one text for an encoder; of prompt and answer together for a language model.
        cache_copies: 2 where a runtime holds the cache of the last step beside the new one.
        external: whether weights lie beside the graph; as edgeq writes them when left out.
    """
    sizes = {layer.name: _stored_bytes(layer, specs[layer.name]) for layer in layers}
    if external is None:
        external = sum(sizes.values()) > (STREAMED_BYTES if shape.causal else EXTERNAL_BYTES)
    costs = EXTERNAL_COSTS if external else INLINE_COSTS
    file, weights, loading, turned = float(GRAPH_BYTES * shape.layers), 0.0, 0.0, 0
    for layer in layers:
        size, cost = sizes[layer.name], costs[cost_key(layer, specs[layer.name])]
        file += size
        if layer.role.startswith("embedding"):
            weights += size * cost.table
            loading += size * cost.table_loading
        # A tied table is packed once more, as the head.
        if not layer.role.startswith("embedding") or layer.tied:
            weights += size * cost.linear
            loading += size * cost.linear_loading
        turned += turned_bytes(layer, specs[layer.name])
    vectors = shape.vectors * FLOAT_BYTES
    return Footprint(
        model_file=round(file + vectors),
        weights=round(weights + vectors),
        loading=round(max(loading, weights + turned) + vectors),
        kv_cache=cache_copies * kv_cache_bytes(shape, tokens),
        activations=activation_bytes(shape, tokens),
        runtime=LIBRARY_BYTES + SESSION_BYTES,
    )


def file_footprint(shape: ModelShape, matrices: int, tokens: int, cache_bytes_per_value: int) -> Footprint:
    """The footprint of a file that its own runtime maps as it is, computed and not measured.

    Args:
        shape: of the model.
        matrices: bytes of its matrices in the file.
        tokens: of prompt and answer together.
        cache_bytes_per_value: of its KV cache.
    """
    size = matrices + shape.vectors * FLOAT_BYTES
    cache = kv_cache_bytes(shape, tokens) * cache_bytes_per_value // FLOAT_BYTES
    return Footprint(size, size, size, cache, activation_bytes(shape, tokens), 0)


def turned_bytes(layer: LayerRef, spec: LayerSpec) -> int:
    """The transposed copy of a float table that is the head too; it goes when the head is packed, before a run."""
    is_float = isinstance(spec.storage, Float)
    return layer.shape[0] * layer.shape[1] * FLOAT_BYTES if layer.tied and is_float else 0


def _stored_bytes(layer: LayerRef, spec: LayerSpec) -> float:
    return layer.shape[0] * layer.shape[1] * stored_bits(layer, spec) / 8


def stored_bits(layer: LayerRef, spec: LayerSpec) -> float:
    """Bits per weight in the file; one scale per channel of a matrix is stored as blocks that repeat it."""
    in_features, storage = layer.shape[0], spec.storage
    if _is_row_table(layer, spec):
        return StaticInt8().bits_per_weight(in_features)
    if isinstance(storage, Blocks) and storage.block_size == PER_CHANNEL:
        width = storage_block_size(in_features, storage.bits)
        blocks = block_count(in_features, width)
        return blocks * (width * storage.bits + 16 + (0 if storage.symmetric else storage.bits)) / in_features
    return storage.bits_per_weight(in_features)


def kv_cache_bytes(shape: ModelShape, tokens: int) -> int:
    """Keys and values of every layer for `tokens`, in float32; 0 for an encoder."""
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * tokens * FLOAT_BYTES


def activation_bytes(shape: ModelShape, tokens: int) -> int:
    """The most that one run of one text holds at a time.

    Attention scores before and after the softmax, the feed-forward part before and after its nonlinearity, and the
    logits of a language model: of all tokens that are read at once, since graphs compute them all.
    """
    read = min(tokens, PROMPT_TOKENS) if shape.causal else tokens
    values = 2 * shape.heads * read * read + 2 * shape.inner * read
    if shape.causal:
        values += shape.vocab * read
    return values * FLOAT_BYTES


def has_cost(spec: LayerSpec) -> bool:
    """Whether the memory of this format was measured."""
    return spec.storage.kernel in INLINE_COSTS


def cost_key(layer: LayerRef, spec: LayerSpec) -> str:
    """Whose cost a layer has: a table of int8 rows is plain int8, also where its spec says weight-only."""
    return StaticInt8.name if _is_row_table(layer, spec) else spec.storage.kernel


def _is_row_table(layer: LayerRef, spec: LayerSpec) -> bool:
    """Tied tables are read by blocks, as the head needs them."""
    return layer.role.startswith("embedding") and not layer.tied and spec.storage.is_row_int8
