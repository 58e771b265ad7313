"""GGUF: a model, its tokenizer and its chat template in one file, for llama.cpp, Ollama and what builds on them."""
