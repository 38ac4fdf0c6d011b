"""Damaged bundles, hashes rewritten: which of them do a bundle's own golden cases catch?

    python benchmarks/mutations.py BUNDLE [BUNDLE ...] [--only REGEX] [--json results.json]

Every damage (damages.py) is made in a copy of the bundle whose sizes and SHA-256 are rewritten, so that only numbers
can tell. `edgeq validate` replays the golden cases of the copy. A damage counts if it changes an output by more than
kernel noise on probe texts that the goldens do not contain: beyond the largest distance (of a value, of a cosine, RMS,
or of the mean) that threads, levels, roundings and twenty draws of last bits make of the undamaged file there, or if
token ids, labels or settings change. Where a last bit leaves most texts as they are, twenty draws of 64 last bits show
what a moved code does. Damages that change nothing, or less than other kernels would, are listed as such.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from damages import Damage, NotApplicableError, graph_damages, tokenizer_damages
from from_tests import support
from language_damages import language_damages, language_settings
from package_damages import package_damages

from edgeq.bundle.golden import GoldenCase
from edgeq.bundle.reader import Bundle, open_bundle
from edgeq.calibration import load_samples
from edgeq.errors import EdgeqError
from edgeq.onnx_runtime import kernels_saturate
from edgeq.pipeline.drift import Drift, case_drifts, worst
from edgeq.pipeline.validation.request import ValidationRequest
from edgeq.pipeline.validation.run import run_validation
from edgeq.processors.text import TextPreprocessor
from edgeq.runtime.executors import NativeExecutor
from edgeq.runtime.host import cpu_name
from edgeq.runtime.runtime import load_preprocessor
from edgeq.samples import Sample, as_samples
from edgeq.targets.onnx_twins import DecoderTwins
from edgeq.types import Outputs, Task, Verification

PROBES = 48
SIMULATED_PROBES = 16
"""An interpreter takes minutes where ONNX Runtime takes seconds."""
NOISE_SEEDS = 20
"""Draws: of five, one run in three of the undamaged file would be beyond one of four limits."""
LOUDER = 64
"""Times a last bit, where that moves hardly any code."""


VERDICTS = {
    (True, True): "caught",
    (True, False): "MISSED",
    (False, True): "caught within noise",
    (False, False): "within noise",
}
"""By whether an output changed by more than noise, and whether validate fails."""


def copied(source: Path, folder: Path) -> None:
    """A copy whose untouched files are links to the same bytes."""
    shutil.copytree(source, folder, copy_function=os.link)


@dataclass(frozen=True)
class Limits:
    """The largest distances that draws of last bits make of an undamaged file."""

    max_abs: float
    cosine: float
    rms: float
    mean: float

    @classmethod
    def of(cls, items: Sequence[Drift]) -> Limits:
        """Of some draws."""
        return cls(
            max(item.max_abs for item in items),
            min(item.cosine for item in items),
            max(item.rms for item in items),
            max(item.mean for item in items),
        )

    def beyond(self, found: Drift) -> str:
        """How a distance is beyond them; empty where it is not."""
        if math.isnan(found.max_abs):
            return "NaN"
        if found.cosine >= self.cosine and all(
            getattr(found, name) <= getattr(self, name) for name in ("max_abs", "rms", "mean")
        ):
            return ""
        return (
            f"max-abs {found.max_abs:.2g} ({self.max_abs:.2g}), cosine {found.cosine:.4f} ({self.cosine:.4f}), "
            f"RMS {found.rms:.2%} ({self.rms:.2%}), mean {found.mean:.2%} ({self.mean:.2%})"
        )


def noise_limits(
    session: Any, specs: Sequence[Any], cases: Sequence[GoldenCase], clean: Sequence[Outputs]
) -> dict[str, Limits]:
    """By output; with louder draws where a last bit moves fewer than half of the cases."""
    found: dict[str, list[Drift]] = {spec.name: [] for spec in specs}
    moved = []

    def add(twin: Any) -> None:
        outputs = twin.run([case.feeds for case in cases])
        drifts = case_drifts(specs, cases, clean, outputs)
        for name, items in drifts.items():
            found[name].append(worst(items))
            if "last bits" in twin.kind:
                moved.extend(item.max_abs > 0 for item in items)

    for twin in session.twins(NOISE_SEEDS):
        if twin.most_cases is None:
            add(twin)
    if np.mean(moved) < 0.5:
        for twin in session.louder_twins(NOISE_SEEDS, LOUDER):
            add(twin)
    return {name: Limits.of(items) for name, items in found.items()}


def built_in_texts(count: int) -> list[str]:
    """The last ones of a draw of 400: those that nothing was calibrated with."""
    return [
        text for sample in load_samples(None, count=400, seed=3).samples[-count:] for text in sample.texts
    ]


class Probe:
    """Texts beside the goldens, and what the undamaged variant and its noise make of them."""

    def __init__(self, bundle: Bundle, variant: Any, session: Any, limit: int) -> None:
        self.variant, self.session = variant, session
        self.preprocessor = load_preprocessor(bundle).fit(limit)
        special = bundle.manifest.text_processor.special_ids
        self.ends = [special[name] for name in ("cls_token", "sep_token")]
        is_simulated = session.verification is Verification.SIMULATED
        count = SIMULATED_PROBES if is_simulated else PROBES
        texts = built_in_texts(count)
        long = " ".join(texts * 4)
        groups: list[list[Any]] = [texts[i : i + 8] for i in range(0, len(texts), 8)]
        groups += [[long], [(texts[3], texts[4])], [(texts[0], long)]]
        self.cases = [self._case(str(i), as_samples(group)) for i, group in enumerate(groups)]
        self.clean = [self._recorded(session, case) for case in self.cases]
        self.limits = noise_limits(session, variant.outputs, self.cases, self.clean)

    def _case(self, name: str, samples: Sequence[Sample]) -> GoldenCase:
        return GoldenCase(name, tuple(samples), self.preprocessor(samples), {}, {})

    def _recorded(self, session: Any, case: GoldenCase) -> Outputs:
        return dict(session.run(case.feeds))

    def is_changed(self, session: Any, reaches: Sequence[int]) -> str:
        """How a damaged session differs by more than noise; empty where it does not."""
        cases, clean = list(self.cases), list(self.clean)
        if reaches:
            ids = np.array([[*self.ends[:1], *reaches, *self.ends[1:]]])
            feeds = {
                "input_ids": ids,
                "attention_mask": np.ones_like(ids),
                "token_type_ids": np.zeros_like(ids),
            }
            case = GoldenCase("reach", (), {n: feeds[n] for n in self.cases[0].feeds}, {}, {})
            cases.append(case)
            clean.append(dict(self.session.run(case.feeds)))
        try:
            outputs = [dict(session.run(case.feeds)) for case in cases]
        except EdgeqError as error:
            return f"fails: {error}"[:40]
        for name, drifts in case_drifts(self.variant.outputs, cases, clean, outputs).items():
            if changed := self.limits[name].beyond(worst(drifts)):
                return changed
        return ""


@dataclass
class Tally:
    """What came of all damages.

    Attributes:
        only: names of those that are tried.
        rows: one of each.
    """

    only: re.Pattern[str]
    rows: list[dict[str, str]] = field(default_factory=list)

    def add(self, bundle: str, name: str, changed: str, caught: str) -> None:
        """Note and print one damage."""
        verdict = VERDICTS[bool(changed), bool(caught)]
        self.rows.append(
            {"bundle": bundle, "damage": name, "changed": changed, "caught": caught, "verdict": verdict}
        )
        print(f"{verdict:20s}{bundle} | {name} | {changed or '-'} | {caught[:90]}", flush=True)

    def count(self, verdict: str) -> int:
        """Damages with a verdict."""
        return sum(row["verdict"] == verdict for row in self.rows)


def judged(folder: Path, variant: str | None) -> str:
    """What `edgeq validate` says of a bundle; empty when it passes."""
    try:
        report = run_validation(ValidationRequest(folder, variants=(variant,) if variant else ()))
    except EdgeqError as error:
        return f"{type(error).__name__}: {error}"
    return "; ".join(report.failures)


def try_damage(
    tally: Tally, source: Path, damage: Damage, variant: str | None, changed: Callable[[Path], str]
) -> None:
    """Make a damaged copy, judge it, and say whether it differs at all."""
    if not tally.only.search(damage.name):
        return
    with tempfile.TemporaryDirectory(prefix="edgeq-mutation-", dir=source.parent) as name:
        folder = Path(name) / "bundle"
        copied(source, folder)
        for file in (
            *folder.rglob("*.json"),
            *folder.rglob("model.onnx"),
            *folder.rglob("weight.bin"),
            *folder.rglob("model.mlmodel"),
            folder / "SHA256SUMS",
        ):
            data = file.read_bytes()  # of its own, no longer the original's
            file.unlink()
            file.write_bytes(data)
        try:
            damage.edit(folder)
        except NotApplicableError:
            return
        support("mutate_bundle").sign(folder)
        tally.add(source.name, damage.name, changed(folder), judged(folder, variant))


def encoder(tally: Tally, path: Path) -> None:
    """Every damage of every variant of one encoder's bundle."""
    from edgeq.pipeline.sessions import open_variant

    with open_bundle(path) as bundle:
        pad = bundle.manifest.text_processor.pad_id if bundle.manifest.text_processor else 0
        for variant in bundle.variants:
            assert judged(path, variant.id) == "", "the undamaged bundle must pass"
            session = open_variant(bundle, variant, bundle.model_path(variant), pad)
            longest = bundle.manifest.text_processor.max_length
            probe = Probe(bundle, variant, session, session.static_length or longest)
            damages = package_damages if variant.runtime == "coreml" else graph_damages
            for damage in damages(variant.id, bundle.model_path(variant)):
                again = partial(reopened, bundle, variant, probe, damage, pad)
                try_damage(tally, path, damage, variant.id, again)
        texts = [*built_in_texts(PROBES), "Ünïcode, CAPITALS and \uff5e\uff58"]
        for damage in tokenizer_damages():
            try_damage(tally, path, damage, bundle.variants[0].id, tokens_changed(bundle, texts))


