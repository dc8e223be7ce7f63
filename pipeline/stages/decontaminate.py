"""Decontaminate: documents that share an n-gram with a benchmark are dropped, and what they share is on record."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from codemill.dedup.decontaminate import ContaminationIndex
from codemill.pipeline.contamination import BenchmarkTexts, build_index, find_contaminated
from codemill.pipeline.documents import DROPPED, sorted_dropped
from codemill.pipeline.engines.base import Mapped
from codemill.pipeline.stages.frame import Context, Record, Survivors, Work, part_rows, run_stage

VERSION = 2


def run_decontaminate(context: Context, ingest: Record, benchmarks: BenchmarkTexts) -> Record:
    """Run the stage, or take it from an earlier build."""
    index = build_index(benchmarks, context.config.decontaminate.ngram)
    depends_on = (VERSION, ingest.fingerprint, context.config.decontaminate, benchmarks.sha256)
    survivors = Survivors(context.folder("ingest"), ())

    def body(work: Work) -> dict[str, Any]:
        rows = part_rows([r.sums["size_bytes"] for r in ingest.files if r.kind == "documents"])
        work.write(
            Mapped(rows, FindContaminated(survivors, index)),
            {"dropped": DROPPED},
            "scan",
            sums=("size_bytes",),
        )
        return {"benchmarks": benchmarks.counts, "unsearchable": index.unsearchable}

    return run_stage(context, "decontaminate", depends_on, body)


@dataclass(frozen=True)
class FindContaminated:
    """A part's number -> what the benchmarks contaminate in it."""

    survivors: Survivors
    index: ContaminationIndex

    def __call__(self, row: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        part = row.column("part")[0].as_py()
        found = [find_contaminated(batch, self.index)[1] for batch in self.survivors.read(part)]
        yield from sorted_dropped(pa.Table.from_batches(found, DROPPED))
