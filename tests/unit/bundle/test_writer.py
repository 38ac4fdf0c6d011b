from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from edgeq.bundle.archive import write_archive
from edgeq.bundle.reader import open_bundle
from edgeq.bundle.writer import BundleWriter
from edgeq.errors import IntegrityError, OutputError
from edgeq.samples import as_samples
from edgeq.scratch import host


def _tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_bundles_are_byte_identical_and_so_are_archives(tiny: Any, tmp_path: Path) -> None:
    tiny.build(tmp_path / "a")
    time.sleep(1.1)  # zip times count seconds in twos, file times in less
    tiny.build(tmp_path / "b")
    assert _tree(tmp_path / "a") == _tree(tmp_path / "b")
    first, second = write_archive(tmp_path / "a"), write_archive(tmp_path / "b")
    assert first == tmp_path / "a.edgeq"
    assert first.read_bytes() == second.read_bytes()


def test_a_bundle_has_every_part_and_nothing_hidden(tiny: Any, tmp_path: Path) -> None:
    bundle = tiny.build(tmp_path / "bundle")
    assert os.listdir(tmp_path) == ["bundle"]
    assert sorted(_tree(bundle.path)) == [
        "SHA256SUMS",
        "edgeq.json",
        "golden/case-000.npz",
        "golden/golden.json",
        "manifest.json",
        "model/component.json",
        "model/cpu-fp32/model.onnx",
        "model/nnapi-fp32/model.onnx",
        "tokenizer/preprocess.json",
        "tokenizer/tokenizer.json",
    ]


def test_sums_are_those_of_sha256sum(tiny_bundle: Path) -> None:
    import hashlib

    lines = (tiny_bundle / "SHA256SUMS").read_text().splitlines()
    listed = dict(reversed(line.split("  ")) for line in lines)
    files = _tree(tiny_bundle)
    del files["SHA256SUMS"]
    assert listed == {path: hashlib.sha256(data).hexdigest() for path, data in files.items()}


def test_onnxruntime_opens_the_bundle_as_a_model_package(tiny_bundle: Path) -> None:
    with onnxruntime.ModelPackage.open(str(tiny_bundle), follow_symlinks=False) as package:
        info = package.get_info()
    assert (info["schema_version_major"], info["package_name"]) == (1, "tiny")
    variants = {item["name"]: item for item in info["components"][0]["variants"]}
    assert variants["nnapi-fp32"]["ep"] == "NnapiExecutionProvider"
    assert variants["cpu-fp32"]["variant_directory"] == str(tiny_bundle / "model/cpu-fp32")


