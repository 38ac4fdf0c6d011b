"""GGUF: one file with the weights, the tokenizer and the settings, for llama.cpp and what is built on it."""
