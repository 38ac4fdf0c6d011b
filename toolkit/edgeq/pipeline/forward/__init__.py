"""Models that are run once per input: how they are divided, measured, recorded, compared and timed."""
