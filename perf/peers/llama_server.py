"""llama.cpp's own server, through xllamacpp, on a GGUF file (an environment of its own): prints its address, then serves.

    VENV/bin/python llama_server.py MODEL.gguf
"""

import sys
import threading

import xllamacpp

if __name__ == "__main__":
    settings = xllamacpp.CommonParams()
    settings.model.path = sys.argv[1]
    settings.hostnames, settings.port = ["127.0.0.1"], 0
    settings.n_parallel, settings.n_ctx = 4, 4 * 2048
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1  # two that spin for one core take ten times as long
    settings.warmup, settings.verbosity = False, -1
    server = xllamacpp.Server(settings)
    print(server.listening_address, flush=True)
    threading.Event().wait()
