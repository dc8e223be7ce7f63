"""What earlier builds kept, which a new build is compared with (`dedup.against`) and which stays.

Flows in: the output folders of builds. Flows out: an `Earlier` for each, picklable, which reads parts of its documents
and of their signatures. Both are cut by ranges of ids, so a range of a new build's ids meets a few parts of an earlier
one, and nothing is shuffled.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from codemill.errors import CodemillError, ConfigError
from codemill.hashing import id_words
from codemill.pipeline.config import BuildConfig, NearDedup
from codemill.pipeline.dataset import Dataset
from codemill.pipeline.documents import provenance
from codemill.pipeline.engines.base import hash_partition
from codemill.pipeline.manifest import NAME
from codemill.pipeline.places import Place, open_place, place
from codemill.pipeline.stages.frame import read_part

SIGNATURES = "signatures"


@dataclass(frozen=True)
class Earlier:
    """The kept documents of an earlier build.

    name: its output folder as the config has it. checksum: of its manifest. priorities: its sources' first key of the
    survivor order. rows: documents of each part. near: what its stored signatures were made with; null = none stored.
    """

    name: str
    checksum: str
    priorities: dict[str, int]
    rows: tuple[int, ...]
    near: NearDedup | None

    def documents(self, part: int, columns: Sequence[str]) -> pa.Table:
        """Some columns of a part's documents, sorted by id."""
        with open_place(self._folder / "documents" / f"part-{part:05d}.parquet") as file:
            return pq.ParquetFile(file).read(list(columns), use_threads=False)

    def signatures(self, part: int) -> Iterator[pa.RecordBatch]:
        """id and signature of a part's documents, sorted by id, where they are stored."""
        return read_part(self._folder / SIGNATURES / f"part-{part:05d}.arrow")

    def has_signatures(self, near: NearDedup) -> bool:
        """Whether signatures are stored that can be compared with those of these settings."""
        ours = self.near
        return ours is not None and (ours.ngram, ours.permutations) == (near.ngram, near.permutations)

    def ids(self) -> pa.ChunkedArray:
        """string[n]: the ids of all its documents."""
        return pa.concat_tables(self.documents(part, ["id"]) for part in range(len(self.rows))).column("id")

    def named(self, partition: int, partitions: int) -> pa.Table:
        """`id` and `where` (what messages call it) of the documents whose id lies in one of `partitions` ranges."""
        parts = len(self.rows)
        first, last = partition * parts // partitions, -(-(partition + 1) * parts // partitions)
        table = pa.concat_tables(self.documents(part, ["id", "source", "repo", "path"]) for part in range(first, last))
        here = hash_partition(id_words(table.column("id").combine_chunks())[:, 0], partitions) == partition
        table = table.filter(pa.array(here))
        return pa.table({"id": table.column("id"), "where": self.where(table)})

    def where(self, documents: pa.Table) -> pa.Array:
        """string[n]: `source:repo/path in FOLDER`."""
        names = provenance(documents)
        return pc.binary_join_element_wise(names, pa.scalar(self.name), pa.scalar(" in "))

    @property
    def _folder(self) -> Place:
        return place(self.name)


def open_earlier(config: BuildConfig) -> tuple[Earlier, ...]:
    """The builds that `dedup.against` names, in its order.

    Raises ConfigError for the build's own folder, one that is named twice, one that is not there, and one that has no
    manifest or no documents; DataError for one that is damaged.
    """
    seen = {place(config.output.path)}
    found = []
    for name in config.dedup.against:
        if place(name) in seen:
            raise ConfigError(
                f"dedup.against: {name}: is named twice, or is this build's own output; name other builds' folders"
            )
        seen.add(place(name))
        if not (place(name) / NAME).exists():
            raise ConfigError(
                f"dedup.against: {name}: has no {NAME}, so it is not a dataset; give the output folder of a build"
            )
        found.append(_open(name))
    return tuple(found)


def still_there(dataset: Dataset) -> tuple[list[Earlier], list[str]]:
    """The earlier builds that a dataset was compared with; and the names of those that are not what they were."""
    found, gone = [], []
    for entry in dataset.manifest["against"]:
        try:
            build = _open(entry["path"])
        except CodemillError:
            gone.append(entry["path"])
            continue
        if build.checksum == entry["checksum"]:
            found.append(build)
        else:
            gone.append(entry["path"])
    return found, gone


def _open(name: str) -> Earlier:
    dataset = Dataset(place(name))
    settings = BuildConfig.model_validate(dataset.manifest["config"])
    if not settings.output.documents:
        raise ConfigError(
            f"dedup.against: {name}: has no documents to compare with (output.documents was false); build it with them"
        )
    files = dataset.manifest["files"]
    rows = tuple(entry["rows"] for entry in files if entry["file"].startswith("documents/"))
    stored = any(entry["file"].startswith(f"{SIGNATURES}/") for entry in files)
    near = settings.dedup.near if stored else None
    return Earlier(name, dataset.manifest["checksum"], settings.priorities(), rows, near)

