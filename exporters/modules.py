"""Torch modules made of plain functions, so that torch is imported only when a model is exported."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


@contextmanager
def replaced(owner: Any, **attributes: Any) -> Iterator[None]:
    """Give an object other attributes (methods and submodules too) for a while."""
    before = {name: getattr(owner, name) for name in attributes if name in _own_attributes(owner)}
    try:
        for name, value in attributes.items():
            setattr(owner, name, value)
        yield
    finally:
        for name in attributes:
            if name in before:
                setattr(owner, name, before[name])
            else:
                # A method of the class comes to light again.
                delattr(owner, name)


def _own_attributes(owner: Any) -> set[str]:
    return {*vars(owner), *getattr(owner, "_modules", ())}
