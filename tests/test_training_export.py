"""An exported checkpoint is the same model in transformers: its logits, its generation, its tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from oracles.tokenize_models import trained
from safetensors import safe_open
from safetensors.torch import load_file

from codemill.errors import ConfigError, DataError, RunError
from codemill.tokenize.fim import PSM, fim_prompt
from codemill.tokenize.model import TokenizerModel
from codemill.training.attention import Layout
from codemill.training.checkpoint_reader import name_of
from codemill.training.checkpoints import Checkpoints, model_files, model_state, open_model
from codemill.training.config import CheckpointSettings
from codemill.training.consensus import Consensus
from codemill.training.export import export
from codemill.training.generate import complete, infill_texts
from codemill.training.model import Llama
from codemill.training.parallel import Ranks
from codemill.training.presets import ModelShape
from codemill.training.sampling import Sampling
from codemill.training.weights import load_into, read_shape

transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def tokenizer() -> TokenizerModel:
    return TokenizerModel(trained())


def a_model(vocabulary_size: int, **changes) -> Llama:
    sizes = {"dim": 32, "layers": 2, "heads": 4, "kv_heads": 2, "ffn_dim": 48, "max_positions": 128}
    model = Llama(ModelShape(vocabulary_size, **{**sizes, **changes}))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(parameter.ndim == 1, 0.3, generator=generator)
    return model.eval()


def checkpoint(run: Path, model: Llama, tokenizer: TokenizerModel, step: int = 7) -> Path:
    """A checkpoint of a run, as the trainer writes it (without an optimizer)."""
    folder = run / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    alone = Ranks(0, 1, 0, torch.device("cpu"), None, 0, 1)
    files = model_files(model.shape, tokenizer.special_tokens, tokenizer.model_bytes)
    writer = Checkpoints(folder, CheckpointSettings(asynchronous=False), alone, Consensus(alone), files, print)
    writer.save(step, model_state(model), {})
    writer.close()
    return folder / name_of(step)


@pytest.fixture(scope="module")
def model(tokenizer) -> Llama:
    return a_model(tokenizer.vocabulary_size)


@pytest.fixture(scope="module")
def run(tmp_path_factory, model, tokenizer) -> Path:
    path = tmp_path_factory.mktemp("run")
    checkpoint(path, model, tokenizer)
    return path


@pytest.mark.parametrize("kv_heads", [4, 1])
@pytest.mark.parametrize("theta", [1e4, 1e6])
def test_transformers_computes_the_same_logits(tmp_path, tokenizer, kv_heads, theta):
    model = a_model(tokenizer.vocabulary_size, kv_heads=kv_heads, theta=theta, norm_eps=1e-4)
    checkpoint(tmp_path / "run", model, tokenizer)
    export(tmp_path / "run", tmp_path / "out", "fp32")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert type(theirs).__name__ == "LlamaForCausalLM"
    assert theirs.dtype == torch.float32
    tokens = torch.from_numpy(np.random.default_rng(0).integers(0, tokenizer.vocabulary_size, (2, 100)))
    with torch.no_grad():
        ours, expected = model(tokens, Layout.of([[100], [100]])), theirs(tokens).logits
    assert (ours - expected).abs().max() / expected.abs().max() < 1e-5
    assert expected.std() > 0.5


def test_transformers_generates_the_same_tokens(tmp_path, run, model, tokenizer):
    export(run, tmp_path / "out", "fp32")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    prompts = [np.array([1, *range(20, 20 + n)]) for n in (0, 3, 11, 30)]
    ends = {tokenizer.special_tokens["eos"], tokenizer.special_tokens["fim_end"]}
    for prompt, each in zip(prompts, complete(open_model(run, "cpu", torch.float32), prompts, 40), strict=True):
        expected = theirs.generate(torch.tensor(prompt)[None], max_new_tokens=40, do_sample=False)[0, len(prompt) :]
        assert each.ids.tolist() == [token for token in expected.tolist() if token not in ends]
    assert set(theirs.generation_config.eos_token_id) == ends


def test_transformers_infills_a_prompt_that_is_written_as_text(tmp_path, run, tokenizer):
    export(run, tmp_path / "out", "fp32")
    read = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    prompt = read("▁<PRE> def area(▁<SUF>:\n▁<MID>", return_tensors="pt")
    assert prompt.input_ids[0].tolist() == fim_prompt(tokenizer, "def area(", ":\n", PSM).tolist()
    ids = theirs.generate(**prompt, max_new_tokens=12, do_sample=False)[0, prompt.input_ids.shape[1] :]
    [ours] = infill_texts(open_model(run, "cpu", torch.float32), [("def area(", ":\n")], "psm", Sampling(12))
    assert ids.tolist()[: len(ours.completion.ids)] == ours.completion.ids.tolist()


@pytest.mark.parametrize("shard_bytes", [5_000_000_000, 30_000, 1])
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_every_tensor_is_there_to_the_bit(tmp_path, run, model, dtype, shard_bytes):
    told = export(run, tmp_path / "out", dtype, shard_bytes)
    files = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert len(files) == {5_000_000_000: 1, 1: 21}.get(shard_bytes, len(files))
    assert shard_bytes != 30_000 or 1 < len(files) < 21
    kind = {"bf16": torch.bfloat16, "fp32": torch.float32}[dtype]
    found = {k: v for file in files for k, v in load_file(tmp_path / "out" / file).items()}
    assert found.keys() == dict(model.named_parameters()).keys()
    for name, parameter in model.named_parameters():
        assert found[name].dtype == kind
        assert torch.equal(found[name], parameter.detach().to(kind)), name
    assert told["files"] == {path.name: path.stat().st_size for path in (tmp_path / "out").iterdir()}
    for name in files:  # tensors begin at a multiple of 8 bytes, as in files of the library
        assert int.from_bytes((tmp_path / "out" / name).read_bytes()[:8], "little") % 8 == 0
    if len(files) > 1:
        assert files[0] == f"model-00001-of-{len(files):05}.safetensors"
        for name in files:
            with safe_open(tmp_path / "out" / name, "pt") as weights:
                sizes = [torch.tensor(weights.get_slice(n).get_shape()).prod() * kind.itemsize for n in weights.keys()]  # noqa: SIM118
                assert weights.metadata() == {"format": "pt"}
            assert sum(sizes) <= shard_bytes or len(sizes) == 1
        index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
        assert index["metadata"]["total_size"] == sum(p.numel() for p in model.parameters()) * kind.itemsize
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert all(torch.equal(again.get_parameter(name), tensor) for name, tensor in found.items())
    assert again.dtype == kind


def test_a_training_may_start_from_an_export(tmp_path, run, model):
    export(run, tmp_path / "out", "fp32")
    assert read_shape(tmp_path / "out") == model.shape
    other = a_model(model.shape.vocabulary_size)
    for parameter in other.parameters():
        torch.nn.init.zeros_(parameter)
    load_into(other, tmp_path / "out")
    for name, parameter in model.named_parameters():
        assert torch.equal(other.get_parameter(name), parameter)


def test_a_model_of_transformers_comes_back_from_training_unchanged(tmp_path, tokenizer):
    """transformers -> init -> checkpoint -> export -> transformers."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=tokenizer.vocabulary_size, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=200, rope_theta=1e6, rms_norm_eps=1e-5,
    )  # fmt: skip
    first = transformers.LlamaForCausalLM(config)
    first.save_pretrained(tmp_path / "first", max_shard_size="30KB")
    (tmp_path / "first" / "tokenizer.model").write_bytes(tokenizer.model_bytes)
    opened = open_model(tmp_path / "first", "cpu", torch.float32)
    checkpoint(tmp_path / "run", opened.model, tokenizer)
    export(tmp_path / "run", tmp_path / "out", "fp32")
    last = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert all(torch.equal(last.get_parameter(name), tensor) for name, tensor in first.named_parameters())
    for key in ("max_position_embeddings", "rope_parameters", "rms_norm_eps", "num_key_value_heads", "head_dim"):
        assert getattr(last.config, key) == getattr(first.config, key), key


