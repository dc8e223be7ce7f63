"""The commands of models: train, generate, export, self-instruct; thin as those of `codemill.cli`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from codemill.cli_shared import as_lines, json_option, needs, overrides_option, print_result, quiet_option, visible
from codemill.errors import ConfigError

if TYPE_CHECKING:
    from codemill.training.config import TrainConfig

_LAUNCHERS = ("local", "ray")


@click.command()
@click.argument("config")
@overrides_option
@click.option("--fresh", is_flag=True, help="Forget what earlier trainings left in the run's folder.")
@click.option("--launcher", type=click.Choice(_LAUNCHERS), default=_LAUNCHERS[0], show_default=True)
@json_option
@quiet_option
@click.argument("ray_options", nargs=-1, type=click.UNPROCESSED, metavar="[-- RAY OPTIONS]")
def train(
    config: str,
    overrides: tuple[str, ...],
    fresh: bool,
    launcher: str,
    as_json: bool,
    quiet: bool,
    ray_options: tuple[str, ...],
) -> None:
    """Train a model on shards as CONFIG (a YAML file) says, or go on where that was stopped.

    Many GPUs: `torchrun --nproc-per-node 8 --no-python codemill train CONFIG`, or with --launcher ray, whose options
    stand behind `--`: `codemill train CONFIG --launcher ray -- --num-workers=8 --use-gpu`.
    """
    from codemill.config_file import load_config
    from codemill.training.config import TrainConfig

    checked = load_config(config, overrides, TrainConfig)
    first = os.environ.get("RANK", "0") == "0"  # torchrun starts this program once for each rank
    summary = _train(checked, fresh, launcher, ray_options, quiet or not first)
    if first:
        print_result(summary if as_json else as_lines(summary), as_json)


def _train(config: TrainConfig, fresh: bool, launcher: str, options: Sequence[str], quiet: bool) -> dict[str, Any]:
    from codemill.pipeline.progress import Reporter

    reporter = Reporter(quiet=quiet)
    if launcher == "ray":
        if fresh:
            raise ConfigError("--fresh: --launcher ray starts workers again and again; give a new output.path instead")
        with needs("--launcher ray", "'codemill[train]' 'ray[train]'"):
            from codemill.training.ray_launch import train_on_ray
        return train_on_ray(config, options, reporter)
    if options:
        raise ConfigError(f"{' '.join(options)}: the local launcher takes no options; --launcher ray does")
    with needs("codemill train", "'codemill[train]'"):
        from codemill.training.trainer import train as run
    return run(config, reporter, fresh=fresh)


@click.command()
@click.argument("checkpoint", metavar="CKPT")
@click.option("--prompt", "prompts", multiple=True, metavar="TEXT", help="A text to go on with; may be repeated.")
@click.option("--prompt-file", "files", multiple=True, metavar="FILE", type=Path, help="Likewise, from a file.")
@click.option("--prefix", metavar="TEXT", help="What stands before a middle that is to be written.")
@click.option("--suffix", metavar="TEXT", help="What stands behind it.")
@click.option("--spm", is_flag=True, help="Suffix first; prefix and middle are one text to the tokenizer.")
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=256, show_default=True)
@click.option("--temperature", type=click.FloatRange(min=0), default=0.0, show_default=True, help="0: the likeliest.")
@click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), default=1.0, show_default=True)
@click.option("--samples", type=click.IntRange(min=1), default=1, show_default=True, help="For each prompt.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="[default: a GPU where there is one]")
@json_option
def generate(
    checkpoint: str,
    prompts: tuple[str, ...],
    files: tuple[Path, ...],
    prefix: str | None,
    suffix: str | None,
    spm: bool,
    samples: int,
    device: str | None,
    as_json: bool,
    **sampling: Any,
) -> None:
    """Have the model in CKPT (a run, a checkpoint, a Hugging Face folder) go on with prompts, or write what stands
    between a prefix and a suffix."""
    asked = [*prompts, *map(_read_prompt, files)]
    pairs = [] if prefix is None and suffix is None else [(prefix or "", suffix or "")]
    if spm and not pairs:
        raise ConfigError("--spm: says how to infill; give --prefix and --suffix")
    if not asked and not pairs:
        raise ConfigError("nothing to generate; give --prompt, --prompt-file, or --prefix and --suffix")
    with needs("codemill generate", "'codemill[train]'"):
        from codemill.training.generate import run_generate
        from codemill.training.sampling import Sampling
    alone = not as_json and samples * (len(asked) + len(pairs)) == 1
    made = run_generate(
        checkpoint,
        asked,
        pairs,
        sampling=Sampling(**sampling),
        mode="spm" if spm else "psm",
        samples=samples,
        device=device,
        listen=_as_written([*asked, *(before for before, _ in pairs)][0]) if alone else None,
    )
    if as_json:
        print_result(made, as_json)
    elif alone:
        click.echo(visible(made["outputs"][0].get("suffix", "")))
    else:
        for output in made["outputs"]:
            click.echo(f"--- {output['tokens']} tokens, log-probability {output['logprob']:.2f}, {output['finished']}")
            before, behind = output.get("prompt", output.get("prefix")), output.get("suffix", "")
            click.echo(visible(before) + _coloured(output["text"]) + visible(behind))


def _as_written(before: str) -> Callable[[str], None]:
    """Shows what a model writes, as it does, behind the text that comes before it."""
    waiting = [before]

    def show(more: str) -> None:
        click.echo((visible(waiting.pop()) if waiting else "") + _coloured(more), nl=False)

    return show


def _coloured(written: str) -> str:
    return click.style(visible(written), fg="green")


def _read_prompt(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except OSError as error:
        raise ConfigError(f"--prompt-file: {path} cannot be read ({error.strerror}); name a readable file") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"--prompt-file: {path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None


@click.command()
@click.argument("checkpoint", metavar="CKPT")
@click.argument("folder", metavar="DIR")
@click.option("--dtype", type=click.Choice(["bf16", "fp32"]), default="bf16", show_default=True)
def export(checkpoint: str, folder: str, dtype: Literal["bf16", "fp32"]) -> None:
    """Write CKPT (a run or a checkpoint) to DIR as a Hugging Face folder, which transformers and vLLM load."""
    from codemill.pipeline.progress import Reporter

    with needs("codemill export", "'codemill[train]'"):
        from codemill.training.export import export as run
    click.echo(run(checkpoint, folder, dtype, say=Reporter().say)["out"])


@click.command("self-instruct")
@click.argument("config")
@overrides_option
@click.option("--fresh", is_flag=True, help="Forget the answers that earlier runs stored.")
@click.option("--replay", is_flag=True, help="From stored answers alone: no model and no sandbox is opened.")
@json_option
@quiet_option
def self_instruct(
    config: str, overrides: tuple[str, ...], fresh: bool, replay: bool, as_json: bool, quiet: bool
) -> None:
    """Have models write questions, tests and solutions as CONFIG (a YAML file) says; keep what proves itself.

    A second run goes on where the first was stopped, and asks nothing twice.
    """
    if fresh and replay:
        raise ConfigError("--fresh: forgets the answers that --replay is made from; give one of them")
    from codemill.config_file import load_config
    from codemill.pipeline.progress import Reporter
    from codemill.selfinstruct.config import SelfInstructConfig
    from codemill.selfinstruct.opening import self_instruct as run

    checked = load_config(config, overrides, SelfInstructConfig)
    summary = run(checked, Reporter(quiet=quiet), replay=replay, fresh=fresh)
    print_result(summary if as_json else as_lines(summary), as_json)


@click.command()
@click.argument("model", metavar="CKPT")
@click.option(
    "--benchmark", required=True, metavar="NAME_OR_FILE", help="humaneval, key_retrieval, perplexity, or a JSONL file."
)
@click.option("--samples", type=click.IntRange(min=1), default=1, show_default=True, help="Of each problem.")
@click.option("--k", "ks", default="1", show_default=True, metavar="K,...", help="The k of pass@k.")
@click.option("--temperature", type=click.FloatRange(min=0), default=0.0, show_default=True)
@click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), default=0.95, show_default=True)
@click.option("--max-tokens", type=click.IntRange(min=1), default=512, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--cpu-secs", type=click.FloatRange(min=1), default=10.0, show_default=True, help="Of a program.")
@click.option("--limit", type=click.IntRange(min=1), help="So many problems at most; examples; files.")
@click.option("--lengths", metavar="N,...", help="key_retrieval, perplexity: tokens.  [default: 4096,8192,16384]")
@click.option("--positions", metavar="P,...", help="key_retrieval: 0 to 1.  [default: 0,0.2,0.4,0.6,0.8,1]")
@click.option("--documents", metavar="DIR", help="key_retrieval, perplexity: a build's output, or a folder of files.")
@click.option("--chat", is_flag=True, help="Ask with messages, as Instruct models want it.")
@click.option("--no-references", is_flag=True, help="Do not check first that the reference solutions pass.")
@click.option("--output", default="build/evaluation", show_default=True, metavar="DIR", type=click.Path(path_type=Path))
@click.option("--rescore", is_flag=True, help="Score again what DIR holds; nothing is generated or run.")
@json_option
@quiet_option
def evaluate(
    model: str,
    benchmark: str,
    ks: str,
    limit: int | None,
    lengths: str | None,
    positions: str | None,
    documents: str | None,
    chat: bool,
    no_references: bool,
    output: Path,
    rescore: bool,
    as_json: bool,
    quiet: bool,
    **sampling: Any,
) -> None:
    """Score the model in CKPT (a run, a checkpoint, a Hugging Face folder, or a YAML file that says how a model is
    reached) on a benchmark. Completions and verdicts are kept in DIR; a run that was stopped goes on there."""
    from codemill.pipeline.progress import Reporter
    from codemill.selfinstruct.evaluation.evaluate import Settings, as_text
    from codemill.selfinstruct.evaluation.long_context import LONG_BENCHMARKS, LongSettings, long_as_text
    from codemill.selfinstruct.evaluation.run import run_evaluation, run_long_context

    numbers = _numbers("--k", ks, int, "1,10,100")
    asked: dict[str, Any] = {
        "lengths": lengths and _numbers("--lengths", lengths, int, "4096,16384"),
        "positions": positions and _numbers("--positions", positions, float, "0,0.5,1"),
        "documents": documents,
    }
    given = {name: value for name, value in asked.items() if value is not None}
    reporter = Reporter(quiet=quiet)
    if benchmark in LONG_BENCHMARKS:
        _require_fitting(benchmark, chat, sampling, positions)
        long = LongSettings(limit=limit, seed=sampling["seed"], **given)
        found = run_long_context(model, benchmark, output, long, reporter, rescore=rescore)
        print_result(found if as_json else long_as_text(found), as_json)
        return
    if given:
        raise ConfigError(f"--{next(iter(given))}: is for {' and '.join(LONG_BENCHMARKS)}; leave it out of {benchmark}")
    settings = Settings(ks=numbers, references=not no_references, **sampling)
    found = run_evaluation(model, benchmark, output, settings, reporter, chat=chat, limit=limit, rescore=rescore)
    print_result(found if as_json else as_text(found), as_json)


def _numbers(option: str, text: str, kind: Callable[[str], Any], shape: str) -> tuple[Any, ...]:
    try:
        return tuple(kind(each) for each in text.split(","))
    except ValueError:
        raise ConfigError(f"{option} {text}: give numbers, as {shape}") from None


def _require_fitting(benchmark: str, chat: bool, sampling: dict[str, Any], positions: str | None) -> None:
    """What these measures have no use for would be passed over in silence."""
    given = {"--chat": chat, "--samples": sampling["samples"] > 1, "--temperature": sampling["temperature"] > 0}
    for option, there in given.items():
        if there:
            raise ConfigError(f"{option}: {benchmark} asks once for what is likeliest, as text; leave {option} out")
    if positions is not None and benchmark == "perplexity":
        raise ConfigError("--positions: says where a key stands; perplexity has none, leave it out")


COMMANDS = (train, generate, export, self_instruct, evaluate)
