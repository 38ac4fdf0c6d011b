"""Large models are exported, and their originals run, in a process of their own.

torch and what transformers imports with it take 400 MB, which would stay when nobody needs them any more.
The process is given a request, answers it, and goes; requests and answers are pickled between parent and child.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
import weakref
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from edgeq import errors
from edgeq.allocator import return_freed_memory
from edgeq.errors import EdgeqError, ModelError
from edgeq.exporters.causal_lm.export import export_folder
from edgeq.exporters.causal_lm.exported_language_model import ExportedLanguageModel
from edgeq.exporters.causal_lm.streamed_forward import streamed_logits
from edgeq.exporters.causal_lm.without_matrices import decoder_without_matrices
from edgeq.exporters.language_model_facts import LanguageModelFacts
from edgeq.quantize.streaming.transport import PackedGraph, pack_graph

if TYPE_CHECKING:
    from edgeq.exporters.causal_lm.weights import DecoderWeights
    from edgeq.types import Array, FloatArray

SHOWN_CHARACTERS = 400


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """Export a folder's model; answered by `Loaded`."""

    facts: LanguageModelFacts
    context: int | None
    road: str | None

    def serve(self, channel: Channel) -> None:
        """In the child."""
        exported = export_folder(self.facts, self.context, self.road)
        canonical: Any = replace(exported.canonical, model=None)  # type: ignore[arg-type]
        bare = replace(exported, components=(canonical,), reference=_unreachable)
        channel.send(Loaded(pack_graph(exported.canonical.model), bare))


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """An exported model without what cannot be sent.

    Attributes:
        graph: the canonical graph.
        exported: everything else.
    """

    graph: PackedGraph
    exported: ExportedLanguageModel

    def restored(self) -> ExportedLanguageModel:
        """The model, its original in a process that is started when it is run."""
        canonical = replace(self.exported.canonical, model=self.graph.unpack())
        original = OriginalInOwnProcess(self.exported.weights)
        return replace(self.exported, components=(canonical,), reference=original, rest=original.rest)


@dataclass(frozen=True, slots=True)
class RunRequest:
    """Answer token ids with logits until the parent hangs up."""

    weights: DecoderWeights

    def serve(self, channel: Channel) -> None:
        """In the child."""
        model, weights = decoder_without_matrices(self.weights.folder, self.weights)
        run = streamed_logits(model, weights)
        while True:
            try:
                ids = channel.receive()
            except EOFError:
                return
            channel.send(run(ids))


def _unreachable(token_ids: Array) -> FloatArray:
    raise AssertionError("the original is in another process")


@dataclass(frozen=True, slots=True)
class _Failure:
    """An error of edgeq in the child."""

    kind: str
    message: str
    hint: str | None

    def error(self) -> EdgeqError:
        """The same error here."""
        kind: type[EdgeqError] = getattr(errors, self.kind)
        found = kind.__new__(kind)
        EdgeqError.__init__(found, self.message, hint=self.hint)
        return found


class Channel:
    """Python objects over two pipes.

    Args:
        source: file to read from.
        sink: file to write to.
    """

    def __init__(self, source: Any, sink: Any) -> None:
        self._source, self._sink = source, sink

    def send(self, value: object) -> None:
        """Write one object."""
        pickle.dump(value, self._sink, pickle.HIGHEST_PROTOCOL)
        self._sink.flush()

    def receive(self) -> Any:
        """Read one object.

        Raises:
            EOFError: the other side is gone.
        """
        return pickle.load(self._source)

    def close(self) -> None:
        """Hang up."""
        for file in (self._source, self._sink):
            file.close()


class _Child:
    """A process that serves the first object it is sent; a context manager."""

    def __init__(self) -> None:
        # What libraries print is shown when the process fails, and not otherwise.
        self._log = tempfile.TemporaryFile("w+", prefix="edgeq-log-")  # noqa: SIM115 - closed by close()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "edgeq.exporters.causal_lm.own_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        self._channel = Channel(self._process.stdout, self._process.stdin)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, *values: object) -> Any:
        """Send some objects, and wait for an answer.

        Raises:
            EdgeqError: the child failed.
        """
        try:
            for value in values:
                self._channel.send(value)
            answer = self._channel.receive()
        except (EOFError, BrokenPipeError, pickle.UnpicklingError) as error:
            status = self._process.wait()
            self._log.seek(0)
            said = self._log.read().strip()[-SHOWN_CHARACTERS:]
            raise ModelError(
                f"the process that runs the original model ended with status {status}: {said}",
                hint="memory may have run out" if status < 0 else None,
            ) from error
        if isinstance(answer, _Failure):
            raise answer.error()
        return answer

    def close(self) -> None:
        """End the process."""
        self._channel.close()
        self._process.terminate()
        self._process.wait()
        self._log.close()


class OriginalInOwnProcess:
    """The original's logits, computed in a process that is started when it is needed.

    Args:
        weights: of its checkpoint.
    """

    def __init__(self, weights: DecoderWeights) -> None:
        self._weights = weights
        self._children: list[_Child] = []
        weakref.finalize(self, _close_all, self._children)

    def __call__(self, token_ids: Array) -> FloatArray:
        """Token ids `[batch, sequence]` to logits `[batch, sequence, vocabulary]`."""
        first: list[object] = []
        if not self._children:
            self._children.append(_Child())
            first.append(RunRequest(self._weights))
        logits: FloatArray = self._children[0].ask(*first, token_ids)
        return logits

    def rest(self) -> None:
        """End the process; the next call starts another."""
        _close_all(self._children)


def _close_all(children: list[_Child]) -> None:
    while children:
        children.pop().close()


def load_in_own_process(
    facts: LanguageModelFacts, context: int | None, road: str | None
) -> ExportedLanguageModel:
    """`export_folder` in a process of its own.

    Raises:
        EdgeqError: as `export_folder`; or the process was ended.
    """
    return_freed_memory()
    with _Child() as child:
        loaded: Loaded = child.ask(LoadRequest(facts, context, road))
    return loaded.restored()


def main() -> None:
    """What the child does."""
    return_freed_memory()
    # Libraries print to descriptor 1; answers go through a copy of it.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    channel = Channel(sys.stdin.buffer, answers)
    try:
        channel.receive().serve(channel)
    except EdgeqError as error:
        channel.send(_Failure(type(error).__name__, error.message, error.hint))


if __name__ == "__main__":
    from edgeq.exporters.causal_lm import own_process

    # Under its own name, so that both sides mean the same classes.
    own_process.main()
