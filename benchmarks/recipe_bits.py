"""Stored bits per weight and megabytes of every recipe on two published shapes: MiniLM-L6 and Llama-3.1-8B.

python benchmarks/recipe_bits.py
"""

from __future__ import annotations

from edgeq.quantize.recipes import BUILT_IN, LayerRef, layer_refs, load_recipe, mean_bits_per_weight


def main() -> None:
    models = {"MiniLM-L6": minilm(), "Llama-3.1-8B": llama_8b()}
    print(f"{'':10}" + "".join(f"{name + ' bits':>20}{'MB':>10}" for name in models))
    # What `stored` takes is known from its checkpoint only.
    for recipe in (name for name in BUILT_IN if name != "stored"):
        cells = ""
        for layers in models.values():
            bits = mean_bits_per_weight(load_recipe(recipe).resolve(layers), layers)
            weights = sum(layer.shape[0] * layer.shape[1] for layer in layers)
            cells += f"{bits:20.2f}{bits * weights / 8e6:10.1f}"
        print(f"{recipe:10}{cells}")


def minilm() -> tuple[LayerRef, ...]:
    hidden = 384
    shapes = [
        ("embeddings.word_embeddings", (hidden, 30522)),
        ("embeddings.position_embeddings", (hidden, 512)),
    ]
    for i in range(6):
        layer = f"encoder.layer.{i}"
        shapes += [(f"{layer}.attention.self.{part}", (hidden, hidden)) for part in ("query", "key", "value")]
        shapes += [
            (f"{layer}.attention.output.dense", (hidden, hidden)),
            (f"{layer}.intermediate.dense", (hidden, 4 * hidden)),
            (f"{layer}.output.dense", (4 * hidden, hidden)),
        ]
    return layer_refs(shapes)


def llama_8b() -> tuple[LayerRef, ...]:
    shapes = [("model.embed_tokens", (4096, 128256))]
    for i in range(32):
        layer = f"model.layers.{i}"
        shapes += [(f"{layer}.self_attn.{part}_proj", (4096, 4096)) for part in "qo"]
        shapes += [(f"{layer}.self_attn.{part}_proj", (4096, 1024)) for part in "kv"]
        shapes += [(f"{layer}.mlp.{part}_proj", (4096, 14336)) for part in ("gate", "up")]
        shapes += [(f"{layer}.mlp.down_proj", (14336, 4096))]
    return layer_refs([*shapes, ("lm_head", (4096, 128256))])


if __name__ == "__main__":
    main()
