"""Running passes: on a clone, with the one that fails named."""

from __future__ import annotations

import onnx_ir as ir
import pytest
from onnx_ir.passes.common import RemoveUnusedNodesPass

from edgeq.errors import PassError, UnsupportedError
from edgeq.graph.passes.in_place import in_place
from edgeq.graph.passes.sequence import edited, run_passes


def model_of() -> ir.Model:
    value = ir.val("x", ir.DataType.FLOAT, (2,))
    node = ir.node("Relu", [value])
    return ir.Model(ir.Graph([value], node.outputs, nodes=[node], opset_imports={"": 20}), ir_version=10)


@in_place
def rename(model: ir.Model, op_type: str) -> bool:
    """Give the first operator another type."""
    is_changed = model.graph.node(0).op_type != op_type
    model.graph.node(0).op_type = op_type
    return is_changed


@in_place
def stumble(model: ir.Model, error: Exception) -> bool:
    """Fail."""
    raise error


def test_a_pass_has_the_functions_name_and_settings() -> None:
    model = model_of()
    result = rename("Tanh")(model)
    assert repr(rename("Tanh")) == "rename" and rename.__doc__
    assert result.model is model and result.modified and model.graph.node(0).op_type == "Tanh"
    assert not rename("Tanh")(model).modified


def test_what_is_edited_is_a_clone() -> None:
    model = model_of()
    found = edited(model, rename("Tanh"), rename("Sqrt"))
    assert found.graph.node(0).op_type == "Sqrt" and model.graph.node(0).op_type == "Relu"


def test_a_sequence_is_modified_where_one_pass_modified() -> None:
    model = model_of()
    assert run_passes(model, rename("Tanh"), rename("Tanh")).modified
    assert not run_passes(model, rename("Tanh"), RemoveUnusedNodesPass()).modified


def test_the_pass_that_fails_is_named_with_those_before_it() -> None:
    with pytest.raises(PassError) as caught:
        run_passes(
            model_of(), rename("Tanh"), RemoveUnusedNodesPass(), stumble(KeyError("layer.3")), rename("Sqrt")
        )
    assert str(caught.value) == (
        "the pass `stumble`, after `rename`, `RemoveUnusedNodesPass`, failed: KeyError: 'layer.3'"
    )
    assert isinstance(caught.value.__cause__, KeyError) and caught.value.hint


def test_what_a_pass_refuses_keeps_its_words() -> None:
    refusal = UnsupportedError("no such operator", hint="another target")
    with pytest.raises(UnsupportedError) as caught:
        run_passes(model_of(), stumble(refusal))
    assert caught.value is refusal and str(refusal) == "no such operator"
    assert refusal.__notes__ == ["in the pass `stumble`, the first one"]
