"""Axes, padding and state of a component."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from edgeq.graph.component import Axis, Component, Padding, State, text_component
from edgeq.types import Role, TensorSpec

EMPTY = ir.Model(ir.Graph([], [], nodes=[]), ir_version=10)
IDS = TensorSpec("ids", "int64", ("batch", "sequence"), Role.TOKEN_IDS)
MASK = TensorSpec("mask", "int64", ("batch", "sequence"), Role.ATTENTION_MASK)


def test_a_text_encoder_pads_its_sequence() -> None:
    encoder = text_component(EMPTY, (IDS, MASK), (), 128)
    assert encoder.padding == Padding("sequence", "mask") and encoder.state == ()
    assert encoder.max_length == encoder.axis("sequence").most == 128
    assert encoder.axis("batch").most is None
    assert encoder.sizes(16) == {"batch": 1, "sequence": 16}


def test_a_decoder_has_state() -> None:
    past = TensorSpec("past.0", "float32", ("batch", 2, "past", 4), Role.PAST)
    present = TensorSpec("present.0", "float32", ("batch", 2, "total", 4), Role.PRESENT)
    decoder = text_component(EMPTY, (IDS, MASK, past), (present,), 64)
    assert decoder.state == (State("past.0", "present.0"),)
    assert [axis.name for axis in decoder.axes] == ["batch", "sequence", "past"]


def test_what_is_not_padded_has_no_longest_sample() -> None:
    picture = Component("model", EMPTY, (), (), (Axis("batch"), Axis("height", 224, 224)))
    assert picture.sizes(16) == {"batch": 1, "height": 224}
    with pytest.raises(ValueError, match="no longest sample"):
        _ = picture.max_length
    with pytest.raises(KeyError):
        picture.axis("width")


def test_the_mask_is_none_where_feeds_lack_it() -> None:
    padding = Padding("sequence", "mask")
    mask = np.array([[1, 0]])
    assert padding.mask({"mask": mask}) is mask and padding.mask({"ids": mask}) is None
