"""GGUF files of one checkpoint by llama.cpp's quantizer and by edgeq, and edgeq's ONNX recipes: quality at their bytes.

Every row's weights are dequantized (GGUF types by the `gguf` package) and put into the original model, which runs in
float32: what differs is the weights alone. llama.cpp quantizes through llama-cpp-python's `llama_model_quantize`, from
the float32 file that edgeq writes, with and without an importance matrix of the same calibration tokens. Rows whose
length is no whole block get other types than the name says, by llama.cpp's rules; the table counts them. edgeq's files
are shown with scales by E[x^2] alone (`importance`, what an importance matrix gives llama.cpp) and with codes chosen by
their effect on the layer's output as well (`feedback`, what `edgeq export` does). `s` is CPU time.

    python benchmarks/lm_gguf_quality.py MODEL [--text FILE] [--types q4_0 q4_k_m] [--recipes int4 q4_k_m]

Text: the first 80 % calibrate, the last 20 % are scored; without a file the model writes its own, from two seeds.
"""

from __future__ import annotations

import argparse
import ctypes
import platform
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from edgeq.exporters.causal_lm import load_language_model, open_original
from edgeq.exporters.causal_lm.original import OriginalLanguageModel
from edgeq.pipeline.forward.data import DataSets
from edgeq.pipeline.generation.data import window_feeds
from edgeq.pipeline.quantizing import quantize_model
from edgeq.processors.prompts import PromptTokenizer
from edgeq.progress import SilentProgress
from edgeq.quantize.layers import find_layers, layer_weight
from edgeq.quantize.recipes import load_recipe
from edgeq.quantize.streaming.stacked_rows import values_of
from edgeq.quantize.weight_only import LayerStats
from edgeq.runtime.generation import llama_cpp
from edgeq.targets.gguf.file_types import FILE_TYPES
from edgeq.targets.gguf.read_back import StoredParameters
from edgeq.targets.gguf.tensors import PlannedTensor, plan_tensors
from edgeq.targets.gguf.writer import write_gguf
from edgeq.targets.target import CheckpointInput

Array = np.ndarray


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    original = open_original(arguments.model)
    with tempfile.TemporaryDirectory() as scratch:
        calibration, evaluation = windows_of(original, arguments)
        bench = Bench(original, calibration, evaluation, Path(scratch))
        bench.header(Path(arguments.model).name)
        bench.row("original", original.reference, None, 0.0)
        for kind in arguments.types:
            bench.compare(kind)
        for name in arguments.recipes:
            bench.recipe(arguments.model, name)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="a Hugging Face folder")
    parser.add_argument("--text", type=Path, help="UTF-8 text; without it the model writes its own")
    parser.add_argument("--types", nargs="*", default=["q4_0", "q4_k_s", "q4_k_m"], choices=FILE_TYPES)
    parser.add_argument(
        "--recipes", nargs="*", default=["int4", "q4", "q4_k_s", "q4_k_m", "q5_k_m", "q6", "q8"]
    )
    parser.add_argument("--windows", type=int, default=64, help="scored windows")
    parser.add_argument("--calib-windows", type=int, default=64)
    parser.add_argument("--length", type=int, default=256, help="tokens per window")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def windows_of(original: OriginalLanguageModel, arguments: argparse.Namespace) -> tuple[Array, Array]:
    """Calibration and scored token ids, `[windows, length]` each."""
    counts = arguments.calib_windows, arguments.windows
    if arguments.text is None:
        whole = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32).eval()
        start = original.preprocessor.special_token_ids["bos_token"]
        first, second = (sample(whole, start, n, arguments.length, seed) for seed, n in enumerate(counts, 1))
        return first, second
    tokenizer = PromptTokenizer(original.preprocessor.tokenizer_json)
    text = arguments.text.read_text("utf-8")
    cut = int(len(text) * 0.8)
    parts = zip((text[:cut], text[cut:]), counts, strict=True)
    first, second = (chunks(tokenizer.encode(part), n, arguments.length) for part, n in parts)
    return first, second


