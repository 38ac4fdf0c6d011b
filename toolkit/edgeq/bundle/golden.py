"""Golden cases: real samples in every stage from text to outputs, so that an app can find where it differs.

`golden/golden.json` lists, per case, the texts and their token ids before padding; one `.npz` per case holds
`inputs/<name>`, `reference/<output>` (the original model) and `outputs/<variant>/<output>` (the bundle). Where
per-token outputs would be large, `positions` says which tokens' are there.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from edgeq.bundle.manifest import Gate, GoldenEntry
from edgeq.files import atomic_write_text, contained_path, reproducible_zip_info
from edgeq.samples import Sample
from edgeq.text_inputs import ATTENTION_MASK, INPUT_IDS
from edgeq.types import Array, Feeds, Outputs, TensorSpec

GOLDEN_FOLDER = "golden"
GOLDEN_INDEX = "golden/golden.json"
POSITIONS = "positions"


@dataclass(frozen=True, slots=True)
class GoldenCase:
    """One batch of real samples, stage by stage.

    Attributes:
        id: also the name of its `.npz`.
        samples: what the feeds are made of; empty where they are ready tensors.
        feeds: canonical inputs, `[batch, sequence]` int64 for text.
        reference: outputs of the original model.
        outputs: outputs of each variant that takes these inputs, by variant id.
        positions: tokens whose outputs are recorded, where those of all would be too large; None for all.
    """

    id: str
    samples: tuple[Sample, ...]
    feeds: Feeds
    reference: Outputs
    outputs: dict[str, Outputs] = field(default_factory=dict)
    positions: Array | None = None

    def kept(self, spec: TensorSpec, output: Array) -> Array:
        """The part of a fresh output that is recorded: per-token vectors at `positions`, anything else whole."""
        if self.positions is None or not is_per_token_vector(spec):
            return output
        kept: Array = output[:, self.positions]
        return kept

    def mask(self, spec: TensorSpec) -> Array | None:
        """`[batch, recorded positions]` of an output, nonzero where a token is real; None without a mask.

        The mask of a decoding step covers the past too and pads nothing.
        """
        mask, ids = self.feeds.get(ATTENTION_MASK), self.feeds.get(INPUT_IDS)
        if mask is None or (ids is not None and ids.shape != mask.shape):
            return None
        return self.kept(spec, mask)

    @property
    def token_ids(self) -> list[list[int]]:
        """Token ids of each sample before padding; empty for models that take no tokens.

        The mask of a decoding step covers the past too and pads nothing.
        """
        ids, mask = self.feeds.get(INPUT_IDS), self.feeds.get(ATTENTION_MASK)
        if ids is None or mask is None:
            return []
        if ids.shape != mask.shape:
            return [[int(token) for token in row] for row in ids]
        pairs = zip(ids, mask, strict=True)
        return [[int(token) for token in row[kept.astype(bool)]] for row, kept in pairs]


def is_per_token_vector(spec: TensorSpec) -> bool:
    """Whether an output is `[batch, sequence, channels]`."""
    return len(spec.shape) == 3


def write_golden(
    folder: Path, cases: Sequence[GoldenCase], tolerances: Mapping[str, Sequence[Gate]]
) -> tuple[GoldenEntry, ...]:
    """Write `golden/` under the bundle folder and return the manifest's entries.

    Args:
        folder: the bundle's folder (`writer.folder`).
        cases: at least one.
        tolerances: how far a device may be from the recorded outputs, by case id.
    """
    (folder / GOLDEN_FOLDER).mkdir(parents=True, exist_ok=True)
    entries = []
    for case in cases:
        path = f"{GOLDEN_FOLDER}/{case.id}.npz"
        write_npz(contained_path(folder, path), _arrays(case))
        entries.append(GoldenEntry(case.id, path, tuple(tolerances[case.id])))
    index = {"cases": [_describe(case) for case in cases]}
    atomic_write_text(folder / GOLDEN_INDEX, json.dumps(index, indent=2, ensure_ascii=False) + "\n")
    return tuple(entries)


def write_npz(path: Path, arrays: dict[str, Array]) -> None:
    """A `.npz` with reproducible bytes: stored, sorted by name, dated 1980."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(arrays):
            with archive.open(reproducible_zip_info(f"{name}.npy"), "w", force_zip64=True) as stream:
                _write_array(stream, arrays[name])


def _write_array(stream: IO[bytes], array: Array) -> None:
    contiguous = np.ascontiguousarray(array).reshape(np.shape(array))
    little = contiguous.astype(contiguous.dtype.newbyteorder("<"), copy=False)
    np.lib.format.write_array(stream, little, version=(1, 0), allow_pickle=False)


def _arrays(case: GoldenCase) -> dict[str, Array]:
    arrays = {f"inputs/{name}": array for name, array in case.feeds.items()}
    arrays |= {f"reference/{name}": array for name, array in case.reference.items()}
    for variant, outputs in case.outputs.items():
        arrays |= {f"outputs/{variant}/{name}": array for name, array in outputs.items()}
    return arrays if case.positions is None else arrays | {POSITIONS: case.positions}


def _describe(case: GoldenCase) -> dict[str, Any]:
    return {
        "id": case.id,
        "file": f"{case.id}.npz",
        "samples": [sample.to_json() for sample in case.samples],
        "token_ids": case.token_ids,
        "inputs": sorted(case.feeds),
        "outputs": sorted(case.reference),
        "variants": list(case.outputs),
    }