class LanguageProbe:
    """Sequences beside the goldens, and what a decoder and its noise make of them."""

    def __init__(self, bundle: Bundle, variant: Any, model: Path) -> None:
        from edgeq.runtime.generation.generator import bundle_tokenizer

        self.specs = [spec for spec in variant.outputs if spec.name == "logits"]
        empty = next(case for case in bundle.golden_cases() if case.id.startswith("prefill"))
        tokenizer = bundle_tokenizer(bundle)
        texts = built_in_texts(PROBES // 4)
        self.cases = [
            GoldenCase(str(i), (), self._feeds(empty, tokenizer.encode(text)[:48]), {})
            for i, text in enumerate(texts)
        ]
        self.clean = self._run(model)
        twins = DecoderTwins(model)
        self.limits = noise_limits(twins, self.specs, self.cases, self.clean)["logits"]

    @staticmethod
    def _feeds(empty: GoldenCase, ids: Sequence[int]) -> dict[str, np.ndarray]:
        row = np.asarray([ids], np.int64)
        past = {name: array[:, :, :0] for name, array in empty.feeds.items() if array.ndim == 4}
        return {"input_ids": row, "attention_mask": np.ones_like(row), **past}

    def _run(self, model: Path) -> list[Outputs]:
        return NativeExecutor("x86-64").run(model, [case.feeds for case in self.cases])

    def is_changed(self, model: Path) -> str:
        """How a damaged file differs by more than noise; empty where it does not."""
        try:
            outputs = self._run(model)
        except EdgeqError as error:
            return f"fails: {error}"[:40]
        return self.limits.beyond(worst(case_drifts(self.specs, self.cases, self.clean, outputs)["logits"]))


def language_model(tally: Tally, path: Path) -> None:
    """Every damage of one language model's bundle."""
    with open_bundle(path) as bundle:
        (variant,) = bundle.variants
        assert judged(path, variant.id) == "", "the undamaged bundle must pass"
        model = bundle.model_path(variant)
        probe = LanguageProbe(bundle, variant, model)
        for damage in language_damages(variant.id, model):
            try_damage(
                tally, path, damage, variant.id, lambda folder: probe.is_changed(folder / variant.model_file)
            )
        for damage in language_settings(path):
            try_damage(tally, path, damage, variant.id, partial(beside_changed, path))


def beside_changed(before: Path, after: Path) -> str:
    """Whether settings, or token ids and texts of some texts, differ between two language models' bundles."""
    from tokenizers import Tokenizer

    if (before / "generation.json").read_bytes() != (after / "generation.json").read_bytes():
        return "settings"
    texts = [*built_in_texts(PROBES), "</s> and <s>, \u00fc\U0001f600"]
    found = []
    for folder in (before, after):
        tokenizer = Tokenizer.from_file(str(next(folder.rglob("tokenizer.json"))))
        ids = [tokenizer.encode(text).ids for text in texts]
        found.append((ids, [tokenizer.decode(row) for row in ids], tokenizer.get_vocab()))
    return "" if found[0] == found[1] else "token ids or texts"


def reopened(bundle: Bundle, variant: Any, probe: Probe, damage: Damage, pad: int, folder: Path) -> str:
    """How a damaged copy of a variant differs by more than noise."""
    from edgeq.pipeline.sessions import open_variant

    return probe.is_changed(open_variant(bundle, variant, folder / variant.model_file, pad), damage.reaches)


def tokens_changed(bundle: Bundle, texts: Sequence[str]) -> Callable[[Path], str]:
    """Whether some text, pair, batch or long text gives other inputs."""
    before = load_preprocessor(bundle)
    plain = [list(texts), [(texts[0], texts[1])], [" ".join(texts * 4)], ["\uff5e"]]
    groups = [as_samples(group) for group in plain]

    def changed(folder: Path) -> str:
        try:
            after = TextPreprocessor.load(folder / "tokenizer")
            same = all(same_feeds(before(group), after(group)) for group in groups)
        except EdgeqError as error:
            return f"fails: {error}"[:40]
        return "" if same else "other inputs"

    return changed


def same_feeds(a: Any, b: Any) -> bool:
    return all(np.array_equal(a[name], b[name]) for name in a)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--only", type=re.compile, default=re.compile(""), help="damages whose name it is in")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    tally = Tally(arguments.only)
    for path in arguments.bundles:
        with open_bundle(path) as bundle:
            is_language = bundle.manifest.source.task is Task.TEXT_GENERATION
        (language_model if is_language else encoder)(tally, path)
    caught, missed = tally.count("caught"), tally.count("MISSED")
    kernels = "saturate in 16 bits" if kernels_saturate() else "are exact"
    print(f"\n{cpu_name()}, whose own uint8 x int8 kernels {kernels}")
    print(
        f"{len(tally.rows)} damages; {caught + missed} change an output by more than kernel noise: {caught} caught "
        f"({caught / (caught + missed):.1%}), {missed} missed; of those within noise "
        f"{tally.count('caught within noise')} are caught, {tally.count('within noise')} are not"
    )
    for row in tally.rows:
        if row["verdict"] == "MISSED":
            print(f"missed: {row['bundle']} | {row['damage']} | {row['changed']}")
    if arguments.json:
        arguments.json.write_text(json.dumps(tally.rows, indent=1))


if __name__ == "__main__":
    main()
