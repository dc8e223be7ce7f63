"""The log of answers: nothing that was put is lost, a torn tail is cut, any other damage is told."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codemill.errors import DataError, RunError
from codemill.selfinstruct.store import Store, key_of


def test_answers_are_there_in_a_later_run(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.put("a", ["é\n\ud800", 1, None])
        store.put("a", [2])
        store.put("b", {"x": 1.5})
    with Store(tmp_path) as store:
        assert (store.get("a"), store.get("b"), store.get("c"), len(store)) == ([2], {"x": 1.5}, None, 2)
        assert store.torn_bytes == 0
    with Store(tmp_path, fresh=True) as store:
        assert len(store) == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=20), min_size=1, max_size=6), st.integers(0, 10**6))
def test_a_log_cut_anywhere_keeps_every_whole_answer_and_can_be_written_on(texts: list[str], cut: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        with Store(Path(folder)) as store:
            for number, text in enumerate(texts):
                store.put(str(number), [text])
        path = store.path
        whole = path.read_bytes()
        cut %= len(whole) + 1
        path.write_bytes(whole[:cut])
        kept = whole[:cut].count(b"\n")
        with Store(Path(folder)) as store:
            assert [store.get(str(n)) for n in range(len(texts))] == [[t] for t in texts[:kept]] + [None] * (
                len(texts) - kept
            )
            assert store.torn_bytes == cut - (whole[:cut].rfind(b"\n") + 1)
            store.put("more", [1])
        with Store(Path(folder)) as store:
            assert (len(store), store.torn_bytes) == (kept + 1, 0)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 255))
def test_any_changed_byte_of_a_whole_answer_is_told(place: int, change: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        with Store(Path(folder)) as store:
            store.put("a", ["one"])
            store.put("b", ["two"])
        content = bytearray(store.path.read_bytes())
        first = content.index(b"\n") + 1
        content[place % (first - 1)] ^= change
        store.path.write_bytes(content)
        with pytest.raises(DataError, match=r"byte 0: an answer is damaged.*--fresh"):
            Store(Path(folder))


def test_two_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    with Store(tmp_path), pytest.raises(RunError, match="another run is using it"):
        Store(tmp_path)
    Store(tmp_path).close()


def test_keys_tell_apart_whatever_differs() -> None:
    parts = [("a", "b"), ("ab",), ("a", ["b"]), ("a", None), ("a", 1), ("a", "1"), ("a", 1.5), ({"b": 1, "a": 2},)]
    assert len({key_of(*part) for part in parts}) == len(parts)
    assert key_of({"a": 2, "b": 1}) == key_of({"b": 1, "a": 2})
