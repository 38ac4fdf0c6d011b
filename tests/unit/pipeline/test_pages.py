"""The report of a bundle with what this machine measured goes to a file outside of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeq.cli import run_command_line as run
from edgeq.errors import ExitCode, OutputError, UsageError
from edgeq.exporters.provenance import legal_texts
from edgeq.pipeline.pages import check_accuracy_page, check_page, export_pages


def test_pages_of_several_targets_share_no_file() -> None:
    page = Path("out/report.html")
    assert export_pages(page, ["android"]) == {"android": page}
    assert export_pages(page, ["android", "cpu"]) == {
        "android": Path("out/report-android.html"),
        "cpu": Path("out/report-cpu.html"),
    }


def test_a_page_that_can_be_written(tmp_path: Path) -> None:
    check_page(tmp_path / "a.html", [tmp_path / "bundle"])


@pytest.mark.parametrize("name", ["bundle/a.html", "bundle/golden/a.html", "link/a.html"])
def test_a_page_inside_a_bundle(tmp_path: Path, name: str) -> None:
    (tmp_path / "bundle" / "golden").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "bundle")
    with pytest.raises(UsageError, match="inside the bundle"):
        check_page(tmp_path / name, [tmp_path / "bundle"])


def test_pages_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(UsageError, match=r"\.html"):
        check_page(tmp_path / "a.txt")
    with pytest.raises(OutputError, match="not a file"):
        check_page(tmp_path / "folder.html")
    with pytest.raises(OutputError, match="not a folder"):
        check_page(tmp_path / "nowhere" / "a.html")


def test_accuracy_needs_labels(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--labels"):
        check_accuracy_page(tmp_path / "a.html", tmp_path / "bundle", None)
    check_accuracy_page(tmp_path / "a.html", tmp_path / "bundle", tmp_path / "labels.tsv")


def test_bench_writes_it(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeq.pipeline.forward.bench.ROUNDS", 3)
    before = (tiny_bundle / "SHA256SUMS").read_bytes()
    page = tmp_path / "page.html"
    assert run(["bench", str(tiny_bundle), "--threads", "1", "--report", str(page), "--quiet"]) == ExitCode.OK
    text = page.read_text(encoding="utf-8")
    assert "1 thread)" in text and "time, of cpu-fp32" in text and "nnapi-fp32" in text
    assert (tiny_bundle / "SHA256SUMS").read_bytes() == before


def test_bench_refuses_before_it_times(tiny_bundle: Path) -> None:
    page = tiny_bundle / "page.html"
    assert run(["bench", str(tiny_bundle), "--report", str(page), "--quiet"]) == ExitCode.USAGE
    assert not page.exists()


def test_validate_writes_the_accuracy(tiny_bundle: Path, tmp_path: Path) -> None:
    texts = ["the cat sat", "a dog ran", "the cats ran", "a dog sat", "the dog ran", "a cat"]
    lines = [f"{index % 5}\t{one}\t{texts[(index * 5 + 1) % 6]}" for index, one in enumerate(texts * 6)]
    labels = tmp_path / "labels.tsv"
    labels.write_text("\n".join(lines) + "\n")
    page = tmp_path / "page.html"
    options = ["--labels", str(labels), "--report", str(page), "--quiet"]
    assert run(["validate", str(tiny_bundle), *options]) == ExitCode.OK
    text = page.read_text(encoding="utf-8")
    assert "spearman of cpu-fp32 on 36 labelled texts" in text
    assert "No labelled texts came" not in text


def test_legal_texts_by_the_name_a_bundle_gives_them(tmp_path: Path) -> None:
    assert legal_texts(tmp_path) == {}
    (tmp_path / "LICENSE.md").write_text("mine")
    (tmp_path / "NOTICE").write_bytes(b"caf\xe9")
    (tmp_path / "LICENSE-notes.txt").write_text("not it")
    assert legal_texts(tmp_path) == {"LICENSE": "mine", "NOTICE": "caf\ufffd"}
