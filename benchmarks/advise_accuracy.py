"""Estimates of `edgeq advise` against measured memory, and the constants they are made of.

python benchmarks/advise_accuracy.py [--fit] [--only NAME] [--weights inside|beside]
python benchmarks/advise_accuracy.py --onnx MODEL.onnx RECIPE CONFIG_FOLDER

Builds encoders and decoders of random weights with ONNX operators alone, writes them by several recipes with the
weights inside the file and beside it, runs each in a process of its own, and compares the growth of its peak RSS
(ONNX Runtime's library, the model, one batch) with the estimate. `--fit` also prints the constants that these
measurements give, as `pipeline/advise/memory.py` has them. `--onnx` takes a real model, such as a bundle's variant.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

ENCODERS = {
    "encoder-tiny": {
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "vocab_size": 1000,
    },
    "encoder-deep": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 4,
        "num_attention_heads": 12,
        "vocab_size": 4000,
    },
    "encoder-wide": {
        "hidden_size": 256,
        "intermediate_size": 1024,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "vocab_size": 120000,
    },
    "encoder-23M": {
        "hidden_size": 384,
        "intermediate_size": 1536,
        "num_hidden_layers": 6,
        "num_attention_heads": 12,
    },
    "encoder-43M": {
        "hidden_size": 640,
        "intermediate_size": 2560,
        "num_hidden_layers": 6,
        "num_attention_heads": 10,
    },
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
PLACES = ("inside", "beside")
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
        """A random initializer; returns its name, quoted."""
        self.weights[name] = self._random.standard_normal(shape, dtype=np.float32) * np.float32(0.02)
        return f'"{name}"'

    def constant(self, name: str, values: list[int]) -> str:
        """An int64 initializer; returns its name, quoted."""
        self.weights[name] = np.array(values, np.int64)
        return f'"{name}"'

    def add(self, text: str) -> None:
        """One node, as ONNX text."""
        self.lines.append(text)

    def linear(self, name: str, x: str, in_features: int, out_features: int, *, bias: bool) -> str:
        """A product named like its module, and its bias; returns the output."""
        weight = self.weight(f"{name}.weight", in_features, out_features)
        self.add(f'["{name}"] "{name}_out" = MatMul ({x}, {weight})')
        if not bias:
            return f'"{name}_out"'
        self.add(f'"{name}_biased" = Add ("{name}_out", {self.weight(f"{name}.bias", out_features)})')
        return f'"{name}_biased"'

    def norm(self, name: str, x: str, width: int) -> str:
        """A LayerNormalization; returns the output."""
        scale, bias = self.weight(f"{name}.weight", width), self.weight(f"{name}.bias", width)
        self.add(f'"{name}_out" = LayerNormalization <axis = -1> ({x}, {scale}, {bias})')
        return f'"{name}_out"'

    def build(self, inputs: str, outputs: str):
        """The graph with these inputs and outputs, as ONNX text declares them."""
        import onnx
        import onnx_ir as ir

        body = "\n".join(self.lines)
        head = '<ir_version: 10, opset_import: ["" : 20, "com.microsoft" : 1]>'
        text = f"{head} g ({inputs}) => ({outputs}) {{\n{body}\n}}"
        proto = onnx.parser.parse_model(text)
        proto.graph.initializer.extend(
            onnx.numpy_helper.from_array(w, name) for name, w in self.weights.items()
        )
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
    numbers = g.constant("numbers", list(range(config["max_position_embeddings"])))
    g.add(f"used = Slice ({numbers}, {zero}, length, {zero})")
    g.add(f'["embeddings.position_embeddings"] window = Gather ({positions}, used)')
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
    x, present, inputs = (
        "embedded",
        [],
        ["int64[batch, sequence] input_ids", "int64[batch, total_len] attention_mask"],
    )
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
            f"kv_num_heads = {kv}, do_rotary = 1> ({q}, {k}, {v}, {', '.join(cache)}, seqlens, total, cos_cache, "
            "sin_cache)"
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
    return g.build(
        ", ".join(inputs), ", ".join([f"float[batch, sequence, {config['vocab_size']}] logits", *present])
    )


def write(model, recipe_name: str, path: Path) -> None:
    """A graph lowered by a recipe as the CPU target lowers it; how values were chosen does not change memory."""
    from edgeq.graph.component import Component
    from edgeq.pipeline.quantizing import family
    from edgeq.quantize.layers import find_layers
    from edgeq.quantize.recipes import load_recipe
    from edgeq.targets.cpu import lower_for_cpu
    from edgeq.targets.onnx_file import save_onnx
    from edgeq.targets.target import LoweringInput
    from edgeq.types import Precision

    layers = find_layers(model)
    specs = load_recipe(recipe_name).resolve(layers.refs)
    canonical = Component("model", model, (), ())
    precision = family(specs.values())
    if precision in (Precision.FP32, Precision.FP16):
        source = LoweringInput(canonical, precision=precision)
    else:
        plan, weights = rounded_plan(model, layers, specs)
        source = LoweringInput(canonical, plan, weights=weights, precision=precision)
    save_onnx(lower_for_cpu(source), path)


def rounded_plan(model, layers, specs):
    """The plan and the weight-only codes of these specs, everything rounded to nearest."""
    from edgeq.pipeline.quantizing import row_tables
    from edgeq.pipeline.weight_jobs import weight_jobs
    from edgeq.quantize.layers import layer_weight
    from edgeq.quantize.plan import EmbeddingDecision, LinearDecision, QuantizationPlan, WeightDecision
    from edgeq.quantize.weight_only import quantize

    rows = row_tables(layers, specs) - layers.tied
    jobs = [job for job in weight_jobs(layers, specs) if job.name not in rows]
    none = np.zeros(0, np.float32)
    plan = QuantizationPlan(
        (),
        tuple(
            LinearDecision(site.name, True, "benchmark", (-8.0, 8.0), none, none)
            for site in layers.sites.linears
            if specs[site.name].format == "int8-static"
        ),
        tuple(EmbeddingDecision(name, True, "benchmark") for name in sorted(rows)),
        weights=tuple(
            WeightDecision(
                job.name,
                job.initializer,
                job.spec.bits,
                job.spec.block_size,
                job.spec.symmetric,
                "rtn",
                job.spec.bits_per_weight(job.site.shape[0]),
                0.0,
            )
            for job in jobs
        ),
    )
    codes = {
        job.initializer: quantize(
            "rtn", layer_weight(model, job.site), replace(job.spec, method="rtn").blocks()
        )
        for job in jobs
    }
    return plan, codes


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


@dataclass(frozen=True)
class Measured:
    """One file, run with some input, against its estimate; megabytes, ONNX Runtime's library included."""

    name: str
    recipe: str
    external: bool
    case: str
    file_mb: float
    measured_mb: float
    footprint: object

    @property
    def estimated_mb(self) -> float:
        """The estimated peak."""
        return self.footprint.ram / 1e6

    @property
    def error(self) -> float:
        """Relative to what was measured."""
        return self.estimated_mb / self.measured_mb - 1


