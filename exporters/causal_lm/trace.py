"""Our own road: transformers' eager model traced with the KV cache as plain inputs and outputs.

It takes every head size and every family, at the price of plain attention operators instead of the fused one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeq.errors import ModelError
from edgeq.exporters.causal_lm.graph_io import (
    ATTENTION_MASK,
    INPUT_IDS,
    LOGITS,
    PAST,
    past_names,
    present_names,
)
from edgeq.exporters.causal_lm.stand_ins import fold_transposes, matrices_as_inputs, stand_in_for_matrices
from edgeq.exporters.causal_lm.weights import DecoderWeights
from edgeq.exporters.modules import module
from edgeq.exporters.torch_onnx import quiet
from edgeq.graph.component import BATCH, CANONICAL_OPSET, SEQUENCE

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

MASKED = -1e9
"""Added to scores that must not be seen: exp of it is 0 in float32, and sums of two of them stay finite."""
# torch.export specializes dimensions that are 1 or equal to each other.
EXAMPLE_BATCH, EXAMPLE_SEQUENCE, EXAMPLE_PAST = 2, 7, 5


def trace_decoder(
    model: Any, weights: DecoderWeights, layers: int, heads: int, size: int, context: int
) -> ir.Model:
    """Trace a causal language model of transformers.

    Args:
        model: from `hollow_decoder`; its matrices become stand-ins of torch's fake tensor mode.
        weights: of the same.
        layers: of the cache.
        heads: key and value heads.
        size: values per head.
        context: longest sequence in tokens.

    Returns:
        A graph with the inputs and outputs of `graph_io`, matrices by reference.

    Raises:
        ModelError: torch cannot trace the model.
    """
    import torch

    stand_in_for_matrices(model)
    decoder = _decoder(model, layers)
    shape = (EXAMPLE_BATCH, heads, EXAMPLE_PAST, size)
    arguments = (
        torch.ones(EXAMPLE_BATCH, EXAMPLE_SEQUENCE, dtype=torch.int64),
        torch.ones(EXAMPLE_BATCH, EXAMPLE_PAST + EXAMPLE_SEQUENCE, dtype=torch.int64),
        tuple(torch.rand(shape) for _ in range(2 * layers)),
    )
    try:
        with quiet(), torch.no_grad():
            exported = torch.export.export(
                decoder, arguments, dynamic_shapes=_dynamic_shapes(layers, context), strict=False
            )
            program = torch.onnx.export(
                exported,
                dynamo=True,
                opset_version=CANONICAL_OPSET,
                input_names=[INPUT_IDS, ATTENTION_MASK, *past_names(layers)],
                output_names=[LOGITS, *present_names(layers)],
                verbose=False,
                optimize=False,
            )
            assert program is not None
            with matrices_as_inputs(program.model, weights):
                program.optimize()
    except Exception as error:  # whatever tracing trips over, the user can only take another model
        raise ModelError(f"torch cannot trace the model: {type(error).__name__}: {error}") from error
    graph: ir.Model = program.model
    fold_transposes(graph)
    return graph


def _dynamic_shapes(layers: int, context: int) -> tuple[Any, ...]:
    from torch.export import Dim

    batch = Dim(BATCH, min=1, max=4096)
    sequence, past = Dim(SEQUENCE, min=1, max=context), Dim(PAST, min=0, max=context)
    total = Dim.AUTO
    return (
        {0: batch, 1: sequence},
        {0: batch, 1: total},
        tuple({0: batch, 2: past} for _ in range(2 * layers)),
    )


def _decoder(model: Any, layers: int) -> torch.nn.Module:
    """`(input_ids, attention_mask, past) -> (logits, *present)`."""
    window = getattr(model.config, "sliding_window", None)
    kinds = set(getattr(model.config, "layer_types", None) or ())

    def forward(
        self: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, past: tuple[torch.Tensor, ...]
    ) -> tuple[torch.Tensor, ...]:
        length = past[0].shape[2]
        positions = (attention_mask.cumsum(-1) - 1).clamp(min=0)[:, length:]
        cache = _cache(past)
        output = self.model(
            input_ids=input_ids,
            attention_mask=_masks(attention_mask, input_ids.shape[1], length, window, kinds),
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        )
        return (output.logits, *cache.present())

    return module(forward, model=model)


def _cache(past: tuple[torch.Tensor, ...]) -> Any:
    """A cache over tensors that are inputs of the graph; what it holds after the run are its outputs."""
    import torch
    from transformers.cache_utils import DynamicCache

    class GraphCache(DynamicCache):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.tensors = list(past)

        def update(
            self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_: Any, **__: Any
        ) -> tuple[torch.Tensor, torch.Tensor]:
            for offset, states in enumerate((key_states, value_states)):
                index = 2 * layer_idx + offset
                self.tensors[index] = torch.cat([self.tensors[index], states], dim=2)
            return self.tensors[2 * layer_idx], self.tensors[2 * layer_idx + 1]

        def get_seq_length(self, layer_idx: int = 0) -> int:
            length: int = past[0].shape[2]
            return length

        def present(self) -> list[torch.Tensor]:
            return self.tensors

    return GraphCache()


def _masks(
    attention_mask: torch.Tensor, sequence: int, past: int, window: int | None, kinds: set[str]
) -> Any:
    """The additive mask of each kind of layer, `[batch, 1, sequence, total]`."""
    full = _mask(attention_mask, sequence, past, None)
    if not kinds:
        return full if window is None else _mask(attention_mask, sequence, past, window)
    masks = {"full_attention": full}
    if "sliding_attention" in kinds:
        masks["sliding_attention"] = _mask(attention_mask, sequence, past, window)
    return masks if len(kinds) > 1 else masks[next(iter(kinds))]


def _mask(attention_mask: torch.Tensor, sequence: int, past: int, window: int | None) -> torch.Tensor:
    """0 where query `i` (at `past + i`) may see key `j`, else `MASKED`."""
    import torch

    query = torch.arange(sequence)[:, None] + past
    key = torch.arange(attention_mask.shape[1])[None, :]
    seen = key <= query
    if window is not None:
        seen = seen & (key > query - window)
    allowed = seen[None].to(torch.float32) * attention_mask[:, None, :].to(torch.float32)
    return ((1.0 - allowed) * MASKED)[:, None]
