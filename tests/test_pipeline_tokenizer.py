"""The sample that a tokenizer is trained on."""

from __future__ import annotations

import json
from pathlib import Path

import builds
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codemill.pipeline.stages.tokenizer import SAMPLE, cut_sample


@given(st.lists(st.text("ab\u00e9\u4e2d", max_size=9), min_size=1, max_size=8), st.integers(1, 60))
def test_a_cut_sample_is_the_first_texts_of_its_order_and_no_more_bytes(texts: list[str], most_bytes: int) -> None:
    order = np.random.default_rng(len(texts)).permutation(len(texts)).astype(np.uint64)
    sizes = [len(text.encode()) for text in texts]
    cut = cut_sample(pa.table([texts, order, sizes], schema=SAMPLE), most_bytes).to_pylist()
    if sum(sizes) <= most_bytes:
        assert cut == texts
        return
    ordered = "".join(text for _, text in sorted(zip(order, texts, strict=True)))
    expected = ordered.encode()[:most_bytes].decode("utf-8", "ignore")
    assert "".join(cut) == expected


@pytest.mark.parametrize("count", [1, 2, 40])
def test_a_sample_smaller_than_the_first_documents_is_cut_to_fit(
    tmp_path: Path, standard_library: list[Path], count: int
) -> None:
    long = [path.read_text("utf-8", "replace") for path in standard_library if path.stat().st_size > 60_000][:count]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in long))
    source = {"name": "s", "kind": "jsonl", "path": str(tmp_path / "a.jsonl")}
    tokenizer = {"train": {"vocabulary_size": 600, "sample_bytes": 20_000}}
    configured = builds.config(
        tmp_path / "c.yaml", tmp_path / "out", [source], tokenizer=tokenizer, decontaminate=[], dedup={"near": None}
    )
    done = builds.call("build", configured)
    assert done.returncode == 0, done.stderr
    assert "bytes, cut to 20,000" in done.stderr
    assert builds.call("verify", tmp_path / "out", "--quiet").returncode == 0
