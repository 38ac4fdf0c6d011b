"""The names of stored tensors: what wrappers put before them, which of them no result depends on, which have no place.

Nothing that a file holds is left out in silence: a tensor is used, listed here as harmless, or named to the user.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from edgeq.errors import ModelError

OUTER_WRAPPERS: Mapping[str, str] = {
    "_orig_mod.": "torch.compile",
    "_fsdp_wrapped_module.": "FSDP",
    "module.": "DataParallel",
    "base_model.model.": "peft",
}
"""Prefixes of every name of a checkpoint whose model was wrapped when it was saved, by what wrapped it."""
INNER_WRAPPERS: Mapping[str, str] = {
    "_orig_mod.": "torch.compile",
    "_fsdp_wrapped_module.": "FSDP",
    "_checkpoint_wrapped_module.": "activation checkpointing",
}
"""Parts of a path that wrapping a part of a model leaves; no module of transformers is called so."""
ADAPTER_PARTS = re.compile(r"\.(lora_[AB]|lora_embedding_[AB]|lora_magnitude_vector|base_layer)\b")
"""Of adapters that were not merged into the matrices they change."""
HARMLESS = (
    # Buffers that older versions of transformers stored and every version makes anew.
    r"rotary_emb\.inv_freq",
    r"(^|\.)h\.\d+\.attn\.(bias|masked_bias)",
    r"embeddings\.(position_ids|token_type_ids)",
)
"""Tensors that no result depends on, by the end of their names."""
OTHER_HEADS = (
    "cls.",
    "classifier.",
    "discriminator_predictions.",
    "generator_lm_head.",
    "generator_predictions.",
    "lm_head.",
    "lm_predictions.",
    "mask_predictions.",
    "pre_classifier.",
    "predictions.",
    "qa_outputs.",
    "vocab_layer_norm.",
    "vocab_projector.",
    "vocab_transform.",
)
"""Heads of pretraining and other tasks: of no use to a model that ends with its last hidden states."""
SHOWN = 3


@dataclass(frozen=True, slots=True)
class PlainNames:
    """Stored names without what wrappers put before them.

    Attributes:
        by_plain: the stored name of each plain one.
        wrappers: what was stripped, outermost first; empty for most checkpoints.
    """

    by_plain: Mapping[str, str]
    wrappers: tuple[str, ...] = ()

    @property
    def notice(self) -> str | None:
        """What the user is told of it."""
        if not self.wrappers:
            return None
        known = {**INNER_WRAPPERS, **OUTER_WRAPPERS}
        makers = ", ".join(f"`{wrapper}` of {known[wrapper]}" for wrapper in self.wrappers)
        return f"names of weights are taken without {makers}"


def plain_names(stored: Iterable[str], folder: object) -> PlainNames:
    """Strip wrappers off the names of a checkpoint.

    Args:
        stored: every name.
        folder: for messages.

    Raises:
        ModelError: adapters are in it that are not merged, or two names become one.
    """
    names = list(stored)
    adapters = [name for name in names if ADAPTER_PARTS.search(name)]
    if adapters:
        raise ModelError(
            f"`{folder}` holds {len(adapters)} tensors of an adapter that is not merged, first `{adapters[0]}`",
            hint="merge it first: model = model.merge_and_unload(); model.save_pretrained(FOLDER)",
        )
    plain, wrappers = list(names), list[str]()
    while prefix := _common_wrapper(plain):
        plain = [name.removeprefix(prefix) for name in plain]
        wrappers.append(prefix)
    for inner in INNER_WRAPPERS:
        if any(f".{inner}" in name for name in plain):
            plain = [name.replace(f".{inner}", ".") for name in plain]
            wrappers.append(inner)
    found = dict(zip(plain, names, strict=True))
    if len(found) != len(names):
        twice = next(name for name in plain if plain.count(name) > 1)
        raise ModelError(f"`{folder}` has two tensors `{twice}` once {' and '.join(wrappers)} is left out")
    return PlainNames(found, tuple(dict.fromkeys(wrappers)))


def _common_wrapper(names: Sequence[str]) -> str | None:
    return next(
        (prefix for prefix in OUTER_WRAPPERS if names and all(name.startswith(prefix) for name in names)),
        None,
    )


def is_harmless(name: str) -> bool:
    """Whether no result depends on a stored tensor of this name."""
    return any(re.search(rf"(?:{pattern})$", name) for pattern in HARMLESS)


def check_unplaced(
    unplaced: Collection[str],
    modules: Collection[str],
    folder: object,
    *,
    is_zero: Callable[[str], bool] = lambda _: False,
    advice: Callable[[Sequence[str]], str | None] = lambda _: None,
) -> str | None:
    """What becomes of stored tensors that the model of the config has no parameter for.

    Args:
        unplaced: their names, wrappers stripped; harmless ones may be among them.
        modules: paths of the model's modules.
        folder: for messages.
        is_zero: whether a tensor holds nothing but zeros, which as a bias adds nothing.
        advice: the hint of a refusal, where there is a better one than the general.

    Returns:
        A notice that names them; None where nothing is left to say.

    Raises:
        ModelError: the model has the module that a tensor belongs to, and would compute without it.
    """
    left = [name for name in unplaced if not is_harmless(name)]
    inside = [
        name
        for name in left
        if name.rpartition(".")[0] in modules and not (name.endswith(".bias") and is_zero(name))
    ]
    if inside:
        raise ModelError(
            f"`{folder}` holds {len(inside)} tensors that the model of its config.json has no place for, first "
            f"`{inside[0]}`: the layer is there and would compute without it",
            hint=advice(inside)
            or "config.json and the weights are not of the same model: download both again",
        )
    outside = [name for name in left if name.rpartition(".")[0] not in modules]
    if not outside:
        return None
    return f"{len(outside)} stored tensors have no place in the model and are not used: {_listed(outside)}"


def _listed(names: Sequence[str]) -> str:
    """The first parts of their paths with a count each, or the names themselves where they are few."""
    if len(names) <= SHOWN:
        return ", ".join(f"`{name}`" for name in names)
    groups: dict[str, int] = {}
    for name in names:
        # A layer's number tells more than its parts: `model.layers.4`, `vision_tower`, `mtp.layers.0`.
        match = re.match(r"(.*?\.\d+)\.", name)
        group = match[1] if match else name.rpartition(".")[0] or name
        groups[group] = groups.get(group, 0) + 1
    if len(groups) > SHOWN:
        tops: dict[str, int] = {}
        for group, count in groups.items():
            top = group.partition(".")[0]
            tops[top] = tops.get(top, 0) + count
        groups = tops
    shown = [f"`{group}.*` ({count})" for group, count in list(groups.items())[:SHOWN]]
    more = f" and {len(groups) - SHOWN} more places" if len(groups) > SHOWN else ""
    return ", ".join(shown) + more
