"""What runs the judge's model: llama.cpp in this process, Ollama or an OpenAI-like server."""
