"""Measures on long context: keys found far back (paper, section 3.3, figure 4b), perplexity by position (figure 4a).

Flows in: a checkpoint, real code, settings. Flows out: FOLDER/result.json, a function of what was stored; and
FOLDER/state, which holds every completion, and the losses of every file, as they came. What is stored is not asked
again; without a model it is scored again. Only our own checkpoints can be measured: lengths are exact in tokens, and
losses are of tokens that a server does not tell.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from codemill.errors import ConfigError, DataError
from codemill.pipeline.files import write_json
from codemill.pipeline.progress import Reporter, Step
from codemill.selfinstruct.backends.base import Backend, Request, Sampling
from codemill.selfinstruct.backends.checkpoint import KEY_ANSWER_TOKENS, KEY_EXAMPLES, key_found
from codemill.selfinstruct.evaluation.estimate import score
from codemill.selfinstruct.store import Store, key_of
from codemill.settings import section_hash

KEY_RETRIEVAL, PERPLEXITY = "key_retrieval", "perplexity"
LONG_BENCHMARKS = (KEY_RETRIEVAL, PERPLEXITY)
_MOST_FILLER_BYTES = 64 << 20  # a sample of a large build is as good as all of it


class LongModel(Backend, Protocol):
    """What a checkpoint can and a server cannot. max_positions: what it was made for."""

    max_positions: int

    def key_examples(self, texts: Iterable[str]) -> Callable[[int, float, random.Random], tuple[str, str, int]]:
        """(length, position, draw) -> prompt, key, the place of the key's function; see `training.key_retrieval`."""

    def text_losses(self, text: str, lengths: Sequence[int]) -> dict[int, list[Any]]:
        """See `training.perplexity`."""


class LongSettings(NamedTuple):
    """lengths: in tokens, BOS among them. positions: of keys, shares of the prompt from its beginning; ours, not the
    paper's. documents: a build's output, or a folder with files; null = the standard library, for keys alone. limit:
    examples of each length and position (null = the paper's 64), or files of each length (null = all)."""

    lengths: tuple[int, ...] = (4096, 8192, 16384)
    positions: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    documents: str | None = None
    limit: int | None = None
    seed: int = 0

    def check(self, name: str) -> None:
        """Raises ConfigError for settings that this benchmark cannot be run with."""
        wrong_lengths = [each for each in self.lengths if each < 2]
        if wrong_lengths or not self.lengths or len(set(self.lengths)) < len(self.lengths):
            raise ConfigError(f"--lengths {_listed(self.lengths)}: give different numbers of tokens, 2 or more each")
        wrong = [each for each in self.positions if not 0 <= each <= 1]
        if wrong or not self.positions or len(set(self.positions)) < len(self.positions):
            raise ConfigError(
                f"--positions {_listed(self.positions)}: give different shares of the prompt, 0 to 1 each"
            )
        if name == PERPLEXITY and self.documents is None:
            raise ConfigError(f"{PERPLEXITY} is measured on files; give --documents, a build's output or a folder")


def evaluate_long(
    name: str, model: LongModel | None, texts: Iterable[str], folder: Path, settings: LongSettings, reporter: Reporter
) -> dict[str, Any]:
    """Measure, store, and score; the result, which is also FOLDER/result.json.

    name: of LONG_BENCHMARKS. model None: score again what is stored; texts are not read then. Raises ConfigError, and
    DataError where there is nothing to measure on, or to score.
    """
    settings.check(name)
    plan_key = key_of("long_context", name, settings)
    with Store(folder / "state") as store:
        if model is not None:
            store.put(plan_key, asyncio.run(_measured(name, model, texts, store, settings, reporter)))
        plan = store.get(plan_key)
        if plan is None:
            raise DataError(f"{store.path}: has no whole {name} with these settings; run once without --rescore")
        found = _key_scores(plan, store) if name == KEY_RETRIEVAL else _perplexities(plan, store, settings.lengths)
    told = {each: plan[each] for each in ("models", "max_positions", "corpus")}
    plain = settings._asdict()
    result = {"benchmark": name, "settings": plain, "settings_sha256": section_hash(plain), **told, **found}
    write_json(folder / "result.json", result)
    return result


