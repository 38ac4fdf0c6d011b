"""Torch modules made of plain functions, so that torch is imported only when a model is exported."""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def module(forward: Callable[..., Any], **parts: torch.nn.Module | torch.Tensor) -> torch.nn.Module:
    """A module whose `forward` is a function of itself and the inputs.

    Its place in the module tree names the nodes it becomes in the graph.

    Args:
        forward: called as `forward(module, *inputs)`.
        parts: submodules and constant tensors, reachable as attributes of `module`.
    """
    import torch

    result = torch.nn.Module()
    for name, part in parts.items():
        if isinstance(part, torch.nn.Module):
            result.add_module(name, part)
        else:
            result.register_buffer(name, part, persistent=False)
    result.forward = MethodType(forward, result)
    return result.eval()
