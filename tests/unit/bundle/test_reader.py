from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeq.bundle.archive import write_archive
from edgeq.bundle.golden import GoldenCase, write_golden, write_npz
from edgeq.bundle.read_golden import read_golden
from edgeq.bundle.reader import looks_like_bundle, open_bundle
from edgeq.errors import GateError, IntegrityError, ModelError, OutputError
from edgeq.files import sha256_file
from edgeq.samples import Text, TextPair


def _flip(path: Path, at: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def _every_file(bundle: Path) -> list[str]:
    return sorted(p.relative_to(bundle).as_posix() for p in bundle.rglob("*") if p.is_file())


def _edit_manifest(bundle: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Change the manifest as an attacker would: with matching SHA256SUMS."""
    path = bundle / "edgeq.json"
    old = sha256_file(path)
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))
    sums = bundle / "SHA256SUMS"
    sums.write_text(sums.read_text().replace(old, sha256_file(path)))


def test_an_intact_bundle_opens(tiny_bundle: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    assert [variant.id for variant in bundle.variants] == ["cpu-fp32", "nnapi-fp32"]
    assert bundle.file("model/cpu-fp32/model.onnx") == tiny_bundle / "model/cpu-fp32/model.onnx"
    assert bundle.file("tokenizer") == tiny_bundle / "tokenizer"
    assert looks_like_bundle(tiny_bundle)
    assert not looks_like_bundle(tiny_bundle.parent)
    for unlisted in ("model/cpu-fp32/other", "token"):
        with pytest.raises(IntegrityError, match="not a file of the bundle"):
            bundle.file(unlisted)
    with pytest.raises(ModelError, match="has no variant `gpu`; it has cpu-fp32, nnapi-fp32"):
        bundle.variant("gpu")


def test_one_flipped_bit_in_any_file_is_found(tiny_bundle: Path) -> None:
    for name in _every_file(tiny_bundle):
        path = tiny_bundle / name
        original = path.read_bytes()
        # The last byte of the JSON files is their line end: a space is still JSON, so only the hash tells.
        changed = original[:-1] + b" " if name == "edgeq.json" else original[:-1] + bytes([original[-1] ^ 1])
        path.write_bytes(changed)
        with pytest.raises(IntegrityError, match="changed"):
            open_bundle(tiny_bundle)
        path.write_bytes(original)
    open_bundle(tiny_bundle)


def test_any_missing_file_is_found(tiny_bundle: Path) -> None:
    for name in _every_file(tiny_bundle):
        path = tiny_bundle / name
        hidden = tiny_bundle.parent / "hidden"
        path.rename(hidden)
        with pytest.raises(IntegrityError, match=path.name.replace(".", r"\.")):
            open_bundle(tiny_bundle)
        hidden.rename(path)


def test_an_unlisted_file_is_refused(tiny_bundle: Path) -> None:
    (tiny_bundle / "model/cpu-fp32/model.onnx.data").touch()
    with pytest.raises(IntegrityError, match=r"`model/cpu-fp32/model\.onnx\.data` is not listed"):
        open_bundle(tiny_bundle)


def test_a_truncated_model_is_named_with_both_sizes(tiny_bundle: Path) -> None:
    model = tiny_bundle / "model/cpu-fp32/model.onnx"
    size = model.stat().st_size
    os.truncate(model, size // 2)
    with pytest.raises(IntegrityError, match=rf"has {size // 2} bytes; the manifest says {size}"):
        open_bundle(tiny_bundle)


def test_links_are_refused_even_when_they_lead_to_the_right_bytes(tiny_bundle: Path) -> None:
    model = tiny_bundle / "model/cpu-fp32/model.onnx"
    copy = tiny_bundle.parent / "copy.onnx"
    model.rename(copy)
    model.symlink_to(copy)
    with pytest.raises(IntegrityError, match="symbolic link"):
        open_bundle(tiny_bundle)


def test_a_linked_folder_is_refused(tiny_bundle: Path) -> None:
    elsewhere = tiny_bundle.parent / "elsewhere"
    (tiny_bundle / "model").rename(elsewhere)
    (tiny_bundle / "model").symlink_to(elsewhere)
    with pytest.raises(IntegrityError, match="symbolic link"):
        open_bundle(tiny_bundle)


@pytest.mark.parametrize(
    "path", ["../outside.bin", "/etc/hostname", "model\\x", "model/../edgeq.json", "C:/x"]
)
def test_listed_paths_must_stay_inside(tiny_bundle: Path, path: str) -> None:
    outside = tiny_bundle.parent / "outside.bin"
    outside.write_bytes(b"secret")
    entry = {"path": path, "size": 6, "sha256": sha256_file(outside)}
    _edit_manifest(tiny_bundle, lambda document: document["integrity"]["files"].append(entry))
    with pytest.raises(IntegrityError, match="unsafe path"):
        open_bundle(tiny_bundle)


@pytest.mark.parametrize("path", ["../outside.onnx", "/etc/hostname"])
def test_a_variant_must_stay_inside(tiny_bundle: Path, path: str) -> None:
    _edit_manifest(tiny_bundle, lambda document: document["variants"][0].update(models={"model": path}))
    with pytest.raises(IntegrityError, match=r"not in integrity\.files"):
        open_bundle(tiny_bundle)


def test_the_manifest_cannot_list_itself(tiny_bundle: Path) -> None:
    entry = {"path": "SHA256SUMS", "size": 0, "sha256": "0" * 64}
    _edit_manifest(tiny_bundle, lambda document: document["integrity"]["files"].append(entry))
    with pytest.raises(IntegrityError, match="cannot hold its own hash"):
        open_bundle(tiny_bundle)


def test_a_newer_major_format_is_refused_first(tiny_bundle: Path) -> None:
    (tiny_bundle / "edgeq.json").write_text('{"format": {"name": "edgeq", "version": "3.2"}}')
    with pytest.raises(IntegrityError, match=r"format 3\.2; this edgeq reads format 2\.0"):
        open_bundle(tiny_bundle)


def test_without_verify_only_the_hashes_are_skipped(tiny_bundle: Path) -> None:
    _flip(tiny_bundle / "model/cpu-fp32/model.onnx")
    open_bundle(tiny_bundle, verify=False)
    (tiny_bundle / "extra").touch()
    with pytest.raises(IntegrityError, match="not listed"):
        open_bundle(tiny_bundle, verify=False)


def test_nothing_there_and_not_a_bundle(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no bundle at"):
        open_bundle(tmp_path / "none")
    with pytest.raises(IntegrityError, match=r"is not a bundle: it has no `edgeq\.json`"):
        open_bundle(tmp_path)


def test_what_is_no_file_is_never_read(tmp_path: Path) -> None:
    """A pipe would be waited for, and /dev/zero read until memory ends."""
    os.mkfifo(tmp_path / "pipe.edgeq")
    for path in (tmp_path / "pipe.edgeq", Path(os.devnull)):
        with pytest.raises(ModelError, match="neither a folder nor a file"):
            open_bundle(path)


def test_a_failed_bundle_needs_force(tiny: Any, tmp_path: Path) -> None:
    tiny.build_failed(tmp_path / "bundle")
    with pytest.raises(GateError, match=r"cpu-fp32 cosine_mean is 0\.5, required >= 0\.99"):
        open_bundle(tmp_path / "bundle")
    assert open_bundle(tmp_path / "bundle", force=True).manifest.status == "failed"


def test_force_does_not_excuse_a_changed_file(tiny: Any, tmp_path: Path) -> None:
    bundle = tiny.build_failed(tmp_path / "bundle")
    _flip(bundle.path / "model/cpu-fp32/model.onnx")
    with pytest.raises(IntegrityError):
        open_bundle(tmp_path / "bundle", force=True)


# Golden cases


def test_golden_cases_have_every_stage(tiny: Any, tiny_bundle: Path) -> None:
    (case,) = open_bundle(tiny_bundle).golden_cases()
    assert case.samples == (Text("the cat sat"), Text("a dog ran the cats"))
    words = tiny.words.index
    assert case.token_ids[0] == [words(w) for w in ("[CLS]", "the", "cat", "sat", "[SEP]")]
    assert case.token_ids[1][-3:] == [words(w) for w in ("cat", "##s", "[SEP]")]
    again = tiny.preprocessor()(case.samples)
    for name, array in case.feeds.items():
        np.testing.assert_array_equal(array, again[name])
    assert sorted(case.outputs) == ["cpu-fp32", "nnapi-fp32"]
    for outputs in case.outputs.values():
        # Sums of at most 9 float32 values of size 1 to 3.
        np.testing.assert_allclose(
            outputs["sentence_embedding"], case.reference["sentence_embedding"], atol=2e-6
        )
    assert np.abs(case.reference["sentence_embedding"]).max() > 0.1


def test_golden_samples_are_texts_and_lists_of_two_in_json(tmp_path: Path) -> None:
    samples = (Text("ü"), TextPair("a", "b"))
    rows = np.zeros((2, 1), np.float32)
    case = GoldenCase("case", samples, {"x": rows}, {"y": rows}, {"v": {"y": rows}})
    entries = write_golden(tmp_path, [case], {"case": ()})
    written = (tmp_path / "golden" / "golden.json").read_text(encoding="utf-8")
    assert json.loads(written)["cases"][0]["samples"] == ["ü", ["a", "b"]]
    assert read_golden(tmp_path, entries)[0].samples == samples
    (tmp_path / "golden" / "golden.json").write_text(written.replace('"ü"', '["ü"]'), encoding="utf-8")
    with pytest.raises(IntegrityError, match=r"`case` is \['ü'\], expected a text or a pair of texts"):
        read_golden(tmp_path, entries)


def test_golden_npz_round_trip_keeps_types_and_shapes(tmp_path: Path) -> None:
    arrays = {
        "inputs/a": np.arange(6, dtype=np.int64).reshape(2, 3).T,
        "reference/b": np.float32(1.5).reshape(()),
        "outputs/v/c": np.array([[True, False]]),
    }
    write_npz(tmp_path / "x.npz", arrays)
    with np.load(tmp_path / "x.npz", allow_pickle=False) as read:
        assert sorted(read.files) == sorted(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(read[name], array)
            assert (read[name].dtype, read[name].shape) == (array.dtype, array.shape)


def test_golden_arrays_are_never_pickles(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="allow_pickle"):
        write_npz(tmp_path / "x.npz", {"x": np.array([object()])})


# Archives


@pytest.fixture
def archive(tiny_bundle: Path) -> Path:
    return write_archive(tiny_bundle)


def test_an_archive_opens_like_its_folder_and_cleans_up(archive: Path, tiny_bundle: Path) -> None:
    with open_bundle(archive) as bundle:
        folder = bundle.folder
        assert bundle.manifest == open_bundle(tiny_bundle).manifest
        assert folder != tiny_bundle
        assert folder.is_dir()
        assert folder.stat().st_mode & 0o077 == 0
    assert not folder.exists()


def test_a_forgotten_archive_is_cleaned_up_too(archive: Path) -> None:
    folder = open_bundle(archive).folder
    assert not folder.exists()


def test_an_existing_archive_is_kept_without_force(archive: Path, tiny_bundle: Path) -> None:
    with pytest.raises(OutputError, match="exists"):
        write_archive(tiny_bundle)
    write_archive(tiny_bundle, force=True)


def _rewrite(
    archive: Path, edit: Callable[[list[tuple[zipfile.ZipInfo, bytes]]], None], **options: Any
) -> None:
    with zipfile.ZipFile(archive) as source:
        entries = [(zipfile.ZipInfo(info.filename), source.read(info)) for info in source.infolist()]
    edit(entries)
    with zipfile.ZipFile(archive, "w", **options) as target:
        for info, data in entries:
            info.compress_type = options.get("compression", zipfile.ZIP_STORED)
            target.writestr(info, data)


def _temporary_folders() -> set[str]:
    import tempfile

    return {name for name in os.listdir(tempfile.gettempdir()) if name.startswith("edgeq-")}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../escape.txt", "unsafe path"),
        ("/abs.txt", "unsafe path"),
        ("extra.txt", "not listed"),
        ("d/", "regular"),
        ("d/" * 2000 + "x", "too long"),
        ("x" * 300, "too long"),
    ],
)
def test_hostile_entries_are_refused(
    archive: Path, name: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    _rewrite(archive, lambda entries: entries.append((zipfile.ZipInfo(name), b"x")))
    with pytest.raises(IntegrityError, match=message):
        open_bundle(archive)
    assert os.listdir(tmp_path / "tmp") == []
    assert not (tmp_path / "escape.txt").exists()


def test_a_link_entry_is_refused(archive: Path) -> None:
    link = zipfile.ZipInfo("model/link")
    link.external_attr = 0o120777 << 16
    _rewrite(archive, lambda entries: entries.append((link, b"/etc/passwd")))
    with pytest.raises(IntegrityError, match="not a regular file"):
        open_bundle(archive)


def test_a_compressed_archive_is_refused(archive: Path) -> None:
    _rewrite(archive, lambda _: None, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(IntegrityError, match="compressed"):
        open_bundle(archive)


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_an_entry_that_is_there_twice_is_refused(archive: Path) -> None:
    _rewrite(archive, lambda entries: entries.append((zipfile.ZipInfo("EDGEQ.json"), b"{}")))
    with pytest.raises(IntegrityError, match="twice"):
        open_bundle(archive)


def test_a_file_that_is_also_a_folder_is_refused(archive: Path) -> None:
    _rewrite(archive, lambda entries: entries.append((zipfile.ZipInfo("edgeq.json/x"), b"{}")))
    with pytest.raises(IntegrityError, match="not listed in its manifest"):
        open_bundle(archive)


def test_a_flipped_bit_anywhere_in_an_archives_files_is_found(archive: Path) -> None:
    original = archive.read_bytes()
    with zipfile.ZipFile(archive) as source:
        # Local header: 30 bytes, name, alignment padding; then the data.
        starts = [
            info.header_offset
            + 30
            + len(info.filename)
            + int.from_bytes(original[info.header_offset + 28 : info.header_offset + 30], "little")
            for info in source.infolist()
        ]
    for start in starts:
        data = bytearray(original)
        data[start] ^= 1
        archive.write_bytes(data)
        with pytest.raises(IntegrityError):
            open_bundle(archive)


@pytest.mark.parametrize("keep", [0, 1, 100, 20000])
def test_a_truncated_archive_is_refused(archive: Path, keep: int) -> None:
    os.truncate(archive, keep)
    with pytest.raises(IntegrityError, match="not an intact bundle archive"):
        open_bundle(archive)


def test_entries_may_not_claim_more_than_the_archive_has(archive: Path) -> None:
    # Many central entries for the same bytes: the trick of overlapping zip bombs.
    with zipfile.ZipFile(archive, "a") as target:
        largest = max(target.infolist(), key=lambda info: info.file_size)
        for index in range(200):
            clone = zipfile.ZipInfo(f"x{index}")
            clone.header_offset, clone.CRC = largest.header_offset, largest.CRC
            clone.compress_size = clone.file_size = largest.file_size * 100
            target.filelist.append(clone)
        target._didModify = True  # type: ignore[attr-defined]
    with pytest.raises(IntegrityError, match="claim more bytes"):
        open_bundle(archive)


def test_nothing_is_made_of_an_archive_whose_manifest_does_not_list_it(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []
    mkdir = Path.mkdir
    monkeypatch.setattr(Path, "mkdir", lambda self, *a, **k: (made.append(self), mkdir(self, *a, **k))[1])
    deep = [(zipfile.ZipInfo(f"{number}/" + "d/" * 200 + "x"), b"") for number in range(50)]
    _rewrite(archive, lambda entries: entries.extend(deep))
    with pytest.raises(IntegrityError, match="not listed in its manifest"):
        open_bundle(archive)
    assert len(made) == 1, "only the folder that it would be unpacked into"


def test_an_entry_of_another_size_than_listed_is_refused(archive: Path) -> None:
    def longer(entries: list[Any]) -> None:
        place = next(i for i, (info, _) in enumerate(entries) if info.filename.startswith("model/"))
        entries[place] = (entries[place][0], entries[place][1] + b" ")

    _rewrite(archive, longer)
    with pytest.raises(IntegrityError, match="bytes; the manifest says"):
        open_bundle(archive)


def test_a_directory_of_very_many_entries_is_not_read(archive: Path) -> None:
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_STORED) as target:
        for number in range(25_000):
            target.writestr(zipfile.ZipInfo("x" * 60 + str(number)), b"")
    with pytest.raises(IntegrityError, match="to be read at once"):
        open_bundle(archive)


@pytest.mark.parametrize("name", ["empty", "model/cpu-fp32/empty", "a/b/c"])
def test_an_empty_folder_is_refused(tiny_bundle: Path, name: str) -> None:
    (tiny_bundle / name).mkdir(parents=True)
    with pytest.raises(IntegrityError, match=f"the empty folder `{name}/` is not listed"):
        open_bundle(tiny_bundle)


def test_a_name_that_is_not_utf_8_is_refused(tiny_bundle: Path) -> None:
    Path(os.fsdecode(os.fsencode(tiny_bundle) + b"/caf\xe9")).touch()
    with pytest.raises(IntegrityError, match=r"the name of `caf\\udce9` is not UTF-8"):
        open_bundle(tiny_bundle)


def _sign(bundle: Path) -> None:
    from edgeq.bundle.integrity import SUMS_FILE, measure, sums_text

    document = json.loads((bundle / "edgeq.json").read_text())
    integrity = measure(bundle)
    files = [{"path": e.path, "size": e.size, "sha256": e.sha256} for e in integrity.files]
    document["integrity"]["files"] = files
    (bundle / "edgeq.json").write_text(json.dumps(document))
    (bundle / SUMS_FILE).write_text(sums_text(bundle, integrity))


def test_a_model_that_reads_other_files_or_needs_other_libraries_is_refused(tiny_bundle: Path) -> None:
    import onnx

    path = tiny_bundle / "model/cpu-fp32/model.onnx"
    good = onnx.load(path)

    def opened(change: Callable[[Any], object]) -> None:
        model = onnx.ModelProto()
        model.CopyFrom(good)
        change(model.graph)
        path.write_bytes(model.SerializeToString())
        _sign(tiny_bundle)
        open_bundle(tiny_bundle)

    def read_passwords(graph: Any) -> None:
        tensor = graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = 1
        tensor.external_data.add(key="location", value="../../../etc/passwd")

    opened(lambda graph: None)
    with pytest.raises(IntegrityError, match="operators of `evil`"):
        opened(lambda graph: setattr(graph.node[0], "domain", "evil"))
    with pytest.raises(IntegrityError, match="unsafe path"):
        opened(read_passwords)
