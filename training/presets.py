"""Shapes of models and settings of training stages, with where each number comes from.

A `ModelShape` is all that a Llama-shaped model's architecture needs; it goes to and from the config.json of Hugging
Face's LlamaForCausalLM. `MODELS` has the paper's four sizes and three smaller ones; `STAGES` and `stage_defaults` have
the paper's training stages ("Code Llama", arXiv 2308.12950, sections 2.1 to 2.6).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from codemill.errors import ConfigError

LLAMA_THETA = 1e4  # Llama 2 (arXiv 2307.09288), and the paper's models before long-context fine-tuning
LONG_THETA = 1e6  # section 2.4, after it
_HF_THETA, _HF_POSITIONS, _HF_EPS = 1e4, 2048, 1e-6  # what transformers' LlamaConfig takes for a missing key


@dataclass(frozen=True)
class ModelShape:
    """A Llama-shaped model: RMSNorm, SwiGLU, RoPE, grouped-query attention, untied embeddings, no biases."""

    vocabulary_size: int
    dim: int  # of the residual stream
    layers: int
    heads: int  # of queries; each has dim / heads dimensions
    kv_heads: int  # of keys and values; `heads` of them is plain multi-head attention
    ffn_dim: int  # hidden dimensions of SwiGLU
    theta: float = LLAMA_THETA  # base of the rotary frequencies
    norm_eps: float = 1e-5  # Llama 2's
    max_positions: int = 4096  # told to other programs by export; nothing here depends on it

    @property
    def head_dim(self) -> int:
        """Dimensions of one head."""
        return self.dim // self.heads

    def parameters(self) -> int:
        """How many numbers the model has, embeddings and head included."""
        attention = 2 * self.dim * self.dim + 2 * self.dim * self.kv_heads * self.head_dim
        layer = attention + 3 * self.dim * self.ffn_dim + 2 * self.dim
        return 2 * self.vocabulary_size * self.dim + self.layers * layer + self.dim

    def validate(self) -> None:
        """Raise ConfigError where the numbers make no model."""
        for name in ("vocabulary_size", "dim", "layers", "heads", "kv_heads", "ffn_dim", "max_positions"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"a model's {name} must be a whole number of 1 or more; got {value!r}")
        for name in ("theta", "norm_eps"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
                raise ConfigError(f"a model's {name} must be a number above 0; got {value!r}")
        if self.dim % (2 * self.heads):
            raise ConfigError(
                "a model's dim must be a multiple of twice its heads, because rotary embeddings turn pairs of a head's "
                f"dimensions; got dim {self.dim} and {self.heads} heads"
            )
        if self.heads % self.kv_heads:
            raise ConfigError(
                f"a model's heads must be a multiple of its kv_heads, each of which serves as many; got {self.heads} "
                f"heads and {self.kv_heads} kv_heads"
            )

    def as_hf_config(self) -> dict[str, Any]:
        """The config.json of transformers' LlamaForCausalLM, without what a tokenizer and a dtype add to it.

        theta stands there twice: transformers 5 reads rope_parameters, transformers 4 and older readers rope_theta.
        """
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": self.vocabulary_size,
            "hidden_size": self.dim,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "intermediate_size": self.ffn_dim,
            "hidden_act": "silu",
            "rms_norm_eps": self.norm_eps,
            "max_position_embeddings": self.max_positions,
            "rope_theta": self.theta,
            "rope_parameters": {"rope_type": "default", "rope_theta": self.theta},
            "tie_word_embeddings": False,
            "attention_bias": False,
            "mlp_bias": False,
        }

    @classmethod
    def from_hf_config(cls, config: Mapping[str, Any]) -> ModelShape:
        """The shape that a config.json of LlamaForCausalLM describes; `tie_word_embeddings` is for readers of weights.

        Raises ConfigError, naming the key, for anything that this model is not: another architecture, RoPE scaling,
        biases, another activation, a head dimension of its own.
        """
        _refuse_what_is_not_llama(config)
        try:
            heads = config["num_attention_heads"]
            kv_heads = config.get("num_key_value_heads")
            shape = cls(
                vocabulary_size=config["vocab_size"],
                dim=config["hidden_size"],
                layers=config["num_hidden_layers"],
                heads=heads,
                kv_heads=heads if kv_heads is None else kv_heads,
                ffn_dim=config["intermediate_size"],
                theta=_theta(config),
                norm_eps=config.get("rms_norm_eps", _HF_EPS),
                max_positions=config.get("max_position_embeddings", _HF_POSITIONS),
            )
        except KeyError as missing:
            raise ConfigError(f"the model's config.json has no {missing}; it must be that of a Llama model") from None
        shape.validate()
        head_dim = config.get("head_dim")
        if head_dim not in (None, shape.head_dim):
            raise ConfigError(
                f"the model's config.json has head_dim {head_dim!r}; only hidden_size / num_attention_heads, "
                f"{shape.head_dim}, can be trained here"
            )
        return shape


def _refuse_what_is_not_llama(config: Mapping[str, Any]) -> None:
    for key, only in (
        ("model_type", "llama"),
        ("hidden_act", "silu"),
        ("attention_bias", False),
        ("mlp_bias", False),
        ("partial_rotary_factor", 1),
    ):
        if config.get(key, only) != only:
            raise ConfigError(
                f"the model's config.json has {key} {config[key]!r}; only {only!r} can be trained here: take a "
                "model of Llama's architecture"
            )


def _theta(config: Mapping[str, Any]) -> float:
    """The RoPE base of a config.json, old or new style; ConfigError where positions are scaled."""
    told = [config.get(key) or {} for key in ("rope_scaling", "rope_parameters")]
    if not all(isinstance(rope, Mapping) for rope in told):
        raise ConfigError(f"the model's config.json must have mappings for RoPE's settings; got {told!r}")
    for rope in told:
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind != "default":
            raise ConfigError(
                f"the model's config.json has RoPE scaling of type {kind!r}, which cannot be trained here; take a "
                "model without, and set model.theta for longer contexts"
            )
    return {**told[0], **told[1]}.get("rope_theta", config.get("rope_theta", _HF_THETA))


# 7b to 70b: Meta's llama/model.py and the Hugging Face configs of Code Llama. 1b: TinyLlama (arXiv 2401.02385). small
# and tiny are our choice: experiments, and a CPU; their ffn_dim is 8/3 of dim, rounded up, as Llama's is.
# A training takes its vocabulary size from its data.
MODELS: Mapping[str, ModelShape] = MappingProxyType(
    {
        "7b": ModelShape(32_016, dim=4096, layers=32, heads=32, kv_heads=32, ffn_dim=11_008),
        "13b": ModelShape(32_016, dim=5120, layers=40, heads=40, kv_heads=40, ffn_dim=13_824),
        "34b": ModelShape(32_000, dim=8192, layers=48, heads=64, kv_heads=8, ffn_dim=22_016),
        "70b": ModelShape(32_016, dim=8192, layers=80, heads=64, kv_heads=8, ffn_dim=28_672),
        "1b": ModelShape(32_016, dim=2048, layers=22, heads=32, kv_heads=4, ffn_dim=5632),
        "small": ModelShape(32_016, dim=512, layers=8, heads=8, kv_heads=4, ffn_dim=1408),
        "tiny": ModelShape(32_016, dim=128, layers=4, heads=4, kv_heads=2, ffn_dim=352),
    }
)


@dataclass(frozen=True)
class StageDefaults:
    """What a stage sets where a config does not."""

    rate: float  # peak learning rate
    batch_tokens: int  # of one optimizer step
    sequence_length: int  # what the paper trained with; the data's own is what counts
    steps: int
    warmup_steps: int = 1000  # section 2.6 names it once; that it holds for every stage is our reading
    theta: float | None = None  # null = the model's own


# The 7B model's. Section 2.6, Table 1 for what follows from tokens, section 2.4 for long_context. Not in the paper, and
# so our choice: python's batch (code's), instruct's rate and sequence length (Llama 2-Chat's fine-tuning, arXiv
# 2307.09288, section 3.1).
STAGES: Mapping[str, StageDefaults] = MappingProxyType(
    {
        "code": StageDefaults(3e-4, batch_tokens=4 << 20, sequence_length=4096, steps=120_000),
        "python": StageDefaults(1e-4, batch_tokens=4 << 20, sequence_length=4096, steps=25_000),
        "long_context": StageDefaults(2e-5, batch_tokens=2 << 20, sequence_length=16_384, steps=3000, theta=LONG_THETA),
        "instruct": StageDefaults(2e-5, batch_tokens=512 << 10, sequence_length=4096, steps=9500),
    }
)
# (stage, size) -> what is not as for 7B. long_context of 70b is not in the paper: 34b's is our choice.
_BY_SIZE: Mapping[tuple[str, str], Mapping[str, Any]] = {
    ("code", "34b"): {"rate": 1.5e-4},
    ("code", "70b"): {"rate": 1.5e-4, "steps": 240_000},  # 1T tokens
    ("long_context", "13b"): {"steps": 10_000},
    ("long_context", "34b"): {"batch_tokens": 1 << 20, "steps": 11_000},
    ("long_context", "70b"): {"batch_tokens": 1 << 20, "steps": 11_000},
}


def stage_defaults(stage: str, shape: ModelShape) -> StageDefaults:
    """A stage's settings for a model: those of the paper's size that is nearest in parameters, by their ratio.

    stage: a key of STAGES.
    """
    sizes = ("7b", "13b", "34b", "70b")
    size = min(sizes, key=lambda name: abs(math.log(MODELS[name].parameters() / shape.parameters())))
    return dataclasses.replace(STAGES[stage], **_BY_SIZE.get((stage, size), {}))
