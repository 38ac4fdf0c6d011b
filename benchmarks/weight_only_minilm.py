"""Weight-only methods on a sentence encoder, beside ONNX Runtime's own quantizers in the same run.

Every row is a written file run by ONNX Runtime with the kernels it ships: size, Spearman on STS pairs, cosine
between quantized and original sentence embeddings. ONNX Runtime's quantizers leave embeddings in float.

    python benchmarks/weight_only_minilm.py MODEL.onnx TOKENIZER.json --calib SICK_train.txt --sts sts13-*.tsv
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx import numpy_helper
from scipy.stats import spearmanr
from tokenizers import Tokenizer

from edgeq.graph.passes.weight_only import verify_weight_only
from edgeq.onnx_runtime import session_options
from edgeq.quantize import weight_only
from edgeq.quantize.formats import Blocks
from edgeq.quantize.weight_only import LayerStats, QuantizedWeight, awq
from edgeq.quantize.weight_only.matmul_nbits import lower

METHODS = ("rtn", "scale_search", "hqq", "awq", "gptq")
PEERS = ("ort rtn sym", "ort rtn asym", "ort k_quant", "ort hqq")


def main() -> None:
    arguments = parse()
    texts = Texts(arguments)
    encoder = Encoder(arguments.tokenizer, arguments.threads)
    model = onnx.load(arguments.model)
    original = encoder.embed(arguments.model, texts.sentences)
    print(
        f"{len(texts.calibration)} calibration sentences, {len(texts.gold)} STS pairs, {platform.machine()}, "
        f"{os.cpu_count()} cores, onnxruntime {ort.__version__}, threads {arguments.threads}"
    )
    print(f"{'':34}     MB  Spearman  cosine mean      p1     min  quantize s (CPU)")
    show("float32", arguments.model, texts, original, original, 0.0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        for name in arguments.peers:
            started = time.process_time()
            quantize_with_peer(name, arguments.model, path)
            seconds = time.process_time() - started
            show(name, path, texts, original, encoder.embed(path, texts.sentences), seconds)
        layers = linear_layers(model)
        stats = observe(model, layers, encoder, texts.calibration)
        for method, block, symmetric, embedding_bits in rows(arguments):
            spec = Blocks(arguments.bits, block, symmetric)
            started = time.process_time()
            weights = quantize_layers(model, layers, stats, method, spec)
            weights |= quantize_tables(model, embedding_bits, arguments.min_rows)
            seconds = time.process_time() - started
            lowering = lower(ir.serde.deserialize_model(model), weights)
            ir.save(lowering.model, path)
            verify_weight_only(path, lowering.nodes)
            tables = f" + {embedding_bits}-bit embeddings" if embedding_bits else ""
            label = f"{method} {'sym' if symmetric else 'asym'} {block}{tables}"
            show(label, path, texts, original, encoder.embed(path, texts.sentences), seconds)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="ONNX graph with a sentence embedding as first output")
    parser.add_argument("tokenizer", help="tokenizer.json")
    parser.add_argument(
        "--calib", type=Path, required=True, help="SICK-style tab-separated pairs, or plain lines"
    )
    parser.add_argument("--sts", type=Path, nargs="+", required=True, help="gold score, sentence, sentence")
    parser.add_argument("--calib-samples", type=int, default=512)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--blocks", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=METHODS)
    parser.add_argument("--peers", nargs="*", default=list(PEERS), choices=PEERS)
    parser.add_argument("--min-rows", type=int, default=1024, help="smaller tables stay in float")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def rows(arguments: argparse.Namespace) -> list[tuple[str, int, bool, int]]:
    """Method, block, symmetry, bits of the embeddings (0: float); first what would be shipped."""
    shipped = [(m, 32, s, 4) for m in arguments.methods if m == "gptq" for s in (True, False)]
    return shipped + [
        (m, b, s, 0) for b in arguments.blocks for s in (True, False) for m in arguments.methods
    ]


class Texts:
    """Calibration sentences and scored pairs."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        lines = arguments.calib.read_text("utf-8").splitlines()
        pairs = [line.split("\t") for line in lines]
        found = [f for p in pairs[1:] for f in p[1:3]] if len(pairs[0]) > 2 else lines
        unique = list(dict.fromkeys(sentence for sentence in found if sentence.strip()))
        random.Random(0).shuffle(unique)
        self.calibration = unique[: arguments.calib_samples]
        scored = [line.split("\t") for file in arguments.sts for line in file.read_text("utf-8").splitlines()]
        self.gold = [float(row[0]) for row in scored]
        self.sentences = [row[1] for row in scored] + [row[2] for row in scored]

    def spearman(self, embeddings: np.ndarray) -> float:
        """Spearman x 100 of the pairs' cosines and their gold scores."""
        first, second = np.split(embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True), 2)
        return float(100 * spearmanr(self.gold, (first * second).sum(1))[0])


