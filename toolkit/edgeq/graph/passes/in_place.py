"""Passes made of functions: what such a function takes besides the graph are the settings of a pass."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Concatenate, ParamSpec

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeq.graph.passes.sequence import EditPass

Settings = ParamSpec("Settings")


def in_place(edit: Callable[Concatenate[ir.Model, Settings], bool]) -> Callable[Settings, EditPass]:
    """Turn `store_fp16(model, only) -> bool` into `store_fp16(only)`, a pass of `onnx_ir`.

    Args:
        edit: changes the model in place and says whether it changed anything.
    """

    @wraps(edit)
    def with_settings(*args: Settings.args, **kwargs: Settings.kwargs) -> EditPass:
        from edgeq.graph.passes.sequence import EditPass

        return EditPass(edit.__name__.strip("_"), lambda model: edit(model, *args, **kwargs))

    return with_settings
