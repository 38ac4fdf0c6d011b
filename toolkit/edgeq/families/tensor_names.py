"""Names of a GGUF file's tensors, by the `gguf` package."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from edgeq.errors import UnsupportedError

KINDS = (".weight", ".bias")


def tensor_names(architecture: str, layers: int, parameters: Iterable[str]) -> Mapping[str, str]:
    """The name of each parameter's tensor, in the order given.

    Args:
        architecture: `general.architecture`.
        layers: of the model.
        parameters: names in transformers.

    Raises:
        UnsupportedError: llama.cpp has no tensor for a parameter.
    """
    by_name = _name_map(architecture, layers)
    names = {name: by_name.get_name(name, try_suffixes=KINDS) for name in parameters}
    lost = next((name for name, found in names.items() if found is None), None)
    if lost is not None:
        raise UnsupportedError(f"llama.cpp's architecture `{architecture}` has no tensor for `{lost}`")
    return {name: str(found) for name, found in names.items()}


def _name_map(architecture: str, layers: int) -> Any:
    import gguf

    number = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == architecture)
    return gguf.get_tensor_name_map(number, layers)
