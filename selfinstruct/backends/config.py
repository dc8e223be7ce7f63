"""Which model is asked, and how: the section of a config that names one, and what opens it.

Flows in: plain data, as YAML gives them. Flows out: a frozen `BackendConfig`, and by `open_backend` the model itself.
"""

from __future__ import annotations

import os
from typing import Annotated, Literal

from pydantic import Field, model_validator

from codemill.errors import ConfigError
from codemill.selfinstruct.backends.base import Backend
from codemill.settings import PositiveFloat, PositiveInt, Section


class BackendConfig(Section):
    """A model.

    kind: `openai` = a server that speaks OpenAI's protocol (vLLM, llama.cpp, TGI); `checkpoint` = a run, a checkpoint
    or a Hugging Face folder; `local_llm` = the small model of `codemill[local-llm]`, for trying only; `vllm` = vLLM in
    this process, on GPUs. model: the server's name for it (none = the first that it lists), or the folder. url: up to
    `/v1`. api_key_env: the environment variable that holds the key; the key itself never stands in a file.
    """

    kind: Literal["openai", "checkpoint", "local_llm", "vllm"] = "openai"
    model: str | None = None
    url: str | None = None
    api_key_env: str | None = None
    api: Literal["auto", "chat", "completions"] = "auto"
    chat_format: Literal["plain", "llama2"] = "plain"  # of models that have no chat of their own
    infill: str | None = None  # a text with {prefix} and {suffix}; none = the server's own `suffix`
    concurrency: PositiveInt = 8  # requests under way
    requests_per_minute: PositiveFloat | None = None
    timeout_secs: PositiveFloat = 600.0
    retries: Annotated[int, Field(ge=0, le=100)] = 6
    device: Literal["cpu", "cuda"] | None = None  # of a checkpoint; none = a GPU where there is one

    @model_validator(mode="after")
    def _has_what_its_kind_needs(self) -> BackendConfig:
        if self.kind == "openai" and not self.url:
            raise ValueError("url: a model of kind openai needs one; give it up to /v1, as http://127.0.0.1:8000/v1")
        if self.kind in ("checkpoint", "vllm") and not self.model:
            raise ValueError(f"model: a model of kind {self.kind} needs the path of its folder")
        return self

    def api_key(self) -> str | None:
        """The key, from the environment. Raises ConfigError where the variable is not set."""
        if self.api_key_env is None:
            return None
        key = os.environ.get(self.api_key_env)
        if not key:
            raise ConfigError(f"api_key_env: {self.api_key_env}: this environment variable is not set; export it")
        return key


def open_backend(config: BackendConfig) -> Backend:
    """The model of a config, ready to be asked. Raises ConfigError and RunError where it cannot be had."""
    if config.kind == "openai":
        from codemill.selfinstruct.backends.openai import OpenAIBackend

        return OpenAIBackend(config)
    if config.kind == "checkpoint":
        from codemill.selfinstruct.backends.checkpoint import CheckpointBackend

        return CheckpointBackend(config)
    if config.kind == "local_llm":
        from codemill.selfinstruct.backends.local_llm import LocalBackend

        return LocalBackend(config)
    from codemill.selfinstruct.backends.vllm import VllmBackend

    return VllmBackend(config)
