"""Backends of a judge: llama.cpp in this process, Ollama, or an OpenAI-compatible server."""
