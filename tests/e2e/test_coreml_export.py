"""`edgeq export --target coreml`, `validate`, `inspect` and `run` on a tiny sentence encoder."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeq.cli import run_command_line as edgeq
from edgeq.types import Task

pytest.importorskip("coremltools")


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., Path]) -> Path:
    return tiny_model("bert", Task.SENTENCE_EMBEDDING)


def exported(model: Path, output: Path, *flags: str) -> int:
    common = ("--calib-samples", "16", "--output", str(output), "--json", "--quiet")
    return edgeq(["export", str(model), *flags, *common])


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_three_targets_from_one_plan(
    model: Path, precision: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    targets = ("--target", "coreml", "--target", "cpu")
    assert exported(model, tmp_path, *targets, "--precision", precision, "--seq-len", "16,32") == 0
    ours, theirs = json.loads(capsys.readouterr().out)["bundles"]
    assert (ours["target"], theirs["target"]) == ("coreml", "cpu")
    (variant,) = ours["variants"]
    assert variant["verification"] == "simulated"
    assert variant["latency_ms"] is None
    assert variant["ram_bytes"] is None
    assert theirs["variants"][0]["latency_ms"]["p50"] > 0
    parity = variant["relative_error_to_onnx"]["sentence_embedding"]
    assert 0 < parity["value"] <= parity["bound"] < 0.1

    folder = Path(ours["path"])
    document = json.loads((folder / "edgeq.json").read_text())
    (declared,) = document["variants"]
    assert declared["runtime"] == "coreml"
    assert declared["models"]["model"] == f"model/coreml-{precision}/Model.mlpackage"
    assert declared["requirements"] == {"min_ios": 18, "max_tokens": 32}
    assert (folder / "tokenizer" / "tokenizer.json").is_file()
    assert not (folder / "manifest.json").exists()  # ONNX Runtime's package lists ONNX variants only
    plans = [Path(item["path"]) / "plan.json" for item in (ours, theirs)]
    if precision == "int8":
        assert plans[0].read_bytes() == plans[1].read_bytes()
    gates = {gate["metric"]: gate for gate in ours["gates"]}
    assert gates["relative_error_to_onnx"]["passed"] is True

    _suits_the_swift_sample(folder, document)
    _validates(folder, capsys)
    _runs(folder, capsys)
    assert edgeq(["inspect", str(folder)]) == 0


def _suits_the_swift_sample(folder: Path, document: dict[str, Any]) -> None:
    """What samples/ios decodes, which cannot be compiled here: keys, hash lines, stored little-endian arrays."""
    assert document["format"]["version"].startswith("2.")
    assert {"max_length", "pad_id"} <= document["processor"]["text"].keys()
    (variant,) = document["variants"]
    assert {"id", "models", "runtime", "inputs", "outputs"} <= variant.keys()
    for tensor in (*variant["inputs"], *variant["outputs"]):
        assert all(isinstance(dim, int | str) for dim in tensor["shape"])
    for line in (folder / "SHA256SUMS").read_text().splitlines():
        assert re.fullmatch(r"[0-9a-f]{64}  \S.*", line) and (folder / line[66:]).is_file()
    for case in json.loads((folder / "golden" / "golden.json").read_text())["cases"]:
        assert {"id", "file", "token_ids"} <= case.keys()
        with zipfile.ZipFile(folder / "golden" / case["file"]) as archive:
            entry = archive.getinfo(f"outputs/{variant['id']}/sentence_embedding.npy")
            assert entry.compress_type == zipfile.ZIP_STORED
            assert b"'<f4', 'fortran_order': False" in archive.read(entry)[:128]


def _validates(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert edgeq(["validate", str(folder), "--json", "--quiet"]) == 0
    (variant,) = json.loads(capsys.readouterr().out)["variants"]
    assert variant["verification"] == "simulated"
    # The interpreter on the machine that recorded them: the same numbers.
    assert [output["max_abs_from_recorded"] for output in variant["outputs"]] == [0.0]
    assert edgeq(["validate", str(folder), "--on", "arm64"]) == 1
    assert "only --on native offers" in capsys.readouterr().err


def _runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = json.loads((folder / "golden" / "golden.json").read_text())["cases"][0]
    flags = [word for text in case["samples"] for word in ("--text", text)]
    assert edgeq(["run", str(folder), *flags, "--json"]) == 0
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert document["verification"] == "simulated"
    assert "edgeq's interpreter runs it (level: simulated)" in printed.err
    with np.load(folder / "golden" / case["file"]) as arrays:
        recorded = arrays[f"outputs/{document['variant']}/sentence_embedding"]
    np.testing.assert_array_equal(np.float32(document["outputs"]["sentence_embedding"]), recorded)
    assert edgeq(["run", str(folder), "--text", "a", "--threads", "2"]) == 2
    assert "threads are ONNX Runtime's" in capsys.readouterr().err
    assert edgeq(["run", str(folder), "--text", "a", "--on", "arm64"]) == 1


def test_a_package_runs_without_coremltools(model: Path, tmp_path: Path) -> None:
    assert exported(model, tmp_path / "bundle", "--target", "coreml", "--precision", "fp32") == 0
    program = (
        "import sys, edgeq; edgeq.load(sys.argv[1]).encode(['a cat']);"
        "print([m for m in ('coremltools', 'torch', 'onnx', 'onnxruntime') if m in sys.modules])"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "bundle")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


def test_a_changed_package_is_not_validated(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "bundle"
    assert exported(model, folder, "--target", "coreml", "--precision", "q8-static") == 0
    weights = next(folder.rglob("weight.bin"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert edgeq(["validate", str(folder)]) == 4
    assert "weight.bin" in capsys.readouterr().err


def test_palettes_are_core_ml_only(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exported(model, tmp_path / "out", "--target", "coreml", "--precision", "palette4") == 0
    (variant,) = json.loads(capsys.readouterr().out)["bundles"][0]["variants"]
    # 16 values per weight: the relative error of a layer's output stays near 5 %, and so cosines above 0.99.
    assert 0.99 < variant["fidelity"]["sentence_embedding"]["cosine_mean"] < 1 - 1e-6
    both = ("--target", "coreml", "--target", "cpu")
    assert exported(model, tmp_path / "two", *both, "--precision", "palette4") == 1
    assert "only Core ML takes them" in capsys.readouterr().err
    assert not (tmp_path / "two").exists()


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (("--target", "coreml", "--ios", "16"), 1, "needs iOS 17"),
        (("--target", "coreml", "--precision", "int4", "--ios", "17"), 1, "needs iOS 18"),
        (("--target", "coreml", "--ios", "15"), 1, "expected 16, 17 or 18"),
        (("--target", "cpu", "--ios", "17"), 2, "--ios means nothing to target cpu"),
        (("--target", "coreml", "--seq-len", "16,x"), 2, "no sequence length"),
    ],
)
def test_refused_before_the_model_is_read(
    flags: tuple[str, ...], code: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exported(tmp_path / "no-such-model", tmp_path / "out", *flags) == code
    error: Any = capsys.readouterr().err
    assert message in error
