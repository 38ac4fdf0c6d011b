"""Ways to execute one variant of a bundle: this machine's ONNX Runtime, an emulated core, a phone, its own runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, cast

from edgeq.onnx_runtime import ordered_level
from edgeq.pipeline.sessions import open_variant
from edgeq.runtime.executors import (
    architecture_of,
    environment_of,
    level_of,
    open_executor,
)
from edgeq.runtime.session import VariantSession, execute_through
from edgeq.types import ONNX_RUNTIME, Feeds, Outputs, Verification

if TYPE_CHECKING:
    from edgeq.bundle.manifest import Variant
    from edgeq.bundle.reader import Bundle
    from edgeq.runtime.adb import AdbOptions
    from edgeq.runtime.executors import Place
    from edgeq.targets.target import Session

BATCHES_PER_START = 16
"""An emulated core or a phone starts a process for every run: batches go there in groups."""


@dataclass(frozen=True, slots=True)
class Execution:
    """How one variant is executed.

    Attributes:
        place: `native`, `arm64`, `adb`, or what a runtime of its own calls it.
        level: of every number that comes out.
        environment: where.
        run: canonical feeds to outputs, in order.
        group: batches that `run` gets at once.
    """

    place: str
    level: Verification
    environment: Mapping[str, str]
    run: Callable[[Sequence[Feeds]], list[Outputs]]
    group: int = 1

    def outputs(self, batches: Iterable[Feeds]) -> Iterator[Outputs]:
        """Outputs of every batch, in order; one group of batches is held at a time."""
        pending = iter(batches)
        while group := list(islice(pending, self.group)):
            yield from self.run(group)


def executions(
    bundle: Bundle, variant: Variant, place: str, *, cpu: str, adb: AdbOptions | None
) -> Iterator[Execution]:
    """Every way in which a place can run a variant.

    Args:
        bundle: holds the variant.
        variant: to run.
        place: `native`, `arm64` or `adb`.
        cpu: the emulated core.
        adb: which phone and runner.

    Raises:
        UnsupportedError: there is no such place, or this machine cannot offer it.
    """
    path = bundle.model_path(variant)
    pad_id = bundle.manifest.text_processor.pad_id if bundle.manifest.text_processor else 0
    if variant.runtime != ONNX_RUNTIME:
        session = open_variant(bundle, variant, path, pad_id)
        for one in (session, *session.also):
            yield _of_session(one, place)
        return
    executor = open_executor(cast("Place", place), cpu=cpu, target_arch=architecture_of(variant), adb=adb)
    proves, level = level_of(executor, variant), ordered_level(variant.requirements)
    if place == "native":
        run = _each(VariantSession(path, variant, pad_id=pad_id, level=level).run)
        yield Execution(place, proves, environment_of(executor, variant), run)
        return
    yield Execution(
        place,
        proves,
        environment_of(executor, variant),
        lambda batches: execute_through(executor, path, variant, batches, pad_id=pad_id, level=level),
        BATCHES_PER_START,
    )


def _of_session(session: Session, place: str) -> Execution:
    return Execution(
        session.environment.get("provider", place),
        session.verification,
        session.environment,
        _each(session.run),
    )


def _each(run: Callable[[Feeds], Outputs]) -> Callable[[Sequence[Feeds]], list[Outputs]]:
    return lambda batches: [run(feeds) for feeds in batches]
