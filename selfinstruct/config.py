"""The config of a self-instruct run: the loop's sections, the models that are asked, and the dataset that is made.

Flows in: plain data, as YAML gives them. Flows out: a frozen `SelfInstructConfig`. Models stand under `models` by a
name of the user's, by which each stage says which of them it asks.
"""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from codemill.selfinstruct.backends.config import BackendConfig
from codemill.selfinstruct.dataset_config import DatasetConfig
from codemill.selfinstruct.sections import LoopSettings, RaySettings
from codemill.settings import nearest


class SelfInstructConfig(LoopSettings):
    """All of it."""

    models: dict[str, BackendConfig]
    engine: Literal["local", "ray"] = "local"
    ray: RaySettings = RaySettings()
    dataset: DatasetConfig = DatasetConfig()

    @model_validator(mode="after")
    def _models_are_named(self) -> SelfInstructConfig:
        for stage in ("questions", "tests", "solutions"):
            name = getattr(self, stage).backend
            if name not in self.models:
                known = ", ".join(self.models) or "none"
                hint = nearest(name, self.models)
                raise ValueError(f"{stage}.backend: {name!r} is no model of this config{hint}; `models` has {known}")
        return self