def measure(
    folder: Path, name: str, recipe: str, *, external: bool, cases=None, repeats: int = 2
) -> list[Measured]:
    """Write one model by one recipe and run it with each case `(past, tokens)`; the largest of all runs counts."""
    import onnx_ir as ir

    config = encoder_config(name) if name in ENCODERS else decoder_config(name)
    cases = cases or (((0, 8), (0, 512)) if name in ENCODERS else ((0, 8), (0, 512), (1536, 512), (2048, 1)))
    path = folder / "model.onnx"
    write(encoder_graph(config) if name in ENCODERS else decoder_graph(config), recipe, path)
    if external:
        model = ir.load(path)
        path = folder / "external.onnx"
        ir.save(model, path, external_data="external.onnx.data")
    size = sum(file.stat().st_size for file in folder.glob(f"{path.name}*"))
    runs = {case: [probe(path, _step(name, config, *case)) for _ in range(repeats)] for case in cases}
    # What is returned to the system before a peak differs from run to run, by up to 40 % for some shapes. Loading is
    # the same whatever is read afterwards, so each run of a file is one more measurement of it.
    loaded = max(run["loaded"] for one in runs.values() for run in one)
    found = []
    for case, one in runs.items():
        total = max(loaded, *(run["total"] for run in one))
        footprint = footprint_of(config, recipe, *case, external=external)
        shown = f"{case[0]}+{case[1]}"
        found.append(Measured(name, recipe, external, shown, size / 1e6, total / 1e6, footprint))
    for file in (*folder.glob("model.onnx*"), *folder.glob("external.onnx*")):
        file.unlink()
    return found


def _step(name: str, config: dict, past: int, tokens: int) -> list[tuple[str, str, list[int]]]:
    return encoder_step(tokens) if name in ENCODERS else decoder_step(config, past, tokens)


def footprint_of(config: dict, recipe: str, past: int, tokens: int, *, external: bool | None = None):
    """The estimate for a run that reads `tokens` after `past`: activations of the tokens, cache of them all."""
    from edgeq.exporters.shapes import model_shape
    from edgeq.pipeline.advise.memory import estimate, kv_cache_bytes
    from edgeq.quantize.recipes import layer_refs, load_recipe

    shape = model_shape(config, "benchmark")
    layers = layer_refs(shape.matrices, shape.tied)
    found = estimate(shape, layers, load_recipe(recipe).resolve(layers), tokens, external=external)
    return replace(found, kv_cache=kv_cache_bytes(shape, past + tokens))


def show(found: list[Measured]) -> None:
    for one in found:
        print(
            f"{one.name:13}{one.recipe:10}{'beside' if one.external else 'inside':7}{one.case:>10}{one.file_mb:10.1f}"
            f"{one.measured_mb:10.1f}{one.estimated_mb:10.1f}{one.error:+10.1%}",
            flush=True,
        )


