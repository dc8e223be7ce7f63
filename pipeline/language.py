"""The language of a document, in the ways and the order of GitHub's Linguist.

Flows in: paths and texts. Flows out: lower-case names of Linguist, null where unknown. Modeline,
file name, shebang, extension and content each give a row candidates, until one candidate is left.
Where several remain, Linguist has a classifier; here rules of our own follow, and then the most
common language counts (`benchmarks/linguist_more.yml`). Paths are looked up by Arrow kernels, and
expressions are RE2's, so that no text takes more than linear time. Only a text whose path leaves a
question is looked at beyond its first and last lines.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from codemill.buffers import text_buffers
from codemill.pipeline.language_heads import (
    Ends,
    begin_xml,
    find_ends,
    modelines,
    shebangs,
    take_spans,
)
from codemill.pipeline.language_names import linguist_table

_CONTENT_BYTES = 50 * 1024  # of a text that rules look at; Linguist's bound
_MAN_PAGE = r"\.(?:[1-9](?:[a-z_][a-z_0-9]*)?|0p|n|man|mdoc)(?:\.in)?$"
_NONE = 0  # the number of no candidates


class _Candidates:
    """The tuples of candidates that occur, numbered; 0 is none."""

    def __init__(self, tuples: Iterable[tuple[str, ...]] = ((),)) -> None:
        self.tuples = list(tuples)
        self._numbers = {names: number for number, names in enumerate(self.tuples)}

    def number(self, names: Iterable[str]) -> int:
        key = tuple(names)
        if key not in self._numbers:
            self._numbers[key] = len(self.tuples)
            self.tuples.append(key)
        return self._numbers[key]

    def sizes(self) -> np.ndarray:
        """int64[numbers]: how many candidates each tuple has."""
        return np.array([len(names) for names in self.tuples])

    def open_rows(self, numbers: np.ndarray) -> np.ndarray:
        """The rows that have not exactly one candidate."""
        return np.flatnonzero(self.sizes()[numbers] != 1)

    def narrow(self, numbers: np.ndarray, rows: np.ndarray, found: np.ndarray) -> None:
        """Leave `rows` the candidates that are in `found` too; where one is none, the other."""
        pairs, inverse = np.unique(numbers[rows] << 32 | found, return_inverse=True)
        results = [self._both(pair >> 32, pair & 0xFFFFFFFF) for pair in pairs.tolist()]
        numbers[rows] = np.array(results, np.int64)[inverse]

    def _both(self, first: int, second: int) -> int:
        """In the order of the second; the first where they share none."""
        if first == _NONE or second == _NONE:
            return first or second
        wanted = self.tuples[first]
        return self.number(name for name in self.tuples[second] if name in wanted) or first

    def first_names(self, numbers: np.ndarray) -> pa.Array:
        names = pa.array([names[0] if names else None for names in self.tuples], pa.string())
        return names.take(pa.array(numbers))


class _Lookup:
    """Candidates by a key."""

    def __init__(self, table: dict[str, list[str]], candidates: _Candidates) -> None:
        self._keys = pa.array(list(table), pa.string())
        numbers = (candidates.number(names) for names in table.values())
        self._numbers = np.array([*numbers, _NONE], np.int64)

    def __call__(self, keys: pa.Array) -> np.ndarray:
        """int64[n]: the candidates of keys: string[n]."""
        found = pc.index_in(keys, self._keys)
        return self._numbers[pc.fill_null(found, len(self._keys)).to_numpy()]


class _Rules:
    """Groups of content rules by extension."""

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        self.groups = [group["rules"] for group in groups]
        numbers = {key: i for i, group in enumerate(groups) for key in group["extensions"]}
        self._extensions = pa.array(list(numbers), pa.string())
        self._numbers = np.array([*numbers.values(), -1], np.int64)

    def numbers(self, extensions: pa.Array) -> np.ndarray:
        """int64[n]: the group of each extension; -1 = none."""
        found = pc.index_in(extensions, self._extensions)
        return self._numbers[pc.fill_null(found, len(self._extensions)).to_numpy()]


class _Tables:
    """Linguist's tables, ready for Arrow."""

    def __init__(self) -> None:
        table = linguist_table()
        self.candidates = _Candidates()
        own_names = {name: [name] for name in table["languages"]}
        aliases = {alias: [name] for alias, name in table["aliases"].items()}
        self.by_mode = _Lookup(own_names | aliases, self.candidates)
        self.by_filename = _Lookup(table["filenames"], self.candidates)
        self.by_interpreter = _Lookup(
            table["more"]["interpreters"] | table["interpreters"], self.candidates
        )
        self.by_extension = _Lookup(table["extensions"], self.candidates)
        more = table["more"]["filenames"] | table["filenames"]
        # A name in capitals may be followed by anything: `Makefile.old`, but not `login.defs`.
        stems = [name for name in more if re.fullmatch("[A-Z][^.]*|makefile", name)]
        self.by_more_names = _Lookup(more, self.candidates)
        self.by_more_extensions = _Lookup(table["more"]["extensions"], self.candidates)
        self.by_stem = _Lookup({name: more[name] for name in stems}, self.candidates)
        self.longest_extension = max(extension.count(".") for extension in table["extensions"])
        self.man_page = self.candidates.number(["roff manpage", "roff"])
        self.xml = self.candidates.number(["xml"])
        self.rules = _Rules(table["rules"])
        self.more_rules = _Rules(table["more"]["rules"])


