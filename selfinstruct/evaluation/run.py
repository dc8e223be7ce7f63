"""What `codemill evaluate` does: opens the model and the judge that it needs, and evaluates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from codemill.config_file import load_config
from codemill.errors import ConfigError
from codemill.pipeline.progress import Reporter
from codemill.selfinstruct.backends.config import BackendConfig, open_backend
from codemill.selfinstruct.evaluation.evaluate import Settings, evaluate
from codemill.selfinstruct.evaluation.files import read_texts, standard_library
from codemill.selfinstruct.evaluation.long_context import LongSettings, evaluate_long
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
    backend = open_backend(_config_of(model))
    judge = open_judge(None, reporter)
    try:
        return evaluate(problems, backend, judge, folder, settings, reporter)
    finally:
        judge.close()


def run_long_context(
    model: str, benchmark: str, folder: Path, settings: LongSettings, reporter: Reporter, *, rescore: bool = False
) -> dict[str, Any]:
    """The result of a checkpoint on one of LONG_BENCHMARKS.

    model: as for `run_evaluation`, but a checkpoint. rescore: from what FOLDER holds alone. Raises ConfigError,
    DataError and RunError.
    """
    settings.check(benchmark)
    if rescore:
        return evaluate_long(benchmark, None, (), folder, settings, reporter)
    config = _config_of(model)
    if config.kind != "checkpoint":
        raise ConfigError(
            f"--benchmark {benchmark}: {model} names a model of kind {config.kind}; lengths are exact in tokens, and "
            "losses are of single tokens, which our own checkpoints alone tell: give a run, a checkpoint or a Hugging "
            "Face folder"
        )
    texts = standard_library() if settings.documents is None else read_texts(settings.documents)
    opened: Any = open_backend(config)
    return evaluate_long(benchmark, opened, texts, folder, settings, reporter)


def _config_of(model: str) -> BackendConfig:
    """model: a YAML file, or the folder of a checkpoint."""
    if Path(model).suffix in (".yaml", ".yml"):
        return load_config(model, (), BackendConfig)
    return BackendConfig(kind="checkpoint", model=model)
