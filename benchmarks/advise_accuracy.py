"""Estimates of `edgeq advise` against measured memory, and the constants they are made of.

python benchmarks/advise_accuracy.py [--fit] [--only NAME] [--onnx MODEL.onnx RECIPE CONFIG_FOLDER]...

Builds encoders and decoders of random weights with ONNX operators alone, writes them by several recipes, runs
each in a process of its own, and compares the growth of its peak RSS (ONNX Runtime's library, the model, one batch)
with the estimate. `--fit` prints raw measurements. `--onnx` adds a real model, such as a bundle's variant.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

ENCODERS = {
    "encoder-23M": {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6, "num_attention_heads": 12},
    "encoder-43M": {"hidden_size": 640, "intermediate_size": 2560, "num_hidden_layers": 6, "num_attention_heads": 10},
}
DECODERS = {
    "decoder-50M": {
        "hidden_size": 512,
        "intermediate_size": 1536,
        "num_hidden_layers": 10,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "vocab_size": 32000,
        "tie_word_embeddings": True,
    },
}
RECIPES = ("fp32", "fp16", "q8-static", "q8", "q4_k_m", "int4")
PROBE = """
import json, sys
import numpy as np
def peak():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024
request = json.loads(sys.argv[1])
feeds = [
    {name: np.ones(shape, dtype) if dtype == "int64" else np.zeros(shape, dtype) for name, dtype, shape in step}
    for step in request["steps"]
]
before = peak()
import onnxruntime as ort
library = peak() - before
if request["model"]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(request["model"], options, providers=["CPUExecutionProvider"])
    loaded = peak() - before
    for step in feeds:
        session.run(None, step)
else:
    loaded = library
print(json.dumps({"library": library, "loaded": loaded, "total": peak() - before}))
"""


def probe(model: Path | None, *steps: list[tuple[str, str, list[int]]]) -> dict[str, int]:
    """Growth of peak RSS in bytes from importing ONNX Runtime, loading a model and running it once per step."""
    request = json.dumps({"model": str(model) if model else None, "steps": steps})
    done = subprocess.run([sys.executable, "-c", PROBE, request], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    found: dict[str, int] = json.loads(done.stdout)
    return found


def encoder_config(name: str) -> dict:
    return {
        "model_type": "bert",
        "vocab_size": 30522,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        **ENCODERS[name],
    }


def decoder_config(name: str) -> dict:
    return {"model_type": "llama", "max_position_embeddings": 4096, **DECODERS[name]}


class Graph:
    """Nodes as ONNX text and weights of random values, by name."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.weights: dict[str, np.ndarray] = {}
        self._random = np.random.default_rng(0)

    def weight(self, name: str, *shape: int) -> str:
        self.weights[name] = self._random.standard_normal(shape, dtype=np.float32) * np.float32(0.02)
        return f'"{name}"'

    def constant(self, name: str, values: list[int]) -> str:
        self.weights[name] = np.array(values, np.int64)
        return f'"{name}"'

    def add(self, text: str) -> None:
        self.lines.append(text)

    def linear(self, name: str, x: str, in_features: int, out_features: int, *, bias: bool) -> str:
        weight = self.weight(f"{name}.weight", in_features, out_features)
        self.add(f'["{name}"] "{name}_out" = MatMul ({x}, {weight})')
        if not bias:
            return f'"{name}_out"'
        self.add(f'"{name}_biased" = Add ("{name}_out", {self.weight(f"{name}.bias", out_features)})')
        return f'"{name}_biased"'

    def norm(self, name: str, x: str, width: int) -> str:
        scale, bias = self.weight(f"{name}.weight", width), self.weight(f"{name}.bias", width)
        self.add(f'"{name}_out" = LayerNormalization <axis = -1> ({x}, {scale}, {bias})')
        return f'"{name}_out"'

    def build(self, inputs: str, outputs: str):
        import onnx
        import onnx_ir as ir

        body = "\n".join(self.lines)
        text = f'<ir_version: 10, opset_import: ["" : 20, "com.microsoft" : 1]> g ({inputs}) => ({outputs}) {{\n{body}\n}}'
        proto = onnx.parser.parse_model(text)
        proto.graph.initializer.extend(onnx.numpy_helper.from_array(w, name) for name, w in self.weights.items())
        return ir.serde.deserialize_model(proto)