def test_onnxruntime_selects_the_cpu_variant_and_runs_it(tiny: Any, tiny_bundle: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.add_provider("CPUExecutionProvider", {})
    context = onnxruntime.ModelPackageContext(str(tiny_bundle))
    component = context.select_component("model", onnxruntime.ModelPackageOptions(options))
    assert component.get_selected_variant_name() == "cpu-fp32"
    feeds = tiny.preprocessor()(as_samples(["the cat"]))
    embedding, _ = component.create_session(options).run(None, feeds)
    expected = tiny.expected_embedding(feeds["input_ids"], feeds["attention_mask"])
    # Four float32 additions of values near 1.
    assert abs(embedding - expected).max() < 1e-6


def test_a_core_ml_bundle_has_no_model_package(tiny: Any, tmp_path: Path) -> None:
    def core_ml(manifest: Any) -> Any:
        return replace(manifest, variants=tuple(replace(v, runtime="coreml") for v in manifest.variants))

    bundle = tiny.build(tmp_path / "bundle", core_ml)
    assert not (bundle.path / "manifest.json").exists()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_nothing_is_left_when_the_work_fails(tiny: Any, tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), BundleWriter(tmp_path / "bundle") as writer:
        tiny.fill(writer)
        assert [name for name in os.listdir(tmp_path) if not name.startswith(".")] == []
        raise error
    assert os.listdir(tmp_path) == []


def test_nothing_is_left_without_a_commit(tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "bundle") as writer:
        writer.path("model/x").touch()
    assert os.listdir(tmp_path) == []


def test_a_manifest_that_no_reader_takes_is_not_written(tiny: Any, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match=r"not in integrity\.files"):
        tiny.build(
            tmp_path / "bundle",
            lambda m: replace(m, variants=(replace(m.variants[0], models={"model": "model/x"}),)),
        )
    assert os.listdir(tmp_path) == []


def test_an_existing_bundle_is_refused_before_any_work(tiny_bundle: Path) -> None:
    with pytest.raises(OutputError, match="exists"), BundleWriter(tiny_bundle):
        pytest.fail("the block was entered")


def test_force_replaces_only_at_the_commit(tiny: Any, tiny_bundle: Path) -> None:
    before = _tree(tiny_bundle)
    with pytest.raises(ValueError, match="late"), BundleWriter(tiny_bundle, force=True) as writer:
        tiny.fill(writer)
        assert _tree(tiny_bundle) == before
        raise ValueError("late")
    assert _tree(tiny_bundle) == before
    tiny.build(tiny_bundle, lambda m: replace(m, name="second"), force=True)
    assert open_bundle(tiny_bundle).manifest.name == "second"
    assert os.listdir(tiny_bundle.parent) == ["bundle"]


def test_the_old_bundle_comes_back_when_the_last_rename_fails(
    tiny: Any, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _tree(tiny_bundle)
    rename = Path.rename

    def fail_for_new(self: Path, target: Path) -> Path:
        if "edgeq-tmp" in self.name:
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_for_new)
    with pytest.raises(OutputError, match="Input/output error"):
        tiny.build(tiny_bundle, force=True)
    assert _tree(tiny_bundle) == before
    assert os.listdir(tiny_bundle.parent) == ["bundle"]


def test_paths_that_leave_the_bundle_are_refused(tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "bundle") as writer, pytest.raises(IntegrityError, match="unsafe path"):
        writer.path("../escape")


_CHILD = """
import sys, time
from pathlib import Path
from edgeq.bundle.writer import BundleWriter
with BundleWriter(Path(sys.argv[1])) as writer:
    writer.path("model/x").write_bytes(b"x" * 1000)
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, -signal.SIGINT)])
def test_a_stopped_process_leaves_nothing(
    start_child: Any, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    with start_child(_CHILD, tmp_path / "bundle") as child:
        child.send_signal(number)
        assert child.wait(30) == code
    assert os.listdir(tmp_path) == []


def test_a_killed_process_is_cleaned_up_after_and_a_living_one_is_not(
    start_child: Any, tmp_path: Path
) -> None:
    with start_child(_CHILD, tmp_path / "bundle") as killed:
        killed.kill()
        killed.wait(30)
    (left,) = os.listdir(tmp_path)
    assert left.startswith(".bundle.edgeq-tmp.")
    with start_child(_CHILD, tmp_path / "bundle") as living:
        (working,) = os.listdir(tmp_path)
        assert working != left
        with BundleWriter(tmp_path / "bundle"):
            assert working in os.listdir(tmp_path)
        living.kill()
        living.wait(30)


def test_a_bundle_half_replaced_by_a_killed_process_is_put_back(tiny: Any, tmp_path: Path) -> None:
    tiny.build(tmp_path / "bundle")
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    hidden = tmp_path / f".bundle.edgeq-old.{host()}.{dead.pid}.0"
    (tmp_path / "bundle").rename(hidden)
    with pytest.raises(OutputError), BundleWriter(tmp_path / "bundle"):
        pytest.fail("the restored bundle must be protected")
    assert open_bundle(tmp_path / "bundle").manifest.name == "tiny"
    assert os.listdir(tmp_path) == ["bundle"]


def test_leftovers_of_other_machines_are_not_touched(tmp_path: Path) -> None:
    foreign = tmp_path / ".bundle.edgeq-tmp.00000000.1.0"
    foreign.mkdir()
    with BundleWriter(tmp_path / "bundle"):
        pass
    assert foreign.is_dir()


def test_of_two_writers_without_force_only_the_first_succeeds(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    destination = tmp_path / "bundle"
    with BundleWriter(destination) as late, BundleWriter(destination) as early:
        manifests = [tiny.fill(writer) for writer in (late, early)]
        early.commit(replace(manifests[1], name="early"))
        # As if both had looked whether something is there at the same moment.
        monkeypatch.setattr("edgeq.bundle.writer.check_output", lambda *_, **__: None)
        with pytest.raises(OutputError, match="cannot write"):
            late.commit(replace(manifests[0], name="late"))
    assert open_bundle(destination).manifest.name == "early"
    assert os.listdir(tmp_path) == ["bundle"]


def test_empty_folders_are_not_written(tiny: Any, tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "bundle") as writer:
        manifest = tiny.fill(writer)
        (writer.folder / "model/left/over").mkdir(parents=True)
        writer.commit(manifest)
    assert not (tmp_path / "bundle/model/left").exists()
    open_bundle(tmp_path / "bundle")
