"""A verdict in one process: solution and tests are one program, and a secret at the end says that it came there.

It runs inside of a sandbox. Flows in, on descriptor 3: the secret, read when the program is over. A solution that goes
after it can find it: verdicts of this way are of lower trust, and say so.
"""

import json
import os
import sys
import traceback


def main():
    say = os.dup(1)
    told = {"reason": "passed", "detail": ""}
    try:
        with open("program.py", encoding="utf-8") as file:
            source = file.read()
        code = compile(source, "program.py", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        told = {"reason": "not_parsed", "detail": f"{type(error).__name__}: {error}"[:500]}
    else:
        try:
            exec(code, {"__name__": "__main__"})
        except AssertionError as error:
            told = {"reason": "assertion_failed", "detail": _line(error)}
        except (SystemExit, KeyboardInterrupt) as error:
            told = {"reason": "ended_early", "detail": _line(error)}
        except BaseException as error:
            told = {"reason": "raised", "detail": _line(error)}
    sys.stdout.flush()
    secret = os.read(3, 64).decode()
    os.write(say, f"\n{secret} {json.dumps(told)}\n".encode())


def _line(error):
    try:
        text = str(error).strip().partition("\n")[0][:400]
    except Exception:
        text = ""
    lines = [each.line for each in traceback.extract_tb(error.__traceback__) if each.filename == "program.py"]
    where = f" in {lines[-1]}" if lines and lines[-1] else ""
    return f"{type(error).__name__}{': ' if text else ''}{text}{where}"[:500]


main()
