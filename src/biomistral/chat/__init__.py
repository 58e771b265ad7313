"""Talking to a model: in a terminal, or by a server that speaks OpenAI's protocol."""
