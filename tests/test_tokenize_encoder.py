"""The encoder's ids are SentencePiece's own, whatever the text, the model, and what its cache holds."""

from __future__ import annotations

import itertools
import random
import sysconfig
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.tokenize_models import trained, with_more_pieces

from codemill.tokenize import encoder as encoder_module
from codemill.tokenize import modelproto
from codemill.tokenize.encoder import Encoder
from codemill.tokenize.merges import build_merges, joining_bytes
from codemill.tokenize.model import TokenizerModel

LOOKALIKES = ["<s>", "</s>", "<unk>", "<0x0A>", "\u2581", "\u2581\u2581", "<PRE>", " <PRE>", "[INST]", "a<s>b</s>c"]
ODD = ["", " ", "\0", "\r\n", "\t\t", "e\u0301", "\ufeff", "\u200d", "\U0010ffff", "\u2028", "漢字",
       "🇨🇭👩‍👩‍👧", "é" * 40]  # fmt: skip


def as_texts(texts: list[str]) -> pa.Array:
    return pa.array(texts, pa.large_string())


def reference(model: TokenizerModel, texts: list[str]) -> list[list[int]]:
    return sentencepiece.SentencePieceProcessor(model_proto=model.model_bytes).encode(texts, num_threads=1)


def assert_same(model: TokenizerModel, texts: list[str]) -> None:
    assert model.slow_because is None
    ours, expected = model.encode(as_texts(texts)).to_pylist(), reference(model, texts)
    for text, our, its in zip(texts, ours, expected, strict=True):
        assert our == its, repr(text[:200])


@pytest.fixture(scope="module")
def small(small_model: Path) -> TokenizerModel:
    return TokenizerModel.load(small_model)


@pytest.fixture(scope="module")
def llama2(llama2_model: Path) -> TokenizerModel:
    return TokenizerModel.load(llama2_model)


@pytest.fixture(params=["small", "llama2"])
def model(request: pytest.FixtureRequest) -> TokenizerModel:
    return request.getfixturevalue(request.param)


def test_real_code_of_several_languages_has_sentencepieces_ids(model: TokenizerModel) -> None:
    roots = [Path(sysconfig.get_paths()["purelib"]), Path(sysconfig.get_paths()["include"])]
    kinds = [".py", ".pyi", ".pyx", ".h", ".hpp", ".js", ".css", ".html", ".json", ".md", ".cpp", ".yaml", ".toml"]
    found = [path for root in roots for path in sorted(root.rglob("*")) if path.suffix in kinds and path.is_file()]
    rng = random.Random(5)
    chosen: list[Path] = []
    for kind in kinds:
        files = [path for path in found if path.suffix == kind]
        chosen += rng.sample(files, min(6, len(files)))
    texts = [path.read_text("utf-8", "replace")[:20_000] for path in chosen]
    assert len({path.suffix for path in chosen}) >= 8
    assert_same(model, texts)


def test_odd_texts_and_lookalikes_have_sentencepieces_ids(model: TokenizerModel) -> None:
    assert_same(model, [*ODD, *LOOKALIKES, "".join(ODD), "".join(LOOKALIKES), *map("x".__add__, LOOKALIKES)])


@settings(deadline=None, max_examples=300)
@given(st.lists(st.text(max_size=60), max_size=8))
def test_any_unicode_has_sentencepieces_ids(small: TokenizerModel, texts: list[str]) -> None:
    assert_same(small, texts)


def test_many_random_strings_have_sentencepieces_ids(model: TokenizerModel) -> None:
    rng = random.Random(11)
    ascii_only = "".join(map(chr, range(0x20, 0x7F)))
    anything = "".join(chr(rng.randrange(rng.choice([0x80, 0x800, 0xD800]))) for _ in range(2000))
    alphabets = ["abc_ ()", "01 .,", " \n\t", ascii_only, "éèüß→∀", "漢字仮名交じり文 ", " \u2581a", anything]
    lengths = [3, 10, 33, 65, 130]
    texts = ["".join(rng.choices(rng.choice(alphabets), k=rng.choice(lengths))) for _ in range(20_000)]
    assert_same(model, texts)


def test_strings_of_the_vocabularys_own_pieces_have_sentencepieces_ids(model: TokenizerModel) -> None:
    pieces = [piece.replace("\u2581", " ") for piece in modelproto.parse(model.model_bytes).pieces]
    rng = random.Random(13)
    assert_same(model, pieces)
    assert_same(model, ["".join(rng.choices(pieces, k=rng.randrange(1, 40))) for _ in range(5000)])


RUNS = [" ", "=", "a", "ab", "\n", "\t", "  \n", "😀", "é", "漢", "0", "_", "\u2581", "<s>", "aB3+"]


@pytest.mark.parametrize("run", RUNS)
def test_a_long_run_without_a_cut_has_sentencepieces_ids(model: TokenizerModel, run: str) -> None:
    assert_same(model, [run * (length // len(run)) for length in (30, 33, 63, 64, 65, 66, 1000, 50_000)])


def test_words_of_either_way_to_merge_have_sentencepieces_ids(llama2: TokenizerModel) -> None:
    """Words of 50 bytes look at all their pairs each time; of 100, keep them in a heap."""
    rng = random.Random(17)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=50)) for _ in range(300)]
    assert_same(llama2, words)
    assert_same(llama2, [word + word for word in words])


