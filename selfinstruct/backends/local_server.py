"""llama.cpp's server in a process of its own: `python -m codemill.selfinstruct.backends.local_server MODEL SLOTS TOKENS
THREADS` says where it listens, and ends when its stdin does."""

from __future__ import annotations

import sys


def main() -> None:
    """Serve till whoever started us is gone."""
    import xllamacpp

    model, slots, tokens, threads = sys.argv[1], *map(int, sys.argv[2:5])
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.n_parallel = slots
    params.n_ctx = slots * tokens
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.hostnames, params.port = ["127.0.0.1"], 0
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
