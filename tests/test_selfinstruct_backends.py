"""Models behind servers: what they cannot do is done another way, what fails for a moment is tried again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from oracles.scripted_server import Answer, ScriptedServer

from codemill.errors import ConfigError, RunError
from codemill.selfinstruct.backends.base import Infill, Message, Reply, Request, Sampling
from codemill.selfinstruct.backends.config import BackendConfig, open_backend

pytest.importorskip("httpx2", reason="needs httpx2: pip install 'codemill[llm]'")

ASKED = (Message("user", "say something"),)
PROBE = "Say yes."
ASKED_NOTHING = [{"content": ""}]


def scripted(answer: Callable[[str, int], Answer]) -> Callable[[str, int], Answer]:
    """An answer to what is asked, and `yes` to probes."""
    return lambda prompt, number: Answer("yes") if prompt == PROBE else answer(prompt, number)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codemill.selfinstruct.backends.openai._FIRST_PAUSE_SECS", 0.01)


def ask(server: ScriptedServer, *requests: Request, **config: Any) -> list[list[Reply]]:
    backend = open_backend(BackendConfig(url=server.url, **config))

    async def all_of_them() -> list[list[Reply]]:
        try:
            return await asyncio.gather(*map(backend.complete, requests))
        finally:
            await backend.close()

    return asyncio.run(all_of_them())


def texts(replies: list[Reply]) -> list[str]:
    return [reply.text for reply in replies]


@pytest.mark.parametrize("n", ["yes", "ignored", "refused", "slots"])
def test_every_sample_comes_whatever_the_server_makes_of_n(n: str) -> None:
    with ScriptedServer(scripted(lambda *_: Answer("hello")), n=n) as server:
        [replies] = ask(server, Request("q", ASKED, samples=5))
    assert [(reply.number, reply.text, reply.finished) for reply in replies] == [(i, "hello", "stop") for i in range(5)]


def test_choices_that_are_left_out_are_asked_for_again() -> None:
    with ScriptedServer(scripted(lambda _, number: Answer(["a", "b"] if number == 0 else ["c"]))) as server:
        [replies] = ask(server, Request("q", ASKED, samples=3))
    assert sorted(texts(replies)) == ["a", "a", "b"] or texts(replies) == ["a", "b", "a"]


@pytest.mark.parametrize(
    "failure",
    [
        Answer(status=500),
        Answer(status=429, headers=(("Retry-After", "0.01"),)),
        Answer(reset=True),
        Answer("half of this", cut=True),
        Answer(body=b'{"choices": [{"mess'),
        Answer(body=b"<html>"),
        Answer(body=b'{"choices": []}'),
    ],
)
def test_what_fails_for_a_moment_is_tried_again(failure: Answer) -> None:
    with ScriptedServer(scripted(lambda _, number: failure if number < 2 else Answer("well"))) as server:
        [replies] = ask(server, Request("q", ASKED), timeout_secs=2)
    assert texts(replies) == ["well"]


def test_a_server_that_goes_on_failing_is_told_in_one_line() -> None:
    with (
        ScriptedServer(scripted(lambda *_: Answer(status=503))) as server,
        pytest.raises(RunError, match=r"no answer to 'q' in 3 tries \(503.*run the same command again") as caught,
    ):
        ask(server, Request("q", ASKED), retries=2)
    assert "\n" not in str(caught.value)


def test_a_prompt_that_the_model_cannot_hold_is_an_empty_reply() -> None:
    refusal = Answer(status=400, body=b'{"error": "the maximum context length is 10 tokens"}')
    with ScriptedServer(scripted(lambda *_: refusal)) as server:
        [replies] = ask(server, Request("q", ASKED, samples=2))
    assert [(reply.text, reply.finished) for reply in replies] == [("", "length")] * 2


def test_a_key_is_sent_and_never_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_KEY", "sk-secret")
    with ScriptedServer(scripted(lambda *_: Answer("in")), key="sk-secret") as server:
        assert texts(ask(server, Request("q", ASKED), api_key_env="THE_KEY")[0]) == ["in"]
        backend = open_backend(BackendConfig(url=server.url, api_key_env="THE_KEY"))
        assert "sk-secret" not in json.dumps(backend.provenance())
        monkeypatch.setenv("THE_KEY", "sk-wrong")
        with pytest.raises(ConfigError, match=r"refuses us.*api_key_env") as caught:
            open_backend(BackendConfig(url=server.url, api_key_env="THE_KEY"))
        assert "sk-wrong" not in str(caught.value)
    monkeypatch.delenv("THE_KEY")
    with pytest.raises(ConfigError, match=r"THE_KEY.*not set"):
        open_backend(BackendConfig(url=server.url, api_key_env="THE_KEY"))


def test_a_missing_server_and_an_unknown_model_are_told() -> None:
    with pytest.raises(RunError, match="no server answers there"):
        open_backend(BackendConfig(url="http://127.0.0.1:9/v1"))
    with (
        ScriptedServer(scripted(lambda *_: Answer())) as server,
        pytest.raises(ConfigError, match="no such model; it has scripted"),
    ):
        open_backend(BackendConfig(url=server.url, model="other"))


def test_a_refused_schema_becomes_free_text() -> None:
    request = Request("q", ASKED, schema={"type": "object"})
    with ScriptedServer(scripted(lambda *_: Answer("{}")), schema="refused") as server:
        assert texts(ask(server, request)[0]) == ["{}"]
        assert not any("response_format" in body and "say something" in body for body in server.bodies)
    with ScriptedServer(scripted(lambda *_: Answer("{}"))) as server:
        ask(server, request)
        assert any("response_format" in body and "say something" in body for body in server.bodies)


def test_a_server_without_chat_gets_the_messages_as_a_text() -> None:
    with ScriptedServer(lambda prompt, _: Answer(f"<{prompt}>"), paths=("/completions",)) as server:
        [replies] = ask(server, Request("q", (Message("system", "be"), Message("user", "good"))))
    assert texts(replies) == ["<be\n\ngood\n>"]


def test_infilling_is_a_completion_with_a_suffix_or_a_text_of_the_config() -> None:
    with ScriptedServer(lambda prompt, _: Answer(prompt)) as server:
        assert texts(ask(server, Request("q", Infill("a", "b")))[0]) == ["a"]
        assert any('"suffix": "b"' in body or '"suffix":"b"' in body for body in server.bodies)
        shaped = ask(server, Request("q", Infill("a", "b")), infill="<PRE>{prefix}<SUF>{suffix}<MID>")
    assert texts(shaped[0]) == ["<PRE>a<SUF>b<MID>"]


def test_no_more_requests_than_allowed_are_under_way() -> None:
    with ScriptedServer(scripted(lambda *_: Answer("x", slow_secs=0.05))) as server:
        ask(server, *(Request(f"q{i}", (Message("user", str(i)),)) for i in range(12)), concurrency=3)
        assert 2 <= server.most_at_once <= 3


def test_the_seed_of_a_sample_depends_on_its_request_and_number_alone() -> None:
    def seeds(*keys: str) -> dict[str, list[int]]:
        with ScriptedServer(scripted(lambda *_: Answer("x")), n="ignored") as server:
            sampling = Sampling(seed=3, temperature=1.0)
            ask(server, *(Request(key, (Message("user", key),), sampling, 2) for key in keys))
            sent = [json.loads(body) for body in server.bodies]
        return {
            key: sorted(b["seed"] for b in sent if b.get("messages", ASKED_NOTHING)[0]["content"] == key)
            for key in keys
        }

    def sent_from(first: int) -> set[int]:
        with ScriptedServer(scripted(lambda *_: Answer("x")), n="ignored") as server:
            request = Request("a", (Message("user", "a"),), Sampling(seed=3, temperature=1.0), 2, first=first)
            [replies] = ask(server, request)
            assert [reply.number for reply in replies] == [first, first + 1]
            sent = [json.loads(body) for body in server.bodies]
            return {b["seed"] for b in sent if b.get("messages", ASKED_NOTHING)[0]["content"] == "a"}

    both = seeds("a", "b")
    assert sent_from(0) == {*both["a"]}
    assert len(sent_from(0) | sent_from(1)) == 3
    assert both == {**seeds("b"), **seeds("a")}
    assert len({*both["a"], *both["b"]}) == 4
