"""The package on disk: what coremltools sees in it, metadata, determinism, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgeq.errors import OutputError
from edgeq.targets.coreml.backend import coremltools, quiet
from edgeq.targets.coreml.decisions import Int8Weight, PackageInfo
from edgeq.targets.coreml.lowering import lower_to_mil
from edgeq.targets.coreml.package import package_size, swift_class_name

RNG = np.random.default_rng(2)
WIDTH = 256


@pytest.fixture
def encoder(graph: Any) -> ir.Model:
    """A lookup and two layers with weights large enough for sizes to mean something."""
    node = onnx.helper.make_node
    nodes = [
        node("Gather", ["table", "input_ids"], ["h"], name="embed"),
        node("MatMul", ["h", "w1"], ["p"], name="up"),
        node("Gelu", ["p"], ["g"], name="act"),
        node("MatMul", ["g", "w2"], ["out"], name="down"),
    ]
    weights = {
        "table": RNG.standard_normal((500, WIDTH)).astype(np.float32),
        "w1": RNG.standard_normal((WIDTH, 1024)).astype(np.float32),
        "w2": RNG.standard_normal((1024, WIDTH)).astype(np.float32),
    }
    return graph(nodes, {"input_ids": ("int64", ("batch", "sequence"))}, ["out"], weights)


INFO = PackageInfo(
    name="Model",
    description="What it does.",
    author="Someone",
    license="Apache-2.0",
    version="2",
    inputs={"input_ids": "Token ids."},
    outputs={"out": "Vectors."},
    labels=("no", "yes"),
    user_defined={"edgeq.recipe": "int8"},
)


@pytest.mark.parametrize(
    ("ios", "version", "opset"), [(16, 7, "CoreML6"), (17, 8, "CoreML7"), (18, 9, "CoreML8")]
)
def test_coremltools_opens_it_at_the_version_asked_for(
    encoder: ir.Model, lower: Any, ios: int, version: int, opset: str
) -> None:
    interpreter, lowered = lower(encoder, ios=ios, seq_lens=(8,))
    with quiet():
        spec = coremltools().models.MLModel(str(lowered.path), skip_model_load=True).get_spec()
    assert spec.specificationVersion == version == interpreter.package.specification_version
    assert spec.mlProgram.functions["main"].opset == opset == interpreter.package.opset
    assert list(spec.description.input[0].type.multiArrayType.shape) == [1, 8]


@pytest.mark.parametrize("lengths", [(8,), (8, 12)])
def test_types_and_shapes_are_those_coremltools_infers(
    encoder: ir.Model, lower: Any, lengths: tuple[int, ...]
) -> None:
    """coremltools' reader builds every operation anew and compares what it infers with what is declared."""
    from coremltools.converters.mil.frontend.milproto.load import load

    weights = {name: Int8Weight() for name in ("table", "w1", "w2")}
    _, lowered = lower(encoder, ios=18, precision="fp16", seq_lens=lengths, weights=weights)
    with quiet():
        model = coremltools().models.MLModel(str(lowered.path), skip_model_load=True)
    spec = model.get_spec()
    program = load(spec, specification_version=9, file_weights_dir=model.weights_dir)
    assert [output.name for output in program.functions["main"].outputs] == ["out"]
    (block,) = spec.mlProgram.functions["main"].block_specializations.values()
    linear = next(item for item in block.operations if item.type == "linear")
    linear.outputs[0].type.tensorType.dimensions[-1].constant.size += 1
    with pytest.raises(AssertionError, match="Mismatch between var types"):
        load(spec, specification_version=9, file_weights_dir=model.weights_dir)


def test_metadata(encoder: ir.Model, lower: Any) -> None:
    interpreter, lowered = lower(encoder, info=INFO, seq_lens=(8,))
    found = interpreter.package.metadata
    assert (found["description"], found["author"], found["license"], found["version"]) == (
        "What it does.",
        "Someone",
        "Apache-2.0",
        "2",
    )
    assert json.loads(found["edgeq.labels"]) == ["no", "yes"]
    assert found["edgeq.recipe"] == "int8"
    assert found["edgeq.sequence_lengths"] == "8"
    assert "com.github.apple.coremltools.conversion_date" not in found
    assert [item.description for item in interpreter.inputs] == ["Token ids."]
    with quiet():
        model = coremltools().models.MLModel(str(lowered.path), skip_model_load=True)
    assert model.license == "Apache-2.0"
    assert model.output_description["out"] == "Vectors."


def test_equal_inputs_give_equal_bytes(encoder: ir.Model, tmp_path: Path) -> None:
    def files(name: str, **options: Any) -> dict[str, bytes]:
        root = tmp_path / f"{name}.mlpackage"
        lower_to_mil(encoder, root, seq_lens=(8,), **options)
        return {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*") if file.is_file()}

    first = files("a")
    assert first == files("b")
    assert len(first) == 3
    assert first != files("c", info=INFO)


def test_coremltools_sees_compressed_weights(encoder: ir.Model, lower: Any) -> None:
    ct = coremltools()
    names = ("table", "w1", "w2")
    for weights, compressed in (({}, 0), ({name: Int8Weight() for name in names}, 3)):
        _, lowered = lower(encoder, ios=18, precision="fp16", seq_lens=(8,), weights=weights)
        with quiet():
            model = ct.models.MLModel(str(lowered.path), skip_model_load=True)
            found = ct.optimize.coreml.get_weights_metadata(model, weight_threshold=2048)
        quantized = [
            item
            for item in found.values()
            if any(child.op_type.startswith("constexpr") for child in item.child_ops)
        ]
        assert len(quantized) == compressed


def test_size_equals_that_of_coremltools_own_quantization(
    encoder: ir.Model, lower: Any, tmp_path: Path
) -> None:
    ct = coremltools()
    _, plain = lower(encoder, ios=17, precision="fp16", seq_lens=(8,))
    weights = {name: Int8Weight() for name in ("table", "w1", "w2")}
    _, ours = lower(encoder, ios=17, precision="fp16", seq_lens=(8,), weights=weights)
    with quiet():
        model = ct.models.MLModel(str(plain.path), skip_model_load=True)
        settings = ct.optimize.coreml.OpLinearQuantizerConfig(mode="linear_symmetric", weight_threshold=512)
        config = ct.optimize.coreml.OptimizationConfig(global_config=settings)
        ct.optimize.coreml.linear_quantize_weights(model, config).save(str(tmp_path / "theirs.mlpackage"))
    theirs = package_size(tmp_path / "theirs.mlpackage")
    assert package_size(ours.path) == pytest.approx(theirs, rel=0.02)
    assert package_size(plain.path) > 1.9 * theirs


def test_an_existing_package_is_kept(encoder: ir.Model, tmp_path: Path) -> None:
    path = tmp_path / "m.mlpackage"
    path.mkdir()
    with pytest.raises(OutputError, match="exists"):
        lower_to_mil(encoder, path, seq_lens=(8,))
    with pytest.raises(OutputError, match=r"end in \.mlpackage"):
        lower_to_mil(encoder, tmp_path / "m.zip", seq_lens=(8,))


@pytest.mark.parametrize(
    ("name", "swift"),
    [
        ("all-MiniLM-L6-v2", "AllMiniLML6V2"),
        ("4bit", "Model4bit"),
        ("", "Model"),
        ("Model", "Model"),
        ("a/b c", "ABC"),
    ],
)
def test_swift_class_name(name: str, swift: str) -> None:
    assert swift_class_name(name) == swift
