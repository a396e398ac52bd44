"""llama.cpp's own OpenAI-compatible HTTP server, as a process: ``MODEL PORT [API_KEY]``."""

import sys
import time

import xllamacpp

# The tiny model's own template ends in text. llama.cpp cannot continue that under a schema, since
# this model tokenizes it differently from the schema's grammar.
TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"


def main(model: str, port: str, *keys: str) -> None:
    settings = xllamacpp.CommonParams()
    settings.model.path = model
    settings.model_alias = {"tiny"}
    settings.chat_template = TEMPLATE
    settings.hostnames = ["127.0.0.1"]
    settings.port = int(port)
    settings.api_keys = list(keys)
    settings.n_ctx = 2048
    settings.n_parallel = 1
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
    settings.cache_prompt = False
    settings.warmup = False
    settings.ui = False
    settings.verbosity = 0
    server = xllamacpp.Server(settings)
    print(server.listening_address, flush=True)
    while True:
        time.sleep(60)


if __name__ == "__main__":
    main(*sys.argv[1:])
