"""A written GGUF file as parameters again: types taken apart by the `gguf` package, changes undone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeq.errors import ModelError
from edgeq.families.rope import FACTORS
from edgeq.quantize.ggml import BLOCK_TYPES
from edgeq.targets.gguf.tensors import PlannedTensor, architecture_of
from edgeq.types import FloatArray


class StoredParameters(Mapping[str, FloatArray]):
    """The parameters that a file stands for, each read when it is looked up.

    Args:
        path: of the file.
        config: of the model.
        planned: what the file should hold; types do not matter.

    Raises:
        ModelError: it is no GGUF file, lacks tensors, or has others.
    """

    def __init__(self, path: Path, config: Mapping[str, Any], planned: Sequence[PlannedTensor]) -> None:
        import gguf

        try:
            reader = gguf.GGUFReader(path)
        except (OSError, ValueError, IndexError) as error:
            raise ModelError(f"`{path}` cannot be read as GGUF: {error}") from error
        self._tensors = {tensor.name: tensor for tensor in reader.tensors if tensor.name != FACTORS}
        self._planned = {tensor.parameter: tensor for tensor in planned}
        self._config, self._architecture = config, architecture_of(config)
        if set(self._tensors) != {tensor.name for tensor in planned}:
            raise ModelError(
                f"`{path}` has {len(self._tensors)} tensors, expected {len(planned)} of this model"
            )

    @property
    def formats(self) -> dict[str, str]:
        """Type of each parameter that is stored as codes."""
        types = {name: self._tensors[plan.name].tensor_type.name for name, plan in self._planned.items()}
        return {name: kind for name, kind in types.items() if kind in BLOCK_TYPES}

    def __getitem__(self, parameter: str) -> FloatArray:
        """Values in the parameter's own order."""
        import gguf

        plan = self._planned[parameter]
        tensor = self._tensors[plan.name]
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(plan.shape)
        change = self._architecture.change_of(parameter)
        found = np.asarray(values, np.float32)
        return found if change is None else change.undo(found, self._config)

    def __iter__(self) -> Iterator[str]:
        """Names."""
        return iter(self._planned)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._planned)
