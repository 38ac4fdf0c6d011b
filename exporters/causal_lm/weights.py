"""The weights of a causal language model where they lie in its checkpoint, by the names of transformers' model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeq.errors import ModelError
from edgeq.exporters.causal_lm.pickled import write_as_safetensors
from edgeq.exporters.checkpoint import check_weights, weight_files
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
    """

    folder: Path
    tensors: Mapping[str, StoredTensor]

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
        ModelError: tensors are missing or of the wrong shape.
    """
    state: Mapping[str, torch.Tensor] = model.state_dict(keep_vars=True)
    found = _find(state, checkpoint.tensors, model.base_model_prefix)
    missing = sorted(set(state) - set(found))
    if missing:
        raise ModelError(f"`{folder}` has no weights for {len(missing)} tensors, first {missing[0]}")
    for name, tensor in found.items():
        if tuple(state[name].shape) != tensor.shape:
            raise ModelError(
                f"`{tensor.name}` of `{folder}` has shape {list(tensor.shape)}, expected {list(state[name].shape)} by "
                "the config",
                hint="the weights belong to another config.json",
            )
    return DecoderWeights(folder, found)


def _find(
    state: Mapping[str, torch.Tensor], stored: Mapping[str, StoredTensor], prefix: str
) -> dict[str, StoredTensor]:
    """Stored tensors by parameter; of tied parameters the first one that is stored stands for all."""
    found: dict[str, StoredTensor] = {}
    for names in _tied(state):
        tensor = next((tensor for name in names for tensor in _candidates(name, stored, prefix)), None)
        if tensor is not None:
            found |= dict.fromkeys(names, tensor)
    return found


def _tied(state: Mapping[str, torch.Tensor]) -> Iterable[Sequence[str]]:
    """Names that mean the same parameter, in the order of the model."""
    groups: dict[int, list[str]] = {}
    for name, tensor in state.items():
        groups.setdefault(id(tensor), []).append(name)
    return groups.values()


def _candidates(name: str, stored: Mapping[str, StoredTensor], prefix: str) -> Iterable[StoredTensor]:
    """A checkpoint of the bare model leaves the prefix out, as the first GPT-2 ones do."""
    spellings = (name, name.removeprefix(f"{prefix}."))
    return (stored[spelling] for spelling in spellings if spelling in stored)
