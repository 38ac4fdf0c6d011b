"""Text generation over a bundle: a KV-cache session on plain ONNX Runtime, sampling, streaming, chat templates."""
