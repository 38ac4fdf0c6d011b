"""Damaged bundles, hashes rewritten: which of them do a bundle's own golden cases catch?

    python benchmarks/mutations.py BUNDLE [BUNDLE ...] [--lm BUNDLE ...] [--json results.json]

Every damage is made in a copy of the bundle whose sizes and SHA-256 are rewritten, so that only numbers can tell.
`edgeq validate` replays the golden cases of the copy. A damage counts if it changes an output by more than kernel noise on
probe texts that the goldens do not contain: beyond the largest distance (of a value, of a cosine, or RMS) that five draws
of last bits make of the undamaged file there, or if token ids, labels or settings change. Damages that change nothing, or
less than other kernels would, are listed as such.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from edgeq.bundle.golden import GoldenCase
from edgeq.bundle.integrity import SUMS_FILE, sums_text
from edgeq.bundle.manifest import Manifest
from edgeq.bundle.reader import Bundle, open_bundle
from edgeq.calibration import load_samples
from edgeq.errors import EdgeqError
from edgeq.onnx_runtime import kernels_saturate
from edgeq.pipeline.drift import case_drifts, worst
from edgeq.pipeline.validation import ValidationRequest, run_validation
from edgeq.runtime.host import cpu_name
from edgeq.runtime.runtime import load_preprocessor
from edgeq.runtime.text import TextPreprocessor
from edgeq.types import Outputs

PROBES = 48
NOISE_SEEDS = 5


VERDICTS = {
    (True, True): "caught",
    (True, False): "MISSED",
    (False, True): "caught within noise",
    (False, False): "within noise",
}
"""By whether an output changed by more than noise, and whether validate fails."""


class NotApplicable(Exception):
    """The model has nothing of the kind that this damage needs."""


@dataclass(frozen=True)
class Damage:
    """One way to break a bundle.

    Attributes:
        name: what is done.
        edit: does it, in a folder that is a copy of the bundle.
        reaches: token ids whose rows are damaged, for a probe that has them.
    """

    name: str
    edit: Callable[[Path], None]
    reaches: tuple[int, ...] = ()


# -- graphs ---------------------------------------------------------------------------------------------------------


class Graph:
    """An ONNX file that is edited by the names of its constants."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.model = onnx.load(str(path))
        self.tensors = {tensor.name: tensor for tensor in self.model.graph.initializer}

    def find(self, *endings: str) -> str:
        """The first constant whose name ends so."""
        for ending in endings:
            for name in self.tensors:
                if name.endswith(ending):
                    return name
        raise NotApplicable(f"no constant ends with {' or '.join(endings)}")

    def change(self, name: str, edit: Callable[[np.ndarray], np.ndarray]) -> None:
        """Replace a constant, its type and shape kept."""
        if name not in self.tensors:
            raise NotApplicable(f"no constant {name}")
        before = numpy_helper.to_array(self.tensors[name])
        after = np.asarray(edit(before.copy())).astype(before.dtype).reshape(before.shape)
        self.tensors[name].CopyFrom(numpy_helper.from_array(after, name))

    def node(self, test: Callable[[onnx.NodeProto], bool]) -> onnx.NodeProto:
        """The first node of a kind."""
        for node in self.model.graph.node:
            if test(node):
                return node
        raise NotApplicable("no such node")

    def own_constant(
        self, node: onnx.NodeProto, index: int, edit: Callable[[np.ndarray], np.ndarray]
    ) -> None:
        """Change a constant for one node only, whoever else reads it."""
        name = node.input[index]
        if name not in self.tensors:
            raise NotApplicable(f"input {index} of {node.name} is no constant")
        before = numpy_helper.to_array(self.tensors[name])
        after = np.asarray(edit(before.copy())).astype(before.dtype).reshape(before.shape)
        self.model.graph.initializer.append(numpy_helper.from_array(after, f"{name}.own"))
        node.input[index] = f"{name}.own"

    def save(self) -> None:
        onnx.save(self.model, str(self.path))


