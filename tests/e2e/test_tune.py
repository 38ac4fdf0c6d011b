"""`edgeq tune` and recipes from the command line, on a tiny random model."""

from __future__ import annotations

import json

import pytest

from edgeq.cli import run_command_line as run
from edgeq.types import Task

WORDS = (
    "apple", "boat", "cloud", "door", "east", "fog", "green", "hill", "iron", "juice", "kite", "lamp", "moon", "north",
    "oak",
)  # fmt: skip
KEEP = "cosine>=0.9998"  # between int4 and int8 on a random model this small


@pytest.fixture(scope="module")
def model(tiny_model):
    return tiny_model("bert", Task.SENTENCE_EMBEDDING, hidden_size=64, intermediate_size=128)


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "texts.txt"
    lines = [f"{WORDS[i % 15]} {WORDS[(i * 7) % 15]} {WORDS[(i * 4 + 3) % 15]} {i}" for i in range(120)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("EDGEQ_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


def tune(capsys, *arguments):
    code = run(["tune", *map(str, arguments), "--json", "--quiet"])
    captured = capsys.readouterr()
    return code, json.loads(captured.out) if captured.out else None, captured.err


def test_the_smallest_that_keeps_a_metric(model, texts, tmp_path, capsys):
    common = [model, "--target", "cpu", "--calib", texts, "--calib-samples", 40]
    recipe = tmp_path / "tuned.yaml"
    code, found, _ = tune(capsys, *common, "--budget", KEEP, "--output", recipe)
    assert code == 0
    assert found["metric"] == "cosine_mean"
    assert found["chosen"]["estimate"]["low"] >= 0.9998
    smaller = [p for p in found["curve"] if p["size_bytes"] < found["chosen"]["size_bytes"]]
    assert smaller, "the budget should exclude the smallest point"
    assert found["report"]["n"] == 15

    # The same command again finds the same, from the cache; the recipe it wrote runs.
    again = tmp_path / "again.yaml"
    assert tune(capsys, *common, "--budget", KEEP, "--output", again)[0] == 0
    assert again.read_bytes() == recipe.read_bytes()
    bundle = tmp_path / "bundle"
    export = ["export", model, "--target", "cpu", "--calib", texts, "--recipe", recipe, "-o", bundle]
    assert run([*map(str, export), "--gate", "cosine_mean>=0.95", "--quiet"]) == 0
    manifest = json.loads((bundle / "edgeq.json").read_text())
    assert manifest["variants"][0]["id"] == "cpu-tuned"
    shipped = (bundle / "model" / "cpu-tuned" / "model.onnx").stat().st_size
    assert shipped == found["chosen"]["size_bytes"]


def test_the_best_within_a_size(model, texts, tmp_path, capsys):
    common = [model, "--target", "cpu", "--calib", texts, "--calib-samples", 40]
    sizes = {}
    for limit in (100, 130):
        out = tmp_path / f"{limit}.yaml"
        code, found, _ = tune(capsys, *common, "--budget", f"size<={limit}kB", "--output", out)
        assert code == 0
        assert found["chosen"]["size_bytes"] <= limit * 1000
        sizes[limit] = found["chosen"]["estimate"]["value"]
        fixed = {point["label"]: point for point in found["curve"] if point["label"]}
        assert set(fixed) == {"recipe int4", "recipe w4a8"}
        inside = [p["estimate"]["value"] for p in fixed.values() if p["size_bytes"] <= limit * 1000]
        assert sizes[limit] >= max(inside, default=0)
    assert sizes[100] < sizes[130]


@pytest.mark.parametrize(
    ("budget", "message"),
    [("size<=1kB", "the smallest found has"), ("cosine>=0.99999999", "the best found has")],
)
def test_a_budget_that_cannot_be_met_exits_with_3(model, texts, tmp_path, capsys, budget, message):
    common = [model, "--target", "cpu", "--calib", texts, "--calib-samples", 40]
    out = tmp_path / "none.yaml"
    code, found, errors = tune(capsys, *common, "--budget", budget, "--output", out)
    assert (code, found["error"]["exit_code"]) == (3, 3)
    assert message in found["error"]["message"]
    assert message in errors
    assert not out.exists()


def test_labelled_pairs_decide(model, texts, tmp_path, capsys):
    pairs = tmp_path / "pairs.tsv"
    rows = [f"{i % 6}\t{WORDS[i % 15]} {WORDS[(i * 2) % 15]}\t{WORDS[(i * 3) % 15]} {i}" for i in range(60)]
    pairs.write_text("\n".join(rows), encoding="utf-8")
    common = [model, "--target", "cpu", "--calib", texts, "--calib-samples", 40]
    out = tmp_path / "p.yaml"
    budget = ["--budget", "spearman_drop<=20", "--data", pairs, "--output", out]
    code, found, _ = tune(capsys, *common, *budget)
    assert code == 0
    assert found["chosen"]["estimate"]["high"] <= 20
    assert found["report"]["n"] == 30


def test_bad_requests_stop_before_the_work(model, texts, tmp_path, capsys):
    out = tmp_path / "x.yaml"
    assert tune(capsys, model, "--budget", "speed>=2", "--output", out)[0] == 2
    assert tune(capsys, model, "--budget", "spearman_drop<=1", "--output", out)[0] == 2
    assert (
        tune(capsys, model, "--budget", "cosine>=0.9", "--plot", tmp_path / "a.txt", "--output", out)[0] == 2
    )
    out.write_text("mine")
    assert tune(capsys, model, "--budget", "cosine>=0.9", "--output", out)[0] == 1
    assert out.read_text() == "mine"


def test_android_builds_only_cpu_for_weight_only_recipes(model, texts, tmp_path, capsys):
    bundle = tmp_path / "android"
    export = ["export", model, "--calib", texts, "--precision", "q4_k_m", "-o", bundle, "--sensitivity"]
    assert run([*map(str, export), "--gate", "cosine_mean>=0.8"]) == 0
    assert "no nnapi variant for android: NNAPI has no 4-bit weights" in capsys.readouterr().err
    manifest = json.loads((bundle / "edgeq.json").read_text())
    assert [variant["id"] for variant in manifest["variants"]] == ["cpu-q4_k_m"]
    assert manifest["quantization"]["calibration"]["samples"] > 0
    assert run(["explain", str(bundle), "--json"]) == 0
    layers = json.loads(capsys.readouterr().out)["layers"]
    assert [layer["loss"] for layer in layers] == sorted((layer["loss"] for layer in layers), reverse=True)
    assert {layer["format"] for layer in layers} == {"int4 b32 asym", "int8 b32 asym"}
    measured = [
        "explain",
        str(bundle),
        "--against",
        str(model),
        "--plot",
        str(tmp_path / "layers.svg"),
        "--json",
    ]
    assert run(measured) == 0
    capsys.readouterr()
    assert (tmp_path / "layers.svg").read_text().startswith("<?xml")

    again = tmp_path / "again"
    export = [
        "export",
        model,
        "--calib",
        texts,
        "--recipe",
        bundle / "recipe.yaml",
        "-o",
        again,
        "--sensitivity",
    ]
    assert run([*map(str, export), "--gate", "cosine_mean>=0.8", "--quiet"]) == 0
    for name in ("recipe.yaml", "plan.json", "sensitivity.json", "model/cpu-q4_k_m/model.onnx"):
        assert (again / name).read_bytes() == (bundle / name).read_bytes(), name


def test_nnapi_asked_for_by_name_is_refused_with_the_reason(model, texts, tmp_path, capsys):
    export = [
        "export",
        model,
        "--calib",
        texts,
        "--precision",
        "int4",
        "--variants",
        "nnapi",
        "-o",
        tmp_path / "n",
    ]
    assert run(list(map(str, export))) == 1
    assert "cannot make variant `nnapi`: NNAPI has no 4-bit weights" in capsys.readouterr().err


def test_an_unknown_recipe_gets_a_suggestion(model, tmp_path, capsys):
    assert run(["export", str(model), "--precision", "q4_k_mm", "-o", str(tmp_path / "b")]) == 2
    assert "did you mean `q4_k_m`?" in capsys.readouterr().err


BAD_RECIPES = {
    "unknown key `bit`": ("{default: {format: weight-only, bit: 4}}", "did you mean `bits`?"),
    "unknown role `ffn.dwn`": (
        "{default: {format: fp32}, rules: [{match: {role: ffn.dwn}, set: {format: fp16}}]}",
        "did you mean `ffn.down`?",
    ),
    "rule 1 of recipe `bad` matches no layer": (
        "{default: {format: fp32}, rules: [{match: {name: 'encoder.layer.7.*'}, set: {format: fp16}}]}",
        "optional: true",
    ),
}


@pytest.mark.parametrize("message", BAD_RECIPES)
def test_a_bad_recipe_stops_the_export_with_a_hint(model, texts, tmp_path, capsys, message):
    text, hint = BAD_RECIPES[message]
    recipe, out = tmp_path / "bad.yaml", tmp_path / "bundle"
    recipe.write_text(text.replace("{default", "{name: bad, default", 1))
    export = ["export", model, "--target", "cpu", "--calib", texts, "--recipe", recipe, "-o", out]
    assert run([*map(str, export), "--quiet"]) == 1
    errors = capsys.readouterr().err
    assert message in errors
    assert hint in errors
    assert not out.exists()


def test_too_few_texts_for_gptq_are_said_with_the_number(model, tmp_path, capsys):
    few, out = tmp_path / "few.txt", tmp_path / "bundle"
    few.write_text("\n".join(f"oak {word}" for word in WORDS[:9]))
    export = ["export", model, "--target", "cpu", "--calib", few, "--precision", "int4", "-o", out]
    assert run([*map(str, export), "--gate", "cosine_mean>=0"]) == 0
    assert "calibration tokens for 64 inputs; at least 128 are needed" in capsys.readouterr().err


def test_explain_without_a_measurement_says_how_to_get_one(model, texts, tmp_path, capsys):
    bundle = tmp_path / "plain"
    export = [
        "export",
        model,
        "--target",
        "cpu",
        "--calib",
        texts,
        "--precision",
        "q8",
        "-o",
        bundle,
        "--quiet",
    ]
    assert run(list(map(str, export))) == 0
    assert run(["explain", str(bundle)]) == 0
    printed = capsys.readouterr()
    assert "--against" in printed.out + printed.err


def test_a_language_model_is_searched_by_its_own_metrics(tiny_decoder, texts, tmp_path, capsys):
    model = tiny_decoder("llama", tie_word_embeddings=True)
    common = [model, "--target", "cpu", "--calib", texts, "--calib-samples", 60]
    recipe = tmp_path / "tuned.yaml"
    code, found, errors = tune(capsys, *common, "--budget", "perplexity_ratio<=1.2", "--output", recipe)
    assert code == 0, errors
    assert found["metric"] == "perplexity_ratio"
    assert found["chosen"]["estimate"]["high"] <= 1.2
    assert {"recipe int4", "recipe w4a8", "recipe q4_k_m"} >= {
        p["label"] for p in found["curve"] if p["label"]
    }
    bundle = tmp_path / "bundle"
    export = ["export", model, "--target", "cpu", "--calib", texts, "--recipe", recipe, "-o", bundle]
    assert run([*map(str, export), "--gate", "top1_agreement>=0", "--quiet"]) == 0
    files = (bundle / "model" / "cpu-tuned").glob("model.onnx*")
    # The export's own calibration is divided in other parts, and decides no size.
    assert sum(file.stat().st_size for file in files) == found["chosen"]["size_bytes"]
    capsys.readouterr()
    refused = [*common, "--budget", "cosine_p01>=0.9", "--output", tmp_path / "x.yaml"]
    code, _, errors = tune(capsys, *refused)
    assert code == 2 and "this model's kind is next token" in errors
