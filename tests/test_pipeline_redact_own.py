"""Redaction by the config: rules of one's own, values that are never replaced, and what the config check says."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from test_pipeline_redact import LETTERS, batch

from codemill.config_file import load_config
from codemill.errors import ConfigError
from codemill.pipeline import config
from codemill.pipeline.config import BuildConfig
from codemill.pipeline.redact import redact

MAIL = "jane.roe" + "@" + "corp.com"


def redacted(text: str, **settings: object) -> str:
    return redact(batch([text]), config.Redact.model_validate(settings))[0].column("text")[0].as_py()


def test_a_rule_of_ones_own_replaces_what_it_matches_and_counts_it_under_its_kind() -> None:
    rule = {"name": "badge", "pattern": r"BADGE-[0-9]{6}", "kind": "badge_number", "keywords": ["badge"]}
    settings = config.Redact.model_validate({"rules": [rule]})
    after, redactions = redact(batch(["x = 'BADGE-123456'", "y = 1", f"{MAIL} BADGE-654321 BADGE-1"]), settings)
    assert after.column("text").to_pylist() == ["x = '<BADGE_NUMBER>'", "y = 1", "<EMAIL> <BADGE_NUMBER> BADGE-1"]
    assert redactions.column("kind").to_pylist() == ["badge_number", "email", "badge_number"]


def test_the_first_group_of_a_rule_is_what_is_replaced() -> None:
    rule = {"name": "pin", "pattern": r"pin\s*=\s*([0-9]{4})\b", "kind": "password"}
    assert redacted("pin = 4711; é; pin=1234", rules=[rule]) == "pin = <PASSWORD>; é; pin=<PASSWORD>"


def test_a_rule_runs_on_texts_with_a_keyword_in_any_case_and_on_no_others() -> None:
    rule = {"name": "number", "pattern": "[0-9]+", "keywords": ["Order"]}
    assert redacted("ORDER 12", rules=[rule]) == "ORDER <KEY>"
    assert redacted("item 12", rules=[rule]) == "item 12"


@pytest.mark.parametrize("pattern", ["KEY", "K.*", "<.*>", ".", "[A-Z]+", r"(?s)x.*y", "<KEY"])
def test_redacting_twice_is_redacting_once_whatever_a_rule_matches(pattern: str) -> None:
    settings = config.Redact.model_validate({"rules": [{"name": "own", "pattern": pattern}]})
    text = f"x KEY <KEY> {MAIL} <EMAIL\n y"
    once, _ = redact(batch([text]), settings)
    assert redact(once, settings)[0] is once


@pytest.mark.parametrize("allowed", [MAIL, r".*@corp\.com", r"(?i)JANE\.ROE@.*"])
def test_an_allowed_value_stays_and_others_go(allowed: str) -> None:
    other = "jo" + "@" + "elsewhere.com"
    assert redacted(f"{MAIL} {other}", allow=[allowed]) == f"{MAIL} <EMAIL>"


def test_an_allowed_pattern_must_match_the_whole_value() -> None:
    assert redacted(MAIL, allow=["jane", "corp.com"]) == "<EMAIL>"


def test_an_allowed_key_stays_in_every_rule_that_finds_it() -> None:
    key = "sk" + "_test_" + LETTERS[:24]
    assert redacted(f'api_key = "{key}"', allow=["sk_test_.*"]) == f'api_key = "{key}"'
    assert redacted(f'api_key = "{key}"') == 'api_key = "<KEY>"'


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("{allow: ['a(b']}", r"redact.allow: 'a\(b' is not a pattern of RE2 \(missing \): a\(b\)"),
        ("{rules: [{name: x, pattern: '(?=a)'}]}", r"redact.rules.*pattern: '\(\?=a\)' is not a pattern of RE2"),
        ("{rules: [{name: x, pattern: 'a*'}]}", "matches the empty text"),
        ("{rules: [{name: x, pattern: a, kind: My Key}]}", "kind: must be lower-case letters"),
        ("{rules: [{name: x, pattern: a, keywords: ['']}]}", "empty keyword"),
        ("{rules: [{name: x, pattern: a}, {name: x, pattern: b}]}", "the name 'x' is used twice"),
        ("{rules: [{name: x}]}", "pattern"),
    ],
)
def test_the_config_check_names_a_bad_pattern(tmp_path: Path, settings: str, message: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(f"sources: [{{name: a, path: x, kind: tree}}]\noutput: out\nredact: {settings}\n")
    with pytest.raises(ConfigError, match=message):
        load_config(str(file), (), BuildConfig)


def test_a_rule_that_would_backtrack_takes_linear_time() -> None:
    rule = {"name": "slow", "pattern": r"(a+)+$x"}
    begun = time.process_time()
    text = "a" * 200_000
    assert redacted(text, rules=[rule]) == text
    assert time.process_time() - begun < 20


def test_a_null_pattern_list_is_refused() -> None:
    with pytest.raises(ValueError, match="allow"):
        config.Redact.model_validate({"allow": None})
