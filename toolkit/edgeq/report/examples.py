"""The report's examples: what the original and every variant answer to some texts, from the golden cases.

Their outputs are recorded anyway, so nothing is run for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeq.bundle.manifest import PostprocessKind
from edgeq.metrics import cosines
from edgeq.report.markup import Html, Section, el, join, table
from edgeq.runtime.postprocess import Context, answers
from edgeq.samples import Sample
from edgeq.tasks import head_in
from edgeq.types import Array, Feeds, Outputs

if TYPE_CHECKING:
    from edgeq.bundle.golden import GoldenCase
    from edgeq.bundle.language_golden import GreedyGolden
    from edgeq.bundle.manifest import Manifest
    from edgeq.processors.text import TextPreprocessor

Answers = Mapping[str, Any]

ORIGINAL = "original"
SHOWN = 8
SHOWN_TEXT = 160
SHOWN_TOKENS = 12
UNLIKE_TEXTS = ("rare", "cut-")
"""Cases of words without sense, and of texts too long to read."""


@dataclass(frozen=True, slots=True)
class _Answered:
    """One text, and by contender (the original first) its answer in words."""

    sample: Sample
    words: Mapping[str, str]
    decided: Mapping[str, object]

    @property
    def is_changed(self) -> bool:
        """Whether some variant decides otherwise than the original."""
        return any(value != self.decided[ORIGINAL] for value in self.decided.values())


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a bundle keeps of texts and answers.

    Attributes:
        golden: cases.
        preprocessor: names tokens; None for models that take no texts.
        greedy: a language model's answers.
    """

    golden: Sequence[GoldenCase] = ()
    preprocessor: TextPreprocessor | None = None
    greedy: GreedyGolden | None = None


def examples_section(manifest: Manifest, recorded: Recorded) -> Section | None:
    """Answers of the original and of each variant side by side; None where there are no texts or no answers."""
    if recorded.greedy is not None and recorded.greedy.answers:
        return _continuations(recorded.greedy, recorded.preprocessor)
    cases = [case for case in recorded.golden if case.samples and not case.id.startswith(UNLIKE_TEXTS)]
    if not cases:
        return None
    if head_in(manifest).entry.compares_texts:
        return _neighbours(manifest, cases)
    reader = _READERS.get(manifest.postprocess[-1].step) if manifest.postprocess else None
    if reader is None:
        return None
    found = _unique(row for case in cases for row in _answered(manifest, case, recorded.preprocessor, reader))
    return _answer_table(manifest, found) if found else None


def _continuations(greedy: GreedyGolden, preprocessor: TextPreprocessor | None) -> Section | None:
    """How a language model goes on; what the original would write is not recorded."""
    if preprocessor is None:
        return None
    rows = [
        [_short(answer.prompt), _short(preprocessor.decode(list(answer.token_ids)))]
        for answer in greedy.answers[:SHOWN]
    ]
    intro = (
        "How the model goes on, the likeliest token each time. Whether it writes what the original writes, the numbers "
        "under Fidelity say token by token."
    )
    return "examples", "Examples", join([el("p", intro), table(["prompt", greedy.variant], rows, "texts")])


