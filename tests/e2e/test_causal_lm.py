"""A language model from folder to bundle to text, on both roads."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import edgeq
from edgeq.cli import run_command_line as run_command
from edgeq.errors import UnsupportedError
from edgeq.runtime.generation.sampling import Sampling

pytest.importorskip("onnxruntime_genai")

PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def model(tiny_decoder, tiny_decoders, tmp_path_factory):
    """Tied, with a chat template: the builder's road."""
    folder = tiny_decoders.build_tiny_decoder(
        tmp_path_factory.mktemp("tiny-llama"),
        "llama",
        chat_template=tiny_decoders.CHAT_TEMPLATE,
        tie_word_embeddings=True,
    )
    (folder / "USE_POLICY.md").write_text("Do no harm.")
    return folder


@pytest.fixture(scope="module")
def bundle(model, tmp_path_factory):
    return edgeq.export(model, precision="int4", output=tmp_path_factory.mktemp("bundles") / "int4")


@pytest.fixture(scope="module")
def traced(tiny_decoder, tmp_path_factory):
    """Head size 8: traced by torch; int8."""
    folder = tiny_decoder("llama", head_dim=8, num_hidden_layers=1)
    return edgeq.export(
        folder, precision="int8", target="cpu", output=tmp_path_factory.mktemp("bundles") / "int8"
    )


def run(capsys, *arguments):
    code = run_command([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_what_a_bundle_holds(bundle):
    (variant,) = bundle.variants
    assert variant.id == "cpu-int4"
    # 2 layers, key and value, 2 heads of 16 values, 4 bytes each.
    assert variant.requirements["kv_cache_bytes_per_token"] == 2 * 2 * 2 * 16 * 4
    assert variant.requirements["context_length"] == 128
    assert variant.requirements["min_ram_mb"] >= 32
    settings = json.loads((bundle.folder / "generation.json").read_text())
    assert settings["stop_ids"] == [257, 259]
    assert "<|im_start|>" in settings["chat_template"]
    assert (bundle.folder / "USE_POLICY").read_text() == "Do no harm."
    page = (bundle.folder / "report.html").read_text()
    assert all(f'<section id="{name}">' in page for name in ("summary", "examples", "latency", "fidelity"))
    files = {path.name for path in (bundle.folder / "model/cpu-int4").iterdir()}
    assert files >= {"model.onnx", "genai_config.json", "tokenizer.json", "tokenizer_config.json"}
    assert [entry.id for entry in bundle.manifest.golden][:2] == ["prefill-00", "decode-00"]
    assert {gate.metric for gate in bundle.manifest.gates} == {
        "kl_mean",
        "top1_agreement",
        "drift_rms",
        "drift_mean",
        "golden_kl_mean",
        "golden_cosine_mean",
    }


def test_no_file_names_a_path_of_this_machine(bundle, model):
    texts = [path.read_bytes() for path in bundle.folder.rglob("*") if path.is_file()]
    assert bundle.manifest.source.model == model.name
    assert not any(str(model).encode() in text for text in texts)


def test_a_tied_table_is_stored_once_and_everything_is_in_blocks(bundle):
    import onnx

    graph = onnx.load(bundle.folder / "model/cpu-int4/model.onnx").graph
    ops = [node.op_type for node in graph.node]
    assert ops.count("MatMulNBits") == 11 and ops.count("GatherBlockQuantized") == 1 and "MatMul" not in ops
    table = [tensor for tensor in graph.initializer if list(tensor.dims) == [288, 2, 16]]
    assert len(table) == 1
    levels = {
        attr.i
        for node in graph.node
        if node.op_type == "MatMulNBits"
        for attr in node.attribute
        if attr.name == "accuracy_level"
    }
    assert levels == {4}


@pytest.mark.parametrize("which", ["bundle", "traced"])
def test_both_engines_write_the_same_tokens(which, request):
    path = request.getfixturevalue(which).path
    found = []
    for engine in ("onnxruntime", "genai"):
        with edgeq.load(path, engine=engine, threads=1) as opened:
            found.append(opened.generate(PROMPT, max_tokens=24))
    assert found[0].token_ids == found[1].token_ids
    assert found[0].text == found[1].text
    with edgeq.load(path, threads=1) as opened:
        hot = opened.generate(PROMPT, max_tokens=24, sampling=Sampling(2.0, seed=1))
        assert hot == opened.generate(PROMPT, max_tokens=24, sampling=Sampling(2.0, seed=1))
    assert hot.token_ids != found[0].token_ids


def test_a_language_model_takes_no_texts(bundle):
    with edgeq.load(bundle.path, threads=1) as opened:
        assert opened.variant.id == "cpu-int4" and opened.settings.context_length == 128
        for verb in (opened.run, opened.answer, opened.encode, opened.prepare):
            with pytest.raises(UnsupportedError, match="is a language model and takes a prompt") as caught:
                verb(["x"])
        assert "edgeq.load(path).generate" in caught.value.hint


def test_run_on_the_command_line(bundle, capsys):
    arguments = ("run", bundle.path, "--prompt", PROMPT, "--max-tokens", "9")
    code, out, _ = run(capsys, *arguments, "--json")
    document = json.loads(out)
    assert code == 0
    assert document["generated_tokens"] == len(document["token_ids"]) <= 9
    assert document["prompt_tokens"] == 1 + len(PROMPT)
    assert document["tokens_per_second"] > 0
    for extra in ((), ("--stream",)):
        code, out, err = run(capsys, *arguments, *extra)
        assert (code, out) == (0, document["text"] + "\n")
        assert "per second" in err
    code, out, _ = run(capsys, *arguments, "--chat", "--json")
    # <|im_start|>user\n...<|im_end|>\n<|im_start|>assistant\n, and no start token of the tokenizer's.
    assert json.loads(out)["prompt_tokens"] == 3 + len(PROMPT) + len("user\n\nassistant\n")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--prompt", ""), 1, "the prompt is empty"),
        (("--prompt", "x" * 200), 1, "201 tokens; the model's context is 128"),
        (("--prompt", "a\udcff"), 1, "not valid Unicode"),
        (("--prompt", "x", "--max-tokens", "0"), 2, "expected at least 1"),
        (("--prompt", "x", "--temperature", "-1"), 2, "temperature -1.0 is out of range"),
        (("--prompt", "x", "--seed", "3"), 2, "no effect without --temperature"),
        (("--prompt", "x", "--engine", "llama"), 2, "unknown engine `llama`"),
        (("--stream",), 2, "need --prompt"),
        (("--text", "x"), 1, "is a language model and takes a prompt"),
        (("--text", "x", "--prompt", "x"), 2, "--prompt and its options"),
    ],
)
def test_bad_input(bundle, capsys, arguments, code, message):
    found, out, err = run(capsys, "run", bundle.path, *arguments)
    assert (found, out) == (code, "")
    assert message in err


