"""Do a bundle's golden texts still give the token ids that were recorded? The first stage an app can get wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeq.errors import ConfigError, IntegrityError
from edgeq.tasks.tokens import Tokens

if TYPE_CHECKING:
    from edgeq.bundle.golden import GoldenCase
    from edgeq.processors.prompts import PromptTokenizer
    from edgeq.processors.text import TextPreprocessor


@dataclass(frozen=True, slots=True)
class TokenizationReport:
    """How many golden cases were tokenized again, and which came out differently."""

    cases: int
    different: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether every case gave the recorded ids."""
        return not self.different


def replay_tokenization(
    preprocessor: TextPreprocessor, cases: Sequence[GoldenCase]
) -> TokenizationReport | None:
    """Tokenize the golden texts with the bundle's tokenizer; None when the cases hold no texts."""
    with_texts = [case for case in cases if case.samples and Tokens.of_case(case).ids is not None]
    if not with_texts:
        return None
    different = tuple(case.id for case in with_texts if not _is_same(preprocessor, case))
    return TokenizationReport(len(with_texts), different)


def replay_prompts(tokenizer: PromptTokenizer, cases: Sequence[GoldenCase]) -> TokenizationReport | None:
    """Tokenize a language model's golden prompts, which are never cut; None when the cases hold no texts.

    Raises:
        IntegrityError: a case holds texts and no token ids.
    """
    with_texts = [case for case in cases if case.samples]
    different = tuple(case.id for case in with_texts if not _is_same_prompt(tokenizer, case))
    return TokenizationReport(len(with_texts), different) if with_texts else None


def _is_same_prompt(tokenizer: PromptTokenizer, case: GoldenCase) -> bool:
    recorded = Tokens.of_case(case).ids
    if recorded is None:
        raise IntegrityError(f"the golden case `{case.id}` holds texts, and no `input_ids` of them")
    return bool([tokenizer.encode(" ".join(sample.texts)) for sample in case.samples] == recorded.tolist())


def _is_same(preprocessor: TextPreprocessor, case: GoldenCase) -> bool:
    found = preprocessor(case.samples)
    ids, recorded = Tokens.of_feeds(found).ids, Tokens.of_case(case).ids
    assert ids is not None and recorded is not None
    length = recorded.shape[1]
    if ids.shape[1] > length:
        # Recorded for a variant with a static length, which cuts texts.
        try:
            found = preprocessor.fit(length)(case.samples)
        except ConfigError:
            return False
    return all(np.array_equal(array, case.feeds.get(name, ())) for name, array in found.items())
