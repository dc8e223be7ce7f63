"""The documents tell the truth: commands run, tables equal the code, links lead somewhere."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, get_args

import builds
import pyarrow as pa
import pytest
import yaml
from pydantic import BaseModel

from codemill import cli_models
from codemill.config_file import load_config
from codemill.pipeline.config import BuildConfig
from codemill.pipeline.documents import DOCUMENT_FIELDS, DROPPED_FIELDS, REASONS
from codemill.pipeline.engines.ray import Settings, parse_options
from codemill.training import ray_launch
from codemill.training.config import DatasetSettings, DataSettings, TrainConfig
from codemill.training.presets import MODELS, STAGES, stage_defaults

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
RUN_ELSEWHERE = {"make demo", "make test", "make bench"}  # by `.ci/run`, or by hand: they take minutes


def commands() -> list[str]:
    blocks = [block for page in PAGES for block in re.findall(r"```console\n(.*?)```", page.read_text(), re.S)]
    found = [line.removeprefix("$ ") for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    return [command for command in dict.fromkeys(found) if command not in RUN_ELSEWHERE]


@pytest.mark.slow
def test_every_command_of_the_documents_runs(tmp_path: Path) -> None:
    """In their order, in a copy of the files that they speak of."""
    for name in ("dedup", "tokenize", "examples", "src"):
        shutil.copytree(ROOT / name, tmp_path / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    assert len(commands()) >= 4
    for command in commands():
        line = command.replace(".venv/bin/codemill", builds.CODEMILL)
        done = subprocess.run(line, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (command, done.stderr)


def test_ray_takes_the_options_that_the_page_on_scaling_gives_it_and_the_page_lists_them_all() -> None:
    page = (ROOT / "docs" / "SCALING.md").read_text()
    joined = page.replace("\\\n", " ")
    lines = re.findall(r"--engine ray -- (.*)", joined)
    assert len(lines) >= 4
    for line in lines:
        parse_options(shlex.split(line))
    listed = set(re.findall(r"`(--[a-z-]+)`", page.split("KubeRay, as")[1].split("## Memory")[0]))
    options = {f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(Settings)} - {"--patience-secs"}
    assert listed == options


def test_make_targets_that_the_documents_name_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    named = {name for page in PAGES for name in re.findall(r"`?make ([a-z]+)`", page.read_text())}
    assert named <= targets


def test_every_link_of_the_documents_leads_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert target.startswith("http") or (page.parent / target).exists(), (page.name, target)


def test_formats_lists_every_reason_with_its_meaning() -> None:
    table = (ROOT / "docs" / "FORMATS.md").read_text().split("<!-- reasons -->")[1].split("<!-- /reasons -->")[0]
    told = [tuple(cell.strip(" `") for cell in line.strip("| ").split("|")) for line in table.strip().splitlines()[2:]]
    assert [(stage, reason) for stage, reason, _ in told] == [(s, r) for s, rs in REASONS.items() for r in rs]
    meanings = [meaning.replace("`", "") for reasons in REASONS.values() for meaning in reasons.values()]
    assert [meaning.replace("`", "") for *_, meaning in told] == meanings


@pytest.mark.parametrize(("heading", "fields"), [("documents/", DOCUMENT_FIELDS), ("dropped/", DROPPED_FIELDS)])
def test_formats_lists_every_column_with_its_type(heading: str, fields: tuple[pa.Field, ...]) -> None:
    page = (ROOT / "docs" / "FORMATS.md").read_text()
    section = page.split(f"## {heading}")[1].split("\n## ")[0].split("<!--")[0]
    told = re.findall(r"^\| `(\w+)` \| ([\w ]+) \|", section, re.M)
    assert told == [(field.name, str(field.type)) for field in fields]


def keys(model: type[BaseModel]) -> list[tuple[str, Any]]:
    """(name, default) of every key of the config, however deep."""
    found: list[tuple[str, Any]] = []
    for name, field in model.model_fields.items():
        inner = [kind for kind in _flat(field.annotation) if isinstance(kind, type) and issubclass(kind, BaseModel)]
        found.append((name, ... if inner else field.get_default(call_default_factory=True)))
        for kind in inner:
            found += keys(kind)
    return found


def _flat(annotation: Any) -> list[Any]:
    return [annotation, *(kind for inner in get_args(annotation) for kind in _flat(inner))]


def test_config_page_lists_every_key_with_its_default() -> None:
    page = (ROOT / "docs" / "CONFIG.md").read_text()
    rows = re.findall(r"^\| `([\w.]+)` \| (.+?) \|", page, re.M)
    told = {(name.split(".")[-1], cell.strip("`")) for name, cell in rows}
    named = {name for name, _ in told} | set(re.findall(r"`(\w+)", page)) | set(re.findall(r"^## (\w+)", page, re.M))
    for name, default in keys(BuildConfig):
        assert name in named, name
        if isinstance(default, bool | int | float | str):
            assert (name, json.dumps(default).strip('"')) in told, (name, default)


def test_the_example_of_the_config_page_loads() -> None:
    example = re.search(r"```yaml\n(.*?)```", (ROOT / "docs" / "CONFIG.md").read_text(), re.S)
    assert example is not None
    data = yaml.safe_load(example[1])
    data["mixture"]["tokens"] = float(data["mixture"]["tokens"])
    assert BuildConfig.model_validate(data).sequence.length == 4096


def tables(page: str) -> dict[str, list[list[str]]]:
    """Heading of a page of docs/ -> the rows of the tables under it, each a list of cells without their backticks."""
    found: dict[str, list[list[str]]] = {}
    heading = ""
    for line in (ROOT / "docs" / page).read_text().splitlines():
        if line.startswith("#"):
            heading = line.strip("# ")
        elif line.startswith("| `"):
            found.setdefault(heading, []).append([cell.strip(" `") for cell in line.strip()[1:-1].split("|")])
    return found


def told_defaults(model: type[BaseModel]) -> list[tuple[str, Any]]:
    """(name, default as a page tells it) of a section's keys, but for those that hold sections of their own."""
    return [
        (name, "required" if field.is_required() else "none" if field.default is None else field.default)
        for name, field in model.model_fields.items()
        if not any(isinstance(kind, type) and issubclass(kind, BaseModel) for kind in _flat(field.annotation))
    ]