def encoder_graph(config: dict):
    """A BERT encoder in the operators of edgeq's exports."""
    hidden, inner, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    g = Graph()
    words = g.weight("embeddings.word_embeddings.weight", config["vocab_size"], hidden)
    positions = g.weight("embeddings.position_embeddings.weight", config["max_position_embeddings"], hidden)
    shape, zero = g.constant("split", [0, 0, heads, hidden // heads]), g.constant("zero", [0])
    join, one, axis = g.constant("join", [0, 0, hidden]), g.constant("one", [1]), g.constant("axis", [1])
    g.weights["root"] = np.array(np.sqrt(hidden // heads), np.float32)
    g.weights["far"] = np.array(10000, np.float32)
    g.add(f'["embeddings.word_embeddings"] tokens = Gather ({words}, input_ids)')
    g.add("sizes = Shape (input_ids)")
    g.add(f"length = Slice (sizes, {one}, {g.constant('two', [2])}, {zero})")
    g.add(f"window = Slice ({positions}, {zero}, length, {zero})")
    g.add("embedded = Add (tokens, window)")
    g.add("float_mask = Cast <to = 1> (attention_mask)")
    g.add("far_mask = Mul (float_mask, far)")
    g.add("minus = Sub (far_mask, far)")
    g.add(f"mask = Unsqueeze (minus, {g.constant('mask_axes', [1, 2])})")
    x = g.norm("embeddings.LayerNorm", "embedded", hidden)
    for index in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{index}"
        for part, order in (("query", "0, 2, 1, 3"), ("key", "0, 2, 3, 1"), ("value", "0, 2, 1, 3")):
            flat = g.linear(f"{layer}.attention.self.{part}", x, hidden, hidden, bias=True)
            g.add(f'"{layer}.{part}_split" = Reshape ({flat}, {shape})')
            g.add(f'"{layer}.{part}" = Transpose <perm = [{order}]> ("{layer}.{part}_split")')
        g.add(f'"{layer}.scores" = MatMul ("{layer}.query", "{layer}.key")')
        g.add(f'"{layer}.scaled" = Div ("{layer}.scores", root)')
        g.add(f'"{layer}.masked" = Add ("{layer}.scaled", mask)')
        g.add(f'"{layer}.weights" = Softmax <axis = -1> ("{layer}.masked")')
        g.add(f'"{layer}.context" = MatMul ("{layer}.weights", "{layer}.value")')
        g.add(f'"{layer}.turned" = Transpose <perm = [0, 2, 1, 3]> ("{layer}.context")')
        g.add(f'"{layer}.joined" = Reshape ("{layer}.turned", {join})')
        out = g.linear(f"{layer}.attention.output.dense", f'"{layer}.joined"', hidden, hidden, bias=True)
        g.add(f'"{layer}.sum1" = Add ({out}, {x})')
        x = g.norm(f"{layer}.norm1", f'"{layer}.sum1"', hidden)
        up = g.linear(f"{layer}.intermediate.dense", x, hidden, inner, bias=True)
        g.add(f'"{layer}.gelu" = Gelu ({up})')
        down = g.linear(f"{layer}.output.dense", f'"{layer}.gelu"', inner, hidden, bias=True)
        g.add(f'"{layer}.sum2" = Add ({down}, {x})')
        x = g.norm(f"{layer}.norm2", f'"{layer}.sum2"', hidden)
    g.add(f"sentence_embedding = ReduceMean <keepdims = 0> ({x}, {axis})")
    return g.build(
        "int64[batch, sequence] input_ids, int64[batch, sequence] attention_mask",
        f"float[batch, {hidden}] sentence_embedding",
    )


def decoder_graph(config: dict):
    """A Llama decoder with grouped-query attention over a cache that grows by concatenation."""
    hidden, inner, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    kv, width, layers = config["num_key_value_heads"], hidden // heads, config["num_hidden_layers"]
    g = Graph()
    words = g.weight("model.embed_tokens.weight", config["vocab_size"], hidden)
    g.add(f'["model.embed_tokens"] embedded = Gather ({words}, input_ids)')
    g.weights |= {"total_ones": np.array([1], np.int64)}
    g.add("mask32 = Cast <to = 6> (attention_mask)")
    g.add(f"summed = ReduceSum <keepdims = 0> (mask32, {g.constant('axis1', [1])})")
    g.weights["one32"] = np.array([1], np.int32)
    g.add("seqlens = Sub (summed, one32)")
    g.add("sizes = Shape (attention_mask)")
    g.add(f"total64 = Gather (sizes, {g.constant('index1', [1])})")
    g.add("total = Cast <to = 6> (total64)")
    for name in ("cos", "sin"):
        g.weight(f"{name}_cache", config["max_position_embeddings"], width // 2)
    x, present, inputs = "embedded", [], ["int64[batch, sequence] input_ids", "int64[batch, total_len] attention_mask"]
    for index in range(layers):
        layer = f"model.layers.{index}"
        normed = g.norm(f"{layer}.input_layernorm", x, hidden)
        q, k, v = (
            g.linear(f"{layer}.self_attn.{part}_proj", normed, hidden, count * width, bias=False)
            for part, count in (("q", heads), ("k", kv), ("v", kv))
        )
        cache = [f"past_key_{index}", f"past_value_{index}"]
        inputs += [f"float[batch, {kv}, past, {width}] {name}" for name in cache]
        new = [f"present_key_{index}", f"present_value_{index}"]
        present += [f"float[batch, {kv}, total_len, {width}] {name}" for name in new]
        g.add(
            f'"{layer}.attended", {", ".join(new)} = com.microsoft.GroupQueryAttention <num_heads = {heads}, '
            f"kv_num_heads = {kv}, do_rotary = 1> ({q}, {k}, {v}, {', '.join(cache)}, seqlens, total, cos_cache, sin_cache)"
        )
        out = g.linear(f"{layer}.self_attn.o_proj", f'"{layer}.attended"', hidden, hidden, bias=False)
        g.add(f'"{layer}.sum1" = Add ({out}, {x})')
        normed = g.norm(f"{layer}.post_attention_layernorm", f'"{layer}.sum1"', hidden)
        gate = g.linear(f"{layer}.mlp.gate_proj", normed, hidden, inner, bias=False)
        up = g.linear(f"{layer}.mlp.up_proj", normed, hidden, inner, bias=False)
        g.add(f'"{layer}.sigmoid" = Sigmoid ({gate})')
        g.add(f'"{layer}.silu" = Mul ({gate}, "{layer}.sigmoid")')
        g.add(f'"{layer}.gated" = Mul ("{layer}.silu", {up})')
        down = g.linear(f"{layer}.mlp.down_proj", f'"{layer}.gated"', inner, hidden, bias=False)
        g.add(f'"{layer}.sum2" = Add ({down}, "{layer}.sum1")')
        x = f'"{layer}.sum2"'
    normed = g.norm("model.norm", x, hidden)
    if config["tie_word_embeddings"]:
        g.add(f'"head_weight" = Transpose <perm = [1, 0]> ({words})')
        g.add(f'["lm_head"] logits = MatMul ({normed}, "head_weight")')
    else:
        weight = g.weight("lm_head.weight", hidden, config["vocab_size"])
        g.add(f'["lm_head"] logits = MatMul ({normed}, {weight})')
    return g.build(", ".join(inputs), ", ".join([f"float[batch, sequence, {config['vocab_size']}] logits", *present]))


def write(model, recipe_name: str, path: Path) -> None:
    """A graph written by a recipe, values rounded to nearest: memory does not depend on how they were chosen."""
    from edgeq.graph.passes.fp16_storage import store_fp16
    from edgeq.graph.passes.static_qdq import LinearQDQ, quantize_linears
    from edgeq.graph.passes.weight_only import lower_weight_only
    from edgeq.quantize.layers import find_layers, layer_weight
    from edgeq.quantize.recipes import load_recipe
    from edgeq.quantize.weight_only import quantize
    from edgeq.quantize.weight_only.matmul_nbits import to_block_weight
    from edgeq.targets.onnx_file import save_onnx

    layers = find_layers(model)
    specs = load_recipe(recipe_name).resolve(layers.refs)
    linears = [LinearQDQ(name, (-8, 8)) for name, spec in specs.items() if spec.format == "int8-static"]
    halves = [layers.initializers[name] for name, spec in specs.items() if spec.format == "fp16"]
    chosen = {}
    for site in (*layers.sites.embeddings, *layers.sites.linears):
        spec, name = specs[site.name], layers.initializers[site.name]
        if spec.format == "weight-only" and (name not in chosen or chosen[name][1].bits < spec.bits):
            chosen[name] = (site, spec)
    blocks = {
        name: to_block_weight(quantize("rtn", layer_weight(model, site), replace(spec, method="rtn").weight_spec()))
        for name, (site, spec) in chosen.items()
    }
    model = quantize_linears(model, linears)
    model = lower_weight_only(model, blocks).model if blocks else model
    save_onnx(store_fp16(model, halves) if halves else model, path)


def encoder_step(tokens: int) -> list[tuple[str, str, list[int]]]:
    return [("input_ids", "int64", [1, tokens]), ("attention_mask", "int64", [1, tokens])]


def decoder_step(config: dict, past: int, tokens: int) -> list[tuple[str, str, list[int]]]:
    width = config["hidden_size"] // config["num_attention_heads"]
    cache = [1, config["num_key_value_heads"], past, width]
    names = [f"past_{kind}_{i}" for i in range(config["num_hidden_layers"]) for kind in ("key", "value")]
    return [
        ("input_ids", "int64", [1, tokens]),
        ("attention_mask", "int64", [1, past + tokens]),
        *((name, "float32", cache) for name in names),
    ]


def fit(folder: Path, only: str | None) -> None:
    """Raw measurements: what one constant after the other is read from."""
    print(f"library alone: {probe(None)['library'] / 1e6:.1f} MB")
    for name in (*ENCODERS, *DECODERS):
        if only and only not in name:
            continue
        config = encoder_config(name) if name in ENCODERS else decoder_config(name)
        model = encoder_graph(config) if name in ENCODERS else decoder_graph(config)
        for recipe in RECIPES:
            if recipe == "q8-static" and name in DECODERS:
                continue
            path = folder / "m.onnx"
            write(model, recipe, path)
            cases = (8, 128, 512)
            if name in ENCODERS:
                found = [probe(path, encoder_step(tokens)) for tokens in cases]
            else:
                cases = ((0, 128), (1024, 1), (2048, 1))
                found = [probe(path, decoder_step(config, *case)) for case in cases]
            size = path.stat().st_size
            loaded = found[0]["loaded"] - found[0]["library"]
            runs = "  ".join(f"{c}: {(f['total'] - f['loaded']) / 1e6:.1f}" for c, f in zip(cases, found, strict=True))
            print(f"{name:12} {recipe:10} file {size / 1e6:7.1f}  loaded {loaded / 1e6:7.1f} ({loaded / size:.2f})  run {runs}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--only")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgeq-advise-") as name:
        if options.fit:
            fit(Path(name), options.only)
