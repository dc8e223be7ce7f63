"""The commands, thin: each imports what it needs when it runs, so that `codemill --help` answers at once.

Exit codes: 0 done; 1 the data or the run is wrong; 2 the command or the config is wrong; 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from codemill import __version__, cli_models
from codemill.cli_shared import (
    as_lines,
    json_option,
    needs,
    overrides_option,
    print_result,
    quiet_option,
    visible,
    workers_option,
)
from codemill.errors import CodemillError, ConfigError

if TYPE_CHECKING:
    from codemill.pipeline.engines.base import Engine
    from codemill.pipeline.places import Place
    from codemill.pipeline.progress import Reporter

_STOPPED = 128 + signal.SIGINT
_STOP_SECS = 1.0
_ENGINES = ("local", "beam", "ray")


def main() -> None:
    """Run a command; an error of the user's becomes one message and an exit code."""
    _stop_soon_after_interrupt()
    # PyTorch's threads on a CPU sleep while they wait for each other. Else they turn in circles, and where another
    # program wants a core, they wait so for one that has none: a training beside one program was four times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if isinstance(sys.stdout, io.TextIOWrapper):  # whatever the terminal's encoding cannot hold is spelled out
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with cli.make_context("codemill", sys.argv[1:]) as context:
            cli.invoke(context)
    except click.exceptions.Exit as ended:  # --help and --version
        sys.exit(ended.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(ConfigError.exit_code)
    except CodemillError as error:
        click.echo(f"codemill: {visible(str(error))}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        _stop()
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _stop_soon_after_interrupt() -> None:
    """Ctrl-C ends the program within a second, come what may.

    KeyboardInterrupt alone does not: it waits until a kernel or a library returns, and is lost where it falls into a
    callback. Python's C handler, however, writes the number of the signal to this pipe at once.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)

    def wait() -> None:
        while os.read(reader, 1) != bytes([signal.SIGINT]):  # a training hears SIGTERM too, and ends as it likes
            pass
        time.sleep(_STOP_SECS)
        _stop()

    threading.Thread(target=wait, daemon=True).start()
    # multiprocessing's tracker outlives us to remove our semaphores, and would otherwise complain of having to.
    os.environ.setdefault("PYTHONWARNINGS", "ignore::UserWarning:multiprocessing.resource_tracker")


def _stop() -> NoReturn:
    """End at once: files appear whole or not at all, and workers end with their parent."""
    with contextlib.suppress(OSError):  # stderr may be closed
        os.write(2, b"\ncodemill: stopped; what is finished is kept: run it again to go on from there\n")
    os._exit(_STOPPED)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="codemill")
def cli() -> None:
    """Turn raw source code into verified training shards, and the shards into code models."""


def _place(_context: click.Context, _parameter: click.Parameter, path: str) -> Place:
    from codemill.pipeline.places import place

    return place(path)


_out = click.argument("out", callback=_place)


@cli.command()
@click.argument("config")
@click.option("--engine", "engine_name", type=click.Choice(_ENGINES), default=_ENGINES[0], show_default=True)
@workers_option
@overrides_option
@click.option("--fresh", is_flag=True, help="Forget what earlier builds left in the output folder.")
@json_option
@quiet_option
@click.argument("engine_options", nargs=-1, type=click.UNPROCESSED, metavar="[-- ENGINE OPTIONS]")
def build(
    config: str,
    engine_name: str,
    workers: int | None,
    overrides: tuple[str, ...],
    fresh: bool,
    as_json: bool,
    quiet: bool,
    engine_options: tuple[str, ...],
) -> None:
    """Build training shards as CONFIG (a YAML file) says.

    What stands behind `--` goes to the engine: `codemill build c.yaml --engine beam -- --runner=FlinkRunner`.
    """
    from codemill.config_file import load_config
    from codemill.pipeline.config import BuildConfig

    checked = load_config(config, overrides, BuildConfig)  # before the heavy imports: a wrong config is told at once
    from codemill.pipeline.build import build as run
    from codemill.pipeline.places import place
    from codemill.pipeline.summary import summary

    with _engine(engine_name, workers, quiet, engine_options) as (engine, reporter):
        manifest = run(checked, engine, reporter, fresh=fresh)
    print_result(manifest if as_json else summary(manifest, place(checked.output.path)), as_json)


@cli.command()
@_out
@workers_option
@json_option
@quiet_option
def verify(out: Place, workers: int | None, as_json: bool, quiet: bool) -> None:
    """Check every checksum, count and invariant of the dataset in OUT; exit 1 naming what is wrong."""
    from codemill.pipeline.verify import verify as run

    with _engine("local", workers, quiet) as (engine, _):
        verdict = run(out, engine)
    if as_json:
        print_result(verdict._asdict(), as_json)
    else:
        for line in verdict.proved:
            click.echo(f"ok: {line}")
        for problem in verdict.problems:
            click.echo(f"wrong: {problem}", err=True)
    if verdict.problems:
        sys.exit(1)


@cli.command()
@_out
@click.argument("ids_or_paths", nargs=-1, metavar="[ID_OR_PATH]...")
@click.option("--ids", "ids_file", metavar="FILE", help="A text file of document ids, one a line.")
@click.option("--repo", "repos", multiple=True, metavar="NAME", help="A repository; may be given several times.")
@click.option("--repos", "repos_file", metavar="FILE", help="A text file of repositories, one a line.")
@click.option("--dry-run", is_flag=True, help="Only show what would go.")
@workers_option
@json_option
@quiet_option
def remove(
    out: Place,
    ids_or_paths: tuple[str, ...],
    ids_file: str | None,
    repos: tuple[str, ...],
    repos_file: str | None,
    dry_run: bool,
    workers: int | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Remove documents (opt-outs) from the dataset in OUT; only the files that hold them are written anew.

    A path is as the dataset has it, or `source:repo/path`. A removal that was stopped goes on when it is called again;
    `codemill remove OUT` alone completes it. A later `codemill build` in OUT is refused, because it would bring the
    documents back: name their repositories in filter.opt_out, and build with --fresh.
    """
    from codemill.pipeline.removal import as_text
    from codemill.pipeline.removal import remove as run
    from codemill.pipeline.removal_request import read_request

    request = read_request(ids_or_paths, ids_file, repos_file, repos)
    with _engine("local", workers, quiet) as (engine, _):
        told = run(out, request, engine, dry_run=dry_run)
    print_result(told if as_json else as_text(told, dry_run=dry_run), as_json)


@cli.command()
@_out
@click.option(
    "--sequence",
    type=click.IntRange(min=0),
    help="Which sequence of the shard  [default: the first that has FIM]",
)
@click.option("--shard", type=click.IntRange(min=0), default=0, show_default=True)
@json_option
def inspect(out: Place, sequence: int | None, shard: int, as_json: bool) -> None:
    """Show one sequence of OUT: its segments, and FIM parts in colour."""
    from codemill.pipeline.inspect import as_json_value, as_text, read_sequence

    found = read_sequence(out, shard, sequence)
    print_result(as_json_value(found) if as_json else as_text(found), as_json)


@cli.command()
@_out
@click.argument("path_or_id")
@json_option
def explain(out: Place, path_or_id: str, as_json: bool) -> None:
    """Say why a file is in the dataset in OUT, or is not: stage, reason, survivor, similarity."""
    from codemill.pipeline.explain import as_text
    from codemill.pipeline.explain import explain as run

    found = run(out, path_or_id)
    print_result(found if as_json else as_text(found), as_json)


@cli.command()
@_out
@click.option("--output", metavar="FILE", help="Where the text goes  [default: standard output]")
def attribution(out: Place, output: str | None) -> None:
    """Write the notices that the licences of OUT's documents require; exit 1 where some were not found."""
    from codemill.pipeline.attribution import as_text
    from codemill.pipeline.attribution import attribution as run
    from codemill.pipeline.files import atomic_file
    from codemill.pipeline.places import place

    made = run(out)
    if output is None:
        click.echo(made.text, nl=False)
    else:
        with atomic_file(place(output)) as file:
            file.write(made.text.encode())
    click.echo(as_text(made), err=True)
    if made.without:
        sys.exit(1)


@cli.command()
@_out
def report(out: Place) -> None:
    """Draw OUT/report.html again, of a build or of a self-instruct run."""
    from codemill.selfinstruct.report import is_run, redraw_report

    if is_run(out):
        redraw_report(out)
    else:
        from codemill.pipeline.build import write_report
        from codemill.pipeline.dataset import Dataset

        write_report(Dataset(out))
    click.echo(out / "report.html")


@cli.group()
def tokenizer() -> None:
    """Train SentencePiece models, and check those and byte-level ones."""


@tokenizer.command("train")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--output", required=True, type=click.Path(dir_okay=False, path_type=Path), help="Where the model goes.")
@click.option("--vocabulary-size", type=click.IntRange(min=512), default=32_000, show_default=True)
@click.option("--character-coverage", type=click.FloatRange(0.9, 1), default=0.99995, show_default=True)
def tokenizer_train(files: tuple[Path, ...], output: Path, vocabulary_size: int, character_coverage: float) -> None:
    """Train a BPE model with Llama's settings on FILES (text files; folders are walked)."""
    from codemill.pipeline.tokenizer_commands import train

    train(files, output, vocabulary_size, character_coverage)
    click.echo(output)


@tokenizer.command("check")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@json_option
def tokenizer_check(model: Path, files: tuple[Path, ...], as_json: bool) -> None:
    """Check that MODEL gives the text of FILES back, byte for byte, with the ids of the library that defines it."""
    from codemill.pipeline.tokenizer_commands import check

    found = check(model, files)
    print_result(found if as_json else as_lines(found), as_json)
    if found["differing_ids"] or found["not_given_back"]:
        sys.exit(1)


@contextlib.contextmanager
def _engine(
    name: str, workers: int | None, quiet: bool, options: Sequence[str] = ()
) -> Iterator[tuple[Engine, Reporter]]:
    """An engine and a reporter for one command."""
    from codemill.pipeline.progress import Reporter

    reporter = Reporter(quiet=quiet)
    with _open_engine(name, workers, options, reporter) as engine:
        yield engine, reporter


def _open_engine(name: str, workers: int | None, options: Sequence[str], reporter: Reporter) -> Any:
    if name == "local":
        from codemill.pipeline.engines.local import LocalEngine

        if options and not options[0].startswith("-"):
            raise ConfigError(f"{options[0]}: a build has one config file; put options of an engine behind `--`")
        if options:
            raise ConfigError(f"{' '.join(options)}: the local engine takes no options of its own; --workers sets it")
        return LocalEngine(workers or len(os.sched_getaffinity(0)), reporter)
    with needs(f"--engine {name}", f"'codemill[{name}]'"):
        if name == "beam":
            from codemill.pipeline.engines.beam import BeamEngine

            return BeamEngine([*([f"--direct_num_workers={workers}"] if workers else []), *options], reporter)
        from codemill.pipeline.engines.ray import RayEngine

        return RayEngine([*([f"--num-cpus={workers}"] if workers else []), *options], reporter)


for command in cli_models.COMMANDS:
    cli.add_command(command)
