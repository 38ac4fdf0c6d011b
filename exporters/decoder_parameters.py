"""The parameters that a config stands for, from the model's structure alone: no weights are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeq.errors import ModelError
from edgeq.exporters.checkpoint import quiet_transformers


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a model.

    Attributes:
        shape: as transformers has it.
        is_flipped: a linear layer that keeps its weight as `[in, out]` (GPT-2's Conv1D).
        is_tied: another name of a parameter that came before.
    """

    shape: tuple[int, ...]
    is_flipped: bool
    is_tied: bool


def skeleton(folder: Path, source: Path) -> Any:
    """The model that a folder's config describes, without memory for any value.

    Args:
        folder: with `config.json`.
        source: what that was made from, for messages: the folder may be a temporary one.

    Raises:
        ModelError: transformers cannot make a model of it.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with quiet_transformers():
        try:
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            with torch.device("meta"):
                model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
            model.tie_weights()
        except Exception as error:  # transformers raises many kinds; each one is a bad config here
            raise ModelError(
                f"transformers cannot make a model of the config of `{source}`: {error}"
            ) from error
    return model


def parameters_of(folder: Path, source: Path) -> Mapping[str, Parameter]:
    """Parameters by name, of the model that a folder's config describes; arguments and errors as `skeleton`."""
    from transformers.pytorch_utils import Conv1D

    model = skeleton(folder, source)
    flipped = {name for name, module in model.named_modules() if isinstance(module, Conv1D)}
    first = dict(model.named_parameters())
    return {
        name: Parameter(
            tuple(parameter.shape),
            name.rpartition(".")[0] in flipped and parameter.ndim == 2,
            name not in first,
        )
        for name, parameter in model.named_parameters(remove_duplicate=False)
    }
