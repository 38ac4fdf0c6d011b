"""ModernBERT (Warner et al., arXiv:2412.13663): rotary positions, gated layers, mostly local attention.

The fused projections (`Wqkv`, and `Wi` with its gate) are traced as the linear layers they consist of: each
has a range of its own to quantize, and no target needs five-dimensional tensors.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from edgeq.exporters.architecture import EncoderInputs, TextArchitecture, text_heads
from edgeq.exporters.encoder_shapes import encoder_shape
from edgeq.exporters.modules import module, replaced
from edgeq.families.model_shape import ModelShape, SizeConfig, linear, table

if TYPE_CHECKING:
    import torch


def _forward(model: Any, x: EncoderInputs) -> Any:
    base = model.base_model
    masks = {"full_attention": x.attention_bias, "sliding_attention": x.attention_bias}
    if "sliding_attention" in base.config.layer_types:
        masks["sliding_attention"] = x.attention_bias + base.local_bias(x.input_ids)
    if model is base or not _pools_by_mean(model):
        return model(input_ids=x.input_ids, attention_mask=masks, position_ids=x.position_ids)
    hidden = base(input_ids=x.input_ids, attention_mask=masks, position_ids=x.position_ids).last_hidden_state
    return SimpleNamespace(logits=model.classifier(model.head(base.mean(hidden, x.attention_mask))))


def _pools_by_mean(model: Any) -> bool:
    # This head reads the integer mask itself, which is not what it gets here.
    return (
        type(model).__name__.endswith("SequenceClassification") and model.config.classifier_pooling == "mean"
    )


def _mean(self: Any, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)


def _local_bias(self: Any, input_ids: torch.Tensor) -> torch.Tensor:
    """`[1, 1, sequence, sequence]`: 0 for keys within the window, -10000 and less beyond it."""
    position = self.position[: input_ids.shape[1]]
    beyond = (position[None, :] - position[:, None]).abs() - self.window
    return beyond.relu()[None, None] * -10000.0


def _rotary(self: Any, hidden: torch.Tensor, position_ids: torch.Tensor, layer_type: str) -> tuple[Any, Any]:
    import torch

    rotary = self.rotary
    angles = self.position[None, : hidden.shape[1], None] * getattr(rotary, f"{layer_type}_inv_freq")
    scale = getattr(rotary, f"{layer_type}_attention_scaling")
    cosine, sine = angles.cos() * scale, angles.sin() * scale
    # The sign of rotate_half is in the table: rotation is then a swap of halves and two products.
    return torch.cat((cosine, cosine), -1)[:, None], torch.cat((-sine, sine), -1)[:, None]


def _rotate(x: torch.Tensor, cosine: torch.Tensor, signed_sine: torch.Tensor) -> torch.Tensor:
    import torch

    half = x.shape[-1] // 2
    return x * cosine + torch.cat((x[..., half:], x[..., :half]), -1) * signed_sine


def _attention(
    self: Any, hidden: torch.Tensor, position_embeddings: Any, attention_mask: torch.Tensor, **_: Any
) -> tuple[torch.Tensor, None]:
    shape = (hidden.shape[0], hidden.shape[1], -1, self.head_dim)
    query, key, value = (
        projection(hidden).view(shape).transpose(1, 2) for projection in (self.query, self.key, self.value)
    )
    query, key = _rotate(query, *position_embeddings), _rotate(key, *position_embeddings)
    scores = query @ key.transpose(2, 3) * self.head_dim**-0.5 + attention_mask
    context = (scores.softmax(-1) @ value).transpose(1, 2)
    return self.Wo(context.reshape(hidden.shape[0], hidden.shape[1], -1)), None


def _mlp(self: Any, hidden: torch.Tensor) -> torch.Tensor:
    return self.Wo(self.act(self.input(hidden)) * self.gate(hidden))


def _split(linear: Any, parts: int) -> list[Any]:
    """A fused linear layer as the layers it consists of, over the same memory."""
    import torch

    rows = linear.out_features // parts
    layers = []
    for index in range(parts):
        layer = torch.nn.Linear(linear.in_features, rows, bias=linear.bias is not None, device="meta")
        part = slice(index * rows, (index + 1) * rows)
        layer.weight = torch.nn.Parameter(linear.weight.detach()[part])
        if linear.bias is not None:
            layer.bias = torch.nn.Parameter(linear.bias.detach()[part])
        layers.append(layer)
    return layers


def _attention_module(attention: Any) -> Any:
    query, key, value = _split(attention.Wqkv, 3)
    result = module(_attention, query=query, key=key, value=value, Wo=attention.Wo)
    result.head_dim = attention.head_dim
    return result


def _mlp_module(mlp: Any) -> Any:
    first, gate = _split(mlp.Wi, 2)
    return module(_mlp, input=first, gate=gate, act=mlp.act, Wo=mlp.Wo)


def _base_parts(base: Any) -> dict[str, Any]:
    import torch

    position = torch.arange(base.config.max_position_embeddings, dtype=torch.float32)
    local = module(_local_bias, position=position)
    local.window = float(base.config.sliding_window)
    rotary = module(_rotary, rotary=base.rotary_emb, position=position)
    return {"local_bias": local, "rotary_emb": rotary, "mean": module(_mean)}


@contextmanager
def _patch(model: Any) -> Iterator[None]:
    base = model.base_model
    with ExitStack() as stack:
        stack.enter_context(replaced(base, **_base_parts(base)))
        for layer in base.layers:
            parts = {"attn": _attention_module(layer.attn), "mlp": _mlp_module(layer.mlp)}
            stack.enter_context(replaced(layer, **parts))
        yield


def _shape(config: SizeConfig) -> ModelShape:
    """ModernBERT: rotary positions, gated feed-forward, a LayerNorm before each part, no biases by default."""
    hidden, inner, layers = (
        config.size("hidden_size"),
        config.size("intermediate_size"),
        config.size("num_hidden_layers"),
    )
    matrices = [table("embeddings.tok_embeddings", config.size("vocab_size"), hidden)]
    for index in range(layers):
        layer = f"layers.{index}"
        matrices += [
            linear(f"{layer}.attn.Wqkv", hidden, 3 * hidden),
            linear(f"{layer}.attn.Wo", hidden, hidden),
        ]
        matrices += [linear(f"{layer}.mlp.Wi", hidden, 2 * inner), linear(f"{layer}.mlp.Wo", inner, hidden)]
    # The first layer has no norm before its attention; one more is at each end.
    norms = (2 * layers + 1) * hidden * (2 if config.flag("norm_bias", default=False) else 1)
    biases = 4 * hidden if config.flag("attention_bias", default=False) else 0
    biases += 2 * inner + hidden if config.flag("mlp_bias", default=False) else 0
    return encoder_shape(config, matrices, norms + layers * biases, hidden, inner, layers)


ARCHITECTURE = TextArchitecture(
    model_type="modernbert",
    heads=text_heads("ModernBert"),
    forward=_forward,
    positions=lambda config: config.max_position_embeddings,
    patch=_patch,
    shape=_shape,
    config_class="ModernBertConfig",
    tiny_config={
        "vocab_size": 100,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        "local_attention": 16,
        "global_attn_every_n_layers": 2,
        "pad_token_id": 0,
        "cls_token_id": 2,
        "sep_token_id": 3,
        "bos_token_id": 2,
        "eos_token_id": 3,
    },
)