def test_config_and_tokenizer_belong_together(tmp_path, run, tokenizer):
    told = export(run, tmp_path / "out")
    read = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    config = transformers.AutoConfig.from_pretrained(tmp_path / "out")
    assert len(read) == config.vocab_size == tokenizer.vocabulary_size
    assert (config.bos_token_id, config.eos_token_id) == (read.bos_token_id, read.eos_token_id) == (1, 2)
    assert read.model_max_length == config.max_position_embeddings == 128
    assert config.dtype == torch.bfloat16
    assert (tmp_path / "out" / "tokenizer.model").read_bytes() == tokenizer.model_bytes
    assert (told["step"], told["dtype"], told["no_tokenizer_json"]) == (7, "bf16", None)
    assert json.loads(json.dumps(told)) == told


def test_the_vocabulary_of_code_llama_is_complete(tmp_path, llama2_model):
    tokenizer = TokenizerModel.load(llama2_model)
    checkpoint(tmp_path / "run", a_model(32_016, dim=8, layers=1, heads=1, kv_heads=1, ffn_dim=8), tokenizer)
    export(tmp_path / "run", tmp_path / "out")
    read = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.get_input_embeddings().weight.shape[0] == len(read) == 32_016
    assert read.convert_tokens_to_ids("▁<EOT>") == 32_010
    assert model.generation_config.eos_token_id == [2, 32_010]