_tables = functools.cache(_Tables)


def detect_languages(paths: pa.Array, texts: pa.Array) -> pa.Array:
    """The language of each document.

    Args:
        paths: string[n]; `/` separates, null = none.
        texts: large_string[n], no nulls.

    Returns:
        string[n]: lower-case names of Linguist, null = unknown.
    """
    tables = _tables()
    candidates = _Candidates(tables.candidates.tuples)
    names = pc.replace_substring_regex(paths.cast(pa.string()), r"(?s)^.*/", "")
    lower = pc.utf8_lower(names)
    ends = find_ends(text_buffers(texts))
    numbers = np.zeros(len(texts), np.int64)

    rows, modes = modelines(ends)
    candidates.narrow(numbers, rows, tables.by_mode(modes))
    _narrow_open(numbers, tables.by_filename(names), candidates)
    interpreters = _interpreters(ends)
    _narrow_open(numbers, tables.by_interpreter(interpreters), candidates)
    _narrow_open(numbers, _by_extension(lower), candidates)
    _without_candidates(numbers, lower, ends)
    last_extensions = pc.struct_field(pc.extract_regex(lower, r"(?s)(?P<last>\.[^.]*)$"), "last")
    _by_content(numbers, pc.coalesce(last_extensions, lower), ends, candidates)
    _by_more(numbers, names, last_extensions, interpreters)
    return candidates.first_names(numbers)


def canonical_languages(names: pa.Array) -> pa.Array:
    """Names of languages with Linguist's name in place of an alias (`golang` -> `go`).

    Args:
        names: string[n], lower case; may hold nulls.

    Returns:
        string[n]. A name that Linguist does not have stays as it is.
    """
    aliases = linguist_table()["aliases"]
    found = pc.index_in(names, pa.array(list(aliases), pa.string()))
    return pc.coalesce(pa.array(list(aliases.values()), pa.string()).take(found), names)


def _narrow_open(numbers: np.ndarray, found: np.ndarray, candidates: _Candidates) -> None:
    rows = candidates.open_rows(numbers)
    candidates.narrow(numbers, rows, found[rows])


def _interpreters(ends: Ends) -> pa.Array:
    """string[n]: the interpreter that each text's shebang names."""
    rows, named = shebangs(ends)
    places = np.full(len(ends.starts), len(named), np.int64)
    places[rows] = np.arange(len(named))
    return pa.concat_arrays([named, pa.nulls(1, pa.string())]).take(pa.array(places))


