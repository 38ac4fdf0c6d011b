"""GGUF files that are damaged, hostile, or of a kind that edgeq does not take: each refused by name."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeq.errors import EdgeqError, ModelError, UnsupportedError
from edgeq.exporters import inspect_model
from edgeq.exporters.gguf import inspect_gguf, unpack

gguf = pytest.importorskip("gguf")


@pytest.fixture(scope="module")
def good(
    tiny_decoder: Callable[..., Path], gguf_files: Any, tmp_path_factory: pytest.TempPathFactory
) -> bytes:
    path = tmp_path_factory.mktemp("gguf") / "m.gguf"
    return Path(gguf_files.write_gguf(path, tiny_decoder("llama"), "Q8_0")).read_bytes()


def written(folder: Path, data: bytes) -> Path:
    path = folder / "m.gguf"
    path.write_bytes(data)
    return path


def test_the_whole_file_is_fine(good: bytes, tmp_path: Path) -> None:
    assert inspect_model(written(tmp_path, good)).is_supported


@pytest.mark.parametrize("size", [0, 3, 4, 20, 24, 200, 3000, -100_000, -40, -1])
def test_truncated_anywhere(good: bytes, size: int, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"truncated|no GGUF file|damaged"):
        inspect_gguf(written(tmp_path, good[:size]))


def test_there_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no file"):
        inspect_model(tmp_path / "none.gguf")


def test_a_folder_with_the_name_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").mkdir()
    with pytest.raises(ModelError, match=r"m.gguf` is a folder, expected a GGUF file"):
        inspect_model(tmp_path / "m.gguf")


def test_another_kind_of_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no GGUF file: it starts with b'PK"):
        inspect_gguf(written(tmp_path, b"PK\x03\x04" + bytes(100)))


@pytest.mark.parametrize(
    ("version", "message"),
    [(1, "GGUF version 1"), (99, "GGUF version 99"), (3 << 24, "big-endian")],
)
def test_versions(good: bytes, version: int, message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message):
        inspect_gguf(written(tmp_path, good[:4] + struct.pack("<I", version) + good[8:]))


@pytest.mark.parametrize("at", [8, 16])
def test_counts_beyond_reason(good: bytes, at: int, tmp_path: Path) -> None:
    data = good[:at] + struct.pack("<Q", 2**60) + good[at + 8 :]
    with pytest.raises(ModelError, match="it is damaged"):
        inspect_gguf(written(tmp_path, data))


def test_a_string_longer_than_the_file(good: bytes, tmp_path: Path) -> None:
    data = good[:24] + struct.pack("<Q", 2**40) + good[32:]
    with pytest.raises(ModelError, match="damaged or truncated"):
        inspect_gguf(written(tmp_path, data))


def metadata(kind: bytes, value: bytes) -> bytes:
    """A file of one key and no tensors."""
    return b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"k" + kind + value


ARRAY = struct.pack("<I", 9)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        # The package loops over these without an end: a slice beyond the file is empty, and no error.
        (struct.pack("<IQ", 4, 2**60), f"claims {2**60} values"),
        (struct.pack("<IQ", 0, 2**20), f"{2**20} bytes are wanted"),
        (struct.pack("<IQ", 8, 2**20), "bytes are wanted"),
        (struct.pack("<IQ", 9, 1) * 50_000, "nests arrays more than 4 deep"),
        (struct.pack("<IQ", 77, 1), "has type 77"),
    ],
)
def test_arrays_beyond_reason(value: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message):
        inspect_gguf(written(tmp_path, metadata(ARRAY, value)))


@pytest.mark.parametrize("shape", [(2**32, 2**32), (2**63, 2), (2**40, 1)])
def test_shapes_beyond_the_file(shape: tuple[int, int], good: bytes, tmp_path: Path) -> None:
    """Also products that wrap round to nothing in 64 bits."""
    at = good.index(b"blk.0.attn_q.weight") + len(b"blk.0.attn_q.weight") + 4
    data = good[:at] + struct.pack("<QQ", *shape) + good[at + 16 :]
    with pytest.raises(ModelError, match="reaches past the end"):
        inspect_gguf(written(tmp_path, data))


def test_changed_bytes_are_refused_or_read(good: bytes, tmp_path: Path) -> None:
    """Whatever one byte of the header becomes: an error of ours, or a model, and never without an end."""
    random = np.random.default_rng(0)
    names = good.index(b"blk.1.ffn_up.weight")
    outcomes = set()
    for _ in range(60):
        data = bytearray(good)
        data[int(random.integers(24, names))] ^= 1 << int(random.integers(8))
        try:
            inspect_gguf(written(tmp_path, bytes(data)))
            outcomes.add("read")
        except EdgeqError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


def test_an_unknown_tensor_type(good: bytes, tmp_path: Path) -> None:
    at = good.index(b"blk.0.attn_q.weight") + len(b"blk.0.attn_q.weight") + 4 + 16
    data = good[:at] + struct.pack("<I", 999) + good[at + 4 :]
    with pytest.raises(UnsupportedError, match=r"tensor type that is not known: .*999"):
        inspect_gguf(written(tmp_path, data))


def test_a_part_of_a_model(tiny_decoder: Callable[..., Path], gguf_files: Any, tmp_path: Path) -> None:
    path = gguf_files.write_gguf(tmp_path / "m.gguf", tiny_decoder("llama"), split__count=3)
    with pytest.raises(ModelError, match="one of 3 parts") as caught:
        inspect_gguf(path)
    assert "llama-gguf-split" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"llama__attention__head_count": None}, r"`llama.attention.head_count` is missing"),
        ({"llama__context_length": "long"}, r"`llama.context_length` is 'long'"),
        ({"llama__context_length": 0}, r"`llama.context_length` is 0, expected 1 or more"),
        ({"llama__attention__head_count": 0}, r"`llama.attention.head_count` is 0, expected 1 or more"),
        ({"llama__rope__scaling__type": "yarn"}, "rotary positions of type `yarn`"),
        ({"llama__expert_count": 8}, "mixture of experts"),
    ],
)
def test_metadata(
    changes: dict[str, Any],
    message: str,
    tiny_decoder: Callable[..., Path],
    gguf_files: Any,
    tmp_path: Path,
) -> None:
    path = gguf_files.write_gguf(tmp_path / "m.gguf", tiny_decoder("llama"), **changes)
    with pytest.raises((ModelError, UnsupportedError), match=message):
        inspect_gguf(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"llama__block_count": 3},
            r"m.gguf` has no weights for 9 parameters of its model, first `model.layers.2",
        ),
        ({"llama__attention__head_count": 7}, r"cannot make a model of the config of `.*m.gguf`"),
        ({"llama__block_count": 1}, r"m.gguf` has weights `model.layers.1.* a model without them"),
        ({"llama__attention__key_length": 24}, r"k_proj.weight` of shape \[32, 64\], expected \[48, 64\]"),
        ({"llama__feed_forward_length": 95}, r"_proj.weight` of shape .*96.* expected .*95"),
    ],
)
def test_metadata_of_another_model_than_the_tensors(
    changes: dict[str, Any],
    message: str,
    tiny_decoder: Callable[..., Path],
    gguf_files: Any,
    tmp_path: Path,
) -> None:
    """Of floats nobody would notice that layers are left out."""
    path = gguf_files.write_gguf(tmp_path / "m.gguf", tiny_decoder("llama"), **changes)
    (tmp_path / "out").mkdir()
    with pytest.raises(ModelError, match=message):
        unpack(path, tmp_path / "out")


def test_an_unknown_architecture(good: bytes, tmp_path: Path) -> None:
    data = good.replace(b"general.architecture" + struct.pack("<IQ", 8, 5) + b"llama",
                        b"general.architecture" + struct.pack("<IQ", 8, 5) + b"llamb")  # fmt: skip
    assert data != good
    with pytest.raises(
        UnsupportedError, match="architecture `llamb` are not supported, expected one of llama"
    ) as found:
        inspect_gguf(written(tmp_path, data))
    assert found.value.hint == "did you mean llama?"


def test_no_tokenizer(tiny_decoder: Callable[..., Path], gguf_files: Any, tmp_path: Path) -> None:
    path = gguf_files.write_gguf(tmp_path / "m.gguf", tiny_decoder("llama"), tokenizer__ggml__tokens=None)
    (tmp_path / "out").mkdir()
    with pytest.raises(ModelError, match="has no tokenizer"):
        unpack(path, tmp_path / "out")


def test_a_vocabulary_of_unknown_kind(
    tiny_decoder: Callable[..., Path], gguf_files: Any, tmp_path: Path
) -> None:
    path = gguf_files.write_gguf(tmp_path / "m.gguf", tiny_decoder("llama"), tokenizer__ggml__model="rwkv")
    (tmp_path / "out").mkdir()
    with pytest.raises(UnsupportedError, match="no tokenizer can be built from the `rwkv` vocabulary"):
        unpack(path, tmp_path / "out")


def test_a_tensor_without_a_place(
    tiny_decoder: Callable[..., Path], gguf_files: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = gguf_files._add
    monkeypatch.setattr(
        gguf_files, "_add", lambda writer, name, *rest: add(writer, name.replace("ffn_up", "ffn_side"), *rest)
    )
    path = gguf_files.write_gguf(tmp_path / "m.gguf", tiny_decoder("llama"))
    (tmp_path / "out").mkdir()
    with pytest.raises(UnsupportedError, match=r"`blk.0.ffn_side.weight` has no place in a llama model"):
        unpack(path, tmp_path / "out")


def test_scales_that_are_not_finite(good: bytes, tmp_path: Path) -> None:
    path = written(tmp_path, good)
    tensor = next(t for t in gguf.GGUFReader(path).tensors if t.name == "blk.0.ffn_up.weight")
    at = int(tensor.data_offset)
    path.write_bytes(good[:at] + np.float16("inf").tobytes() + good[at + 2 :])
    (tmp_path / "out").mkdir()
    with pytest.raises(ModelError, match=r"m.gguf`: tensor `blk.0.ffn_up.weight` holds NaN or infinite"):
        unpack(path, tmp_path / "out")


@pytest.mark.parametrize(
    ("by", "words"), [(-32, "inside the one before it"), (4, "expected a multiple of 32")]
)
def test_tensors_that_overlap_or_are_not_aligned(good: bytes, by: int, words: str, tmp_path: Path) -> None:
    path = written(tmp_path, good)
    reader = gguf.GGUFReader(path)
    place = reader.tensors[1].field.parts[-1]
    offset, start = int(place[0]), place.ctypes.data - reader.data.ctypes.data
    del place, reader
    changed = bytearray(good)
    assert struct.unpack_from("<Q", changed, start) == (offset,)
    struct.pack_into("<Q", changed, start, offset + by)
    with pytest.raises(ModelError, match=words):
        inspect_gguf(written(tmp_path, bytes(changed)))
