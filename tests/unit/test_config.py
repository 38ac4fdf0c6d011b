"""Flags over `edgeq.toml`; unknown keys are errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeq.config import CONFIG_FILE, check_keys, read_export_config
from edgeq.errors import ConfigError
from edgeq.pipeline.flags import file_keys
from edgeq.pipeline.options import ExportOptions

EXPORT_KEYS = file_keys(ExportOptions)
NOTHING = dict.fromkeys(EXPORT_KEYS)


def read(folder: Path, text: str, **flags: object) -> dict[str, object]:
    (folder / CONFIG_FILE).write_text(text, encoding="utf-8")
    return read_export_config({**NOTHING, **flags}, folder, lambda _: None, EXPORT_KEYS)


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    found = read(tmp_path, '[export]\nmodel = "m"\nseq_len = 64\ntarget = ["cpu"]\n', seq_len=32)
    assert found == {"model": "m", "seq_len": 32, "target": ["cpu"]}


def test_a_named_model_does_not_read_the_file(tmp_path: Path) -> None:
    assert read(tmp_path, '[export]\nmodel = "other"\nseq_len = 64\n', model="m") == {"model": "m"}


def test_without_a_file_only_flags_count(tmp_path: Path) -> None:
    assert read_export_config({**NOTHING, "task": "fill-mask"}, tmp_path, lambda _: None, EXPORT_KEYS) == {
        "task": "fill-mask"
    }


def test_the_user_is_told_that_the_file_is_used(tmp_path: Path) -> None:
    (tmp_path / CONFIG_FILE).write_text("[export]\nseed = 3\n")
    told: list[str] = []
    read_export_config(NOTHING, tmp_path, told.append, EXPORT_KEYS)
    assert len(told) == 1 and CONFIG_FILE in told[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[export]\nmodle = 'x'\n", "unknown key `modle`"),
        ("[exprot]\n", "unknown key `exprot`"),
        ("[export]\nseq_len = '64'\n", "`seq_len` .* expected int"),
        ("[export]\nseed = true\n", "expected int"),
        ("[export\n", "not valid TOML"),
        ("export = 3\n", "must be a table"),
    ],
)
def test_bad_files_are_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, text)


def test_a_near_key_is_suggested() -> None:
    with pytest.raises(ConfigError) as caught:
        check_keys({"modle": 1}, ("model", "task"), "here")
    assert caught.value.hint == "did you mean `model`?"