async def _measured(
    name: str, model: LongModel, texts: Iterable[str], store: Store, settings: LongSettings, reporter: Reporter
) -> dict[str, Any]:
    """What was measured, and under which keys it is stored."""
    corpus = _Corpus(texts)
    try:
        if name == KEY_RETRIEVAL:
            cells = len(settings.lengths) * len(settings.positions)
            with reporter.step(f"evaluate: {name}", 0, cells * (settings.limit or KEY_EXAMPLES)) as step:
                parts = await _ask_for_keys(model, corpus, store, settings, step)
        else:
            with reporter.step(f"evaluate: {name}", 0, (settings.limit or 0) * len(settings.lengths)) as step:
                parts = _read_files(model, corpus, store, settings, step)
    finally:
        await model.close()
    models = {"model": dict(model.provenance())}
    return {"models": models, "max_positions": model.max_positions, "corpus": corpus.told(), "parts": parts}


class _Corpus:
    """Texts, and what a result says of those that were read."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts, self._hash = texts, hashlib.blake2b(digest_size=16)
        self.count = self.bytes = 0

    def __iter__(self) -> Iterator[str]:
        for text in self._texts:
            data = text.encode()
            self.count, self.bytes = self.count + 1, self.bytes + len(data)
            self._hash.update(hashlib.blake2b(data).digest())
            yield text

    def told(self) -> dict[str, Any]:
        return {"texts": self.count, "bytes": self.bytes, "blake2b": self._hash.hexdigest()}


async def _ask_for_keys(
    model: LongModel, corpus: _Corpus, store: Store, settings: LongSettings, step: Step
) -> list[list[Any]]:
    """[length, position, number, key, the store's key of the reply] of each example. The draw does not know the
    position: what differs between positions is nothing but them."""
    write = model.key_examples(itertools.takewhile(lambda _: corpus.bytes <= _MOST_FILLER_BYTES, corpus))
    sampling, told, parts = Sampling(KEY_ANSWER_TOKENS), model.provenance(), []
    for length, position in itertools.product(settings.lengths, settings.positions):
        for number in range(settings.limit or KEY_EXAMPLES):
            draw = random.Random(f"{settings.seed} {length} {number}")
            prompt, key, _ = write(length, position, draw)
            request = Request(_task(length, position, number), prompt, sampling)
            reply_key = key_of("reply", told, request)
            if store.get(reply_key) is None:
                store.put(reply_key, [list(reply) for reply in await model.complete(request)])
            parts.append([length, position, number, key, reply_key])
            step.advance(0)
    return parts


def _task(length: int, position: float, number: int) -> str:
    return f"{length}/{position:g}/{number}"


def _read_files(model: LongModel, corpus: _Corpus, store: Store, settings: LongSettings, step: Step) -> list[list[Any]]:
    """[lengths that count, the store's key of the losses] of each file that is long enough for one of them."""
    left = dict.fromkeys(settings.lengths, math.inf if settings.limit is None else settings.limit)
    told, parts = model.provenance(), []
    for text in corpus:
        losses_key = key_of("losses", told, hashlib.blake2b(text.encode()).hexdigest(), [*left])
        losses = store.get(losses_key)
        if losses is None:
            losses = {str(each): found for each, found in model.text_losses(text, [*left]).items()}
            if losses:
                store.put(losses_key, losses)
        if losses:
            parts.append([[length for length in left if str(length) in losses], losses_key])
            step.advance(0)
        for each in [length for length in left if str(length) in losses]:
            left[each] -= 1
            if not left[each]:
                del left[each]
        if not left:
            break
    if not parts:
        raise DataError(
            f"--documents: none of {corpus.count} texts has {min(settings.lengths)} tokens; give smaller --lengths, or "
            "longer files"
        )
    return parts


def _key_scores(plan: dict[str, Any], store: Store) -> dict[str, Any]:
    cells: dict[tuple[int, float], list[tuple[int, int]]] = {}
    tasks = {}
    for length, position, number, key, reply_key in plan["parts"]:
        said = str(store.get(reply_key)[0][2])
        right = key_found(said, key)
        cells.setdefault((length, position), []).append((1, int(right)))
        tasks[_task(length, position, number)] = {"key": key, "said": said, "found": right}
    return {
        "exact_match": score([each for cell in cells.values() for each in cell], 1),
        "cells": [
            {"length": length, "position": position, "examples": len(cell), "found": sum(found for _, found in cell)}
            | score(cell, 1)
            for (length, position), cell in cells.items()
        ],
        "tasks": tasks,
    }


def _perplexities(plan: dict[str, Any], store: Store, lengths: Sequence[int]) -> dict[str, Any]:
    return {
        "lengths": [
            _of_length(length, [store.get(key)[str(length)] for has, key in plan["parts"] if length in has])
            for length in lengths
        ]
    }


def _of_length(length: int, files: Sequence[Sequence[Sequence[Any]]]) -> dict[str, Any]:
    """files: of each its buckets, [first, end, tokens, nats, characters]: of equal lengths, so equal buckets."""
    buckets = [
        {"first": same[0][0], "end": same[0][1], **_rates(same)} for same in zip(*files, strict=True)
    ]  # fmt: skip
    whole = [bucket for file in files for bucket in file]
    return {"length": length, "files": len(files), **_rates(whole), "buckets": buckets}


def _rates(buckets: Iterable[Sequence[Any]]) -> dict[str, Any]:
    """nats_per_token: the mean of -log p. bits_per_character does not depend on the tokenizer. null = of nothing."""
    buckets = list(buckets)
    tokens, characters = sum(each[2] for each in buckets), sum(each[4] for each in buckets)
    nats = math.fsum(each[3] for each in buckets)
    mean = nats / tokens if tokens else None
    return {
        "tokens": tokens,
        "characters": characters,
        "nats_per_token": mean,
        "perplexity": None if mean is None else math.exp(min(mean, 700.0)),  # beyond that, floats end
        "bits_per_character": nats / math.log(2) / characters if characters else None,
    }


def long_as_text(result: dict[str, Any]) -> str:
    """The scores, a line each."""
    head = f"{result['benchmark']}: a model made for {result['max_positions']:,} positions"
    if result["benchmark"] == KEY_RETRIEVAL:
        return "\n".join([head, *map(_cell_as_text, result["cells"])])
    return "\n".join([head, *(line for each in result["lengths"] for line in _length_as_text(each))])


def _cell_as_text(cell: dict[str, Any]) -> str:
    place = f"{cell['length']:,} tokens, key at {cell['position']:g}"
    interval = f"95% interval {cell['low']:.1%} to {cell['high']:.1%}"
    return f"{place}: {cell['score']:.1%} of {cell['examples']} ({interval})"


def _length_as_text(found: dict[str, Any]) -> Iterator[str]:
    if not found["files"]:
        yield f"{found['length']:,} tokens: no file is that long"
        return
    yield f"{found['length']:,} tokens, {found['files']:,} files: {_rates_as_text(found)}"
    for each in found["buckets"]:
        yield f"  positions {each['first']:,} to {each['end'] - 1:,}: {_rates_as_text(each)}"


def _rates_as_text(found: dict[str, Any]) -> str:
    bits = found["bits_per_character"]
    behind = "" if bits is None else f", {bits:.4f} bits a character"
    return f"{found['nats_per_token']:.4f} nats a token (perplexity {found['perplexity']:.4g}){behind}"


def _listed(values: Iterable[float]) -> str:
    return ",".join(f"{each:g}" for each in values)
