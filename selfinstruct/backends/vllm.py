"""vLLM in this process, on GPUs: what a Ray actor with a GPU holds."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from codemill.errors import ConfigError
from codemill.selfinstruct.backends.base import Infill, Reply, Request
from codemill.selfinstruct.backends.config import BackendConfig

_SUFFIX = "give `infill`, the text in which this model wants {prefix} and {suffix}"


class VllmBackend:
    """A `Backend`. Raises ConfigError where vLLM is not installed."""

    def __init__(self, config: BackendConfig) -> None:
        try:
            import vllm
        except ModuleNotFoundError:
            raise ConfigError("kind vllm: vllm is not installed; pip install vllm, on a machine with a GPU") from None
        self._config, self._vllm = config, vllm
        self._model = vllm.LLM(model=str(config.model))
        self._thread = ThreadPoolExecutor(1, "vllm")

    def provenance(self) -> dict[str, Any]:
        return {"kind": "vllm", "model": self._config.model, "version": self._vllm.__version__}

    async def close(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    async def complete(self, request: Request) -> list[Reply]:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._complete, request)

    def _complete(self, request: Request) -> list[Reply]:
        asked, prompt = request.sampling, request.prompt
        drawn = self._vllm.SamplingParams(
            n=request.samples, temperature=asked.temperature, top_p=asked.top_p, max_tokens=asked.max_tokens,
            stop=list(asked.stop),
            seed=None if asked.seed is None else asked.seed + request.first,  # vLLM's samples have seed, seed + 1, ...
        )  # fmt: skip
        if isinstance(prompt, Infill):
            if self._config.infill is None:
                raise ConfigError(f"{self._config.model}: {_SUFFIX}")
            [made] = self._model.generate([self._config.infill.format(**prompt._asdict())], drawn)
        elif isinstance(prompt, str):
            [made] = self._model.generate([prompt], drawn)
        else:
            [made] = self._model.chat([[message._asdict() for message in prompt]], drawn)
        return _replies(request, made.outputs)


def _replies(request: Request, outputs: Sequence[Any]) -> list[Reply]:
    return [
        Reply(request.key, number, each.text, "length" if each.finish_reason == "length" else "stop",
              len(each.token_ids), each.cumulative_logprob)
        for number, each in enumerate(outputs, request.first)
    ]  # fmt: skip
