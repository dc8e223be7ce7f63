"""One Python program in WebAssembly: this process loads an interpreter built for WASI, and is the program then.

Run by itself (`python -I wasi_run.py COMPILED FOLDER SETUP`). The program sees
its folder, read-only, and its streams; of this machine's calls it has those of WASI, which need no more.
"""

import json
import math
import resource
import signal
import sys

import wasmtime

_START = """
import os, runpy, sys
os.chdir('/work')
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name='__main__')
"""


def main(compiled: str, folder: str, setup: dict) -> int:
    engine = wasmtime.Engine()
    module = wasmtime.Module.deserialize_file(engine, compiled)
    linker, store, wasi = wasmtime.Linker(engine), wasmtime.Store(engine), wasmtime.WasiConfig()
    linker.define_wasi()
    store.set_limits(memory_size=setup["memory_bytes"])
    wasi.argv = ["python", "-X", "utf8", "-c", _START, *setup["arguments"]]
    wasi.env = list(setup["environment"].items())
    wasi.inherit_stdin()
    wasi.inherit_stdout()
    wasi.inherit_stderr()
    wasi.preopen_dir(folder, "/work", False)
    store.set_wasi(wasi)
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu = math.ceil(used.ru_utime + used.ru_stime + setup["cpu_secs"])
    for name, limit in (("CPU", cpu), ("CORE", 0), ("FSIZE", 0)):
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (limit, limit))
    signal.alarm(math.ceil(setup["wall_secs"]) + 5)  # if nobody watches any more
    try:
        start = linker.instantiate(store, module).exports(store)["_start"]
        if isinstance(start, wasmtime.Func):
            start(store)
    except wasmtime.ExitTrap as asked:
        return asked.code
    except (wasmtime.Trap, wasmtime.WasmtimeError) as error:
        print(str(error).splitlines()[-1], file=sys.stderr)
        return 134
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3])))
