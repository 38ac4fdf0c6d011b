"""A chat in the terminal with a language model's bundle: streamed answers, history, the model's own sampling.

    edgeq export ./my-chat-model --target cpu --precision int4 --output chat-bundle
    python samples/chat/chat.py chat-bundle

A model without a chat template continues what you type instead. An empty line or Ctrl-D ends the chat.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import edgeq
from edgeq.errors import EdgeqError
from edgeq.runtime.generation.language_model import LanguageModel
from edgeq.runtime.generation.sampling import Sampling

Message = dict[str, str]


def main() -> int:
    arguments = parse()
    try:
        with edgeq.load(arguments.bundle, engine=arguments.engine, threads=arguments.threads) as model:
            converse(model, arguments)
    except EdgeqError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return int(error.exit_code)
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--system", help="the system message")
    parser.add_argument("--max-tokens", type=int, default=256, help="of one answer")
    parser.add_argument("--greedy", action="store_true", help="always take the likeliest token")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", choices=("onnxruntime", "genai"), default="onnxruntime")
    parser.add_argument("--threads", type=int)
    return parser.parse_args()


def converse(model: LanguageModel, arguments: argparse.Namespace) -> None:
    has_template = model.settings.chat_template is not None
    history: list[Message] = []
    if arguments.system is not None and has_template:
        history.append({"role": "system", "content": arguments.system})
    for turn, text in enumerate(lines()):
        history.append({"role": "user", "content": text})
        prompt = model.chat_prompt(forget(model, history, arguments.max_tokens)) if has_template else text
        defaults = model.settings.sampling
        sampling = Sampling() if arguments.greedy else Sampling.of_model(defaults, arguments.seed + turn)
        answer = model.generate(
            prompt,
            max_tokens=arguments.max_tokens,
            sampling=sampling,
            is_rendered=has_template,
            on_text=lambda piece: print(piece, end="", flush=True),
        )
        print()
        history.append({"role": "assistant", "content": answer.text})
        note = (
            f"{len(answer.token_ids)} tokens, {answer.tokens_per_second:.0f} per second, {answer.stop_reason}"
        )
        print(f"[{note}]", file=sys.stderr)


def lines() -> Iterator[str]:
    """What the user types, until an empty line or the end of input."""
    while True:
        try:
            text = input("> " if sys.stdin.isatty() else "")
        except EOFError:
            return
        if not text.strip():
            return
        yield text


def forget(model: LanguageModel, history: list[Message], room: int) -> list[Message]:
    """The newest turns that leave room for an answer; the system message stays."""
    system = [message for message in history if message["role"] == "system"]
    turns = [message for message in history if message["role"] != "system"]
    limit = max(model.settings.context_length - room, model.settings.context_length // 2)
    while len(turns) > 1:
        prompt = model.chat_prompt(system + turns)
        if len(model.tokenizer.encode(prompt, add_special_tokens=False)) <= limit:
            break
        # A question goes together with its answer.
        turns = turns[2:]
    return system + turns


if __name__ == "__main__":
    sys.exit(main())
