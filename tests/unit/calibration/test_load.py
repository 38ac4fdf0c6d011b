"""Text files, folders and the draw: every kind of source, and every way it can be bad."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.support.plain_samples import plain

from edgeq.calibration import MIN_SAMPLES, load_samples
from edgeq.calibration.lines import MAX_LINE_BYTES
from edgeq.errors import DataError

TEXTS = [f"sample number {index} speaks" for index in range(20)]
NOTES = [f"a note about sample {index}" for index in range(20)]


Write = Callable[[str, str | bytes], str]


def lines(texts: list[str]) -> str:
    return "".join(f"{text}\n" for text in texts)


def test_a_text_file_is_one_sample_a_line(write: Write) -> None:
    data = load_samples(write("texts.txt", lines(TEXTS)))
    assert sorted(plain(data.samples)) == sorted(TEXTS)
    assert (data.source, data.total, data.duplicates, data.blank, len(data)) == ("texts.txt", 20, 0, 0, 20)
    assert data.feeds is None
    assert data.columns == ()


def test_line_ends_marks_blanks_and_duplicates_make_no_difference(write: Write) -> None:
    plain = load_samples(write("a.txt", lines(TEXTS)))
    for content in (
        "\r\n".join(TEXTS),
        "\ufeff" + lines(TEXTS),
        "\r".join(TEXTS),
        "\n\n  \n".join(TEXTS),
        lines([f"  {text}\u00a0 " for text in TEXTS]),
        lines(TEXTS + TEXTS[:5]),
        lines(TEXTS[::-1]),
    ):
        other = load_samples(write("b.txt", content))
        assert other.samples == plain.samples
        assert other.sha256 == plain.sha256
    assert load_samples(write("c.txt", lines(TEXTS[1:]))).sha256 != plain.sha256


def test_duplicates_and_blanks_are_counted_and_told(write: Write) -> None:
    data = load_samples(write("a.txt", lines([*TEXTS, *TEXTS[:5], "", "  "])))
    assert (data.total, data.duplicates, data.blank) == (25, 5, 2)
    assert "5 duplicates removed" in data.notices
    assert "2 blank lines or cells skipped" in data.notices


def test_few_samples_are_told(write: Write) -> None:
    assert any("only 20 samples" in notice for notice in load_samples(write("a.txt", lines(TEXTS))).notices)
    many = load_samples(write("b.txt", lines([f"text {index}" for index in range(100)])))
    assert many.notices == ()


@pytest.mark.parametrize("present", [1, MIN_SAMPLES - 1])
def test_too_few_samples_are_refused(write: Write, present: int) -> None:
    with pytest.raises(DataError, match=f"has {present} distinct samples, expected at least {MIN_SAMPLES}"):
        load_samples(write("a.txt", lines(TEXTS[:present] * 3)))
    assert len(load_samples(write("b.txt", lines(TEXTS[:MIN_SAMPLES])))) == MIN_SAMPLES


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n\n\n", "has 0 distinct samples"),
        (b"good line\nbad \xe9 line\n", r"line 2 of .* is not UTF-8: byte 0xe9 at position 5"),
        ("text".encode("utf-16"), "is UTF-16, expected UTF-8"),
        (bytes(range(256)) * 50, "binary file"),
        (b"fine\n" * 3000 + b"here \0 is one\n", "line 3001 of .* NUL"),
        (b"\x1f\x8b\x08\x00rest", "gzip"),
        (b"PK\x03\x04rest", "zip archive"),
        (b"%PDF-1.7 rest", "PDF"),
        (b"short\n" + b"x" * (MAX_LINE_BYTES + 5) + b"\n", "line 2 of .* longer than 1 MiB"),
    ],
)
def test_what_is_not_text_is_refused(write: Write, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_samples(write("a.txt", content))


def test_a_missing_file_suggests_its_neighbour(write: Write, tmp_path: Path) -> None:
    write("texts.txt", "x")
    with pytest.raises(DataError, match="does not exist") as caught:
        load_samples(str(tmp_path / "text.txt"))
    assert caught.value.hint == f"--calib {tmp_path / 'texts.txt'}"


def test_an_unknown_suffix_lists_the_known(write: Write) -> None:
    with pytest.raises(DataError, match=r"suffix `\.docx`, expected one of \.txt, \.csv"):
        load_samples(write("a.docx", "x"))
    with pytest.raises(DataError, match="has no suffix"):
        load_samples(write("texts", "x"))
    with pytest.raises(DataError, match=r"suffix `\.json`") as caught:
        load_samples(write("a.json", "[]"))
    assert "jsonl" in str(caught.value.hint)


def test_the_draw_follows_the_seed_and_not_the_order(write: Write) -> None:
    many = [f"text {index}" for index in range(500)]
    forward, backward = write("a.txt", lines(many)), write("b.txt", lines(many[::-1]))
    first = load_samples(forward, count=50, seed=3)
    assert first.samples == load_samples(backward, count=50, seed=3).samples
    assert first.samples != load_samples(forward, count=50, seed=4).samples
    assert first.samples == load_samples(forward, count=200, seed=3).samples[:50]
    assert len(set(first.samples)) == 50


def test_the_draw_is_the_same_everywhere(write: Write) -> None:
    # Golden: any change of the ranking would silently change every user's calibration.
    data = load_samples(write("a.txt", lines(TEXTS)), count=8)
    assert plain(data.samples[:3]) == [f"sample number {index} speaks" for index in (0, 15, 19)]
    assert data.sha256 == "572bcfb91b1606bb4cb8616bc0bdac18c43a7698eeed4934a60217f169911036"


def test_the_draw_does_not_depend_on_the_hash_seed(write: Write) -> None:
    path = write("a.txt", lines([f"text {index}" for index in range(50)]))
    code = f"from edgeq.calibration import load_samples; print(load_samples({path!r}, count=9).samples)"
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1


def test_the_draw_is_uniform(write: Write) -> None:
    path = write("a.txt", lines([f"text {index}" for index in range(100)]))
    hits = np.zeros(100)
    for seed in range(200):
        for sample in load_samples(path, count=20, seed=seed).samples:
            hits[int(sample.texts[0].split()[1])] += 1
    # Each text is drawn with probability 0.2 in each of 200 draws: 40 +- 5.7; five deviations.
    assert abs(hits - 40).max() < 5 * 5.7
    assert hits.sum() == 200 * 20


def test_memory_does_not_follow_the_file(write: Write, tmp_path: Path) -> None:
    path = tmp_path / "big.txt"
    with path.open("w") as stream:
        stream.writelines(f"line {index} {'padding ' * 400}\n" for index in range(15_000))
    import tracemalloc

    tracemalloc.start()
    data = load_samples(str(path), count=16)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert data.total == 15_000
    assert path.stat().st_size > 48_000_000
    # 15,000 tracked ranks of about 100 bytes and a line or two; the file itself is 48 MB.
    assert peak < 4e6


@pytest.mark.parametrize("count", [0, -1, MIN_SAMPLES - 1])
def test_a_count_too_small_is_refused(count: int) -> None:
    with pytest.raises(DataError, match=f"{count} calibration samples asked for"):
        load_samples(None, count=count)


def test_a_folder_is_all_its_files(write: Write, tmp_path: Path) -> None:
    write("data/a.txt", lines(TEXTS[:10]))
    write("data/deep/b.csv", "text,id\n" + lines([f"{text},1" for text in TEXTS[10:]]))
    write("data/.hidden.txt", "hidden\n")
    write("data/picture.png", b"\x89PNG")
    data = load_samples(str(tmp_path / "data"))
    assert sorted(plain(data.samples)) == sorted(TEXTS)
    assert data.source == "data/"
    assert "1 files of other kinds left out" in data.notices


def test_folders_without_texts_are_refused(write: Write, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no file of a supported kind"):
        load_samples(str(tmp_path / "empty"))
    write("mixed/a.txt", lines(TEXTS))
    write("mixed/b.npz", b"")
    with pytest.raises(DataError, match="holds tensors"):
        load_samples(str(tmp_path / "mixed"))


def test_a_golden_file_gives_its_inputs(tmp_path: Path) -> None:
    ids = np.arange(40).reshape(20, 2)
    np.savez(tmp_path / "g.npz", **{"inputs/input_ids": ids, "reference/logits": np.zeros((20, 3))})
    found = load_samples(str(tmp_path / "g.npz"))
    assert found.feeds is not None and list(found.feeds) == ["input_ids"]
    assert sorted(found.feeds["input_ids"][:, 0]) == list(range(0, 40, 2))
