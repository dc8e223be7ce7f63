"""Training sequences of your own Parquet files on Beam, with a SentencePiece model that you have:

    python examples/beam_tokenize_and_pack.py --input 'code/*.parquet' --output out --text-column content \\
        --model tokenizer.model --runner=FnApiRunner

Any option of Beam's may follow. It writes the sequences to out/sequences-*.parquet.
"""

from __future__ import annotations

import argparse

import apache_beam as beam
import pyarrow as pa
from apache_beam.options.pipeline_options import PipelineOptions

from codemill.pipeline.config import Fim, Sequence
from codemill.pipeline.transforms.beam import TokenizeAndPack
from codemill.tokenize.model import TokenizerModel
from codemill.tokenize.packing import sequence_schema


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--text-column", default="text")
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--fim-rate", type=float, default=0.9)
    arguments, options = parser.parse_known_args()

    sequence = Sequence(length=arguments.length, fim=Fim(rate=arguments.fim_rate))
    pack = TokenizeAndPack(arguments.model, sequence=sequence, text_column=arguments.text_column)
    schema = sequence_schema(arguments.length, TokenizerModel.load(arguments.model).dtype)
    with beam.Pipeline(options=PipelineOptions(options)) as pipeline:
        batches = pipeline | "Read" >> beam.io.ReadFromParquetBatched(arguments.input)
        found = batches | pack
        tables = found.sequences | "Tables" >> beam.Map(lambda batch: pa.Table.from_batches([batch]))
        path = f"{arguments.output}/sequences"
        tables | "Write" >> beam.io.WriteToParquetBatched(path, schema, codec="zstd", file_name_suffix=".parquet")
        found.bad | "Bad" >> beam.Map(lambda batch: print(f"{len(batch)} rows have no text"))


if __name__ == "__main__":
    main()
