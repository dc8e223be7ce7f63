"""Folders that Hugging Face's transformers writes are read as tokenizers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from oracles.byte_level_models import file_of

from codemill.errors import ConfigError, DataError
from codemill.pipeline.config import SpecialTokens, Tokenizer
from codemill.pipeline.stages.tokenizer import load_given_model
from codemill.tokenize.tokenizer import load_tokenizer

transformers = pytest.importorskip("transformers")
ODD = "ends", "begins"  # names of tokens that no family has


def renamed() -> bytes:
    """A byte-level model whose special tokens have names that nobody knows."""
    content = json.loads(file_of("qwen2"))
    taken = max(entry["id"] for entry in content["added_tokens"]) + 1
    added = [entry for entry in content["added_tokens"] if entry["content"] != "<|endoftext|>"]
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    content["added_tokens"] = [
        *added, *({"id": taken + i, "content": name, **plain, "special": True} for i, name in enumerate(ODD))
    ]  # fmt: skip
    return json.dumps(content).encode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as transformers saves it, of such a model."""
    (tmp_path / "odd.json").write_bytes(renamed())
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / "odd.json"), eos_token="ends", bos_token="begins", pad_token="ends"
    )
    fast.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def given(path: Path, **names: str) -> Any:
    return load_given_model(Tokenizer(model=str(path), special_tokens=SpecialTokens(**names)))


def test_names_that_are_not_known_are_read_beside_the_tokenizer(folder: Path) -> None:
    own = transformers.AutoTokenizer.from_pretrained(folder)
    expected = {"bos": own.bos_token_id, "eos": own.eos_token_id, "padding": own.pad_token_id}
    for model in (given(folder), load_tokenizer(folder)):
        assert expected.items() <= model.special_tokens.items()
    with pytest.raises(ConfigError, match=r"tokenizer\.json: the tokenizer model has no bos token.*special_tokens"):
        given(folder / "tokenizer.json")


def test_names_are_read_from_the_map_of_older_versions_too(folder: Path) -> None:
    (folder / "tokenizer_config.json").unlink()
    names = {"bos_token": {"content": "begins", "lstrip": False}, "eos_token": "ends"}
    (folder / "special_tokens_map.json").write_text(json.dumps(names))
    model = given(folder)
    own = json.loads((folder / "tokenizer.json").read_bytes())
    ids = {entry["content"]: entry["id"] for entry in own["added_tokens"]}
    assert (model.special_tokens["bos"], model.special_tokens["eos"]) == (ids["begins"], ids["ends"])


def test_names_of_the_config_count_more_and_known_names_more_than_the_folders(folder: Path) -> None:
    model = given(folder)
    assert given(folder, eos="begins").special_tokens["eos"] == model.special_tokens["bos"]
    (folder / "tokenizer.json").write_bytes(file_of("qwen2"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>"}))
    known = load_tokenizer(file_of("qwen2")).special_tokens
    assert given(folder).special_tokens == known


@pytest.mark.parametrize("config", [b"{", b"[]", b'{"eos_token": 5}', b'{"eos_token": "no such token"}', b"\xff"])
def test_a_config_that_says_nothing_to_be_read_names_no_token(folder: Path, config: bytes) -> None:
    (folder / "tokenizer_config.json").write_bytes(config)
    (folder / "special_tokens_map.json").unlink(missing_ok=True)
    with pytest.raises(ConfigError, match="special_tokens"):
        given(folder)


def test_a_sentencepiece_folder_is_read_and_goes_before_what_was_made_from_it(
    tmp_path: Path, small_model: Path
) -> None:
    shutil.copy(small_model, tmp_path / "tokenizer.model")
    assert given(tmp_path).model_bytes == small_model.read_bytes()
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "BPE"}, "pre_tokenizer": {"type": "Metaspace"}}')
    assert given(tmp_path).model_bytes == small_model.read_bytes()
    assert load_tokenizer(tmp_path).model_bytes == small_model.read_bytes()


def test_a_folder_without_a_tokenizer_is_told_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(
        ConfigError, match=rf"^tokenizer\.model: {tmp_path}: .*no tokenizer\.json and no tokenizer\.model"
    ):
        given(tmp_path)
    with pytest.raises(DataError, match=r"no tokenizer\.json and no tokenizer\.model"):
        load_tokenizer(tmp_path)
