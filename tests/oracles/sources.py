"""A whole source read in the plainest way, checked for what every reading promises."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pickle
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from codemill.pipeline.config import Source
from codemill.pipeline.documents import DOCUMENTS, DROPPED, REASONS, kind_of
from codemill.pipeline.sources.splits import Split, list_splits, read_split

MIB = 1024 * 1024

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="compares with the git program, which is not there")


def write(root: Path, files: dict[str, str | bytes]) -> Path:
    """Files under a folder, which is returned."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def git(folder: Path, *arguments: str) -> str:
    """What the git program prints, without the machine's own settings."""
    quiet = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", *arguments]
    return subprocess.run(command, cwd=folder, env=quiet, check=True, capture_output=True, text=True).stdout


def read_all(source: Source, max_size_bytes: int = MIB, target_bytes: int = 32 * MIB) -> tuple[list, list]:
    """(documents, dropped) as lists of dicts, as they come; each split travels by JSON and pickle first."""
    splits, lost = list_splits(source, target_bytes)
    assert lost.schema.equals(DROPPED, check_metadata=True)
    rows: dict[str, list[dict[str, Any]]] = {"documents": [], "dropped": lost.to_pylist()}
    for split in splits:
        travelled = Split(**json.loads(json.dumps(dataclasses.asdict(split))))
        assert travelled == split == pickle.loads(pickle.dumps(split))
        for batch in read_split(travelled, source, max_size_bytes):
            batch.validate(full=True)
            if kind_of(batch.schema) == "notices":
                continue
            expected = DOCUMENTS if kind_of(batch.schema) == "documents" else DROPPED
            assert batch.schema.equals(expected, check_metadata=True)
            rows[kind_of(batch.schema)] += batch.to_pylist()
    for row in rows["documents"]:
        raw = row["text"].encode()
        assert row["id"] == hashlib.blake2b(raw, digest_size=16).hexdigest()
        assert row["size_bytes"] == len(raw)
        assert row["source"] == source.name and row["path"]
    for row in rows["dropped"]:
        assert row["stage"] == "ingest" and row["reason"] in REASONS["ingest"] and row["source"] == source.name
    return rows["documents"], rows["dropped"]


def texts_by_path(documents: list[dict[str, Any]]) -> dict[str, str]:
    """path -> text; no path may come twice."""
    texts = {row["path"]: row["text"] for row in documents}
    assert len(texts) == len(documents)
    return texts


def reasons_by_path(dropped: list[dict[str, Any]]) -> dict[str, str]:
    """path -> reason; no path may come twice."""
    reasons = {row["path"]: row["reason"] for row in dropped}
    assert len(reasons) == len(dropped)
    return reasons
