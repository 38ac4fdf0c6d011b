"""The weights of a causal language model where they lie in its checkpoint, by the names of transformers' model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeq.errors import ModelError
from edgeq.exporters.causal_lm.pickled import write_as_safetensors
from edgeq.exporters.checkpoint import check_weights, weight_files
from edgeq.exporters.stored_names import PlainNames, check_unplaced, plain_names
from edgeq.quantize.streaming.checkpoint import INDEX, SINGLE, Checkpoint
from edgeq.quantize.streaming.stored_tensor import FLOATS, StoredTensor
from edgeq.scratch import ScratchFolder

if TYPE_CHECKING:
    import torch

SAFETENSORS = (SINGLE, INDEX)


@dataclass(frozen=True, slots=True, weakref_slot=True)
class DecoderWeights:
    """Stored tensors by the name a model gives its parameters.

    Attributes:
        folder: of the checkpoint.
        tensors: by parameter; those that share a tensor (a head tied to the table) share an entry.
        is_torn: the config ties parameters (the head to the table) for which the file has different values.
        notices: what the user should know about the file.
    """

    folder: Path
    tensors: Mapping[str, StoredTensor]
    is_torn: bool = False
    notices: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> StoredTensor:
        """The tensor of a parameter; nothing is read."""
        return self.tensors[name]

    def check_finite(self) -> None:
        """Read every float tensor once.

        Raises:
            ModelError: a value is NaN or infinite.
        """
        for tensor in dict.fromkeys(self.tensors.values()):
            if tensor.dtype in FLOATS:
                tensor.peak()


def open_weights(folder: Path, model: Any) -> DecoderWeights:
    """Find the tensors of a model in its folder.

    Args:
        folder: with safetensors files; pickled ones are copied to a temporary one that goes with the result.
        model: of transformers, weights tied; only names and shapes of its parameters matter.

    Raises:
        ModelError: a file cannot be read, or tensors are missing or of the wrong shape.
    """
    check_weights(folder)
    files = weight_files(folder)
    if files[0].name in SAFETENSORS:
        return _found(folder, Checkpoint.open(files[0]), model)
    with ScratchFolder("weights") as scratch:
        write_as_safetensors(files, scratch.path / SINGLE)
        found = _found(folder, Checkpoint.open(scratch.path / SINGLE), model)
        scratch.keep_for(found)
    return found


def float_bytes(folder: Path) -> int:
    """Bytes of a folder's weights as float32; 0 where its headers are not read (pickled or damaged files)."""
    try:
        files = weight_files(folder)
        tensors = Checkpoint.open(files[0]).tensors.values() if files[0].name in SAFETENSORS else ()
    except ModelError:
        # Told where the weights are opened.
        return 0
    return 4 * sum(tensor.size for tensor in tensors if tensor.dtype in FLOATS)


def _found(folder: Path, checkpoint: Checkpoint, model: Any) -> DecoderWeights:
    """The tensors of a model in its checkpoint.

    Raises:
        ModelError: tensors are missing or of the wrong shape, or the model would compute without some that are there.
    """
    state: Mapping[str, torch.Tensor] = model.state_dict(keep_vars=True)
    names = plain_names(checkpoint.tensors, folder)
    stored = {plain: checkpoint.tensors[name] for plain, name in names.by_plain.items()}
    found, torn = _find(state, stored, model.base_model_prefix)
    missing = sorted(set(state) - set(found))
    if missing:
        raise ModelError(
            f"`{folder}` has no weights for {len(missing)} tensors, first {missing[0]}",
            hint="config.json and the weights are not of the same model: download both again",
        )
    for name, tensor in found.items():
        if tuple(state[name].shape) != tensor.shape:
            raise ModelError(
                f"`{tensor.name}` of `{folder}` has shape {list(tensor.shape)}, expected {list(state[name].shape)} by "
                "the config",
                hint="the weights belong to another config.json",
            )
    return DecoderWeights(
        folder,
        found,
        bool(torn),
        _notices(folder, names, torn, _check_all_used(folder, stored, found, model)),
    )


