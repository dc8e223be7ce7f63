"""A model that is none: a server of OpenAI's protocol that says what a file has it say, to try self-instruct with.

    python examples/scripted_model.py examples/replies.yaml

It says its URL on its first line of output (port 0: any that is free; or give a port), and serves until it is ended.
A prompt with `Problem: QUESTION` asks for that question's tests or solutions, any other one for the list of questions.
"""

from __future__ import annotations

import json
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml


def replies_to(prompt: str, count: int, known: list[dict[str, Any]]) -> list[str]:
    """So many choices; where a question has fewer solutions they come again, from the first on."""
    asked = re.findall(r"^Problem: (.*)$", prompt, re.MULTILINE)
    if not asked:
        return ["\n".join(f"{number}. {each['question']}" for number, each in enumerate(known, 1))] * count
    found = next((each for each in known if each["question"] == asked[-1]), None)
    if found is None:
        return ["I have not heard of that problem."] * count
    if "[TESTS]" in prompt:
        return [f"[TESTS]\n{found['tests']}[/TESTS]"] * count
    solutions = [f"[PYTHON]\n{code}[/PYTHON]" for code in found["solutions"]]
    return [solutions[number % len(solutions)] for number in range(count)]


def main(file: str, port: str = "0") -> None:
    known = yaml.safe_load(Path(file).read_text())

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send({"data": [{"id": "scripted"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            chat = "messages" in body
            prompt = body["messages"][-1]["content"] if chat else body["prompt"]
            made = replies_to(prompt, body.get("n", 1), known)
            said = [{"message": {"role": "assistant", "content": text}} if chat else {"text": text} for text in made]
            choices = [{"index": number, "finish_reason": "stop", **each} for number, each in enumerate(said)]
            self._send({"choices": choices})

        def _send(self, answer: dict[str, Any]) -> None:
            data = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", int(port)), Handler)
    print(f"http://127.0.0.1:{server.server_address[1]}/v1", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
