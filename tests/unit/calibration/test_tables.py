"""Tables: which column is read, quoting, and what is wrong with which line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

import pytest
from tests.support.plain_samples import plain

from edgeq.calibration import load_samples
from edgeq.errors import DataError, MissingExtraError

TEXTS = [f"sample number {index} speaks" for index in range(20)]
NOTES = [f"a note about sample {index}" for index in range(20)]


Write = Callable[[str, str | bytes], str]


def lines(texts: list[str]) -> str:
    return "".join(f"{text}\n" for text in texts)


def table_files(write: Write) -> dict[str, str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"id": index, "text": TEXTS[index], "note": NOTES[index], "label": "yes"} for index in range(20)]
    parquet = write("t.parquet", "")
    pq.write_table(pa.Table.from_pylist(rows), parquet)
    return {
        "csv": write(
            "t.csv", "id,text,note,label\n" + lines([",".join(map(str, row.values())) for row in rows])
        ),
        "semicolons": write(
            "s.csv", "id;text;note;label\n" + lines([";".join(map(str, r.values())) for r in rows])
        ),
        "tsv": write(
            "t.tsv", "id\ttext\tnote\tlabel\n" + lines(["\t".join(map(str, r.values())) for r in rows])
        ),
        "tabbed": write(
            "t.txt", "id\ttext\tnote\tlabel\n" + lines(["\t".join(map(str, r.values())) for r in rows])
        ),
        "jsonl": write("t.jsonl", lines([json.dumps(row) for row in rows])),
        "parquet": parquet,
    }


KINDS = ["csv", "semicolons", "tsv", "tabbed", "jsonl", "parquet"]


@pytest.mark.parametrize("kind", KINDS)
def test_tables_give_the_column_asked_for(write: Write, kind: str) -> None:
    path = table_files(write)[kind]
    data = load_samples(path, column="note")
    assert sorted(plain(data.samples)) == sorted(NOTES)
    assert data.columns == ("note",)


@pytest.mark.parametrize("kind", KINDS)
def test_tables_give_pairs(write: Write, kind: str) -> None:
    data = load_samples(table_files(write)[kind], column="text, note")
    assert sorted(plain(data.samples)) == sorted(zip(TEXTS, NOTES, strict=True))
    assert data.columns == ("text", "note")


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_column_every_text_like_one_is_read_and_told(write: Write, kind: str) -> None:
    data = load_samples(table_files(write)[kind])
    assert sorted(plain(data.samples)) == sorted(TEXTS + NOTES)
    assert any("texts of `text`, `note` (of id, text, note, label)" in notice for notice in data.notices)


@pytest.mark.parametrize("kind", KINDS)
def test_a_column_that_is_not_there_lists_those_that_are(write: Write, kind: str) -> None:
    with pytest.raises(DataError, match=r"no column `Text` in .*; columns: id, text, note, label") as caught:
        load_samples(table_files(write)[kind], column="Text")
    assert caught.value.hint == "--calib-column text"
    with pytest.raises(DataError, match="no column `nothing`"):
        load_samples(table_files(write)[kind], column="text,nothing")


def test_a_column_of_a_plain_text_file_is_refused(write: Write) -> None:
    with pytest.raises(DataError, match="has no columns"):
        load_samples(write("a.txt", lines(TEXTS)), column="text")


def test_three_columns_are_refused(write: Write) -> None:
    with pytest.raises(DataError, match="names 3 columns"):
        load_samples(table_files(write)["csv"], column="id,text,note")


def test_a_column_name_with_a_comma_is_a_name(write: Write) -> None:
    data = load_samples(write("a.jsonl", lines([json.dumps({"a,b": text}) for text in TEXTS])), column="a,b")
    assert sorted(plain(data.samples)) == sorted(TEXTS)


def test_a_table_without_header_numbers_its_columns(write: Write) -> None:
    path = write("a.tsv", lines([f"{i}.5\t{TEXTS[i]}\t{NOTES[i]}" for i in range(20)]))
    assert sorted(plain(load_samples(path).samples)) == sorted(TEXTS + NOTES)
    assert len(load_samples(path, column="2,3")) == 20


def test_a_customary_name_wins_where_no_column_is_text_like(write: Write) -> None:
    path = write("a.csv", "id,text\n" + lines([f"{i},word{i}" for i in range(20)]))
    assert load_samples(path).columns == ("text",)
    with pytest.raises(DataError, match="no column of text; columns: id, label"):
        load_samples(write("b.csv", "id,label\n" + lines([f"{i},word{i}" for i in range(20)])))


def test_scripts_without_spaces_are_text(write: Write) -> None:
    path = write("a.csv", "id,body_ja\n" + lines([f"{i},これは{i}番目の文章です" for i in range(20)]))
    assert load_samples(path).columns == ("body_ja",)


def test_quotes_in_csv_follow_the_rule(write: Write) -> None:
    rows = [f'"He said ""number {index}"", and\nleft, quickly",{index}' for index in range(10)]
    data = load_samples(write("a.csv", "text,id\n" + lines(rows)))
    assert 'He said "number 3", and\nleft, quickly' in plain(data.samples)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('text,id\n"an open quote,1\n' + "more words,2\n" * 20, r"line \d+ of .* is not CSV"),
        ("text,id\nfine words,1\nwith, a comma,2\n", "line 3 of .* has 3 columns, expected 2: text, id"),
        ("text,id\nfine words,1\nshort one\n", "line 3 of .* has 1 columns, expected 2"),
        ("text,id\n", "has 0 distinct samples"),
        ("text,id\nfine,1\nbad \xe9\n".encode("latin-1"), "line 3 of .* not UTF-8"),
        ("", "is empty"),
        ("text,id\rfine words,1\rmore words,2\r", "line 1 of .* is not CSV"),
    ],
)
def test_malformed_csv_names_the_line(write: Write, content: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_samples(write("a.csv", content))


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        ('text,id\n"never closed,1\n', "never closed"),
        ("text,id\rfine words,1\r", "carriage returns"),
        ('text,id\n"a "quoted" word",1\n', "double the quotes"),
    ],
)
def test_malformed_csv_says_how_to_mend_it(write: Write, content: str, hint: str) -> None:
    with pytest.raises(DataError) as caught:
        load_samples(write("a.csv", content))
    assert hint in str(caught.value.hint)


def test_a_long_text_in_csv_is_a_text(write: Write) -> None:
    """Python's own limit is 128 KiB."""
    rows = [f'"{"long text, " * 15_000}{index}",{index}' for index in range(8)]
    data = load_samples(write("a.csv", "text,id\n" + lines(rows)))
    assert {len(text) for text in plain(data.samples)} == {165_001}


