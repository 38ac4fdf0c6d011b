"""Zero points read in the wrong version are told by the numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeq.errors import ModelError
from edgeq.exporters.gptq_awq.folder import unpack


@pytest.fixture
def checkpoint(tiny_decoder, packed_checkpoints, tmp_path):
    """A GPTQ checkpoint of one version, with a label."""

    def build(version: int, label: str | None, bits: int = 4) -> Path:
        described = {"quant_method": "gptq", "bits": bits, "group_size": 32}
        if label is not None:
            described["checkpoint_format"] = label
        packed_checkpoints.build_packed_checkpoint(
            tiny_decoder("llama"),
            tmp_path / "model",
            lambda _, weight: packed_checkpoints.gptq(weight, bits, version=version),
            described,
        )
        return tmp_path / "model"

    return build


def unpacked(folder: Path) -> None:
    out = folder.with_name("out")
    out.mkdir(exist_ok=True)
    unpack(folder, out)


@pytest.mark.parametrize(
    ("version", "label", "right"), [(2, None, "gptq_v2"), (2, "gptq", "gptq_v2"), (1, "gptq_v2", "gptq")]
)
def test_a_wrong_or_missing_label_is_told(checkpoint, version, label, right):
    folder = checkpoint(version, label)
    with pytest.raises(ModelError, match=r"put the mean of all weights [+-][01]\.\d\d steps from 0") as found:
        unpacked(folder)
    assert found.value.hint is not None and f'"checkpoint_format": "{right}"' in found.value.hint
    # What the hint says works.
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["quantization_config"]["checkpoint_format"] = right
    path.write_text(json.dumps(config))
    unpacked(folder)


@pytest.mark.parametrize(("version", "label", "bits"), [(1, None, 4), (1, "gptq", 8), (2, "gptq_v2", 8)])
def test_the_right_label_is_believed(checkpoint, version, label, bits):
    unpacked(checkpoint(version, label, bits))