@pytest.mark.parametrize("cache_bits", [2, 4, 10])
def test_a_small_cache_changes_no_id(small: TokenizerModel, standard_library: list[Path], cache_bits: int) -> None:
    texts = [path.read_text("utf-8", "replace") for path in standard_library[:20]] + ODD
    encoder = Encoder(build_merges(modelproto.parse(small.model_bytes)), small.dtype, cache_bits)
    for _ in range(2):
        assert encoder.encode(as_texts(texts), np.ones(len(texts), bool)).to_pylist() == reference(small, texts)


def test_words_that_differ_by_zeros_alone_are_told_apart(small: TokenizerModel) -> None:
    """A key is filled up with zeros. Where nothing is cut, a text is a word."""
    begins, ends = ["x", "x\0", "x\0\0", "", "\0"], ["", "y", "\0y", "\0" * 8 + "y"]
    texts = ["".join(pair) for pair in itertools.product(begins, ends)] * 2
    merges = build_merges(modelproto.parse(small.model_bytes))
    encoder = Encoder(merges._replace(apart=np.zeros_like(merges.apart)), small.dtype, 6)
    assert encoder.encode(as_texts(texts), np.ones(len(texts), bool)).to_pylist() == reference(small, texts)


def test_ids_of_32_bits_are_the_same(small: TokenizerModel, standard_library: list[Path]) -> None:
    texts = [path.read_text("utf-8", "replace") for path in standard_library[20:30]]
    encoder = Encoder(build_merges(modelproto.parse(small.model_bytes)), np.dtype(np.uint32))
    found = encoder.encode(as_texts(texts), np.ones(len(texts), bool))
    assert found.type == pa.large_list(pa.uint32()) and found.to_pylist() == reference(small, texts)


def test_slices_chunks_and_strings_of_32_bit_offsets_are_read_in_place(small: TokenizerModel) -> None:
    texts = [f"value_{n} = {n}" for n in range(50)]
    expected = reference(small, texts)
    assert small.encode(as_texts(["x", *texts, "y"]).slice(1, 50)).to_pylist() == expected
    assert small.encode(pa.array(["x", *texts]).slice(1)).to_pylist() == expected
    assert small.encode(as_texts([])).to_pylist() == []


def test_threads_encode_as_one_does(small: TokenizerModel, standard_library: list[Path]) -> None:
    parts = [[path.read_text("utf-8", "replace") for path in standard_library[n : n + 10]] for n in range(0, 60, 10)]
    found: dict[int, list[list[int]]] = {}
    threads = [
        threading.Thread(target=lambda n=n: found.update({n: small.encode(as_texts(parts[n])).to_pylist()}))
        for n in range(len(parts))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[n] for n in range(len(parts))] == [reference(small, part) for part in parts]


def test_equal_scores_merge_from_the_left() -> None:
    """Pieces that are added later have the score 0, above all others and all alike."""
    base = trained()
    wanted = {"wi", "id", "dt", "th", "tw", "ht", "tt", "ttt", "\u2581\u2581w"} - {*modelproto.parse(base).pieces}
    assert len(wanted) > 5
    model = TokenizerModel(with_more_pieces(base, sorted(wanted)))
    rng = random.Random(23)
    assert_same(model, ["".join(rng.choices(["w", "i", "d", "t", "h", " "], k=rng.randrange(90))) for _ in range(4000)])


def test_characters_that_are_part_of_pieces_and_none_themselves_fall_back_to_bytes() -> None:
    model = TokenizerModel(with_more_pieces(trained(), ["Ω∑", "∑Ω", "Ω∑Ω", "aΩ"]))
    rng = random.Random(29)
    assert_same(model, ["".join(rng.choices("Ω∑aé ", k=rng.randrange(80))) for _ in range(3000)])


def test_a_text_is_cut_only_where_no_piece_reaches_across() -> None:
    joins = joining_bytes([b"ab", b" c", "é=".encode()])
    assert joins[ord("a"), ord("b")] and not joins[ord("b"), ord("a")]
    assert joins[ord(" "), ord("c")] and joins[0x81, ord("c")]  # a literal U+2581 ends with 0x81
    assert joins["é".encode()[-1], ord("=")] and joins["é".encode()[0], "é".encode()[1]]
    assert not joins["é".encode()[-1], "é".encode()[0]]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"model_type": "unigram"}, "no BPE model"),
        ({"user_defined_symbols": ["x y"]}, "user-defined"),
        ({"control_symbols": ["§"]}, "one character"),
    ],
)
def test_a_model_that_the_encoder_does_not_know_is_left_to_sentencepiece(changes: dict[str, object], why: str) -> None:
    model = TokenizerModel(trained(**changes))
    assert model.slow_because is not None and why in model.slow_because
    texts = ["x y = x  y", " x y", "", "width § 3", "def area(width, height):"]
    assert model.encode(as_texts(texts)).to_pylist() == reference(model, texts)


def test_a_text_of_a_megabyte_without_a_cut_takes_no_time_of_its_square(llama2: TokenizerModel) -> None:
    """Were it quadratic, this test would run for an hour."""
    assert_same(llama2, ["a" * (1 << 20), " " * (1 << 20)])


def test_the_state_of_a_worker_is_bounded(llama2: TokenizerModel) -> None:
    encoder = Encoder(build_merges(modelproto.parse(llama2.model_bytes)), llama2.dtype)
    rng = random.Random(31)
    encoder.encode(as_texts(["".join(rng.choices("abcdefgh", k=12)) + "\n" for _ in range(1000)]), np.ones(1000, bool))
    [cache] = encoder._caches
    assert cache.nbytes + sum(table.nbytes for table in encoder._merges) < 64 << 20
    assert encoder_module._CACHE_BITS == 19
