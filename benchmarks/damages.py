"""Ways to break a bundle: graphs of encoders, tokenizers and settings. Used by mutations.py."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper


class NotApplicableError(Exception):
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


# -- graphs ----------------------------------------------------------------------------------------------


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
        raise NotApplicableError(f"no constant ends with {' or '.join(endings)}")

    def change(self, name: str, edit: Callable[[np.ndarray], np.ndarray]) -> None:
        """Replace a constant, its type and shape kept."""
        if name not in self.tensors:
            raise NotApplicableError(f"no constant {name}")
        before = numpy_helper.to_array(self.tensors[name])
        after = np.asarray(edit(before.copy())).astype(before.dtype).reshape(before.shape)
        if np.array_equal(after, before):
            raise NotApplicableError(f"{name} is so already")
        self.tensors[name].CopyFrom(numpy_helper.from_array(after, name))

    def node(self, test: Callable[[onnx.NodeProto], bool]) -> onnx.NodeProto:
        """The first node of a kind."""
        for node in self.model.graph.node:
            if test(node):
                return node
        raise NotApplicableError("no such node")

    def own_constant(
        self, node: onnx.NodeProto, index: int, edit: Callable[[np.ndarray], np.ndarray]
    ) -> None:
        """Change a constant for one node only, whoever else reads it."""
        name = node.input[index]
        if name not in self.tensors:
            raise NotApplicableError(f"input {index} of {node.name} is no constant")
        before = numpy_helper.to_array(self.tensors[name])
        after = np.asarray(edit(before.copy())).astype(before.dtype).reshape(before.shape)
        self.model.graph.initializer.append(numpy_helper.from_array(after, f"{name}.own"))
        node.input[index] = f"{name}.own"

    def save(self) -> None:
        """Write it back."""
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
        if values.ndim <= axis or values.shape[axis] <= max(first, second):
            raise NotApplicableError("fewer rows")
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


def graph_damages(variant: str, model: Path) -> Iterator[Damage]:
    """Damages of an encoder's graph in the names of BERT's modules."""
    whole = Graph(model)
    layers = 1 + max(int(found) for found in re.findall(r"encoder\.layer\.(\d+)\.", " ".join(whole.tensors)))
    head = head_size(whole)

    def damage(name: str, edit: Callable[[Graph], None], reaches: tuple[int, ...] = ()) -> Damage:
        return Damage(f"{variant}: {name}", graph_edit(variant, edit), reaches)

    def weights(layer: int, part: str) -> tuple[str, ...]:
        base = of_layer(layer, PARTS[part])
        return (f"{base}.weight.quantized", f"{base}.weight", f"{base}.weight.equalized")

    last = layers - 1
    second, third = min(1, last), min(2, last)
    for part in PARTS:
        for layer in (0, last // 2, last):
            scales = f"{of_layer(layer, PARTS[part])}.weight.scale"
            for factor in (1.5, 1.1):
                yield damage(
                    f"scale of {part} {layer} x{factor}",
                    constant((scales, *weights(layer, part)), times(factor)),
                )
    for part in PARTS:
        base = of_layer(second, PARTS[part])
        bias = (f"{base}.bias.quantized", f"{base}.bias", f"{base}.bias.equalized")
        yield damage(f"bias of {part} {second} zeroed", constant(bias, times(0)))
        yield damage(
            f"two rows of {part} {second} swapped", constant(weights(second, part), swapped(3, 50, 0))
        )
        yield damage(
            f"two columns of {part} {second} swapped", constant(weights(second, part), swapped(3, 50, 1))
        )
        yield damage(f"{part} {last} all rows reversed", constant(weights(last, part), lambda w: w[::-1]))
        yield damage(
            f"sign of the largest weight of {part} {third}", constant(weights(third, part), bit(0, 7))
        )
        yield damage(
            f"lowest bit of the largest weight of {part} {third}", constant(weights(third, part), bit(0, 0))
        )
    for part in ("query", "value"):
        yield damage(f"two heads of {part} 0 swapped", constant(weights(0, part), heads_swapped(head, 1)))
    yield damage("two heads of key 3 swapped", constant(weights(min(3, last), "key"), heads_swapped(head, 1)))
    for layer in (0, last):
        for shift in (1, 8):
            yield damage(f"zero point of one side of ffn down {layer} +{shift}", one_side(layer, shift))
    yield damage(f"input scale of one side of ffn up {third} x1.1", one_side_scale(third, 1.1))
    yield damage(f"input scale of one side of ffn up {third} x1.5", one_side_scale(third, 1.5))
    for name, epsilon in (("1e-5", 1e-5), ("1e-2", 1e-2), ("1", 1.0)):
        yield damage(f"epsilon of every normalization {name}", epsilon_edit(epsilon))
    norm = (of_layer(third, "output.LayerNorm.weight"), of_layer(third, "output.LayerNorm.gamma"))
    yield damage("one gain of a normalization zeroed", constant(norm, set_at(7, 0.0)))
    yield damage("gains of a normalization x1.1", constant(norm, times(1.1)))
    yield damage(
        "shift of a normalization zeroed", constant(of_layer(third, "output.LayerNorm.bias"), times(0))
    )
    yield damage(
        "NaN in a normalization", constant(of_layer(last, "output.LayerNorm.weight"), set_at(0, math.nan))
    )
    for factor in (1.1, 2.0, 0.0):
        yield damage(f"attention scale x{factor}", attention_scale(factor))
    for value in (0.0, -1.0):
        yield damage(
            f"mask bias {value}", constant("const.float32.-10000.0", lambda m, value=value: m * 0 + value)
        )
    yield damage("GELU becomes ReLU", operator("Gelu", "Relu", third))
    yield damage("one residual dropped", dropped_residual(second))
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
    rows = len(numpy_helper.to_array(whole.tensors[whole.find(*table)]))
    common, rare = word_pairs(rows)
    end = (rows - 1,)
    yield damage("last word zeroed", constant(table, set_at(-1, 0.0)), end)
    word_scale = "word_embeddings.weight.scale"
    yield damage("row scale of the last word x3", constant(word_scale, last_times(3.0)), end)
    yield damage("NaN in the last word", constant(word_scale, set_at(-1, math.nan)), end)
    yield damage("words shifted by one", constant(table, lambda t: np.roll(t, 1, axis=0)))
    yield damage("two common words swapped", constant(table, swapped(*common, 0)), common)
    yield damage("two rare words swapped", constant(table, swapped(*rare, 0)), rare)
    yield damage("columns of the word table reversed", constant(table, lambda t: t[:, ::-1]))
    yield damage(
        f"layers 0 and {third} exchange ffn up", exchanged(weights(0, "ffn up"), weights(third, "ffn up"))
    )
    head_weights = ("classifier.weight.quantized", "classifier.weight")
    for factor in (1.5, 1.1):
        scale = ("classifier.weight.scale", "classifier.weight")
        yield damage(f"scale of the classifier x{factor}", constant(scale, times(factor)))
    yield damage("two labels of the classifier swapped", constant(head_weights, swapped(0, 1, 1)))
    yield damage("one label of the classifier negated", constant(head_weights, negated_column))
    yield damage(
        "bias of the classifier zeroed", constant(("classifier.bias.quantized", "classifier.bias"), times(0))
    )
    pooler = ("pooler.dense.bias.quantized", "pooler.dense.bias")
    yield damage("bias of the pooler zeroed", constant(pooler, times(0)))


def word_pairs(rows: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Two common words and two rare ones: of BERT's vocabulary where it is that."""
    return (
        ((1996, 2003), (25123, 17321)) if rows > 30000 else ((rows // 5, rows // 4), (rows - 20, rows - 30))
    )


def last_times(factor: float) -> Callable[[np.ndarray], np.ndarray]:
    def edit(values: np.ndarray) -> np.ndarray:
        values[-1] = values[-1] * factor
        return values

    return edit


def negated_column(codes: np.ndarray) -> np.ndarray:
    codes[:, 0] = -codes[:, 0]
    return codes


def head_size(graph: Graph) -> int:
    """From the factor of the attention scores, `1 / sqrt(head size)`."""
    node = graph.node(lambda n: n.op_type == "Mul" and n.name == "encoder.layer.1.attention.self/mul")
    return round(float(numpy_helper.to_array(graph.tensors[node.input[1]]).reshape(-1)[0]) ** -2)


def swapped_rows(a: int, b: int) -> Callable[[np.ndarray], np.ndarray]:
    def edit(values: np.ndarray) -> np.ndarray:
        rows = values.reshape(-1, values.shape[-1])
        if len(rows) <= max(a, b):
            raise NotApplicableError("fewer positions")
        rows[[a, b]] = rows[[b, a]]
        return values

    return edit


def zero_row(row: int) -> Callable[[np.ndarray], np.ndarray]:
    def edit(values: np.ndarray) -> np.ndarray:
        rows = values.reshape(-1, values.shape[-1])
        if len(rows) <= row:
            raise NotApplicableError("fewer positions")
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
            raise NotApplicableError("no epsilon")

    return edit


def attention_scale(factor: float) -> Callable[[Graph], None]:
    def edit(graph: Graph) -> None:
        node = graph.node(lambda n: n.op_type == "Mul" and n.name == "encoder.layer.1.attention.self/mul")
        graph.own_constant(node, 1, times(factor))

    return edit


def operator(before: str, after: str, layer: int) -> Callable[[Graph], None]:
    def edit(graph: Graph) -> None:
        node = graph.node(lambda n: n.op_type == before and f"layer.{layer}." in n.name)
        node.op_type = after
        del node.attribute[:]

    return edit


def dropped_residual(layer: int) -> Callable[[Graph], None]:
    def edit(graph: Graph) -> None:
        node = graph.node(lambda n: n.name == f"encoder.layer.{layer}.output/add")
        node.input[1] = node.input[0]

    return edit


def exchanged(first: tuple[str, ...], second: tuple[str, ...]) -> Callable[[Graph], None]:
    def edit(graph: Graph) -> None:
        a, b = graph.find(*first), graph.find(*second)
        one, other = (numpy_helper.to_array(graph.tensors[name]) for name in (a, b))
        graph.change(a, lambda _: other)
        graph.change(b, lambda _: one)

    return edit


# -- tokenizer, settings ---------------------------------------------------------------------------------


def json_edit(path: str, edit: Callable[[Any], None]) -> Callable[[Path], None]:
    def run(folder: Path) -> None:
        file = folder / path
        if not file.is_file():
            raise NotApplicableError(f"no {path}")
        document = json.loads(file.read_text("utf-8"))
        edit(document)
        if document == json.loads(file.read_text("utf-8")):
            raise NotApplicableError("it is so already")
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