def test_a_prompt_on_stdin_that_is_not_utf8(bundle):
    command = [sys.executable, "-m", "edgeq", "run", str(bundle.path), "--prompt", "-"]
    done = subprocess.run(command, input=b"\xff\xfe", capture_output=True, check=False, env=os.environ)
    assert done.returncode == 1
    assert b"is not UTF-8" in done.stderr


def test_validate_replays_and_compares(bundle, model, capsys, tmp_path):
    code, out, _ = run(capsys, "validate", bundle.path, "--json")
    report = json.loads(out)
    assert (code, report["passed"]) == (0, True)
    text = tmp_path / "texts.txt"
    text.write_text(
        "".join(f"The {index} quick brown foxes jumped over {index * 7} lazy dogs.\n" for index in range(40))
    )
    # Random weights lose far more to 4 bits than trained ones: the bundle's own floors are not the point here.
    arguments = (
        "validate",
        bundle.path,
        "--against",
        model,
        "--data",
        text,
        "--json",
        "--gate",
        "kl_mean<=9",
    )
    code, out, _ = run(capsys, *arguments)
    (output,) = json.loads(out)["variants"][0]["outputs"]
    metrics = output["metrics"]
    assert code == 0
    assert metrics["kl_mean"] > 0 and metrics["kl_p99"] > metrics["kl_mean"]
    assert metrics["perplexity"] != metrics["perplexity_original"]
    assert 0 <= metrics["greedy_agreement_mean"] <= 32
    code, _, err = run(capsys, "validate", bundle.path, "--against", model, "--gate", "kl_mean<=1e-9")
    assert code == 3 and "kl_mean" in err


