"""`edgeq export` from the command line on a tiny model: results, refusals, exit codes, nothing half-written."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeq.cli import run_command_line as run
from edgeq.errors import ExitCode

LICENSE = "Permission is hereby granted, free of charge, to Zoë\n"
FAST = ["--seq-len", "32", "--calib-samples", "32", "--quiet"]


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the licence that its author wrote."""
    folder = tmp_path_factory.mktemp("source") / "model"
    shutil.copytree(tiny_model("bert", "sentence-embedding"), folder)
    (folder / "LICENSE.txt").write_text(LICENSE, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def onnx_model(model: Path, exported: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model's graph in a file beside its tokenizer: a process that reads it traces nothing."""
    import onnx_ir as ir

    file = tmp_path_factory.mktemp("onnx") / "model.onnx"
    for path in model.glob("*.json"):
        shutil.copy(path, file.parent)
    ir.save(exported("bert", "sentence-embedding").canonical.model, file)
    return file


@pytest.fixture(scope="module")
def bundle(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("exported") / "bundle"
    page = str(output.with_name("page.html"))
    options = ["--target", "android", "-o", str(output), "--archive", "--report", page]
    assert run(["export", str(model), *options, *FAST]) == ExitCode.OK
    return output


def export(model: Path, output: Path, *more: str) -> int:
    return run(["export", str(model), "--target", "android", "-o", str(output), *FAST, *more])


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_bundle_is_whole(bundle: Path) -> None:
    expected = {
        "edgeq.json",
        "SHA256SUMS",
        "MODEL_CARD.md",
        "report.html",
        "recipe.yaml",
        "plan.json",
        "manifest.json",
    }
    assert expected <= {path.name for path in bundle.iterdir()}
    assert {path.name for path in (bundle / "model").iterdir()} == {
        "component.json",
        "cpu-int8",
        "nnapi-int8",
    }
    assert bundle.with_name("bundle.edgeq").is_file()


def test_the_licence_travels_along(bundle: Path) -> None:
    assert (bundle / "LICENSE").read_text(encoding="utf-8") == LICENSE
    assert not (bundle / "NOTICE").exists()


def test_times_are_in_the_page_beside_the_bundle_alone(bundle: Path) -> None:
    """That the bundle's bytes stay the same is another test's."""
    own = (bundle / "report.html").read_text(encoding="utf-8")
    page = bundle.with_name("page.html").read_text(encoding="utf-8")
    assert " ms</b>" in page and "fp32, by the ratio" in page
    assert " ms</b>" not in own and "by the ratio" not in own
    assert own.count("<section") == page.count("<section")
    assert '<section id="examples">' in own and "have the same closest text" in own


def test_a_page_inside_the_bundle_is_refused_before_the_work(model: Path, tmp_path: Path) -> None:
    inside = tmp_path / "new" / "page.html"
    assert export(model, tmp_path / "new", "--report", str(inside)) == ExitCode.USAGE
    assert leftovers(tmp_path) == []


def test_the_manifest_names_no_path_of_this_machine(bundle: Path, model: Path) -> None:
    text = (
        (bundle / "edgeq.json").read_text()
        + (bundle / "MODEL_CARD.md").read_text()
        + (bundle / "recipe.yaml").read_text()
    )
    assert str(model.parent) not in text and str(Path.home()) not in text


def test_validate_passes_on_the_folder_and_the_archive(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (bundle, bundle.with_name("bundle.edgeq")):
        capsys.readouterr()
        assert run(["validate", str(path), "--json", "--quiet"]) == ExitCode.OK
        document = json.loads(capsys.readouterr().out)
        assert document["passed"] and {v["id"] for v in document["variants"]} == {"cpu-int8", "nnapi-int8"}
        assert all(gate["passed"] for v in document["variants"] for gate in v["gates"])


def test_validate_against_the_live_original(bundle: Path, model: Path) -> None:
    assert run(["validate", str(bundle), "--against", str(model), "--quiet"]) == ExitCode.OK


def test_validate_notices_another_original(bundle: Path, tiny_model: Callable[..., Path]) -> None:
    """The negative twin: a model with a layer less is not what was exported."""
    other = tiny_model("bert", "sentence-embedding", layers=1)
    assert run(["validate", str(bundle), "--against", str(other), "--quiet"]) == ExitCode.GATE


def test_the_same_export_gives_the_same_bytes(
    bundle: Path, model: Path, tmp_path: Path, fresh_traces: None
) -> None:
    assert export(model, tmp_path / "again") == ExitCode.OK
    assert (tmp_path / "again" / "SHA256SUMS").read_text() == (bundle / "SHA256SUMS").read_text()


def test_another_seed_gives_another_bundle(bundle: Path, model: Path, tmp_path: Path) -> None:
    assert export(model, tmp_path / "seeded", "--seed", "7") == ExitCode.OK
    assert (tmp_path / "seeded" / "SHA256SUMS").read_text() != (bundle / "SHA256SUMS").read_text()


def test_below_the_gate_the_bundle_is_kept_and_refused(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "failed"
    assert export(model, output, "--gate", "cosine_mean>=0.9999999", "--variants", "cpu") == ExitCode.GATE
    assert "cosine_mean" in capsys.readouterr().err
    assert json.loads((output / "edgeq.json").read_text())["status"] == "failed"
    assert run(["run", str(output), "--text", "hello"]) == ExitCode.GATE
    assert run(["run", str(output), "--text", "hello", "--force"]) == ExitCode.OK


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_floating_point_exports(precision: str, model: Path, tmp_path: Path) -> None:
    assert export(model, tmp_path / "float", "--precision", precision) == ExitCode.OK


def test_an_existing_bundle_is_kept_without_force(
    bundle: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (bundle / "SHA256SUMS").read_bytes()
    assert export(model, bundle) == ExitCode.USER
    assert "--force" in capsys.readouterr().err
    assert (bundle / "SHA256SUMS").read_bytes() == before


def bad(folder: Path, kind: str) -> list[str]:
    """Arguments of a bad call, as a user might make it."""
    file = folder / "calib.txt"
    match kind:
        case "empty calibration file":
            file.write_text("")
        case "binary as text":
            file.write_bytes(bytes(range(256)) * 20)
        case "one sample":
            file.write_text("only one text\n")
        case "missing column":
            file = folder / "calib.csv"
            file.write_text("text,label\n" + "".join(f"some text number {i},{i}\n" for i in range(40)))
            return ["--calib", str(file), "--calib-column", "txt"]
        case "missing file":
            return ["--calib", str(folder / "none.txt")]
        case "sequence too long":
            return ["--seq-len", "100000"]
        case "unwritable output":
            return ["-o", "/proc/bundle"]
        case "not a recipe":
            file = folder / "recipe.yaml"
            file.write_text("precision: int8\nalhpa: 3\n")
            return ["--recipe", str(file)]
    return ["--calib", str(file)]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("empty calibration file", "calib.txt"),
        ("binary as text", "calib.txt"),
        ("one sample", "at least 8"),
        ("missing column", "text"),
        ("missing file", "none.txt"),
        ("sequence too long", "positions"),
        ("unwritable output", "/proc"),
        ("not a recipe", "unknown"),
    ],
)
def test_bad_input_is_a_clear_error(
    kind: str, words: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "export",
        str(model),
        "--target",
        "android",
        "-o",
        str(tmp_path / "out"),
        "--quiet",
        *bad(tmp_path, kind),
    ]
    before = leftovers(tmp_path)
    assert run(arguments) == ExitCode.USER, capsys.readouterr().err
    said = capsys.readouterr().err
    assert said.startswith("error: ") and words in said and "Traceback" not in said
    assert leftovers(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--target", "toaster"], "android"),
        (["--target", "android", "--gate", "nonsense"], "METRIC"),
        (["--target", "android", "--gate", "cosine_mean>=7"], "between 0 and 1"),
        (["--target", "android", "--variants", "npu"], "cpu"),
    ],
)
def test_usage_errors(
    arguments: list[str], words: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["export", str(model), *arguments]) == ExitCode.USAGE
    assert words in capsys.readouterr().err


def test_an_unknown_precision_suggests_one(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["export", str(model), "--target", "cpu", "--precision", "in8"]) in (
        ExitCode.USAGE,
        ExitCode.USER,
    )
    assert "int8" in capsys.readouterr().err


def test_a_missing_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["export", str(tmp_path / "none"), "--target", "cpu"]) == ExitCode.USER
    assert "none" in capsys.readouterr().err


def test_a_dry_run_writes_nothing(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "export",
        str(model),
        "--target",
        "android",
        "-o",
        str(tmp_path / "out"),
        "--dry-run",
        "--json",
    ]
    assert run(arguments) == ExitCode.OK
    document = json.loads(capsys.readouterr().out)
    assert document["targets"]["android"]["variants"] == ["cpu-int8", "nnapi-int8"]
    assert leftovers(tmp_path) == []


def test_a_full_disk(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import errno

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "model.onnx")

    monkeypatch.setattr("edgeq.targets.onnx_file.ir.save", full)
    assert export(model, tmp_path / "out") == ExitCode.USER
    assert "no space left" in capsys.readouterr().err.lower()
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(
    ("stage", "source"),
    [
        ("exporting the model", "model"),
        ("quantizing", "onnx_model"),
        ("comparing with the original", "onnx_model"),
    ],
)
def test_ctrl_c_leaves_nothing(
    stage: str, source: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Interrupted once a stage is over, which is in the middle of the next one."""
    model = request.getfixturevalue(source)
    command = [
        sys.executable,
        "-u",
        "-m",
        "edgeq",
        "export",
        str(model),
        "--target",
        "android",
        "-o",
        str(tmp_path / "out"),
    ]
    command += ["--seq-len", "32", "--calib-samples", "32"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if stage in line and "so far" not in line:  # a slow stage also says how long it has taken
                break
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        assert process.wait(timeout=120) == 130, said
    assert leftovers(tmp_path) == []
    assert "interrupted" in said and "Traceback" not in said


def test_the_installed_command(onnx_model: Path, tmp_path: Path) -> None:
    """A real process, from another folder, with `edgeq.toml`."""
    (tmp_path / "edgeq.toml").write_text(
        f'[export]\nmodel = "{onnx_model}"\ntarget = "cpu"\ncalib_samples = 32\n'
    )
    done = subprocess.run(
        [sys.executable, "-m", "edgeq", "export"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    written = Path(done.stdout.strip())
    assert (tmp_path / written / "edgeq.json").is_file()


SAME_BYTES = """
import os, sys
import torch
from edgeq.cli import run_command_line
torch.set_num_threads(int(sys.argv[1]))
sys.exit(run_command_line(sys.argv[2:]))
"""


def test_neither_threads_nor_hash_seeds_change_a_byte(bundle: Path, model: Path, tmp_path: Path) -> None:
    """In a process of its own, with nothing in the cache, no ARM64 lane either."""
    import torch

    threads = "1" if torch.get_num_threads() > 1 else "2"
    environment = {
        "PYTHONHASHSEED": "0" if os.environ.get("PYTHONHASHSEED") == "4711" else "4711",
        "EDGEQ_CACHE": str(tmp_path / "cache"),
        "OMP_NUM_THREADS": threads,
    }
    command = ["export", str(model), "--target", "android", "-o", str(tmp_path / "again"), *FAST]
    done = subprocess.run(
        [sys.executable, "-c", SAME_BYTES, threads, *command],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "again" / "SHA256SUMS").read_text() == (bundle / "SHA256SUMS").read_text()
