"""Variants of several graphs: an encoder and a decoder that share a file of weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeq.bundle.golden import GoldenCase, write_golden
from edgeq.bundle.manifest import Gate, Manifest, Variant
from edgeq.bundle.reader import Bundle, open_bundle
from edgeq.bundle.writer import BundleWriter
from edgeq.errors import IntegrityError, UnsupportedError

FOLDER = "model/cpu-fp32"
MODELS = {"encoder": f"{FOLDER}/encoder.onnx", "decoder": f"{FOLDER}/decoder.onnx"}


def _write_part(path: Path, part: str) -> None:
    """`y = x + bias`; the bias of both parts is in one file."""
    import onnx
    from onnx import TensorProto, helper

    bias = TensorProto(name="bias", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": "weights.data", "offset": "0", "length": "16"}.items():
        bias.external_data.add(key=key, value=value)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in ("x", "y"))
    graph = helper.make_graph([helper.make_node("Add", ["x", "bias"], ["y"])], part, [x], [y], [bias])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    onnx.checker.check_model(str(path))


def _of_two(manifest: Manifest, writer: BundleWriter) -> Manifest:
    np.arange(4, dtype=np.float32).tofile(writer.path(f"{FOLDER}/weights.data"))
    for part, path in MODELS.items():
        _write_part(writer.path(path), part)
    writer.path(f"{FOLDER}/model.onnx").unlink()
    spec = replace(manifest.variants[0].inputs[0], dtype="float32", shape=("batch", 4))
    variant = replace(
        manifest.variants[0],
        models=MODELS,
        inputs=tuple(replace(spec, name=f"{part}/x") for part in MODELS),
        outputs=tuple(replace(spec, name=f"{part}/y") for part in MODELS),
    )
    feeds = {"decoder/x": np.ones((1, 4), np.float32)}
    outputs = {"decoder/y": np.arange(1, 5, dtype=np.float32)[None]}
    case = GoldenCase("decoder-00", (), feeds, outputs, {variant.id: outputs})
    bound = Gate(variant.id, "decoder/y", "max_abs", "<=", 1e-6, "float32 rounding")
    golden = write_golden(writer.folder, [case], {"decoder-00": [bound]})
    return replace(manifest, variants=(variant,), golden=golden, gates=(), metrics=())


@pytest.fixture
def two(tiny: Any, tmp_path: Path) -> Path:
    with BundleWriter(tmp_path / "two") as writer:
        manifest = tiny.fill(writer)
        for other in ("model/nnapi-fp32/model.onnx", "golden/case-000.npz"):
            writer.path(other).unlink()
        writer.commit(_of_two(manifest, writer))
    return tmp_path / "two"


def test_each_component_is_there_and_weights_once(two: Path) -> None:
    with open_bundle(two) as bundle:
        (variant,) = bundle.variants
        assert {part: bundle.model_path(variant, part) for part in MODELS} == {
            part: two / path for part, path in MODELS.items()
        }
        assert str(variant.folder) == FOLDER
        assert [path.name for path in two.glob("**/*.data")] == ["weights.data"]


def test_golden_cases_and_bounds_go_by_component(two: Path) -> None:
    with open_bundle(two) as bundle:
        (case,) = bundle.golden_cases()
        assert list(case.feeds) == ["decoder/x"] and list(case.outputs["cpu-fp32"]) == ["decoder/y"]
        assert bundle.manifest.golden[0].tolerances[0].output == "decoder/y"


def test_what_takes_one_graph_refuses_several(two: Path) -> None:
    with open_bundle(two) as bundle:
        (variant,) = bundle.variants
        with pytest.raises(UnsupportedError, match="has no component `model`; it has encoder, decoder"):
            _ = variant.model_file
        with pytest.raises(UnsupportedError, match="has no component `vocoder`"):
            bundle.model_path(variant, "vocoder")


def test_a_model_package_has_variants_of_one_graph_only(two: Path) -> None:
    assert not (two / "manifest.json").exists()


def _changed(bundle: Path, edit: Callable[[dict[str, Any]], object]) -> Manifest:
    document = json.loads((bundle / "edgeq.json").read_text("utf-8"))
    edit(document)
    return Manifest.from_json(document)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda v: v["models"].update(decoder=MODELS["encoder"]), "is there 2 times"),
        (lambda v: v["models"].update(decoder=FOLDER + "/none.onnx"), "none.onnx` is not in integrity"),
        (lambda v: v["models"].update(decoder="/etc/hostname"), r"`/etc/hostname` is not in integrity"),
        (lambda v: v["models"].update(decoder="../x"), r"`\.\./x` is not in integrity"),
        (lambda v: v["inputs"][0].update(name="x"), "the tensor `x` is of none of its components"),
        (lambda v: v["inputs"][0].update(name="encoder/"), "the tensor `encoder/` is of none"),
        (lambda v: v["outputs"][1].update(name="vocoder/y"), "the tensor `vocoder/y` is of none"),
        (lambda v: v["outputs"].pop(1), "has no output `decoder/y`"),
        (lambda v: v["models"].pop("encoder"), "its only component is `decoder`, expected `model`"),
    ],
)
def test_components_that_do_not_fit_are_refused(
    two: Path, edit: Callable[[dict[str, Any]], object], message: str
) -> None:
    _changed(two, lambda document: None)
    with pytest.raises(IntegrityError, match=message):
        _changed(two, lambda document: edit(document["variants"][0]))


def test_a_component_that_is_listed_must_stay_inside(two: Path) -> None:
    (two.parent / "decoder.onnx").touch()
    path = two / "edgeq.json"
    text = path.read_text("utf-8").replace(FOLDER + "/decoder.onnx", f"{FOLDER}/../../../decoder.onnx")
    path.write_text(text.replace(FOLDER + "/encoder.onnx", f"{FOLDER}/../../../encoder.onnx"), "utf-8")
    with pytest.raises(IntegrityError, match="unsafe path"):
        open_bundle(two, verify=False)


def test_every_component_is_looked_into(two: Path, mutate_bundle: Any) -> None:
    path = two / MODELS["decoder"]
    path.write_bytes(path.read_bytes().replace(b"weights.data", b"../etc/x.bin"))
    mutate_bundle.sign(two)
    with pytest.raises(IntegrityError, match=r"decoder\.onnx` is refused"):
        open_bundle(two)


def test_one_that_is_opened_again_says_the_same(two: Path) -> None:
    with open_bundle(two) as bundle:
        assert _variant(bundle).models == MODELS
        assert bundle.manifest.to_json()["variants"][0]["models"] == MODELS


def _variant(bundle: Bundle) -> Variant:
    return bundle.variants[0]
