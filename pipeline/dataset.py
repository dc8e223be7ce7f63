"""A finished build, opened for reading: its manifest, documents, dropped rows, sequences and tokenizer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from codemill.errors import DataError
from codemill.hashing import id_words
from codemill.pipeline.documents import DOCUMENTS, DROPPED
from codemill.pipeline.engines.base import hash_partition
from codemill.pipeline.manifest import read_manifest
from codemill.pipeline.notices import LICENSES, NOTICES
from codemill.pipeline.places import Place, listing
from codemill.pipeline.remote_tables import RemoteTables
from codemill.pipeline.shard_files import read_shard
from codemill.pipeline.stages.frame import part_path, read_part
from codemill.pipeline.stages.tokenizer import load_model
from codemill.tokenize.tokenizer import Tokenizer

if TYPE_CHECKING:
    import pyarrow.dataset as pads


class Dataset:
    """The output folder of a build. Raises DataError where the folder is none, or its manifest is damaged."""

    def __init__(self, path: Place, manifest: dict[str, Any] | None = None) -> None:
        """manifest: given by a build that has not written it yet."""
        self.path = path
        self.manifest = read_manifest(path) if manifest is None else manifest
        if "config" not in self.manifest or "funnel" not in self.manifest:
            raise DataError(
                f"{path}: is no build, but made by `codemill {self.manifest.get('made_by', '?')}`, whose report.html "
                "shows what is in it; this command reads builds alone"
            )

    def files(self, folder: str) -> list[Place]:
        """Files of the manifest below a folder, in order."""
        return [self.path / f["file"] for f in self.manifest["files"] if f["file"].startswith(f"{folder}/")]

    def documents(self) -> pads.Dataset | RemoteTables | None:
        """The kept documents; null where the build was told not to write them."""
        if not self.manifest["config"]["output"]["documents"]:
            return None
        return self._parquet("documents", DOCUMENTS)

    def dropped(self) -> pads.Dataset | RemoteTables:
        """What was dropped, with stage and reason."""
        return self._parquet("dropped", DROPPED)

    def notices(self) -> pads.Dataset | RemoteTables:
        """The licence texts that kept documents name (`license_text`)."""
        return self._parquet(LICENSES, NOTICES)

    def _parquet(self, folder: str, schema: pa.Schema) -> pads.Dataset | RemoteTables:
        paths, there = self.files(folder), listing(self.path / folder)
        for path in paths:
            if path.name not in there:
                raise DataError(f"{path}: is in the manifest but not there; build again")
        if isinstance(self.path, Path):
            import pyarrow.dataset as pads  # not at the top: with it comes pandas, which workers do not need

            return pads.dataset([str(path) for path in paths], schema=schema, format="parquet")
        return RemoteTables(paths, schema)

    def shard_paths(self) -> list[Place]:
        return [self.path / shard["file"] for shard in self.manifest["shards"]]

    def sequences(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """All sequences, shard by shard, memory-mapped."""
        for path in self.shard_paths():
            yield from self.read_shard(path, columns)

    def read_shard(self, path: Place, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """The sequences of one shard, memory-mapped. Raises DataError where it is missing or no Arrow file."""
        return read_shard(path, columns)

    def tokenizer(self) -> Tokenizer | None:
        """The model that the shards were made with; null where there are none."""
        return load_model(self.path / "tokenizer.model") if self.manifest["tokenizer"] else None

    def texts_of(self, ids: Sequence[str]) -> dict[str, str]:
        """Texts, after redaction, of documents that came through ingest, kept or not; needs the intermediates, and
        leaves out what they do not have."""
        folder = self.path / "stages" / "ingest"
        parts = len(listing(folder / "documents"))
        if not parts or not ids:
            return {}
        wanted = pa.array(sorted(set(ids)), pa.string())
        numbers = hash_partition(id_words(wanted)[:, 0], parts)
        found: dict[str, str] = {}
        for part in sorted(set(numbers.tolist())):
            for batch in read_part(part_path(folder, "documents", part), ["id", "text"]):
                here = batch.filter(pc.is_in(batch.column("id"), value_set=wanted))
                found |= dict(zip(here.column("id").to_pylist(), here.column("text").to_pylist(), strict=True))
        return found
