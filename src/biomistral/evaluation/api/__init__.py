"""The API engine: questions put to a server that speaks OpenAI's protocol (vLLM, SGLang, llama.cpp, hosted ones)."""
