"""Opens what a config names, and runs the loop with it: here, or in Ray actors.

Flows in: a `SelfInstructConfig`. Flows out: the run's folder and its summary. In a replay nothing is opened.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from codemill.pipeline.progress import Reporter
from codemill.selfinstruct.backends.base import Backend
from codemill.selfinstruct.backends.config import open_backend
from codemill.selfinstruct.config import SelfInstructConfig
from codemill.selfinstruct.dataset import write_dataset
from codemill.selfinstruct.loop import Outcome
from codemill.selfinstruct.report import write_report
from codemill.selfinstruct.run import run_loop
from codemill.selfinstruct.verdicts import Judge


def self_instruct(
    config: SelfInstructConfig, reporter: Reporter, *, replay: bool = False, fresh: bool = False
) -> dict[str, Any]:
    """Make triplets as the config says, or go on where that was stopped; returns the summary.

    replay: from stored answers alone. fresh: forget them first. Raises ConfigError, DataError and RunError.
    """
    if replay:
        return _written(config, run_loop(config, None, None, reporter))
    used = sorted({getattr(config, stage).backend for stage in ("questions", "tests", "solutions")})
    if config.engine == "ray":
        return _on_ray(config, used, reporter, fresh)
    judge = open_judge(config.sandbox.layers, reporter)
    try:
        models = {name: open_backend(config.models[name]) for name in used}
        return _written(config, run_loop(config, models, judge, reporter, fresh=fresh))
    finally:
        judge.close()


def _written(config: SelfInstructConfig, ran: tuple[Outcome, dict[str, Any]]) -> dict[str, Any]:
    """The summary, after the triplets have become shards where the config has a tokenizer."""
    outcome, summary = ran
    write_report(Path(config.output.path), outcome.triplets, outcome.dropped)
    facts = {"config": config.model_dump(mode="json"), "yields": outcome.yields}
    manifest = write_dataset(Path(config.output.path), outcome.triplets, config.dataset, facts)
    made = {name: manifest["packing"][name] for name in ("documents", "sequences", "tokens")} if manifest else {}
    return {**summary, **made}


def open_judge(layers: tuple[str, ...] | None, reporter: Reporter | None = None) -> Judge:
    """A judge in the strongest sandbox that holds, its limits of time set by how slow this machine is. Raises
    ConfigError and RunError."""
    from codemill.selfinstruct.judge.judge import SandboxJudge
    from codemill.selfinstruct.judge.languages import folders
    from codemill.selfinstruct.sandbox.calibrate import slowness_of
    from codemill.selfinstruct.sandbox.choose import open_sandbox

    said = reporter or Reporter(quiet=True)
    sandbox = open_sandbox(layers, folders(), said.say)
    try:
        slowness = slowness_of(sandbox)
    except BaseException:
        sandbox.close()
        raise
    if slowness > 1:
        said.say(f"sandbox: programs take {slowness:g} times as long here as they should; so limits of time are longer")
    return SandboxJudge(sandbox, slowness=slowness)


def _on_ray(config: SelfInstructConfig, used: list[str], reporter: Reporter, fresh: bool) -> dict[str, Any]:
    from codemill.selfinstruct import actors

    settings = config.ray
    models_cpus = 0 if settings.generator_gpus else 1  # of each actor
    generators = len(used) * settings.generators
    with actors.connected(settings.address) as cluster:
        actors.require_room(
            generators * models_cpus + settings.judges * settings.judge_cpus,
            generators * settings.generator_gpus,
            reporter.say if cluster else None,
        )
        models: dict[str, Backend] = {
            name: actors.RayBackend(
                functools.partial(open_backend, config.models[name]),
                settings.generators,
                config.in_flight,
                settings.generator_gpus,
            )
            for name in used
        }
        judge = actors.RayJudge(
            functools.partial(open_judge, config.sandbox.layers), settings.judges, settings.judge_cpus
        )
        try:
            return _written(config, run_loop(config, models, judge, reporter, fresh=fresh))
        finally:
            judge.close()