def chunks(ids: list[int], count: int, length: int) -> Array:
    count = min(count, len(ids) // length)
    return np.asarray(ids[: count * length]).reshape(count, length)


@torch.no_grad()
def sample(model: Any, start: int, count: int, length: int, seed: int) -> Array:
    """Texts the model writes at temperature 0.8, its start token first."""
    generator = torch.Generator().manual_seed(seed)
    ids, past = torch.full((count, 1), start), None
    for _ in range(length - 1):
        out = model(ids[:, -1:] if past is not None else ids, past_key_values=past, use_cache=True)
        past = out.past_key_values
        chances = torch.softmax(out.logits[:, -1] / 0.8, -1)
        ids = torch.cat([ids, torch.multinomial(chances, 1, generator=generator)], 1)
    return ids.numpy()


@dataclass(slots=True)
class Bench:
    """One model, its calibration and its scored tokens."""

    original: OriginalLanguageModel
    calibration: Array
    evaluation: Array
    scratch: Path
    stats: dict[str, LayerStats] | None = None
    base: list[Array] | None = None

    def header(self, name: str) -> None:
        """What is compared, and the names of the columns."""
        peer = (
            f"llama-cpp-python {llama_cpp.package_version()}" if llama_cpp.is_installed() else "no llama.cpp"
        )
        print(
            f"{name}: {self.original.source.parameters / 1e6:.2f} M parameters, {self.evaluation.size} scored and "
            f"{self.calibration.size} calibration tokens, windows of {self.evaluation.shape[1]}, "
            f"{platform.machine()}, torch {torch.__version__}, "
            f"{peer}"
        )
        columns = "    bytes   bits  perplexity      KL +- SE          top-1    RMS dp      s"
        print(f"{'':40} {columns}", flush=True)

    def compare(self, kind: str) -> None:
        """llama.cpp's file of a type, plain and with an importance matrix, and edgeq's."""
        if llama_cpp.is_installed():
            source = self.float_file()
            for label, imatrix in (("", None), (" imatrix", self.importance())):
                path = self.scratch / f"llama-{kind}{label.strip()}.gguf"
                started = time.process_time()
                quantize_by_llama_cpp(source, path, kind, imatrix)
                self.file(f"llama.cpp {kind}{label}", path, kind, time.process_time() - started)
        for label, gram in ((" importance", False), (" feedback", True)):
            path = self.scratch / f"edgeq-{kind}.gguf"
            started = time.process_time()
            write_gguf(self.source(gram), kind, path)
            self.file(f"edgeq {kind}{label}", path, kind, time.process_time() - started)

    def recipe(self, model: str, name: str) -> None:
        """An ONNX recipe by its dequantized weights."""
        started = time.process_time()
        exported = load_language_model(model)
        feeds = window_feeds(self.calibration, exported.settings.cache)
        data = DataSets(feeds, len(self.calibration), (), (), (), (), padding=None)
        done = quantize_model(exported.canonical, data, load_recipe(name), SilentProgress())
        seconds = time.process_time() - started
        layers = find_layers(exported.canonical.model)
        sites = {site.name: site for site in (*layers.sites.linears, *layers.sites.embeddings)}
        known = {key: values_of(value) for key, value in self.original.tensors.items()}
        found, size = [], 0
        assert done.plan is not None
        for item in done.plan.weights:
            before = layer_weight(exported.canonical.model, sites[item.name])
            parameter = next(key for key, value in known.items() if same(value, before))
            values = done.weights[item.initializer].dequantize().T
            found.append((parameter, values if known[parameter].shape == values.shape else values.T))
            size += int(item.bits_per_weight * values.size / 8)
        rest = sum(value.size for key, value in known.items() if key not in dict(found))
        logits = self.original.with_weights(dict(found))
        self.row(f"edgeq ONNX {name}", logits, size + 4 * rest, seconds)

    def float_file(self) -> Path:
        """What llama.cpp quantizes."""
        path = self.scratch / "f32.gguf"
        if not path.is_file():
            write_gguf(self.source(False), "f32", path)
        return path

    def source(self, gram: bool) -> CheckpointInput:
        """What the GGUF target gets, with or without X^T X."""
        original = self.original

        def observe(names: Any, _: bool) -> Mapping[str, LayerStats]:
            found = self.observed()
            return {key: found[key] if gram else without_gram(found, key) for key in names}

        return CheckpointInput(
            name="bench",
            config=original.config,
            tensors=original.tensors,
            tokenizer_json=original.preprocessor.tokenizer_json,
            special_ids=original.preprocessor.special_token_ids,
            settings=original.settings,
            about=original.source,
            observe=observe,
        )

    def observed(self) -> dict[str, LayerStats]:
        """Statistics of the calibration tokens, by parameter."""
        if self.stats is None:
            planned = self.planned("q8_0").values()
            names = [item.parameter for item in planned if item.kind != "F32" and not item.is_lookup]
            self.stats = self.original.observe(names, self.calibration, gram=True)
        return self.stats

    def importance(self) -> dict[str, Array]:
        """E[x^2] by tensor name, as llama.cpp's importance matrix has it."""
        by_parameter = {item.parameter: item.name for item in self.planned("f32").values()}
        return {by_parameter[key]: value.mean_square for key, value in self.observed().items()}

    def planned(self, kind: str) -> dict[str, PlannedTensor]:
        """The tensors of a file, by name."""
        shapes = {name: tensor.shape for name, tensor in self.original.tensors.items()}
        return {item.name: item for item in plan_tensors(shapes, self.original.config, kind)}

    def file(self, label: str, path: Path, kind: str, seconds: float) -> None:
        """One row for a file, read by the `gguf` package."""
        import gguf

        reader = gguf.GGUFReader(path)
        types = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
        wanted = FILE_TYPES[kind].tensor_type
        odd = sum(
            item.shape[-1] % {"Q4_K": 256, "Q5_K": 256, "Q6_K": 256}.get(wanted, 32) > 0
            for item in self.planned("f32").values()
            if types[item.name] != "F32"
        )
        logits = self.original.with_weights(
            StoredParameters(path, self.original.config, [*self.planned(kind).values()])
        )
        size = sum(int(tensor.n_bytes) for tensor in reader.tensors)
        self.row(f"{label}{f' ({odd} fall back)' if odd else ''}", logits, size, seconds)

    def row(self, label: str, logits: Any, size: int | None, seconds: float) -> None:
        """Score a model beside the original, which comes first."""
        scores = list(self.scores(logits))
        if self.base is None:
            self.base = [logp for logp, _ in scores]
        nll = np.concatenate([own for _, own in scores])
        kl, hits, moved = [], [], []
        for (logp, own), base, ids in zip(scores, self.base, self.evaluation, strict=True):
            kl.append(float((np.exp(base) * (base - logp)).sum(-1).mean()))
            hits.append(float((base.argmax(-1) == logp.argmax(-1)).mean()))
            right = base[np.arange(len(ids) - 1), ids[1:]]
            moved.append(float(np.square(np.exp(-own) - np.exp(right)).mean()))
        error = float(np.std(kl, ddof=1) / np.sqrt(len(kl)))
        bits = "" if size is None else f"{8 * size / self.original.source.parameters:6.3f}"
        print(
            f"{label:40} {size or 0:9d} {bits:>6}  {np.exp(nll.mean()):10.4f}  {np.mean(kl):.5f} +- {error:.5f}  "
            f"{100 * np.mean(hits):6.2f} %  {100 * np.sqrt(np.mean(moved)):5.2f} %  {seconds:6.1f}",
            flush=True,
        )

    def scores(self, logits: Any) -> Iterator[tuple[Array, Array]]:
        """Per window: log probabilities `[tokens - 1, vocabulary]` and `-log p` of the tokens that came."""
        for ids in self.evaluation:
            logp = torch.log_softmax(torch.from_numpy(logits(ids[None])[0, :-1]), -1).numpy()
            yield logp, -logp[np.arange(len(ids) - 1), ids[1:]]


def without_gram(found: Mapping[str, LayerStats], key: str) -> LayerStats:
    return replace(found[key], gram=None)


def same(parameter: Array, weight: Array) -> bool:
    """Whether a weight `[in, out]` is this parameter."""
    return any(
        parameter.shape == value.shape and np.array_equal(parameter, value) for value in (weight.T, weight)
    )


def quantize_by_llama_cpp(
    source: Path, path: Path, kind: str, importance: Mapping[str, Array] | None
) -> None:
    """llama.cpp's own quantizer."""
    import llama_cpp as lib

    parameters = lib.llama_model_quantize_default_params()
    parameters.ftype, parameters.nthread = FILE_TYPES[kind].number, 1
    kept = []
    if importance is not None:
        entries = (lib.llama_model_imatrix_data * (len(importance) + 1))()
        for entry, (name, values) in zip(entries, importance.items(), strict=False):
            data = (ctypes.c_float * len(values))(*values.tolist())
            kept.append(data)
            entry.name, entry.data, entry.size = name.encode(), data, len(values)
        kept.append(entries)
        parameters.imatrix = ctypes.cast(entries, ctypes.POINTER(lib.llama_model_imatrix_data))
    if lib.llama_model_quantize(str(source).encode(), str(path).encode(), ctypes.byref(parameters)) != 0:
        raise SystemExit(f"llama.cpp cannot quantize to {kind}")


if __name__ == "__main__":
    main()
