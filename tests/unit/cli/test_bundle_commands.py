"""`edgeq inspect`, `run` and `diff` as processes: what they print where, and their exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeq.bundle.archive import write_archive
from edgeq.bundle.manifest import PostprocessKind, PostprocessStep
from edgeq.cli import run_command_line
from edgeq.files import sha256_file
from edgeq.samples import as_samples


def edgeq(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgeq", *map(str, arguments)]
    environment = {**os.environ, "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)


def _json(result: subprocess.CompletedProcess[str]) -> Any:
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


# run


def test_run_json_is_one_document(tiny: Any, tiny_bundle: Path) -> None:
    result = edgeq("run", tiny_bundle, "--text", "the cat", "--text", "b", "--json")
    document = _json(result)
    assert result.stderr == ""
    assert document["variant"] == "cpu-fp32"
    assert document["verification"] in ("executed", "executed-other-arch")
    feeds = tiny.preprocessor()(as_samples(["the cat", "b"]))
    expected = tiny.expected_embedding(feeds["input_ids"], feeds["attention_mask"])
    # float32 outputs printed in full; four additions of values of size 1 to 3.
    np.testing.assert_allclose(document["outputs"]["sentence_embedding"], expected, atol=2e-6)
    assert np.shape(document["outputs"]["last_hidden_state"]) == (2, 4, 4)


def test_run_on_tensors_and_on_an_archive(tiny: Any, tiny_bundle: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", **tiny.preprocessor()(as_samples(["the cat"])))
    by_tensor = _json(edgeq("run", write_archive(tiny_bundle), "--npz", tmp_path / "in.npz", "--json"))
    assert by_tensor == _json(edgeq("run", tiny_bundle, "--text", "the cat", "--json"))


def test_run_shows_embeddings_to_people(tiny_bundle: Path) -> None:
    result = edgeq("run", tiny_bundle, "--text", "the cat", "--text", "the cat", "--variant", "nnapi-fp32")
    assert result.returncode == 0
    assert "Sentence embeddings, 4 values each" in result.stdout
    assert "Cosine similarity" in result.stdout
    assert result.stdout.count("1.0000") >= 4


def test_run_shows_labels_with_probabilities(tiny: Any, tmp_path: Path) -> None:
    steps = (
        PostprocessStep(PostprocessKind.SOFTMAX, ("sentence_embedding",)),
        PostprocessStep(PostprocessKind.ARGMAX_LABEL, ("sentence_embedding",)),
    )
    labels = ("joy", "fear", "[anger]", "calm")
    tiny.build(
        tmp_path / "bundle", lambda m: replace(m, source=replace(m.source, labels=labels), postprocess=steps)
    )
    shown = edgeq("run", tmp_path / "bundle", "--text", "the cat").stdout
    assert all(label in shown for label in labels)
    (answer,) = _json(edgeq("run", tmp_path / "bundle", "--text", "the cat", "--json"))["answers"]
    assert sorted(answer["scores"]) == sorted(labels)
    assert answer["label"] == max(answer["scores"], key=answer["scores"].get)


def test_run_says_when_a_text_is_cut(tiny_bundle: Path) -> None:
    result = edgeq("run", tiny_bundle, "--text", "the " * 30, "--json")
    assert "has more than 16 tokens; the model sees the first 16" in " ".join(result.stderr.split())
    _json(result)


def test_run_takes_a_golden_file(tiny_bundle: Path) -> None:
    golden = next((tiny_bundle / "golden").glob("*.npz"))
    document = _json(edgeq("run", tiny_bundle, "--npz", golden, "--json"))
    with np.load(golden) as arrays:
        recorded = arrays[f"outputs/{document['variant']}/sentence_embedding"]
    assert np.allclose(document["outputs"]["sentence_embedding"], recorded, atol=1e-5)


def test_run_usage_and_data_errors(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.npz").write_bytes(b"not a zip")
    np.savez(tmp_path / "wrong.npz", x=np.zeros(3))
    np.save(tmp_path / "single.npy", np.zeros(3))
    for arguments, code, message in (
        ((), 2, "takes --text (once or more), --texts or --npz"),
        (("--text", "a", "--npz", "f"), 2, "one of them"),
        (("--text", "a", "--text", "b", "--pair", "c"), 2, "got 2 --text and 1 --pair"),
        (("--text", "a", "--variant", "gpu"), 1, "has no variant `gpu`; it has cpu-fp32, nnapi-fp32"),
        (("--npz", tmp_path / "none.npz"), 1, "there is no file"),
        (("--npz", tmp_path / "bad.npz"), 1, "is not a .npz file"),
        (("--npz", tmp_path / "single.npy"), 1, "is not a .npz file"),
        (("--npz", tmp_path / "wrong.npz"), 1, "missing inputs input_ids"),
    ):
        result = edgeq("run", tiny_bundle, *arguments)
        assert (result.returncode, result.stdout) == (code, ""), arguments
        assert f"error: {message}" in result.stderr or message in result.stderr


def test_run_reads_a_text_from_stdin(tiny_bundle: Path) -> None:
    command = [sys.executable, "-m", "edgeq", "run", str(tiny_bundle), "--json", "--text", "-"]
    piped = subprocess.run(command, input="the cat\n", capture_output=True, text=True, check=True)
    assert json.loads(piped.stdout) == _json(edgeq("run", tiny_bundle, "--text", "the cat", "--json"))
    empty = subprocess.run(command, input="\n", capture_output=True, text=True, check=False)
    assert (empty.returncode, "stdin is empty" in empty.stderr) == (1, True)


def test_run_writes_a_row_per_line(tiny_bundle: Path, tmp_path: Path) -> None:
    lines = [f"the {'cat ' * (index % 5)}sat" if index % 7 else "" for index in range(70)]
    (tmp_path / "texts.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    done = _json(
        edgeq("run", tiny_bundle, "--texts", tmp_path / "texts.txt", "-o", tmp_path / "v.npy", "--json")
    )
    assert (done["texts"], done["cut"]) == (70, 0)
    vectors = np.load(tmp_path / "v.npy")
    for index in (0, 1, 34, 69):
        alone = _json(edgeq("run", tiny_bundle, "--text", lines[index], "--json"))["outputs"]
        # One text alone and in a batch: sums of the same few values.
        np.testing.assert_allclose(vectors[index], alone["sentence_embedding"][0], atol=2e-6)
    assert not np.allclose(vectors[1], vectors[2])
    edgeq("run", tiny_bundle, "--texts", tmp_path / "texts.jsonl", "-o", tmp_path / "v.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "v.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == lines
    np.testing.assert_array_equal(vectors, np.float32([row["sentence_embedding"] for row in rows]))
    # Padding of the batch is no part of a text's own rows: [CLS], words, [SEP].
    assert [len(row["last_hidden_state"]) for row in rows[:3]] == [2, 5, 6]


def test_run_of_texts_leaves_nothing_half_written(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('"the cat"\n{"txt": 1}\n')
    (tmp_path / "latin.txt").write_bytes(b"\xe9t\xe9\n")
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "good.txt").write_text("the cat\n")
    (tmp_path / "there.npy").write_bytes(b"mine")
    before = sorted(path.name for path in tmp_path.iterdir())
    for source, output, code, message in (
        ("bad.jsonl", "v.npy", 1, "line 2 of"),
        ("latin.txt", "v.npy", 1, "line 1 of"),
        ("empty.txt", "v.npy", 1, "is empty"),
        ("none.txt", "v.npy", 1, "there is no file"),
        ("good.txt", "v.csv", 2, "ends in .npy or .jsonl"),
        ("good.txt", "there.npy", 1, "exists"),
    ):
        result = edgeq("run", tiny_bundle, "--texts", tmp_path / source, "-o", tmp_path / output)
        assert (result.returncode, message in result.stderr) == (code, True), result.stderr
        assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert (tmp_path / "there.npy").read_bytes() == b"mine"
    assert edgeq("run", tiny_bundle, "--texts", tmp_path / "good.txt").returncode == 2


# inspect


def test_inspect_fits_a_screen(tiny_bundle: Path) -> None:
    shown = edgeq("inspect", tiny_bundle)
    assert len(shown.stdout.splitlines()) <= 24
    assert all(word in shown.stdout for word in ("cpu-fp32", "nnapi-fp32", "1 passed", "cosine_mean 1.0000"))
    assert "--full" in shown.stdout
    assert len(edgeq("inspect", tiny_bundle, "--full").stdout.splitlines()) > 24


def test_inspect_json_is_the_manifest(tiny_bundle: Path) -> None:
    document = _json(edgeq("inspect", tiny_bundle, "--json"))
    facts = document.pop("bundle")
    # As scripts know them from format 1, beside those of format 2.
    assert document.pop("tokenizer") == document["processor"]["text"]
    assert all(item.pop("model") == item["models"]["model"] for item in document["variants"])
    assert document == json.loads((tiny_bundle / "edgeq.json").read_text())
    assert facts["verified"] is True
    assert facts["size_bytes"] == sum(entry["size"] for entry in document["integrity"]["files"])


def test_inspect_full_shows_everything(tiny_bundle: Path) -> None:
    result = edgeq("inspect", tiny_bundle, "--full")
    assert result.returncode == 0
    for part in (
        "tiny for android",
        "nnapi-fp32",
        "attention_mask",
        "cosine_mean",
        "executed-other-arch",
        "passed",
    ):
        assert part in result.stdout


def test_inspect_names_layers_that_can_saturate(tiny: Any, tmp_path: Path) -> None:
    def edit(manifest: Any) -> Any:
        first, second = manifest.variants
        return replace(manifest, variants=(replace(first, placement={"can_saturate": ["head"]}), second))

    tiny.build(tmp_path / "bundle", edit)
    found = _json(edgeq("inspect", tmp_path / "bundle", "--json"))["bundle"]["can_saturate"]
    assert found == {"cpu-fp32": ["head"], "nnapi-fp32": []}
    shown = edgeq("inspect", tmp_path / "bundle")
    assert "cpu-fp32: integer sums of 1 layer can saturate" in shown.stderr
    assert "nnapi-fp32: integer" not in shown.stderr


def test_inspect_leaves_out_what_is_empty(tiny: Any, tmp_path: Path) -> None:
    def edit(manifest: Any) -> Any:
        needs = {
            "nnapi_flags": [],
            "min_android_api": 29,
            "session_options": {},
            "own": {"a": "b", "extra": []},
        }
        return replace(
            manifest,
            variants=tuple(
                replace(v, requirements=needs, placement={"reasons": {}, "left_over": "", "partitions": 0})
                for v in manifest.variants
            ),
        )

    tiny.build(tmp_path / "bundle", edit)
    for options in ([], ["--full"]):
        result = edgeq("inspect", tmp_path / "bundle", *options)
        assert result.returncode == 0, result.stderr
        shown = result.stdout
        assert "29" in shown
        assert not any(
            name in shown
            for name in ("nnapi_flags", "NNAPI flags", "session", "extra", "reasons", "left_over")
        )
    assert "partitions" in shown


def test_inspect_shows_a_failed_bundle_and_says_so(tiny: Any, tmp_path: Path) -> None:
    tiny.build_failed(tmp_path / "bundle")
    result = edgeq("inspect", tmp_path / "bundle")
    assert result.returncode == 3
    assert "FAILED" in result.stdout
    assert "error:" in result.stderr
    assert edgeq("inspect", tmp_path / "bundle", "--force", "--json").returncode == 0


def test_what_inspect_says_of_a_failed_bundle_is_true(tiny: Any, tmp_path: Path, capsys: Any) -> None:
    bundle = tmp_path / "bundle"
    tiny.build_failed(bundle)
    assert run_command_line(["inspect", str(bundle)]) == 3
    said = " ".join(capsys.readouterr().err.split())
    assert "run, validate, bench, explain and diff need --force for it; pack makes nothing of it" in said
    texts, other = ["--text", "a"], [str(bundle)]
    for command, rest in {"run": texts, "validate": [], "bench": [], "explain": [], "diff": other}.items():
        assert run_command_line([command, str(bundle), *rest]) == 3, command
    for force in ([], ["--force"]):
        output = ["--output", str(tmp_path / "packed")]
        assert run_command_line(["pack", str(bundle), "--variants", "cpu", *output, *force]) == 3


def test_check_says_that_a_bundle_failed(tiny: Any, tmp_path: Path, capsys: Any) -> None:
    tiny.build_failed(tmp_path / "bundle")
    assert run_command_line(["check", str(tmp_path / "bundle"), "--target", "android"]) == 0
    assert "failed its quality gate" in " ".join(capsys.readouterr().err.split())


# diff


def test_diff_of_equal_bundles_is_empty(tiny_bundle: Path) -> None:
    document = _json(edgeq("diff", tiny_bundle, write_archive(tiny_bundle), "--json"))
    assert document == {"same": True, "manifest": [], "variants": [], "metrics": [], "gates": [], "files": []}


def test_diff_names_what_changed(tiny: Any, tiny_bundle: Path, tmp_path: Path) -> None:
    def change(manifest: Any) -> Any:
        return replace(
            manifest,
            created_by={"edgeq": "9.9"},
            variants=manifest.variants[:1],
            metrics=(replace(manifest.metrics[0], value=0.75),),
            gates=(replace(manifest.gates[0], threshold=0.7),),
        )

    other = tiny.build(tmp_path / "other", change)
    document = _json(edgeq("diff", tiny_bundle, other.path, "--json"))
    assert document["same"] is False
    assert document["manifest"] == [{"what": "created_by.edgeq", "a": "0.0.0-test", "b": "9.9"}]
    assert {item["what"].split(".")[0] for item in document["variants"]} == {"nnapi-fp32"}
    assert [(item["a"], item["b"]) for item in document["metrics"]] == [(1.0, 0.75)]
    assert [item["b"] for item in document["gates"]] == [">= 0.7, passed"]
    assert [item["what"] for item in document["files"]] == ["model/component.json"]
    shown = edgeq("diff", tiny_bundle, other.path).stdout
    assert "-0.25" in shown
    assert "removed" in shown


# Hostile bundles


def _flip_model(bundle: Path) -> None:
    model = bundle / "model/cpu-fp32/model.onnx"
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(data)


def _edit(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def apply(bundle: Path) -> None:
        path = bundle / "edgeq.json"
        old = sha256_file(path)
        document = json.loads(path.read_text())
        change(document)
        path.write_text(json.dumps(document))
        sums = bundle / "SHA256SUMS"
        sums.write_text(sums.read_text().replace(old, sha256_file(path)))

    return apply


def _listing(path: str) -> Callable[[Path], None]:
    entry = {"path": path, "size": 0, "sha256": "0" * 64}
    return _edit(lambda document: document["integrity"]["files"].append(entry))


def _link(bundle: Path) -> None:
    model = bundle / "model/cpu-fp32/model.onnx"
    model.rename(bundle.parent / "moved.onnx")
    model.symlink_to(bundle.parent / "moved.onnx")


HOSTILE: dict[str, Callable[[Path], object]] = {
    "flipped byte": _flip_model,
    "missing file": lambda bundle: (bundle / "tokenizer/tokenizer.json").unlink(),
    "missing manifest": lambda bundle: (bundle / "edgeq.json").unlink(),
    "missing sums": lambda bundle: (bundle / "SHA256SUMS").unlink(),
    "extra file": lambda bundle: (bundle / "model/payload.so").touch(),
    "parent path": _listing("../../etc/passwd"),
    "absolute path": _listing("/etc/passwd"),
    "symbolic link": _link,
    "newer major": _edit(lambda document: document["format"].update(version="3.0")),
    "truncated model": lambda bundle: os.truncate(bundle / "model/cpu-fp32/model.onnx", 100),
    "truncated manifest": lambda bundle: os.truncate(bundle / "edgeq.json", 100),
    "unknown step": _edit(lambda document: document["preprocess"][0].update(step="exec")),
    "wrong type": _edit(lambda document: document.update(variants={"a": 1})),
}


@pytest.mark.parametrize("attack", HOSTILE)
def test_hostile_bundles_exit_with_4(tiny_bundle: Path, attack: str) -> None:
    HOSTILE[attack](tiny_bundle)
    before = sorted(str(path) for path in tiny_bundle.parent.rglob("*"))
    result = edgeq("run", tiny_bundle, "--text", "a", "--force")
    assert result.returncode == 4, result.stderr
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr
    assert sorted(str(path) for path in tiny_bundle.parent.rglob("*")) == before


def test_the_other_commands_refuse_hostile_bundles_too(tiny_bundle: Path) -> None:
    _flip_model(tiny_bundle)
    for command in (("inspect", tiny_bundle, "--force"), ("diff", tiny_bundle, tiny_bundle)):
        result = edgeq(*command)
        assert (result.returncode, result.stdout) == (4, "")


def test_the_attacks_are_what_makes_the_exit_code(tiny_bundle: Path) -> None:
    assert edgeq("run", tiny_bundle, "--text", "a").returncode == 0


def test_a_hostile_archive_exits_with_4(tiny_bundle: Path, tmp_path: Path) -> None:
    archive = write_archive(tiny_bundle)
    os.truncate(archive, 5000)
    (tmp_path / "empty.edgeq").touch()
    for path in (archive, tmp_path / "empty.edgeq"):
        result = edgeq("run", path, "--text", "a")
        assert (result.returncode, result.stdout) == (4, "")


def test_failed_bundles_exit_with_3_without_force(tiny: Any, tmp_path: Path) -> None:
    tiny.build_failed(tmp_path / "bundle")
    result = edgeq("run", tmp_path / "bundle", "--text", "a")
    assert (result.returncode, result.stdout) == (3, "")
    assert "cpu-fp32 cosine_mean is 0.5, required >= 0.99" in result.stderr
    assert edgeq("run", tmp_path / "bundle", "--text", "a", "--force").returncode == 0
    assert edgeq("diff", tmp_path / "bundle", tmp_path / "bundle").returncode == 3


def test_no_bundle_exits_with_1(tmp_path: Path) -> None:
    result = edgeq("run", tmp_path / "none", "--text", "a")
    assert result.returncode == 1
    assert "there is no bundle at" in result.stderr


def test_diff_keeps_both_gates_of_a_metric(tiny: Any, tmp_path: Path) -> None:
    def edit(bound: float, **changes: Any) -> Callable[[Any], Any]:
        def apply(manifest: Any) -> Any:
            floor = manifest.gates[0]
            measured = replace(
                floor, threshold=bound, derived_from=f"measured {bound} on 96 samples", **changes
            )
            return replace(manifest, gates=(floor, measured))

        return apply

    tiny.build(tmp_path / "a", edit(0.995))
    tiny.build(tmp_path / "b", edit(0.997, value=0.996, passed=False))
    (change,) = _json(edgeq("diff", tmp_path / "a", tmp_path / "b", "--json"))["gates"]
    assert change["what"] == "cpu-fp32 sentence_embedding cosine_mean >= (measured)"
    assert (change["a"], change["b"]) == (">= 0.995, passed", ">= 0.997, failed")


def test_diff_is_short_unless_asked(tiny: Any, tiny_bundle: Path, tmp_path: Path) -> None:
    makers = {f"tool{index}": "1" for index in range(40)}
    tiny.build(tmp_path / "b", lambda m: replace(m, created_by=makers, name="other"))
    short = edgeq("diff", tiny_bundle, tmp_path / "b")
    assert len(short.stdout.splitlines()) < 25
    # What matters is not hidden behind forty tools.
    assert "other" in short.stdout
    assert "more of manifest" in short.stderr
    full = edgeq("diff", tiny_bundle, tmp_path / "b", "--full").stdout
    assert all(name in full for name in makers)


# explain


def _with_a_plan(tiny: Any, destination: Path, runtime: str = "onnxruntime") -> Path:
    from edgeq.bundle.writer import BundleWriter

    decision = {
        "name": "query",
        "initializer": "w",
        "bits": 4,
        "block_size": 32,
        "symmetric": True,
        "method": "gptq",
    }
    errors = {"bits_per_weight": 4.5, "weight_error": 0.08, "output_error": 0.05, "notes": []}
    plan = {
        "equalizations": [],
        "linears": [],
        "embeddings": [],
        "settings": {},
        "weights": [decision | errors],
    }
    with BundleWriter(destination) as writer:
        manifest = tiny.fill(writer)
        (writer.folder / "plan.json").write_text(json.dumps(plan))
        variants = tuple(replace(variant, runtime=runtime) for variant in manifest.variants)
        writer.commit(replace(manifest, variants=variants))
    return destination


def test_explain_without_a_measurement_says_what_is_known(tiny: Any, tmp_path: Path) -> None:
    _with_a_plan(tiny, tmp_path / "bundle")
    result = edgeq("explain", tmp_path / "bundle")
    assert result.returncode == 0, result.stderr
    assert "gptq, weight error 8.00%, output error 5.00%" in result.stdout
    assert f"edgeq explain {tmp_path / 'bundle'} --against MODEL" in " ".join(result.stderr.split())
    assert _json(edgeq("explain", tmp_path / "bundle", "--json"))["layers"][0]["name"] == "query"
    assert edgeq("explain", tmp_path / "bundle", "--plot", tmp_path / "a.svg").returncode == 2


def test_explain_of_a_float_bundle_has_nothing_to_say(tiny_bundle: Path) -> None:
    result = edgeq("explain", tiny_bundle)
    assert result.returncode == 1
    assert "has no quantized layer" in result.stderr


def test_explain_without_a_plan_says_that_it_was_left_out(tiny: Any, tmp_path: Path) -> None:
    from edgeq.bundle.manifest import Quantization

    def edit(manifest: Any) -> Any:
        return replace(manifest, quantization=Quantization("int8", "recipe.yaml"))

    tiny.build(tmp_path / "bundle", edit)
    result = edgeq("explain", tmp_path / "bundle")
    said = " ".join(result.stderr.split())
    assert result.returncode == 1
    assert "plan.json was left out of this bundle" in said
    assert "the bundle it was packed from" in said


def test_explain_promises_no_measurement_of_weights_it_cannot_read(tiny: Any, tmp_path: Path) -> None:
    bundle = _with_a_plan(tiny, tmp_path / "bundle", "coreml")
    result = edgeq("explain", bundle)
    assert result.returncode == 0, result.stderr
    assert "--against" not in result.stderr
    assert "export --sensitivity measures it" in result.stderr
    # No model is there: the bundle is refused before one is looked for.
    refused = edgeq("explain", bundle, "--against", tmp_path / "nowhere")
    assert refused.returncode == 1
    assert "(coreml)" in refused.stderr
    assert "export --sensitivity" in refused.stderr


def test_bench_of_another_runtime_says_what_to_do(tiny: Any, tmp_path: Path) -> None:
    def edit(manifest: Any) -> Any:
        return replace(manifest, variants=tuple(replace(v, runtime="coreml") for v in manifest.variants))

    tiny.build(tmp_path / "bundle", edit)
    result = edgeq("bench", tmp_path / "bundle")
    said = " ".join(result.stderr.split())
    assert result.returncode == 1
    assert "run on coreml" in said
    assert "--target cpu" in said


def test_a_static_variant_says_how_many_tokens_it_takes(tiny: Any) -> None:
    from edgeq.bundle.manifest import Variant

    def variant(*, static: bool, **placement: Any) -> Variant:
        inputs, outputs = tiny.signature(static=static)
        return Variant("v", {"model": "m"}, "coreml", "all", "fp32", inputs, outputs, 1, placement=placement)

    assert variant(static=True).token_lengths == (tiny.static_length,)
    assert variant(static=False).token_lengths == ()
    assert variant(static=False, sequence_lengths=[128, 32]).token_lengths == (32, 128)
    assert variant(static=False, sequence_lengths="many").token_lengths == ()


# Format 1


def test_inspect_json_of_a_bundle_of_format_1_has_the_same_keys(first_format: Path) -> None:
    document = _json(edgeq("inspect", first_format, "--json"))
    assert document["format"]["version"] == "1.0"
    assert document["tokenizer"] == document["processor"]["text"]
    assert all(item["model"] == item["models"]["model"] for item in document["variants"])
    assert "format 1.0" in edgeq("inspect", first_format).stdout


def test_a_bundle_of_format_1_differs_in_its_format_alone(first_format: Path, tiny_bundle: Path) -> None:
    result = edgeq("diff", first_format, tiny_bundle, "--json")
    document = json.loads(result.stdout)
    assert document["manifest"] == [{"what": "format.version", "a": "1.0", "b": "2.0"}]
    assert document["variants"] == document["metrics"] == document["gates"] == []


@pytest.mark.parametrize(
    "command",
    [["validate"], ["bench"], ["run", "--text", "the cat"], ["check", "--target", "android"]],
)
def test_a_bundle_of_format_1_is_taken(first_format: Path, command: list[str]) -> None:
    name, *rest = command
    assert run_command_line([name, str(first_format), *rest]) == 0


def test_what_is_packed_from_format_1_stays_of_format_1(first_format: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    command = ["pack", str(first_format), "--variants", "nnapi", "--archive", "--output", str(packed)]
    assert run_command_line(command) == 0
    before, after = (json.loads((path / "edgeq.json").read_text()) for path in (first_format, packed))
    assert after["format"] == before["format"] == {"name": "edgeq", "version": "1.0"}
    assert after["variants"] == before["variants"][1:]
    assert after["tokenizer"] == before["tokenizer"] and "processor" not in after
    assert run_command_line(["validate", str(packed.with_name("packed.edgeq"))]) == 0
