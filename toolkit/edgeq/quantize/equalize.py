"""SmoothQuant-style equalization: decide how much scale moves from each activation channel into the weights.

Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models" (2023):
`s_j = max|X_j| ** alpha / max|W_j| ** (1 - alpha)`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgeq.quantize.plan import Equalization
from edgeq.quantize.sites import LinearSite
from edgeq.types import FloatArray

MAX_RATIO = 1e4
"""Largest ratio between two channels' scales: keeps dead channels from taking the whole float range."""


@dataclass(frozen=True, slots=True)
class SiteGroup:
    """Linear layers that must share one scale, because they read the same tensor or the same weight."""

    tensors: tuple[str, ...]
    linears: tuple[LinearSite, ...]


def group_sites(sites: Sequence[LinearSite]) -> list[SiteGroup]:
    """Connected components of layers over shared inputs and shared weights, in graph order."""
    groups: list[list[LinearSite]] = []
    for site in sites:
        touching = [
            group for group in groups if any(site.input == x.input or site.weight == x.weight for x in group)
        ]
        merged = [member for group in touching for member in group] + [site]
        groups = [group for group in groups if group not in touching] + [merged]
    return [SiteGroup(tuple(dict.fromkeys(x.input for x in group)), tuple(group)) for group in groups]


def smooth_scale(activation_absmax: FloatArray, weight_absmax: FloatArray, alpha: float) -> FloatArray:
    """SmoothQuant's per-channel scale, normalized to a geometric mean of one.

    Args:
        activation_absmax: largest magnitude of each input channel, `[in]`.
        weight_absmax: largest weight magnitude of each input channel, `[in]`.
        alpha: 0 leaves activations as they are, 1 makes all their channels equally wide.
    """
    activation = np.maximum(activation_absmax.astype(np.float64), activation_absmax.max() / MAX_RATIO)
    weight = np.maximum(weight_absmax.astype(np.float64), weight_absmax.max() / MAX_RATIO)
    if not activation.max() > 0 or not weight.max() > 0:
        return np.ones_like(activation_absmax, dtype=np.float32)
    log_scale = alpha * np.log(activation) - (1 - alpha) * np.log(weight)
    scale: FloatArray = np.exp(log_scale - log_scale.mean()).astype(np.float32)
    return scale


def equalize_groups(
    groups: Sequence[SiteGroup],
    activation_absmax: Mapping[str, FloatArray],
    weight_absmax: Mapping[str, FloatArray],
    alpha: float,
) -> tuple[Equalization, ...]:
    """One equalization per group and tensor.

    Args:
        groups: from `group_sites`.
        activation_absmax: per tensor, `[channels]`.
        weight_absmax: per weight initializer, largest magnitude over outputs, `[in]`.
        alpha: see `smooth_scale`.
    """
    result: list[Equalization] = []
    for group in groups:
        activation = np.max([activation_absmax[tensor] for tensor in group.tensors], axis=0)
        weight = np.max([weight_absmax[site.weight] for site in group.linears], axis=0)
        scale = smooth_scale(activation, weight, alpha)
        for tensor in group.tensors:
            readers = [site for site in group.linears if site.input == tensor]
            folds = readers[0].folds_into if len(readers) == 1 else None
            result.append(Equalization(tensor, tuple(site.name for site in readers), scale, folds))
    return tuple(result)
