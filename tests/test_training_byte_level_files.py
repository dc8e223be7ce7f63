"""Byte-level tokenizers in exported folders: transformers reads our ids out of them, and we our special tokens."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from oracles.byte_level_models import STYLES, added, content, file_of
from oracles.tokenize_models import trained
from training_models import lively

from codemill.errors import DataError
from codemill.tokenize.fim import PSM, SPM, fim_prompt
from codemill.tokenize.tokenizer import Tokenizer, load_tokenizer
from codemill.tokenize.tokenizer_json import with_special_tokens
from codemill.training.byte_level_files import byte_level_files, read_byte_level
from codemill.training.checkpoint_reader import name_of
from codemill.training.checkpoints import (
    Checkpoints,
    model_files,
    model_state,
    open_model,
    require_same_tokenizer,
)
from codemill.training.config import CheckpointSettings
from codemill.training.consensus import Consensus
from codemill.training.export import export
from codemill.training.generate import complete_texts, infill_texts
from codemill.training.model import Llama
from codemill.training.parallel import Ranks
from codemill.training.presets import ModelShape
from codemill.training.sampling import Sampling

transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.usefixtures("one_thread")

TEXTS = ["", " ", "def area(width, height):\n    return 12345\n", "é → 😀\r\n", "e\u0301 don't", "\0\t  x"]


def ids_of(model: Tokenizer, texts: list[str]) -> list[list[int]]:
    return model.encode(pa.array(texts, pa.large_string())).to_pylist()


def loaded(model: Tokenizer, folder: Path):
    """The tokenizer as AutoTokenizer finds it in an exported folder."""
    for name, file in byte_level_files(model, max_positions=512).items():
        (folder / name).write_bytes(file)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": model.vocabulary_size}))
    return transformers.AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("style", STYLES)
def test_transformers_reads_our_ids_behind_a_bos_and_gives_texts_back(style, tmp_path):
    model = load_tokenizer(file_of(style))
    read = loaded(model, tmp_path)
    bos = model.special_tokens["bos"]
    assert read(TEXTS).input_ids == [[bos, *ids] for ids in ids_of(model, TEXTS)]
    assert [read.decode(ids, skip_special_tokens=True) for ids in read(TEXTS).input_ids] == TEXTS
    assert (read.bos_token_id, read.eos_token_id) == (bos, model.special_tokens["eos"])
    assert read.model_max_length == 512
    assert len(read) == model.vocabulary_size


@pytest.mark.parametrize("style", STYLES)
def test_a_fim_prompt_written_as_text_has_the_ids_of_fim_prompt(style, tmp_path):
    model = load_tokenizer(file_of(style))
    read = loaded(model, tmp_path)
    pre, suf, mid, end = read.convert_ids_to_tokens(
        [model.special_tokens[f"fim_{name}"] for name in ("prefix", "suffix", "middle", "end")]
    )
    assert read.encode(f"{pre}def f({suf}):\n{mid}") == fim_prompt(model, "def f(", "):\n", PSM).tolist()
    assert read.encode(f"{pre}{suf}):\n{mid}def f(") == fim_prompt(model, "def f(", "):\n", SPM).tolist()
    assert read.decode(read.encode(f"{pre}{suf}{mid}{end}"), skip_special_tokens=True) == ""


def test_tokens_behind_ids_without_a_token_keep_their_ids(tmp_path):
    file = content("starcoder")
    file["added_tokens"].append(added("<late>", 900, special=True))
    model = load_tokenizer(json.dumps(file).encode())
    read = loaded(model, tmp_path)
    names = ["<fim_prefix>", "<late>", "<|fim_end|>"]
    assert read.convert_tokens_to_ids(names) == [model.special_tokens["fim_prefix"], 900, 901]


NAMES = {"bos": "<|im_start|>", "eos": "<|im_end|>"}


@pytest.mark.parametrize("names", [{}, NAMES, {**NAMES, "fim_end": "<|endoftext|>"}])
def test_what_was_written_is_read_with_the_same_special_tokens(names, tmp_path):
    model = load_tokenizer(with_special_tokens(file_of("qwen2"), names))
    loaded(model, tmp_path)
    found = read_byte_level(tmp_path)
    assert found is not None
    again = load_tokenizer(found)
    assert again.special_tokens == model.special_tokens
    assert again.vocabulary_size == model.vocabulary_size
    assert ids_of(again, TEXTS) == ids_of(model, TEXTS)


def test_of_a_published_folder_the_ends_are_taken_that_its_config_names(tmp_path):
    assert read_byte_level(tmp_path) is None
    (tmp_path / "tokenizer.json").write_bytes(file_of("qwen2"))
    assert read_byte_level(tmp_path) == file_of("qwen2")
    (tmp_path / "tokenizer_config.json").write_text("no JSON")
    assert read_byte_level(tmp_path) == file_of("qwen2")
    told = {"bos_token": None, "eos_token": {"content": "<|im_end|>"}, "pad_token": "<|unheard-of|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(told))
    found = load_tokenizer(read_byte_level(tmp_path))
    first = found.special_tokens["bos"]
    assert [found.special_tokens[name] - first for name in ("bos", "eos", "padding")] == [0, 2, 2]
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "BPE"}, "pre_tokenizer": {"type": "Metaspace"}}')
    assert read_byte_level(tmp_path) is None


def test_a_checkpoint_is_exported_and_writes_the_same_from_there(tmp_path):
    tokenizer = load_tokenizer(with_special_tokens(file_of("qwen2"), NAMES))
    shape = ModelShape(tokenizer.vocabulary_size, dim=32, layers=2, heads=4, kv_heads=2, ffn_dim=48, max_positions=96)
    model = lively(Llama(shape))
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    alone = Ranks(0, 1, 0, torch.device("cpu"), None, 0, 1)
    files = model_files(shape, tokenizer.special_tokens, tokenizer.model_bytes)
    writer = Checkpoints(folder, CheckpointSettings(asynchronous=False), alone, Consensus(alone), files, print)
    writer.save(3, model_state(model), {})
    writer.close()
    said: list[str] = []
    told = export(tmp_path / "run", tmp_path / "out", "fp32", say=said.append)
    assert said == []
    assert {"tokenizer.json", "tokenizer_config.json"} < told["files"].keys()
    assert "tokenizer.model" not in told["files"]
    ours, theirs = (open_model(path, "cpu", torch.float32) for path in (folder / name_of(3), tmp_path / "out"))
    assert ours.special_tokens == theirs.special_tokens == tokenizer.special_tokens
    for write in (
        lambda opened: complete_texts(opened, ["def area(", ""], Sampling(8)),
        lambda opened: infill_texts(opened, [("def f(", "):\n")], "spm", Sampling(8)),
    ):
        assert [each.text for each in write(ours)] == [each.text for each in write(theirs)]
    require_same_tokenizer(tmp_path / "out", tokenizer.model_bytes)
    require_same_tokenizer(tmp_path / "out", file_of("qwen2"))


def test_a_model_of_another_tokenizer_is_refused_whatever_its_kind(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tokenizer.json").write_bytes(file_of("qwen2"))
    with pytest.raises(DataError, match=r"init: .*tokenizer\.json is not the tokenizer .*: piece \d+ is '"):
        require_same_tokenizer(tmp_path, file_of("gpt2"))
    with pytest.raises(DataError, match=r"piece 0 is '!' in it and '<unk>' in theirs"):
        require_same_tokenizer(tmp_path, trained())