def test_golden_steps_reproduce_and_a_changed_cache_shows(bundle):
    from edgeq.runtime.executors import NativeExecutor

    cases = {case.id: case for case in bundle.golden_cases()}
    step = cases["decode-00"]
    executor, path = NativeExecutor("x86-64"), bundle.file("model/cpu-int4/model.onnx")
    recorded = step.outputs["cpu-int4"]["logits"]
    (again,) = executor.run(path, [step.feeds])
    np.testing.assert_allclose(again["logits"], recorded, atol=1e-4 * np.abs(recorded).max())
    broken = dict(step.feeds) | {"past_key_values.0.value": -step.feeds["past_key_values.0.value"]}
    (changed,) = executor.run(path, [broken])
    assert np.abs(changed["logits"] - recorded).max() > 1e-2 * np.abs(recorded).max()


def test_a_bundle_below_its_gate_is_kept_and_refused(model, capsys, tmp_path):
    arguments = (
        "export",
        model,
        "--precision",
        "int4",
        "--output",
        tmp_path / "b",
        "--gate",
        "top1_agreement>=1",
    )
    code, _, err = run(capsys, *arguments)
    assert code == 3 and "top1_agreement" in err
    code, _, err = run(capsys, "run", tmp_path / "b", "--prompt", "x")
    assert code == 3
    code, _, _ = run(capsys, "run", tmp_path / "b", "--prompt", "x", "--max-tokens", "1", "--force")
    assert code == 0


def test_what_is_not_offered_is_refused_by_name(model, tmp_path, capsys):
    with pytest.raises(UnsupportedError, match="does not take language models"):
        edgeq.export(model, precision="int4", target="coreml", output=tmp_path / "a")
    with pytest.raises(UnsupportedError, match="runs no language model"):
        edgeq.export(model, precision="fp32", variants=["nnapi"], output=tmp_path / "b")
    code, _, err = run(
        capsys, "export", model, "--precision", "int4", "--gate", "cosine_mean>=2", "--output", tmp_path / "c"
    )
    assert code == 2 and "out of range" in err
    for extra, message in ((("--seq-len", "64,128"), "--seq-len has 2 lengths, expected one"),):
        arguments = ("export", model, "--precision", "int4", *extra, "--output", tmp_path / "d")
        code, _, err = run(capsys, *arguments)
        assert code == 2 and message in err and err.count("no nnapi variant") == 1
    code, _, err = run(capsys, "tune", model, "--target", "gguf", "--budget", "size<=1MB")
    assert code == 1 and "has no variant with mixed weight formats that runs here" in err
    assert not any(tmp_path.iterdir())


def test_explain_says_what_the_plan_knows_and_measures_against_the_original(model, bundle, capsys):
    code, out, err = run(capsys, "explain", bundle.path, "--json")
    assert code == 0 and "--against MODEL measures it" in " ".join(err.split())
    planned = json.loads(out)["layers"]
    assert {"int4 weights"} <= {layer["format"] for layer in planned}
    code, out, _ = run(capsys, "explain", bundle.path, "--against", model, "--json")
    found = json.loads(out)
    assert code == 0 and found["source"].startswith("measured on")
    assert {layer["name"] for layer in found["layers"]} == {
        layer["name"] for layer in planned if layer["format"] != "float"
    }
    assert all(layer["kl"] == layer["loss"] for layer in found["layers"])


