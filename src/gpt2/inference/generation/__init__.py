"""Text generation with a GPT-2: the loop, the decoder with its KV cache, sampling, stopping."""
