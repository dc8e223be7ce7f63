"""A server that speaks OpenAI's protocol on loopback, and says what a function says: for tests, and for trying out.

    with ScriptedServer(lambda prompt, number: Answer("def f(): ...")) as server:
        BackendConfig(url=server.url)

`prompt` is the whole text of the request's messages or its prompt; `number` counts how often this very body came.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Answer:
    """What happens to a request. text: of each choice, or a list of them. body: sent as it is, instead of an answer.
    reset: the connection breaks; cut: after half of the answer."""

    text: str | list[str] = ""
    status: int = 200
    body: bytes | None = None
    headers: tuple[tuple[str, str], ...] = ()
    slow_secs: float = 0.0
    reset: bool = False
    cut: bool = False
    finish: str = "stop"


class ScriptedServer:
    """answer: (prompt, number of this body so far) -> Answer. can: what it does as asked; `n` may be `refused`
    (400), `ignored`, or have two `slots`; `schema` may be `refused`."""

    def __init__(
        self, answer: Callable[[str, int], Answer], key: str = "", model: str = "scripted",
        n: str = "yes", schema: str = "yes", paths: tuple[str, ...] = ("/chat/completions", "/completions"),
    ) -> None:  # fmt: skip
        self.answer, self.key, self.model, self.n, self.schema, self.paths = answer, key, model, n, schema, paths
        self.bodies: Counter[str] = Counter()
        self.most_at_once = self._now = 0
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                outer._models(self)

            def do_POST(self) -> None:
                outer._post(self)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> ScriptedServer:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _models(self, handler: BaseHTTPRequestHandler) -> None:
        if self.key and handler.headers.get("Authorization") != f"Bearer {self.key}":
            _send(handler, 401, b'{"error": "wrong key"}')
        else:
            _send(handler, 200, json.dumps({"data": [{"id": self.model}]}).encode())

    def _post(self, handler: BaseHTTPRequestHandler) -> None:
        raw = handler.rfile.read(int(handler.headers["Content-Length"]))
        body, path = json.loads(raw), handler.path.removeprefix("/v1")
        with self._lock:
            number = self.bodies[raw.decode()]
            self.bodies[raw.decode()] += 1
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            self._respond(handler, body, path, number)
        finally:
            with self._lock:
                self._now -= 1

    def _respond(self, handler: BaseHTTPRequestHandler, body: dict[str, Any], path: str, number: int) -> None:
        if path not in self.paths:
            return _send(handler, 404, b'{"error": "no such path"}')
        most = {"refused": 1, "slots": 2}.get(self.n, 1 << 30)
        if (body.get("n", 1) > most) or ("response_format" in body and self.schema == "refused"):
            return _send(handler, 400, b'{"error": "not supported"}')
        chat = path.startswith("/chat")
        prompt = "\n".join(m["content"] for m in body["messages"]) if chat else body["prompt"]
        answer = self.answer(prompt, number)
        time.sleep(answer.slow_secs)
        if answer.reset:
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return handler.connection.close()
        count = 1 if self.n == "ignored" else body.get("n", 1)
        texts = answer.text if isinstance(answer.text, list) else [answer.text] * count
        choices = [
            {"index": i, "finish_reason": answer.finish, "logprobs": {"content": []} if body.get("logprobs") else None,
             **({"message": {"role": "assistant", "content": text}} if chat else {"text": text})}
            for i, text in enumerate(texts[:count])
        ]  # fmt: skip
        made = json.dumps({"choices": choices}).encode() if answer.body is None else answer.body
        _send(handler, answer.status, made, answer.headers, answer.cut)
        return None


def _send(
    handler: BaseHTTPRequestHandler, status: int, body: bytes, headers: tuple[tuple[str, str], ...] = (),
    cut: bool = False,
) -> None:  # fmt: skip
    handler.send_response(status)
    for name, value in (("Content-Type", "application/json"), ("Content-Length", str(len(body))), *headers):
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body[: len(body) // 2] if cut else body)
