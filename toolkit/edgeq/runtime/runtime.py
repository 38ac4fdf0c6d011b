"""The reference runtime: opens a bundle, verifies it, and runs it as an app would, without torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeAlias

import numpy as np

from edgeq.bundle.manifest import Variant
from edgeq.bundle.reader import Bundle
from edgeq.errors import DataError, IntegrityError, UnsupportedError, UsageError
from edgeq.onnx_runtime import ordered_level
from edgeq.processors.text import TextPreprocessor
from edgeq.runtime.executors import Executor, NativeExecutor, architecture_of, level_of
from edgeq.runtime.model import LoadedModel, opened, refuse_language_model
from edgeq.runtime.postprocess import Answer, Context, answers
from edgeq.runtime.session import VariantSession, execute_through
from edgeq.samples import SampleLike, as_samples
from edgeq.types import ONNX_RUNTIME, Feeds, FloatArray, Outputs, Role, Verification


class OtherSession(Protocol):
    """A variant that something else than ONNX Runtime runs: Core ML, or an interpreter of its format."""

    @property
    def static_length(self) -> int | None:
        """Most tokens it takes; None when the length is free."""

    @property
    def verification(self) -> Verification:
        """How real its outputs are."""

    def run(self, feeds: Feeds) -> Outputs:
        """All outputs, of the feeds' own batch and length."""


OpenOther: TypeAlias = Callable[[Bundle, Variant, int], OtherSession | None]
"""Opens a variant, given what token ids are padded with; None where this machine cannot run it."""


def load(
    path: str | os.PathLike[str],
    *,
    variant: str | None = None,
    force: bool = False,
    threads: int | None = None,
    open_other: OpenOther | None = None,
) -> Runtime:
    """Open and verify a bundle, and load one of its variants.

    Args:
        path: a bundle folder or a `.edgeq` archive.
        variant: its id; by default the first that ONNX Runtime runs, else the first that `open_other` opens.
        force: load it even if it failed its quality gate.
        threads: intra-op threads; None lets ONNX Runtime choose.
        open_other: for variants of other runtimes (`edgeq.pipeline.sessions.open_other`).

    Raises:
        ModelError: there is no such bundle or variant, or its model cannot be loaded.
        IntegrityError: its files are not those of its manifest.
        GateError: it failed its quality gate.
        UnsupportedError: nothing here runs the variant.
        UsageError: threads were given for a variant that ONNX Runtime does not run.
    """

    def load_here(bundle: Bundle) -> Runtime:
        return Runtime(bundle, variant=variant, threads=threads, open_other=open_other)

    return opened(path, load_here, force=force)


