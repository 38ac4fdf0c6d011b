"""An int4 bundle against the int4 graph of ONNX Runtime GenAI's own model builder and llama.cpp's Q4_0.

The same weights, in one run, interleaved, each engine in a process of its own. Both graphs run on plain ONNX Runtime
and on ONNX Runtime GenAI. Q4_0 is made by llama.cpp's converter and quantizer (--pure: every matrix in 4 bits, as in
the graphs); its fidelity is that of its dequantized weights in torch, while the graphs are executed. `--random H,L,V`
makes a random Llama of that hidden size, layers and vocabulary, whose shapes are large enough for speed to mean
something; its fidelity means nothing and is not printed, and plain rounding quantizes it. `--profile` adds the
operators of one token.

    python benchmarks/lm_peers.py MODEL [--text FILE] [--recipes q4 int4] [--llama-...]
    python benchmarks/lm_peers.py --random 1024,8,32000 --profile \
        --llama-python VENV/bin/python --llama-source llama.cpp --llama-quantize llama.cpp/build/bin/llama-quantize

llama.cpp's libraries are those that llama-cpp-python finds: LLAMA_CPP_LIB_PATH names others.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import platform
import shutil
import subprocess
import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import onnxruntime
from lm_quality import read_texts, with_method

from edgeq.calibration.data import CalibrationData
from edgeq.exporters.causal_lm import ExportedLanguageModel, load_language_model
from edgeq.onnx_runtime import session_options
from edgeq.pipeline.generation.bench import EngineBench, Lengths, time_engines
from edgeq.pipeline.generation.data import LanguageData, divide_language
from edgeq.pipeline.generation.planning import language_recipe
from edgeq.pipeline.quantizing import quantize_model
from edgeq.processors.prompts import PromptTokenizer
from edgeq.progress import SilentProgress
from edgeq.quantize.recipes import Recipe, load_recipe
from edgeq.runtime.generation.engine_process import GENAI, LLAMA_CPP, ONNX_RUNTIME, EngineSpec
from edgeq.runtime.generation.session import DecoderSession
from edgeq.runtime.perplexity import Logits, compare_on
from edgeq.samples import Text
from edgeq.targets.cpu import lower_for_cpu
from edgeq.targets.onnx_file import save_onnx

PEER = "genai builder int4"
LLAMA = "llama.cpp Q4_0"
CONVERT = """
import sys
root = sys.argv.pop(1)
sys.path[:0] = [root + "/gguf-py", root]
import conversion.base as base
def missing(self):
    raise FileNotFoundError("tokenizer.model")
