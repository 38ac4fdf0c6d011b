"""Repeats what `golden/language.json` of a bundle records, and names everything that is another now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from edgeq.bundle.language_golden import LANGUAGE_FILE, LanguageGolden, RenderedChat, read_language_golden
from edgeq.errors import IntegrityError, MissingExtraError
from edgeq.pipeline.generation.golden import margin_of, rendered, tokenized, vocabulary_of
from edgeq.pipeline.generation.language_report import LanguageReport
from edgeq.pipeline.generation.settings import read_settings, settings_files
from edgeq.runtime.generation.generator import bundle_tokenizer
from edgeq.runtime.generation.settings import GENERATION_FILE, GenerationSettings
from edgeq.runtime.generation.template_process import REFUSES
from edgeq.types import FloatArray, Role

if TYPE_CHECKING:
    from edgeq.bundle.language_golden import GreedyAnswer
    from edgeq.bundle.manifest import Variant
    from edgeq.bundle.reader import Bundle
    from edgeq.processors.prompts import PromptTokenizer

NO_RECORD = (
    f"the bundle has no {LANGUAGE_FILE}: token ids, chats, settings and answers are not compared with any"
)


def replay_language(bundle: Bundle, variants: Sequence[Variant]) -> LanguageReport:
    """Repeat everything that needs no run of the model.

    Raises:
        IntegrityError: the record, the settings or the tokenizer cannot be read.
    """
    settings = GenerationSettings.load(bundle.file(GENERATION_FILE))
    tokenizer = bundle_tokenizer(bundle)
    report = LanguageReport().extended(
        "facts", 1 + 2 * len(variants), list(_contradictions(settings, tokenizer, variants))
    )
    golden = language_golden_of(bundle)
    if golden is None:
        return replace(report, notices=(NO_RECORD,))
    report = report.extended("texts", len(golden.texts), list(_texts(tokenizer, golden)))
    report = report.extended(
        "vocabulary tokens", len(golden.vocabulary.tokens), list(_vocabulary(tokenizer, golden))
    )
    report = _with_chats(report, settings, tokenizer, golden)
    return _with_settings(report, bundle, golden, variants)


def language_golden_of(bundle: Bundle) -> LanguageGolden | None:
    """The record of a bundle; None in those of older versions.

    Raises:
        IntegrityError: it is malformed, or its answers are of a variant that is not there.
    """
    golden = read_language_golden(bundle.folder)
    if golden is not None and golden.greedy.variant not in {item.id for item in bundle.variants}:
        raise IntegrityError(
            f"`{LANGUAGE_FILE}` has answers of `{golden.greedy.variant}`, which is not in the bundle"
        )
    return golden


def _contradictions(
    settings: GenerationSettings, tokenizer: PromptTokenizer, variants: Sequence[Variant]
) -> Iterator[str]:
    """Where generation.json says another thing than the manifest or the tokenizer."""
    for variant in variants:
        stated = {
            "context_length": settings.context_length,
            "kv_cache_bytes_per_token": settings.cache.bytes_per_token,
        }
        for key, value in stated.items():
            wanted = variant.requirements.get(key, value)
            if wanted != value:
                yield f"{key} is {value} in {GENERATION_FILE}, {wanted} in the requirements of {variant.id}"
    outside = [token for token in settings.stop_ids if not 0 <= token < settings.vocabulary]
    if outside:
        yield f"stop id {outside[0]} is none of the {settings.vocabulary} tokens"


def _texts(tokenizer: PromptTokenizer, golden: LanguageGolden) -> Iterator[str]:
    for item in golden.texts:
        found = tokenized(tokenizer, item.text)
        if found.token_ids != item.token_ids:
            yield f"token ids of {_quoted(item.text)}"
        elif found.decoded != item.decoded:
            yield f"text of the token ids of {_quoted(item.text)}"


def _vocabulary(tokenizer: PromptTokenizer, golden: LanguageGolden) -> Iterator[str]:
    recorded = golden.vocabulary
    found = vocabulary_of(tokenizer, [int(number) for number in recorded.tokens])
    if found.size != recorded.size:
        yield f"the vocabulary has {found.size} tokens, recorded {recorded.size}"
    for number, token in recorded.tokens.items():
        if found.tokens.get(number) != token:
            yield f"token {number} of the vocabulary is {found.tokens.get(number)!r}, recorded {token!r}"
    if found == replace(recorded, sha256=found.sha256) and found.sha256 != recorded.sha256:
        yield "the vocabulary has other tokens than recorded"


def _with_chats(
    report: LanguageReport, settings: GenerationSettings, tokenizer: PromptTokenizer, golden: LanguageGolden
) -> LanguageReport:
    try:
        differences = list(_chats(settings, tokenizer, golden))
    except MissingExtraError as error:
        return replace(report, notices=(*report.notices, f"chats were not compared: {error}"))
    return report.extended("chats", len(golden.chats), differences)


def _chats(settings: GenerationSettings, tokenizer: PromptTokenizer, golden: LanguageGolden) -> Iterator[str]:
    if not golden.chats and settings.chat_template is not None:
        yield "there is a chat template, recorded none"
    if golden.chats and settings.chat_template is None:
        yield "there is no chat template, recorded one"
        return
    now = datetime.fromisoformat(golden.chat_time)
    for chat in golden.chats:
        found = rendered(settings, tokenizer, chat.name, chat.messages, chat.add_generation_prompt, now)
        if (problem := _chat_problem(chat, found)) is not None:
            begun = "" if chat.add_generation_prompt else ", no answer begun"
            yield f"chat `{chat.name}`{begun}: {problem}"


def _chat_problem(recorded: RenderedChat, found: RenderedChat) -> str | None:
    if found.refusal is not None:
        return None if _is_same_refusal(recorded, found.refusal) else found.refusal
    if recorded.text is None:
        return f"is taken, recorded: {recorded.refusal}"
    if found.text != recorded.text:
        return "the template writes another text"
    return None if found.token_ids == recorded.token_ids else "its text has other token ids"


def _is_same_refusal(recorded: RenderedChat, found: str) -> bool:
    """Templates word their own refusals; what Jinja and Python say to an error is another text in every version."""
    if recorded.refusal is None:
        return False
    return recorded.refusal == found or not (
        recorded.refusal.startswith(REFUSES) or found.startswith(REFUSES)
    )


def _with_settings(
    report: LanguageReport, bundle: Bundle, golden: LanguageGolden, variants: Sequence[Variant]
) -> LanguageReport:
    there = {name for variant in variants for name in settings_files(bundle.folder, variant.model_file)}
    for name, recorded in golden.settings.items():
        if name not in there:
            report = report.extended("settings", len(recorded), [f"`{name}` is missing"])
            continue
        try:
            found = read_settings(bundle.folder, name)
        except MissingExtraError as error:
            notice = f"settings in `{name}` were not compared: {error}"
            report = replace(report, notices=(*report.notices, notice))
            continue
        report = report.extended("settings", len(recorded), list(_changed(name, recorded, found)))
    return report


def _changed(name: str, recorded: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[str]:
    for key in dict.fromkeys([*recorded, *found]):
        if key not in found:
            yield f"{key} of `{name}` is missing, recorded {recorded[key]}"
        elif key not in recorded:
            yield f"{key} of `{name}` is {found[key]}, recorded none"
        elif found[key] != recorded[key]:
            yield f"{key} of `{name}` is {found[key]}, recorded {recorded[key]}"


def answer_sequences(golden: LanguageGolden | None, variant: Variant) -> list[tuple[int, ...]]:
    """Prompts of a variant with their recorded answers, as one sequence each.

    Raises:
        IntegrityError: a sequence is none of what the manifest says the variant takes.
    """
    if golden is None or golden.greedy.variant != variant.id:
        return []
    found = [(*answer.prompt_ids, *answer.token_ids) for answer in golden.greedy.answers]
    for ids in found:
        _require_fitting(variant, ids)
    return found


def _require_fitting(variant: Variant, ids: Sequence[int]) -> None:
    """Runtimes fail on other sequences in ways of their own."""
    context = variant.requirements.get("context_length")
    if isinstance(context, int) and len(ids) > context:
        raise IntegrityError(
            f"`{LANGUAGE_FILE}` has an answer of {len(ids)} tokens with its prompt; the context of "
            f"`{variant.id}` is {context}"
        )
    for spec in variant.outputs:
        size = spec.shape[-1] if spec.role is Role.LOGITS else None
        if isinstance(size, int) and max(ids) >= size:
            raise IntegrityError(
                f"`{LANGUAGE_FILE}` has an answer with token {max(ids)}; `{variant.id}` predicts one of {size}"
            )


def replay_answers(
    report: LanguageReport, golden: LanguageGolden | None, variant: Variant, rows: Sequence[FloatArray]
) -> LanguageReport:
    """Repeat the answers of a variant, each as one sequence: where its margin is certain, no other token may win.

    Args:
        report: extended.
        golden: the record; None in older bundles.
        variant: it was recorded of this one or another.
        rows: logits of `answer_sequences` now.
    """
    if golden is None or golden.greedy.variant != variant.id:
        return report
    if not golden.greedy.answers:
        notice = f"{variant.id} has no recorded answers: {golden.greedy.derived_from}"
        return replace(report, notices=(*report.notices, notice))
    if golden.greedy.doubt is not None:
        report = replace(report, notices=(*report.notices, f"{variant.id}: {golden.greedy.doubt}"))
    answers = golden.greedy.answers
    for answer, found in zip(answers, rows, strict=True):
        certain = [margin > golden.greedy.certain_margin for margin in answer.margins]
        problems = list(_answer_problems(variant, answer, found[len(answer.prompt_ids) - 1 : -1], certain))
        report = report.extended("certain tokens of answers", sum(certain), problems)
    return report


def _answer_problems(
    variant: Variant, answer: GreedyAnswer, rows: FloatArray, certain: Sequence[bool]
) -> Iterator[str]:
    if len(rows) != len(answer.token_ids):
        raise IntegrityError(
            f"`{variant.id}` gives {len(rows)} rows of logits, expected {len(answer.token_ids)}"
        )
    if answer.token_ids and max(answer.token_ids) >= rows.shape[-1]:
        raise IntegrityError(
            f"`{LANGUAGE_FILE}` has an answer with token {max(answer.token_ids)}; `{variant.id}` gives "
            f"{rows.shape[-1]} logits"
        )
    for index, (row, token) in enumerate(zip(rows, answer.token_ids, strict=True)):
        # Written so that NaN is a difference.
        if certain[index] and not margin_of(row, token) > 0:
            yield (
                f"token {index + 1} of the answer of {variant.id} to {_quoted(answer.prompt)} is "
                f"{int(row.argmax())}, recorded {token}"
            )


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 24 else f"{text[:21]}...")