def graph_edit(variant: str, edit: Callable[[Graph], None]) -> Callable[[Path], None]:
    """An edit of one variant's graph."""

    def run(folder: Path) -> None:
        graph = Graph(folder / "model" / variant / "model.onnx")
        edit(graph)
        graph.save()

    return run


def constant(
    ending: str | tuple[str, ...], edit: Callable[[np.ndarray], np.ndarray]
) -> Callable[[Graph], None]:
    endings = (ending,) if isinstance(ending, str) else ending
    return lambda graph: graph.change(graph.find(*endings), edit)


def times(factor: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda values: values * factor


def swapped(first: int, second: int, axis: int) -> Callable[[np.ndarray], np.ndarray]:
    def edit(values: np.ndarray) -> np.ndarray:
        order = np.arange(values.shape[axis])
        order[[first, second]] = order[[second, first]]
        return np.take(values, order, axis=axis)

    return edit


def heads_swapped(size: int, axis: int) -> Callable[[np.ndarray], np.ndarray]:
    def edit(values: np.ndarray) -> np.ndarray:
        order = np.arange(values.shape[axis])
        order[: 2 * size] = np.roll(order[: 2 * size], size)
        return np.take(values, order, axis=axis)

    return edit


def bit(index: int, which: int) -> Callable[[np.ndarray], np.ndarray]:
    """Flip one bit of the element whose magnitude is at a rank."""

    def edit(values: np.ndarray) -> np.ndarray:
        flat = values.reshape(-1)
        place = int(np.argsort(-np.abs(flat.astype(np.float64)), kind="stable")[index])
        raw = flat.view({1: np.uint8, 4: np.uint32}[flat.itemsize])
        raw[place] ^= raw.dtype.type(1) << raw.dtype.type(which)
        return values

    return edit


def set_at(index: Any, value: float) -> Callable[[np.ndarray], np.ndarray]:
    def edit(values: np.ndarray) -> np.ndarray:
        values[index] = value
        return values

    return edit


def of_layer(layer: int, part: str) -> str:
    return f"encoder.layer.{layer}.{part}"


PARTS = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention output": "attention.output.dense",
    "ffn up": "intermediate.dense",
    "ffn down": "output.dense",
}


