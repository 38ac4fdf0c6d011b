"""Datasets of the Hub: the real library on a local folder, and what happens without network or library."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
from tests.support.plain_samples import plain

from edgeq.calibration import load_samples
from edgeq.errors import DataError, MissingExtraError

TEXTS = [f"sample number {index} speaks" for index in range(20)]


def fake_library(monkeypatch: pytest.MonkeyPatch, rows: list[dict[str, object]]) -> list[tuple[object, ...]]:
    calls: list[tuple[object, ...]] = []

    def load_dataset(name: str, config: str | None, *, split: str, streaming: bool = False) -> object:
        calls.append((name, config, split, streaming))
        return rows

    module = types.ModuleType("datasets")
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    return calls


@pytest.mark.parametrize(
    ("spec", "call"),
    [
        ("hf:owner/name", ("owner/name", None, "train", True)),
        ("hf:owner/name:test", ("owner/name", None, "test", True)),
        ("hf:glue@sst2:validation[:100]", ("glue", "sst2", "validation[:100]", True)),
    ],
)
def test_the_name_is_taken_apart(
    monkeypatch: pytest.MonkeyPatch, spec: str, call: tuple[object, ...]
) -> None:
    calls = fake_library(monkeypatch, [{"text": text, "label": 1} for text in TEXTS])
    data = load_samples(spec)
    assert calls == [call]
    assert sorted(plain(data.samples)) == sorted(TEXTS)
    assert (data.source, data.columns) == (spec, ("text",))


def test_columns_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_library(monkeypatch, [{"a": f"{text} a", "b": f"{text} b"} for text in TEXTS])
    assert len(load_samples("hf:x", column="a,b")) == 20
    with pytest.raises(DataError, match="no column `c` in `hf:x`; columns: a, b"):
        load_samples("hf:x", column="c")


@pytest.mark.parametrize("spec", ["hf:", "hf::train", "hf:a@"])
def test_a_malformed_name_is_refused(spec: str) -> None:
    with pytest.raises(DataError, match="is not hf:NAME"):
        load_samples(spec)


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError) as caught:
        load_samples("hf:owner/name")
    assert caught.value.hint == "pip install 'edgeq[data]'"


OFFLINE = """
import sys
from edgeq.calibration import load_samples
from edgeq.errors import DataError
print(sorted(sample.text for sample in load_samples(sys.argv[1]).samples))
try:
    load_samples("hf:nobody/nothing-of-this-name")
except DataError as error:
    print(error.message, "|", error.hint)
"""


def test_the_real_library_reads_a_folder_and_says_when_there_is_no_network(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.csv").write_text("text,label\n" + "".join(f"{text},1\n" for text in TEXTS))
    out = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", OFFLINE, f"hf:{tmp_path / 'set'}:train"],
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    read, refused = out.strip().splitlines()
    assert read == str(sorted(TEXTS))
    assert refused.startswith("dataset `nobody/nothing-of-this-name` cannot be read: ")
    assert "| check the name and the network, or give a local file" in refused
