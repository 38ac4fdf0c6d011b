"""What a language model writes, and how fast."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

DEFAULT_MAX_TOKENS = 128


class StopReason(StrEnum):
    """Why an answer ended."""

    STOP_TOKEN = "stop-token"
    MAX_TOKENS = "max-tokens"
    CONTEXT = "context-full"


@dataclass(frozen=True, slots=True)
class Generation:
    """An answer.

    Attributes:
        text: what was generated, without the prompt and special tokens.
        token_ids: generated tokens, the stop token left out.
        prompt_tokens: tokens of the prompt.
        stop_reason: why it ended.
        prompt_seconds: time to the first token: running the prompt.
        seconds: time of the tokens after it.
    """

    text: str
    token_ids: tuple[int, ...]
    prompt_tokens: int
    stop_reason: StopReason
    prompt_seconds: float = field(compare=False)
    seconds: float = field(compare=False)

    @property
    def prompt_tokens_per_second(self) -> float:
        """Speed of reading."""
        return self.prompt_tokens / max(self.prompt_seconds, 1e-9)

    @property
    def tokens_per_second(self) -> float:
        """Speed of writing, the first token (which the prompt pays for) left out."""
        steps = len(self.token_ids) - (self.stop_reason is not StopReason.STOP_TOKEN)
        return steps / self.seconds if steps > 0 and self.seconds > 0 else 0.0
