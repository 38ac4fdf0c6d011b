"""The ways in which a file made of a checkpoint's tensors is run here: in its runtime, and simulated in torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from edgeq.runtime.adapter import Signature
from edgeq.text_inputs import INPUT_IDS
from edgeq.types import Array, FloatArray, Verification

if TYPE_CHECKING:
    from edgeq.exporters.causal_lm.original import OriginalLanguageModel
    from edgeq.runtime.perplexity import Logits
    from edgeq.targets.target import CheckpointTarget, Session, VariantSpec


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """A way in which a written file was run.

    Attributes:
        logits: of one sequence.
        verification: how real that is.
        where: what ran it: the program with its version first.
    """

    logits: Logits
    verification: Verification
    where: Mapping[str, str]


def runs_of(
    target: CheckpointTarget, spec: VariantSpec, model: Path, original: OriginalLanguageModel
) -> list[Run]:
    """Every way to run a written file here, the most real one first: its runtime, and a simulation in torch."""
    executed = executed_run(target, spec, model)
    return [*([executed] if executed else []), simulated_run(target, model, original)]


def executed_run(target: CheckpointTarget, spec: VariantSpec, model: Path) -> Run | None:
    """The file in its own runtime; None where that is not installed."""
    if not target.can_execute():
        return None
    session = target.open(spec, model, Signature((), ()))
    return Run(_of_session(session), session.verification, session.environment)


def simulated_run(target: CheckpointTarget, model: Path, original: OriginalLanguageModel) -> Run:
    """The parameters that the file stands for in the original model, inputs rounded as the runtime rounds them."""
    shapes = {name: tensor.shape for name, tensor in original.tensors.items()}
    logits = original.with_weights(
        target.read_back(model, original.config, shapes), target.rounding(model, original.config, shapes)
    )
    where = {"torch": version("torch"), "how": "weights read back, inputs rounded as the runtime does"}
    return Run(lambda ids: logits(ids[None])[0], Verification.SIMULATED, where)


def _of_session(session: Session) -> Logits:
    def run(ids: Array) -> FloatArray:
        logits: FloatArray = session.run({INPUT_IDS: ids[None]})["logits"][0]
        return logits

    return run