def solve(found: list[Measured]) -> None:
    """Least squares of the relative error over the four costs of each format; a session's own bytes are known."""
    from scipy.optimize import minimize

    from edgeq.pipeline.advise import memory

    formats = list(memory.INLINE_COSTS)
    base = memory.EXTERNAL_COSTS if found[0].external else memory.INLINE_COSTS
    fixed = (memory.LIBRARY_BYTES + memory.SESSION_BYTES) / 1e6
    parts = [(*bytes_by_format(one, formats), one) for one in found]

    def estimated(costs, tables, linears, turned, one) -> float:
        run = (one.footprint.activations + one.footprint.kv_cache) / 1e6
        loading, running = costs[0] @ tables + costs[1] @ linears, costs[2] @ tables + costs[3] @ linears
        return fixed + max(loading, running + max(run, turned))

    def loss(x) -> float:
        costs = x.reshape(4, len(formats))
        errors = [estimated(costs, *part) / part[-1].measured_mb - 1 for part in parts]
        # What the measurements leave open (a peak that the other one always hides) stays near a byte for a byte.
        return sum(np.square(errors)) + 1e-3 * sum(np.square(x - 1)) + 100 * np.minimum(x, 0).sum() ** 2

    start = np.array([[getattr(base[f], field) for f in formats] for field in base["fp32"].__slots__])
    best = minimize(
        loss, start.ravel(), method="Powell", options={"maxiter": 20000, "xtol": 1e-3, "ftol": 1e-6}
    )
    for name, costs in zip(formats, best.x.reshape(4, -1).T, strict=True):
        print(f"    {name!r}: LoadCost({', '.join(f'{cost:.2f}' for cost in costs)}),")


def bytes_by_format(one: Measured, formats: list[str]):
    """Megabytes of tables and of linear layers in the file, by format, a tied table as both; and of turned tables."""
    from edgeq.exporters.shapes import model_shape
    from edgeq.pipeline.advise.memory import cost_key, stored_bits, turned_bytes
    from edgeq.quantize.recipes import layer_refs, load_recipe

    config = encoder_config(one.name) if one.name in ENCODERS else decoder_config(one.name)
    shape = model_shape(config, one.name)
    layers = layer_refs(shape.matrices, shape.tied)
    specs = load_recipe(one.recipe).resolve(layers)
    tables, linears = np.zeros(len(formats)), np.zeros(len(formats))
    for layer in layers:
        spec = specs[layer.name]
        index = formats.index(cost_key(layer, spec))
        size = layer.shape[0] * layer.shape[1] * stored_bits(layer, spec) / 8e6
        is_table = layer.role.startswith("embedding")
        tables[index] += size if is_table else 0
        linears[index] += size if layer.tied or not is_table else 0
    return tables, linears, sum(turned_bytes(layer, specs[layer.name]) for layer in layers) / 1e6


def real_model(path: Path, recipe: str, config_folder: Path) -> None:
    """A model file that edgeq exported, against its estimate."""
    config = json.loads((config_folder / "config.json").read_text())
    inputs = _input_names(path)
    for tokens in (128, 512):
        total = probe(path, [(name, "int64", [1, tokens]) for name in inputs])["total"]
        estimated = footprint_of(config, recipe, 0, tokens).ram
        print(
            f"{path.name} {recipe} {tokens} tokens: file {path.stat().st_size / 1e6:.1f} MB, "
            f"measured {total / 1e6:.1f}, estimated {estimated / 1e6:.1f} ({estimated / total - 1:+.1%})"
        )


def _input_names(path: Path) -> list[str]:
    import onnx

    return [value.name for value in onnx.load(path, load_external_data=False).graph.input]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--fit", action="store_true", help="print the constants these measurements give")
    parser.add_argument("--only", default="", help="models whose name has this in it")
    parser.add_argument("--weights", choices=PLACES, help="inside the file, or beside it; both when left out")
    parser.add_argument(
        "--onnx", nargs=3, metavar=("MODEL.onnx", "RECIPE", "CONFIG_FOLDER"), help="a real model"
    )
    options = parser.parse_args()
    if options.onnx:
        real_model(Path(options.onnx[0]), options.onnx[1], Path(options.onnx[2]))
        return
    print(f"ONNX Runtime's library alone: {probe(None)['library'] / 1e6:.1f} MB")
    columns = ("tokens", "file MB", "measured", "estimated", "error")
    print(f"{'model':13}{'recipe':10}{'weights':7}" + "".join(f"{text:>10}" for text in columns))
    with tempfile.TemporaryDirectory(prefix="edgeq-advise-") as folder:
        for external in [place == "beside" for place in PLACES if options.weights in (place, None)]:
            found: list[Measured] = []
            for name in (name for name in (*ENCODERS, *DECODERS) if options.only in name):
                for recipe in RECIPES:
                    if recipe == "q8-static" and (external or name in DECODERS):
                        continue
                    new = measure(Path(folder), name, recipe, external=external)
                    show(new)
                    found += new
            print(f"largest error: {max(abs(one.error) for one in found):.1%}")
            if options.fit:
                solve(found)


if __name__ == "__main__":
    main()
