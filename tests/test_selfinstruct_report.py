"""The page of a run: every question is counted, and what a model wrote stays text."""

from __future__ import annotations

import hashlib
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from oracles.scripted_loop import ScriptedJudge, ScriptedModel, config

from codemill.cli import cli
from codemill.errors import DataError
from codemill.pipeline.progress import Reporter
from codemill.selfinstruct.dataset import write_dataset
from codemill.selfinstruct.dataset_config import DatasetConfig
from codemill.selfinstruct.gates import REASONS
from codemill.selfinstruct.report import redraw_report, render, write_report
from codemill.selfinstruct.run import run_loop

EVIL = "<script>alert(1)</script> <img src=x onerror=alert(2)> {{ 7 * 7 }}"


def kept(number: int) -> dict[str, Any]:
    return {"id": f"{number:032x}", "question": f"{EVIL} {number}", "tests": ["assert f(1) == '<b>'"],
            "solution": f"def f(x):\n    return '{EVIL}'", "solutions": 4, "passed": 2, "mutants": 10,
            "mutants_killed": 7, "way": "two_processes", "provenance": "{}"}  # fmt: skip


def lost(stage: str, reason: str) -> dict[str, Any]:
    identity = None if reason == "unreadable" else "0"
    return {"id": identity, "question": EVIL, "stage": stage, "reason": reason, "detail": EVIL, "tests": None,
            "solution": EVIL}  # fmt: skip


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.found.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_every_question_is_counted_and_no_markup_of_a_model_gets_through() -> None:
    dropped = [lost(stage, reason) for stage, reasons in REASONS.items() for reason in reasons]
    page = Tags()
    page.feed(render([kept(n) for n in range(20)], dropped))
    assert "script" not in page.found
    assert "img" not in page.found
    assert f"20 of {20 + len(dropped) - 1} questions" in page.text
    assert "replies that held none: 1" in page.text
    assert "{{ 7 * 7 }}" in page.text
    assert "50%" in page.text and "70%" in page.text
    for reasons in REASONS.values():
        assert all(reason in page.text for reason in reasons)


def test_equal_tables_give_an_equal_page() -> None:
    rows = [kept(n) for n in range(20)]
    dropped = [lost("tests", "no_asserts"), lost("solutions", "flaky")]
    assert render(rows, dropped) == render(rows[::-1], dropped[::-1])


def test_a_run_that_kept_nothing_has_a_page_too() -> None:
    assert "0 of 1 questions" in render([], [lost("tests", "no_asserts")])


def test_the_command_draws_the_page_of_a_run_again_and_the_manifest_holds_it(tmp_path: Path, small_model: Path) -> None:
    outcome, _ = run_loop(config(tmp_path), {"scripted": ScriptedModel()}, ScriptedJudge(), Reporter(quiet=True))
    write_report(tmp_path, outcome.triplets, outcome.dropped)
    write_dataset(tmp_path, outcome.triplets, DatasetConfig(tokenizer=str(small_model), length=512), {})
    page, manifest = tmp_path / "report.html", tmp_path / "manifest.json"
    before = page.read_bytes(), manifest.read_bytes()
    page.write_text("spoilt")
    done = CliRunner().invoke(cli, ["report", str(tmp_path)])
    assert (done.exit_code, done.output.strip()) == (0, str(page))
    assert (page.read_bytes(), manifest.read_bytes()) == before
    digests = {each["file"]: each["sha256"] for each in json.loads(manifest.read_text())["files"]}
    assert digests["report.html"] == hashlib.sha256(page.read_bytes()).hexdigest()
    (tmp_path / "dropped.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"dropped\.parquet: cannot be read"):
        redraw_report(tmp_path)


def test_a_run_without_shards_has_its_page_drawn_again_too(tmp_path: Path) -> None:
    run_loop(config(tmp_path), {"scripted": ScriptedModel()}, ScriptedJudge(), Reporter(quiet=True))
    assert CliRunner().invoke(cli, ["report", str(tmp_path)]).exit_code == 0
    assert "became triplets" in (tmp_path / "report.html").read_text()
    assert not (tmp_path / "manifest.json").exists()
