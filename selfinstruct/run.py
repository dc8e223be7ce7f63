"""A self-instruct run: opens what the config names, runs the loop, and writes its two tables.

Flows in: a config. Flows out: a folder with `state/` (every answer), `triplets.parquet`, `dropped.parquet` and
`yields.json`, and the summary. Equal config and equal answers give equal tables, byte by byte.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from codemill.pipeline.files import atomic_file, write_json
from codemill.pipeline.manifest import NAME
from codemill.pipeline.progress import Reporter
from codemill.selfinstruct.answers import Answers
from codemill.selfinstruct.backends.base import Backend
from codemill.selfinstruct.loop import Loop, Outcome
from codemill.selfinstruct.questions import batches
from codemill.selfinstruct.rows import DROPPED, TRIPLETS
from codemill.selfinstruct.sections import LoopSettings
from codemill.selfinstruct.store import Store
from codemill.selfinstruct.templates import Prompts, load_prompts
from codemill.selfinstruct.verdicts import Judge


def run_loop(
    config: LoopSettings,
    backends: Mapping[str, Backend] | None,
    judge: Judge | None,
    reporter: Reporter,
    *,
    fresh: bool = False,
) -> tuple[Outcome, dict[str, Any]]:
    """Run the loop with these models and this judge, or from stored answers alone (both None); write its tables.

    Returns what came of it and the summary. Raises ConfigError, DataError and RunError; what had arrived is stored.
    """
    out = Path(config.output.path)
    prompts = load_prompts(config.prompts)
    with Store(out / "state", fresh=fresh) as store:
        if store.torn_bytes:
            reporter.say(
                f"{store.path}: cut off {store.torn_bytes} bytes of an answer that a killed run had not finished"
            )
        outcome, counts = asyncio.run(_run(config, prompts, store, backends, judge, reporter))
        counts["torn_bytes"] = store.torn_bytes
    (out / NAME).unlink(missing_ok=True)  # while its files change, the folder is no dataset
    _write_table(out / "triplets.parquet", outcome.triplets, TRIPLETS)
    _write_table(out / "dropped.parquet", outcome.dropped, DROPPED)
    write_json(out / "yields.json", outcome.yields)
    return outcome, {"out": str(out), **outcome.yields, **counts}


async def _run(
    config: LoopSettings,
    prompts: Prompts,
    store: Store,
    backends: Mapping[str, Backend] | None,
    judge: Judge | None,
    reporter: Reporter,
) -> tuple[Outcome, dict[str, Any]]:
    try:
        answers = Answers(store, backends, judge)
        with reporter.step("self-instruct", 0, len([*batches(config.questions)])) as step:
            outcome = await Loop(config, prompts, answers, step).run()
    finally:
        for backend in (backends or {}).values():
            await backend.close()
    return outcome, {"asked": answers.asked, "judged": answers.judged}


def _write_table(path: Path, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
    with atomic_file(path) as file:
        pq.write_table(pa.Table.from_pylist(rows, schema), file, compression="zstd")
