"""Near-dedup of your own Parquet files on Beam:

    python examples/beam_near_dedup.py --input 'code/*.parquet' --output out --text-column content --runner=FnApiRunner

Any option of Beam's may follow (`--runner=DataflowRunner --project=...`). It writes the rows that stay, all
columns as they were, to out/kept-*.parquet, who was dropped for whom to out/dropped-*.parquet, and rows without a text
to out/bad-*.parquet.
"""

from __future__ import annotations

import argparse

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions

from codemill.pipeline.transforms.beam import DeduplicateNearCopies
from codemill.pipeline.transforms.near import DROPPED
from codemill.pipeline.transforms.rows import REASON


def schema_of(pattern: str) -> pa.Schema:
    """The columns of the first file."""
    [found] = FileSystems.match([pattern])
    with FileSystems.open(found.metadata_list[0].path) as file:
        return pq.read_schema(file).remove_metadata()


def write(batches: beam.PCollection[pa.RecordBatch], path: str, schema: pa.Schema) -> None:
    tables = batches | f"Tables of {path}" >> beam.Map(lambda batch: pa.Table.from_batches([batch]))
    tables | f"Write {path}" >> beam.io.WriteToParquetBatched(path, schema, codec="zstd", file_name_suffix=".parquet")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--text-column", default="text")
    parser.add_argument("--threshold", type=float, default=0.7)
    arguments, options = parser.parse_known_args()

    pipeline = beam.Pipeline(options=PipelineOptions(options))
    batches = pipeline | "Read" >> beam.io.ReadFromParquetBatched(arguments.input)
    found = batches | DeduplicateNearCopies(text_column=arguments.text_column, threshold=arguments.threshold)
    schema = schema_of(arguments.input)
    write(found.kept, f"{arguments.output}/kept", schema)
    write(found.dropped, f"{arguments.output}/dropped", DROPPED)
    write(found.bad, f"{arguments.output}/bad", schema.append(pa.field(REASON, pa.string())))
    result = pipeline.run()
    result.wait_until_finish()

    totals: dict[str, int] = {}
    for counter in result.metrics().query(MetricsFilter().with_namespace("codemill"))["counters"]:
        totals[counter.key.metric.name] = totals.get(counter.key.metric.name, 0) + counter.result
    print(", ".join(f"{name} {total:,}" for name, total in sorted(totals.items())))


if __name__ == "__main__":
    main()
