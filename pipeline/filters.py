"""Which documents are let in: the filters of The Stack, StarCoder and StarCoder2.

Flows in: a batch of documents. Flows out: the kept ones, and a row of `dropped` for each of the others, with
the first reason in the order of the table of reasons and a detail that names the measured value and its
bound.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from codemill.errors import ConfigError
from codemill.pipeline.config import Filter
from codemill.pipeline.documents import DROPPED, REASONS, dropped_rows
from codemill.pipeline.generated import generated_evidence
from codemill.pipeline.license import allowed
from codemill.pipeline.places import is_url, local_path
from codemill.pipeline.sources.inputs import open_input
from codemill.pipeline.text_statistics import TextStatistics, text_statistics
from codemill.pipeline.visible_text import visible_characters

# StarCoder2 (arXiv 2402.19173, section 2.1, "Encoded data filter").
_MAX_ENCODED_RUN = 1024  # characters
_MAX_ENCODED_SHARE = 0.5  # of a document's characters

# StarCoder (arXiv 2305.06161, section 3.2): XML stands under many extensions, and shows by its declaration.
_XML_DECLARATION = "<?xml version="
_XML_CHARACTERS = 100
_MIN_VISIBLE_CHARACTERS, _MIN_VISIBLE_SHARE = 100, 0.2  # the same section; bigcode-dataset drops at these very bounds

_MINIFIED_NAME = r"(?i)[.-]min\.(?:js|cjs|mjs|css)$"
_MINIFIED_LANGUAGES = ("javascript", "css")
# GitHub's Linguist calls JavaScript and CSS minified by their mean line alone; white space shows what was
# wrapped. Measured on 4,000 files of npm packages: at most 0.036 in `.min.js` and `.min.css`, at least 0.054
# in all others but blobs and what is minified under another name.
_MAX_CODE_MEAN_LINE = 110  # characters
_MIN_WHITE_SPACE = 0.05  # share of characters
_MIN_MINIFIED_BYTES = 1024  # a shorter file may look like anything

_Details = Callable[[pa.Array], pa.Array]  # rows (int64) -> their details (string)
_Check = Callable[["_Batch"], tuple[np.ndarray, _Details]]


@dataclass(frozen=True)
class _Batch:
    """Documents and what the checks know of them."""

    documents: pa.RecordBatch
    config: Filter
    opted_out: frozenset[str]
    statistics: TextStatistics
    override: np.ndarray  # int64[n]: the number of the language's override, from 1; 0 = none

    @property
    def size_bytes(self) -> np.ndarray:
        return self.documents.column("size_bytes").to_numpy()

    @property
    def mean_lines(self) -> np.ndarray:
        """float64[n]: mean characters of a line, without its end."""
        return self.statistics.line_characters / np.maximum(self.statistics.lines, 1)

    def share(self, count: np.ndarray) -> np.ndarray:
        """float64[n]: a count of characters as a share of all characters of each document."""
        return count / np.maximum(self.statistics.characters, 1)

    def bounds(self, name: str) -> np.ndarray:
        """The value of a key of `FilterLimits` for each document; infinite where there is no bound."""
        overrides = self.config.per_language.values()
        values = [
            getattr(limits if name in limits.model_fields_set else self.config, name)
            for limits in (self.config, *overrides)
        ]
        return np.array([np.inf if value is None else value for value in values])[self.override]


def load_opt_out(path: str, asked_by: str = "filter.opt_out") -> frozenset[str]:
    """The repositories (or document ids) in a text file or URL: one a line, in lower case; `#` starts a comment.

    asked_by: the key or option that names the file. Raises ConfigError where it cannot be read.
    """
    url = path if is_url(path) and not path.startswith("file://") else local_path(path)
    try:
        with open_input(url) as file:
            text = file.read().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{asked_by}: {path} cannot be read as UTF-8 text ({error}); name a readable file"
        ) from None
    names = (line.partition("#")[0].strip().lower() for line in text.splitlines())
    return frozenset(name for name in names if name)


def apply_filters(
    documents: pa.RecordBatch, config: Filter, opted_out: frozenset[str]
) -> tuple[pa.RecordBatch, pa.RecordBatch]:
    """(kept, dropped): batches of the schemas DOCUMENTS and DROPPED that together hold every document once.

    opted_out: repositories in lower case, as `load_opt_out` gives them.
    """
    languages = pa.array(list(config.per_language), pa.string())
    override = pc.fill_null(pc.add(pc.index_in(documents.column("language"), languages), 1), 0).to_numpy()
    statistics = text_statistics(documents.column("text"))
    batch = _Batch(documents, config, opted_out, statistics, override)
    described = documents.drop_columns(["text"])
    open_rows = np.ones(len(documents), bool)
    drops = []
    for reason in REASONS["filter"]:
        failed, details = _CHECKS[reason](batch)
        rows = pa.array(np.flatnonzero(failed & open_rows))
        if len(rows):
            drops.append(dropped_rows(described.take(rows), reason, details(rows)))
            open_rows &= ~failed
    if not drops:
        return documents, pa.RecordBatch.from_pylist([], DROPPED)
    return documents.filter(pa.array(open_rows)), pa.concat_batches(drops)


def _opted_out(batch: _Batch) -> tuple[np.ndarray, _Details]:
    repos = batch.documents.column("repo")
    listed = pa.array(sorted(batch.opted_out), pa.string())
    failed = _mask(pc.is_in(pc.utf8_lower(repos), listed))
    return failed, lambda rows: _joined(repos.take(rows), " is on the list of filter.opt_out")


def _language_not_allowed(batch: _Batch) -> tuple[np.ndarray, _Details]:
    if batch.config.languages is None:
        return _none(batch)
    languages = batch.documents.column("language")
    listed = pa.array([name.lower() for name in batch.config.languages], pa.string())
    shown = pc.fill_null(languages, "unknown")
    return ~_mask(pc.is_in(languages, listed)), lambda rows: _joined(shown.take(rows), " is not on filter.languages")


def _license_not_allowed(batch: _Batch) -> tuple[np.ndarray, _Details]:
    if batch.config.licenses is None:
        return _none(batch)
    licenses = batch.documents.column("license")
    passed = allowed(licenses, batch.config.licenses, batch.config.unknown_license)
    file = _joined(" (", batch.documents.column("license_file"), ")")
    shown = _joined(pc.fill_null(licenses, "unknown"), pc.fill_null(file, ""))
    return ~passed, lambda rows: _joined(shown.take(rows), " is not on filter.licenses")


def _too_small(batch: _Batch) -> tuple[np.ndarray, _Details]:
    bounds = batch.bounds("min_size_bytes")
    return batch.size_bytes < bounds, _measured("size", batch.size_bytes, " bytes <", bounds)


def _too_few_characters(batch: _Batch) -> tuple[np.ndarray, _Details]:
    count, bounds = batch.statistics.characters, batch.bounds("min_characters")
    return count < bounds, _measured("size", count, " characters <", bounds)


def _too_many_characters(batch: _Batch) -> tuple[np.ndarray, _Details]:
    count, bounds = batch.statistics.characters, batch.bounds("max_characters")
    return count > bounds, _measured("size", count, " characters >", bounds)


def _too_many_lines(batch: _Batch) -> tuple[np.ndarray, _Details]:
    lines, bounds = batch.statistics.lines, batch.bounds("max_lines")
    return lines > bounds, _measured("length", lines, " lines >", bounds)


def _line_too_long(batch: _Batch) -> tuple[np.ndarray, _Details]:
    longest, bounds = batch.statistics.longest_line, batch.bounds("max_line_length")
    return longest > bounds, _measured("longest line", longest, " characters >", bounds)


def _mean_line_too_long(batch: _Batch) -> tuple[np.ndarray, _Details]:
    means, bounds = batch.mean_lines, batch.bounds("max_mean_line_length")
    return means > bounds, _measured("mean line", means, " characters >", bounds)


def _low_alphanumeric(batch: _Batch) -> tuple[np.ndarray, _Details]:
    shares, bounds = batch.share(batch.statistics.alphanumeric), batch.bounds("min_alphanumeric")
    return shares < bounds, _measured("alphanumeric share", shares, " <", bounds)


def _low_alphabetic(batch: _Batch) -> tuple[np.ndarray, _Details]:
    shares, bounds = batch.share(batch.statistics.alphabetic), batch.bounds("min_alphabetic")
    return shares < bounds, _measured("alphabetic share", shares, " <", bounds)


def _xml(batch: _Batch) -> tuple[np.ndarray, _Details]:
    asked = batch.bounds("xml").astype(bool)
    if not asked.any():
        return _none(batch)
    heads = pc.utf8_slice_codeunits(batch.documents.column("text"), 0, _XML_CHARACTERS)
    failed = asked & _mask(pc.match_substring(heads, _XML_DECLARATION))
    said = f"its first {_XML_CHARACTERS} characters have {_XML_DECLARATION}"
    return failed, lambda rows: pa.repeat(pa.scalar(said), len(rows))


def _low_visible_text(batch: _Batch) -> tuple[np.ndarray, _Details]:
    html = _mask(pc.fill_null(pc.equal(batch.documents.column("language"), "html"), False))
    asked = np.flatnonzero(html & batch.bounds("low_visible_text").astype(bool))
    visible = np.zeros(len(html), np.int64)
    visible[asked] = visible_characters(batch.documents.column("text").take(pa.array(asked)))
    shares = batch.share(visible)
    short = visible <= _MIN_VISIBLE_CHARACTERS
    failed = np.zeros(len(html), bool)
    failed[asked] = (short | (shares <= _MIN_VISIBLE_SHARE))[asked]
    by_count = _measured("visible text", visible, " characters <=", _MIN_VISIBLE_CHARACTERS)
    by_share = _measured("visible text share", shares, " <=", _MIN_VISIBLE_SHARE)
    return failed, lambda rows: pc.if_else(pa.array(short).take(rows), by_count(rows), by_share(rows))


def _autogenerated(batch: _Batch) -> tuple[np.ndarray, _Details]:
    told = generated_evidence(batch.documents.column("text"), batch.documents.column("path"))
    failed = _mask(pc.is_valid(told)) & batch.bounds("autogenerated").astype(bool)
    return failed, told.take


def _minified(batch: _Batch) -> tuple[np.ndarray, _Details]:
    paths = batch.documents.column("path")
    by_name = _mask(pc.fill_null(pc.match_substring_regex(paths, _MINIFIED_NAME), False))
    languages = pc.is_in(batch.documents.column("language"), pa.array(_MINIFIED_LANGUAGES))
    white_space = batch.share(batch.statistics.white_space)
    long_lines = batch.mean_lines > _MAX_CODE_MEAN_LINE
    dense = (white_space < _MIN_WHITE_SPACE) & (batch.size_bytes >= _MIN_MINIFIED_BYTES)
    failed = (by_name | _mask(languages) & (long_lines | dense)) & batch.bounds("minified").astype(bool)
    by_line = _measured("mean line", batch.mean_lines, " characters >", _MAX_CODE_MEAN_LINE)
    by_density = _measured("white space share", white_space, " <", _MIN_WHITE_SPACE)

    def details(rows: pa.Array) -> pa.Array:
        shape = pc.if_else(pa.array(long_lines).take(rows), by_line(rows), by_density(rows))
        return pc.if_else(pa.array(by_name).take(rows), _joined("named ", paths.take(rows)), shape)

    return failed, details


def _encoded_blob(batch: _Batch) -> tuple[np.ndarray, _Details]:
    longest, shares = batch.statistics.longest_encoded, batch.share(batch.statistics.encoded)
    is_long = longest > _MAX_ENCODED_RUN
    failed = (is_long | (shares > _MAX_ENCODED_SHARE)) & batch.bounds("encoded_blobs").astype(bool)
    by_run = _measured("longest encoded run", longest, " characters >", _MAX_ENCODED_RUN)
    by_share = _measured("encoded share", shares, " >", _MAX_ENCODED_SHARE)
    return failed, lambda rows: pc.if_else(pa.array(is_long).take(rows), by_run(rows), by_share(rows))


_CHECKS: dict[str, _Check] = {
    "opted_out": _opted_out,
    "language_not_allowed": _language_not_allowed,
    "license_not_allowed": _license_not_allowed,
    "too_small": _too_small,
    "too_few_characters": _too_few_characters,
    "too_many_characters": _too_many_characters,
    "too_many_lines": _too_many_lines,
    "line_too_long": _line_too_long,
    "mean_line_too_long": _mean_line_too_long,
    "low_alphanumeric": _low_alphanumeric,
    "low_alphabetic": _low_alphabetic,
    "xml": _xml,
    "low_visible_text": _low_visible_text,
    "autogenerated": _autogenerated,
    "minified": _minified,
    "encoded_blob": _encoded_blob,
}


def _none(batch: _Batch) -> tuple[np.ndarray, _Details]:
    """The outcome of a check that is turned off."""
    return np.zeros(len(batch.documents), bool), lambda rows: pa.nulls(len(rows), pa.string())


def _mask(values: pa.Array) -> np.ndarray:
    return values.to_numpy(zero_copy_only=False)


def _joined(*parts: str | pa.Array) -> pa.Array:
    return pc.binary_join_element_wise(*parts, "")


def _measured(what: str, values: np.ndarray, relation: str, bounds: np.ndarray | float) -> _Details:
    """Details such as `longest line 1204 bytes > 1000`, of values and bounds of each document."""
    every_bound = np.broadcast_to(bounds, len(values))

    def details(rows: pa.Array) -> pa.Array:
        value, bound = (
            pa.array(numbers[rows.to_numpy()].round(4)).cast(pa.string()) for numbers in (values, every_bound)
        )
        return _joined(what, " ", value, relation, " ", bound)

    return details
