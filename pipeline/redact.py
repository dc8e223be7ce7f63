"""Redaction: secrets and personal data in the texts of documents are replaced by fixed placeholders.

Flows in: a batch of documents. Flows out: the same documents in the same order, `text` alone changed, and a batch of
redactions (id, kind, count). Guarantees: a pure function of each row; no byte outside a replaced span changes; the
text stays valid UTF-8 with its lines as they were (but for the body of a private key, whose lines become one
placeholder, and what a rule of one's own matches); redacting twice is redacting once (up to `_MAX_ROUNDS`).
Placeholders are those of StarCoder (arXiv 2305.06161, section 3.4), where it has fixed ones; it draws IP addresses,
which we do not.

`redact_scan` finds candidates, `redact_confirm` judges them, `redact_own` adds what the config has; here the texts are
put together anew.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from codemill.buffers import TextBuffers, text_buffers
from codemill.kernels import kernel
from codemill.pipeline import redact_scan as scan
from codemill.pipeline.documents import REDACTIONS
from codemill.pipeline.redact_config import Redact
from codemill.pipeline.redact_confirm import confirm, disjoint
from codemill.pipeline.redact_own import Own, own

# Languages whose files are settings: a value stands there without quotes.
_SETTINGS_LANGUAGES = (
    *("apacheconf", "batchfile", "curl config", "dockerfile", "dotenv", "git config", "ini", "java properties"),
    *("makefile", "nginx", "npm config", "shell", "ssh config", "toml", "yaml", "wget config"),
)
# So are files of no known language that are called so.
_SETTINGS_NAMES = r"(^|/)(\.?(env|netrc|pgpass)[\w.-]*|credentials|\.?[\w-]+rc|[^/]+\.(conf|cnf|cfg|env|secrets?))$"
# What one replacement uncovers (an address after a password that ended in "version"), the next round finds. Real code
# needs two rounds, the second to see that nothing is left; the bound keeps a crafted chain of them linear.
_MAX_ROUNDS = 8


def redact(documents: pa.RecordBatch, config: Redact) -> tuple[pa.RecordBatch, pa.RecordBatch]:
    """Replace secrets and personal data in texts.

    Args:
        documents: columns as `codemill.pipeline.documents.DOCUMENTS`.
        config: what is replaced, what never is, and rules beside the built-in ones.

    Returns:
        (documents with placeholders in `text`, redactions: one row for each document and kind that was found). The
        batch itself is returned where nothing was found.

    Raises:
        ValueError: a text is null.
    """
    column = documents.column("text")
    unquoted = _are_settings(documents)
    added = own(config)
    counts = np.zeros((len(documents), len(added.kinds)), np.int32)
    rows = np.arange(len(documents))
    for _ in range(_MAX_ROUNDS):
        texts = text_buffers(column)
        candidates = scan.scan(texts.offsets, texts.data, rows, unquoted)
        wanted = np.isin(candidates[:, scan.RULE], _rules(config))
        found = confirm(texts.offsets, texts.data, candidates[wanted])
        found += added.found(texts, column, rows)
        spans = disjoint(span for span in found if not added.is_allowed(texts.data[span[1] : span[2]].tobytes()))
        if not len(spans):
            break
        column = _replace(texts, spans, column.type, added.placeholders)
        np.add.at(counts, (spans[:, 0], spans[:, 3]), 1)
        rows = np.unique(spans[:, 0])
    if counts.any():
        place = documents.schema.get_field_index("text")
        documents = documents.set_column(place, documents.schema.field(place), column)
    return documents, _redactions(documents, counts, added)


def _are_settings(documents: pa.RecordBatch) -> np.ndarray:
    """bool[n]: which documents are files of settings, by language, else by name."""
    language = documents.column("language")
    named = pc.match_substring_regex(documents.column("path"), _SETTINGS_NAMES, ignore_case=True).fill_null(False)
    listed = pc.is_in(language, pa.array(_SETTINGS_LANGUAGES))
    return pc.or_(listed, pc.and_(named, language.is_null())).to_numpy(zero_copy_only=False)


def _rules(config: Redact) -> list[int]:
    """The rules of the scan that the config asks for."""
    rules = [scan.EMAIL] if config.emails else []
    rules += [scan.IPV4, scan.IPV6] if config.ip_addresses else []
    addresses = (scan.EMAIL, scan.IPV4, scan.IPV6)
    return rules + ([rule for rule in scan.RULES if rule not in addresses] if config.secrets else [])


def _redactions(documents: pa.RecordBatch, counts: np.ndarray, added: Own) -> pa.RecordBatch:
    """Rows of REDACTIONS for counts: int32[documents, kinds]."""
    rows, kinds = np.nonzero(counts)
    columns = [
        documents.column("id").take(pa.array(rows)),
        pa.array(added.kinds, pa.string()).take(pa.array(kinds)),
        pa.array(counts[rows, kinds], pa.int32()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=REDACTIONS)


def _replace(texts: TextBuffers, spans: np.ndarray, kind: pa.DataType, placeholders: tuple[bytes, ...]) -> pa.Array:
    """The texts with each span (int64[spans, 4]: row, start, end, kind; in order, disjoint) as its placeholder."""
    lengths = np.array([len(placeholder) for placeholder in placeholders])
    ends = np.cumsum(lengths)
    added = np.zeros(len(texts), np.int64)
    np.add.at(added, spans[:, 0], lengths[spans[:, 3]] - (spans[:, 2] - spans[:, 1]))
    offsets = np.zeros(len(texts) + 1, np.int64)
    np.cumsum(texts.lengths + added, out=offsets[1:])
    data = np.empty(offsets[-1], np.uint8)
    joined = np.frombuffer(b"".join(placeholders), np.uint8)
    _copy(texts.data, texts.offsets[0], texts.offsets[-1], spans, joined, ends - lengths, ends, data)
    built = pa.LargeStringArray.from_buffers(len(texts), pa.py_buffer(offsets), pa.py_buffer(data))
    return built.cast(kind)


@kernel
def _copy(source, begin, end, spans, placeholders, firsts, lasts, target):
    """Copy source[begin:end] into target, each span as placeholders[firsts[kind]:lasts[kind]]."""
    written = 0
    for k in range(len(spans)):
        start, kind = spans[k, 1], spans[k, 3]
        target[written : written + start - begin] = source[begin:start]
        written += start - begin
        length = lasts[kind] - firsts[kind]
        target[written : written + length] = placeholders[firsts[kind] : lasts[kind]]
        written += length
        begin = spans[k, 2]
    target[written : written + end - begin] = source[begin:end]
