"""An int4 bundle against the int4 graph of ONNX Runtime GenAI's own model builder: size, fidelity, speed.

Both graphs run in the same process, interleaved, on plain ONNX Runtime and on ONNX Runtime GenAI. `--random H,L,V`
makes a random Llama of that hidden size, layers and vocabulary, whose shapes are large enough for speed to mean
something (its fidelity means nothing and is not printed).

    python benchmarks/lm_peers.py MODEL [--text FILE] [--recipes q4 int4]
    python benchmarks/lm_peers.py --random 1024,6,8192
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import platform
import shutil
import tempfile
import warnings
from pathlib import Path

import onnxruntime

from edgeq.calibration.data import CalibrationData
from edgeq.exporters.causal_lm import ExportedLanguageModel, load_language_model
from edgeq.pipeline.language_data import LanguageData, divide_language
from edgeq.pipeline.quantizing import quantize_model
from edgeq.progress import SilentProgress
from edgeq.quantize.recipes import load_recipe
from edgeq.runtime.generation.bench import onnx_engine, prompt_of, race
from edgeq.runtime.generation.genai import GenaiTokens
from edgeq.runtime.generation.generator import TokenStream
from edgeq.runtime.generation.session import DecoderSession
from edgeq.runtime.perplexity import compare_on
from edgeq.targets.base import LoweringInput
from edgeq.targets.cpu import lower_for_cpu
from edgeq.targets.onnx_file import save_onnx

PEER = "genai builder int4"


def main() -> None:
    arguments = parse()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = (
            Path(arguments.model) if arguments.model else random_model(folder / "random", arguments.random)
        )
        exported = load_language_model(model)
        texts = read_texts(arguments.text)
        data = divide_language(
            CalibrationData(tuple(texts), "benchmark", "", len(texts)), exported, len(texts)
        )
        print(
            f"{model.name}: {exported.source.parameters / 1e6:.1f} M parameters, {arguments.threads} thread, "
            f"onnxruntime {onnxruntime.__version__}, {platform.machine()}"
        )
        graphs = {PEER: peer(model, folder / "peer")}
        graphs |= {
            f"edgeq {name}": ours(name, exported, data, folder / name, graphs[PEER])
            for name in arguments.recipes
        }
        if arguments.model:
            fidelity(graphs, exported, data)
        speed(graphs, exported, arguments)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", help="a Hugging Face folder")
    parser.add_argument("--random", default="1024,6,8192")
    parser.add_argument("--text", type=Path, help="UTF-8, one text per line; without it the built-in texts")
    parser.add_argument("--recipes", nargs="+", default=["int4"])
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def random_model(folder: Path, shape: str) -> Path:
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
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
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({char: index for index, char in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": alphabet[1]}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def read_texts(path: Path | None) -> list[str]:
    if path is not None:
        return [line for line in path.read_text("utf-8").splitlines() if line.strip()]
    from edgeq.calibration import load_samples

    return [str(sample) for sample in load_samples(None, count=448, seed=0).samples]


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


def ours(name: str, exported: ExportedLanguageModel, data: LanguageData, folder: Path, configs: Path) -> Path:
    done = quantize_model(exported.canonical, data.sets, load_recipe(name), SilentProgress())
    source = LoweringInput(exported.canonical, done.plan, done.graph, done.weights, done.precision)
    save_onnx(lower_for_cpu(source).model, folder / "model.onnx")
    for file in configs.glob("*.json"):
        shutil.copy(file, folder)
    (folder / "genai_config.json").write_text(json.dumps(exported.genai_config))
    return folder


def fidelity(graphs: dict[str, Path], exported: ExportedLanguageModel, data: LanguageData) -> None:
    settings = exported.settings
    print(f"{'':22}       MB  perplexity   KL mean   KL p99   top-1")
    for name, folder in graphs.items():
        session = DecoderSession(folder / "model.onnx", settings.cache, settings.context_length)
        found = compare_on(lambda ids: exported.reference(ids[None])[0], session.logits, data.windows)
        print(
            f"{name:22} {megabytes(folder):8.3f}  {found['perplexity']:10.4f}   {found['kl_mean']:.5f}   "
            f"{found['kl_p99']:.4f}  {100 * found['top1_agreement']:5.1f} %"
        )
    print(f"{'original':22} {'':8}  {found['perplexity_original']:10.4f}")


def speed(graphs: dict[str, Path], exported: ExportedLanguageModel, arguments: argparse.Namespace) -> None:
    settings = exported.settings
    engines: dict[str, TokenStream] = {}
    for name, folder in graphs.items():
        path = folder / "model.onnx"
        engines[name] = onnx_engine(path, settings.cache, settings.context_length, arguments.threads)
    for name, folder in graphs.items():
        set_threads(folder, arguments.threads)
        engines[f"{name}, GenAI"] = GenaiTokens(folder)
    prompt = prompt_of(arguments.prompt_tokens, settings.vocabulary)
    found = race(engines, prompt, arguments.new_tokens, rounds=arguments.rounds, baseline=PEER)
    print(f"{'':30}     MB  first token ms  prompt tok/s  tok/s  times {PEER}")
    for name, value in found.items():
        size = megabytes(graphs[name.removesuffix(", GenAI")])
        print(
            f"{name:30} {size:6.1f}  {value.first_token_ms:14.1f}  {value.prompt_tokens_per_second:12.0f}  "
            f"{value.tokens_per_second:5.0f}  {value.ratio:.2f}"
        )


def set_threads(folder: Path, threads: int) -> None:
    path = folder / "genai_config.json"
    config = json.loads(path.read_text())
    config["model"]["decoder"]["session_options"]["intra_op_num_threads"] = threads
    path.write_text(json.dumps(config))


def megabytes(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.glob("model.onnx*")) / 1e6


if __name__ == "__main__":
    main()
