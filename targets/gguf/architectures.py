"""Decoder families as llama.cpp runs them: its name for each, what it needs to know, what it wants changed in weights.

Facts from llama.cpp's converters and models (conversion/*.py, src/models/*.cpp). What llama.cpp computes otherwise than
the original is refused, or said where it matters only beyond some length.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from edgeq.errors import UnsupportedError
from edgeq.types import Array, FloatArray

Config: TypeAlias = Mapping[str, Any]
Metadata: TypeAlias = dict[str, Any]
"""Keys after `<architecture>.`, in the order of the file."""


@dataclass(frozen=True, slots=True)
class Change:
    """How a tensor of the file comes from a parameter.

    Attributes:
        suffixes: parameters it is for, by the end of their names.
        apply: parameter to tensor.
        undo: tensor to parameter.
        is_transposed: rows and columns change places.
    """

    suffixes: tuple[str, ...]
    apply: Callable[[FloatArray, Config], FloatArray]
    undo: Callable[[FloatArray, Config], FloatArray]
    is_transposed: bool = False

    def shape(self, parameter: tuple[int, ...]) -> tuple[int, ...]:
        """Of the tensor, from that of the parameter."""
        return parameter[::-1] if self.is_transposed else parameter


@dataclass(frozen=True, slots=True)
class GgufArchitecture:
    """One family.

    Attributes:
        name: `general.architecture`.
        metadata: what llama.cpp needs to know.
        changes: in weights.
        check: refuses configs that llama.cpp would run as something else.
    """

    name: str
    metadata: Callable[[Config], Metadata]
    changes: tuple[Change, ...] = ()
    check: Callable[[Config], None] = lambda _: None

    def change_of(self, parameter: str) -> Change | None:
        """The change of a parameter; None for those that are stored as they are."""
        return next((change for change in self.changes if parameter.endswith(change.suffixes)), None)


def head_size(config: Config) -> int:
    """Values per head."""
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def rope(config: Config) -> Mapping[str, Any]:
    """Rotary positions of the layers that see everything."""
    found = config.get("rope_parameters") or {}
    return found.get("full_attention", found) if isinstance(found, Mapping) else {}


def rope_factors(config: Config) -> FloatArray | None:
    """By what Llama 3 divides each frequency, the tensor `rope_freqs.weight`; None for other rotary positions.

    Low frequencies are divided by `factor`, high ones kept, with a ramp between, by turns over the original context.
    """
    settings = rope(config)
    if settings.get("rope_type") != "llama3":
        return None
    size = head_size(config)
    frequencies = settings["rope_theta"] ** (-np.arange(0, size, 2, dtype=np.float64) / size)
    turns = settings["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    low, high = settings["low_freq_factor"], settings["high_freq_factor"]
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return np.asarray(1 / ((1 - kept) / settings["factor"] + kept), np.float32)


WRITTEN_ROPES = ("default", "linear", "llama3", "dynamic")
"""Types of rotary positions that a file can say; `dynamic` is the default one up to the model's own context."""


def check_rope(config: Config) -> None:
    """Refuse rotary positions that the file would not say: llama.cpp would run others.

    Raises:
        UnsupportedError: `longrope`, `yarn` and what else has a table of its own.
    """
    found = config.get("rope_parameters") or {}
    for settings in (value for value in (found, *found.values()) if isinstance(value, Mapping)):
        kind = settings.get("rope_type", "default")
        if kind not in WRITTEN_ROPES:
            raise UnsupportedError(
                f"rotary positions of type `{kind}` are not written to GGUF files, expected {', '.join(WRITTEN_ROPES)}",
                hint="--target cpu or --target android take them",
            )


def _common(config: Config) -> Metadata:
    """What every family with rotary positions has."""
    check_rope(config)
    size, settings = head_size(config), rope(config)
    heads = int(config["num_attention_heads"])
    found: Metadata = {
        "block_count": int(config["num_hidden_layers"]),
        "context_length": int(config["max_position_embeddings"]),
        "embedding_length": int(config["hidden_size"]),
        "feed_forward_length": int(config["intermediate_size"]),
        "attention.head_count": heads,
        "attention.head_count_kv": int(config.get("num_key_value_heads") or heads),
        "rope.freq_base": float(settings.get("rope_theta", 10000.0)),
        "attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        "attention.key_length": size,
        "attention.value_length": size,
    }
    if settings.get("rope_type") == "linear":
        found |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(settings["factor"])}
    return found


def _llama(config: Config) -> Metadata:
    rotated = {"vocab_size": int(config["vocab_size"]), "rope.dimension_count": head_size(config)}
    return _common(config) | rotated


def _gemma2(config: Config) -> Metadata:
    return (
        _common(config)
        | {
            "attn_logit_softcapping": float(config["attn_logit_softcapping"]),
            "final_logit_softcapping": float(config["final_logit_softcapping"]),
        }
        | _windows(config, every=2)
    )


def _gemma3(config: Config) -> Metadata:
    found = _common(config)
    if config.get("final_logit_softcapping"):
        found["final_logit_softcapping"] = float(config["final_logit_softcapping"])
    local = config["rope_parameters"].get("sliding_attention") or {}
    if local:
        found["rope.freq_base_swa"] = float(local["rope_theta"])
    return found | _windows(config, every=6)


