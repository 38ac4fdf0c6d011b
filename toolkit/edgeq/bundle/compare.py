"""What changed between two bundles, from their manifests alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain, count
from typing import Any, TypeAlias

from edgeq.bundle.codec import encode
from edgeq.bundle.manifest import Gate, Manifest, Metric, Variant

Scalar: TypeAlias = str | int | float | bool | None

# Shown elsewhere, or different whenever a file is.
_OWN_SECTION = ("variants", "metrics", "gates", "integrity", "golden")


@dataclass(frozen=True, slots=True)
class Change:
    """One value that is not the same; None where a side has none."""

    what: str
    a: Scalar
    b: Scalar


@dataclass(frozen=True, slots=True)
class BundleDiff:
    """The differences between bundle `a` and bundle `b`; every section is empty when they are equal.

    Attributes:
        manifest: source, versions, status, tokenizer, quantization and the like.
        variants: by `variant.field`; one that only one side has is one value, in words.
        metrics: by `variant output metric (verification)`.
        gates: by `variant output metric op (derivation)`: a metric may have several, a floor and what was measured.
        files: by path; the values are sizes in bytes, equal when only the contents differ.
    """

    manifest: tuple[Change, ...]
    variants: tuple[Change, ...]
    metrics: tuple[Change, ...]
    gates: tuple[Change, ...]
    files: tuple[Change, ...]

    @property
    def is_empty(self) -> bool:
        """Whether the bundles are the same."""
        return not any((self.manifest, self.variants, self.metrics, self.gates, self.files))


def compare(a: Manifest, b: Manifest) -> BundleDiff:
    """Compare two manifests; the hashes in them stand for the files."""
    return BundleDiff(
        manifest=_changes(_general(a), _general(b)),
        variants=_changes(_variants(a, b), _variants(b, a)),
        metrics=_changes(_metrics(a.metrics), _metrics(b.metrics)),
        gates=_changes(_gates(a.gates), _gates(b.gates)),
        files=_file_changes(a, b),
    )


def _changes(a: Mapping[str, Scalar], b: Mapping[str, Scalar]) -> tuple[Change, ...]:
    keys = [*a, *(key for key in b if key not in a)]
    return tuple(Change(key, a.get(key), b.get(key)) for key in keys if a.get(key) != b.get(key))


def _general(manifest: Manifest) -> dict[str, Scalar]:
    document = {key: value for key, value in manifest.current_json().items() if key not in _OWN_SECTION}
    return _flatten(document)


def _variants(mine: Manifest, other: Manifest) -> dict[str, Scalar]:
    ids = {variant.id for variant in other.variants}
    alone = {variant.id: _in_words(variant) for variant in mine.variants if variant.id not in ids}
    return alone | _flatten({variant.id: encode(variant) for variant in mine.variants if variant.id in ids})


def _in_words(variant: Variant) -> str:
    return f"{variant.precision} for {variant.runtime}, {variant.size_bytes / 1e6:.2f} MB"


def _metrics(metrics: Iterable[Metric]) -> dict[str, Scalar]:
    return {
        " ".join(filter(None, (item.variant, item.output, item.metric, f"({item.verification})"))): item.value
        for item in metrics
    }


def _gates(gates: Iterable[Gate]) -> dict[str, Scalar]:
    found: dict[str, Scalar] = {}
    for gate in gates:
        name = f"{gate.variant} {gate.output} {gate.metric} {gate.op} ({_derivation(gate)})"
        # Two of one kind: none of them is lost.
        names = chain([name], (f"{name} #{index}" for index in count(2)))
        found[next(item for item in names if item not in found)] = _gate_text(gate)
    return found


def _derivation(gate: Gate) -> str:
    """What kind of bound it is, without the numbers that differ from export to export."""
    return re.split(r"\s[\d.]", gate.derived_from, maxsplit=1)[0]


def _gate_text(gate: Gate) -> str:
    verdict = {True: ", passed", False: ", failed", None: ""}[gate.passed]
    return f"{gate.op} {gate.threshold:g}{verdict}"


def _file_changes(a: Manifest, b: Manifest) -> tuple[Change, ...]:
    old = {entry.path: entry for entry in a.integrity.files}
    new = {entry.path: entry for entry in b.integrity.files}
    return tuple(
        Change(path, old[path].size if path in old else None, new[path].size if path in new else None)
        for path in sorted({*old, *new})
        if path not in old or path not in new or old[path].sha256 != new[path].sha256
    )


def _flatten(value: Any, prefix: str = "") -> dict[str, Scalar]:
    """Nested JSON as `a.b[0].c` to scalar."""
    if isinstance(value, Mapping):
        items = [(f"{prefix}.{key}" if prefix else str(key), item) for key, item in value.items()]
    elif isinstance(value, list):
        items = [(f"{prefix}[{index}]", item) for index, item in enumerate(value)]
    else:
        return {prefix: value}
    return {path: scalar for key, item in items for path, scalar in _flatten(item, key).items()}
