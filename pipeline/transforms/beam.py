"""Near-dedup, and tokenizing and packing, as transforms for a Beam pipeline that somebody already has.

    batches = pipeline | beam.io.ReadFromParquetBatched("code/*.parquet")
    found = batches | DeduplicateNearCopies(text_column="content")
    packed = found.kept | TokenizeAndPack("tokenizer.model", text_column="content")

Elements are record batches (tables are taken as well, as Beam reads them from Parquet), never single rows. The outcome
is a function of the rows alone: not of batches, bundles, workers or retries. What comes out has no order.

Rows that hold no text come out as `bad`, with the reason. Counters (namespace `codemill`) say how many rows there were
by reason. A column that is missing or of a wrong type fails the pipeline: retrying would not help.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.metrics import Metrics
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.display import DisplayDataItem

from codemill.pipeline.config import Sequence as SequenceSettings
from codemill.pipeline.engines.beam import BatchCoder
from codemill.pipeline.transforms import near as steps
from codemill.pipeline.transforms.near import Direction, NearCopies, near_section
from codemill.pipeline.transforms.packing import TOKENS, Packing, pack_window, render, windows_of
from codemill.pipeline.transforms.rows import (
    REASON,
    DocumentColumns,
    as_table,
    bad_rows,
    good_rows,
    one_table,
    prepare,
    reason_counts,
    words_of,
)
from codemill.tokenize.tokenizer import load_tokenizer

Batch: TypeAlias = pa.RecordBatch | pa.Table
Keyed = tuple[int, pa.RecordBatch]
_EDGES_IN_BATCH = 1 << 20  # 16 MB: runners bound the size of an element
_SEQUENCE = SequenceSettings()  # what the config has where it says nothing

beam.coders.registry.register_coder(pa.RecordBatch, BatchCoder)


class Deduplicated(NamedTuple):
    """kept: the rows that stay, with all their columns. dropped: `near.DROPPED` of the others. bad: rows without a text
    or id, as they came, with `codemill_reason`."""

    kept: beam.PCollection[pa.RecordBatch]
    dropped: beam.PCollection[pa.RecordBatch]
    bad: beam.PCollection[pa.RecordBatch]


class Packed(NamedTuple):
    """sequences: `tokenize.packing.sequence_schema`, a batch a window. bad: as of `Deduplicated`."""

    sequences: beam.PCollection[pa.RecordBatch]
    bad: beam.PCollection[pa.RecordBatch]


@beam.typehints.with_input_types(Batch)
@beam.typehints.with_output_types(pa.RecordBatch)
class DeduplicateNearCopies(beam.PTransform):
    """Drops rows whose text equals, or nearly equals, that of a row that is kept.

    A row is dropped if and only if it shares an LSH band with a row that comes before it in survivor order and is kept,
    and the true Jaccard similarity of the two is at or above the threshold (or the texts are equal). Text is shuffled
    once, that of rows which share a band with another twice.

    Bounds: a partition's rows must fit a worker, several times over, as must each set of rows that bands connect;
    who is connected is found out in one worker, at about 100 bytes a row that shares a band. `codemill build` has
    neither bound.
    """

    def __init__(
        self,
        *,
        threshold: float = 0.7,
        ngram: int = 5,
        permutations: int = 256,
        text_column: str = "text",
        id_column: str | None = None,
        survivor_order: Sequence[tuple[str, Direction]] = (),
        partitions: int = 64,
    ) -> None:
        """threshold: Jaccard similarity of shingle sets, above 0 and up to 1. ngram: tokens in a shingle. permutations:
        of the MinHash signature, a multiple of 16. text_column: strings, or UTF-8 bytes. id_column: strings or
        integers; none = the text's hash. survivor_order: (column, "ascending" or "descending")s that say who survives;
        nulls come last, ties go by id. partitions: that the rows are spread over.

        Raises ConfigError.
        """
        super().__init__()
        self._settings = NearCopies(
            near=near_section(threshold, ngram, permutations),
            columns=DocumentColumns(text=text_column, id=id_column),
            order=tuple(survivor_order),
            partitions=partitions,
        )

    def expand(self, batches: beam.PCollection[Batch]) -> Deduplicated:
        settings = self._settings
        prepared = batches | "Prepare" >> beam.ParDo(_PrepareNear(settings)).with_outputs("bad", main="rows")
        components = (
            prepared.rows
            | "Propose" >> beam.ParDo(_Propose(settings))
            | "Buckets" >> beam.GroupByKey()
            | "Stars" >> beam.ParDo(_Stars())
            | "All edges" >> beam.GroupByKey()
            | "Components" >> beam.ParDo(_Components(settings))
        )
        rows = prepared.rows | "By text" >> beam.ParDo(_ByText(settings))
        met = {"rows": rows, "components": components} | "Meet" >> beam.CoGroupByKey()
        joined = met | "Join" >> beam.ParDo(_Join(settings)).with_outputs("dropped", "connected", main="kept")
        settled = (
            joined.connected
            | "By component" >> beam.GroupByKey()
            | "Settle" >> beam.ParDo(_Settle(settings)).with_outputs("dropped", main="kept")
        )
        return Deduplicated(
            (joined.kept, settled.kept) | "Kept" >> beam.Flatten(),
            (joined.dropped, settled.dropped) | "Dropped" >> beam.Flatten(),
            prepared.bad,
        )

    def display_data(self) -> dict[str, Any]:
        near, settings = self._settings.near, self._settings
        return {
            "threshold": DisplayDataItem(near.threshold, label="Least Jaccard similarity"),
            "ngram": DisplayDataItem(near.ngram, label="Tokens in a shingle"),
            "permutations": DisplayDataItem(near.permutations, label="MinHash permutations"),
            **_display_columns(settings.columns),
            "survivor_order": DisplayDataItem(
                ", ".join(map(" ".join, settings.order)) or "id", label="Who comes first survives"
            ),
            "partitions": DisplayDataItem(settings.partitions, label="Partitions"),
        }


@beam.typehints.with_input_types(Batch)
@beam.typehints.with_output_types(pa.RecordBatch)
class TokenizeAndPack(beam.PTransform):
    """Makes training sequences of the rows' texts: tokenized, FIM-transformed, shuffled, packed.

    The same sequences as `codemill build` makes of the same documents with the same seed, in one epoch. Every token is
    in a sequence; rows whose texts are equal are each packed. A window (about 8 million tokens) must fit a worker.
    """

    def __init__(
        self,
        model: str | Path | bytes,
        *,
        sequence: SequenceSettings = _SEQUENCE,
        seed: int = 0,
        windows: int | None = None,
        text_column: str = "text",
        id_column: str | None = None,
    ) -> None:
        """model: a tokenizer's model, its path (read here, and sent to the workers) or its bytes. sequence: length,
        packing and FIM, as in the config. windows: that the shuffled documents are cut into; none = by the number of
        tokens. text_column, id_column: as of `DeduplicateNearCopies`.

        Raises ConfigError, and DataError for a model that codemill cannot use.
        """
        super().__init__()
        self._settings = Packing(
            model=load_tokenizer(model),
            sequence=sequence,
            seed=seed,
            windows=windows,
            columns=DocumentColumns(text=text_column, id=id_column),
        )

    def expand(self, batches: beam.PCollection[Batch]) -> Packed:
        settings = self._settings
        prepared = batches | "Prepare" >> beam.ParDo(_Prepare(settings.columns)).with_outputs("bad", main="rows")
        rendered = prepared.rows | "Render" >> beam.ParDo(_Render(settings)).with_outputs("tokens", main="renderings")
        tokens = rendered.tokens | "Count tokens" >> beam.CombineGlobally(sum).as_singleton_view()
        sequences = (
            rendered.renderings
            | "By window" >> beam.ParDo(_ByWindow(settings), tokens)
            | "Windows" >> beam.GroupByKey()
            | "Pack" >> beam.ParDo(_Pack(settings))
        )
        return Packed(sequences, prepared.bad)

    def display_data(self) -> dict[str, Any]:
        settings = self._settings
        return {
            "model": DisplayDataItem(settings.model.sha256, label="SHA-256 of the tokenizer model"),
            "sequence_length": DisplayDataItem(settings.sequence.length, label="Tokens in a sequence"),
            "packing": DisplayDataItem(settings.sequence.packing, label="Packing"),
            "fim_rate": DisplayDataItem(settings.sequence.fim.rate, label="Share of documents with FIM"),
            "fim_spm": DisplayDataItem(settings.sequence.fim.spm, label="Share of SPM among these"),
            "seed": DisplayDataItem(settings.seed, label="Seed"),
            "windows": DisplayDataItem(settings.windows or "by the number of tokens", label="Windows"),
            **_display_columns(settings.columns),
        }


def _display_columns(columns: DocumentColumns) -> dict[str, DisplayDataItem]:
    return {
        "text_column": DisplayDataItem(columns.text, label="Text column"),
        "id_column": DisplayDataItem(columns.id or "the text's hash", label="Id column"),
    }


class _Counting(beam.DoFn):
    """A DoFn that counts rows by name."""

    def count(self, **rows: int) -> None:
        for name, number in rows.items():
            Metrics.counter("codemill", name).inc(number)


@beam.typehints.with_input_types(Batch)
@beam.typehints.with_output_types(pa.RecordBatch)
class _Prepare(_Counting):
    """A batch -> prepared rows, and `bad`. Counts rows, and the bad ones by reason."""

    def __init__(self, columns: DocumentColumns) -> None:
        self._columns = columns

    def process(self, batch: Batch) -> Iterator[Any]:
        table = as_table(batch)
        self.count(rows=len(table))
        prepared = prepare(table, self._columns)
        yield from _whole(self.ready(good_rows(prepared)))
        bad = bad_rows(prepared)
        self.count(**reason_counts(bad.column(REASON)))
        yield from _tagged("bad", bad)

    def ready(self, rows: pa.Table) -> pa.Table:
        """What goes on of the rows that have a text."""
        return rows


class _PrepareNear(_Prepare):
    """`_Prepare` for near-dedup: of copies in one batch only the first keeps its text."""

    def __init__(self, settings: NearCopies) -> None:
        super().__init__(settings.columns)
        self._settings = settings

    def ready(self, rows: pa.Table) -> pa.Table:
        return steps.without_copies(rows, self._settings)


@beam.typehints.with_input_types(pa.RecordBatch)
@beam.typehints.with_output_types(Keyed)
class _Propose(_Counting):
    """Rows -> (partition, candidates)."""

    def __init__(self, settings: NearCopies) -> None:
        self._settings = settings

    def process(self, batch: pa.RecordBatch) -> Iterator[Keyed]:
        candidates = steps.propose(as_table(batch), self._settings)
        yield from _spread(candidates, candidates.column(steps.PARTITION).to_numpy())


@beam.typehints.with_input_types(tuple[int, Iterable[pa.RecordBatch]])
@beam.typehints.with_output_types(Keyed)
class _Stars(_Counting):
    """A partition's candidates -> (0, edges): the same key for all, so that they meet in one worker."""

    def process(self, element: tuple[int, Iterable[pa.RecordBatch]]) -> Iterator[Keyed]:
        edges = steps.stars(one_table(element[1]))
        self.count(edges=len(edges))
        for batch in edges.to_batches(max_chunksize=_EDGES_IN_BATCH):
            yield 0, batch