class Encoder:
    """Tokenizes and runs a graph, sentences sorted by length."""

    def __init__(self, tokenizer: str, threads: int) -> None:
        self.tokenizer = Tokenizer.from_file(tokenizer)
        self.tokenizer.enable_truncation(256)
        self.tokenizer.no_padding()
        self.threads = threads

    def session(self, model: Any) -> ort.InferenceSession:
        """A session over a path or bytes."""
        options = session_options(threads=self.threads)
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def feeds(self, sentences: Sequence[str]) -> dict[str, np.ndarray]:
        """Right-padded inputs, int64 `[batch, longest]`."""
        encoded = self.tokenizer.encode_batch(list(sentences))
        ids = np.zeros((len(encoded), max(len(item.ids) for item in encoded)), np.int64)
        mask = np.zeros_like(ids)
        for row, item in enumerate(encoded):
            ids[row, : len(item.ids)], mask[row, : len(item.ids)] = item.ids, 1
        return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}

    def embed(self, model: Path, sentences: Sequence[str], batch: int = 32) -> np.ndarray:
        """First output for every sentence, `[sentences, hidden]`."""
        session = self.session(str(model))
        wanted = {item.name for item in session.get_inputs()}
        order = sorted(range(len(sentences)), key=lambda i: len(sentences[i]))
        parts = []
        for start in range(0, len(order), batch):
            feeds = self.feeds([sentences[i] for i in order[start : start + batch]])
            parts.append(session.run(None, {k: v for k, v in feeds.items() if k in wanted})[0])
        result = np.concatenate(parts)
        return result[np.argsort(order)]


def linear_layers(model: onnx.ModelProto) -> dict[str, str]:
    """Weight initializer of every MatMul that has one, and the tensor it multiplies."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return {
        node.input[1]: node.input[0]
        for node in model.graph.node
        if node.op_type == "MatMul" and node.input[1] in constants
    }


def observe(
    model: onnx.ModelProto, layers: dict[str, str], encoder: Encoder, sentences: Sequence[str]
) -> dict[str, LayerStats]:
    """X^T X of every layer's input over real tokens, padding left out."""
    tensors = sorted(set(layers.values()))
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.extend(onnx.helper.make_empty_tensor_value_info(tensor) for tensor in tensors)
    session = encoder.session(probe.SerializeToString())
    grams: dict[str, Any] = dict.fromkeys(tensors, 0.0)
    tokens = 0
    ordered = sorted(sentences, key=len)
    for start in range(0, len(ordered), 32):
        feeds = encoder.feeds(ordered[start : start + 32])
        real = feeds["attention_mask"].astype(bool)
        tokens += int(real.sum())
        for tensor, value in zip(tensors, session.run(None, feeds), strict=True):
            x = value.reshape(*real.shape, -1)[real]
            grams[tensor] = grams[tensor] + (x.T @ x).astype(np.float64)
    return {t: LayerStats((np.diag(g) / tokens).astype(np.float32), tokens, g) for t, g in grams.items()}


def quantize_layers(
    model: onnx.ModelProto,
    layers: dict[str, str],
    stats: dict[str, LayerStats],
    method: str,
    spec: Blocks,
) -> dict[str, QuantizedWeight]:
    """Every linear layer; AWQ scales are shared by the layers that read the same tensor."""
    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer if t.name in layers}
    if method != "awq":
        return {n: weight_only.quantize(method, arrays[n], spec, stats[layers[n]]) for n in layers}
    result = {}
    for tensor in dict.fromkeys(layers.values()):
        names = [name for name, source in layers.items() if source == tensor]
        scales = awq.search_input_scales([arrays[name] for name in names], spec, stats[tensor])
        for name in names:
            result[name] = awq.quantize_scaled(arrays[name], spec, stats[tensor], scales)
    return result


def quantize_tables(model: onnx.ModelProto, bits: int, min_rows: int) -> dict[str, QuantizedWeight]:
    """Embedding tables of at least `min_rows` rows; none where `bits` is 0."""
    if bits == 0:
        return {}
    read = {node.input[0] for node in model.graph.node if node.op_type == "Gather"}
    tables = {t.name: t for t in model.graph.initializer if t.name in read and t.dims[0] >= min_rows}
    spec = Blocks(bits, 32)
    return {
        name: weight_only.quantize("scale_search", numpy_helper.to_array(table).T, spec)
        for name, table in tables.items()
    }


def quantize_with_peer(name: str, model: Path, path: Path) -> None:
    """ONNX Runtime's quantizer of that name, block 32, 4 bits, int8 accuracy level where it takes one."""
    from onnxruntime.quantization import matmul_nbits_quantizer as peer

    # It logs a line per node.
    logging.disable(logging.INFO)
    configs: dict[str, Any] = {
        "ort rtn sym": peer.DefaultWeightOnlyQuantConfig(block_size=32, is_symmetric=True, accuracy_level=4),
        "ort rtn asym": peer.DefaultWeightOnlyQuantConfig(
            block_size=32, is_symmetric=False, accuracy_level=4
        ),
        "ort k_quant": peer.KQuantWeightOnlyQuantConfig(),
        "ort hqq": peer.HQQWeightOnlyQuantConfig(block_size=32),
    }
    config = configs[name]
    quantizer = peer.MatMulNBitsQuantizer(
        onnx.load(model),
        block_size=32,
        is_symmetric=name == "ort rtn sym",
        accuracy_level=4,
        algo_config=config,
    )
    quantizer.process()
    quantizer.model.save_model_to_file(str(path))


def show(
    label: str, path: Path, texts: Texts, original: np.ndarray, embeddings: np.ndarray, seconds: float
) -> None:
    """One line of the table."""
    norms = np.linalg.norm(original, axis=1) * np.linalg.norm(embeddings, axis=1)
    cosine = (original * embeddings).sum(1) / norms
    print(
        f"{label:34} {path.stat().st_size / 1e6:6.2f}  {texts.spearman(embeddings):8.2f}  {cosine.mean():11.5f}  "
        f"{np.percentile(cosine, 1):.4f}  {cosine.min():.4f}  {seconds:6.1f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
