"""The local engine on a CPU: prompts packed behind one another, layers of few, large products and compiled loops between them."""