@beam.typehints.with_input_types(tuple[int, Iterable[pa.RecordBatch]])
@beam.typehints.with_output_types(Keyed)
class _Components(_Counting):
    """All edges -> (partition, components of the documents that belong there)."""

    def __init__(self, settings: NearCopies) -> None:
        self._settings = settings

    def process(self, element: tuple[int, Iterable[pa.RecordBatch]]) -> Iterator[Keyed]:
        found = steps.components(map(as_table, element[1]), self._settings)
        yield from _spread(found, found.column(steps.PARTITION).to_numpy())


@beam.typehints.with_input_types(pa.RecordBatch)
@beam.typehints.with_output_types(Keyed)
class _ByText(_Counting):
    """Rows -> (partition of their text, rows): as `_Components` spreads them."""

    def __init__(self, settings: NearCopies) -> None:
        self._settings = settings

    def process(self, batch: pa.RecordBatch) -> Iterator[Keyed]:
        table = as_table(batch)
        yield from _spread(table, steps.hash_partition(words_of(table), self._settings.partitions))


class _Settling(_Counting):
    """What has all rows of some documents: kept rows, and `dropped`. Counts both, the latter by reason."""

    def __init__(self, settings: NearCopies) -> None:
        self._settings = settings

    def settle(self, rows: pa.Table) -> Iterator[Any]:
        settled = steps.settle(rows, self._settings)
        self.count(**reason_counts(settled.column(REASON)))
        yield from _whole(steps.kept_rows(settled))
        yield from _tagged("dropped", steps.dropped_rows(settled))