def graph_damages(variant: str, hidden: int, layers: int, head: int) -> Iterator[Damage]:
    """Damages of an encoder's graph in the names of BERT's modules."""

    def damage(name: str, edit: Callable[[Graph], None], reaches: tuple[int, ...] = ()) -> Damage:
        return Damage(f"{variant}: {name}", graph_edit(variant, edit), reaches)

    def weights(layer: int, part: str) -> tuple[str, ...]:
        base = of_layer(layer, PARTS[part])
        return (f"{base}.weight.quantized", f"{base}.weight", f"{base}.weight.equalized")

    last = layers - 1
    for part in PARTS:
        for layer in (0, last // 2, last):
            scales = f"{of_layer(layer, PARTS[part])}.weight.scale"
            for factor in (1.5, 1.1):
                yield damage(
                    f"scale of {part} {layer} x{factor}",
                    constant((scales, *weights(layer, part)), times(factor)),
                )
    for part in PARTS:
        base = of_layer(1, PARTS[part])
        bias = (f"{base}.bias.quantized", f"{base}.bias", f"{base}.bias.equalized")
        yield damage(f"bias of {part} 1 zeroed", constant(bias, times(0)))
        yield damage(f"two rows of {part} 1 swapped", constant(weights(1, part), swapped(3, 250, 0)))
        yield damage(f"two columns of {part} 1 swapped", constant(weights(1, part), swapped(3, 250, 1)))
        yield damage(f"{part} {last} all rows reversed", constant(weights(last, part), lambda w: w[::-1]))
        yield damage(f"sign of the largest weight of {part} 2", constant(weights(2, part), bit(0, 7)))
        yield damage(f"lowest bit of the largest weight of {part} 2", constant(weights(2, part), bit(0, 0)))
    for part in ("query", "value"):
        yield damage(f"two heads of {part} 0 swapped", constant(weights(0, part), heads_swapped(head, 1)))
    yield damage("two heads of key 3 swapped", constant(weights(min(3, last), "key"), heads_swapped(head, 1)))
    for layer in (0, last):
        for shift in (1, 8):
            yield damage(f"zero point of one side of ffn down {layer} +{shift}", one_side(layer, shift))
    yield damage("input scale of one side of ffn up 2 x1.1", one_side_scale(2, 1.1))
    yield damage("input scale of one side of ffn up 2 x1.5", one_side_scale(2, 1.5))
    for name, epsilon in (("1e-5", 1e-5), ("1e-2", 1e-2), ("1", 1.0)):
        yield damage(f"epsilon of every normalization {name}", epsilon_edit(epsilon))
    norm = ("encoder.layer.2.output.LayerNorm.weight", "encoder.layer.2.output.LayerNorm.gamma")
    yield damage("one gain of a normalization zeroed", constant(norm, set_at(7, 0.0)))
    yield damage("gains of a normalization x1.1", constant(norm, times(1.1)))
    yield damage(
        "shift of a normalization zeroed", constant("encoder.layer.2.output.LayerNorm.bias", times(0))
    )
    yield damage(
        "NaN in a normalization", constant("encoder.layer.4.output.LayerNorm.weight", set_at(0, math.nan))
    )
    for factor in (1.1, 2.0, 0.0):
        yield damage(f"attention scale x{factor}", attention_scale(factor))
    for value in (0.0, -1.0):
        yield damage(
            f"mask bias {value}", constant("const.float32.-10000.0", lambda m, value=value: m * 0 + value)
        )
    yield damage("GELU becomes ReLU", operator("Gelu", "Relu"))
    yield damage("one residual dropped", dropped_residual)
    yield damage("token types swapped", constant("token_type_embeddings.weight", swapped(0, 1, 0)))
    yield damage("second token type zeroed", constant("token_type_embeddings.weight", set_at(1, 0.0)))
    table = ("word_embeddings.weight.quantized", "word_embeddings.table.quantized", "word_embeddings.weight")
    positions = (
        "position_embeddings.weight.quantized",
        "position_embeddings.weight",
        "embeddings.position_embeddings",
    )
    yield damage("positions 5 and 6 swapped", constant(positions, swapped_rows(5, 6)))
    yield damage("positions 100 and 101 swapped", constant(positions, swapped_rows(100, 101)))
    yield damage("positions reversed", constant(positions, lambda p: p[..., ::-1, :] if p.ndim > 1 else p))
    yield damage("position 200 zeroed", constant(positions, zero_row(200)))
    yield damage("last word zeroed", constant(table, set_at(-1, 0.0)), (30521,))
    yield damage(
        "row scale of the last word x3", constant("word_embeddings.weight.scale", set_at(-1, 0.01)), (30521,)
    )
    yield damage(
        "NaN in the last word", constant("word_embeddings.weight.scale", set_at(-1, math.nan)), (30521,)
    )
    yield damage("words shifted by one", constant(table, lambda t: np.roll(t, 1, axis=0)))
    yield damage("two common words swapped", constant(table, swapped(1996, 2003, 0)), (1996, 2003))
    yield damage("two rare words swapped", constant(table, swapped(25123, 17321, 0)), (25123, 17321))
    yield damage("separator zeroed", constant(table, set_at(102, 0.0)))
    yield damage("columns of the word table reversed", constant(table, lambda t: t[:, ::-1]))
    yield damage("layers 2 and 3 exchange ffn up", exchanged(weights(2, "ffn up"), weights(3, "ffn up")))


def swapped_rows(a: int, b: int) -> Callable[[np.ndarray], np.ndarray]:
    def edit(values: np.ndarray) -> np.ndarray:
        rows = values.reshape(-1, values.shape[-1])
        if len(rows) <= max(a, b):
            raise NotApplicable("fewer positions")
        rows[[a, b]] = rows[[b, a]]
        return values

    return edit


def zero_row(row: int) -> Callable[[np.ndarray], np.ndarray]:
    def edit(values: np.ndarray) -> np.ndarray:
        rows = values.reshape(-1, values.shape[-1])
        if len(rows) <= row:
            raise NotApplicable("fewer positions")
        rows[row] = 0
        return values

    return edit


def one_side(layer: int, shift: int) -> Callable[[Graph], None]:
    """The zero point of a layer's input, in the quantizer or behind it, but not in both."""

    def edit(graph: Graph) -> None:
        name = of_layer(layer, PARTS["ffn down"])
        node = graph.node(lambda n: n.name in (name, f"{name}.input") and n.op_type != "Gemm")
        graph.own_constant(node, 4 if node.op_type == "MatMulIntegerToFloat" else 2, lambda z: z + shift)

    return edit


def one_side_scale(layer: int, factor: float) -> Callable[[Graph], None]:
    def edit(graph: Graph) -> None:
        name = of_layer(layer, PARTS["ffn up"])
        node = graph.node(lambda n: n.name in (name, f"{name}.input") and n.op_type != "Gemm")
        graph.own_constant(node, 2 if node.op_type == "MatMulIntegerToFloat" else 1, times(factor))

    return edit


def epsilon_edit(value: float) -> Callable[[Graph], None]:
    def edit(graph: Graph) -> None:
        found = False
        for node in graph.model.graph.node:
            for attribute in node.attribute:
                if node.op_type == "LayerNormalization" and attribute.name == "epsilon":
                    attribute.f, found = value, True
        for name in [name for name in graph.tensors if "LayerNorm.epsilon" in name]:
            graph.change(name, lambda e: e * 0 + value)
            found = True
        if not found:
            raise NotApplicable("no epsilon")

    return edit


def attention_scale(factor: float) -> Callable[[Graph], None]:
    def edit(graph: Graph) -> None:
        node = graph.node(lambda n: n.op_type == "Mul" and n.name == "encoder.layer.1.attention.self/mul")
        graph.own_constant(node, 1, times(factor))

    return edit


def operator(before: str, after: str) -> Callable[[Graph], None]:
    def edit(graph: Graph) -> None:
        node = graph.node(lambda n: n.op_type == before and "layer.2" in n.name)
        node.op_type = after
        del node.attribute[:]

    return edit


def dropped_residual(graph: Graph) -> None:
    node = graph.node(lambda n: n.name == "encoder.layer.3.output/add")
    node.input[1] = node.input[0]


def exchanged(first: tuple[str, ...], second: tuple[str, ...]) -> Callable[[Graph], None]:
    def edit(graph: Graph) -> None:
        a, b = graph.find(*first), graph.find(*second)
        one, other = (numpy_helper.to_array(graph.tensors[name]) for name in (a, b))
        graph.change(a, lambda _: other)
        graph.change(b, lambda _: one)

    return edit


# -- tokenizer, settings ----------------------------------------------------------------------------------------------


def json_edit(path: str, edit: Callable[[Any], None]) -> Callable[[Path], None]:
    def run(folder: Path) -> None:
        file = folder / path
        if not file.is_file():
            raise NotApplicable(f"no {path}")
        document = json.loads(file.read_text("utf-8"))
        edit(document)
        file.write_text(json.dumps(document, ensure_ascii=False), "utf-8")

    return run


def vocabulary(edit: Callable[[dict[str, int]], dict[str, int]]) -> Callable[[Any], None]:
    def run(document: Any) -> None:
        document["model"]["vocab"] = edit(document["model"]["vocab"])

    return run


def shifted_words(vocab: dict[str, int]) -> dict[str, int]:
    """Every plain word gets the id of its neighbour."""
    plain = [word for word in vocab if not word.startswith("[")]
    ids = [vocab[word] for word in plain]
    return {word: vocab[word] for word in vocab if word.startswith("[")} | dict(
        zip(plain, [*ids[1:], ids[0]], strict=True)
    )


def tokenizer_damages() -> Iterator[Damage]:
    """Damages of an encoder's tokenizer and its settings."""

    def tokenizer(name: str, edit: Callable[[Any], None]) -> Damage:
        return Damage(f"tokenizer: {name}", json_edit("tokenizer/tokenizer.json", edit))

    def settings(name: str, **values: Any) -> Damage:
        return Damage(f"settings: {name}", json_edit("tokenizer/preprocess.json", lambda d: d.update(values)))

    yield tokenizer("vocabulary shifted by one", vocabulary(shifted_words))
    yield tokenizer(
        "last 1,000 words cut", vocabulary(lambda v: dict(sorted(v.items(), key=lambda i: i[1])[:-1000]))
    )
    yield tokenizer("last word cut", vocabulary(lambda v: dict(sorted(v.items(), key=lambda i: i[1])[:-1])))
    yield tokenizer("capital letters kept", lambda d: d["normalizer"].update(lowercase=False))
    yield tokenizer("no pre-tokenizer", lambda d: d.update(pre_tokenizer={"type": "WhitespaceSplit"}))
    yield tokenizer("pairs get one type", lambda d: one_type(d["post_processor"]))
    yield tokenizer("no separator", lambda d: d["post_processor"]["single"].pop())
    yield settings("pad id 1", pad_id=1)
    yield settings("cut on the left", truncation_side="left")
    yield settings("64 tokens", max_length=64)
    yield settings("200 tokens", max_length=200)


def one_type(processor: Any) -> None:
    for piece in processor["pair"]:
        next(iter(piece.values()))["type_id"] = 0


# -- Core ML ------------------------------------------------------------------------------------------------------------


def package_damages(variant: str) -> Iterator[Damage]:
    """Damages of the weights of an ML program, wherever in its blob they lie."""
    blob = f"model/{variant}/Model.mlpackage/Data/com.apple.CoreML/weights/weight.bin"

    def damage(name: str, edit: Callable[[bytearray], None]) -> Damage:
        def run(folder: Path) -> None:
            path = folder / blob
            if not path.is_file():
                raise NotApplicable("no weights")
            data = bytearray(path.read_bytes())
            edit(data)
            path.write_bytes(bytes(data))

        return Damage(f"{variant}: {name}", run)

    for share in (0.2, 0.35, 0.5, 0.65, 0.8, 0.95):
        yield damage(f"4 kB at {share:.0%} of the weights zeroed", zeroed(share, 4096))
        yield damage(f"64 kB at {share:.0%} of the weights reversed", reversed_bytes(share, 65536))
    yield damage("one byte at half of the weights", zeroed(0.5, 1))


def zeroed(share: float, size: int) -> Callable[[bytearray], None]:
    def edit(data: bytearray) -> None:
        start = int(share * (len(data) - size)) // 64 * 64 + 64
        data[start : start + size] = bytes(size)

    return edit


def reversed_bytes(share: float, size: int) -> Callable[[bytearray], None]:
    def edit(data: bytearray) -> None:
        start = int(share * (len(data) - 2 * size)) // 64 * 64 + 64
        data[start : start + size] = data[start : start + size][::-1]

    return edit


# -- bundles --------------------------------------------------------------------------------------------------------------


def rehash(folder: Path) -> None:
    """Sizes and SHA-256 of a bundle as its files are now."""
    path = folder / "edgeq.json"
    document = json.loads(path.read_text("utf-8"))
    for entry in document["integrity"]["files"]:
        data = (folder / entry["path"]).read_bytes()
        entry["size"], entry["sha256"] = len(data), hashlib.sha256(data).hexdigest()
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", "utf-8")
    integrity = Manifest.from_json(document).integrity
    (folder / SUMS_FILE).write_text(sums_text(folder, integrity), "utf-8")


def copied(source: Path, folder: Path) -> None:
    """A copy whose untouched files are links to the same bytes."""
    shutil.copytree(source, folder, copy_function=os.link)


class Probe:
    """Texts beside the goldens, and what the undamaged variant and its noise make of them."""

    def __init__(self, bundle: Bundle, variant: Any, session: Any, limit: int) -> None:
        self.variant, self.session = variant, session
        self.preprocessor = load_preprocessor(bundle).with_max_length(limit)
        texts = load_samples(None, count=400, seed=3).samples[-PROBES:]
        long = " ".join(texts * 4)
        groups = [texts[i : i + 8] for i in range(0, len(texts), 8)]
        groups += [(long,), ((texts[3], texts[4]),), ((texts[0], long),)]
        self.cases = [self._case(str(i), group) for i, group in enumerate(groups)]
        self.clean = [self._recorded(session, case) for case in self.cases]
        self.limits = self._noise()

    def _case(self, name: str, samples: Sequence[Any]) -> GoldenCase:
        return GoldenCase(name, tuple(samples), self.preprocessor(samples), {}, {})

    def _recorded(self, session: Any, case: GoldenCase) -> Outputs:
        return dict(session.run(case.feeds))

    def _noise(self) -> dict[str, tuple[float, float, float]]:
        found: dict[str, list[Any]] = {spec.name: [] for spec in self.variant.outputs}
        for twin in self.session.twins(NOISE_SEEDS):
            if "last bits" not in twin.kind:
                continue
            outputs = twin.run([case.feeds for case in self.cases])
            for name, drifts in case_drifts(self.variant.outputs, self.cases, self.clean, outputs).items():
                found[name].append(worst(drifts))
        return {
            name: (
                max(item.max_abs for item in items),
                min(item.cosine for item in items),
                max(item.rms for item in items),
            )
            for name, items in found.items()
        }

    def is_changed(self, session: Any, reaches: Sequence[int]) -> str:
        """How a damaged session differs by more than noise; empty where it does not."""
        cases, clean = list(self.cases), list(self.clean)
        if reaches:
            ids = np.resize(np.array([101, *reaches, 102]), (1, 2 + len(reaches)))
            feeds = {
                "input_ids": ids,
                "attention_mask": np.ones_like(ids),
                "token_type_ids": np.zeros_like(ids),
            }
            case = GoldenCase("reach", (), {n: feeds[n] for n in self.cases[0].feeds}, {}, {})
            cases.append(case)
            clean.append(dict(self.session.run(case.feeds)))
        try:
            outputs = [dict(session.run(case.feeds)) for case in cases]
        except EdgeqError as error:
            return f"fails: {error}"[:40]
        for name, drifts in case_drifts(self.variant.outputs, cases, clean, outputs).items():
            found = worst(drifts)
            most, least, rms = self.limits[name]
            if math.isnan(found.max_abs):
                return "NaN"
            if found.max_abs > most or found.cosine < least or found.rms > rms:
                return f"max-abs {found.max_abs:.2g}, cosine {found.cosine:.4f}, RMS {found.rms:.1%}"
        return ""


@dataclass
class Tally:
    """What came of all damages."""

    rows: list[dict[str, str]] = field(default_factory=list)

    def add(self, bundle: str, name: str, changed: str, caught: str) -> None:
        verdict = VERDICTS[bool(changed), bool(caught)]
        self.rows.append(
            {"bundle": bundle, "damage": name, "changed": changed, "caught": caught, "verdict": verdict}
        )
        print(f"{verdict:20s}{bundle} | {name} | {changed or '-'} | {caught[:90]}", flush=True)

    def count(self, verdict: str) -> int:
        return sum(row["verdict"] == verdict for row in self.rows)


def judged(folder: Path, variant: str | None) -> str:
    """What `edgeq validate` says of a bundle; empty when it passes."""
    try:
        report = run_validation(ValidationRequest(folder, variants=(variant,) if variant else ()))
    except EdgeqError as error:
        return f"{type(error).__name__}: {error}"
    return "; ".join(report.failures)


def try_damage(
    tally: Tally, source: Path, damage: Damage, variant: str | None, changed: Callable[[Path], str]
) -> None:
    """Make a damaged copy, judge it, and say whether it differs at all."""
    with tempfile.TemporaryDirectory(prefix="edgeq-mutation-", dir=source.parent) as name:
        folder = Path(name) / "bundle"
        copied(source, folder)
        for file in (
            *folder.rglob("*.json"),
            *folder.rglob("model.onnx"),
            *folder.rglob("weight.bin"),
            folder / "SHA256SUMS",
        ):
            data = file.read_bytes()  # of its own, no longer the original's
            file.unlink()
            file.write_bytes(data)
        try:
            damage.edit(folder)
        except NotApplicable:
            return
        rehash(folder)
        tally.add(source.name, damage.name, changed(folder), judged(folder, variant))


def encoder(tally: Tally, path: Path) -> None:
    """Every damage of every variant of one encoder's bundle."""
    from edgeq.pipeline.sessions import open_variant

    with open_bundle(path) as bundle:
        pad = bundle.manifest.tokenizer.pad_id if bundle.manifest.tokenizer else 0
        for variant in bundle.variants:
            assert judged(path, variant.id) == "", "the undamaged bundle must pass"
            session = open_variant(bundle, variant, bundle.file(variant.model), pad)
            probe = Probe(bundle, variant, session, session.static_length or 256)
            damages = (
                package_damages(variant.id)
                if variant.runtime == "coreml"
                else graph_damages(variant.id, 384, 6, 32)
            )
            for damage in damages:
                model = Path(variant.model)

                def changed(folder: Path, model: Path = model, damage: Damage = damage) -> str:
                    again = open_variant(bundle, variant, folder / model, pad)
                    return probe.is_changed(again, damage.reaches)

                try_damage(tally, path, damage, variant.id, changed)
        texts = [*load_samples(None, count=400, seed=3).samples[-PROBES:], "Ünïcode, CAPITALS and ～ｘ"]
        for damage in tokenizer_damages():
            try_damage(tally, path, damage, bundle.variants[0].id, tokens_changed(bundle, texts))


def tokens_changed(bundle: Bundle, texts: Sequence[str]) -> Callable[[Path], str]:
    """Whether some text, pair, batch or long text gives other inputs."""
    before = load_preprocessor(bundle)
    groups = [list(texts), [(texts[0], texts[1])], [" ".join(texts * 4)], ["～"]]

    def changed(folder: Path) -> str:
        try:
            after = TextPreprocessor.load(folder / "tokenizer")
            same = all(same_feeds(before(group), after(group)) for group in groups)
        except EdgeqError as error:
            return f"fails: {error}"[:40]
        return "" if same else "other inputs"

    return changed


def same_feeds(a: Any, b: Any) -> bool:
    return all(np.array_equal(a[name], b[name]) for name in a)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    tally = Tally()
    for path in arguments.bundles:
        encoder(tally, path)
    changed = tally.count("caught") + tally.count("MISSED")
    kernels = "saturate in 16 bits" if kernels_saturate() else "are exact"
    print(f"\n{cpu_name()}, whose own uint8 x int8 kernels {kernels}")
    print(
        f"{len(tally.rows)} damages; {changed} change an output by more than kernel noise: {tally.count('caught')} caught "
        f"({tally.count('caught') / changed:.1%}), {tally.count('MISSED')} missed; of those within noise "
        f"{tally.count('caught within noise')} are caught, {tally.count('within noise')} are not"
    )
    for row in tally.rows:
        if row["verdict"] == "MISSED":
            print(f"missed: {row['bundle']} | {row['damage']} | {row['changed']}")
    if arguments.json:
        arguments.json.write_text(json.dumps(tally.rows, indent=1))


if __name__ == "__main__":
    main()
