"""Near-dedup, and tokenizing and packing, as functions on datasets for a Ray Data job that somebody already has.

    dataset = ray.data.read_parquet("code/")
    found = deduplicate_near_copies(dataset, text_column="content")
    packed = tokenize_and_pack(found.kept, "tokenizer.model", text_column="content")

The outcome is a function of the rows alone: not of blocks, workers or retries. What comes out has no order.

Rows that hold no text are in `bad`, with the reason. A column that is missing or of a wrong type fails the job.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import ray
import ray.data
from ray.data import Dataset

from codemill.pipeline.config import Sequence as SequenceSettings
from codemill.pipeline.transforms import near as steps
from codemill.pipeline.transforms.near import PARTITION, Direction, NearCopies, near_section
from codemill.pipeline.transforms.packing import TOKENS, Packing, pack_window, render, windows_of
from codemill.pipeline.transforms.rows import DocumentColumns, bad_rows, good_rows, prepare
from codemill.tokenize.packing import sequence_schema
from codemill.tokenize.tokenizer import load_tokenizer

_WINDOW = "codemill_window"
_SEQUENCE = SequenceSettings()  # what the config has where it says nothing


class Deduplicated(NamedTuple):
    """kept: the rows that stay, with all their columns. dropped: `near.DROPPED` of the others. bad: rows without a text
    or id, as they came, with `codemill_reason`."""

    kept: Dataset
    dropped: Dataset
    bad: Dataset


class Packed(NamedTuple):
    """sequences: `tokenize.packing.sequence_schema`, each window's in their order. bad: as of `Deduplicated`."""

    sequences: Dataset
    bad: Dataset


def deduplicate_near_copies(
    dataset: Dataset,
    *,
    threshold: float = 0.7,
    ngram: int = 5,
    permutations: int = 256,
    text_column: str = "text",
    id_column: str | None = None,
    survivor_order: Sequence[tuple[str, Direction]] = (),
    partitions: int = 64,
) -> Deduplicated:
    """Drop rows whose text equals, or nearly equals, that of a row that is kept. Runs at once.

    A row is dropped if and only if it shares an LSH band with a row that comes before it in survivor order and is kept,
    and the true Jaccard similarity of the two is at or above the threshold (or the texts are equal). Text is shuffled
    once.

    threshold: Jaccard similarity of shingle sets, above 0 and up to 1. ngram: tokens in a shingle. permutations: of the
    MinHash signature, a multiple of 16. text_column: strings, or UTF-8 bytes. id_column: strings or integers; none =
    the text's hash. survivor_order: (column, "ascending" or "descending")s that say who survives; nulls come last,
    ties go by id. partitions: that the rows are spread over.

    Bounds: a partition's rows must fit a worker, several times over, as must each set of rows that bands connect;
    who is connected is found out in the driver, at about 100 bytes a row that shares a band, and known to every node
    at 24. `codemill build` has none of these bounds.

    Raises ConfigError.
    """
    settings = NearCopies(
        near=near_section(threshold, ngram, permutations),
        columns=DocumentColumns(text=text_column, id=id_column),
        order=tuple(survivor_order),
        partitions=partitions,
    )
    prepared = _mapped(dataset, partial(prepare, columns=settings.columns)).materialize()
    bad = _bad(prepared)
    if bad.count() == prepared.count():
        return Deduplicated(_mapped(prepared, steps.kept_rows), ray.data.from_arrow(steps.DROPPED.empty_table()), bad)
    candidates = _mapped(prepared, partial(_propose, settings=settings)).materialize()
    edges = _met(candidates, PARTITION, partitions, steps.stars) if candidates.count() else candidates
    found = steps.components(edges.iter_batches(batch_format="pyarrow", batch_size=None), settings)
    joined = _mapped(prepared, partial(_join, found=ray.put(found), settings=settings))
    settled = _met(joined, PARTITION, partitions, partial(steps.settle, settings=settings)).materialize()
    return Deduplicated(_mapped(settled, steps.kept_rows), _mapped(settled, steps.dropped_rows), bad)


def tokenize_and_pack(
    dataset: Dataset,
    model: str | Path | bytes,
    *,
    sequence: SequenceSettings = _SEQUENCE,
    seed: int = 0,
    windows: int | None = None,
    text_column: str = "text",
    id_column: str | None = None,
) -> Packed:
    """Make training sequences of the rows' texts: tokenized, FIM-transformed, shuffled, packed.

    The same sequences as `codemill build` makes of the same documents with the same seed, in one epoch. Every token is
    in a sequence; rows whose texts are equal are each packed. A window (about 8 million tokens) must fit a worker.

    model: a tokenizer's model, its path (read here, and sent to the workers) or its bytes. sequence: length, packing
    and FIM, as in the config. windows: that the shuffled documents are cut into; none = by the number of tokens, for
    which the dataset is tokenized at once. text_column, id_column: as of `deduplicate_near_copies`.

    Raises ConfigError, and DataError for a model that codemill cannot use.
    """
    settings = Packing(
        model=load_tokenizer(model),
        sequence=sequence,
        seed=seed,
        windows=windows,
        columns=DocumentColumns(text=text_column, id=id_column),
    )
    prepared = _mapped(dataset, partial(prepare, columns=settings.columns)).materialize()
    renderings = _mapped(prepared, partial(_render, settings=settings)).materialize()
    tokens = renderings.sum(TOKENS) if renderings.count() else 0
    if not tokens:
        schema = sequence_schema(sequence.length, settings.model.dtype)
        return Packed(ray.data.from_arrow(schema.empty_table()), _bad(prepared))
    count = settings.windows_for(tokens)
    keyed = _mapped(renderings, partial(_window, windows=count))
    return Packed(_met(keyed, _WINDOW, count, partial(pack_window, settings=settings)), _bad(prepared))


def _mapped(dataset: Dataset, step: Callable[[pa.Table], pa.Table]) -> Dataset:
    return dataset.map_batches(step, batch_format="pyarrow", batch_size=None)


def _met(dataset: Dataset, key: str, partitions: int, step: Callable[[pa.Table], pa.Table]) -> Dataset:
    """All rows that share a key, put through a step. Ray refuses to group a dataset without rows."""
    return dataset.groupby(key, num_partitions=partitions).map_groups(step, batch_format="pyarrow")


def _bad(prepared: Dataset) -> Dataset:
    """Materialized, since it is small, and what it is a view of is the whole dataset."""
    return _mapped(prepared, bad_rows).materialize()


def _rows(prepared: pa.Table, settings: NearCopies) -> pa.Table:
    return steps.without_copies(good_rows(prepared), settings)


def _propose(prepared: pa.Table, settings: NearCopies) -> pa.Table:
    return steps.propose(_rows(prepared, settings), settings)


def _join(prepared: pa.Table, found: ray.ObjectRef, settings: NearCopies) -> pa.Table:
    """Rows with their component, and the partition where it meets. found: components, one copy a node."""
    joined = steps.join(_rows(prepared, settings), ray.get(found))
    return joined.append_column(PARTITION, pa.array(steps.partition_of_component(joined, settings.partitions)))


def _render(prepared: pa.Table, settings: Packing) -> pa.Table:
    return render(good_rows(prepared), settings)


def _window(renderings: pa.Table, windows: int) -> pa.Table:
    return renderings.append_column(_WINDOW, pa.array(windows_of(renderings, windows)))