def _answer_table(manifest: Manifest, found: Sequence[_Answered]) -> Section:
    changed = [row for row in found if row.is_changed]
    same = [row for row in found if not row.is_changed]
    shown = [*changed[: SHOWN // 2], *same][:SHOWN]
    contenders = [ORIGINAL, *(variant.id for variant in manifest.variants)]
    rows = [[_quoted(row.sample), *(row.words.get(name, "") for name in contenders)] for row in shown]
    parts = [el("p", _count(found, changed)), table(["text", *contenders], rows, "texts")]
    if not manifest.source.labels and head_in(manifest).entry.has_labels:
        parts.append(el("p", "The source names no labels: LABEL_0 is its first output.", class_="muted"))
    return "examples", "Examples", join(parts)


def _count(found: Sequence[_Answered], changed: Sequence[_Answered]) -> str:
    """Scores have no decision that could change."""
    intro = "Recorded answers of the original model and of this bundle to texts that nothing was fitted to."
    if all(value is None for row in found for value in row.decided.values()):
        return intro
    if not changed:
        return f"{intro} All {len(found)} get the same answer from every variant."
    return (
        f"{intro} {len(changed)} of {len(found)} get another answer from some variant; such ones come first."
    )


def _quoted(sample: Sample) -> Html:
    return el("div", *(el("div", _short(text)) for text in sample.texts))


def _short(text: str, limit: int = SHOWN_TEXT) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _unique(rows: Iterable[_Answered]) -> list[_Answered]:
    """The first of each text: some are in several cases."""
    found: dict[Sample, _Answered] = {}
    for row in rows:
        found.setdefault(row.sample, row)
    return list(found.values())


def _answered(
    manifest: Manifest, case: GoldenCase, preprocessor: TextPreprocessor | None, reader: _Reader
) -> list[_Answered]:
    """Every sample of a case; of contenders that did not take its length nothing is recorded."""
    context = Context(_kept_feeds(case), manifest.source.labels, preprocessor)
    contenders: dict[str, Outputs] = {ORIGINAL: case.reference, **case.outputs}
    read = {name: answers(manifest.postprocess, outputs, context) for name, outputs in contenders.items()}
    return [
        _Answered(
            sample,
            {name: reader.words(given[row]) for name, given in read.items()},
            {name: reader.decision(given[row]) for name, given in read.items()},
        )
        for row, sample in enumerate(case.samples)
        if all(reader.has_answer(given[row]) for given in read.values())
    ]


def _kept_feeds(case: GoldenCase) -> Feeds:
    """Inputs at the tokens whose outputs are recorded."""
    if case.positions is None:
        return case.feeds
    return {
        name: array[:, case.positions] if array.ndim == 2 else array for name, array in case.feeds.items()
    }


@dataclass(frozen=True, slots=True)
class _Reader:
    """How an answer is shown.

    Attributes:
        words: for people.
        decision: what must be the same; None where an answer is a number.
        has_answer: whether there is anything to show.
    """

    words: Callable[[Answers], str]
    decision: Callable[[Answers], object]
    has_answer: Callable[[Answers], bool] = lambda _: True


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


def _label_words(answer: Answers) -> str:
    return f"{answer['label']} {_share(answer['scores'][answer['label']])}"


def _independent(answer: Answers) -> list[str]:
    return [label for label, value in answer["scores"].items() if value >= 0.5]


def _independent_words(answer: Answers) -> str:
    chosen = _independent(answer)
    if not chosen:
        best = max(answer["scores"], key=answer["scores"].__getitem__)
        return f"none (at most {best} {_share(answer['scores'][best])})"
    return ", ".join(f"{label} {_share(answer['scores'][label])}" for label in chosen)


def _score_words(answer: Answers) -> str:
    if "score" in answer:
        return f"{answer['score']:.4g}"
    return ", ".join(f"{label} {value:.4g}" for label, value in answer["values"].items())


def _token_labels(answer: Answers) -> list[tuple[str, str]]:
    """What is no entity (`O`) is left out."""
    return [(item["token"], item["label"]) for item in answer["tokens"] if item["label"] != "O"]


def _token_words(answer: Answers) -> str:
    found = _token_labels(answer)
    words = ", ".join(f"{token} {label}" for token, label in found[:SHOWN_TOKENS])
    more = len(found) - SHOWN_TOKENS
    return (words or "no token has a label") + (f" and {more} more" if more > 0 else "")


def _mask_words(answer: Answers) -> str:
    first = answer["masks"][0]
    return ", ".join(f"{item['token']} {_share(item['score'])}" for item in first[:3])


_READERS: Mapping[PostprocessKind, _Reader] = {
    PostprocessKind.ARGMAX_LABEL: _Reader(
        lambda answer: _token_words(answer) if "tokens" in answer else _label_words(answer),
        lambda answer: answer.get("label", answer.get("tokens")),
    ),
    PostprocessKind.SIGMOID: _Reader(_independent_words, _independent),
    PostprocessKind.SCORE: _Reader(_score_words, lambda _: None),
    PostprocessKind.ANSWER_SPAN: _Reader(
        lambda answer: answer["answer"], lambda answer: (answer["start"], answer["end"])
    ),
    PostprocessKind.TOP_TOKENS: _Reader(
        _mask_words,
        lambda answer: [mask[0]["token"] for mask in answer["masks"]],
        lambda answer: bool(answer["masks"]),
    ),
}
"""By the last step of a bundle, which is the one that decides."""


def _neighbours(manifest: Manifest, cases: Sequence[GoldenCase]) -> Section | None:
    """The closest other text of the largest case, as the original and as each variant see it."""
    case = max(cases, key=lambda case: len(case.samples))
    if len(case.samples) < 3:
        return None
    output = manifest.variants[0].outputs[0].name
    contenders = {ORIGINAL: case.reference, **case.outputs}
    matrices = {name: _similarities(outputs[output]) for name, outputs in contenders.items()}
    nearest = {name: matrix.argmax(axis=1) for name, matrix in matrices.items()}
    texts = [_short(" / ".join(sample.texts), 90) for sample in case.samples]
    same = np.logical_and.reduce([found == nearest[ORIGINAL] for found in nearest.values()])
    rows = [
        [texts[row], *(_near(texts, matrices[name], row, int(nearest[name][row])) for name in contenders)]
        for row in _telling(matrices[ORIGINAL], same)
    ]
    intro = (
        f"For some of {len(texts)} short texts the closest other one, with its similarity (cosine), from recorded "
        f"vectors. {int(same.sum())} of {len(texts)} have the same closest text in the original and in every "
        "variant; those that have not come first."
    )
    return "examples", "Examples", join([el("p", intro), table(["text", *contenders], rows, "texts")])


def _telling(matrix: Array, same: Array) -> list[int]:
    """Texts to show: some whose neighbour changed, then those with the closest ones, each pair once."""
    order = np.argsort(-matrix.max(axis=1), kind="stable").tolist()
    changed = [row for row in order if not same[row]][: SHOWN // 2]
    shown, seen = list(changed), set[frozenset[int]]()
    for row in order:
        pair = frozenset((row, int(matrix[row].argmax())))
        if same[row] and pair not in seen:
            seen.add(pair)
            shown.append(row)
    return shown[:SHOWN]


def _similarities(vectors: Array) -> Array:
    """`[texts, texts]` cosines, of a text with itself below all others."""
    count = len(vectors)
    matrix = np.stack([cosines(np.broadcast_to(row, vectors.shape), vectors) for row in vectors])
    matrix[np.arange(count), np.arange(count)] = -np.inf
    return matrix


def _near(texts: Sequence[str], matrix: Array, row: int, closest: int) -> Html:
    return el("div", el("b", f"{matrix[row, closest]:.3f}"), " ", texts[closest])
