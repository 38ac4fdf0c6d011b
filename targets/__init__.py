"""Targets: from the canonical graph and a plan to what a platform runs."""