def value(cell: str) -> Any:
    """What a cell says: a number, true or false, or words."""
    with contextlib.suppress(ValueError):
        return float(Fraction(cell))
    return {"true": True, "false": False}.get(cell, cell)


def test_training_page_lists_every_key_in_its_section_with_its_default() -> None:
    rows = {heading: [(row[0], value(row[1])) for row in found] for heading, found in tables("TRAINING.md").items()}
    assert sorted(rows["The config"]) == sorted(told_defaults(TrainConfig))
    data = [("datasets", "required"), *told_defaults(DatasetSettings), *told_defaults(DataSettings)]
    assert rows["data"] == data
    others = {name: field.annotation for name, field in TrainConfig.model_fields.items() if name != "data"}
    sections = {name: kind for name, kind in others.items() if isinstance(kind, type) and issubclass(kind, BaseModel)}
    assert len(sections) >= 9
    for name, section in sections.items():
        assert rows[name] == told_defaults(section), name


def test_training_page_tells_presets_and_stages_as_they_are() -> None:
    found = tables("TRAINING.md")
    stages, presets = found["The paper's stages"][: len(STAGES)], found["The paper's stages"][len(STAGES) :]
    assert [row[0] for row in stages] == list(STAGES)
    for name, rate, tokens, steps, theta, length in stages:
        for size in ("7b", "13b", "34b", "70b"):
            told = [by_size(cell)[size] for cell in (rate, tokens, steps, length)]
            stage = stage_defaults(name, MODELS[size])
            assert told == [stage.rate, stage.batch_tokens, stage.steps, stage.sequence_length]
            assert (float(theta) if theta else None) == stage.theta
    assert [row[0] for row in presets] == list(MODELS)
    for name, *numbers, heads, ffn_dim, parameters, _ in presets:
        shape = MODELS[name]
        assert [int(number) for number in numbers] == [shape.dim, shape.layers]
        assert heads == f"{shape.heads} / {shape.kv_heads}"
        assert (int(ffn_dim), int(parameters.replace(",", ""))) == (shape.ffn_dim, shape.parameters())


def by_size(cell: str) -> dict[str, float]:
    """`1 (34b, 70b: 2; 13b: 3)` -> what each of the paper's sizes has."""
    general, _, special = cell.replace(",", "").rstrip(")").partition(" (")
    found = dict.fromkeys(("7b", "13b", "34b", "70b"), float(general))
    for sizes, number in (part.split(":") for part in special.split(";") if part):
        found |= dict.fromkeys(sizes.split(), float(number))
    return found


def test_training_page_tells_the_options_of_generate_and_of_ray() -> None:
    page = tables("TRAINING.md")
    options = {opt for parameter in cli_models.generate.params for opt in parameter.opts if opt.startswith("--")}
    named = {name for row in page["Generate"] for name in re.findall(r"--[a-z-]+", row[0])}
    assert named == options - {"--json", "--quiet"}
    for row in page["Generate"]:
        [default] = {p.default for p in cli_models.generate.params if p.opts[0] == row[0]} or {None}
        if isinstance(default, int | float) and not isinstance(default, bool):
            assert value(row[1]) == default, row
    text = (ROOT / "docs" / "TRAINING.md").read_text().replace("\\\n", " ")
    lines = re.findall(r"--launcher ray -- (.*)", text)
    assert len(lines) >= 2
    for line in lines:
        ray_launch.parse_options(shlex.split(line, comments=True))
    told = {row[0]: row[1] for row in page["Where it runs"]}
    assert told.keys() == {name for action in ray_launch._Options()._actions for name in action.option_strings}
    defaults = ray_launch.parse_options([])
    for name in ("num-workers", "gpus-per-worker", "cpus-per-worker", "max-failures"):
        assert value(told[f"--{name}"]) == getattr(defaults, name.replace("-", "_"))


@pytest.mark.parametrize("number", [0, 1])
def test_the_examples_of_the_training_page_load(config_of: Callable[..., Any], number: int) -> None:
    examples = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "TRAINING.md").read_text(), re.S)
    assert len(examples) == 2
    config_of(TrainConfig, examples[number])


def test_the_example_of_a_training_loads_and_names_the_output_of_the_example_of_a_build() -> None:
    config = load_config(str(ROOT / "examples" / "train.yaml"), (), TrainConfig)
    built = load_config(str(ROOT / "examples" / "minimal.yaml"), (), BuildConfig)
    assert [dataset.path for dataset in config.data.datasets] == [built.output.path]
