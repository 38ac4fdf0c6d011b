"""Safetensors headers: what is read, and every way a checkpoint can be broken."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from edgeq.errors import ModelError, UnsupportedError
from edgeq.quantize.streaming import Checkpoint

A = np.arange(12, dtype=np.float32).reshape(3, 4)


def whole(tensor):
    return np.concatenate(list(tensor.float_pieces())).reshape(tensor.shape)


def test_reads_what_the_library_writes(tmp_path):
    save_file({"b": A, "a": A.astype(np.float16), "n": np.arange(3)}, tmp_path / "model.safetensors")
    checkpoint = Checkpoint.open(tmp_path)
    assert set(checkpoint.names()) == {"a", "b", "n"}
    assert np.array_equal(whole(checkpoint["b"]), A) and np.array_equal(whole(checkpoint["a"]), A)
    assert checkpoint["n"].dtype == "int64" and checkpoint.nbytes == 48 + 24 + 24


def test_bfloat16_bits(tmp_path, write_checkpoint):
    # 1, -2, 0.5 and the smallest step above 1.
    values = np.array([[1, -2], [0.5, 1.0078125]], np.float32)
    path = write_checkpoint(tmp_path / "x.safetensors", {"w": (values, "BF16")})
    assert np.array_equal(whole(Checkpoint.open(path)["w"]), values)


def test_shards(tmp_path, write_checkpoint):
    write_checkpoint(tmp_path / "one.safetensors", {"a": (A, "F32")})
    write_checkpoint(tmp_path / "two.safetensors", {"b": (A + 1, "F32")})
    index(tmp_path, {"a": "one.safetensors", "b": "two.safetensors"})
    checkpoint = Checkpoint.open(tmp_path)
    assert checkpoint.names() == ("a", "b") and np.array_equal(whole(checkpoint["b"]), A + 1)


def index(folder, weight_map):
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map})
    )


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": "one.safetensors", "b": "gone.safetensors"}, "1 are missing: gone.safetensors"),
        ({"a": "one.safetensors", "c": "one.safetensors"}, "`c` is in `one.safetensors`, which has no such"),
        ({"a": "../one.safetensors"}, "not a plain file"),
        ({"a": "one.safetensors", "b": "two.safetensors"}, "`a` is in `two.safetensors`, but"),
        ({}, "no `weight_map`"),
    ],
)
def test_broken_indices(tmp_path, write_checkpoint, weight_map, message):
    write_checkpoint(tmp_path / "one.safetensors", {"a": (A, "F32")})
    write_checkpoint(tmp_path / "two.safetensors", {"a": (A, "F32"), "b": (A, "F32")})
    index(tmp_path, weight_map)
    with pytest.raises(ModelError, match=message):
        Checkpoint.open(tmp_path)


def test_a_truncated_shard(tmp_path, write_checkpoint):
    write_checkpoint(tmp_path / "one.safetensors", {"a": (A, "F32")}, cut=5)
    index(tmp_path, {"a": "one.safetensors"})
    with pytest.raises(ModelError, match="43 bytes of tensors, expected 48: it is truncated"):
        Checkpoint.open(tmp_path)


def test_a_file_cut_while_it_is_read(tmp_path, write_checkpoint):
    path = write_checkpoint(tmp_path / "m.safetensors", {"a": (A, "F32")})
    tensor = Checkpoint.open(path)["a"]
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ModelError, match="ends inside `a`"):
        whole(tensor)


ENTRY = '{"dtype": "F32", "shape": [3, 4], "data_offsets": [0, 48]}'


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (f'{{"a": {ENTRY}, "a": {ENTRY}}}', "`a` twice"),
        (f'{{"a": {ENTRY}, "b": {ENTRY}}}', "`b` at bytes 0 to 48, expected to begin at 48"),
        ('{"a": {"dtype": "F32", "shape": [3, 5], "data_offsets": [0, 48]}}', "48 bytes, expected 60"),
        ('{"a": {"dtype": "F32", "shape": [3, -4], "data_offsets": [0, 48]}}', "malformed entry `a`"),
        ('{"a": {"dtype": "F32", "shape": [3, 4], "data_offsets": [4, 52]}}', "expected to begin at 0"),
        ('{"a": {"shape": [3, 4]}}', "malformed entry"),
        ('{"a": 5}', "malformed entry"),
        ("[]", "is list, not an object"),
        ('{"a"', "not JSON"),
        ("{}", "followed by other data"),
    ],
)
def test_broken_headers(tmp_path, write_checkpoint, header, message):
    path = write_checkpoint(tmp_path / "m.safetensors", {"a": (A, "F32")}, header=header.encode())
    with pytest.raises(ModelError, match=message):
        Checkpoint.open(path)


@pytest.mark.parametrize("content", [b"", b"1234", (1 << 40).to_bytes(8, "little") + b"{}"])
def test_no_room_for_a_header(tmp_path, content):
    (tmp_path / "m.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match="a header of"):
        Checkpoint.open(tmp_path / "m.safetensors")


def test_folders_without_a_checkpoint(tmp_path, write_checkpoint):
    with pytest.raises(ModelError, match=r"no model\.safetensors or"):
        Checkpoint.open(tmp_path)
    write_checkpoint(tmp_path / "model-00001-of-00002.safetensors", {"a": (A, "F32")})
    with pytest.raises(ModelError, match="1 safetensors files but no"):
        Checkpoint.open(tmp_path)
    with pytest.raises(ModelError, match="is no safetensors checkpoint"):
        Checkpoint.open(tmp_path / "weights.bin")
    with pytest.raises(ModelError, match="cannot be read"):
        Checkpoint.open(tmp_path / "gone.safetensors")


def test_unknown_names_and_types(tmp_path, write_checkpoint):
    header = b'{"fc.weight": {"dtype": "F8_E4M3", "shape": [48], "data_offsets": [0, 48]}}'
    checkpoint = Checkpoint.open(
        write_checkpoint(tmp_path / "m.safetensors", {"a": (A, "F32")}, header=header)
    )
    with pytest.raises(ModelError, match=r"no tensor `fc\.wieght`") as caught:
        checkpoint["fc.wieght"]
    assert caught.value.hint == "did you mean `fc.weight`?"
    with pytest.raises(UnsupportedError, match="holds F8_E4M3"):
        list(checkpoint["fc.weight"].pieces())


def test_a_tensor_beyond_4_gib(tmp_path):
    # A sparse file: the large tensor takes no space and is not read.
    big, entries = 5 << 30, {}
    entries["big"] = {"dtype": "F32", "shape": [big // 4], "data_offsets": [0, big]}
    entries["last"] = {"dtype": "F32", "shape": [3, 4], "data_offsets": [big, big + 48]}
    header = json.dumps(entries).encode()
    path = tmp_path / "m.safetensors"
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.seek(big, 1)
        file.write(A.tobytes())
    last = Checkpoint.open(path)["last"]
    assert np.array_equal(whole(last), A)
    reference = last.reference()
    assert reference.offset > 1 << 32 and np.array_equal(reference.numpy(), A)
