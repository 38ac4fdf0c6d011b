"""Ways to break the bundle of a language model: its graph, tokenizer and settings. Used by mutations.py."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from damages import (
    Damage,
    Graph,
    NotApplicableError,
    exchanged,
    graph_edit,
    json_edit,
    set_at,
    swapped,
    times,
)

PARTS = ("attn.qkv_proj", "attn.o_proj", "mlp.gate_up_proj", "mlp.gate_proj", "mlp.down_proj")


def language_damages(variant: str, model: Path) -> Iterator[Damage]:
    """Damages of a decoder's graph, by the names that edgeq gives its constants."""
    whole = Graph(model)
    layers = 1 + max(int(name.split(".")[2]) for name in whole.tensors if ".attn.o_proj" in name)

    def damage(name: str, edit: Callable[[Graph], None]) -> Damage:
        return Damage(f"{variant}: {name}", graph_edit(variant, edit))

    last = layers - 1
    for part in PARTS:
        for layer in sorted({0, layers // 2, last}):
            for factor in (1.5, 1.1):
                edit = of_part(layer, part, "scales", times(factor))
                yield damage(f"scale of {part} {layer} x{factor}", edit)
        yield damage(f"two rows of {part} 1 swapped", of_part(1, part, "_q", swapped(3, 9, 0)))
        yield damage(f"{part} {last} rows reversed", of_part(last, part, "_q", lambda w: w[::-1]))
        yield damage(f"one scale of {part} 1 zeroed", of_part(1, part, "scales", first_zeroed))
        yield damage(f"NaN in {part} {last}", of_part(last, part, "scales", one_nan))
    for kind in ("input_layernorm", "post_attention_layernorm"):
        name = f"model.layers.1.{kind}.weight"
        yield damage(f"gain of {kind} 1 x1.1", changing(name, times(1.1)))
        yield damage(f"one gain of {kind} 1 zeroed", changing(name, set_at(5, 0.0)))
    yield damage("epsilon of every norm 1e-2", attribute("SkipSimplifiedLayerNormalization", "epsilon", 1e-2))
    yield damage("epsilon of every norm 1", attribute("SkipSimplifiedLayerNormalization", "epsilon", 1.0))
    for scale in (0.05, 1.0):
        yield damage(f"attention scale {scale}", attribute("GroupQueryAttention", "scale", scale))
    yield damage("rotary tables of the other half", exchanged(("cos_cache",), ("sin_cache",)))
    yield damage("rotary table shifted by one", changing("cos_cache", lambda t: np.roll(t, 1, axis=0)))
    yield damage("NaN late in the rotary table", changing("cos_cache", set_at(slice(20, None), math.nan)))
    yield damage("layers 0 and 1 exchange a norm", exchange_norms)
    yield damage("tokens shifted by one", changing("embed_tokens.weight_q", lambda t: np.roll(t, 1, axis=0)))
    yield damage("two tokens swapped", changing("embed_tokens.weight_q", swapped(20, 30, 0)))


def find(graph: Graph, fragment: str, ending: str = "") -> str:
    """The first constant whose name holds one text and another after it."""
    for name in graph.tensors:
        if fragment in name and ending in name[name.index(fragment) :]:
            return name
    raise NotApplicableError(f"no constant holds {fragment} and {ending}")


def of_part(
    layer: int, part: str, ending: str, edit: Callable[[np.ndarray], np.ndarray]
) -> Callable[[Graph], None]:
    """An edit of the codes or scales of one linear layer."""

    def run(graph: Graph) -> None:
        graph.change(find(graph, f"layers.{layer}.{part}", ending), edit)

    return run


def changing(fragment: str, edit: Callable[[np.ndarray], np.ndarray]) -> Callable[[Graph], None]:
    """An edit of the constant whose name holds a text."""
    return lambda graph: graph.change(find(graph, fragment), edit)


def first_zeroed(scales: np.ndarray) -> np.ndarray:
    """The first block of weights becomes zero."""
    scales.reshape(-1)[0] = 0
    return scales


def one_nan(scales: np.ndarray) -> np.ndarray:
    """The first block of weights becomes NaN."""
    scales.reshape(-1)[0] = math.nan
    return scales


def attribute(operator: str, name: str, value: float) -> Callable[[Graph], None]:
    """Sets a number of every node of a kind."""

    def run(graph: Graph) -> None:
        found = [
            item
            for node in graph.model.graph.node
            if node.op_type == operator
            for item in node.attribute
            if item.name == name
        ]
        if not found:
            raise NotApplicableError(f"no {operator} has {name}")
        for item in found:
            item.f = value

    return run


def exchange_norms(graph: Graph) -> None:
    """Two layers take each other's first normalization."""
    names = [find(graph, f"model.layers.{layer}.input_layernorm.weight") for layer in (0, 1)]
    exchanged((names[0],), (names[1],))(graph)


# -- tokenizer, settings ---------------------------------------------------------------------------------------------


def language_settings(folder: Path) -> Iterator[Damage]:
    """Damages of what lies beside the graph."""
    (tokenizer,) = (path.relative_to(folder).as_posix() for path in folder.rglob("tokenizer.json"))

    def of_tokenizer(name: str, edit: Callable[[Any], None]) -> Damage:
        return Damage(f"tokenizer: {name}", json_edit(tokenizer, edit))

    def setting(name: str, value: Any) -> Damage:
        return Damage(
            f"settings: {name} {value!r}", json_edit("generation.json", lambda d: d.update({name: value}))
        )

    yield of_tokenizer("vocabulary shifted by one", shifted)
    yield of_tokenizer("two tokens swapped", two_swapped)
    yield of_tokenizer("last plain token cut", cut)
    yield of_tokenizer("no post-processor", lambda d: d.update(post_processor=None))
    yield of_tokenizer("no decoder", lambda d: d.update(decoder=None))
    yield of_tokenizer("no special tokens", lambda d: d.update(added_tokens=[]))
    yield setting("stop_ids", [3])
    yield setting("stop_ids", [])
    yield setting("context_length", 8)
    yield setting("context_length", 1 << 17)
    yield setting("chat_template", "{{ 1 / 0 }}")
    yield setting("chat_template", "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}")
    yield setting("bos_token", "x")
    yield Damage(
        "settings: temperature 2",
        json_edit("generation.json", lambda d: d.setdefault("sampling", {}).update(temperature=2.0)),
    )


def plain_tokens(document: Any) -> list[str]:
    """Tokens that are not special, by id."""
    vocabulary = document["model"]["vocab"]
    special = {item["content"] for item in document.get("added_tokens", [])}
    return [token for token in sorted(vocabulary, key=vocabulary.__getitem__) if token not in special]


def shifted(document: Any) -> None:
    """Every plain token gets the id of its neighbour."""
    vocabulary, plain = document["model"]["vocab"], plain_tokens(document)
    ids = [vocabulary[token] for token in plain]
    vocabulary.update(zip(plain, [*ids[1:], ids[0]], strict=True))


def two_swapped(document: Any) -> None:
    """Two words exchange their ids."""
    vocabulary, plain = document["model"]["vocab"], plain_tokens(document)
    a, b = plain[len(plain) // 2], plain[len(plain) // 2 + 1]
    vocabulary[a], vocabulary[b] = vocabulary[b], vocabulary[a]


def cut(document: Any) -> None:
    """The last plain token is lost."""
    token = plain_tokens(document)[-1]
    del document["model"]["vocab"][token]
    model = document["model"]
    if "merges" in model:
        model["merges"] = [
            merge
            for merge in model["merges"]
            if token not in ("".join(merge) if isinstance(merge, list) else merge.replace(" ", ""),)
        ]
