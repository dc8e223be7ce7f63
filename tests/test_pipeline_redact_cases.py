"""Redaction of the forms and look-alikes that earlier versions got wrong."""

from __future__ import annotations

import pyarrow as pa
import pytest
from cases import case_module
from test_pipeline_redact import batch

from codemill.pipeline.config import Redact
from codemill.pipeline.language import detect_languages
from codemill.pipeline.redact import redact

FORMS = list(case_module("redact_forms").cases())
LOOK_ALIKES = list(case_module("redact_lookalikes").cases())


def redacted(path: str, text: str) -> str:
    documents = batch([text])
    paths = pa.array([path])
    for name, column in (("path", paths), ("language", detect_languages(paths, documents.column("text")))):
        place = documents.schema.get_field_index(name)
        documents = documents.set_column(place, documents.schema.field(place), column.cast(pa.string()))
    return redact(documents, Redact())[0].column("text")[0].as_py()


@pytest.mark.parametrize(("path", "text", "secrets"), [case[1:] for case in FORMS], ids=[case[0] for case in FORMS])
def test_nothing_of_a_secret_is_left(path: str, text: str, secrets: list[str]) -> None:
    after = redacted(path, text)
    assert [secret for secret in secrets if secret in after] == []
    assert redacted(path, after) == after


@pytest.mark.parametrize(("path", "text"), [case[1:3] for case in LOOK_ALIKES], ids=[case[0] for case in LOOK_ALIKES])
def test_a_look_alike_comes_out_unchanged(path: str, text: str) -> None:
    assert redacted(path, text) == text
