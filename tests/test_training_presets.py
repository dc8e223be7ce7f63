"""Shapes count their parameters as the published models do, and go to and from Hugging Face's config unchanged."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codemill.errors import ConfigError
from codemill.training.presets import MODELS, STAGES, ModelShape, stage_defaults

SMALL = ModelShape(300, dim=32, layers=2, heads=4, kv_heads=2, ffn_dim=48)


# Llama 2 (arXiv 2307.09288) and Hugging Face's model cards count with 32,000 pieces; Code Llama's 16 more, but for 34B,
# add 2 * 16 * dim. 1b is TinyLlama-1.1B.
@pytest.mark.parametrize(
    ("preset", "published", "more_pieces"),
    [
        ("7b", 6_738_415_616, 16),
        ("13b", 13_015_864_320, 16),
        ("34b", 33_743_970_304, 0),
        ("70b", 68_976_648_192, 16),
        ("1b", 1_100_048_384, 16),
    ],
)
def test_presets_have_as_many_parameters_as_the_published_models(preset: str, published: int, more_pieces: int) -> None:
    shape = MODELS[preset]
    assert shape.parameters() == published + 2 * more_pieces * shape.dim
    assert dataclasses.replace(shape, vocabulary_size=32_000).parameters() == published


@pytest.mark.parametrize(("preset", "billions"), [("7b", "6.74"), ("13b", "13.02"), ("34b", "33.74"), ("70b", "68.98")])
def test_presets_have_the_sizes_that_code_llama_is_known_by(preset: str, billions: str) -> None:
    assert f"{MODELS[preset].parameters() / 1e9:.2f}" == billions


def test_parameters_are_those_that_transformers_makes() -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    for shape in (SMALL, dataclasses.replace(SMALL, kv_heads=4), MODELS["tiny"]):
        with torch.device("meta"):
            model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape.as_hf_config()))
        assert sum(parameter.numel() for parameter in model.parameters()) == shape.parameters()


HEADS = st.integers(1, 8)
SHAPES = st.builds(
    lambda vocabulary_size, half, kv_heads, groups, layers, ffn_dim, theta, positions: ModelShape(
        vocabulary_size, 2 * half * kv_heads * groups, layers, kv_heads * groups, kv_heads, ffn_dim, theta, 1e-6,
        positions,
    ),
    st.integers(1, 10**6), HEADS, HEADS, HEADS, HEADS, st.integers(1, 10**5), st.sampled_from([1e4, 1e6, 500_000]),
    st.integers(1, 10**6),
)  # fmt: skip


@given(SHAPES)
def test_a_shape_survives_the_round_trip_through_hugging_faces_config(shape: ModelShape) -> None:
    shape.validate()
    config = json.loads(json.dumps(shape.as_hf_config()))
    assert ModelShape.from_hf_config(config) == shape


@pytest.mark.parametrize("preset", list(MODELS))
def test_transformers_reads_our_config_and_we_read_what_it_writes(preset: str) -> None:
    transformers = pytest.importorskip("transformers")
    shape = dataclasses.replace(MODELS[preset], theta=1e6)
    theirs = transformers.LlamaConfig(**shape.as_hf_config())
    assert theirs.rope_parameters == {"rope_type": "default", "rope_theta": 1e6}
    assert theirs.num_key_value_heads == shape.kv_heads
    assert ModelShape.from_hf_config(json.loads(theirs.to_json_string())) == shape


def test_theta_stands_where_old_readers_look_and_where_new_ones_do() -> None:
    config = dataclasses.replace(SMALL, theta=5e5).as_hf_config()
    assert config["rope_theta"] == 5e5
    assert config["rope_parameters"] == {"rope_type": "default", "rope_theta": 5e5}


# https://huggingface.co/codellama/CodeLlama-7b-hf/blob/main/config.json in the style before transformers 5.
OLD_STYLE = {
    "architectures": ["LlamaForCausalLM"], "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu",
    "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 11008, "max_position_embeddings": 16384,
    "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32,
    "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": None, "rope_theta": 1000000,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16", "use_cache": True, "vocab_size": 32016,
}  # fmt: skip


def test_code_llamas_own_config_is_read() -> None:
    assert ModelShape.from_hf_config(OLD_STYLE) == dataclasses.replace(MODELS["7b"], theta=1e6, max_positions=16_384)


def test_what_an_old_config_leaves_out_is_what_transformers_takes_for_it() -> None:
    transformers = pytest.importorskip("transformers")
    bare = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_hidden_layers": 1}
    bare["vocab_size"] = 99
    theirs = transformers.LlamaConfig(**bare)
    ours = ModelShape.from_hf_config(bare)
    assert ours.kv_heads == theirs.num_key_value_heads
    assert ours.norm_eps == theirs.rms_norm_eps
    assert ours.theta == theirs.rope_parameters["rope_theta"]
    assert ours.max_positions == theirs.max_position_embeddings


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "architecture": ({"model_type": "gpt_neox"}, "model_type 'gpt_neox'; only 'llama'"),
    "activation": ({"hidden_act": "gelu"}, "hidden_act 'gelu'; only 'silu'"),
    "biases of attention": ({"attention_bias": True}, "attention_bias True; only False"),
    "biases of the FFN": ({"mlp_bias": True}, "mlp_bias True; only False"),
    "old scaling": ({"rope_scaling": {"type": "linear", "factor": 4.0}}, "RoPE scaling of type 'linear'"),
    "llama 3": ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "RoPE scaling of type 'llama3'"),
    "new scaling": ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "RoPE scaling of type 'yarn'"),
    "scaling in one of two": (
        {"rope_scaling": {"type": "dynamic"}, "rope_parameters": {"rope_type": "default"}},
        "RoPE scaling of type 'dynamic'",
    ),
    "odd scaling": ({"rope_scaling": "linear"}, "must have mappings for RoPE's settings; got ['linear'"),
    "head dimension": ({"head_dim": 64}, "head_dim 64; only hidden_size / num_attention_heads, 128,"),
    "size of another type": ({"hidden_size": "4096"}, "dim must be a whole number of 1 or more; got '4096'"),
    "theta": ({"rope_theta": 0}, "theta must be a number above 0; got 0"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "told"), REFUSED.values(), ids=list(REFUSED))
def test_a_config_of_another_model_is_refused_by_the_key_that_tells(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ModelShape.from_hf_config({**OLD_STYLE, **changes})
    assert told in str(caught.value)


@pytest.mark.parametrize("key", ["vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"])
def test_a_config_without_a_size_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=f"has no '{key}'"):
        ModelShape.from_hf_config({name: value for name, value in OLD_STYLE.items() if name != key})


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"heads": 5}, "dim must be a multiple of twice its heads, .* got dim 32 and 5 heads"),
        ({"dim": 36}, "dim must be a multiple of twice its heads, .* got dim 36 and 4 heads"),
        ({"kv_heads": 3}, "heads must be a multiple of its kv_heads, .* got 4 heads and 3 kv_heads"),
        ({"layers": 0}, "layers must be a whole number of 1 or more; got 0"),
        ({"layers": True}, "layers must be a whole number of 1 or more; got True"),
        ({"ffn_dim": 1.5}, "ffn_dim must be a whole number of 1 or more; got 1.5"),
        ({"theta": float("inf")}, "theta must be a number above 0; got inf"),
        ({"norm_eps": 0}, "norm_eps must be a number above 0; got 0"),
    ],
)
def test_numbers_that_make_no_model_are_told(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        dataclasses.replace(SMALL, **changes).validate()


# The paper, section 2.6 and Table 1, section 2.4: rate, tokens a batch, steps.
@pytest.mark.parametrize(
    ("stage", "preset", "expected"),
    [
        ("code", "7b", (3e-4, 4_194_304, 120_000)),
        ("code", "13b", (3e-4, 4_194_304, 120_000)),
        ("code", "34b", (1.5e-4, 4_194_304, 120_000)),
        ("code", "70b", (1.5e-4, 4_194_304, 240_000)),
        ("python", "7b", (1e-4, 4_194_304, 25_000)),
        ("long_context", "7b", (2e-5, 2_097_152, 3_000)),
        ("long_context", "13b", (2e-5, 2_097_152, 10_000)),
        ("long_context", "34b", (2e-5, 1_048_576, 11_000)),
        ("instruct", "34b", (2e-5, 524_288, 9_500)),
        ("code", "tiny", (3e-4, 4_194_304, 120_000)),
        ("long_context", "1b", (2e-5, 2_097_152, 3_000)),
    ],
)
def test_a_stage_has_the_papers_settings_for_a_models_size(
    stage: str, preset: str, expected: tuple[float, int, int]
) -> None:
    found = stage_defaults(stage, MODELS[preset])
    assert (found.rate, found.batch_tokens, found.steps) == expected
    assert found.warmup_steps == 1000


def test_only_long_context_changes_theta_and_has_longer_sequences() -> None:
    assert {stage: (found.theta, found.sequence_length) for stage, found in STAGES.items()} == {
        "code": (None, 4096),
        "python": (None, 4096),
        "long_context": (1e6, 16_384),
        "instruct": (None, 4096),
    }


def test_a_stages_steps_and_batches_make_the_tokens_of_the_papers_table() -> None:
    def tokens(stage: str, preset: str) -> float:
        found = stage_defaults(stage, MODELS[preset])
        return found.steps * found.batch_tokens

    assert tokens("code", "7b") == pytest.approx(500e9, rel=0.01)
    assert tokens("code", "70b") == pytest.approx(1e12, rel=0.01)
    assert tokens("python", "7b") == pytest.approx(100e9, rel=0.05)
    assert tokens("long_context", "13b") == pytest.approx(20e9, rel=0.05)
    assert tokens("instruct", "7b") == pytest.approx(5e9, rel=0.01)