def _notices(folder: Path, names: PlainNames, torn: Sequence[str], unused: str | None) -> tuple[str, ...]:
    own = (
        f"the checkpoint has its own `{torn[-1]}` beside tie_word_embeddings: true; it is used, as transformers does"
        if torn
        else None
    )
    return tuple(notice for notice in (names.notice, own, unused) if notice is not None)


def _check_all_used(
    folder: Path, stored: Mapping[str, StoredTensor], found: Mapping[str, StoredTensor], model: Any
) -> str | None:
    """A notice about stored tensors that are no parameter of the model; None where there are none.

    Raises:
        ModelError: the model would compute without one that belongs to a layer of it.
    """
    used = {tensor.name for tensor in found.values()}
    known = {spelling for name in found for spelling in _spellings(name, model.base_model_prefix)}
    unplaced = [name for name, tensor in stored.items() if tensor.name not in used and name not in known]
    modules = {
        spelling
        for name, _ in model.named_modules()
        if name
        for spelling in _spellings(name, model.base_model_prefix)
    }
    return check_unplaced(
        unplaced,
        modules,
        folder,
        is_zero=lambda name: not any(piece.any() for piece in stored[name].pieces()),
        advice=lambda names: _bias_setting(names, model.config),
    )


BIAS_SETTINGS = {"self_attn": "attention_bias", "mlp": "mlp_bias"}
"""What in a config gives the layers of a part their biases, in families that leave the choice."""


def _bias_setting(names: Sequence[str], config: Any) -> str | None:
    """The setting that gives these tensors a place, where they are biases and the family has such a setting."""
    for part, setting in BIAS_SETTINGS.items():
        are_its = all(name.endswith(".bias") and f".{part}." in name for name in names)
        if are_its and getattr(config, setting, None) is False:
            return f'set "{setting}": true in config.json if the biases are meant; else remove them from the file'
    return None


def _find(
    state: Mapping[str, torch.Tensor], stored: Mapping[str, StoredTensor], prefix: str
) -> tuple[dict[str, StoredTensor], list[str]]:
    """Stored tensors by parameter, and the parameters whose ties the file contradicts.

    Tied parameters that are stored with equal values, or once, share the first; as in transformers (tie_weights) those
    that are stored with different values are not tied.
    """
    found: dict[str, StoredTensor] = {}
    torn: list[str] = []
    for names in _tied(state):
        own = {name: tensor for name in names for tensor in list(_candidates(name, stored, prefix))[:1]}
        if not own:
            continue
        first = next(iter(own.values()))
        if all(tensor is first or _same_values(tensor, first) for tensor in own.values()):
            found |= dict.fromkeys(names, first)
        else:
            found |= dict.fromkeys(names, first) | own
            torn += names
    return found, torn


def _same_values(one: StoredTensor, other: StoredTensor) -> bool:
    """Whether two tensors hold the same values; read in pieces, up to the first difference."""
    if one.shape != other.shape:
        return False
    if one.dtype == other.dtype:
        pairs = zip(one.pieces(), other.pieces(), strict=True)
    else:
        pairs = zip(one.float_pieces(), other.float_pieces(), strict=True)
    return all(np.array_equal(left, right) for left, right in pairs)


def _tied(state: Mapping[str, torch.Tensor]) -> Iterable[Sequence[str]]:
    """Names that mean the same parameter, in the order of the model."""
    groups: dict[int, list[str]] = {}
    for name, tensor in state.items():
        groups.setdefault(id(tensor), []).append(name)
    return groups.values()


def _spellings(name: str, prefix: str) -> tuple[str, str]:
    """A checkpoint of the bare model leaves the prefix out, as the first GPT-2 ones do."""
    return (name, name.removeprefix(f"{prefix}."))


def _candidates(name: str, stored: Mapping[str, StoredTensor], prefix: str) -> Iterable[StoredTensor]:
    return (stored[spelling] for spelling in _spellings(name, prefix) if spelling in stored)
