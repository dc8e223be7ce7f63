"""Text out of a model: completions of prompts, and infillings between a prefix and a suffix (paper, section 2.3).

Flows in: a model, and prompts. Flows out: texts, decoded exactly as they would be encoded; where generation was cut
off, they end with a whole character. How prompts are worked off, and what is guaranteed of it, is told in `completion`.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import torch

from codemill.errors import ConfigError, DataError
from codemill.tokenize.fim import PSM, SPM, fim_prompt
from codemill.tokenize.lists import large_lists
from codemill.tokenize.model import FIM_PIECES
from codemill.tokenize.tokenizer import Tokenizer
from codemill.training.checkpoints import OpenedModel, open_model
from codemill.training.completion import Completion, Listener, complete_prompts
from codemill.training.sampling import Sampling

Mode = Literal["psm", "spm"]
T = TypeVar("T")


class Generated(NamedTuple):
    """A text that a model wrote, and its tokens (with spm, the text lacks what the prefix ends with)."""

    text: str
    completion: Completion


def complete(
    opened: OpenedModel,
    prompts: Sequence[np.ndarray],
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    stop: AbstractSet[int] | None = None,
) -> list[Completion]:
    """Complete prompts, each integer[m] with its BOS; many at a time.

    temperature, top_p: see `sampling`; 0 is greedy. seed: of the draws, of which a prompt has those of its number in
    the list. stop: ids that end a completion; None = EOS, and the FIM tokens' <EOT>. Raises ConfigError for settings
    and prompts that cannot be used.
    """
    sampling = Sampling(max_new_tokens, temperature, top_p, seed)
    return complete_prompts(opened, prompts, sampling, _ends(opened) if stop is None else stop)


def infill(
    opened: OpenedModel,
    pairs: Sequence[tuple[str, str]],
    mode: Mode = "psm",
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
) -> list[str]:
    """What stands between each prefix and suffix. mode: see `infill_texts`; the rest as for `complete`."""
    sampling = Sampling(max_new_tokens, temperature, top_p, seed)
    return [generated.text for generated in infill_texts(opened, pairs, mode, sampling)]


def complete_texts(
    opened: OpenedModel, prompts: Sequence[str], sampling: Sampling, listen: Callable[[int, str], None] | None = None
) -> list[Generated]:
    """What follows each text. listen: called with a text's number and what follows so far. Raises DataError where the
    model has no tokenizer."""
    tokenizer = require_tokenizer(opened)
    encoded = tokenizer.encode(pa.array(prompts, pa.large_string())).to_pylist()
    ids = [np.array([tokenizer.special_tokens["bos"], *text]) for text in encoded]

    def text_of(number: int, found: Sequence[int] | np.ndarray, whole: bool) -> str:
        # A completion of nothing is a text from its beginning, where the implicit space is.
        return _as_text(_spelled(tokenizer, found, leading_space=not prompts[number]), whole)

    found = complete_prompts(opened, ids, sampling, _ends(opened), listen=_heard(text_of, listen))
    return [Generated(text_of(i, each.ids, each.finished == "stop"), each) for i, each in enumerate(found)]


def infill_texts(
    opened: OpenedModel,
    pairs: Sequence[tuple[str, str]],
    mode: Mode,
    sampling: Sampling,
    listen: Callable[[int, str], None] | None = None,
) -> list[Generated]:
    """What stands between each prefix and suffix.

    mode: psm, or spm, where prefix and middle are tokenized as one. There the last token of the prefix is taken back,
    and the model has to begin with its text, because in training it may have been a part of a longer token (with psm no
    token reaches across the split). listen: called with a pair's number and the text so far. Raises DataError where the
    model has no tokenizer or no FIM tokens.
    """
    if mode not in ("psm", "spm"):
        raise ConfigError(f"an infilling is made in mode psm or spm; got {mode!r}")
    tokenizer = require_tokenizer(opened)
    _require_fim(opened)
    prompts = [fim_prompt(tokenizer, prefix, suffix, PSM if mode == "psm" else SPM) for prefix, suffix in pairs]
    owed = [b""] * len(pairs)
    for i, (prefix, _) in enumerate(pairs):
        if mode == "spm" and prefix:
            owed[i] = _spelled(tokenizer, prompts[i][-1:], leading_space=False)
            prompts[i] = prompts[i][:-1]

    def text_of(number: int, found: Sequence[int] | np.ndarray, whole: bool) -> str:
        # With spm and no prefix the model writes the head from its first token on, where the implicit space is.
        first = mode == "spm" and not pairs[number][0]
        return _as_text(_spelled(tokenizer, found, leading_space=first)[len(owed[number]) :], whole)

    found = complete_prompts(opened, prompts, sampling, _ends(opened), owed, _heard(text_of, listen))
    return [Generated(text_of(i, each.ids, each.finished == "stop"), each) for i, each in enumerate(found)]


def run_generate(
    path: str | Path,
    prompts: Sequence[str] = (),
    pairs: Sequence[tuple[str, str]] = (),
    *,
    sampling: Sampling,
    mode: Mode = "psm",
    samples: int = 1,
    device: str | None = None,
    listen: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """What `codemill generate` does, as plain data: `samples` completions of each prompt and infillings of each pair.

    path: a checkpoint, a run, or a Hugging Face folder. pairs: (prefix, suffix). device: None = a GPU where there is
    one, which computes in bf16; a CPU in fp32. listen: called with more of the text as it is made, where there is one
    text. Raises ConfigError where nothing is asked for, or the same text more than once.
    """
    asked = (len(prompts) + len(pairs)) * samples
    if asked < 1:
        raise ConfigError("nothing to generate: give a prompt, or a prefix and a suffix, and at least 1 sample")
    if samples > 1 and sampling.temperature == 0:
        raise ConfigError(f"{samples} samples at temperature 0 are all the same; give a temperature, say 0.8")
    opened = open_for_generation(path, device)
    heard = _more(listen) if listen is not None and asked == 1 else None
    outputs = []
    for i, generated in enumerate(complete_texts(opened, _repeated(prompts, samples), sampling, heard)):
        outputs.append({"prompt": prompts[i // samples], **_told(generated, i % samples)})
    if pairs:
        for i, generated in enumerate(infill_texts(opened, _repeated(pairs, samples), mode, sampling, heard)):
            prefix, suffix = pairs[i // samples]
            outputs.append({"prefix": prefix, "suffix": suffix, "mode": mode, **_told(generated, i % samples)})
    if heard is not None:
        heard(0, outputs[0]["text"])  # what was held back at the end, as it might have gone on
    return {"model": str(path), "step": opened.step, "outputs": outputs}


def open_for_generation(path: str | Path, device: str | None = None) -> OpenedModel:
    """A model ready to generate: on a CPU in fp32, on a GPU (None = where there is one) in bf16. Raises ConfigError and
    DataError."""
    place = _device(device)
    return open_model(path, place, torch.float32 if place.type == "cpu" else torch.bfloat16)


def _repeated(asked: Sequence[T], samples: int) -> list[T]:
    return [each for each in asked for _ in range(samples)]


def _told(generated: Generated, sample: int) -> dict[str, Any]:
    completion = generated.completion
    return {
        "sample": sample,
        "text": generated.text,
        "finished": completion.finished,
        "tokens": len(completion.ids),
        "logprob": float(completion.logprobs.sum(dtype=np.float64)),
    }


def _more(listen: Callable[[str], None]) -> Callable[[int, str], None]:
    """Tells what a text has more than it had the last time."""
    told = 0

    def heard(_: int, text: str) -> None:
        nonlocal told
        listen(text[told:])
        told = len(text)

    return heard


def _heard(
    text_of: Callable[[int, Sequence[int], bool], str], listen: Callable[[int, str], None] | None
) -> Listener | None:
    return None if listen is None else lambda number, ids: listen(number, text_of(number, ids, False))


def _device(name: str | None) -> torch.device:
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        why = str(error).splitlines()[0]
        raise ConfigError(f"device {name!r} cannot be used here ({why}); cpu always can") from None
    return device


def _ends(opened: OpenedModel) -> set[int]:
    """The ids that end a text."""
    return {opened.special_tokens[name] for name in ("eos", "fim_end") if name in opened.special_tokens}


def require_tokenizer(opened: OpenedModel) -> Tokenizer:
    """The model's tokenizer. Raises DataError where its folder has none."""
    if opened.tokenizer is None:
        raise DataError(
            "the model's folder has no tokenizer.model and no byte-level tokenizer.json, so no text can be read; put "
            "the tokenizer there that it was trained with"
        )
    return opened.tokenizer


def _require_fim(opened: OpenedModel) -> None:
    if not FIM_PIECES.keys() <= opened.special_tokens.keys():
        raise DataError(
            f"the model has {opened.shape.vocabulary_size} tokens and no FIM tokens among them: it can complete, but "
            "not infill; take one that was trained with FIM"
        )


def _spelled(tokenizer: Tokenizer, ids: Sequence[int] | np.ndarray, leading_space: bool) -> bytes:
    one = large_lists(np.array([0, len(ids)]), np.asarray(ids, tokenizer.dtype))
    return tokenizer.decode(one, leading_space)[0].as_py()


def _as_text(data: bytes, whole: bool) -> str:
    """Bytes as text; what is no UTF-8 becomes U+FFFD. whole: nothing is to follow, else a last character whose bytes
    are not all there is left out."""
    return codecs.getincrementaldecoder("utf-8")("replace").decode(data, whole)
