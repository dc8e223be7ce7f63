"""The names of languages: GitHub Linguist's, in lower case.

Flows in: names as people and tables write them. Flows out: one name a language. `linguist.json` is
made from Linguist's data by `python -m benchmarks.linguist_table`; it carries Linguist's version
and licence.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from codemill.settings import nearest


@functools.cache
def linguist_table() -> dict[str, Any]:
    """Linguist's data.

    Its keys are `languages`, `aliases`, `filenames`, `extensions`, `interpreters`, `rules`, `more`
    (what Linguist does not have) and `source` (version and licence).
    """
    return json.loads(Path(__file__).with_name("linguist.json").read_bytes())


def language_name(name: str) -> str:
    """The one name of a language.

    Args:
        name: Linguist's name or an alias of it (`golang`, `js`), in any case.

    Returns:
        Linguist's name in lower case.

    Raises:
        ValueError: it is neither; the message shows the nearest name.
    """
    table, lower = linguist_table(), name.lower()
    known = _languages()
    if lower in known:
        return lower
    if lower in table["aliases"]:
        return table["aliases"][lower]
    hint = nearest(lower, known) or nearest(lower, table["aliases"])
    raise ValueError(f"GitHub Linguist {table['source']['version']} has no language {name!r}{hint}")


@functools.cache
def _languages() -> dict[str, None]:
    return dict.fromkeys(linguist_table()["languages"])  # in a fixed order