def test_the_same_checkpoint_gives_the_same_bytes(tmp_path, run):
    for name in ("one", "two"):
        export(run, tmp_path / name, shard_bytes=30_000)
    first, second = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert first == second


def test_an_empty_folder_is_filled_and_another_refused(tmp_path, run):
    (tmp_path / "out").mkdir()
    export(run, tmp_path / "out")
    with pytest.raises(ConfigError, match="is there already; give the path of a new folder"):
        export(run, tmp_path / "out")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="is there already"):
        export(run, tmp_path / "file")


def test_an_export_that_fails_leaves_nothing(tmp_path, run, monkeypatch):
    taken = 0

    def sometimes(*arguments):
        nonlocal taken
        taken += 1
        if taken == 5:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("codemill.training.export.load_state", sometimes)
    with pytest.raises(RunError, match=r"out: cannot be written \(No space left on device\); make room"):
        export(run, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_with_a_damaged_tensor_is_refused(tmp_path, model, tokenizer):
    folder = checkpoint(tmp_path / "run", model, tokenizer)
    [data] = folder.glob("*.distcp")
    content = bytearray(data.read_bytes())
    content[:200] = bytes(200)
    data.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read"):
        export(folder, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_a_hugging_face_folder_is_not_exported_again(tmp_path, run):
    export(run, tmp_path / "out")
    with pytest.raises(ConfigError, match="is a Hugging Face folder already"):
        export(tmp_path / "out", tmp_path / "again")


def test_a_tokenizer_that_transformers_would_read_otherwise_is_told(tmp_path):
    tokenizer = TokenizerModel(trained(model_type="unigram"))
    checkpoint(tmp_path / "run", a_model(tokenizer.vocabulary_size), tokenizer)
    said: list[str] = []
    told = export(tmp_path / "run", tmp_path / "out", say=said.append)
    assert "merging pairs" in told["no_tokenizer_json"]
    assert len(said) == 1 and "no tokenizer.json" in said[0]
    assert not (tmp_path / "out" / "tokenizer.json").exists()
    read = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert read.config.vocab_size == tokenizer.vocabulary_size


def test_tensors_are_read_one_at_a_time(tmp_path, run, monkeypatch):
    """The most that a model of 70B needs is its largest tensor."""
    from codemill.training import export as module

    asked: list[list[int]] = []
    load = module.load_state

    def counted(folder, state, group):
        asked.append([tensor.numel() for tensor in state.values()])
        load(folder, state, group)

    monkeypatch.setattr(module, "load_state", counted)
    export(run, tmp_path / "out")
    assert len(asked) == 21
    assert all(len(sizes) == 1 for sizes in asked)
