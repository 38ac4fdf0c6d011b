"""`edgeq export model.gguf`: what ships is what the file holds, and nothing is quantized twice without being asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgeq.cli import run_command_line
from edgeq.graph.block_weight import BlockWeight

gguf = pytest.importorskip("gguf")
pytest.importorskip("onnxruntime_genai")


def mixed(name: str, values: np.ndarray) -> str:
    kinds = {"attn_v": "Q6_K", "ffn_down": "Q6_K", "token_embd": "Q4_K", "output.": "Q6_K"}
    return next((kind for part, kind in kinds.items() if name.startswith(part) or f".{part}" in name), "Q4_K")


@pytest.fixture(scope="module")
def model(
    tiny_decoder: Callable[..., Path], gguf_files: Any, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tiny_decoder("llama", hidden_size=256, intermediate_size=256)
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    return Path(gguf_files.write_gguf(path, folder, mixed, general__file_type=15))


def edgeq(*arguments: object) -> int:
    return run_command_line([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def bundle(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("out") / "bundle"
    assert edgeq("export", model, "--target", "android", "--output", output, "--quiet") == 0
    return output


def test_the_written_file_holds_the_files_weights(bundle: Path, model: Path) -> None:
    graph = onnx.load(str(bundle / "model" / "cpu-gguf-q4_k_m" / "model.onnx")).graph
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(model).tensors}
    products = [node for node in graph.node if node.op_type == "MatMulNBits"]
    assert products and not any(node.op_type == "MatMul" and node.input[1] in tensors for node in graph.node)
    checked = 0
    for part in ("ffn_gate", "ffn_up", "ffn_down"):
        for layer in (0, 1):
            tensor = stored[f"blk.{layer}.{part}.weight"]
            expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            name = {"ffn_gate": "gate", "ffn_up": "up", "ffn_down": "down"}[part]
            node = next(n for n in products if n.name == f"layers.{layer}.mlp.{name}_proj")
            attributes = {a.name: a.i for a in node.attribute}
            offsets = next(
                (t for key, t in tensors.items() if f"{layer}.mlp.{name}_proj" in key and "offsets" in key),
                None,
            )
            scales = tensors[node.input[2]]
            weight = BlockWeight(
                tensors[node.input[1]],
                scales,
                None,
                attributes["bits"],
                attributes["block_size"],
                256,
                None,
                offsets,
            )
            assert attributes["accuracy_level"] == 4
            atol = 0 if offsets is None else 1e-6 * np.abs(expected).max()  # the rounding of one sum
            np.testing.assert_allclose(weight.dequantize().T, expected, rtol=0, atol=atol)
            assert (offsets is None) == (tensor.tensor_type.name == "Q6_K")
            checked += 1
    assert checked == 6


def test_the_bundle_validates_against_the_file(
    bundle: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert edgeq("validate", bundle, "--against", model, "--json", "--quiet") == 0
    (variant,) = json.loads(capsys.readouterr().out)["variants"]
    metrics = variant["outputs"][0]["metrics"]
    # Weights are equal; what is left is the rounding of activations to int8.
    assert metrics["kl_mean"] < 0.01 and metrics["top1_agreement"] > 0.9


def test_the_manifest_names_the_file(bundle: Path) -> None:
    document = json.loads((bundle / "edgeq.json").read_text())
    assert [file["path"] for file in document["source"]["files"]] == ["tiny.gguf"]
    assert document["quantization"]["precision"] == "gguf-q4_k_m"
    plan = json.loads((bundle / "plan.json").read_text())
    assert {item["method"] for item in plan["weights"]} >= {"Q4_K", "Q6_K"}
    assert max(item["weight_error"] for item in plan["weights"]) < 1e-6


def test_it_generates(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert edgeq("run", bundle, "--prompt", "Once", "--max-tokens", 5, "--json") == 0
    assert json.loads(capsys.readouterr().out)["generated_tokens"] == 5


def test_quantizing_again_has_to_be_asked_for(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert edgeq("export", model, "--precision", "int4", "--target", "cpu", "-o", tmp_path / "o") == 1
    assert (
        "is quantized already (gguf-q4_k_m)" in (error := capsys.readouterr().err) and "--requantize" in error
    )
    flags = ("--precision", "q8", "--target", "cpu", "--requantize", "--quiet")
    assert edgeq("export", model, *flags, "-o", tmp_path / "o") == 0
    plan = json.loads((tmp_path / "o" / "plan.json").read_text())
    assert {item["method"] for item in plan["weights"]} == {"rtn"}


def test_types_that_onnx_cannot_hold(
    tiny_decoder: Callable[..., Path], gguf_files: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny_decoder("llama", hidden_size=256, intermediate_size=256)
    path = gguf_files.write_gguf(
        tmp_path / "m.gguf", folder, lambda name, _: "IQ2_XXS" if "ffn_up" in name else "Q8_0"
    )
    assert edgeq("export", path, "--target", "cpu", "-o", tmp_path / "o", "--quiet") == 1
    error = capsys.readouterr().err
    assert "2 weights" in error and "`blk.0.ffn_up.weight` (IQ2_XXS" in error and "--requantize" in error
    assert not (tmp_path / "o").exists()
    assert edgeq("export", path, "--target", "cpu", "-o", tmp_path / "o", "--requantize") == 0
    assert "2 weights were rounded to 8 bits, relative error 0." in capsys.readouterr().err
    plan = json.loads((tmp_path / "o" / "plan.json").read_text())
    again = [item for item in plan["weights"] if item["method"] == "rtn"]
    assert len(again) == 2 and all(0 < item["weight_error"] < 0.01 for item in again)


def test_stored_means_a_quantized_checkpoint(
    tiny_decoder: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = (
        "export",
        tiny_decoder("llama"),
        "--precision",
        "stored",
        "--target",
        "cpu",
        "-o",
        tmp_path / "o",
    )
    assert edgeq(*command) == 1
    assert "takes over quantized weights, and" in capsys.readouterr().err


def test_a_file_of_floats_is_quantized_like_any_model(
    tiny_decoder: Callable[..., Path], gguf_files: Any, tmp_path: Path
) -> None:
    path = gguf_files.write_gguf(tmp_path / "m.gguf", tiny_decoder("llama"), "F16")
    assert edgeq("export", path, "--precision", "q8", "--target", "cpu", "-o", tmp_path / "o", "--quiet") == 0


def test_the_recipe_of_the_bundle_runs_again(bundle: Path, model: Path, tmp_path: Path) -> None:
    command = (
        "export",
        model,
        "--target",
        "android",
        "--recipe",
        bundle / "recipe.yaml",
        "-o",
        tmp_path / "o",
    )
    assert edgeq(*command, "--quiet") == 0
    first, second = (
        folder / "model" / "cpu-gguf-q4_k_m" / "model.onnx" for folder in (bundle, tmp_path / "o")
    )
    assert first.read_bytes() == second.read_bytes()
