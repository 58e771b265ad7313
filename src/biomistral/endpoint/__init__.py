"""A server that speaks OpenAI's protocol: asked by many requests at once, patiently, within limits of rate and of money."""
