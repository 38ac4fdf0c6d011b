"""`edgeq export GPTQ_OR_AWQ_FOLDER`: what ships is what the checkpoint holds, for every family and both roads."""

from __future__ import annotations

import json
import re
import zlib

import numpy as np
import pytest

from edgeq.cli import run_command_line
from edgeq.graph.read_blocks import read_block_weights

pytest.importorskip("onnxruntime_genai")

GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"}
FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj")}


def edgeq(*arguments):
    return run_command_line([str(argument) for argument in arguments])


def order_of(module, inputs):
    """Layers that read one activation have one activation order, as GPTQ finds it."""
    reader = re.sub(r"[kv]_proj", "q_proj", module).replace("up_proj", "gate_proj")
    return np.random.default_rng(zlib.crc32(reader.encode())).permutation(inputs)


@pytest.fixture
def build(tiny_decoder, packed_checkpoints, tmp_path):
    """`build("llama", "gptq")`: a packed checkpoint, and the weights it stands for."""

    def make(family, method, *, order=None, **config):
        def pack(module, weight):
            if method == "awq":
                return packed_checkpoints.awq(weight)
            return packed_checkpoints.gptq(weight, order=order and order(module, weight.shape[1]))

        settings = AWQ if method == "awq" else GPTQ | {"desc_act": order is not None}
        weights = packed_checkpoints.build_packed_checkpoint(
            tiny_decoder(family, **config), tmp_path / "model", pack, settings
        )
        return tmp_path / "model", weights

    return make


def expected_of(name, weights):
    """The matrix `[in, out]` behind an operator of the written graph."""
    place, _, last = name.replace(".attn.", ".self_attn.").rpartition(".")
    parts = FUSED.get(last, (last,))
    return np.concatenate([weights[f"model.{place}.{part}.weight"] for part in parts]).T


@pytest.mark.parametrize(
    ("family", "method", "order"),
    [
        ("llama", "gptq", None),
        ("qwen2", "gptq", order_of),
        ("mistral", "awq", None),
        ("gemma3_text", "awq", None),
    ],
)
def test_the_written_file_holds_the_checkpoints_weights(family, method, order, build, tmp_path):
    layers = 1 if family == "gemma3_text" else 2
    model, weights = build(family, method, order=order, num_hidden_layers=layers)
    assert edgeq("export", model, "--target", "android", "-o", tmp_path / "out", "--quiet") == 0
    path = tmp_path / "out" / "model" / f"cpu-{method}-4bit-g32" / "model.onnx"
    found = read_block_weights(path)
    assert len(found) == (7 if family == "gemma3_text" else 10)
    for name, weight in found.items():
        np.testing.assert_array_equal(weight, expected_of(name, weights))
    document = json.loads((tmp_path / "out" / "edgeq.json").read_text())
    assert document["quantization"]["precision"] == f"{method}-4bit-g32"
    assert "model.safetensors" in {file["path"] for file in document["source"]["files"]}
    plan = json.loads((tmp_path / "out" / "plan.json").read_text())
    assert {item["method"] for item in plan["weights"]} == {f"{method.upper()} 4-bit group 32"}
    assert {item["weight_error"] for item in plan["weights"]} == {0.0}


def test_it_validates_against_the_checkpoint_and_generates(build, tmp_path, capsys):
    model, _ = build("llama", "gptq", order=order_of)
    output = tmp_path / "out"
    assert edgeq("export", model, "--target", "cpu", "-o", output, "--quiet") == 0
    capsys.readouterr()
    assert edgeq("validate", output, "--against", model, "--json", "--quiet") == 0
    (variant,) = json.loads(capsys.readouterr().out)["variants"]
    metrics = variant["outputs"][0]["metrics"]
    # The weights are equal; what is left is the rounding of activations to int8.
    assert metrics["kl_mean"] < 0.01 and metrics["top1_agreement"] > 0.9
    tokens = []
    for engine in ("onnxruntime", "genai"):
        command = ("run", output, "--prompt", "Once", "--max-tokens", 8, "--engine", engine, "--json")
        assert edgeq(*command) == 0
        tokens.append(json.loads(capsys.readouterr().out)["token_ids"])
    assert tokens[0] == tokens[1]


def test_query_key_and_value_in_different_orders_stay_apart(build, tmp_path, capsys):
    """One fused matrix cannot read its input in two orders: the graph is traced instead, and nothing is lost."""
    model, weights = build(
        "llama", "gptq", order=lambda module, n: order_of(module.replace("_proj", ""), n), num_hidden_layers=1
    )
    assert edgeq("export", model, "--target", "cpu", "-o", tmp_path / "out") == 0
    assert "graph by torch" in capsys.readouterr().err
    found = read_block_weights(tmp_path / "out" / "model" / "cpu-gptq-4bit-g32" / "model.onnx")
    assert len(found) == 7
    for name, weight in found.items():
        np.testing.assert_array_equal(weight, expected_of(name, weights))


def test_quantizing_again_has_to_be_asked_for(build, tmp_path, capsys):
    model, _ = build("llama", "gptq")
    command = ("export", model, "--precision", "q8", "--target", "cpu", "-o", tmp_path / "out", "--quiet")
    assert edgeq(*command) == 1
    error = capsys.readouterr().err
    assert "is quantized already (gptq-4bit-g32)" in error and "--requantize" in error
    assert not (tmp_path / "out").exists()
    assert edgeq(*command, "--requantize") == 0


def test_embeddings_may_be_quantized_beside_what_is_stored(build, tmp_path):
    """GPTQ and AWQ leave the embeddings in float; a recipe of one's own rounds them and keeps the rest."""
    model, weights = build("llama", "awq")
    (tmp_path / "mine.yaml").write_text(
        "name: mine\ndefault: {format: stored}\nrules:\n"
        "  - match: {role: embedding}\n    set: {format: weight-only, bits: 8, block_size: 32, method: rtn}\n"
    )
    command = ("export", model, "--recipe", tmp_path / "mine.yaml", "--target", "cpu", "-o", tmp_path / "out")
    assert edgeq(*command, "--quiet") == 0
    found = read_block_weights(next((tmp_path / "out" / "model").glob("*/model.onnx")))
    assert "embed_tokens" in found
    for name, weight in found.only(found.keys() - {"embed_tokens"}).items():
        np.testing.assert_array_equal(weight, expected_of(name, weights))


def test_a_dry_run_of_stored_weights_speaks_of_no_calibration(build, tmp_path, capsys):
    model, _ = build("llama", "gptq")
    assert edgeq("export", model, "--target", "cpu", "-o", tmp_path / "out", "--dry-run") == 0
    said = re.sub(r"\s+", " ", capsys.readouterr().err)
    assert "no calibration; compared on" in said


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bits": 3}, "GPTQ with 3 bits, expected 4 or 8"),
        ({"checkpoint_format": "marlin"}, "GPTQ in format `marlin`"),
        ({"quant_method": "fp8"}, "already quantized (fp8)"),
        ({"group_size": "128"}, "`group_size` '128', expected a whole number"),
    ],
)
def test_refusals_come_before_the_work(build, tmp_path, capsys, changes, message):
    model, _ = build("llama", "gptq")
    config = json.loads((model / "config.json").read_text())
    config["quantization_config"] |= changes
    (model / "config.json").write_text(json.dumps(config))
    assert edgeq("export", model, "--target", "cpu", "-o", tmp_path / "out", "--dry-run") == 1
    assert message in re.sub(r"\s+", " ", capsys.readouterr().err)
