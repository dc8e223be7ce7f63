"""Remote tables answer as Arrow's own dataset does, on a store that fails."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
from object_store import BUCKET, s3_for_this_process

from codemill.pipeline.places import RemotePath
from codemill.pipeline.remote_tables import RemoteTables

SCHEMA = pa.schema({"id": pa.string(), "reason": pa.string(), "size_bytes": pa.int64(), "text": pa.large_string()})
FILTERS = [None, pc.field("size_bytes") > 20, pc.field("id") == "7", pc.field("reason") == "nothing"]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[pads.Dataset, RemoteTables]]:
    """The same three files, one of them empty, on the disk and on a store of which every third request fails."""
    folder = tmp_path_factory.mktemp("parquet")
    files = [folder / f"part-{number}.parquet" for number in range(3)]
    for rows, file in zip((250, 0, 31), files, strict=True):
        values = [[str(row) for row in range(rows)], ["r"] * rows, list(range(rows)), ["t"] * rows]
        pq.write_table(pa.table(values, schema=SCHEMA), file, row_group_size=100)
    remote = [RemotePath(f"s3://{BUCKET}/{file.name}") for file in files]
    with s3_for_this_process(fail_every=3):
        for path, file in zip(remote, files, strict=True):
            path.upload(file)
        yield pads.dataset(files, SCHEMA), RemoteTables(remote, SCHEMA)


@pytest.mark.parametrize("matches", FILTERS, ids=str)
@pytest.mark.parametrize("columns", [None, ["size_bytes"], ["text", "id"]])
def test_tables_are_those_of_arrows_own_dataset(
    tables: tuple[pads.Dataset, RemoteTables], columns: list[str] | None, matches: pc.Expression | None
) -> None:
    arrows, ours = tables
    expected = arrows.to_table(columns=columns, filter=matches)
    assert ours.to_table(columns, matches) == expected
    assert pa.Table.from_batches(ours.to_batches(columns, matches), expected.schema) == expected
    assert ours.head(13, columns, matches) == expected.slice(0, 13)
    assert ours.count_rows(matches) == len(expected)


def test_a_program_that_looks_at_a_few_rows_only_ends_well(tables: tuple[pads.Dataset, RemoteTables]) -> None:
    """Nothing reads ahead in threads that the end of the program would catch inside of Python."""
    paths = [str(path) for path in tables[1].paths]
    code = (
        "import sys, pyarrow as pa\n"
        "from codemill.pipeline.places import place\n"
        "from codemill.pipeline.remote_tables import RemoteTables\n"
        "schema = pa.schema({'id': pa.string()})\n"
        "assert len(RemoteTables([place(p) for p in sys.argv[1:]], schema).head(1)) == 1\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