def test_quotes_in_tsv_are_characters(write: Write) -> None:
    rows = [f'"Open quote {i}\tsecond "quoted" part {i}' for i in range(10)]
    rows += ['"whole cell, ""doubled"" inside"\tother text here']
    data = load_samples(write("a.tsv", lines(rows)))
    assert '"Open quote 3' in plain(data.samples)
    assert 'second "quoted" part 3' in plain(data.samples)
    assert 'whole cell, "doubled" inside' in plain(data.samples)


def test_extra_cells_of_tsv_are_left_out(write: Write) -> None:
    rows = [f"{TEXTS[i]}\t{NOTES[i]}" + ("\textra" if i > 10 else "") for i in range(20)]
    assert sorted(plain(load_samples(write("a.tsv", lines(rows))).samples)) == sorted(TEXTS + NOTES)
    with pytest.raises(DataError, match=r"line 21 of .* has 1 columns, expected 2"):
        load_samples(write("b.tsv", lines([*rows, "alone"])))


def test_json_lines_may_be_texts_or_lists(write: Write) -> None:
    texts = load_samples(write("a.jsonl", lines([json.dumps(text) for text in TEXTS])))
    assert sorted(plain(texts.samples)) == sorted(TEXTS)
    pairs = load_samples(
        write("b.jsonl", lines([json.dumps([a, b]) for a, b in zip(TEXTS, NOTES, strict=True)])), column="1,2"
    )
    assert sorted(plain(pairs.samples)) == sorted(zip(TEXTS, NOTES, strict=True))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json}", "line 21 of .* is not JSON"),
        ("[" * 100_000, "line 21 of .* is not JSON"),
        ('{"text": "half \\ud800"}', "line 21 of `a.jsonl`: column `text` is not valid Unicode text"),
        ("17", "line 21 of .* is int, expected an object"),
        ('{"text": 4.5}', r"line 21 of `a.jsonl`: column `text` holds 4.5 \(float\), expected text"),
    ],
)
def test_malformed_json_names_the_line(write: Write, line: str, message: str) -> None:
    path = write("a.jsonl", lines([*(json.dumps({"text": text}) for text in TEXTS), line]))
    with pytest.raises(DataError, match=message):
        load_samples(path, column="text")


def test_missing_cells_are_blank(write: Write) -> None:
    rows = [{"text": text} for text in TEXTS] + [{"other": "x y"}, {"text": None}, {"text": " "}]
    data = load_samples(write("a.jsonl", lines([json.dumps(row) for row in rows])), column="text")
    assert (len(data), data.blank) == (20, 3)


def test_a_damaged_parquet_file_is_refused(write: Write) -> None:
    with pytest.raises(DataError, match="not a readable parquet file"):
        load_samples(write("a.parquet", b"PAR1 and then nothing"))


def test_parquet_without_pyarrow_names_the_extra(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = table_files(write)["parquet"]
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError) as caught:
        load_samples(path)
    assert caught.value.hint == "pip install 'edgeq[data]'"
