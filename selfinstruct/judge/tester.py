"""The trusted half of a verdict: it holds the tests, and calls a solution that lives in another process.

It runs inside of a sandbox. Flows in, on stdin: one line of JSON (the secret, the names to call). Flows out, as the
last line of stdout: the secret, and what was found. Whoever does not know the secret cannot say anything.
"""

import importlib
import json
import sys

import crossing

# Not what does something by being imported.
_STANDARD = sys.stdlib_module_names - {"antigravity", "this", "idlelib", "turtledemo", "__main__"}


def main():
    given = json.loads(sys.stdin.readline())
    peer = crossing.Peer(3, 4)
    told = {"reason": "passed", "detail": ""}
    try:
        told = _run(peer, given["names"])
    except crossing.GoneError as error:
        told = {"reason": "gone", "detail": str(error)}
    finally:
        sys.stdout.flush()
        print(f"\n{given['secret']} {json.dumps({**told, 'calls': peer.calls})}", flush=True)


def _run(peer, names):
    try:
        with open("tests.py", encoding="utf-8") as file:
            code = compile(file.read(), "tests.py", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        return {"reason": "tests_not_parsed", "detail": _line(error)}
    hello = peer.receive()
    if hello[0] != "ready":
        return {"reason": hello[1] if hello[1] in ("not_parsed", "raised") else "gone", "detail": str(hello[2])[:500]}
    space = {"__name__": "__tests__", **_modules(hello[3])}
    for name in [name for name in hello[1] if not names or name in names]:
        space[name] = _proxy(peer, str(name))
    space.update({name: peer.decode(value) for name, value in hello[2].items() if not names or name in names})
    try:
        exec(code, space)
    except crossing.GoneError:
        raise
    except AssertionError as error:
        return {"reason": "assertion_failed", "detail": _line(error)}
    except crossing.NotCrossableError as error:
        return {"reason": "not_crossable", "detail": _line(error)}
    except BaseException as error:
        reason = "ended_early" if isinstance(error, SystemExit | KeyboardInterrupt) else "raised"
        return {"reason": reason, "detail": _line(error)}
    return {"reason": "passed", "detail": ""}


def _modules(imported):
    """What the solution has imported, tests may use: the tester's own copies, of the standard library alone."""
    standard = {name: module for name, module in imported.items() if str(module).partition(".")[0] in _STANDARD}
    return {name: importlib.import_module(str(module)) for name, module in standard.items()}


def _proxy(peer, name):
    def called(*args, **kwargs):
        return peer.call(name, args, kwargs)

    called.__name__ = called.__qualname__ = name
    return called


def _line(error):
    """What an error says, with the line of the tests where it came from."""
    import traceback

    try:
        text = str(error).strip().partition("\n")[0][:400]
    except Exception:
        text = ""
    lines = [each.line for each in traceback.extract_tb(error.__traceback__) if each.filename == "tests.py"]
    where = f" in {lines[-1]}" if lines and lines[-1] else ""
    return f"{type(error).__name__}{': ' if text else ''}{text}{where}"[:500]


main()
