"""Running passes: on the model itself or on a clone, and naming the one that fails."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from edgeq.errors import EdgeqError, PassError


class EditPass(ir.passes.InPlacePass):
    """A function as a pass.

    Args:
        name: of the function.
        edit: changes a model in place and says whether it did.
    """

    def __init__(self, name: str, edit: Callable[[ir.Model], bool]) -> None:
        self._name, self._edit = name, edit

    def __repr__(self) -> str:
        return self._name

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the function."""
        return ir.passes.PassResult(model, self._edit(model))


class PassSequence(ir.passes.Sequential):
    """Passes in order; where one fails, the error names it and those before it."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run them.

        Raises:
            PassError: one of them failed. What a pass refuses in its own words is raised as it is, with a note.
        """
        modified = False
        for index, each in enumerate(self.passes):
            try:
                result = each(model)
            except (EdgeqError, OSError, MemoryError) as error:
                error.add_note(f"in {self._place(index)}")
                raise
            except Exception as error:
                raise PassError(
                    f"{self._place(index)}, failed: {type(error).__name__}: {error}",
                    hint="this is an error in edgeq or in what made the graph; please report it with the model's name",
                ) from error
            model, modified = result.model, modified or result.modified
        return ir.passes.PassResult(model, modified)

    def _place(self, index: int) -> str:
        before = ", ".join(_name(each) for each in self.passes[:index])
        return f"the pass {_name(self.passes[index])}, {f'after {before}' if before else 'the first one'}"


def _name(each: ir.passes.PassBase) -> str:
    return f"`{each!r}`" if isinstance(each, EditPass) else f"`{type(each).__name__}`"


def run_passes(model: ir.Model, *passes: ir.passes.PassBase) -> ir.passes.PassResult:
    """Run passes on a model itself.

    Raises:
        PassError: names the one that failed, and those before it.
    """
    return PassSequence(*passes)(model)


def edited(model: ir.Model, *passes: ir.passes.PassBase) -> ir.Model:
    """A clone that passes were run on; weights are shared with the model.

    Raises:
        PassError: names the one that failed, and those before it.
    """
    return run_passes(model.clone(), *passes).model
