"""The documents tell the truth: commands run, tables equal the code, links lead somewhere."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any, get_args

import builds
import pyarrow as pa
import pytest
import yaml
from pydantic import BaseModel

from codemill.pipeline.config import BuildConfig
from codemill.pipeline.documents import DOCUMENT_FIELDS, DROPPED_FIELDS, REASONS
from codemill.pipeline.engines.ray import Settings, parse_options

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
RUN_ELSEWHERE = {"make demo", "make test", "make bench"}  # by `.ci/run`, or by hand: they take minutes


def commands() -> list[str]:
    blocks = [block for page in PAGES for block in re.findall(r"```console\n(.*?)```", page.read_text(), re.S)]
    found = [line.removeprefix("$ ") for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    return [command for command in dict.fromkeys(found) if command not in RUN_ELSEWHERE]


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
