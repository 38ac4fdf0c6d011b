"""Inputs as an attacker would write them, one after the other from a seed, and what edgeq does with each.

Everything here has the hashes it should have: what is tried is what happens after they hold. Run by
benchmarks/attack.py for the figures, and by tests/e2e/test_attack.py for a slice of them.
"""

from __future__ import annotations

import copy
import importlib.util
import io
import json
import os
import random
import resource
import stat
import struct
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from edgeq.errors import EdgeqError

TESTS = Path(__file__).parents[1]
NASTY: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2**31, 2**63, 10**30, -0.5, 1e308, "", "x", "x" * 5000, "\ud800", "\0",
    "../x", "a/../../x", "/etc/passwd", "con", "C:x", [], {}, [[]], [{}], {"": {}}, ["x", 1, None],
    [0] * 2000, "0" * 70, "input_ids", "\u202e", [[[[[[]]]]]], {"a": {"b": {"c": {}}}},
)  # fmt: skip


@dataclass
class Found:
    """What became of the inputs of one kind."""

    inputs: int = 0
    internal: int = 0
    """Exit 70."""
    slowest: float = 0.0
    """Wall-clock seconds."""
    slowest_cpu: float = 0.0
    megabytes: float = 0.0
    """Peak of the process and its largest child, Python and libraries included."""
    outside: list[str] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {**self.__dict__, "outcomes": dict(self.outcomes), "outside": self.outside[:5]}


@dataclass
class Kind:
    """A kind of input: `make` writes one and returns what to do with it."""

    name: str
    make: Callable[[random.Random], Callable[[], object]]


