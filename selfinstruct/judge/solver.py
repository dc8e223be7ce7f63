"""The untrusted half of a verdict: a solution that answers calls, and knows neither tests nor secret.

It runs inside of a sandbox. What it says is only ever taken as an answer to a call.
"""

import sys
import types

import crossing


def main():
    peer = crossing.Peer(3, 4)
    module = types.ModuleType("solution")
    module.__file__ = "solution.py"
    sys.modules["solution"] = module
    try:
        with open("solution.py", encoding="utf-8") as file:
            code = compile(file.read(), "solution.py", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        peer.send(["broken", "not_parsed", f"{type(error).__name__}: {error}"[:500]])
        return
    try:
        exec(code, module.__dict__)
    except Exception as error:
        peer.send(["broken", "raised", f"{type(error).__name__}: {error}"[:500]])
        return
    values, modules = {}, {}
    for name, value in list(module.__dict__.items()):
        if name.startswith("__"):
            continue
        if isinstance(value, types.ModuleType):
            modules[name] = value.__name__
            continue
        if callable(value) and not isinstance(value, type):
            peer.shown[name] = value
        elif not callable(value):
            try:
                values[name] = peer.encode(value)
            except Exception:  # what does not cross is not there
                continue
        else:
            peer.shown[name] = _no_class(name)
    peer.send(["ready", list(peer.shown), values, modules])
    while True:
        try:
            frame = peer.receive()
        except crossing.GoneError:
            return
        peer.answer(frame)


def _no_class(name):
    def refuse(*args, **kwargs):
        raise crossing.NotCrossableError(f"the class {name} does not cross")

    return refuse


main()
