"""Models that write token by token: how they are divided, measured, recorded, replayed and timed."""
