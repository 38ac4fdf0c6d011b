"""No bundle bears the name of a precision that none of its layers has."""

from __future__ import annotations

import pytest

from edgeq.errors import UnsupportedError
from edgeq.pipeline.quantizing import _require_layers
from edgeq.quantize.recipes import load_recipe


@pytest.mark.parametrize("recipe", ["int8", "int4"])
def test_a_recipe_that_quantizes_nothing_is_refused_with_a_way_out(recipe):
    with pytest.raises(UnsupportedError, match=f"recipe `{recipe}` quantizes linear layers") as found:
        _require_layers(load_recipe(recipe), [])
    assert "--precision fp32" in str(found.value.hint)
    _require_layers(load_recipe(recipe), ["encoder.layer.0.dense"])


@pytest.mark.parametrize("recipe", ["fp32", "fp16"])
def test_a_float_recipe_promises_nothing(recipe):
    _require_layers(load_recipe(recipe), [])
