"""`edgeq run --prompt`: text from a language model's bundle."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeq.cli.output import Out
from edgeq.cli.streams import read_stdin
from edgeq.errors import DataError, UsageError
from edgeq.runtime.generation.answer import DEFAULT_MAX_TOKENS, Generation

if TYPE_CHECKING:
    from edgeq.runtime.generation.language_model import LanguageModel
    from edgeq.runtime.generation.sampling import Sampling


@dataclass(frozen=True, slots=True)
class GenerateOptions:
    """The options of `edgeq run` that are for language models, as they were given."""

    prompt: str | None = None
    chat: bool = False
    max_tokens: int | None = None
    stream: bool = False
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    engine: str | None = None

    @property
    def are_given(self) -> bool:
        """Whether any of them was."""
        return any(value is not None and value is not False for value in astuple(self))


def generate(
    bundle: Path,
    options: GenerateOptions,
    *,
    variant: str | None,
    threads: int | None,
    force: bool,
    json_mode: bool,
) -> None:
    """Generate, and print the text (streamed with `--stream`) or one JSON document."""
    from edgeq.runtime.generation.language_model import load_language_model

    if options.prompt is None:
        raise UsageError("these options need --prompt", hint='edgeq run BUNDLE --prompt "Once upon a time"')
    out = Out(json_mode=json_mode)
    sampling = _sampling(options)
    max_tokens = DEFAULT_MAX_TOKENS if options.max_tokens is None else options.max_tokens
    if max_tokens < 1:
        raise UsageError(f"--max-tokens {max_tokens} generates nothing, expected at least 1")
    with load_language_model(
        bundle, engine=options.engine, variant=variant, threads=threads, force=force
    ) as model:
        prompt = _prompt(options, model)
        found = model.generate(
            prompt,
            max_tokens=max_tokens,
            sampling=sampling,
            is_rendered=options.chat,
            on_text=_print_piece if options.stream and not json_mode else _ignore,
        )
    if options.stream and not json_mode:
        print(flush=True)
    out.result(document(found), None if options.stream else found.text)
    out.notice(_speed(found))


def document(found: Generation) -> dict[str, object]:
    """As `run --json` prints it."""
    return {
        "text": found.text,
        "token_ids": list(found.token_ids),
        "prompt_tokens": found.prompt_tokens,
        "generated_tokens": len(found.token_ids),
        "tokens_per_second": round(found.tokens_per_second, 2),
        "prompt_tokens_per_second": round(found.prompt_tokens_per_second, 2),
        "stop_reason": str(found.stop_reason),
    }


def _sampling(options: GenerateOptions) -> Sampling:
    """Greedy, unless a temperature is given."""
    from edgeq.runtime.generation.sampling import Sampling

    given = {name: getattr(options, name) for name in ("temperature", "top_p", "top_k", "seed")}
    sampling = Sampling(**{name: value for name, value in given.items() if value is not None})
    unused = [name for name in ("top_p", "top_k", "seed") if given[name] is not None]
    if sampling.is_greedy and unused:
        flag = unused[0].replace("_", "-")
        raise UsageError(f"--{flag} has no effect without --temperature above 0", hint="--temperature 0.8")
    return sampling


def _prompt(options: GenerateOptions, model: LanguageModel) -> str:
    text = read_stdin() if options.prompt == "-" else str(options.prompt)
    if not options.chat:
        return text
    if not text.strip():
        raise DataError("the message is empty, expected some text")
    return model.chat_prompt([{"role": "user", "content": text}])


def _print_piece(piece: str) -> None:
    print(piece, end="", flush=True)


def _ignore(piece: str) -> None:
    del piece


def _speed(found: Generation) -> str:
    return (
        f"{found.prompt_tokens} tokens read at {found.prompt_tokens_per_second:.0f} per second, "
        f"{len(found.token_ids)} written at {found.tokens_per_second:.0f} per second ({found.stop_reason})"
    )
