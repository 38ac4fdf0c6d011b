"""What a checkpoint says about its packing, and every way of packing that is refused by name."""

from __future__ import annotations

import json

import pytest

from edgeq.errors import ModelError
from edgeq.exporters.gptq_awq import quantization_of, read_settings

GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": True, "sym": True}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": True, "version": "gemm"}


@pytest.mark.parametrize(
    ("described", "label", "layout"),
    [
        (GPTQ, "gptq-4bit-g128", "gptq"),
        (GPTQ | {"checkpoint_format": "gptq_v2", "bits": 8, "group_size": -1}, "gptq-8bit", "gptq_v2"),
        (GPTQ | {"format": "gptq_v2"}, "gptq-4bit-g128", "gptq_v2"),
        (AWQ, "awq-4bit-g64", "gemm"),
        ({"quant_method": "awq", "w_bit": 4, "q_group_size": 32, "version": "GEMV"}, "awq-4bit-g32", "gemv"),
    ],
)
def test_settings(described, label, layout):
    found = read_settings(described)
    assert (found.label, found.layout) == (label, layout)
    assert found.is_symmetric == (described.get("sym") is True)


@pytest.mark.parametrize(
    ("described", "message"),
    [
        (
            {"quant_method": "bitsandbytes"},
            r"already quantized \(bitsandbytes\), expected float weights, gptq or awq",
        ),
        ({}, r"already quantized \(None\)"),
        (GPTQ | {"bits": 3}, "GPTQ with 3 bits, expected 4 or 8"),
        (GPTQ | {"bits": "4"}, "`bits` '4', expected a whole number"),
        (GPTQ | {"bits": True}, "`bits` True"),
        (GPTQ | {"group_size": 0}, "`group_size` 0, expected -1 or a positive number"),
        (GPTQ | {"group_size": None}, "`group_size` None"),
        (GPTQ | {"checkpoint_format": "marlin"}, "GPTQ in format `marlin`, expected gptq or gptq_v2"),
        (GPTQ | {"is_marlin_format": True}, "GPTQ in format `marlin`"),
        (GPTQ | {"pack_dtype": "int16"}, "GPTQ packed in int16"),
        (AWQ | {"version": "gemv_fast"}, "AWQ in layout `gemv_fast`, expected gemm or gemv"),
        (AWQ | {"bits": 8}, "AWQ with 8 bits, expected 4"),
    ],
)
def test_refusals(described, message):
    with pytest.raises(ModelError, match=message):
        read_settings(described)


@pytest.mark.parametrize(("name", "method"), [("quantize_config.json", "gptq"), ("quant_config.json", "awq")])
def test_files_of_older_tools(tmp_path, name, method):
    assert quantization_of(tmp_path, {}) is None
    (tmp_path / name).write_text(json.dumps({"bits": 4, "group_size": 32}))
    assert quantization_of(tmp_path, {})["quant_method"] == method
    assert quantization_of(tmp_path, {"quantization_config": GPTQ}) == GPTQ
    (tmp_path / name).write_text("[]")
    with pytest.raises(ModelError, match="is no JSON object"):
        quantization_of(tmp_path, {})
