"""Which layer holds here: each is tried, from the strongest to the weakest, with canaries; none is taken on trust.

Flows out: a sandbox that has proved itself a moment ago. Where no layer holds there is none, and nothing runs.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from functools import partial

from codemill.errors import ConfigError, RunError
from codemill.selfinstruct.sandbox.canaries import not_held
from codemill.selfinstruct.sandbox.layers import STARTS
from codemill.selfinstruct.sandbox.program import Sandbox
from codemill.selfinstruct.sandbox.warm import WarmSandbox
from codemill.selfinstruct.sandbox.wasi import WasiSandbox
from codemill.settings import nearest


def _warm(layer: str, tools: tuple[str, ...]) -> Sandbox:
    return WarmSandbox(layer, partial(STARTS[layer], tools), _version(layer))


# From the strongest to the weakest.
LAYERS: dict[str, Callable[[tuple[str, ...]], Sandbox]] = {
    "bubblewrap": partial(_warm, "bubblewrap"),
    "landlock": partial(_warm, "landlock"),
    "wasi": WasiSandbox,
}


def open_sandbox(
    layers: Sequence[str] | None = None,
    tools: Sequence[str] = (),
    say: Callable[[str], None] = lambda line: None,
) -> Sandbox:
    """The strongest layer that holds all canaries.

    layers: those that may be used (default: all). tools: folders that programs may read beside the system's own. say:
    is told which layer it is, and why stronger ones are not.

    Raises ConfigError for an unknown layer, RunError where none holds.
    """
    wanted = list(LAYERS) if layers is None else list(layers)
    for name in wanted:
        if name not in LAYERS:
            known = ", ".join(LAYERS)
            raise ConfigError(f"sandbox.layers: {name}: no such layer{nearest(name, LAYERS)}; the layers are {known}")
    refused: list[str] = []
    for name in [layer for layer in LAYERS if layer in wanted]:
        try:
            sandbox = LAYERS[name](tuple(tools))
        except RunError as error:
            refused.append(f"{name}: {error}")
            continue
        why = _why_not(sandbox)
        if not why:
            say(f"sandbox: {name} holds all canaries" + "".join(f"; {each}" for each in refused))
            return sandbox
        sandbox.close()
        refused.append(f"{name}: {why}")
    raise RunError(
        f"no sandbox holds here, so nothing is run: {'; '.join(refused) or 'no layer was allowed'}; install bubblewrap "
        "(Debian: apt-get install bubblewrap), or use a kernel with Landlock (6.12 or later)"
    )


def _why_not(sandbox: Sandbox) -> str:
    try:
        failed = not_held(sandbox)
    except RunError as error:
        return str(error)
    return f"does not hold {', '.join(failed)}" if failed else ""


def _version(layer: str) -> str:
    """Of what makes the layer; the kernel's own have its version."""
    program = shutil.which("bwrap") if layer == "bubblewrap" else None
    if program is None:
        return ""
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    return done.stdout.strip()
