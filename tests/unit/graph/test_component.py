"""Axes, padding and state of a component."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from edgeq.graph.component import Axis, Component, Padding, State, Wire, check_wires, text_component
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


def part(name: str, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> Component:
    return Component(name, EMPTY, inputs, outputs)


STATES = TensorSpec("last_hidden_state", "float32", ("batch", "frames", 8))
ENCODER = part("encoder", (TensorSpec("features", "float32", ("batch", 80, "time")),), (STATES,))
DECODER = part(
    "decoder",
    (TensorSpec("ids", "int64", ("batch", "tokens")), TensorSpec("states", "float32", ("batch", "total", 8))),
    (TensorSpec("logits", "float32", ("batch", "tokens", 50)),),
)
WIRE = Wire("encoder", "last_hidden_state", "decoder", "states")


def test_wires_that_fit() -> None:
    check_wires([ENCODER, DECODER], [WIRE])
    check_wires([ENCODER], [])


@pytest.mark.parametrize(
    ("components", "wires", "message"),
    [
        ([ENCODER, ENCODER], [], "one name"),
        ([ENCODER, DECODER], [WIRE, WIRE], "two wires end"),
        ([DECODER], [WIRE], "`encoder`, which has none"),
        ([ENCODER, DECODER], [replace(WIRE, output="states")], "`states` of the outputs of `encoder`"),
        ([ENCODER, DECODER], [replace(WIRE, input="logits")], "`logits` of the inputs of `decoder`"),
        ([ENCODER, DECODER], [replace(WIRE, input="ids")], "carries float32"),
        (
            [ENCODER, replace(DECODER, inputs=(replace(STATES, name="states", shape=("b", "t", 9)),))],
            [WIRE],
            "9",
        ),
    ],
)
def test_wires_that_do_not(components: list[Component], wires: list[Wire], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_wires(components, wires)
