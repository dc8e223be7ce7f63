"""A Hugging Face folder's weights get into a model as they are: from any files, to any rank's share, one at a time."""

from __future__ import annotations

import json
import multiprocessing
import threading
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from codemill.errors import CodemillError, ConfigError, DataError
from codemill.training.weights import EMBEDDINGS, HEAD, load_into, read_shape

transformers = pytest.importorskip("transformers")

VOCABULARY = 60
SMALL = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
}  # fmt: skip


def hf_model(**changes) -> nn.Module:
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**SMALL, **changes}))


def saved(folder: Path, dtype: torch.dtype = torch.float32, shard: str = "20KB", **changes) -> dict[str, torch.Tensor]:
    """A model written by transformers, in many files; its parameters as they were written."""
    model = hf_model(**changes).to(dtype)
    model.save_pretrained(folder, max_shard_size=shard)
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def empty(**changes) -> nn.Module:
    """A model of the same shape whose parameters are all NaN."""
    model = hf_model(**changes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(torch.nan)
    return model


def named(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor.to(found[name].dtype)), name


def rewritten(folder: Path, change) -> None:
    """Put other tensors into the folder's only file. change: dict -> None, in place."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shard", ["20KB", "1GB"])
def test_every_parameter_is_that_of_the_files(tmp_path, dtype, shard):
    expected = saved(tmp_path, dtype, shard)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shard == "20KB")
    model = empty()
    load_into(model, tmp_path)
    assert_same(named(model), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_new_rows_of_a_vocabulary_are_the_mean_of_the_old_ones(tmp_path, dtype):
    expected = saved(tmp_path, dtype)
    model = empty(vocab_size=VOCABULARY + 5)
    load_into(model, tmp_path)
    found = named(model)
    for name in (EMBEDDINGS, HEAD):
        grown = found.pop(name)
        old = expected.pop(name)
        assert torch.equal(grown[:VOCABULARY], old.float())
        assert torch.allclose(grown[VOCABULARY:], old.double().mean(0).float().expand(5, -1), rtol=1e-6)
        assert torch.equal(grown[VOCABULARY:], grown[VOCABULARY].expand(5, -1))
    assert_same(found, expected)


def test_a_mean_is_that_of_all_rows_when_they_are_read_in_pieces(tmp_path, monkeypatch):
    expected = saved(tmp_path)
    monkeypatch.setattr("codemill.training.weights._ROWS", 7)
    model = empty(vocab_size=VOCABULARY + 1)
    load_into(model, tmp_path)
    assert torch.allclose(named(model)[HEAD][-1], expected[HEAD].double().mean(0).float(), rtol=1e-6)


@pytest.mark.parametrize("more", [0, 3])
def test_a_tied_head_becomes_a_copy_of_the_embeddings(tmp_path, more):
    saved(tmp_path, shard="1GB", tie_word_embeddings=True)
    assert HEAD not in load_file(tmp_path / "model.safetensors")
    model = empty(vocab_size=VOCABULARY + more)
    load_into(model, tmp_path)
    found = named(model)
    assert torch.equal(found[HEAD], found[EMBEDDINGS])
    assert found[HEAD].data_ptr() != found[EMBEDDINGS].data_ptr()
    assert found[HEAD].isfinite().all()


def test_a_head_beside_tied_embeddings_counts_as_in_transformers(tmp_path):
    saved(tmp_path, shard="1GB", tie_word_embeddings=True)
    rewritten(tmp_path, lambda tensors: tensors.update({HEAD: torch.ones(VOCABULARY, 32)}))
    model = empty()
    load_into(model, tmp_path)
    assert torch.equal(named(model)[HEAD], torch.ones(VOCABULARY, 32))
    theirs = transformers.LlamaForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(theirs.lm_head.weight, torch.ones(VOCABULARY, 32))


def test_tables_that_old_versions_wrote_are_left_out(tmp_path):
    expected = saved(tmp_path, shard="1GB")
    rewritten(tmp_path, lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}))
    model = empty()
    load_into(model, tmp_path)
    assert_same(named(model), expected)


def on_four_ranks(check) -> None:
    """Run check(mesh, rank) in four processes with a mesh of 2 x 2, one after the other.

    Their collectives do nothing, so what a rank has in the end, it has read itself. They are processes of their own
    because DTensor remembers what it computed for a rank.
    """
    for rank in range(4):
        child = multiprocessing.get_context("fork").Process(target=_as_rank, args=(check, rank))
        child.start()
        child.join()
        assert child.exitcode == 0, f"rank {rank}: see its traceback"


def _as_rank(check, rank: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("fake", rank=rank, world_size=4, store=FakeStore())
    check(init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor")), rank)


PLACEMENTS = {
    "rows": [Replicate(), Shard(0)],
    "columns": [Replicate(), Shard(1)],
    "rows and columns": [Shard(0), Shard(1)],
    "rows twice": [Shard(0), Shard(0)],
}


def spread(model: nn.Module, mesh, layout: str) -> None:
    """Make the model's parameters DTensors over the mesh."""
    if layout == "fsdp":
        fully_shard(model, mesh=mesh["data"])
        return
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            wanted = [Replicate(), Shard(0)] if parameter.ndim == 1 else PLACEMENTS[layout]
            share = distribute_tensor(parameter.detach(), mesh, wanted, src_data_rank=None)
            module.register_parameter(name, nn.Parameter(share))


@pytest.mark.parametrize("layout", ["fsdp", *PLACEMENTS])
def test_each_rank_reads_its_own_share(tmp_path, layout):
    saved(tmp_path)
    whole = empty(vocab_size=VOCABULARY + 5)
    load_into(whole, tmp_path)

    def check(mesh, rank: int) -> None:
        model = empty(vocab_size=VOCABULARY + 5)
        spread(model, mesh, layout)
        load_into(model, tmp_path)
        for name, parameter in named(model).items():
            assert isinstance(parameter, DTensor)
            expected = distribute_tensor(
                named(whole)[name], parameter.device_mesh, parameter.placements, src_data_rank=None
            ).to_local()
            assert torch.equal(parameter.to_local(), expected), name
            assert expected.numel() < parameter.numel()

    on_four_ranks(check)


@pytest.mark.parametrize("more", [4, 5])  # 5: uneven shares
def test_fsdp_over_tensor_parallel_shares_are_right_too(tmp_path, more):
    """Both divide the rows of one matrix: the tensor dimension first, though it is the second of the mesh."""
    saved(tmp_path)
    whole = empty(vocab_size=VOCABULARY + more)
    load_into(whole, tmp_path)
    by_tensor_rank = named(whole)[HEAD].chunk(2)

    def check(mesh, rank: int) -> None:
        model = empty(vocab_size=VOCABULARY + more)
        rows = distribute_tensor(model.lm_head.weight.detach(), mesh["tensor"], [Shard(0)], src_data_rank=None)
        model.lm_head.register_parameter("weight", nn.Parameter(rows))
        fully_shard(model.lm_head, mesh=mesh["data"])
        load_into(model, tmp_path)
        assert torch.equal(model.lm_head.weight.to_local(), by_tensor_rank[rank % 2].chunk(2)[rank // 2])

    on_four_ranks(check)


def anonymous_bytes() -> int:
    """Memory of this process that is no mapped file."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")]
    return int(line.split()[1]) * 1024


@pytest.mark.slow
def test_beside_the_model_no_more_than_a_tensor_is_in_memory(tmp_path):
    """A model of 218 MB, whose largest tensor has 8 MB."""
    large = {"hidden_size": 512, "intermediate_size": 4096, "num_hidden_layers": 7, "vocab_size": 4000}
    saved(tmp_path, shard="60MB", **large)
    model = empty(**{**large, "vocab_size": 4100})
    assert sum(p.numel() * 4 for p in model.parameters()) > 200e6
    before, peak, stop = anonymous_bytes(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not stop.wait(0.0005):
            peak = max(peak, anonymous_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    load_into(model, tmp_path)
    stop.set()
    watcher.join()
    assert peak > 0
    assert peak - before < 60e6, (peak, before)  # a second copy of the model would be 218 MB


def test_the_shape_is_that_of_the_real_config(tmp_path):
    saved(tmp_path, rope_parameters={"rope_type": "default", "rope_theta": 123456.0})
    shape = read_shape(tmp_path)
    assert (shape.theta, shape.max_positions, shape.kv_heads, shape.vocabulary_size) == (123456.0, 128, 2, VOCABULARY)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["rope_parameters"]
    (tmp_path / "config.json").write_text(json.dumps({**config, "rope_theta": 1e6, "rope_scaling": None}))
    assert read_shape(tmp_path).theta == 1e6


def edit_config(folder: Path, **changes) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def drop(folder: Path, name: str) -> None:
    rewritten(folder, lambda tensors: tensors.pop(name))


def reshape(folder: Path) -> None:
    rewritten(folder, lambda t: t.update({"model.norm.weight": torch.ones(31)}))


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def as_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


DAMAGES = {
    "no config": (lambda folder: (folder / "config.json").unlink(), ConfigError, "config.json: cannot be read"),
    "config cut": (lambda f: (f / "config.json").write_text('{"a": '), ConfigError, "config.json: cannot be read"),
    "config a list": (lambda f: (f / "config.json").write_text("[]"), ConfigError, "must hold a mapping; got list"),
    "quantized": (lambda f: edit_config(f, quantization_config={}), ConfigError, "quantized; take its weights in bf16"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), DataError, "has neither model.safetensors nor"),
    "pickled": (as_pickle, DataError, "pickles .*give it as safetensors"),
    "truncated": (truncate, DataError, "model.safetensors: is no whole safetensors file"),
    "empty": (lambda f: (f / "model.safetensors").write_bytes(b""), DataError, "is no whole safetensors file"),
    "missing": (lambda f: drop(f, "model.norm.weight"), DataError, r"lacks model\.norm\.weight; config\.json must"),
    "no head": (lambda f: drop(f, HEAD), DataError, r"lacks lm_head\.weight"),
    "left over": (
        lambda f: rewritten(f, lambda t: t.update({f"x{i}.bias": torch.ones(1) for i in range(5)})),
        DataError,
        r"has not: x0\.bias, x1\.bias, x2\.bias and 2 more",
    ),
    "shape": (reshape, DataError, r"model\.norm\.weight has the shape \[31\], the model \[32\]"),
    "integers": (
        lambda f: rewritten(f, lambda t: t.update({HEAD: torch.ones(VOCABULARY, 32, dtype=torch.int8)})),
        DataError,
        r"lm_head\.weight is of dtype I8; take weights in bf16",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_folder_that_is_none_gets_one_clear_error(tmp_path, damage):
    saved(tmp_path, shard="1GB")
    hurt, error, message = DAMAGES[damage]
    hurt(tmp_path)
    with pytest.raises(error, match=message) as told:
        load_into(empty(), tmp_path)
    assert str(tmp_path) in str(told.value)


def point_elsewhere(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"][HEAD] = "../model-00001-of-00005.safetensors"
    index.write_text(json.dumps(content))


def point_wrongly(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"][HEAD] = content["weight_map"][EMBEDDINGS]
    index.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("hurt", "message"),
    [
        (lambda f: (f / "model-00003-of-00005.safetensors").unlink(), "00003-of-00005.*is in the index but not there"),
        (lambda f: (f / "model.safetensors.index.json").write_text("{}"), "index.json: cannot be read .*weight_map"),
        (lambda f: (f / "model.safetensors.index.json").write_text('{"weight_map": {}}'), "must name files of its own"),
        (point_elsewhere, "must name files of its own folder"),
        (point_wrongly, r"has no tensor 'lm_head\.weight', though the index says so"),
    ],
)
def test_an_index_that_does_not_hold_gets_one_clear_error(tmp_path, hurt, message):
    saved(tmp_path)
    hurt(tmp_path)
    with pytest.raises(DataError, match=message):
        load_into(empty(), tmp_path)


def test_a_vocabulary_never_shrinks(tmp_path):
    saved(tmp_path)
    with pytest.raises(DataError, match=r"has the shape \[60, 32\], the model \[59, 32\].*can only grow"):
        load_into(empty(vocab_size=VOCABULARY - 1), tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}},
        {"rope_parameters": None, "rope_scaling": {"type": "dynamic", "factor": 2.0}},
        {"model_type": "mistral"},
        {"attention_bias": True},
    ],
)
def test_a_model_of_another_kind_is_refused(tmp_path, change):
    saved(tmp_path)
    edit_config(tmp_path, **change)
    with pytest.raises(CodemillError, match=r"can(not)? be trained here"):
        read_shape(tmp_path)
