"""Calibration data: where texts and tensors come from."""