def _by_extension(lower: pa.Array) -> np.ndarray:
    """int64[n]: the candidates of the longest known extension of each lower-case file name."""
    tables = _tables()
    found = np.zeros(len(lower), np.int64)
    dots = pc.fill_null(pc.count_substring(lower, "."), 0).to_numpy()
    for parts in range(1, tables.longest_extension + 1):
        rows = np.flatnonzero(dots >= parts)
        extensions = pc.extract_regex(
            lower.take(pa.array(rows)), rf"(?s)(?P<some>(?:\.[^.]*){{{parts}}})$"
        )
        longer = tables.by_extension(pc.struct_field(extensions, "some"))
        found[rows] = np.where(longer == _NONE, found[rows], longer)
    return found


def _without_candidates(numbers: np.ndarray, lower: pa.Array, ends: Ends) -> None:
    """Name XML and manual pages among what has no candidate yet."""
    rows = np.flatnonzero(numbers == _NONE)
    man_pages = pc.fill_null(pc.match_substring_regex(lower.take(pa.array(rows)), _MAN_PAGE), False)
    numbers[rows[man_pages.to_numpy(zero_copy_only=False)]] = _tables().man_page
    numbers[rows[begin_xml(ends, rows)]] = _tables().xml


def _by_content(
    numbers: np.ndarray, extensions: pa.Array, ends: Ends, candidates: _Candidates
) -> None:
    """Decide by Linguist's rules, whatever the candidates were, and by ours among candidates."""
    tables = _tables()
    rows = candidates.open_rows(numbers)
    groups = tables.rules.numbers(extensions.take(pa.array(rows)))
    man_page = tables.rules.numbers(pa.array([".man"]))[0]
    groups[(groups < 0) & (numbers[rows] == tables.man_page)] = man_page
    for chosen, names in _rule_results(tables.rules, rows, groups, ends):
        numbers[chosen] = candidates.number(names)

    rows = np.flatnonzero(candidates.sizes()[numbers] > 1)
    groups = tables.more_rules.numbers(extensions.take(pa.array(rows)))
    for chosen, names in _rule_results(tables.more_rules, rows, groups, ends):
        candidates.narrow(numbers, chosen, np.full(len(chosen), candidates.number(names)))


def _rule_results(
    rules: _Rules, rows: np.ndarray, groups: np.ndarray, ends: Ends
) -> Iterator[tuple[np.ndarray, list[str]]]:
    """(rows: int64[k], the languages of the first rule of their group that holds for them)."""
    for group in np.unique(groups[groups >= 0]).tolist():
        chosen = rows[groups == group]
        last = np.minimum(ends.ends[chosen], ends.starts[chosen] + _CONTENT_BYTES)
        heads = take_spans(ends.texts.data, ends.starts[chosen], last)
        for rule in rules.groups[group]:
            holds = _holds(rule, heads)
            yield chosen[holds], rule["languages"]
            chosen, heads = chosen[~holds], heads.filter(pa.array(~holds))
            if not len(chosen):
                break


def _holds(rule: dict[str, list[str]], heads: pa.Array) -> np.ndarray:
    """bool[n]: where all expressions of `all` are found and none of `none`."""
    holds = np.ones(len(heads), bool)
    for patterns, wanted in ((rule["all"], True), (rule["none"], False)):
        for pattern in patterns:
            found = pc.match_substring_regex(heads, pattern)
            holds &= found.to_numpy(zero_copy_only=False) == wanted
    return holds


def _by_more(
    numbers: np.ndarray, names: pa.Array, extensions: pa.Array, interpreters: pa.Array
) -> None:
    """Name some of what Linguist does not: `NOTICE`, `a.dtd`, `Dockerfile.alpine`, `lua5.3`."""
    tables, rows = _tables(), np.flatnonzero(numbers == _NONE)
    names, extensions, interpreters = (
        keys.take(pa.array(rows)) for keys in (names, extensions, interpreters)
    )
    for found in (
        tables.by_interpreter(pc.replace_substring_regex(interpreters, r"[-.0-9]+$", "")),
        tables.by_stem(pc.replace_substring_regex(names, r"(?s)\..*$", "")),
        tables.by_more_extensions(extensions),
        tables.by_more_names(names),
    ):
        numbers[rows] = np.where(found == _NONE, numbers[rows], found)
