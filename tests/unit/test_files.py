from __future__ import annotations

import errno
import os
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeq.errors import IntegrityError, OutputError
from edgeq.files import (
    atomic_write_bytes,
    atomic_write_text,
    check_free_space,
    check_output,
    check_output_file,
    contained_path,
    list_files,
    not_utf8,
    sha256_file,
    write_zip,
)


def test_sha256_of_a_known_text(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1.
    assert sha256_file(tmp_path / "f") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_atomic_write_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "f.txt"
    target.write_text("old")
    atomic_write_text(target, "new\nline ü")
    assert target.read_bytes() == "new\nline ü".encode()
    assert os.listdir(tmp_path) == ["f.txt"]
    assert target.stat().st_mode & 0o777 == 0o644


def test_failed_atomic_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "f"
    target.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        atomic_write_bytes(target, b"new")
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["f"]


@pytest.mark.parametrize(
    "relative",
    [
        "",
        "/etc/passwd",
        "..",
        "../x",
        "a/../b",
        "a/./b",
        "a//b",
        "a/",
        "a\\b",
        "..\\x",
        "C:/x",
        "C:x",
        "a\0b",
        ".",
    ],
)
def test_unsafe_paths_are_refused(tmp_path: Path, relative: str) -> None:
    with pytest.raises(IntegrityError, match="unsafe path"):
        contained_path(tmp_path, relative)


def test_safe_paths_are_taken_as_they_are(tmp_path: Path) -> None:
    assert contained_path(tmp_path, "a/b..c/...d") == tmp_path / "a" / "b..c" / "...d"


@given(st.text(max_size=30))
def test_whatever_is_accepted_stays_inside(relative: str) -> None:
    root = Path("/srv/bundle")
    try:
        path = contained_path(root, relative)
    except IntegrityError:
        return
    assert os.path.normpath(path) == str(path)
    assert path.is_relative_to(root)
    assert path != root


def test_a_link_on_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert contained_path(tmp_path, "real/x") == tmp_path / "real/x"
    with pytest.raises(IntegrityError, match="symbolic link"):
        contained_path(tmp_path, "link/x")


def test_list_files_refuses_links_and_pipes(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b/f").touch()
    (tmp_path / "a").touch()
    assert list_files(tmp_path) == ["a", "b/f"]
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(IntegrityError, match="not a regular file"):
        list_files(tmp_path)
    (tmp_path / "pipe").unlink()
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(IntegrityError, match="symbolic link"):
        list_files(tmp_path)


def test_output_must_not_exist_unless_forced(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    check_output(bundle, force=False)  # an empty folder may be used
    (bundle / "edgeq.json").touch()
    with pytest.raises(OutputError, match="exists"):
        check_output(bundle, force=False)
    check_output(bundle, force=True)


def test_force_never_replaces_what_is_not_a_bundle(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home/thesis.txt").touch()
    (tmp_path / "notes.txt").touch()
    for path in (tmp_path / "home", tmp_path / "notes.txt"):
        with pytest.raises(OutputError, match="not a bundle"):
            check_output(path, force=True)


def test_output_parent_must_be_a_writable_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="is not a folder"):
        check_output(tmp_path / "file/bundle", force=False)
    check_output(tmp_path / "new/deep/bundle", force=False)
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]

    monkeypatch.setattr("edgeq.files.tempfile.mkdtemp", _read_only)
    with pytest.raises(OutputError, match="not writable"):
        check_output(tmp_path / "bundle", force=False)


def test_a_single_file_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_output_file(tmp_path / "page.html", "--report")
    (tmp_path / "old.html").touch()
    check_output_file(tmp_path / "old.html", "--report")
    for path, problem in (
        (tmp_path, "not a file"),
        (tmp_path / "new/page.html", "not a folder"),
        (tmp_path / "old.html/page.html", "not a folder"),
        (tmp_path / ("n" * 201), "expected at most 200"),
    ):
        with pytest.raises(OutputError, match=problem) as caught:
            check_output_file(path, "--report")
        assert "--report" in str(caught.value.hint)
    monkeypatch.setattr("edgeq.files.tempfile.mkdtemp", _read_only)
    with pytest.raises(OutputError, match=r"cannot write `.*page\.html`: `.*` is not writable") as caught:
        check_output_file(tmp_path / "page.html", "--report")
    assert caught.value.hint == "choose another place with --report"


def _read_only(*_: object, **__: object) -> str:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


def test_a_failed_write_names_no_hidden_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="page") as caught:
        atomic_write_text(tmp_path / "nowhere/page.html", "")
    assert caught.value.filename == str(tmp_path / "nowhere/page.html")


@pytest.mark.parametrize(
    ("data", "where"),
    [
        (b"\xff", "line 1 of it is not UTF-8: byte 0xff at position 1"),
        (b"a\n\nbc\xe9d", "line 3 of it is not UTF-8: byte 0xe9 at position 3"),
    ],
)
def test_where_a_text_is_no_text(data: bytes, where: str) -> None:
    with pytest.raises(UnicodeDecodeError) as caught:
        data.decode()
    assert not_utf8("it", caught.value) == where


def test_a_full_disk_is_found_out_early(tmp_path: Path) -> None:
    check_free_space(tmp_path, 1)
    with pytest.raises(OutputError, match="not enough space"):
        check_output(tmp_path / "bundle", force=False, needed_bytes=1 << 62)


def _zip(tmp_path: Path, name: str, alignment: int = 16384) -> Path:
    write_zip(tmp_path / name, tmp_path / "in", ["z.bin", "a/ü.txt", "empty"], alignment=alignment)
    return tmp_path / name


@pytest.fixture
def zip_input(tmp_path: Path) -> Path:
    (tmp_path / "in/a").mkdir(parents=True)
    (tmp_path / "in/z.bin").write_bytes(bytes(range(256)) * 100)
    (tmp_path / "in/a/ü.txt").write_text("hello")
    (tmp_path / "in/empty").touch()
    return tmp_path


def test_zip_is_aligned_stored_and_in_order(zip_input: Path) -> None:
    path = _zip(zip_input, "x.zip")
    raw = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["z.bin", "a/ü.txt", "empty"]
        for info in archive.infolist():
            assert info.compress_type == zipfile.ZIP_STORED
            assert info.date_time == (1980, 1, 1, 0, 0, 0)
            name_bytes, extra_bytes = (
                int.from_bytes(raw[info.header_offset + at : info.header_offset + at + 2], "little")
                for at in (26, 28)
            )
            data = info.header_offset + 30 + name_bytes + extra_bytes
            assert data % 16384 == 0
            assert raw[data : data + info.file_size] == archive.read(info)


def test_zip_bytes_do_not_depend_on_time_or_permissions(zip_input: Path) -> None:
    first = _zip(zip_input, "1.zip").read_bytes()
    os.utime(zip_input / "in/z.bin", (1, 1))
    (zip_input / "in/z.bin").chmod(0o755)
    assert _zip(zip_input, "2.zip").read_bytes() == first
    (zip_input / "in/z.bin").write_bytes(b"other")
    assert _zip(zip_input, "3.zip").read_bytes() != first


def test_failed_zip_leaves_nothing(zip_input: Path) -> None:
    before = sorted(os.listdir(zip_input))
    with pytest.raises(FileNotFoundError):
        write_zip(zip_input / "x.zip", zip_input / "in", ["z.bin", "missing"])
    assert sorted(os.listdir(zip_input)) == before


@pytest.mark.parametrize(
    ("name", "message"), [("n" * 230, "at most 200"), (os.fsdecode(b"out\xff"), "not UTF-8")]
)
def test_names_that_would_fail_after_the_work_are_refused_before(
    tmp_path: Path, name: str, message: str
) -> None:
    with pytest.raises(OutputError, match=message):
        check_output(tmp_path / name, force=False)
    check_output(tmp_path / ("n" * 200), force=False)


def test_force_is_only_suggested_where_it_helps(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle/edgeq.json").touch()
    for path, suggests in ((tmp_path / "notes.txt", False), (tmp_path / "bundle", True)):
        with pytest.raises(OutputError) as caught:
            check_output(path, force=False)
        assert ("--force" in str(caught.value.hint)) is suggests


@pytest.mark.parametrize(
    "name",
    [
        "con",
        "NUL",
        "aux.txt",
        "Com1.onnx",
        "lpt9",
        "com\u00b9",
        "conin$",
        "prn .x",
        "a.",
        "b ",
        "x:y",
        "a?",
        "a|b",
    ],
)
def test_names_that_windows_cannot_have_are_refused(tmp_path: Path, name: str) -> None:
    for path in (name, f"model/{name}", f"{name}/model.onnx"):
        with pytest.raises(IntegrityError, match="unsafe path"):
            contained_path(tmp_path, path)


@pytest.mark.parametrize(
    "name", ["console.txt", "com10", "null", "auxiliary", "lpt", "a.con", ".hidden", "caf\u00e9 1"]
)
def test_names_that_only_look_like_devices_are_taken(tmp_path: Path, name: str) -> None:
    assert contained_path(tmp_path, name) == tmp_path / name


def test_of_two_who_write_one_zip_without_force_one_does(zip_input: Path, tmp_path: Path) -> None:
    names = list_files(zip_input)
    destination = tmp_path / "other.edgeq"
    write_zip(destination, zip_input, names, replace=False)
    before = destination.read_bytes()
    with pytest.raises(FileExistsError):
        write_zip(destination, zip_input, names[:1], replace=False)
    assert destination.read_bytes() == before
    assert [name for name in os.listdir(tmp_path) if name.startswith(".other")] == []
    write_zip(destination, zip_input, names[:1], replace=True)
    assert destination.read_bytes() != before
