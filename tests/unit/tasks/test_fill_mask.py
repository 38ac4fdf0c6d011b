"""Texts for fill-mask models: one word each behind the mask, and none where the tokenizer cannot read a mask."""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from edgeq.processors.text import TextPreprocessor, TextSettings
from edgeq.samples import as_samples
from edgeq.tasks import TASKS, Kind
from edgeq.tasks.fill_mask import masked

WORDS = ("[PAD]", "[UNK]", "[MASK]", "the", "cat", "sat")
TEXTS = tuple(as_samples(["the cat sat", "the cat sat", "the cat sat", "", "a [MASK] sat", ("the", "cat")]))


def preprocessor(*, added: bool = True, special: bool = True) -> TextPreprocessor:
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    if added:
        tokenizer.add_special_tokens([AddedToken("[MASK]", special=True)])
    named = {"mask_token": "[MASK]"} if special else {}
    return TextPreprocessor(tokenizer.to_str(), TextSettings(8, "[PAD]", 0, special_tokens=named))


def test_another_word_of_each_text_is_masked() -> None:
    found = masked(TEXTS, preprocessor())
    assert found == (*as_samples(["[MASK] cat sat", "the [MASK] sat", "the cat [MASK]"]), *TEXTS[3:])
    assert TASKS[Kind.FILL_MASK].arrange(TEXTS, preprocessor()) == found
    assert (preprocessor()(list(found[:3]))["input_ids"] == 2).sum(axis=1).tolist() == [1, 1, 1]


def test_where_no_text_holds_a_mask_none_is_put_there() -> None:
    assert masked(TEXTS, preprocessor(special=False)) == TEXTS
    assert masked(TEXTS, preprocessor(added=False)) == TEXTS, "the brackets would be words"


def test_other_tasks_keep_their_texts() -> None:
    assert TASKS[Kind.TOKEN_CLASSIFICATION].arrange(TEXTS, preprocessor()) == TEXTS
