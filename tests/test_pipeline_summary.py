"""The text at the end of a build."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from codemill.pipeline.summary import summary

RED = "\033[31m"
STEP = {"stage": "ingest", "documents_in": 10, "documents_out": 8, "bytes_in": 1, "bytes_out": 1, "reasons": {}}
MANIFEST: dict[str, Any] = {
    "unreadable": {}, "packing": None, "shards": [], "mixture": None, "funnel": [STEP], "files": [],
    "config": {"output": {"documents": True}, "mixture": {"sources": {}, "tokens": None}},
}  # fmt: skip


def told(**changes: Any) -> list[str]:
    return summary({**copy.deepcopy(MANIFEST), **changes}, Path("out")).splitlines()


def test_losses_are_red_and_come_first() -> None:
    read = {"rows": 10, "unreadable": 2, "causes": [{"detail": "cut \x1b[0m", "path": "a.gz", "rows": 2}]}
    lines = told(unreadable={"s": read})
    assert lines[0].startswith(f"{RED}2 of 10 rows of s (20.000%) could not be read")
    assert lines[1].startswith(f"{RED}  2 rows, first a.gz: cut \u241b[0m")
    assert RED not in "".join(told())


def test_what_a_mixture_asks_for_and_takes_is_shown_where_the_config_has_one() -> None:
    groups = [
        {"source": "a", "language": None, "available": 24_628, "epochs": 36_000 / 24_628, "taken": 35_723},
        {"source": "b", "language": "[red]c", "available": 1_000, "epochs": 0.5, "taken": 480},
        {"source": "b", "language": None, "available": 0, "epochs": 0.0, "taken": 0},
    ]
    mixture = {"groups": groups, "tokens": 36_203, "most_epochs": 2}
    config = {**MANIFEST["config"], "mixture": {"sources": {"a": {"share": 0.6}}, "tokens": 60_000.0}}
    rows = [line.split() for line in told(mixture=mixture, config=config)]
    assert ["mixture", "available", "asked", "taken", "epochs"] in rows
    assert ["a", "24,628", "36,000", "35,723", "1.462"] in rows
    assert ["b,", "[red]c", "1,000", "500", "480", "0.500"] in rows
    assert ["60,000", "tokens", "asked", "(mixture.tokens),", "36,203", "tokens", "taken", "(60.3%)"] in rows
    config["mixture"]["tokens"] = None
    assert ["36,203", "tokens", "taken"] in [line.split() for line in told(mixture=mixture, config=config)]
    assert not [line for line in told(mixture=mixture) if "taken" in line]


def test_the_folder_of_licence_texts_is_named_where_there_is_one() -> None:
    assert "out/licenses" not in told()
    assert "out/licenses" in told(files=[{"file": "licenses/part-00000.parquet"}])
