"""What every opened bundle is to its user, whatever the task."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from edgeq.bundle.reader import Bundle, open_bundle
from edgeq.errors import UnsupportedError
from edgeq.runtime.generation.answer import DEFAULT_MAX_TOKENS
from edgeq.tasks import is_autoregressive

if TYPE_CHECKING:
    from edgeq.bundle.manifest import Manifest, Variant
    from edgeq.runtime.generation.answer import Generation
    from edgeq.runtime.generation.sampling import Sampling
    from edgeq.runtime.postprocess import Answer
    from edgeq.samples import SampleLike
    from edgeq.types import Feeds, FloatArray, Outputs, TensorSpec


class LoadedModel:
    """A bundle that is open for running. Use it in a `with` block, or call `close`, when it is an archive.

    Every verb is here, so that one `edgeq.load` serves all tasks: those that a model does not have refuse and name the
    one that it has.

    Args:
        bundle: opened and verified; closed with the model.
        variant: the one that is loaded.
    """

    def __init__(self, bundle: Bundle, variant: Variant) -> None:
        self.bundle = bundle
        self.variant = variant

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release what opening an archive unpacked."""
        self.bundle.close()

    @property
    def manifest(self) -> Manifest:
        """The bundle's `edgeq.json`."""
        return self.bundle.manifest

    @property
    def variants(self) -> tuple[Variant, ...]:
        """All variants of the bundle, most preferred first; `variant` is the loaded one."""
        return self.bundle.manifest.variants

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Declared inputs of the loaded variant."""
        return self.variant.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Declared outputs of the loaded variant."""
        return self.variant.outputs

    def prepare(self, text: Sequence[SampleLike], *, role: str | None = None) -> Feeds:
        """Canonical feeds of some texts, `[batch, sequence]` int64.

        Raises:
            UnsupportedError: a language model.
        """
        raise takes_a_prompt(self.manifest)

    def run(self, text: Sequence[SampleLike] | None = None, *, feeds: Feeds | None = None) -> Outputs:
        """All outputs by name, of texts or of the inputs themselves.

        Raises:
            UnsupportedError: a language model.
        """
        raise takes_a_prompt(self.manifest)

    def answer(self, text: Sequence[SampleLike]) -> list[Answer]:
        """One answer per text.

        Raises:
            UnsupportedError: a language model.
        """
        raise takes_a_prompt(self.manifest)

    def encode(
        self, texts: Sequence[SampleLike], batch_size: int = 32, *, role: str | None = None
    ) -> FloatArray:
        """Sentence embeddings `[n, hidden]`.

        Raises:
            UnsupportedError: the model has none.
        """
        raise takes_a_prompt(self.manifest)

    def generate(
        self,
        prompt: str,
        *,
        max_tokens: int = DEFAULT_MAX_TOKENS,
        sampling: Sampling | None = None,
        is_rendered: bool = False,
        on_text: Callable[[str], None] = lambda _: None,
    ) -> Generation:
        """What a language model writes after a prompt.

        Raises:
            UnsupportedError: no language model.
        """
        raise does_not_generate(self.manifest)

    def chat_prompt(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The prompt that a chat becomes by the model's template.

        Raises:
            UnsupportedError: no language model, or one without a template.
        """
        raise does_not_generate(self.manifest)


Loaded = TypeVar("Loaded")


def opened(path: str | os.PathLike[str], load: Callable[[Bundle], Loaded], *, force: bool) -> Loaded:
    """Open and verify a bundle, and load it; it is closed where that fails.

    Args:
        path: a bundle folder or a `.edgeq` archive.
        load: takes over the open bundle.
        force: open it even if it failed its quality gate.

    Raises:
        ModelError: there is no such bundle.
        IntegrityError: its files are not those of its manifest.
        GateError: it failed its quality gate.
    """
    bundle = open_bundle(Path(path), force=force)
    try:
        return load(bundle)
    except BaseException:
        bundle.close()
        raise


def refuse_language_model(manifest: Manifest) -> None:
    """Refuse what needs its cache carried from step to step.

    Raises:
        UnsupportedError: the bundle holds a language model.
    """
    if is_autoregressive(manifest.source.task):
        raise takes_a_prompt(manifest)


def require_language_model(manifest: Manifest) -> None:
    """Refuse bundles of other tasks.

    Raises:
        UnsupportedError: the bundle holds no language model.
    """
    if not is_autoregressive(manifest.source.task):
        raise does_not_generate(manifest)


def takes_a_prompt(manifest: Manifest) -> UnsupportedError:
    """What a language model says to texts."""
    return UnsupportedError(
        f"`{manifest.name}` is a language model and takes a prompt",
        hint='edgeq run BUNDLE --prompt "Once upon a time"; in Python, edgeq.load(path).generate(prompt)',
    )


def does_not_generate(manifest: Manifest) -> UnsupportedError:
    """What every other model says to a prompt."""
    return UnsupportedError(
        f"`{manifest.name}` is a {manifest.source.task} model, it does not generate text",
        hint="edgeq run BUNDLE --text ...",
    )
