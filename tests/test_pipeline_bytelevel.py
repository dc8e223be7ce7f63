"""A build with a byte-level tokenizer: verified, and its shards decode to its documents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import builds
import numpy as np
import pyarrow as pa
import pytest
from oracles.byte_level_models import file_of

from codemill.errors import ConfigError
from codemill.pipeline.config import SpecialTokens, Tokenizer
from codemill.pipeline.dataset import Dataset
from codemill.pipeline.samples import decoded_segments
from codemill.pipeline.stages.tokenizer import load_given_model
from codemill.pipeline.tokenizer_commands import check
from codemill.tokenize.bytelevel import ByteLevelModel
from codemill.tokenize.segments import documents_from_segments, segments
from codemill.tokenize.tokenizer_json import SpecialToken

pytest.importorskip("tokenizers")

ODD = "x = '<|endoftext|><fim_prefix>'  # e\u0301 \u2581 →\r\n\tDEF = 12345\n" * 3


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, standard_library: list[Path]) -> Path:
    """A folder with a build of a dozen files, whose tokenizer has its special tokens named."""
    path = tmp_path_factory.mktemp("bytelevel")
    builds.corpus(path / "src", standard_library[200:211])
    (path / "src" / "odd.py").write_bytes(ODD.encode())
    (path / "qwen.json").write_bytes(file_of("qwen2"))
    names = {"bos": "<|im_start|>", "eos": "<|im_end|>"}
    config = builds.config(
        path / "build.yaml",
        path / "out",
        [{"name": "here", "path": str(path / "src"), "kind": "tree"}],
        tokenizer={"model": str(path / "qwen.json"), "special_tokens": names},
        sequence={"length": 8192},  # a tiny vocabulary makes long documents
    )
    done = builds.run("build", config)
    assert done.returncode == 0, done.stderr
    assert "tokens: the tokenizer's normalizer (NFC) is left out" in done.stdout + done.stderr
    return path


def test_the_build_is_whole(place: Path) -> None:
    done = builds.run("verify", place / "out")
    assert done.returncode == 0, done.stdout + done.stderr


def test_its_shards_decode_to_its_documents_with_fim_undone(place: Path) -> None:
    dataset = Dataset(place / "out")
    model = dataset.tokenizer()
    assert isinstance(model, ByteLevelModel)
    table = segments(pa.Table.from_batches(dataset.sequences()))
    found = documents_from_segments(table, model)
    documents = dataset.documents()
    assert documents is not None
    texts = dict(zip(*(documents.to_table().column(name).to_pylist() for name in ("id", "text")), strict=True))
    assert dict(zip(found["id"].to_pylist(), found["text"].to_pylist(), strict=True)) == {
        name: text.encode() for name, text in texts.items()
    }
    assert ODD in texts.values()
    assert np.count_nonzero(table["fim"].to_numpy()) > 3


def test_its_manifest_tells_the_special_tokens_that_the_config_names(place: Path) -> None:
    manifest = json.loads((place / "out" / "manifest.json").read_bytes())
    given = load_given_model(Tokenizer(model=str(place / "qwen.json")))
    assert given is not None
    first = given.special_tokens["bos"]  # <|endoftext|>, behind which the others stand
    assert manifest["special_tokens"] == {
        "bos": first + 1, "eos": first + 2, "padding": first + 2,
        "fim_prefix": first + 3, "fim_suffix": first + 5, "fim_middle": first + 4, "fim_end": first + 6,
    }  # fmt: skip
    assert manifest["tokenizer"]["lossy_characters"] == 0
    assert manifest["tokenizer"]["vocabulary_size"] == first + 7


def test_a_sequence_is_shown_with_its_fim_parts(place: Path) -> None:
    dataset = Dataset(place / "out")
    model = dataset.tokenizer()
    assert model is not None
    shown = [
        s for batch in dataset.sequences() for i in range(len(batch)) for s in decoded_segments(batch[i : i + 1], model)
    ]
    roles = {run.role for segment in shown for run in segment.runs if segment.fim == "PSM"}
    assert {"special", "prefix", "suffix", "middle"} <= roles


def test_the_check_counts_what_the_library_would_not_read_as_text(place: Path) -> None:
    found = check(place / "out" / "tokenizer.model", [place / "src"])
    assert found["documents"] == 12
    assert found["not_compared"] == 1
    assert (found["differing_ids"], found["not_given_back"], found["lossy_characters"]) == (0, 0, 0)


def test_a_name_that_a_model_has_not_is_told_before_the_build_begins(place: Path, small_model: Path) -> None:
    qwen = str(place / "qwen.json")
    with pytest.raises(ConfigError, match=r"special_tokens\.eos: '</s>' is no token of the model; give one of '<\|end"):
        load_given_model(Tokenizer(model=qwen, special_tokens=SpecialTokens(eos="</s>")))
    with pytest.raises(ConfigError, match="is a SentencePiece model, which says itself"):
        load_given_model(Tokenizer(model=str(small_model), special_tokens=SpecialTokens(eos="</s>")))


def test_the_config_has_a_key_for_each_special_token() -> None:
    assert tuple(SpecialTokens.model_fields) == get_args(SpecialToken)
