"""Models and judges in Ray actors, behind the words that the loop knows; the driver alone keeps the store.

Flows in: how to open a backend or a judge (a function that can be pickled; called inside each actor). Flows out: a
`Backend` and a `Judge` whose work is done by pools of actors. Back-pressure: each actor has at most so many calls. An
actor or node that is killed loses nothing: Ray starts the actor anew, elsewhere if need be, and what was asked of it is
asked again; so the outcome is what the local loop comes to.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import ray

from codemill.errors import ConfigError, RunError
from codemill.selfinstruct.backends.base import Backend, Reply, Request
from codemill.selfinstruct.verdicts import Check, Judge, Verdict

_TRIES_AGAIN = {"max_restarts": -1, "max_task_retries": -1}


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[bool]:
    """A connection to the Ray at an address (null = RAY_ADDRESS), or where none is named, to one of our own on this
    machine, which ends with it. Gives whether it is a cluster, not our own. Raises RunError where no Ray answers."""
    address = address or os.environ.get("RAY_ADDRESS") or "local"  # null would join whatever Ray runs here
    cluster = address != "local"
    try:
        ray.init(address=address, include_dashboard=None if cluster else False, log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise RunError(
            f"ray.address: {address}: no Ray can be reached there ({error}); start it, or name another"
        ) from None
    try:
        yield cluster
    finally:
        ray.shutdown()


def require_room(cpus: float, gpus: float, say: Callable[[str], None] | None = None) -> None:
    """Actors that Ray has no room for would wait, silently, for ever. say: is told so where the cluster may grow yet.

    cpus, gpus: of all actors together. Raises ConfigError where there is less and no `say`.
    """
    there = ray.cluster_resources()
    short = [
        f"{wanted:g} {name}s are asked for, {there.get(name, 0):g} are there"
        for name, wanted in (("CPU", cpus), ("GPU", gpus))
        if wanted > there.get(name, 0)
    ]
    if short and say:
        say(f"ray: {' and '.join(short)}; what does not fit waits for more machines")
    elif short:
        raise ConfigError(
            f"ray: {' and '.join(short)}; lower generators, generator_gpus, judges or judge_cpus, or give the address "
            "of a cluster"
        )


class _Model:
    """A backend in an actor."""

    def __init__(self, open_backend: Callable[[], Backend]) -> None:
        self._backend = open_backend()

    async def complete(self, request: Request) -> list[Reply]:
        return await self._backend.complete(request)

    async def provenance(self) -> dict[str, Any]:
        return self._backend.provenance()


class _Bench:
    """A judge in an actor."""

    def __init__(self, open_judge: Callable[[], Judge]) -> None:
        self._judge = open_judge()

    def judge(self, check: Check) -> Verdict:
        return self._judge.submit(check).result()

    def provenance(self) -> dict[str, str]:
        return self._judge.provenance()


class _Pool:
    """Actors, of which the one with the fewest calls is next."""

    def __init__(self, kind: type, opened: Callable[[], Any], actors: int, calls: int, **resources: float) -> None:
        made: Any = ray.remote(kind).options(max_concurrency=calls, **_TRIES_AGAIN, **resources)
        self.actors: Sequence[Any] = [made.remote(opened) for _ in range(actors)]
        self._calls = [0] * actors
        self._lock = threading.Lock()

    def take(self) -> int:
        """The number of the actor that is to do the next call."""
        with self._lock:
            number = self._calls.index(min(self._calls))
            self._calls[number] += 1
            return number

    def give(self, number: int) -> None:
        """A call is done."""
        with self._lock:
            self._calls[number] -= 1

    def provenance(self) -> Any:
        """What the first actor says of itself. Raises RunError where it cannot be started."""
        try:
            return ray.get(self.actors[0].provenance.remote())
        except ray.exceptions.RayError as error:
            raise _told(error) from None

    def close(self) -> None:
        """End the actors."""
        for actor in self.actors:
            ray.kill(actor)


def _told(error: BaseException) -> RunError:
    if isinstance(error, RunError):
        return error
    cause = getattr(error, "cause", None)
    if isinstance(cause, RunError):
        return cause
    first = str(error).strip().splitlines()[-1:] or [type(error).__name__]
    return RunError(f"Ray: an actor could not go on ({first[0]}); what had arrived is stored, so run the command again")


class RayBackend:
    """A model in `actors` actors, each of which has at most `calls` requests at a time; gpus: of each actor."""

    def __init__(self, open_backend: Callable[[], Backend], actors: int = 1, calls: int = 32, gpus: float = 0) -> None:
        self._pool = _Pool(_Model, open_backend, actors, calls, num_cpus=0 if gpus else 1, num_gpus=gpus)
        self._slots = asyncio.Semaphore(actors * calls)

    async def complete(self, request: Request) -> list[Reply]:
        """See `Backend`."""
        async with self._slots:
            number = self._pool.take()
            try:
                found: list[Reply] = await self._pool.actors[number].complete.remote(request)
                return found
            except ray.exceptions.RayError as error:
                raise _told(error) from None
            finally:
                self._pool.give(number)

    def provenance(self) -> dict[str, Any]:
        """See `Backend`."""
        return dict(self._pool.provenance())

    async def close(self) -> None:
        """End the actors."""
        self._pool.close()


class RayJudge:
    """Judges in `actors` actors of `cpus` cores, each of which has at most twice as many checks at a time."""

    def __init__(self, open_judge: Callable[[], Judge], actors: int = 1, cpus: int = 1) -> None:
        self._pool = _Pool(_Bench, open_judge, actors, 2 * cpus, num_cpus=cpus)
        self._slots = threading.Semaphore(2 * cpus * actors)

    def submit(self, check: Check) -> Future[Verdict]:
        """See `Judge`."""
        self._slots.acquire()
        number = self._pool.take()
        verdict: Future[Verdict] = Future()
        verdict.set_running_or_notify_cancel()  # a check that an actor has cannot be called back

        def done(found: Future[Verdict]) -> None:
            self._pool.give(number)
            self._slots.release()
            error = found.exception()
            if error is None:
                verdict.set_result(found.result())
            else:
                verdict.set_exception(_told(error) if isinstance(error, ray.exceptions.RayError) else error)

        self._pool.actors[number].judge.remote(check).future().add_done_callback(done)
        return verdict

    def provenance(self) -> dict[str, str]:
        """See `Judge`."""
        return dict(self._pool.provenance())

    def close(self) -> None:
        """End the actors."""
        self._pool.close()