def _windows(config: Config, every: int) -> Metadata:
    """Which layers see only a window: llama.cpp assumes all but every n-th, other patterns are written out."""
    kinds = config.get("layer_types") or []
    slides = [kind == "sliding_attention" for kind in kinds]
    found: Metadata = {"attention.sliding_window": int(config["sliding_window"])}
    if slides != [(layer + 1) % every != 0 for layer in range(len(kinds))]:
        found["attention.sliding_window_pattern"] = slides
    return found


def _phi3(config: Config) -> Metadata:
    rotated = int(head_size(config) * rope(config).get("partial_rotary_factor", 1.0))
    return _common(config) | {
        "rope.dimension_count": rotated,
        "rope.scaling.original_context_length": int(config["original_max_position_embeddings"]),
        # llama.cpp does not slide Phi's window; 0 tells it that there is none.
        "attention.sliding_window": int(config.get("sliding_window") or 0),
    }


def _gpt2(config: Config) -> Metadata:
    width = int(config["n_embd"])
    return {
        "block_count": int(config["n_layer"]),
        "context_length": int(config["n_positions"]),
        "embedding_length": width,
        "feed_forward_length": int(config.get("n_inner") or 4 * width),
        "attention.head_count": int(config["n_head"]),
        "attention.layer_norm_epsilon": float(config["layer_norm_epsilon"]),
    }


def _pairs_of(rows: Array, heads: int) -> FloatArray:
    """llama.cpp rotates neighbours where transformers rotates the two halves of a head."""
    halves = rows.reshape(heads, 2, len(rows) // heads // 2, *rows.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)


def _halves_of(rows: Array, heads: int) -> FloatArray:
    pairs = rows.reshape(heads, len(rows) // heads // 2, 2, *rows.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows.shape)


def _rotated(letter: str, key: str) -> Change:
    return Change(
        (f"{letter}_proj.weight", f"{letter}_proj.bias"),
        lambda rows, config: _pairs_of(rows, int(config[key])),
        lambda rows, config: _halves_of(rows, int(config[key])),
    )


_LLAMA_CHANGES = (_rotated("q", "num_attention_heads"), _rotated("k", "num_key_value_heads"))
_GEMMA_CHANGES = (
    # Gemma's norms multiply by 1 + w; llama.cpp stores the sum.
    Change(("norm.weight",), lambda w, _: w + np.float32(1), lambda w, _: w - np.float32(1)),
)
_GPT2_CHANGES = (
    Change(
        ("c_attn.weight", "c_proj.weight", "c_fc.weight"),
        lambda w, _: np.ascontiguousarray(w.T),
        lambda w, _: np.ascontiguousarray(w.T),
        is_transposed=True,
    ),
)


def _expect(config: Config, key: str, *allowed: object) -> None:
    if config.get(key) not in allowed:
        raise UnsupportedError(
            f"`{key}` is {config.get(key)!r}; llama.cpp runs this family with {' or '.join(map(str, allowed))} alone"
        )


def _check_silu(config: Config) -> None:
    _expect(config, "hidden_act", "silu", "swish")


def _check_gemma(config: Config, largest: int) -> None:
    """llama.cpp scales queries by the head size, in the largest model of a generation by the share of the width."""
    _expect(config, "hidden_activation", "gelu_pytorch_tanh")
    is_largest = config["num_hidden_layers"] == largest
    expected = config["hidden_size"] // config["num_attention_heads"] if is_largest else head_size(config)
    _expect(config, "query_pre_attn_scalar", expected)


def _check_gemma3(config: Config) -> None:
    _check_gemma(config, 62)
    _expect(config, "attn_logit_softcapping", None)


def _check_gpt2(config: Config) -> None:
    _expect(config, "activation_function", "gelu_new", "gelu_pytorch_tanh")
    _expect(config, "scale_attn_weights", True)
    _expect(config, "scale_attn_by_inverse_layer_idx", False)


def ignored_window(config: Config) -> int | None:
    """The window that the original slides and llama.cpp does not; None where there is none.

    llama.cpp has no window for the Llama architecture, which Mistral is run as, and none for Phi-3 and Qwen.
    """
    if config["model_type"] in ("gemma2", "gemma3_text") or config.get("use_sliding_window") is False:
        return None
    window = config.get("sliding_window")
    return int(window) if window and window < config["max_position_embeddings"] else None


ARCHITECTURES: Mapping[str, GgufArchitecture] = {
    "llama": GgufArchitecture("llama", _llama, _LLAMA_CHANGES, _check_silu),
    "mistral": GgufArchitecture("llama", _llama, _LLAMA_CHANGES, _check_silu),
    "qwen2": GgufArchitecture("qwen2", _common, (), _check_silu),
    "qwen3": GgufArchitecture("qwen3", _common, (), _check_silu),
    "gemma2": GgufArchitecture("gemma2", _gemma2, _GEMMA_CHANGES, lambda config: _check_gemma(config, 46)),
    "gemma3_text": GgufArchitecture("gemma3", _gemma3, _GEMMA_CHANGES, _check_gemma3),
    "phi3": GgufArchitecture("phi3", _phi3, (), _check_silu),
    "gpt2": GgufArchitecture("gpt2", _gpt2, _GPT2_CHANGES, _check_gpt2),
}
"""By `model_type`. Adding a family is a line here, what it needs above, and a tiny model in the tests."""