@beam.typehints.with_input_types(tuple[int, dict[str, Iterable[pa.RecordBatch]]])
@beam.typehints.with_output_types(pa.RecordBatch)
class _Join(_Settling):
    """A partition's rows and components -> what becomes of the rows that are alone; `connected`: (partition, rows) of
    the others, which go on to where their component meets."""

    def process(self, element: tuple[int, dict[str, Iterable[pa.RecordBatch]]]) -> Iterator[Any]:
        _, met = element
        found = [*map(as_table, met["components"]), steps.COMPONENTS.empty_table()]
        alone, connected = steps.split_alone(steps.join(one_table(met["rows"]), pa.concat_tables(found)))
        yield from self.settle(alone)
        numbers = steps.partition_of_component(connected, self._settings.partitions)
        for keyed in _spread(connected, numbers):
            yield TaggedOutput("connected", keyed)


@beam.typehints.with_input_types(tuple[int, Iterable[pa.RecordBatch]])
@beam.typehints.with_output_types(pa.RecordBatch)
class _Settle(_Settling):
    """All rows of a partition's components -> what becomes of them."""

    def process(self, element: tuple[int, Iterable[pa.RecordBatch]]) -> Iterator[Any]:
        yield from self.settle(one_table(element[1]))


@beam.typehints.with_input_types(pa.RecordBatch)
@beam.typehints.with_output_types(pa.RecordBatch)
class _Render(_Counting):
    """Rows -> renderings; `tokens`: how many they have. Counts these too."""

    def __init__(self, settings: Packing) -> None:
        self._settings = settings

    def process(self, batch: pa.RecordBatch) -> Iterator[Any]:
        renderings = render(as_table(batch), self._settings)
        tokens = pa.compute.sum(renderings.column(TOKENS)).as_py() or 0
        self.count(tokens=tokens)
        yield from _whole(renderings)
        yield TaggedOutput("tokens", tokens)