base.TextModel._create_vocab_sentencepiece = missing  # these models have tokenizer.json only
base.TextModel.get_vocab_base_pre = lambda self, tokenizer: "gpt-2"  # no text is tokenized by llama.cpp here
import convert_hf_to_gguf
convert_hf_to_gguf.main()
"""


@dataclass(frozen=True)
class Contender:
    """A model: a folder with `model.onnx`, or a `.gguf` file."""

    path: Path

    @property
    def is_gguf(self) -> bool:
        """Whether llama.cpp runs it."""
        return self.path.suffix == ".gguf"

    @property
    def megabytes(self) -> float:
        """Of the weights, configuration and tokenizer left out (GGUF has them in the file)."""
        files = [self.path] if self.is_gguf else self.path.glob("model.onnx*")
        return sum(file.stat().st_size for file in files) / 1e6


def main() -> None:
    arguments = parse()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.keep or Path(scratch)
        folder.mkdir(exist_ok=True)
        model = (
            Path(arguments.model) if arguments.model else random_model(folder / "random", arguments.random)
        )
        exported = load_language_model(model)
        texts = texts_for(exported, folder / "fp32.onnx", arguments)
        data = divide_language(
            CalibrationData(tuple(map(Text, texts)), "benchmark", "", len(texts)), exported, len(texts)
        )
        print(
            f"{model.name}: {exported.source.parameters / 1e6:.1f} M parameters, {arguments.threads} thread, "
            f"onnxruntime {onnxruntime.__version__}, {platform.machine()}"
        )
        contenders: dict[str, Contender] = {}
        if exported.graph_source == "genai-builder":
            contenders[PEER] = Contender(peer(model, folder / "peer"))
        else:
            print(f"{PEER} left out: ONNX Runtime does not run its graph of this model (docs/causal-lm.md)")
        contenders |= q4_0(model, folder, arguments)
        for name in arguments.recipes or (["int4"] if arguments.model else ["int4-rtn"]):
            contenders[f"edgeq {name}"] = Contender(ours(name, exported, data, folder / name, model))
        if arguments.model:
            fidelity(contenders, exported, data)
        speed(contenders, exported, arguments)
        if arguments.profile:
            for name, item in contenders.items():
                if not item.is_gguf:
                    profile(name, item.path, exported, arguments)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", help="a Hugging Face folder")
    parser.add_argument("--random", default="1024,8,32000")
    parser.add_argument(
        "--text", type=Path, help="UTF-8, one text per line; without it the model writes its own"
    )
    parser.add_argument("--texts", type=int, default=96, help="texts the model writes")
    parser.add_argument("--length", type=int, default=200, help="tokens of each")
    parser.add_argument("--recipes", nargs="+", help="int4; int4-rtn for a random model")
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--llama-python", type=Path, help="interpreter that has llama-cpp-python")
    parser.add_argument("--llama-source", type=Path, help="llama.cpp's source, for its converter")
    parser.add_argument("--llama-quantize", type=Path, help="llama.cpp's quantizer")
    parser.add_argument("--profile", action="store_true", help="operators of one token")
    parser.add_argument("--keep", type=Path, help="a folder for the models, which stay there")
    return parser.parse_args()


def random_model(folder: Path, shape: str) -> Path:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    hidden, layers, vocabulary = map(int, shape.split(","))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=2 * hidden + hidden // 2,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=max(1, hidden // 256),
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    write_tokenizer(folder, vocabulary)
    return folder


def write_tokenizer(folder: Path, vocabulary: int) -> None:
    """Bytes, and pairs of bytes until the vocabulary is full."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [(left, right) for left in alphabet for right in alphabet][: vocabulary - len(alphabet)]
    tokens = [*alphabet, *(left + right for left, right in pairs)]
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": alphabet[1]}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def texts_for(exported: ExportedLanguageModel, fp32: Path, arguments: argparse.Namespace) -> list[str]:
    """From the file, or the model's own; a random model writes nonsense, and a few texts do."""
    if arguments.model is None:
        from edgeq.calibration import load_samples

        return [text for sample in load_samples(None, count=8, seed=0).samples for text in sample.texts]
    save_onnx(exported.canonical.model.clone(), fp32)
    return read_texts(arguments, exported, PromptTokenizer(exported.preprocessor.tokenizer_json), fp32)


def peer(model: Path, folder: Path) -> Path:
    """What `python -m onnxruntime_genai.models.builder -p int4 -e cpu` writes."""
    from onnxruntime_genai.models import builder

    place = ("", str(model), str(folder), "int4", "cpu", str(folder.parent / "cache"))
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        builder.create_model(*place, **builder.parse_extra_options(*place, ["hf_remote=false"]))
    return folder


def ours(name: str, exported: ExportedLanguageModel, data: LanguageData, folder: Path, model: Path) -> Path:
    done = quantize_model(exported.canonical, data.sets, recipe_of(name), SilentProgress())
    source = done.lowering_input(exported.canonical)
    folder.mkdir(exist_ok=True)
    save_onnx(lower_for_cpu(source), folder / "model.onnx")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(model / file, folder)
    if exported.genai_config:
        (folder / "genai_config.json").write_text(json.dumps(exported.genai_config))
    return folder


def recipe_of(name: str) -> Recipe:
    """A recipe; with `-rtn` behind its name by plain rounding, at the same size."""
    if not name.endswith("-rtn"):
        return language_recipe(load_recipe(name), SilentProgress())
    recipe = load_recipe(name.removesuffix("-rtn"))
    return with_method(recipe, "rtn", recipe.default.block_size, recipe.default.symmetric)


def q4_0(model: Path, folder: Path, arguments: argparse.Namespace) -> dict[str, Contender]:
    """llama.cpp's own; empty, with the reason printed, where its parts were not given."""
    needed = ("llama_python", "llama_source", "llama_quantize")
    missing = [name for name in needed if getattr(arguments, name) is None]
    if missing:
        print(f"llama.cpp left out: --{missing[0].replace('_', '-')} is not given")
        return {}
    full, small = folder / "f16.gguf", folder / "q4_0.gguf"
    convert = [sys.executable, "-c", CONVERT, str(arguments.llama_source), str(model)]
    run([*convert, "--outfile", str(full), "--outtype", "f16"])
    run([str(arguments.llama_quantize), "--pure", str(full), str(small), "q4_0"])
    return {LLAMA: Contender(small)}


def run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{command[0]} failed: {(done.stderr + done.stdout)[-800:]}")