def test_sensitivity_is_stored_in_the_bundle_and_read_back_from_its_weights(model, tmp_path, capsys):
    bundle = tmp_path / "b"
    arguments = ("--precision", "int4", "--sensitivity", "--target", "cpu", "--output", bundle)
    assert run(capsys, "export", model, *arguments, "--gate", "top1_agreement>=0")[0] == 0
    code, out, _ = run(capsys, "explain", bundle, "--json")
    stored = json.loads(out)
    assert code == 0 and stored["source"] == "measured at export"
    assert stored["layers"] and stored["layers"][0]["kl"] > 0
    # The file has query, key and value in one; what each lost is the same out of it.
    code, out, _ = run(capsys, "explain", bundle, "--against", model, "--json")
    fidelity = [
        {layer["name"]: layer["causes"]["weight_sqnr_db"] for layer in found["layers"]}
        for found in (stored, json.loads(out))
    ]
    assert code == 0 and any("k_proj" in name for name in fidelity[0])
    assert fidelity[1] == pytest.approx(fidelity[0])


def test_another_model_is_no_original(bundle, tiny_decoder, capsys):
    other = tiny_decoder(vocab_size=300)
    code, _, err = run(capsys, "validate", bundle.path, "--against", other)
    assert code == 1 and "predicts one of 300 tokens, the bundle one of 288: it is another model" in err


def test_an_archive_generates_too(model, tmp_path):
    bundle = edgeq.export(model, precision="fp32", target="cpu", output=tmp_path / "fp32", archive=True)
    with edgeq.load(bundle.path, threads=1) as opened:
        expected = opened.generate(PROMPT, max_tokens=8)
    with edgeq.load(tmp_path / "fp32.edgeq", threads=1) as opened:
        assert opened.generate(PROMPT, max_tokens=8) == expected


def test_the_same_seed_gives_the_same_bundle(model, bundle, tmp_path):
    again = edgeq.export(model, precision="int4", output=tmp_path / "again")
    assert {entry.path: entry.sha256 for entry in again.manifest.integrity.files} == {
        entry.path: entry.sha256 for entry in bundle.manifest.integrity.files
    }


def bench(capsys, *arguments):
    return run(capsys, "bench", *arguments, "--threads", 1, "--prompt-tokens", 12, "--new-tokens", 4)


def test_bench_beside_a_folder_of_genai(bundle, capsys):
    code, out, err = bench(capsys, bundle.folder, "--against", bundle.folder / "model/cpu-int4", "--json")
    assert code == 0, err
    document = json.loads(out)
    found = {item["id"]: item for item in document["variants"]}
    assert list(found) == ["cpu-int4 (against)", "cpu-int4", "cpu-int4 on genai"]
    assert document["baseline"] == "cpu-int4 (against)"
    assert found["cpu-int4 (against)"]["ratio"] == 1
    for item in found.values():
        assert (item["prompt_tokens"], item["generated_tokens"]) == (12, 4)
        assert item["kv_bytes_per_token"] == 2 * 2 * 2 * 16 * 4
        assert (
            min(item[key] for key in ("first_token_ms", "tokens_per_second", "ratio", "rss_mb", "load_ms"))
            > 0
        )
    assert found["cpu-int4"]["engine"].startswith("onnxruntime ")
    assert found["cpu-int4 on genai"]["engine"].startswith("genai ")


def test_bench_beside_a_bundle(bundle, traced, capsys):
    code, _, err = bench(capsys, bundle.folder, "--against", traced.folder)
    assert code == 0
    assert "int8/cpu-int8" in err and "tok/s" in err and "reading and writing" in err


@pytest.mark.parametrize(
    ("arguments", "expected", "message"),
    [
        (["--new-tokens", "400"], 2, "do not fit a context of 128"),
        (["--against", "none.gguf"], 1, "there is no `none.gguf` to compare with"),
        (["--against", __file__], 1, "is nothing a language model can be compared with"),
    ],
)
def test_bench_refuses(arguments, expected, message, bundle, capsys):
    code, _, err = run(capsys, "bench", bundle.folder, *arguments)
    assert (code, message in err) == (expected, True), err


def test_the_chat_sample(bundle):
    """Two turns through the model's own template, by the script as a user runs it."""
    script = Path(__file__).parents[2] / "samples/chat/chat.py"
    done = subprocess.run(
        [
            sys.executable,
            str(script),
            str(bundle.folder),
            "--greedy",
            "--max-tokens",
            "4",
            "--system",
            "Be brief.",
        ],
        input="Hello\nAnd now?\n\nnot read\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(" per second, ") == 2