def attack(kind: Kind, count: int, seed: int, folder: Path) -> Found:
    """Try `count` inputs; nothing may be written but below `folder`."""
    found = Found()
    generator = random.Random(f"{kind.name} {seed}")
    with writes_seen(folder, found.outside):
        for number in range(count):
            act = kind.make(generator)
            began, used = time.perf_counter(), _cpu_seconds()
            outcome = _outcome(act, found, f"{kind.name} {seed} {number}")
            found.slowest = max(found.slowest, time.perf_counter() - began)
            found.slowest_cpu = max(found.slowest_cpu, _cpu_seconds() - used)
            found.outcomes[outcome] += 1
            found.inputs += 1
    found.megabytes = max(
        resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return found


def _outcome(act: Callable[[], object], found: Found, where: str) -> str:
    """As `edgeq.cli.run_command_line` maps them."""
    try:
        act()
    except (EdgeqError, OSError, MemoryError) as error:
        return type(error).__name__
    except BaseException as error:  # a Rust panic is no Exception
        if isinstance(error, KeyboardInterrupt):
            raise
        found.internal += 1
        found.examples = [*found.examples, f"{where}: {type(error).__name__}: {error!s:.200}"][:5]
        return f"internal {type(error).__name__}"
    return "taken"


def _cpu_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


_watching: list[tuple[Path, list[str]]] = []


@contextmanager
def writes_seen(folder: Path, outside: list[str]) -> Iterator[None]:
    """Record every file that Python writes, makes, moves or removes outside a folder, and every program it starts."""
    if not _watching:
        sys.addaudithook(_audit)
    _watching.append((folder.resolve(), outside))
    try:
        yield
    finally:
        _watching[-1] = (Path("/"), [])


_CHANGES = {
    "os.mkdir",
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
}


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open":
        path, mode, flags = (*arguments, None, None, None)[:3]
        writes = bool(isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        paths = [path] if writes or (isinstance(mode, str) and set(mode) & set("wax+")) else []
    elif event in _CHANGES:
        # What is named from an open folder, as when a tree is removed, is below one that was named in full.
        is_below = isinstance(arguments[-1], int) and arguments[-1] >= 0
        named = [item for item in arguments[:2] if isinstance(item, str | bytes | os.PathLike)]
        paths = [] if is_below and event in ("os.remove", "os.rmdir") else named
    elif event in ("os.system", "os.exec", "os.posix_spawn"):
        _watching[-1][1].append(f"{event} {arguments!r:.200}")
        return
    else:
        return
    root, outside = _watching[-1]
    for path in paths:
        if isinstance(path, int) or os.fspath(path) in (os.devnull, str(os.devnull).encode()):
            continue
        place = Path(os.path.abspath(os.fsdecode(path)))
        if root not in (place, *place.parents):
            outside.append(f"{event} {place}")


# -- changing what is good ---------------------------------------------------------------------------------


def changed_json(generator: random.Random, document: Any) -> str:
    """A document with some values, keys or bytes changed, as text that need not be JSON any more."""
    document = copy.deepcopy(document)
    for _ in range(generator.choice((1, 1, 1, 2, 5))):
        _change(generator, document)
    text = json.dumps(document, ensure_ascii=generator.random() < 0.5)
    roll = generator.random()
    if roll < 0.04:
        text = text.replace("0", generator.choice(("1e999", "NaN", "9" * 500, "-0", "Infinity")), 1)
    elif roll < 0.06:
        text = text.replace(":", ":" + "[" * generator.choice((10, 100, 50_000)), 1)
    elif roll < 0.08:
        text = text.replace(",", ',"name":1,', 1)
    elif roll < 0.12:
        text = text[: generator.randrange(len(text))]
    return text


def _change(generator: random.Random, document: Any) -> None:
    places = list(_places(document))
    if not places:
        return
    parent, key = generator.choice(places)
    roll = generator.random()
    if roll < 0.12 and isinstance(parent, dict):
        del parent[key]
    elif roll < 0.16 and isinstance(parent, list):
        parent[:] = [parent[key]] * generator.choice((2, 50))
    elif roll < 0.2 and isinstance(parent, dict):
        parent[str(generator.choice(NASTY))[:50]] = copy.deepcopy(generator.choice(NASTY))
    elif roll < 0.3:
        parent[key] = copy.deepcopy(generator.choice(places)[0])
    else:
        parent[key] = copy.deepcopy(generator.choice(NASTY))


def _places(node: Any, deepest: int = 80) -> Iterator[tuple[Any, Any]]:
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield node, key
        if deepest:
            yield from _places(value, deepest - 1)


def changed_bytes(generator: random.Random, data: bytes, most: int = 8) -> bytes:
    """Bytes flipped, overwritten with extremes, cut off, or put in."""
    changed = bytearray(data)
    for _ in range(generator.randrange(1, most)):
        at = generator.randrange(len(changed)) if changed else 0
        match generator.randrange(6):
            case 0 if changed:
                changed[at] = generator.randrange(256)
            case 1 if changed:
                changed[at : at + 4] = generator.choice((b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff"))
            case 2:
                changed[at : at + 8] = struct.pack(
                    "<Q", generator.choice((0, 1, 2**31, 2**40, 2**63, 2**64 - 1))
                )
            case 3:
                changed[at:at] = generator.randbytes(generator.choice((1, 4, 64)))
            case 4:
                del changed[at : at + generator.choice((1, 8, 200))]
            case 5 if generator.random() < 0.3:
                del changed[at:]
    return bytes(changed)


# -- kinds -----------------------------------------------------------------------------------------------


class Kinds:
    """Every kind, over good inputs that are made once below a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.work = folder / "work"
        self.work.mkdir()
        tiny = load_module(TESTS / "unit" / "conftest.py").Tiny()
        self.tiny = tiny
        self.bundle = tiny.build(folder / "bundle").path
        self.manifest = json.loads((self.bundle / "edgeq.json").read_text())

    def named(self, name: str) -> Kind:
        return Kind(name, getattr(self, f"_{name}")())

    def _write(self, name: str, data: bytes | str) -> Path:
        path = self.work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass"))
        return path

    def _manifests(self) -> Callable[[random.Random], Callable[[], object]]:
        from edgeq.bundle.manifest import Manifest

        many = b'{"format":{"name":"edgeq","version":"1.0"},"variants":[' + b"3," * 450_000 + b"3]}"

        def make(generator: random.Random) -> Callable[[], object]:
            if generator.random() < 0.0005:
                return lambda: Manifest.from_text(many)
            text = changed_json(generator, self.manifest).encode("utf-8", "surrogatepass")
            data = changed_bytes(generator, text) if generator.random() < 0.1 else text
            return lambda: Manifest.from_text(data).to_text()

        return make

    def _bundles(self) -> Callable[[random.Random], Callable[[], object]]:
        """Whole folders, signed again after one of their files was changed, opened, run and validated."""
        import shutil

        from edgeq.bundle.integrity import SUMS_FILE, measure, sums_text
        from edgeq.pipeline.validation.request import ValidationRequest
        from edgeq.pipeline.validation.run import run_validation
        from edgeq.runtime.runtime import load

        names = [entry["path"] for entry in self.manifest["integrity"]["files"]]
        folder = self.work / "signed"

        def make(generator: random.Random) -> Callable[[], object]:
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(self.bundle, folder)
            document = copy.deepcopy(self.manifest)
            name = generator.choice(names)
            if generator.random() < 0.5:
                path = folder / name
                data = path.read_bytes()
                if name.endswith(".json"):
                    text = changed_json(generator, json.loads(data))
                    path.write_bytes(text.encode("utf-8", "surrogatepass"))
                else:
                    path.write_bytes(changed_bytes(generator, data))
            else:
                _change(generator, document)
            integrity = measure(folder)
            files = [{"path": e.path, "size": e.size, "sha256": e.sha256} for e in integrity.files]
            if isinstance(document.get("integrity"), dict):
                document["integrity"]["files"] = files
            (folder / "edgeq.json").write_text(json.dumps(document))
            (folder / SUMS_FILE).write_text(sums_text(folder, integrity))
            act = generator.choice(("run", "run", "validate"))

            def run() -> object:
                if act == "validate":
                    return run_validation(ValidationRequest(folder, force=True))
                with load(folder, force=True) as runtime:
                    return runtime.answer(["the cat sat", "a dog"])

            return run

        return make

    def _archives(self) -> Callable[[random.Random], Callable[[], object]]:
        from edgeq.bundle.archive import write_archive
        from edgeq.bundle.reader import open_bundle

        good = write_archive(self.bundle, self.folder / "good.edgeq").read_bytes()
        with zipfile.ZipFile(io.BytesIO(good)) as archive:
            entries = [(name, archive.read(name)) for name in archive.namelist()]

        def make(generator: random.Random) -> Callable[[], object]:
            data = (
                changed_bytes(generator, good) if generator.random() < 0.4 else _archive(generator, entries)
            )
            path = self._write("x.edgeq", data)

            def run() -> None:
                open_bundle(path).close()

            return run

        return make

    def _goldens(self) -> Callable[[random.Random], Callable[[], object]]:
        from edgeq.bundle.manifest import Manifest
        from edgeq.bundle.read_golden import read_golden

        entries = Manifest.from_json(self.manifest).golden
        index = json.loads((self.bundle / "golden/golden.json").read_text())
        arrays = (self.bundle / entries[0].path).read_bytes()

        def make(generator: random.Random) -> Callable[[], object]:
            roll = generator.random()
            self._write(
                "golden/golden.json", changed_json(generator, index) if roll < 0.4 else json.dumps(index)
            )
            data = arrays if roll < 0.4 else _npz(generator, arrays)
            self._write(entries[0].path, data)
            return lambda: read_golden(self.work, entries)

        return make

    def _settings(self) -> Callable[[random.Random], Callable[[], object]]:
        """`preprocess.json`, `generation.json` and `golden/language.json`."""
        from edgeq.bundle.language_golden import read_language_golden
        from edgeq.processors.text import TextPreprocessor
        from edgeq.runtime.generation.settings import CacheShape, GenerationSettings
        from edgeq.samples import as_samples

        golden = load_module(TESTS / "unit/bundle/test_language_golden.py").GOLDEN
        golden.save(self.folder)
        language = json.loads((self.folder / "golden/language.json").read_text())
        GenerationSettings(64, 12, (1, 5), CacheShape(2, 3, 4, True), "<s>", None, "{{ x }}").save(
            self.folder
        )
        generation = json.loads((self.folder / "generation.json").read_text())
        preprocess = json.loads((self.bundle / "tokenizer/preprocess.json").read_text())
        self._write("tokenizer.json", self.tiny.wordpiece_json())

        def make(generator: random.Random) -> Callable[[], object]:
            match generator.randrange(3):
                case 0:
                    self._write("golden/language.json", changed_json(generator, language))
                    return lambda: read_language_golden(self.work)
                case 1:
                    path = self._write("generation.json", changed_json(generator, generation))
                    return lambda: GenerationSettings.load(path)
            self._write("preprocess.json", changed_json(generator, preprocess))
            return lambda: TextPreprocessor.load(self.work)(as_samples(["the cat sat"]))

        return make

    def _tokenizers(self) -> Callable[[random.Random], Callable[[], object]]:
        from edgeq.processors.text import TextPreprocessor
        from edgeq.samples import as_samples

        good = json.loads(self.tiny.wordpiece_json())
        self._write("preprocess.json", (self.bundle / "tokenizer/preprocess.json").read_bytes())
        texts = [
            "the cat sat",
            "a dog ran the cats",
            "x" * 600,
            "\u0130\ufdfa e\u0301 \U0001f600",
            ("the", "cat"),
        ]

        def make(generator: random.Random) -> Callable[[], object]:
            document = _tokenizer(generator, good)
            text = changed_json(generator, document) if generator.random() < 0.6 else json.dumps(document)
            self._write("tokenizer.json", text)

            def run() -> None:
                loaded = TextPreprocessor.load(self.work)
                feeds = loaded(as_samples(texts))
                loaded.decode(feeds["input_ids"][0].tolist())

            return run

        return make

    def _templates(self) -> Callable[[random.Random], Callable[[], object]]:
        from edgeq.runtime.generation.chat import render_chat
        from edgeq.runtime.generation.settings import CacheShape, GenerationSettings

        messages = [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "Hi"}]

        def make(generator: random.Random) -> Callable[[], object]:
            settings = GenerationSettings(
                64, 12, (1,), CacheShape(1, 1, 1), "<s>", "</s>", _template(generator)
            )
            return lambda: render_chat(settings, messages)

        return make

    def _safetensors(self) -> Callable[[random.Random], Callable[[], object]]:
        from edgeq.quantize.streaming.checkpoint import Checkpoint

        header = {
            "__metadata__": {"format": "pt"},
            "a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
            "b": {"dtype": "BF16", "shape": [4], "data_offsets": [16, 24]},
            "c": {"dtype": "I64", "shape": [], "data_offsets": [24, 32]},
        }

        def make(generator: random.Random) -> Callable[[], object]:
            text = changed_json(generator, header).encode("utf-8", "surrogatepass")
            length = len(text) if generator.random() < 0.8 else generator.choice((0, 1, 2**40, 2**64 - 1))
            data = struct.pack("<Q", length) + text + bytes(32)
            path = self._write(
                "m.safetensors", changed_bytes(generator, data) if generator.random() < 0.4 else data
            )
            return lambda: [tensor.nbytes for tensor in Checkpoint.open(path).tensors.values()]

        return make

    def _gguf(self) -> Callable[[random.Random], Callable[[], object]]:
        import gguf

        from edgeq.exporters.gguf.reader import open_gguf

        path = self.folder / "good.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_context_length(64)
        writer.add_token_list(["a", "b", "c"])
        for name in ("token_embd.weight", "blk.0.attn_q.weight"):
            writer.add_tensor(name, np.zeros((2, 32), np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        good = path.read_bytes()

        def make(generator: random.Random) -> Callable[[], object]:
            head = changed_bytes(generator, good[:400])
            target = self._write("m.gguf", head + good[400:])
            return lambda: open_gguf(target).architecture

        return make

    def _onnx(self) -> Callable[[random.Random], Callable[[], object]]:
        from edgeq.onnx_references import check_references

        good = (self.bundle / "model/cpu-fp32/model.onnx").read_bytes()

        def make(generator: random.Random) -> Callable[[], object]:
            path = self._write("m.onnx", changed_bytes(generator, good))
            return lambda: check_references(path)

        return make

    def _calibration(self) -> Callable[[random.Random], Callable[[], object]]:
        from edgeq.calibration import load_samples

        rows = [f"text number {number}" for number in range(20)]
        good = {
            ".txt": "\n".join(rows).encode(),
            ".csv": ("id,text\n" + "\n".join(f"{n},{row}" for n, row in enumerate(rows))).encode(),
            ".tsv": ("id\ttext\n" + "\n".join(f"{n}\t{row}" for n, row in enumerate(rows))).encode(),
            ".jsonl": "\n".join(json.dumps({"text": row}) for row in rows).encode(),
            ".npz": _saved(input_ids=np.ones((20, 4), np.int64), attention_mask=np.ones((20, 4), np.int64)),
        }

        def make(generator: random.Random) -> Callable[[], object]:
            suffix = generator.choice(list(good))
            if suffix == ".npz":
                data = _npz(generator, good[suffix])
            elif suffix == ".jsonl" and generator.random() < 0.7:
                lines = [changed_json(generator, {"text": row, "label": 1}) for row in rows]
                data = "\n".join(line.replace("\n", " ") for line in lines).encode("utf-8", "surrogatepass")
            else:
                data = changed_bytes(generator, good[suffix])
            path = self._write(f"calib{suffix}", data)
            return lambda: load_samples(str(path))

        return make

    def _labels(self) -> Callable[[random.Random], Callable[[], object]]:
        from edgeq.tasks.labelled import label_index, read_pairs, read_samples

        pairs = b"\n".join(b"%d.5\ta text %d\tanother text" % (n % 5, n) for n in range(20))
        classes = b"\n".join(b"%s\ta text %d" % ((b"good", b"bad")[n % 2], n) for n in range(20))

        def make(generator: random.Random) -> Callable[[], object]:
            paired = generator.random() < 0.5
            data = changed_bytes(generator, pairs if paired else classes)
            path = self._write("labels" + generator.choice((".tsv", ".csv", ".txt", ".jsonl")), data)
            if paired:
                return lambda: read_pairs(path)
            return lambda: read_samples(
                path, lambda cell: label_index(cell, ("good", "bad"), 2), "a label and a text"
            )

        return make


def load_module(path: Path) -> ModuleType:
    """A file of the tests as a module."""
    name = f"edgeq_attack_{path.stem}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _saved(**arrays: Any) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def _npz(generator: random.Random, good: bytes) -> bytes:
    """Damaged, or whole with arrays of other types, shapes and headers."""
    if generator.random() < 0.5:
        return changed_bytes(generator, good)
    with zipfile.ZipFile(io.BytesIO(good)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    name = generator.choice(list(entries))
    match generator.randrange(5):
        case 0:
            entries[name] = _npy(generator.choice(NASTY))
        case 1:
            entries[name] = changed_bytes(generator, entries[name][:128]) + entries[name][128:]
        case 2:
            shape = generator.choice(
                ("(10**9,)", "(2**62, 4)", "(-1,)", "(1,)*40", "()", "'x'", "(3.5,)", "(True,)")
            )
            kind = generator.choice(("<f4", "|O", "<U9999999", "V8", "<M8[s]", "<c16", "no"))
            header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
            entries[name] = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(64)
        case 3:
            entries[str(generator.choice(NASTY))[:60].encode("ascii", "replace").decode() + ".npy"] = entries[
                name
            ]
        case 4:
            del entries[name]
    stream = io.BytesIO()
    with zipfile.ZipFile(
        stream, "w", generator.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    ) as archive:
        for key, value in entries.items():
            archive.writestr(key.replace("\0", "0") or "x", value)
    return stream.getvalue()


def _npy(value: Any) -> bytes:
    stream = io.BytesIO()
    try:
        np.lib.format.write_array(stream, np.asarray(value), allow_pickle=True)
    except (ValueError, TypeError, OverflowError, UnicodeEncodeError):
        return b"\x93NUMPY"
    return stream.getvalue()


_NAMES = (
    "../x", "/x", "con", "aux.txt", "x.", "x:y", "d/", "EDGEQ.json", "edgeq.json/x", "x" * 300, "a\\b", "\u202ex",
    "caf\u00e9", "model/new.onnx",
)  # fmt: skip


def _archive(generator: random.Random, entries: list[tuple[str, bytes]]) -> bytes:
    stream = io.BytesIO()
    depth = generator.choice((5, 100, 2000))
    name = generator.choice((*_NAMES, "a/" * depth + "x"))
    many = generator.choice((1, 1, 1, 300))
    added = [(f"{n}/{name}" if many > 1 else name, b"x") for n in range(many)]
    kept = [entry for entry in entries if generator.random() > 0.05]
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for key, value in [*kept, *(added if generator.random() < 0.9 else [])]:
            info = zipfile.ZipInfo(key)
            if generator.random() < 0.02:
                info.external_attr = generator.choice((stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO)) << 16
            if generator.random() < 0.01:
                info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, value)
    return stream.getvalue()


_EXPRESSIONS = (
    "(x+x+)+y", "(x|xx)*y", ".*.*.*y", "x*", "(?=(x*x*y)?)x", r"(\w+\s?)+\z", "[", r"(?<n>x)\k<n>", r"\p{L}+",
)  # fmt: skip


def _tokenizer(generator: random.Random, good: Any) -> Any:
    document = copy.deepcopy(good)
    replace = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
    match generator.randrange(6):
        case 0:
            document["normalizer"] = {
                "type": "Sequence",
                "normalizers": [replace] * generator.choice((1, 8, 40)),
            }
        case 1:
            pattern = {"Regex": generator.choice(_EXPRESSIONS)}
            document["pre_tokenizer"] = {
                "type": "Split",
                "pattern": pattern,
                "behavior": "Isolated",
                "invert": False,
            }
        case 2:
            document["decoder"] = {"type": "Sequence", "decoders": [replace] * generator.choice((1, 40))}
        case 3:
            document["model"]["max_input_chars_per_word"] = generator.choice((0, 100, 10**6, 2**62))
        case 4:
            pattern = {"Regex": generator.choice(_EXPRESSIONS)}
            document["normalizer"] = replace | {
                "pattern": pattern,
                "content": "y" * generator.choice((0, 1, 999)),
            }
        case _:
            pass
    return document


_PIECES = (
    "{% for m in messages %}", "{% endfor %}", "{{ m.content }}", "{{ messages[0]['content'] }}",
    "{% if tools %}", "{% endif %}", "{{ bos_token }}", "{{ ''.__class__ }}", "{{ messages|tojson }}",
    "{{ 'x' * 10**5 }}", "{% set x = 'a' ~ 'b' %}", "{{ x }}", "{% macro f(a) %}{{ a }}{% endmacro %}",
    "{{ f(1) }}", "{% include 'x' %}", "{% generation %}", "{% endgeneration %}",
    "{{ raise_exception('no') }}", "{{ strftime_now('%Y') }}", "{{ range(10**9) }}", "{{ 1/0 }}",
    "{{ 9**9 }}", "text\n", "{#", "#}", "{{ [1]*3|list }}", "{{ '%s'|format(messages) }}",
    "{{ messages.append(1) }}", "{{ self }}", "{{ cycler.__init__ }}", "{%", "}}", "{{ namespace(a=1).a }}",
    "{{ lipsum(n=5) }}", "{{ '\\ud800' }}", "{{ dict(a=1).items()|list }}", "{% break %}",
)  # fmt: skip
_ENDLESS = (
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% set n = namespace(x='x') %}{% for a in range(64) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
    "{{ 'x' * 10**10 }}",
    "{{ 9 ** (9 ** 9) }}",
    "{{ '%1000000000d' | format(1) }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{{ lipsum(n=10000000) }}",
)


def _template(generator: random.Random) -> str:
    if generator.random() < 0.01:
        return generator.choice(_ENDLESS)
    text = "".join(generator.choice(_PIECES) for _ in range(generator.randrange(1, 8)))
    return text if generator.random() < 0.8 else text[generator.randrange(len(text)) :]
