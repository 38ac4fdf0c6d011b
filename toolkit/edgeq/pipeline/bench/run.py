"""Time a bundle, whatever its model's kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from edgeq.bundle.reader import looks_like_bundle, open_bundle
from edgeq.pipeline.forward.bench import ForwardTimer
from edgeq.pipeline.generation.bench import GenerationTimer
from edgeq.progress import Progress, SilentProgress
from edgeq.tasks import Mode, mode_of

if TYPE_CHECKING:
    from edgeq.bundle.reader import Bundle
    from edgeq.pipeline.bench.request import BenchRequest
    from edgeq.pipeline.bench.timer import BenchReport, Timer

TIMERS: Mapping[Mode, Callable[[Bundle, BenchRequest], Timer[Any]]] = {
    Mode.FORWARD: ForwardTimer,
    Mode.AUTOREGRESSIVE: GenerationTimer,
}


def run_bench(request: BenchRequest, progress: Progress | None = None) -> BenchReport:
    """Time every variant; ratios are to the report's baseline in the same rounds.

    Raises:
        UnsupportedError: nothing in the bundle runs here, or there is nothing to run it on.
        UsageError: the request asks for what only language models have, or for more tokens than fit.
        EdgeqError: the bundle or what it is compared with cannot be opened.
    """
    with ExitStack() as stack:
        bundle = stack.enter_context(open_bundle(request.bundle, force=request.force))
        timer = TIMERS[mode_of(bundle.manifest.source.task)](bundle, request)
        mine = timer.variants(bundle, "")
        if not mine:
            raise timer.nothing()
        # A folder or file may be named like a variant.
        theirs = {
            f"{name} (against)" if name in mine else name: contender
            for name, contender in _others(timer, request, mine, stack).items()
        }
        return timer.time(mine, theirs, progress or SilentProgress())


def _others(
    timer: Timer[Any], request: BenchRequest, mine: Mapping[str, Any], stack: ExitStack
) -> dict[str, Any]:
    """What is compared with; an archive stays unpacked until the stack is closed."""
    path = request.against
    if path is None:
        return {}
    if not looks_like_bundle(path):
        return timer.file(path, mine)
    other = stack.enter_context(open_bundle(path, force=request.force))
    return timer.variants(other, f"{path.name}/")
