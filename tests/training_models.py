"""Models to generate with: small ones with lively weights, and one that writes what a test wants."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from codemill.tokenize.lists import large_lists
from codemill.tokenize.model import TokenizerModel
from codemill.training.checkpoints import OpenedModel
from codemill.training.model import Llama
from codemill.training.presets import ModelShape

SIZE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}


def lively(model: nn.Module) -> nn.Module:
    """Large random weights, so that what follows is neither constant nor near a tie."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3, generator=generator)
    return model.eval()


def lively_llama(tokenizer: TokenizerModel) -> OpenedModel:
    """A model of 96 positions for the tokenizer."""
    shape = ModelShape(tokenizer.vocabulary_size, dim=32, layers=2, heads=4, kv_heads=2, ffn_dim=48, max_positions=96)
    return OpenedModel(lively(Llama(shape)), tokenizer, shape, tokenizer.special_tokens, None)


class Writer(nn.Module):
    """Instead of a model: it writes certain bytes after the prompt, in as few tokens as it can, and then stops."""

    def __init__(self, tokenizer: TokenizerModel, wanted: bytes, end: int) -> None:
        super().__init__()
        self.dummy = nn.Parameter(torch.zeros(1))
        every = np.arange(tokenizer.vocabulary_size, dtype=tokenizer.dtype)
        self.spelled = tokenizer.decode(large_lists(np.arange(len(every) + 1), every), False).to_pylist()
        self.wanted, self.left, self.end = wanted, wanted, end

    def forward_cached(self, tokens, cache, lengths, places=None):
        if places is None:
            self.left = self.left[len(self.spelled[int(tokens[0, -1])]) :]
        else:
            self.left = self.wanted
        fits = [bool(said) and self.left.startswith(said) for said in self.spelled]
        longest = torch.tensor([len(said) if fit else -1.0 for said, fit in zip(self.spelled, fits, strict=True)])
        # Of a byte's piece and a letter's it takes the letter's, which comes later.
        logits = longest + torch.arange(len(longest)) / 1000
        if not self.left:
            logits[self.end] = 100
        return logits[None] if places is not None else logits[None, None]


def writing(tokenizer: TokenizerModel, wanted: bytes, end: str = "fim_end") -> OpenedModel:
    """An opened model that writes `wanted`."""
    shape = ModelShape(tokenizer.vocabulary_size, dim=8, layers=1, heads=1, kv_heads=1, ffn_dim=8, max_positions=4096)
    model = Writer(tokenizer, wanted, tokenizer.special_tokens[end])
    return OpenedModel(model, tokenizer, shape, tokenizer.special_tokens, None)
