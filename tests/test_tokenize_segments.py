"""Sequences give their documents back, and damaged ones are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from codemill.errors import DataError
from codemill.hashing import document_ids, id_words
from codemill.tokenize.fim import encode_fim, fim_plan
from codemill.tokenize.model import TokenizerModel
from codemill.tokenize.packing import pack, renderings_schema
from codemill.tokenize.segments import documents_from_segments, segments


@pytest.fixture(scope="module")
def model(small_model: Path) -> TokenizerModel:
    return TokenizerModel.load(small_model)


@pytest.fixture(scope="module")
def texts(standard_library: list[Path]) -> list[str]:
    return sorted({path.read_text("utf-8", "replace") for path in standard_library[60:120]} | {"", " ", "é\u2581"})


@pytest.fixture(scope="module")
def renderings(model, texts) -> pa.Table:
    """Each text in two epochs."""
    column = pa.array(texts, pa.large_string())
    ids, characters = document_ids(column), np.array([len(text) for text in texts])
    tables = []
    for epoch in (0, 1):
        epochs = np.full(len(texts), epoch, np.int32)
        plan = fim_plan(id_words(ids), epochs, characters, 0, 0.9, 0.5)
        columns = [ids, epochs, model.encode(column), plan.kind, encode_fim(model, column, plan)]
        tables.append(pa.table(columns, schema=renderings_schema(model.dtype)))
    return pa.concat_tables(tables)


@pytest.mark.parametrize("packing", ["best_fit", "concatenate"])
@pytest.mark.parametrize("length", [64, 1024, 65536])
def test_every_document_comes_back_from_its_sequences(model, texts, renderings, packing, length):
    parts = segments(pack(renderings, length, packing, model.special_tokens))
    shuffled = parts.take(np.random.default_rng(0).permutation(len(parts)))
    documents = documents_from_segments(shuffled, model)
    ids = document_ids(pa.array(texts, pa.large_string())).to_pylist()
    expected = {(i, e): t.replace("\u2581", " ").encode() for i, t in zip(ids, texts, strict=True) for e in (0, 1)}
    keys = list(zip(documents["id"].to_pylist(), documents["epoch"].to_pylist(), strict=True))
    assert keys == sorted(expected)
    assert dict(zip(keys, documents["text"].to_pylist(), strict=True)) == expected
    assert sum(documents["parts"].to_pylist()) == len(parts)


def test_no_sequences_make_no_documents(model, renderings):
    documents = documents_from_segments(segments(pack(renderings[:0], 64, "best_fit", model.special_tokens)), model)
    assert documents.num_rows == 0
    assert documents.schema.names == ["id", "epoch", "fim", "parts", "text"]


def test_a_slice_of_the_sequences_has_their_segments(model, renderings):
    packed = pack(renderings, 64, "best_fit", model.special_tokens)
    whole, part = segments(packed), segments(packed.slice(10, 5).to_batches()[0])
    numbers = whole["sequence"].to_numpy()
    chosen = whole.filter(pa.array((numbers >= 10) & (numbers < 15)))
    assert part.drop_columns("sequence").equals(chosen.drop_columns("sequence"))
    assert part["sequence"].to_pylist() == [n - 10 for n in chosen["sequence"].to_pylist()]


@pytest.fixture
def parts(model, renderings) -> pa.Table:
    return segments(pack(renderings, 64, "best_fit", model.special_tokens))


def test_a_missing_part_is_refused(model, parts):
    numbers = parts["part"].to_pylist()
    for missing in (numbers.index(2), numbers.index(1)):
        with pytest.raises(DataError, match="without a gap"):
            documents_from_segments(pa.concat_tables([parts[:missing], parts[missing + 1 :]]), model)


def test_a_missing_last_part_is_refused(model, parts):
    document = parts.filter(pc.equal(parts["id"], parts["id"][parts["part"].to_pylist().index(3)]))
    numbers = document.filter(pc.equal(document["epoch"], 0)).sort_by("part")
    with pytest.raises(DataError, match="ends with EOS"):
        documents_from_segments(numbers[:-1], model)


def test_a_document_that_is_there_twice_is_refused(model, parts):
    with pytest.raises(DataError, match="without a gap"):
        documents_from_segments(pa.concat_tables([parts, parts[:1]]), model)


def test_a_whole_document_with_the_number_of_a_part_is_refused(model, parts):
    whole = parts.filter(pc.equal(parts["part"], 0))[:1]
    numbered = whole.set_column(whole.schema.get_field_index("part"), "part", pa.array([1], pa.int32()))
    with pytest.raises(DataError, match="without a gap"):
        documents_from_segments(numbered, model)


def replaced(packed: pa.Table, column: str, values: list) -> pa.Table:
    place = packed.schema.get_field_index(column)
    return packed.set_column(place, packed.schema.field(column), pa.array(values, packed.schema.field(column).type))


@pytest.mark.parametrize(
    ("column", "change", "rule"),
    [
        ("segment_lengths", lambda sizes: [sizes[0] + 64, *sizes[1:]], "at most its 64 tokens"),
        ("segment_lengths", lambda sizes: [-1, *sizes[1:]], "every segment has a token"),
        ("segment_lengths", lambda sizes: [sizes[0] - 1, 1, *sizes[1:]], "has a value for each of segment_lengths"),
        ("segment_ids", lambda ids: ids[:-1], "segment_ids has a value for each of segment_lengths"),
        ("segment_fim", lambda kinds: None, "segment_fim has a value for each of segment_lengths"),
    ],
)
def test_columns_that_contradict_each_other_are_refused(model, renderings, column, change, rule):
    packed = pack(renderings, 64, "best_fit", model.special_tokens)
    values = packed[column].to_pylist()
    values[3] = change(values[3])
    with pytest.raises(DataError, match=rule):
        segments(replaced(packed, column, values))


def test_a_document_without_bos_is_refused(model, renderings):
    packed = pack(renderings, 65536, "best_fit", model.special_tokens)
    tokens = packed["input_ids"].to_pylist()
    tokens[0][0] = 300
    with pytest.raises(DataError, match="begins with BOS"):
        documents_from_segments(segments(replaced(packed, "input_ids", tokens)), model)
