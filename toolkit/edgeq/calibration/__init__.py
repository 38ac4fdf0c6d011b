"""Calibration data: texts, pairs of texts or tensors, from files, folders, datasets or the built-in set."""

from edgeq.calibration.data import MIN_SAMPLES, CalibrationData, split
from edgeq.calibration.load import BUILT_IN, load_samples

__all__ = ["BUILT_IN", "MIN_SAMPLES", "CalibrationData", "load_samples", "split"]
