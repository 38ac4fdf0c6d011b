"""Peak memory of `edgeq export` on a causal language model larger than what the process may hold, stage by stage.

    python benchmarks/export_memory.py SCRATCH [--layers 20] [--hidden 2048] [--precision int4] [--target android]
                                               [--tokens 8192] [--keep] [-- more options of edgeq export]

Writes a Llama checkpoint with random weights (bfloat16, shards of half a gigabyte) and texts into SCRATCH, runs
`edgeq export` in a process of its own, and samples the resident memory of that process and of all it starts. A stage's
time and peak run from the end of the stage before. The checkpoint is used again if it is there; `--keep` keeps it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

SHARD_BYTES = 500_000_000
SAMPLE_SECONDS = 0.02
WORDS = [
    "the",
    "a",
    "little",
    "girl",
    "boy",
    "dog",
    "bird",
    "tree",
    "house",
    "was",
    "is",
    "had",
    "saw",
    "went",
    "to",
    "in",
    "and",
    "then",
    "very",
    "big",
    "small",
    "happy",
    "sad",
]
SPECIAL = {"<s>": 256, "</s>": 257}


def main() -> None:
    arguments = parse_arguments()
    scratch = Path(arguments.scratch)
    shape = Shape(arguments.layers, arguments.hidden, arguments.intermediate, arguments.vocabulary)
    checkpoint = scratch / f"llama-{shape.layers}x{shape.hidden}x{shape.intermediate}"
    size = write_checkpoint(checkpoint, shape)
    texts = write_texts(scratch / "texts.txt", arguments.tokens)
    print(
        f"machine: {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {sys.platform}, "
        f"Python {sys.version.split()[0]}"
    )
    print(
        f"checkpoint: {shape.layers} layers, hidden {shape.hidden}, {size / 2e6:.0f} M parameters, bfloat16, "
        f"{size / 1e6:.0f} MB; {arguments.tokens} tokens of text"
    )
    output = scratch / "bundle"
    command = [
        *(
            "edgeq",
            "export",
            str(checkpoint),
            "--target",
            arguments.target,
            *precision(arguments, scratch),
        ),
        *("--calib", str(texts), "--output", str(output), "--force", *arguments.more),
    ]
    print(" ".join(part.replace(str(scratch), "SCRATCH") for part in command), flush=True)
    report = measure([sys.executable, "-m", *command])
    report.print(size)
    if report.status == 0:
        written = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
        print(f"bundle: {written / 1e6:.0f} MB, {8 * written / (size / 2):.2f} bits per weight")
    shutil.rmtree(output, ignore_errors=True)
    if not arguments.keep:
        shutil.rmtree(checkpoint)
    sys.exit(report.status)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scratch", help="an existing folder with room for three times the checkpoint")
    parser.add_argument("--layers", type=int, default=20)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--intermediate", type=int, default=5632)
    parser.add_argument("--vocabulary", type=int, default=32000)
    parser.add_argument("--precision", default="int4")
    parser.add_argument("--method", help="of all weights, in place of the recipe's own (rtn, scale_search)")
    parser.add_argument("--target", default="android")
    parser.add_argument("--tokens", type=int, default=8192, help="of calibration and held-out text together")
    parser.add_argument("--keep", action="store_true")
    own, _, more = "\n".join(sys.argv[1:]).partition("\n--\n")
    arguments = parser.parse_args(own.split("\n"))
    arguments.more = more.split("\n") if more else []
    return arguments


def precision(arguments: argparse.Namespace, scratch: Path) -> tuple[str, str]:
    """The recipe, or a file with another method everywhere in it."""
    if arguments.method is None:
        return "--precision", arguments.precision
    command = [sys.executable, "-m", "edgeq", "recipes", "show", arguments.precision]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    path = scratch / f"{arguments.precision}-{arguments.method}.yaml"
    path.write_text(re.sub(r"method: \w+", f"method: {arguments.method}", text))
    return "--recipe", str(path)


@dataclass(frozen=True, slots=True)
class Shape:
    """A Llama's; heads have 64 values, four queries share a key."""

    layers: int
    hidden: int
    intermediate: int
    vocabulary: int

    @property
    def heads(self) -> int:
        """Of queries."""
        return self.hidden // 64

    def config(self) -> dict[str, object]:
        """`config.json`."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "dtype": "bfloat16",
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads // 4,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "hidden_act": "silu",
            "tie_word_embeddings": False,
            "bos_token_id": 256,
            "eos_token_id": 257,
        }

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...], float]]:
        """Name, shape and standard deviation; 0 means a norm, all ones."""
        wide, keys, out = self.hidden, self.heads // 4 * 64, 0.02 / np.sqrt(2 * self.layers)
        yield "model.embed_tokens.weight", (self.vocabulary, wide), 0.02
        for layer in range(self.layers):
            prefix = f"model.layers.{layer}"
            yield f"{prefix}.input_layernorm.weight", (wide,), 0
            yield f"{prefix}.self_attn.q_proj.weight", (wide, wide), 0.02
            yield f"{prefix}.self_attn.k_proj.weight", (keys, wide), 0.02
            yield f"{prefix}.self_attn.v_proj.weight", (keys, wide), 0.02
            yield f"{prefix}.self_attn.o_proj.weight", (wide, wide), out
            yield f"{prefix}.post_attention_layernorm.weight", (wide,), 0
            yield f"{prefix}.mlp.gate_proj.weight", (self.intermediate, wide), 0.02
            yield f"{prefix}.mlp.up_proj.weight", (self.intermediate, wide), 0.02
            yield f"{prefix}.mlp.down_proj.weight", (wide, self.intermediate), out
        yield "model.norm.weight", (wide,), 0
        yield "lm_head.weight", (self.vocabulary, wide), 0.02


def write_checkpoint(folder: Path, shape: Shape) -> int:
    """Write shards, index, config and tokenizer; returns the bytes of all tensors."""
    tensors = list(shape.tensors())
    total = sum(2 * int(np.prod(dims)) for _, dims, _ in tensors)
    if (folder / "config.json").is_file():
        return total
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[list[tuple[str, tuple[int, ...], float]]] = [[]]
    held = 0
    for tensor in tensors:
        size = 2 * int(np.prod(tensor[1]))
        if held and held + size > SHARD_BYTES:
            shards.append([])
            held = 0
        shards[-1].append(tensor)
        held += size
    names = [f"model-{index + 1:05}-of-{len(shards):05}.safetensors" for index in range(len(shards))]
    for index, (name, shard) in enumerate(zip(names, shards, strict=True)):
        write_shard(folder / name, shard, np.random.default_rng(index))
    weight_map = {tensor[0]: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
    index_file = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index_file))
    write_tokenizer(folder)
    (folder / "config.json").write_text(json.dumps(shape.config(), indent=1))
    return total


def write_shard(
    path: Path, tensors: list[tuple[str, tuple[int, ...], float]], random: np.random.Generator
) -> None:
    entries, position = {}, 0
    for name, dims, _ in tensors:
        end = position + 2 * int(np.prod(dims))
        entries[name] = {"dtype": "BF16", "shape": list(dims), "data_offsets": [position, end]}
        position = end
    header = json.dumps(entries).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for _, dims, deviation in tensors:
            values = np.ones(dims, np.float32)
            if deviation:
                values = random.standard_normal(dims, dtype=np.float32) * np.float32(deviation)
            file.write((values.view(np.uint32) >> 16).astype("<u2").data)


def write_tokenizer(folder: Path) -> None:
    """One token per byte."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: index for index, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def write_texts(path: Path, tokens: int) -> Path:
    """Lines of 128 letters made of a few words; a letter is a token."""
    random = np.random.default_rng(0)
    lines = [
        " ".join(WORDS[index] for index in random.integers(0, len(WORDS), 64))[:128]
        for _ in range(max(8, tokens // 128))
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


@dataclass(slots=True)
class Report:
    """What a run took.

    Attributes:
        stages: description, seconds and peak RSS in bytes, of each finished stage.
        seconds: of the whole command.
        status: exit status.
    """

    stages: list[tuple[str, float, int]] = field(default_factory=list)
    seconds: float = 0.0
    status: int = 0

    @property
    def peak(self) -> int:
        """Of all stages."""
        return max(peak for _, _, peak in self.stages)

    def print(self, size: int) -> None:
        """A table."""
        print("peak RSS        s  stage")
        for name, seconds, peak in self.stages:
            print(f"{peak / 1e6:5.0f} MB {seconds:8.1f}  {name}")
        print(
            f"peak RSS of the process tree {self.peak / 1e6:.0f} MB, {self.seconds:.1f} s, "
            f"{size / 1e6 / self.seconds:.1f} MB/s of checkpoint, exit status {self.status}"
        )


def measure(command: list[str]) -> Report:
    """Run a command; its stages are the lines it prints on stderr."""
    report = Report()
    started = last = time.perf_counter()
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
    )
    sampler = Sampler(process.pid)
    assert process.stderr is not None
    for line in process.stderr:
        if not line.startswith("  ") or not line.rstrip().endswith(" s)"):
            print(f"  | {line.rstrip()}", flush=True)
            continue
        now = time.perf_counter()
        report.stages.append((line.strip().rsplit(" (", 1)[0], now - last, sampler.take()))
        last = now
    report.status = process.wait()
    now = time.perf_counter()
    report.stages.append(("to the end of the process", now - last, sampler.take()))
    sampler.stop()
    report.seconds = now - started
    return report


class Sampler:
    """The largest resident memory of a process and its descendants, sampled by a thread.

    Pages of files that several of them map count in each.
    """

    def __init__(self, pid: int) -> None:
        self._pid, self._peak = pid, 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def take(self) -> int:
        """The largest sample since the last call."""
        found, self._peak = self._peak, 0
        return found

    def stop(self) -> None:
        """End the thread."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            self._peak = max(self._peak, tree_bytes(self._pid))


def tree_bytes(pid: int) -> int:
    """Resident memory of a process and everything it started."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        children = [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") + sum(tree_bytes(child) for child in children)


if __name__ == "__main__":
    main()
