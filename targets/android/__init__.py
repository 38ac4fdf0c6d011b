"""The Android target: a CPU variant for ARM64 and a one-partition NNAPI variant."""
