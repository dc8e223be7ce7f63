"""What `codemill evaluate` does: opens the model and the judge that it needs, and evaluates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from codemill.config_file import load_config
from codemill.pipeline.progress import Reporter
from codemill.selfinstruct.backends.config import BackendConfig, open_backend
from codemill.selfinstruct.evaluation.evaluate import Settings, evaluate
from codemill.selfinstruct.evaluation.problems import load_benchmark
from codemill.selfinstruct.opening import open_judge


def run_evaluation(
    model: str,
    benchmark: str,
    folder: Path,
    settings: Settings,
    reporter: Reporter,
    *,
    chat: bool = False,
    limit: int | None = None,
    rescore: bool = False,
) -> dict[str, Any]:
    """The result of a model on a benchmark.

    model: a YAML file with the keys of a `BackendConfig`, or the folder of a checkpoint. limit: so many problems.
    rescore: from what FOLDER holds alone. Raises ConfigError, DataError and RunError.
    """
    settings.check()
    problems = load_benchmark(benchmark, chat=chat)
    problems = problems._replace(problems=problems.problems[:limit])
    if rescore:
        return evaluate(problems, None, None, folder, settings, reporter)
    yaml = Path(model).suffix in (".yaml", ".yml")
    config = load_config(model, (), BackendConfig) if yaml else BackendConfig(kind="checkpoint", model=model)
    backend = open_backend(config)
    judge = open_judge(None, reporter)
    try:
        return evaluate(problems, backend, judge, folder, settings, reporter)
    finally:
        judge.close()