class Runtime(LoadedModel):
    """A loaded bundle whose model gives outputs in one run.

    Args:
        bundle: opened and verified; closed with the runtime.
        variant: id of the variant to load; by default the first that ONNX Runtime runs, else the first that
            `open_other` opens.
        threads: intra-op threads; None lets ONNX Runtime choose.
        open_other: for variants of other runtimes.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        variant: str | None = None,
        threads: int | None = None,
        open_other: OpenOther | None = None,
    ) -> None:
        refuse_language_model(bundle.manifest)
        self.preprocessor = load_preprocessor(bundle)
        self._pad_id = self.preprocessor.pad_id if self.preprocessor else 0
        chosen, self._other = _choose(bundle, variant, self._pad_id, open_other)
        super().__init__(bundle, chosen)
        if self._other is not None and threads is not None:
            raise UsageError(
                f"threads are ONNX Runtime's, and `{self.variant.id}` runs on {self.variant.runtime}"
            )
        self._session = self._other or self._open_onnx(threads)
        static = self._session.static_length
        if self.preprocessor and static is not None and static < self.preprocessor.max_length:
            self.preprocessor = self.preprocessor.fit(static)

    def _open_onnx(self, threads: int | None) -> VariantSession:
        path = self.bundle.model_path(self.variant)
        level = ordered_level(self.variant.requirements)
        return VariantSession(path, self.variant, threads=threads, pad_id=self._pad_id, level=level)

    @property
    def verification(self) -> Verification:
        """How real the outputs of `run` are."""
        if self._other is not None:
            return self._other.verification
        return level_of(NativeExecutor(architecture_of(self.variant)), self.variant)

    @property
    def prompts(self) -> Mapping[str, str]:
        """What is put before texts, by role; empty where the model wants nothing before them."""
        return {} if self.preprocessor is None else self.preprocessor.settings.prompts

    def prepare(self, text: Sequence[SampleLike], *, role: str | None = None) -> Feeds:
        """Canonical feeds of some texts, `[batch, sequence]` int64, truncated to what the variant takes.

        Args:
            text: texts, or pairs of texts.
            role: whose prompt is put before them: `query`, `document` or another of `prompts`; by default the model's
                default prompt, if it has one.

        Raises:
            DataError: the bundle has no tokenizer, or the texts are empty.
            UsageError: the model has no prompt of this name.
        """
        if self.preprocessor is None:
            raise DataError(
                "the bundle has no tokenizer; pass tensors: feeds=, or --npz", hint="edgeq inspect"
            )
        preprocessor = self.preprocessor if role is None else self.preprocessor.with_role(role)
        return preprocessor(as_samples([text] if isinstance(text, str) else text))

    def run(self, text: Sequence[SampleLike] | None = None, *, feeds: Feeds | None = None) -> Outputs:
        """All outputs by name, `[batch, ...]`.

        Args:
            text: texts, or pairs of texts.
            feeds: or the canonical inputs themselves, by name.

        Raises:
            DataError: not exactly one of both is given, or it does not fit the model.
        """
        if (text is None) == (feeds is None):
            raise DataError("run takes either text= or feeds=")
        if feeds is None:
            assert text is not None
            feeds = self.prepare(text)
        return self._session.run(feeds)

    def run_on(self, executor: Executor, feeds: Feeds) -> Outputs:
        """`run` on another executor: an emulated ARM64 core, a phone.

        Raises:
            DataError: the feeds do not fit the model.
            ModelError: the executor refuses it.
            UnsupportedError: the variant is not for ONNX Runtime, which is what executors have.
        """
        if self.variant.runtime != ONNX_RUNTIME:
            raise UnsupportedError(
                f"`{self.variant.id}` runs on {self.variant.runtime}, which only --on native offers"
            )
        path = self.bundle.model_path(self.variant)
        level = ordered_level(self.variant.requirements)
        [outputs] = execute_through(executor, path, self.variant, [feeds], pad_id=self._pad_id, level=level)
        return outputs

    def answer(self, text: Sequence[SampleLike]) -> list[Answer]:
        """One answer per text by the bundle's postprocessing steps: labels, scores, spans, words at the mask.

        Empty dictionaries for a bundle without such steps (embeddings).
        """
        feeds = self.prepare(text)
        return self.interpret(self._session.run(feeds), feeds)

    def interpret(self, outputs: Outputs, feeds: Feeds) -> list[Answer]:
        """The answers that some outputs mean; empty when the bundle has no postprocessing steps."""
        context = Context(feeds, self.manifest.source.labels, self.preprocessor)
        return answers(self.manifest.postprocess, outputs, context)

    def encode(
        self, texts: Sequence[SampleLike], batch_size: int = 32, *, role: str | None = None
    ) -> FloatArray:
        """Sentence embeddings `[n, hidden]`, in the order of the texts.

        Texts of similar length share a batch, so little is computed on padding.

        Args:
            texts: at least one.
            batch_size: most texts in one run.
            role: as in `prepare`: queries and documents of a search have prompts of their own in some models.

        Raises:
            UnsupportedError: the model's output is not a sentence embedding.
            DataError: there are no texts.
            UsageError: the model has no prompt of this name.
        """
        name = self._embedding_output()
        if isinstance(texts, str) or len(texts) == 0:
            raise DataError("encode takes a list with at least one text")
        samples = as_samples(texts)
        lengths = [sum(map(len, sample.texts)) for sample in samples]
        order = sorted(range(len(samples)), key=lengths.__getitem__)
        batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        prepared = (self.prepare([samples[index] for index in batch], role=role) for batch in batches)
        rows = [self.run(feeds=feeds)[name] for feeds in prepared]
        embeddings = np.concatenate(rows).astype(np.float32, copy=False)
        return embeddings[np.argsort(order)]

    def _embedding_output(self) -> str:
        for spec in self.outputs:
            if spec.role is Role.SENTENCE_EMBEDDING:
                return spec.name
        raise UnsupportedError(
            f"`{self.manifest.name}` is a {self.manifest.source.task} model; it has no sentence embedding, "
            f"only {', '.join(spec.name for spec in self.outputs)}",
            hint="use runtime.run(text=[...])",
        )


def load_preprocessor(bundle: Bundle) -> TextPreprocessor | None:
    """The bundle's tokenizer; None when the model does not take text.

    Raises:
        IntegrityError: it is no tokenizer, or its settings are not those of the manifest.
    """
    info = bundle.manifest.text_processor
    if info is None:
        return None
    found = TextPreprocessor.load(bundle.file(info.path))
    for name, here, expected in (
        ("max_length", found.max_length, info.max_length),
        ("pad_id", found.settings.pad_id, info.pad_id),
        ("prompts", dict(found.settings.prompts), dict(info.prompts)),
        ("default_prompt", found.settings.default_prompt, info.default_prompt),
    ):
        if here != expected:
            raise IntegrityError(f"{name} of `{info.path}` is {here}; the manifest says {expected}")
    return found


def _choose(
    bundle: Bundle, variant_id: str | None, pad_id: int, open_other: OpenOther | None
) -> tuple[Variant, OtherSession | None]:
    """The variant to load, and its session unless ONNX Runtime runs it, which comes first."""
    wanted = [bundle.variant(variant_id)] if variant_id is not None else list(bundle.variants)
    for variant in wanted:
        if variant.runtime == ONNX_RUNTIME:
            return variant, None
    for variant in wanted:
        session = open_other(bundle, variant, pad_id) if open_other else None
        if session is not None:
            return variant, session
    needed = ", ".join(sorted({variant.runtime for variant in wanted}))
    subject = "no variant of `{}` runs" if variant_id is None else "the variant `{}` does not run"
    raise UnsupportedError(
        f"{subject.format(variant_id or bundle.path)} here: needed {needed}, got {ONNX_RUNTIME}",
        hint=f"edgeq inspect {bundle.path}   says what each variant needs",
    )
