"""The tensors of a GGUF file: their names, types, and how each comes from a parameter of the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeq.errors import UnsupportedError
from edgeq.families import FAMILIES
from edgeq.families.changes import Change
from edgeq.families.family import GgufForm
from edgeq.families.tensor_names import tensor_names
from edgeq.quantize.ggml import BLOCK_TYPES
from edgeq.targets.gguf.file_types import FLOAT_BYTES, Place, stays_float, tensor_type
from edgeq.types import FloatArray

if TYPE_CHECKING:
    from edgeq.quantize.streaming import StoredTensor

TABLE = "token_embd.weight"


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """One tensor to write.

    Attributes:
        name: in the file.
        parameter: in the model.
        shape: as numpy has it: rows first.
        kind: its type: F32, F16, BF16, or a block type.
        change: what becomes of the parameter's values; None for nothing.
        is_lookup: rows are looked up, and never multiplied with.
    """

    name: str
    parameter: str
    shape: tuple[int, ...]
    kind: str
    change: Change | None
    is_lookup: bool = False

    @property
    def is_quantized(self) -> bool:
        """Whether it becomes blocks of codes."""
        return self.kind in BLOCK_TYPES

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        size = int(np.prod(self.shape))
        if not self.is_quantized:
            return size * FLOAT_BYTES[self.kind]
        return size // BLOCK_TYPES[self.kind].block * BLOCK_TYPES[self.kind].block_bytes

    def rows(self, stored: StoredTensor, config: Mapping[str, Any]) -> Iterator[FloatArray]:
        """The values to write as rows, in pieces: a changed matrix in one, others a few rows at a time."""
        if self.change is None and len(self.shape) == 2:
            yield from stored.rows()
            return
        values = np.concatenate(list(stored.float_pieces())).reshape(stored.shape)
        yield values if self.change is None else self.change.apply(values, config)


def architecture_of(config: Mapping[str, Any]) -> GgufForm:
    """The architecture that runs a model.

    Raises:
        UnsupportedError: edgeq writes no GGUF file for the family, or llama.cpp would run it as something else.
    """
    found = family_of(config["model_type"])
    found.check(config)
    return found


def family_of(model_type: str) -> GgufForm:
    """The architecture of a family.

    Raises:
        UnsupportedError: edgeq writes no GGUF file for it.
    """
    found = FAMILIES.get(model_type)
    if found is None:
        raise UnsupportedError(
            f"edgeq writes no GGUF files for `{model_type}`, expected one of {', '.join(FAMILIES)}"
        )
    return found.gguf


def ignored_window(config: Mapping[str, Any]) -> int | None:
    """The window that the original slides and llama.cpp does not; None where there is none."""
    if family_of(config["model_type"]).has_windows or config.get("use_sliding_window") is False:
        return None
    window = config.get("sliding_window")
    return int(window) if window and window < config["max_position_embeddings"] else None


def plan_tensors(
    parameters: Mapping[str, tuple[int, ...]], config: Mapping[str, Any], file_type: str
) -> list[PlannedTensor]:
    """What to write for each parameter, in the order given.

    Args:
        parameters: shapes by name.
        config: of the model.
        file_type: a key of `FILE_TYPES`.

    Raises:
        UnsupportedError: llama.cpp has no tensor for a parameter.
    """
    architecture_of(config)
    return place_tensors(parameters, config, file_type)


def place_tensors(
    parameters: Mapping[str, tuple[int, ...]], config: Mapping[str, Any], file_type: str
) -> list[PlannedTensor]:
    """`plan_tensors` without the question whether llama.cpp computes what the config says."""
    architecture = family_of(config["model_type"])
    layers = int(config.get("num_hidden_layers") or config["n_layer"])
    names = tensor_names(architecture.name, layers, parameters)
    is_tied = "output.weight" not in names.values()
    found = []
    for name, shape in parameters.items():
        change = architecture.change_of(name)
        in_file = names[name]
        stored = shape if change is None else change.shape(shape)
        is_head = in_file == "output.weight" or (is_tied and in_file == TABLE)
        kind = "F32"
        if not stays_float(in_file, len(stored)):
            kind = tensor_type(file_type, Place(in_file, stored[-1], layers, is_head))
        found.append(PlannedTensor(in_file, name, stored, kind, change, in_file == TABLE and not is_head))
    return found
