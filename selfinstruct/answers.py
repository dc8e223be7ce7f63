"""Everything that is asked goes through here: to the store first, and to a model or the judge where it is new.

Flows in: requests and checks. Flows out: replies and verdicts, each stored before it is used. What is asked twice while
the first is under way is asked once. In a replay there are neither models nor a judge: what is not stored is an error.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from codemill.errors import DataError
from codemill.selfinstruct.backends.base import Backend, Reply, Request
from codemill.selfinstruct.store import Store, key_of
from codemill.selfinstruct.verdicts import Check, Judge, Verdict


class Answers:
    """Models by name and a judge, behind a store; of one event loop.

    asked, judged: how many requests and checks were new in this run. Raises DataError in a replay where the store does
    not say what the models and the judge were.
    """

    def __init__(self, store: Store, backends: Mapping[str, Backend] | None, judge: Judge | None) -> None:
        self._store, self._backends, self._judge = store, backends, judge
        self._under_way: dict[str, asyncio.Task[Any]] = {}
        self.asked = self.judged = 0
        self.provenance = self._provenance()

    def _provenance(self) -> dict[str, Any]:
        stored = self._store.get("provenance")
        if self._backends is None or self._judge is None:
            if stored is None:
                raise DataError(f"{self._store.path}: holds no answers to replay; run once without --replay")
            return dict(stored)
        models = {name: backend.provenance() for name, backend in sorted(self._backends.items())}
        found = {"models": models, "judge": dict(self._judge.provenance())}
        if found != stored:
            self._store.put("provenance", found)
        return found

    async def ask(self, model: str, request: Request) -> list[Reply]:
        """All samples of a request to a model, by its name in the config. Those that are stored are not asked for
        again, however many were asked for then."""
        key = key_of("reply", self.provenance["models"].get(model), request._replace(samples=0))

        async def new() -> None:
            if self._backends is None:
                raise self._missing(f"the replies to {request.key}")
            first = len(self._samples(key, request.samples))
            wanted = request._replace(samples=request.samples - first, first=first)
            replies = await self._backends[model].complete(wanted)
            self.asked += 1
            for number, reply in enumerate(replies, first):
                self._store.put(key_of(key, number), list(reply))

        while len(stored := self._samples(key, request.samples)) < request.samples:
            await self._once(key, new)
        return [Reply(*each) for each in stored]

    def _samples(self, key: str, most: int) -> list[Any]:
        """The stored samples of a request, from the first on, without a gap."""
        found = (self._store.get(key_of(key, number)) for number in range(most))
        return [*itertools.takewhile(lambda sample: sample is not None, found)]

    async def judge(self, check: Check) -> Verdict:
        """The verdict on a check; its own name, `key`, is no part of what it is stored under."""
        layer = self.provenance["judge"].get("layer")
        key = key_of("verdict", layer, check._replace(key=""))

        async def new() -> None:
            if self._judge is None:
                raise self._missing(f"the verdict on {check.key}")
            verdict = await asyncio.wrap_future(await asyncio.to_thread(self._judge.submit, check))
            self.judged += 1
            self._store.put(key, list(verdict))

        if self._store.get(key) is None:
            await self._once(key, new)
        return Verdict(*self._store.get(key))._replace(key=check.key)

    async def _once(self, key: str, new: Callable[[], Awaitable[None]]) -> None:
        """Have an answer made and stored, by whoever was first to want it."""
        task = self._under_way.get(key)
        if task is None:
            task = self._under_way[key] = asyncio.ensure_future(self._made(key, new))
        await asyncio.shield(task)

    async def _made(self, key: str, new: Callable[[], Awaitable[None]]) -> None:
        try:
            await new()
        finally:
            del self._under_way[key]

    def _missing(self, what: str) -> DataError:
        return DataError(
            f"{self._store.path}: {what} are not stored, so this run cannot be replayed; run again without --replay, "
            "or with the config that the answers were made with"
        )

    async def settle(self) -> None:
        """Let nothing that is under way go on: what has not arrived is asked again by the next run."""
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