def logits_of(item: Contender, exported: ExportedLanguageModel) -> Logits:
    if item.is_gguf:
        theirs = load_language_model(item.path)
        return lambda ids: theirs.reference(ids[None])[0]
    settings = exported.settings
    return DecoderSession(item.path / "model.onnx", settings.cache, settings.context_length).logits


def fidelity(contenders: dict[str, Contender], exported: ExportedLanguageModel, data: LanguageData) -> None:
    print(f"{'':22}       MB  perplexity   KL mean   KL p99   top-1")
    for name, item in contenders.items():
        logits = logits_of(item, exported)
        found = compare_on(lambda ids: exported.reference(ids[None])[0], logits, data.windows)
        print(
            f"{name:22} {item.megabytes:8.3f}  {found['perplexity']:10.4f}   {found['kl_mean']:.5f}   "
            f"{found['kl_p99']:.4f}  {100 * found['top1_agreement']:5.1f} %",
            flush=True,
        )
    print(f"{'original':22} {'':8}  {found['perplexity_original']:10.4f}")


def speed(
    contenders: dict[str, Contender], exported: ExportedLanguageModel, arguments: argparse.Namespace
) -> None:
    settings, threads = exported.settings, arguments.threads
    specs: dict[str, EngineSpec] = {}
    for name, item in contenders.items():
        if item.is_gguf:
            specs[name] = EngineSpec(LLAMA_CPP, item.path, threads, python=arguments.llama_python)
            continue
        graph = item.path / "model.onnx"
        specs[name] = EngineSpec(
            ONNX_RUNTIME, graph, threads, settings.cache, settings.context_length, settings.vocabulary
        )
        if (item.path / "genai_config.json").is_file():
            specs[f"{name}, GenAI"] = EngineSpec(GENAI, item.path, threads)
    lengths = Lengths(arguments.prompt_tokens, arguments.new_tokens, arguments.rounds)
    report = time_engines(specs, lengths, SilentProgress())
    print(
        f"medians of {arguments.rounds} rounds, {arguments.prompt_tokens} tokens read, {arguments.new_tokens} written; "
        f"times {report.baseline} in the same round, above 1 is faster"
    )
    print(
        f"{'':28}     MB  first ms  times  prompt tok/s   tok/s  times  CPU ms/tok  times  RSS MiB  KV B/tok"
    )
    for item in report.contenders:
        print_speed(item, contenders[item.id.removesuffix(", GenAI")].megabytes)


def print_speed(item: EngineBench, megabytes: float) -> None:
    value = item.speed
    print(
        f"{item.id:28} {megabytes:6.1f}  {value.first_token_ms:8.1f}  {value.prompt_ratio:5.2f}  "
        f"{value.prompt_tokens_per_second:12.0f}  {value.tokens_per_second:6.1f}  {value.ratio:5.2f}  "
        f"{value.cpu_ms_per_token:10.3f}  {value.cpu_ratio:5.2f}  {item.rss_mb:7.0f}  {item.kv_bytes_per_token:8d}"
    )


def profile(name: str, folder: Path, exported: ExportedLanguageModel, arguments: argparse.Namespace) -> None:
    """Time by operator of writing one token after the prompt, as ONNX Runtime's own profiler counts it."""
    from collections import Counter

    from edgeq.runtime.generation.bench import prompt_of

    settings = exported.settings
    with tempfile.TemporaryDirectory() as scratch:
        options = session_options(exact=False, threads=arguments.threads)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(scratch) / "profile")
        session = DecoderSession(
            folder / "model.onnx", settings.cache, settings.context_length, options=options
        )
        state = session.start(arguments.prompt_tokens + arguments.new_tokens)
        session.prefill(state, prompt_of(arguments.prompt_tokens, settings.vocabulary))
        for _ in range(arguments.new_tokens):
            session.feed(state, [3])
        events = json.loads(Path(session.end_profiling()).read_text())
    runs = sorted(event["ts"] for event in events if event["name"] == "model_run")
    decoding = runs[-arguments.new_tokens]
    spent: Counter[str] = Counter()
    for event in events:
        if event["cat"] == "Node" and event["ts"] >= decoding and event["name"].endswith("_kernel_time"):
            spent[event["args"]["op_name"]] += event["dur"]
    total = sum(spent.values())
    parts = ", ".join(f"{op} {100 * time / total:.1f} %" for op, time in spent.most_common(8))
    print(f"{name}: {total / arguments.new_tokens / 1e3:.2f} ms in kernels of a token: {parts}")


if __name__ == "__main__":
    main()
