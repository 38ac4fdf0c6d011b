"""Recipes on a causal language model, executed by ONNX Runtime: perplexity, KL divergence, top-1, greedy agreement.

Held-out and calibration text come from a file (`--text`, one text per line; every fourth judges) or, without one, the
model writes them itself at temperature 0.8. `int4-rtn` is the int4 recipe with plain round-to-nearest: the same size.

    python benchmarks/lm_quality.py MODEL [--text FILE] [--recipes fp32 int8 int4 ...] [--prompt TEXT]
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import onnxruntime

from edgeq.calibration.data import CalibrationData
from edgeq.exporters.causal_lm import ExportedLanguageModel, load_language_model
from edgeq.pipeline.causal_lm import language_recipe
from edgeq.pipeline.language_data import LanguageData, divide_language
from edgeq.pipeline.quantizing import quantize_model
from edgeq.progress import SilentProgress
from edgeq.quantize.recipes import Recipe, load_recipe
from edgeq.runtime.generation.generator import OnnxTokens
from edgeq.runtime.generation.sampling import Sampling
from edgeq.runtime.generation.session import DecoderSession
from edgeq.runtime.generation.tokenizer import PromptTokenizer
from edgeq.runtime.perplexity import agreement_length, compare_on, greedy
from edgeq.targets.base import LoweringInput
from edgeq.targets.cpu import lower_for_cpu
from edgeq.targets.onnx_file import save_onnx

DEFAULT_RECIPES = ("fp32", "q8", "int8", "int4-rtn", "int4", "q4", "q4_k_m", "q5_k_m", "q6")


def main() -> None:
    arguments = parse()
    exported = load_language_model(arguments.model)
    tokenizer = PromptTokenizer(exported.preprocessor.tokenizer_json)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        fp32 = folder / "fp32.onnx"
        save_onnx(exported.canonical.model.clone(), fp32)
        texts = read_texts(arguments, exported, tokenizer, fp32)
        data = divide_language(
            CalibrationData(tuple(texts), "benchmark", "", len(texts)), exported, len(texts)
        )
        scored = sum(len(window.ids) - window.first_scored for window in data.windows)
        print(
            f"{Path(arguments.model).name}: {scored} held-out tokens in windows of {len(data.windows[0].ids)}, "
            f"{data.sets.calibration_samples} texts calibrate; graph by {exported.graph_source}, onnxruntime "
            f"{onnxruntime.__version__}, {platform.machine()}"
        )
        print(f"{'':10}       MB   bits  perplexity  KL mean  KL p99   top-1   greedy agreement      s")
        prompt = tokenizer.encode(arguments.prompt)
        expected = greedy(lambda ids: exported.reference(ids[None])[0], prompt, arguments.tokens)
        for name in arguments.recipes:
            row(name, exported, data, prompt, expected, folder)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="a Hugging Face folder")
    parser.add_argument(
        "--text", type=Path, help="UTF-8, one text per line; without it the model writes its own"
    )
    parser.add_argument("--texts", type=int, default=96, help="texts the model writes")
    parser.add_argument("--length", type=int, default=200, help="tokens of each")
    parser.add_argument("--recipes", nargs="+", default=list(DEFAULT_RECIPES))
    parser.add_argument("--prompt", default="Once upon a time, there was a little girl")
    parser.add_argument("--tokens", type=int, default=80, help="tokens of the greedy answer")
    return parser.parse_args()


def read_texts(
    arguments: argparse.Namespace, exported: ExportedLanguageModel, tokenizer: PromptTokenizer, fp32: Path
) -> list[str]:
    if arguments.text is not None:
        return [line for line in arguments.text.read_text("utf-8").splitlines() if line.strip()]
    settings = exported.settings
    session = DecoderSession(fp32, settings.cache, settings.context_length)
    start = tokenizer.encode("") or [exported.genai_config["model"]["bos_token_id"]]
    texts = []
    for seed in range(arguments.texts):
        ids = []
        for token in OnnxTokens(session)(start, Sampling(temperature=0.8, seed=seed), arguments.length):
            if token in settings.stop_ids:
                break
            ids.append(token)
        texts.append(tokenizer.decode(ids))
    return [text for text in texts if text.strip()]


def recipe_of(name: str) -> Recipe:
    if name.endswith("-rtn"):
        found = load_recipe(name.removesuffix("-rtn"))
        rules = tuple(
            replace(rule, set=tuple((key, "rtn" if key == "method" else value) for key, value in rule.set))
            for rule in found.rules
        )
        return replace(found, name=name, default=replace(found.default, method="rtn"), rules=rules)
    return language_recipe(load_recipe(name), SilentProgress())


def row(
    name: str,
    exported: ExportedLanguageModel,
    data: LanguageData,
    prompt: Sequence[int],
    expected: Sequence[int],
    folder: Path,
) -> None:
    started = time.perf_counter()
    done = quantize_model(exported.canonical, data.sets, recipe_of(name), SilentProgress())
    lowering = lower_for_cpu(
        LoweringInput(exported.canonical, done.plan, done.graph, done.weights, done.precision)
    )
    seconds = time.perf_counter() - started
    path = folder / f"{name}.onnx"
    save_onnx(lowering.model, path)
    settings = exported.settings
    session = DecoderSession(path, settings.cache, settings.context_length)
    found = compare_on(lambda ids: exported.reference(ids[None])[0], session.logits, data.windows)
    agreed = agreement_length(expected, greedy(session.logits, prompt, len(expected)))
    size = path.stat().st_size
    print(
        f"{name:10} {size / 1e6:8.3f}  {8 * size / exported.source.parameters:5.2f}  {found['perplexity']:10.4f}  "
        f"{found['kl_mean']:.5f}  {found['kl_p99']:.4f}  {100 * found['top1_agreement']:5.1f} %   "
        f"{agreed:3d} of {len(expected)} tokens  {seconds:10.1f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
