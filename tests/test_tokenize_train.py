"""A trained model has Llama 2's settings, is the same each time, and an impossible size is explained."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from codemill.errors import DataError
from codemill.tokenize import modelproto, train
from codemill.tokenize.model import TokenizerModel


@pytest.fixture(scope="module")
def texts(standard_library: list[Path]) -> pa.Array:
    return pa.array([path.read_text("utf-8", "replace") for path in standard_library[:20]], pa.large_string())


@pytest.fixture(scope="module")
def trained(texts) -> bytes:
    return train.train_bpe(texts, 1000, 0.99995)


def test_a_trained_model_gives_every_text_back(trained):
    model = TokenizerModel(trained)
    texts = ["def f():\n\treturn 'é→😀'\r\n", "", "   x", "\0<s>"]
    ids = model.encode(pa.array(texts, pa.large_string()))
    assert model.pieces == 1000
    assert model.decode(ids).to_pylist() == [text.encode() for text in texts]


def test_pieces_are_cut_as_llama2s_are(trained, llama2_model):
    ours, llamas = modelproto.parse(trained), modelproto.parse(llama2_model.read_bytes())
    assert ours[4:] == llamas[4:]
    assert ours.pieces[:259] == llamas.pieces[:259]
    assert ours.types[:259].tolist() == llamas.types[:259].tolist()
    learned = ours.pieces[259:]
    assert not [piece for piece in learned if "\n" in piece or len(piece) > 16]
    assert not [piece for piece in learned if any(c.isdigit() for c in piece) and len(piece) > 1]
    assert "\u2581" * 4 in learned


def test_training_is_the_same_for_chunks_threads_and_times(texts, trained, monkeypatch):
    chunks = pa.chunked_array([texts[:7], texts[7:]])
    assert train.train_bpe(chunks, 1000, 0.99995) == trained
    monkeypatch.setattr(train, "THREADS", 1)
    alone = modelproto.parse(train.train_bpe(texts, 1000, 0.99995))
    assert alone.pieces == modelproto.parse(trained).pieces


def test_another_process_in_another_folder_trains_the_same_and_says_nothing_else(tmp_path):
    program = (
        "import sys, pyarrow as pa; from codemill.tokenize.train import train_bpe; "
        "sys.stdout.buffer.write(train_bpe(pa.array(['def area(width): return width'] * 50), 290, 0.99995))"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, check=True)
    expected = train.train_bpe(pa.array(["def area(width): return width"] * 50), 290, 0.99995)
    assert (ran.stdout, ran.stderr, list(tmp_path.iterdir())) == (expected, b"", [])


@pytest.mark.parametrize(
    ("size", "rule"),
    [
        (
            50_000,
            r"50000 pieces is more than the sample can fill: it yields (\d+); set `vocabulary_size` to \1 or less,",
        ),
        (260, r"260 pieces is less than .* need: (\d+); set `vocabulary_size` to \1 or more"),
    ],
)
def test_a_vocabulary_that_cannot_be_is_explained_with_the_one_that_can(texts, size, rule):
    with pytest.raises(DataError, match=rule) as refused:
        train.train_bpe(texts[:3], size, 0.99995)
    possible = int(re.findall(rule, str(refused.value))[0])
    assert len(modelproto.parse(train.train_bpe(texts[:3], possible, 0.99995)).pieces) == possible


def test_an_empty_sample_is_refused():
    with pytest.raises(DataError, match="give it more text"):
        train.train_bpe(pa.array(["", "\n\n"]), 1000, 0.99995)
