"""The tables that redaction is made of: what is in them, and that the program that makes them keeps their meaning."""

from __future__ import annotations

import itertools
import random
import re
import sys
from pathlib import Path

import pytest
from test_pipeline_redact import batch

from codemill.pipeline import redact_shapes
from codemill.pipeline.config import Redact
from codemill.pipeline.redact import redact

sys.path.append(str(Path(__file__).parent.parent))  # for `benchmarks`; last, since the packages lie there too

from benchmarks import redact_tables

TOKENS = redact_shapes.token_rules()
# What their verdicts read beside the shape: JSON in base64, a PEM in base64, lines; and runs of one letter.
JUDGED = ("json-web-token", "jwt", "private-key-pem-in-base64", "grafana-api-key", "sentry-organization-auth-token")


def drawn(shape: str, seed: int) -> str:
    """A string of a shape."""
    draw = random.Random(f"{shape} {seed}")
    parts = []
    for members, least, most in redact_shapes.atoms_of(shape):
        parts += draw.choices(sorted(members), k=draw.randint(least, min(most, least + 40)))
    return bytes(parts).decode()


def test_a_value_of_every_shape_is_redacted_as_an_argument_of_a_call() -> None:
    rules = [rule for rule in TOKENS if rule.rule not in JUDGED]
    texts = [f'f("{drawn(rule.shape, seed)}")\n' for rule in rules for seed in range(3)]
    after = redact(batch(texts), Redact())[0].column("text").to_pylist()
    kept = {rule.rule for rule, start in zip(rules, range(0, len(texts), 3), strict=True)
            if all(texts[k] == after[k] for k in range(start, start + 3))}  # fmt: skip
    assert kept == set()
    assert sum(text == now for text, now in zip(texts, after, strict=True)) <= 0.01 * len(texts)  # too little entropy


def test_a_token_inside_a_longer_word_is_none() -> None:
    rules = [rule for rule in TOKENS if rule.shape.startswith("ghp")]
    texts = [f"x{drawn(rule.shape, 0)}y\n" for rule in rules]
    assert redact(batch(texts), Redact())[0].column("text").to_pylist() == texts


def test_the_table_names_its_sources_with_version_and_licence() -> None:
    head = [line for line in redact_shapes.TABLE.read_text().splitlines() if line.startswith("#")]
    assert re.search(r"gitleaks \d+\.\d+.*MIT.*CredSweeper \d+\.\d+.*MIT", " ".join(head))
    assert len({rule.rule for rule in redact_shapes.rules()}) > 300


def test_the_top_level_domains_are_those_of_the_root_zone_and_no_file_extensions_beside() -> None:
    lines = redact_shapes.TABLE.with_name("top_level_domains.txt").read_text("utf-8").splitlines()
    assert re.search(r"Public$", lines[0]) and re.search(r"20\d\d-\d\d-\d\d.*MPL", lines[1])
    assert {"com", "de", "photography", "рф", "xn--p1ai", "中国", "py", "sh"} <= set(lines)
    assert not {"js", "ts", "local", "localhost", "test", "example", "exe", "co.uk", ""} & set(lines)


PATTERNS = [
    (r"""\b(ghp_[0-9a-zA-Z]{36})(?:[\x60'"\s;]|\\[nr]|$)""", "ghp_[0-9a-zA-Z]{36}"),
    (r"\b(p8e-(?i)[a-z0-9]{32})", "p8e-(?i:[a-z0-9]{32})"),
    (r"(?i)(?:sk|rk)_(?-i:LIVE)_[a-z]{4,9}\z", r"(?i:(?:sk|rk)_(?-i:LIVE)_[a-z]{4,9})"),
    (r"A3-(?:[A-Z]{4}|[A-Z]{2}-[0-9])-[\w.]{3}", r"A3-(?:[A-Z]{4}|[A-Z]{2}-[0-9])-[\w.]{3}"),
    (r"x(?:-[0-9]{2,4}){1,3}_?[[:alnum:]]", "x(?:-[0-9]{2,4}){1,3}_?[a-zA-Z0-9]"),
]


@pytest.mark.parametrize(("pattern", "python"), PATTERNS)
def test_what_a_shape_stands_for_is_what_its_pattern_matches(pattern: str, python: str) -> None:
    bare = redact_tables._TAIL.sub("", pattern)
    found = [redact_tables.spelled(shape) for shape in redact_tables.shapes(redact_tables.scoped(bare))]
    samples = [drawn(shape, seed) for shape in found for seed in range(40)]
    assert samples and all(re.fullmatch(python, sample, re.ASCII) for sample in samples)
    assert all(any(re.fullmatch(shape, sample) for shape in found) for sample in samples)


def test_a_set_that_would_take_what_the_next_one_needs_is_joined_with_it() -> None:
    (shape,) = redact_tables.shapes("a[0-9a-z]{2,4}b[0-9]{3}-")
    assert redact_tables.spelled(shape) == "a[0-9a-z]{3,5}[0-9]{3}\\-" or "{6,8}" in redact_tables.spelled(shape)
    assert re.fullmatch(redact_tables.spelled(shape), "a9zb123-")


def test_no_anchor_stands_behind_a_set_that_matches_backwards_too_far() -> None:
    for rule in TOKENS:
        before = redact_shapes._joined(redact_shapes.cells_of(redact_shapes.atoms_of(rule.shape))[: int(rule.anchors)])
        assert not any(b.least < b.most and a.members & b.members for a, b in itertools.pairwise(before))
