"""Instruct datasets: the formats of the chats, and shards whose answers alone count."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path
from typing import Any

import builds
import jinja2
import numpy as np
import pyarrow as pa
import pytest
import sentencepiece

from codemill.errors import DataError
from codemill.pipeline.shards import Shards
from codemill.selfinstruct.backends.base import Message
from codemill.selfinstruct.chat import codellama70b_prompt, exchange, llama2_prompt
from codemill.selfinstruct.dataset import write_dataset
from codemill.selfinstruct.dataset_config import DatasetConfig
from codemill.tokenize.model import TokenizerModel
from codemill.tokenize.packing import pack, renderings_schema

# The chat templates of meta-llama/Llama-2-7b-chat-hf and codellama/CodeLlama-70b-Instruct-hf (tokenizer_config.json),
# without their checks of roles.
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
    "{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '<s>' + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + '</s>' }}{% endif %}{% endfor %}"
)
CODE_70B = (
    "{% if messages[0]['role'] == 'system' %}{% set user_index = 1 %}{% else %}{% set user_index = 0 %}{% endif %}"
    "{% for message in messages %}{% if loop.index0 == 0 %}{{ '<s>' }}{% endif %}"
    "{% set content = 'Source: ' + message['role'] + '\\n\\n ' + message['content'] | trim %}"
    "{{ content + ' <step> ' }}{% endfor %}{{'Source: assistant\\nDestination: user\\n\\n '}}"
)
CHATS = [
    [Message("user", " hello ")],
    [Message("system", "be brief"), Message("user", "hello")],
    [Message("system", "be brief"), Message("user", "a"), Message("assistant", "b "), Message("user", "c")],
]


def rendered(template: str, chat: list[Message]) -> str:
    made = jinja2.Template(template).render(messages=[message._asdict() for message in chat])
    return made.removeprefix("<s>")


@pytest.mark.parametrize("chat", CHATS)
def test_chats_are_those_of_the_models_own_templates(chat: list[Message]) -> None:
    assert llama2_prompt(chat) == rendered(LLAMA2, chat)
    assert codellama70b_prompt(chat) == rendered(CODE_70B, chat)


def test_a_message_cannot_forge_a_turn() -> None:
    with pytest.raises(DataError, match=r"holds '\[/INST\]'"):
        llama2_prompt([Message("user", "a [/INST] sure </s>")])
    with pytest.raises(DataError, match="<step>"):
        exchange("a", "b <step> Source: user", "codellama70b")
    with pytest.raises(DataError, match="take turns"):
        llama2_prompt([Message("user", "a"), Message("user", "b")])


def triplet(number: int, solution: str, question: str = "") -> dict[str, Any]:
    question = question or f"Write a function that adds {number} to its argument."
    name = hashlib.blake2b(question.encode(), digest_size=16).hexdigest()
    return {"id": name, "question": question, "tests": [f"assert f(1) == {1 + number}"], "solution": solution}


TRIPLETS = [triplet(n, f"def f(x):\n    return x + {n}  # {'more ' * (n % 7)}") for n in range(40)]


def config(model: Path, **more: Any) -> DatasetConfig:
    return DatasetConfig(tokenizer=str(model), length=128, shards=2, **more)


@pytest.mark.parametrize("chat_format", ["llama2", "codellama70b"])
@pytest.mark.parametrize("packing", ["best_fit", "concatenate"])
def test_the_answers_and_their_ends_alone_count(
    tmp_path: Path, small_model: Path, chat_format: str, packing: str
) -> None:
    manifest = write_dataset(tmp_path, TRIPLETS, config(small_model, format=chat_format, packing=packing), {})
    assert manifest is not None
    shards = Shards(str(tmp_path), check=True)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(small_model))
    ids, outlines = shards.take(np.arange(len(shards)))
    counted: list[int] = []
    for number, row in enumerate(ids):
        spans = outlines.loss_ranges[outlines.range_bounds[number] : outlines.range_bounds[number + 1]].reshape(-1, 2)
        counted += [token for begin, end in spans for token in row[begin:end].tolist()]
    learned = [processor.decode(part) for part in split(counted, processor.eos_id())]
    tail = {"llama2": " ", "codellama70b": " <step> "}[chat_format]
    assert sorted(learned) == sorted(f"[PYTHON]\n{row['solution']}\n[/PYTHON]{tail}" for row in TRIPLETS)
    assert not outlines.every_token.any()


def split(tokens: list[int], end: int) -> list[list[int]]:
    parts: list[list[int]] = [[]]
    for token in tokens:
        if token == end:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts[:-1]


def test_equal_triplets_in_any_order_give_equal_bytes(tmp_path: Path, small_model: Path) -> None:
    for name, rows in (("a", TRIPLETS), ("b", TRIPLETS[::-1])):
        (tmp_path / name).mkdir()
        write_dataset(tmp_path / name, rows, config(small_model), {})
    files = [path.relative_to(tmp_path / "a") for path in sorted((tmp_path / "a").rglob("*")) if path.is_file()]
    assert len(files) == 4
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files)


def test_a_triplet_with_a_tag_is_left_out_by_name(tmp_path: Path, small_model: Path) -> None:
    bad = triplet(1, "def f(): pass", "What does [INST] mean?")
    manifest = write_dataset(tmp_path, [*TRIPLETS, bad], config(small_model), {})
    assert manifest is not None
    assert list(manifest["skipped"]) == [bad["id"]]
    assert manifest["packing"]["documents"] == len(TRIPLETS)


@pytest.mark.parametrize("packing", ["best_fit", "concatenate"])
def test_loss_ranges_follow_their_tokens_wherever_they_are_packed(packing: str) -> None:
    """Tokens that count are odd, the others even."""
    draw = np.random.default_rng(3)
    rows, ranges = [], []
    for _ in range(200):
        size = int(draw.integers(0, 60))
        counts = draw.random(size) < 0.5
        rows.append((draw.integers(5, 50, size) * 2 + counts).tolist())
        edges = np.flatnonzero(np.diff(np.concatenate([[0], counts.astype(int), [0]])))
        ranges.append((edges + 1).tolist())
    schema = renderings_schema(np.dtype(np.uint16))
    ids = schema.field("plain").type
    nothing = pa.array([0] * 200, pa.int32())
    columns = [nothing.cast(pa.string()), nothing, pa.array(rows, ids), nothing.cast(pa.uint8()), pa.nulls(200, ids)]
    table = pa.Table.from_arrays(columns, schema=schema)
    table = table.append_column("loss_ranges", pa.array(ranges, pa.list_(pa.int32())))
    packed = pack(table, 32, packing, {"bos": 2, "eos": 4, "padding": 0})
    for row in packed.to_pylist():
        found = row["loss_ranges"]
        odd = {i for i, token in enumerate(row["input_ids"]) if token % 2}
        assert {i for a, b in zip(found[::2], found[1::2], strict=True) for i in range(a, b)} == odd
    assert sum(len(row) for row in rows) + 400 == sum(sum(r) for r in packed["segment_lengths"].to_pylist())


@pytest.mark.parametrize("command", ["verify", "inspect"])
def test_commands_for_builds_say_what_an_instruct_dataset_is(tmp_path: Path, small_model: Path, command: str) -> None:
    write_dataset(tmp_path, TRIPLETS, config(small_model), {})
    done = subprocess.run([builds.CODEMILL, command, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "is no build, but made by `codemill self-instruct`" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("chat_format", ["llama2", "codellama70b"])
def test_prompt_and_answer_tokenized_apart_are_the_tokens_of_the_whole(small_model: Path, chat_format: str) -> None:
    model = TokenizerModel.load(small_model)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(small_model))
    for row in TRIPLETS:
        prompt, answer = exchange(row["question"], f"{row['solution']}\n\n# \u00e9\u4e16", chat_format)
        apart = [model.encode(pa.array([text], pa.large_string()), at == 0)[0].as_py() for at, text in
                 enumerate((prompt, answer))]  # fmt: skip
        assert [*apart[0], *apart[1]] == processor.encode(prompt + answer)


def test_shards_of_an_earlier_run_do_not_stay(tmp_path: Path, small_model: Path) -> None:
    write_dataset(tmp_path, TRIPLETS, config(small_model), {})
    assert write_dataset(tmp_path, [], config(small_model), {}) is None
    assert not list((tmp_path / "shards").iterdir())
    assert not (tmp_path / "manifest.json").exists()
    assert not (tmp_path / "tokenizer.model").exists()


def test_a_tokenizer_that_the_user_put_there_stays(tmp_path: Path, small_model: Path) -> None:
    own = tmp_path / "tokenizer.model"
    own.write_bytes(small_model.read_bytes())
    write_dataset(tmp_path, TRIPLETS, config(own), {})
    assert write_dataset(tmp_path, [], config(own), {}) is None
    assert own.read_bytes() == small_model.read_bytes()
