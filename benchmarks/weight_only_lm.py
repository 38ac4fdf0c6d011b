"""Weight-only methods on a causal language model: perplexity, KL divergence, top-1 agreement, RMS delta p.

Weights are quantized, dequantized and put back into the original model, which runs in float32: what differs is
the weights alone. Held-out and calibration text come from a file (`--text`, first 80 % for calibration, the last
20 % for evaluation) or, without one, are sampled from the model itself with different seeds.

    python benchmarks/weight_only_lm.py MODEL [--text FILE] [--windows 64] [--length 256]
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from edgeq.quantize import weight_only
from edgeq.quantize.formats import Blocks
from edgeq.quantize.weight_only import LayerStats, awq

Stats = dict[str, LayerStats]
Weights = dict[str, np.ndarray]
METHODS = ("rtn", "hqq", "scale_search", "awq", "gptq", "gptq-sequential")


def main() -> None:
    arguments = parse()
    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32).eval()
    calibration, evaluation = windows_of(model, arguments)
    print(
        f"{Path(arguments.model).name}: {evaluation.numel()} evaluation and {calibration.numel()} calibration tokens, "
        f"windows of {evaluation.shape[1]}, {platform.machine()}, torch {torch.__version__}"
    )
    bench = Bench(model, calibration, evaluation)
    print(f"{'':32}  bits  perplexity      KL +- SE          top-1    RMS dp  gap closed (ppl, KL)     s")
    print(f"{'float32':32} 32.00  {bench.perplexity:10.4f}")
    for symmetric in (True, False):
        for block in arguments.blocks:
            rtn: tuple[float, float] | None = None
            for method in arguments.methods:
                rtn = bench.row(method, Blocks(arguments.bits, block, symmetric), rtn)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="a Hugging Face folder")
    parser.add_argument("--text", type=Path, help="UTF-8 text; without it the model writes its own")
    parser.add_argument("--windows", type=int, default=64, help="evaluation windows")
    parser.add_argument("--calib-windows", type=int, default=64)
    parser.add_argument("--length", type=int, default=256, help="tokens per window")
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--blocks", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def windows_of(model: Any, arguments: argparse.Namespace) -> tuple[torch.Tensor, torch.Tensor]:
    """Calibration and evaluation token ids, `[windows, length]` each."""
    if arguments.text is None:
        seeds = ((1, arguments.calib_windows), (2, arguments.windows))
        first, second = (sample(model, count, arguments.length, seed) for seed, count in seeds)
        return first, second
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    text = arguments.text.read_text("utf-8")
    cut = int(len(text) * 0.8)
    parts = (text[:cut], arguments.calib_windows), (text[cut:], arguments.windows)
    first, second = (chunks(tokenizer(part)["input_ids"], count, arguments.length) for part, count in parts)
    return first, second


def chunks(ids: Sequence[int], count: int, length: int) -> torch.Tensor:
    count = min(count, len(ids) // length)
    return torch.tensor(ids[: count * length]).reshape(count, length)


@torch.no_grad()
def sample(model: Any, count: int, length: int, seed: int) -> torch.Tensor:
    """Texts the model writes at temperature 0.8, without its start token."""
    generator = torch.Generator().manual_seed(seed)
    start = model.config.bos_token_id if model.config.bos_token_id is not None else 1
    ids = torch.full((count, 1), int(start))
    past = None
    for _ in range(length):
        out = model(ids[:, -1:] if past is not None else ids, past_key_values=past, use_cache=True)
        past = out.past_key_values
        chances = torch.softmax(out.logits[:, -1] / 0.8, -1)
        ids = torch.cat([ids, torch.multinomial(chances, 1, generator=generator)], 1)
    return ids[:, :-1]


class Bench:
    """The original's predictions, and rows for quantized versions of it."""

    def __init__(self, model: Any, calibration: torch.Tensor, evaluation: torch.Tensor) -> None:
        self.model, self.calibration, self.evaluation = model, calibration, evaluation
        head = model.get_output_embeddings()
        self.linears = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) and m is not head}
        self.original = {name: module.weight.detach().clone() for name, module in self.linears.items()}
        self.logp = self.log_probabilities()
        self.perplexity = float(torch.exp(-self.correct(self.logp).mean()))
        self.stats, self.groups = self.observe(list(self.linears))
        self.original_inputs = {names[0]: self.inputs_of(names[0]) for names in self.groups}

    def row(self, method: str, spec: Blocks, rtn: tuple[float, float] | None) -> tuple[float, float]:
        """Print one line; returns RTN's (log perplexity, KL) for the lines after it."""
        started = time.process_time()
        bits = self.quantize(method, spec)
        seconds = time.process_time() - started
        logp = self.log_probabilities()
        for name, module in self.linears.items():
            module.weight.data.copy_(self.original[name])
        perplexity = float(torch.exp(-self.correct(logp).mean()))
        divergence = (self.logp.exp() * (self.logp - logp)).sum(-1).mean(1).numpy()
        kl, error = float(divergence.mean()), float(divergence.std(ddof=1) / np.sqrt(len(divergence)))
        top1 = float((self.logp.argmax(-1) == logp.argmax(-1)).float().mean())
        rms = float((self.correct(logp).exp() - self.correct(self.logp).exp()).pow(2).mean().sqrt())
        rtn = rtn or (np.log(perplexity), kl)
        base = np.log(self.perplexity)
        closed = 1 - (np.log(perplexity) - base) / (rtn[0] - base), 1 - kl / rtn[1]
        name = f"{method} {'sym' if spec.symmetric else 'asym'} block {spec.block_size}"
        print(
            f"{name:32} {bits:5.2f}  {perplexity:10.4f}  {kl:.5f} +- {error:.5f}  {100 * top1:6.2f} %  "
            f"{100 * rms:5.2f} %        {100 * closed[0]:5.1f} %  {100 * closed[1]:5.1f} %  {seconds:5.1f}",
            flush=True,
        )
        return rtn

    def quantize(self, method: str, spec: Blocks) -> float:
        """Quantize every linear layer in place; returns the mean bits per weight."""
        if method == "gptq-sequential":
            self.quantize_in_turn(spec)
        elif method == "awq":
            self.quantize_awq(spec)
        else:
            for name in self.linears:
                self.put(name, weight_only.quantize(method, self.weight(name), spec, self.stats[name]))
        sizes = {name: module.weight.numel() for name, module in self.linears.items()}
        per_weight = {n: spec.bits_per_weight(m.in_features) for n, m in self.linears.items()}
        return sum(sizes[n] * per_weight[n] for n in sizes) / sum(sizes.values())

    def quantize_awq(self, spec: Blocks) -> None:
        """Layers that read the same input share their scales, so that a norm or a projection can carry them."""
        for names in self.groups:
            weights = [self.weight(name) for name in names]
            scales = awq.search_input_scales(weights, spec, self.stats[names[0]])
            for name, weight in zip(names, weights, strict=True):
                self.put(name, awq.quantize_scaled(weight, spec, self.stats[name], scales))

    def quantize_in_turn(self, spec: Blocks) -> None:
        """GPTQ that sees what the layers quantized before it leave, and makes up for what they lost."""
        for names in self.groups:
            seen, first = self.inputs_of(names[0]), self.original_inputs[names[0]]
            gram = seen.T @ seen
            mean_square = (np.diag(gram) / len(seen)).astype(np.float32)
            stats = LayerStats(mean_square, len(seen), gram, seen.T @ first)
            for name in names:
                self.put(name, weight_only.quantize("gptq", self.weight(name), spec, stats))

    @torch.no_grad()
    def inputs_of(self, name: str) -> np.ndarray:
        """The calibration inputs of a layer in the model as it is now, `[tokens, K]`."""
        rows: list[torch.Tensor] = []
        handle = self.linears[name].register_forward_pre_hook(
            lambda _, args: rows.append(args[0].reshape(-1, args[0].shape[-1]).double())
        )
        for batch in self.calibration.split(16):
            self.model(batch)
        handle.remove()
        return torch.cat(rows).numpy()

    def weight(self, name: str) -> np.ndarray:
        """A layer's original weight, `[K, N]`."""
        return np.ascontiguousarray(self.original[name].T.numpy())

    def put(self, name: str, quantized: weight_only.QuantizedWeight) -> None:
        """Put a quantized weight in the place of the original."""
        for note in quantized.notes:
            print(f"  {name}: {note}")
        self.linears[name].weight.data.copy_(torch.from_numpy(quantized.dequantize().T.copy()))

    @torch.no_grad()
    def observe(self, names: Sequence[str]) -> tuple[Stats, list[list[str]]]:
        """Input statistics of these layers, and the layers grouped by the input they share, in order."""
        sums: dict[str, np.ndarray] = {}
        inputs: dict[int, list[str]] = {}
        alive: list[torch.Tensor] = []

        def hook(name: str) -> Callable[..., None]:
            def collect(_: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
                rows = args[0].reshape(-1, args[0].shape[-1]).double()
                sums[name] = sums.get(name, 0) + (rows.T @ rows).numpy()
                if name not in {known for group in inputs.values() for known in group}:
                    alive.append(args[0])
                    inputs.setdefault(id(args[0]), []).append(name)

            return collect

        handles = [self.linears[name].register_forward_pre_hook(hook(name)) for name in names]
        for batch in self.calibration.split(16):
            self.model(batch)
        for handle in handles:
            handle.remove()
        tokens = self.calibration.numel()
        stats = {
            name: LayerStats((np.diag(gram) / tokens).astype(np.float32), tokens, gram)
            for name, gram in sums.items()
        }
        return stats, list(inputs.values())

    @torch.no_grad()
    def log_probabilities(self) -> torch.Tensor:
        """Log probabilities of the next token, `[windows, length - 1, vocabulary]`."""
        parts = [self.model(batch).logits[:, :-1].float() for batch in self.evaluation.split(16)]
        return torch.log_softmax(torch.cat(parts), -1)

    def correct(self, logp: torch.Tensor) -> torch.Tensor:
        """Log probability of the token that came, `[windows, length - 1]`."""
        return logp.gather(-1, self.evaluation[:, 1:, None])[..., 0]


if __name__ == "__main__":
    main()
