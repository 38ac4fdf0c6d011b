"""Where a model came from."""

from __future__ import annotations

import hashlib

import pytest

from edgeq.exporters.provenance import hub_revision, public_name, read_license, source_files


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"README.md": "---\nlanguage: en\nlicense: apache-2.0\n---\n# A"}, "apache-2.0"),
        ({"README.md": '---\r\nlicense: "mit"\r\n---\r\n'}, "mit"),
        ({"README.md": "# no front matter\nlicense: apache-2.0\n"}, None),
        ({"README.md": "---\ntags: [a]\n---\n", "LICENSE": "Apache License\nVersion 2.0"}, "apache-2.0"),
        ({"LICENSE": "All rights reserved"}, "other"),
        ({}, None),
    ],
)
def test_license(tmp_path, files, expected):
    for name, text in files.items():
        (tmp_path / name).write_text(text, newline="")
    assert read_license(tmp_path) == expected


def test_every_file_that_was_read_is_hashed(tmp_path):
    inner = tmp_path / "0_Transformer"
    (tmp_path / "1_Pooling").mkdir()
    inner.mkdir()
    for path in (
        "modules.json",
        "1_Pooling/config.json",
        "0_Transformer/config.json",
        "0_Transformer/vocab.txt",
    ):
        (tmp_path / path).write_text(path)
    (tmp_path / "training_log.csv").write_text("not read")
    (inner / "model.safetensors").write_bytes(b"weights")
    found = source_files(tmp_path, inner, [inner / "model.safetensors"])
    assert [file.path for file in found] == [
        "0_Transformer/config.json",
        "0_Transformer/model.safetensors",
        "0_Transformer/vocab.txt",
        "1_Pooling/config.json",
        "modules.json",
    ]
    assert found[1].sha256 == hashlib.sha256(b"weights").hexdigest()


def test_revision_of_a_snapshot(tmp_path):
    assert hub_revision(tmp_path / "snapshots" / "c0ffee") == "c0ffee"
    assert hub_revision(tmp_path / "my-model") is None


def test_no_path_of_this_machine_gets_into_a_bundle(tmp_path):
    (tmp_path / "my-model").mkdir()
    assert public_name(str(tmp_path / "my-model")) == "my-model"
    assert public_name("someone/some-model") == "someone/some-model"