@beam.typehints.with_input_types(pa.RecordBatch, int)
@beam.typehints.with_output_types(Keyed)
class _ByWindow(_Counting):
    """Renderings, and all tokens -> (window, renderings)."""

    def __init__(self, settings: Packing) -> None:
        self._settings = settings

    def process(self, batch: pa.RecordBatch, tokens: int) -> Iterator[Keyed]:
        table = as_table(batch)
        yield from _spread(table, windows_of(table, self._settings.windows_for(tokens)))


@beam.typehints.with_input_types(tuple[int, Iterable[pa.RecordBatch]])
@beam.typehints.with_output_types(pa.RecordBatch)
class _Pack(_Counting):
    """A window's renderings -> its sequences. Counts them."""

    def __init__(self, settings: Packing) -> None:
        self._settings = settings

    def process(self, element: tuple[int, Iterable[pa.RecordBatch]]) -> Iterator[pa.RecordBatch]:
        sequences = pack_window(one_table(element[1]), self._settings)
        self.count(sequences=len(sequences))
        yield from _whole(sequences)


def _spread(table: pa.Table, numbers: np.ndarray) -> Iterator[Keyed]:
    """(number, rows) of each number: int64[n]."""
    order = np.argsort(numbers, kind="stable")
    found, starts = np.unique(numbers[order], return_index=True)
    for number, places in zip(found.tolist(), np.split(order, starts)[1:], strict=True):
        for batch in _whole(table.take(pa.array(places))):
            yield number, batch


def _whole(table: pa.Table) -> Iterator[pa.RecordBatch]:
    """The table as one batch; none where it has no rows."""
    if len(table):
        yield from table.combine_chunks().to_batches()


def _tagged(tag: str, table: pa.Table) -> Iterator[TaggedOutput]:
    for batch in _whole(table):
        yield TaggedOutput(tag, batch)
