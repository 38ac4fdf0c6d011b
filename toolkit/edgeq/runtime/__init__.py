"""The reference runtime over a bundle: numpy, onnxruntime and tokenizers, no torch."""
