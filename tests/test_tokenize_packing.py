"""Packing loses nothing, cuts only what it must, keeps the shuffle, and wastes little."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import packing as oracle
from oracles.packing import Document

from codemill.tokenize.packing import best_fit, pack, renderings_schema, sequence_schema
from codemill.tokenize.segments import segments

PADDING = 0
SPECIAL = {"bos": oracle.BOS, "eos": oracle.EOS, "padding": PADDING}
ORACLES = {"best_fit": oracle.best_fit, "concatenate": oracle.concatenate}
PACKINGS = pytest.mark.parametrize("packing", ORACLES)


def table_of(documents: list[Document], dtype=np.uint16, null_when_none: bool = False) -> pa.Table:
    fim_ids = [None if null_when_none and not d.fim else d.fim_ids for d in documents]
    columns = [[getattr(d, name) for d in documents] for name in ("id", "epoch", "plain", "fim")]
    return pa.table([*columns, fim_ids], schema=renderings_schema(np.dtype(dtype)))


def unpacked(sequences: pa.Table) -> list[list[tuple]]:
    """Each sequence as its segments: (id, epoch, part, fim, tokens)."""
    packed: list[list[tuple]] = []
    for row in sequences.to_pylist():
        columns = [row[f"segment_{name}"] for name in ("ids", "epochs", "parts", "fim", "lengths")]
        tokens = iter(row["input_ids"])
        packed.append([(*s[:4], [next(tokens) for _ in range(s[4])]) for s in zip(*columns, strict=True)])
        assert set(tokens) <= {PADDING}
    return packed


@st.composite
def documents(draw):
    """Documents whose tokens are all different, so that nothing can be mixed up."""
    made, token = [], 10
    for number in range(draw(st.integers(0, 30))):
        size, fim = draw(st.integers(0, 25)), draw(st.integers(0, 2))
        extra = draw(st.integers(4, 8)) if fim else -size
        plain = list(range(token, token + size))
        made.append(Document(f"{number:032x}", number % 3, plain, fim, list(range(token, token + size + extra))))
        token += size + max(extra, 0)
    return made


@PACKINGS
@settings(deadline=None)
@given(documents=documents(), length=st.integers(1, 24))
def test_sequences_are_those_of_the_oracle(packing, documents, length):
    packed = pack(table_of(documents), length, packing, SPECIAL)
    packed.validate(full=True)
    assert unpacked(packed) == [[tuple(s) for s in sequence] for sequence in ORACLES[packing](documents, length)]


@PACKINGS
@settings(deadline=None)
@given(documents=documents(), length=st.integers(1, 24))
def test_every_token_of_every_document_is_in_exactly_one_segment(packing, documents, length):
    parts = [
        segment for sequence in unpacked(pack(table_of(documents), length, packing, SPECIAL)) for segment in sequence
    ]
    for document in documents:
        own = sorted((s for s in parts if s[0] == document.id), key=lambda s: s[2])
        tokens = [token for segment in own for token in segment[4]]
        ids = document.fim_ids if own[0][3] else document.plain
        assert tokens == [oracle.BOS, *ids, oracle.EOS]
        assert [s[2] for s in own] == ([0] if len(own) == 1 else list(range(1, len(own) + 1)))
        assert len(own) == 1 or own[0][3] == 0
    assert len({s[0] for s in parts}) == len(documents)


@settings(deadline=None)
@given(documents=documents(), length=st.integers(1, 24))
def test_best_fit_never_cuts_a_document_that_fits(documents, length):
    for sequence in unpacked(pack(table_of(documents), length, "best_fit", SPECIAL)):
        for id, _, part, fim, tokens in sequence:
            document = documents[int(id, 16)]
            assert (part > 0) == (len(document.plain) + 2 > length and not fim)
            assert fim == (document.fim if len(document.fim_ids) + 2 <= length else 0)
            assert part == 0 or len(tokens) == length or tokens[-1] == oracle.EOS


@settings(deadline=None)
@given(documents=documents(), length=st.integers(1, 24))
def test_concatenate_leaves_no_room_but_in_the_last_sequence(documents, length):
    packed = pack(table_of(documents), length, "concatenate", SPECIAL)
    used = [sum(lengths) for lengths in packed["segment_lengths"].to_pylist()]
    assert all(tokens == length for tokens in used[:-1])


@PACKINGS
@settings(deadline=None)
@given(documents=documents(), length=st.integers(1, 24))
def test_the_order_of_the_rows_survives(packing, documents, length):
    packed = unpacked(pack(table_of(documents), length, packing, SPECIAL))
    keys = [[(int(s[0], 16), s[2]) for s in sequence] for sequence in packed]
    assert all(sequence == sorted(sequence) for sequence in keys)
    assert keys == sorted(keys)


@settings(deadline=None)
@given(st.lists(st.integers(1, 40), max_size=60), st.integers(40, 70))
def test_bins_are_those_of_slow_best_fit_decreasing(lengths, capacity):
    assert best_fit(np.array(lengths, np.int64), capacity).tolist() == oracle.best_fit_bins(lengths, capacity)


@pytest.mark.parametrize("capacity", [1, 2, 3, 4, 63, 64, 65, 4096, 1 << 20])
def test_no_bin_is_overfull_and_no_two_would_fit_in_one(capacity):
    lengths = np.random.default_rng(0).integers(1, capacity + 1, 500)
    filled = np.bincount(best_fit(lengths, capacity), weights=lengths)
    assert filled.max() <= capacity
    assert np.sort(filled)[:2].sum() > capacity


def test_documents_of_real_lengths_leave_less_than_one_percent_of_padding():
    """Log-normal lengths with a median of 800 tokens and a long tail: the shape of real source files."""
    rng = np.random.default_rng(0)
    sizes = np.exp(rng.normal(np.log(800), 1.4, 5000)).astype(np.int64)
    ids = pa.LargeListArray.from_arrays(np.concatenate([[0], np.cumsum(sizes)]), np.ones(sizes.sum(), np.uint16))
    columns = [[f"{i:032x}" for i in range(5000)], np.zeros(5000, np.int32), ids, np.zeros(5000, np.uint8), ids]
    packed = pack(pa.table(columns, schema=renderings_schema(np.dtype(np.uint16))), 4096, "best_fit", SPECIAL)
    assert (sizes + 2).sum() / (len(packed) * 4096) > 0.99


def test_golden_best_fit():
    documents = [
        Document("a", 0, [10, 11], 0, []),
        Document("b", 0, [20, 21, 22, 23, 24, 25, 26, 27], 0, []),
        Document("c", 1, [30], 1, [90, 91, 92]),
        Document("d", 0, [40, 41, 42], 2, [93, 94, 95, 96, 97, 98, 99]),
    ]
    # a: 4 tokens; b: 10, cut into 8 + 2; c: 5 with FIM; d: 9 with FIM does not fit, so 5 plain.
    assert pack(table_of(documents), 8, "best_fit", SPECIAL)["input_ids"].to_pylist() == [
        [1, 10, 11, 2, 0, 0, 0, 0],
        [1, 20, 21, 22, 23, 24, 25, 26],
        [27, 2, 1, 40, 41, 42, 2, 0],
        [1, 90, 91, 92, 2, 0, 0, 0],
    ]


def test_golden_concatenate():
    documents = [
        Document("a", 0, [10, 11], 1, [90, 91, 92]),
        Document("b", 0, [20], 1, [93, 94]),
        Document("c", 0, [30, 31], 2, [95, 96]),
    ]
    # a with FIM: 5 of 8; b's FIM would need 4 of 3, so 3 plain and whole; c with FIM.
    assert pack(table_of(documents), 8, "concatenate", SPECIAL).to_pylist() == [
        {
            "input_ids": [1, 90, 91, 92, 2, 1, 20, 2],
            "segment_lengths": [5, 3],
            "segment_ids": ["a", "b"],
            "segment_epochs": [0, 0],
            "segment_parts": [0, 0],
            "segment_fim": [1, 0],
            "loss_ranges": None,
        },
        {
            "input_ids": [1, 95, 96, 2, 0, 0, 0, 0],
            "segment_lengths": [4],
            "segment_ids": ["c"],
            "segment_epochs": [0],
            "segment_parts": [0],
            "segment_fim": [2],
            "loss_ranges": None,
        },
    ]


@PACKINGS
@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_sequences_have_the_schema_of_a_shard(packing, dtype):
    documents = [Document("a" * 32, 0, [10], 0, []), Document("b" * 32, 0, [20], 1, [21, 22])]
    for rows in ([], documents):
        packed = pack(table_of(rows, dtype, null_when_none=True), 16, packing, SPECIAL)
        assert packed.schema.equals(sequence_schema(16, np.dtype(dtype)), check_metadata=True)
        assert packed.schema.metadata == {b"kind": b"sequences"}
        assert len(packed) == (1 if rows else 0)


def test_chunks_and_slices_pack_like_one_table():
    documents = [Document(f"{i:032x}", 0, [10 + i] * i, i % 3, [90] * (i + 4)) for i in range(20)]
    table = table_of(documents)
    chunked = pa.concat_tables([table.slice(0, 7), table.slice(7, 5), table.slice(12)])
    assert pack(chunked, 16, "best_fit", SPECIAL).equals(pack(table, 16, "best_fit", SPECIAL))
    assert pack(table.slice(5), 16, "best_fit", SPECIAL).equals(pack(table_of(documents[5:]), 16, "best_fit", SPECIAL))


def test_segments_are_the_reverse_of_packing():
    documents = [Document(f"{i:032x}", i % 2, [10 + i] * i, i % 3, [90] * (i + 4)) for i in range(20)]
    packed = pack(table_of(documents), 16, "best_fit", SPECIAL)
    rows = segments(packed).to_pylist()
    expected = [(n, *segment) for n, sequence in enumerate(unpacked(packed)) for segment in sequence]
    assert [tuple(row.values()) for row in rows] == expected


def test_an_unknown_packing_is_refused():
    with pytest.raises(ValueError, match="best_fit or concatenate; got 'first_fit'"):
        pack(table_of([]), 16, "first_fit", SPECIAL)
