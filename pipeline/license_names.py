"""Licences by what people call them: `GPLv3+`, `Apache License, Version 2.0`, `New BSD`, `MIT/X11`.

Flows in: a name. Flows out: an SPDX expression, or None; a name that fits several licences is none of them.
"""

from __future__ import annotations

import difflib
import functools
import re

from codemill.pipeline.license_expressions import known_expression, spdx_ids
from codemill.pipeline.license_texts import table
from codemill.pipeline.license_words import joined

_MAX_NAME = 200  # characters
_FILLING = re.compile(
    r" (?:the|license|licensed|version|ver|public license|terms?|software license|v(?=[0-9])|v)(?= |$)"
)
# What licences are called that SPDX's list does not have, by the words of `_core`; "bsd" alone is none of them.
_CALLED = {
    "MIT": "mit, expat, mit expat, mit x11, x11 mit, mit style",
    "X11": "x11",
    "BSD-2-Clause": "bsd 2 clause, 2 clause bsd, simplified bsd, bsd 2, bsd simplified, two clause bsd, freebsd",
    "BSD-3-Clause": "bsd 3 clause, 3 clause bsd, new bsd, modified bsd, revised bsd, bsd 3, bsd new, three clause bsd,"
    "bsd modified, bsd revised, new bsd 3 clause, bsd 3 clause new",
    "BSD-4-Clause": "bsd 4 clause, 4 clause bsd, original bsd, bsd original",
    "Apache-2.0": "apache 2, apache2, asl 2, apache software 2, al 2, apl 2, apache license 2",
    "ISC": "isc",
    "MPL-2.0": "mpl 2, mozilla 2, mozilla mpl 2",
    "MPL-1.1": "mpl 1 1, mozilla 1 1",
    "EPL-1.0": "epl 1, eclipse 1",
    "EPL-2.0": "epl 2, eclipse 2",
    "BSL-1.0": "boost 1, boost, boost software 1, boost software",
    "Zlib": "zlib, zlib libpng",
    "Unlicense": "unlicense",
    "WTFPL": "wtfpl, wtfpl 2",
    "CC0-1.0": "cc0, cc0 1, cc0 1 universal, creative commons zero",
    "CC-BY-4.0": "cc by 4, creative commons attribution 4, cc by 4 international",
    "CC-BY-3.0": "cc by 3, creative commons attribution 3",
    "CC-BY-SA-4.0": "cc by sa 4, creative commons attribution sharealike 4, creative commons attribution share alike 4",
    "CC-BY-SA-3.0": "cc by sa 3, creative commons attribution sharealike 3, creative commons attribution share alike 3",
    "CC-BY-NC-4.0": "cc by nc 4, creative commons attribution noncommercial 4",
    "CC-BY-NC-SA-4.0": "cc by nc sa 4",
    "Artistic-2.0": "artistic 2",
    "PSF-2.0": "psf 2, psf, python software foundation",
}
# Names that are clear only beside the text of the licence itself, by the beginning of its id.
_CALLED_BESIDE = {
    "BSD": "bsd, bsd style",
    "Apache-2.0": "apache, apache license, apache 2, apache license 2, apache license version 2.0, apache version 2.0,"
    "apache software license 2.0, apache v2, asl 2.0",
    "GPL": "gpl, gnu gpl, gnu general public license, gplv2, gplv3, gpl v2, gpl v3, gpl 2, gpl 3",
    "LGPL": "lgpl, gnu lgpl, gnu lesser general public license, gnu library general public license, lgplv2.1, lgplv3",
    "AGPL": "agpl, gnu agpl, gnu affero general public license, agplv3",
    "MPL-2.0": "mpl, mozilla public license, mozilla public license version 2.0, mplv2",
    "BSL-1.0": "boost license, boost software license",
    "Unlicense": "public domain",
    "CC0": "public domain",
    "PSF-2.0": "psf license, python license, psf license version 2",
    "Python-2.0": "psf, psf license, python license, cnri, beopen, cwi, python software foundation license",
    "0BSD": "zero clause bsd license, zero clause bsd, bsd zero clause license",
    "CC-BY": "creative commons, cc by",
}
_ADDRESS = re.compile(
    r"(?i)(?:https?://)?(?:www\.)?(?:(?:opensource|spdx|apache|gnu)\.org/licen[sc]es?/(?:old-licenses/)?"
    r"|mozilla\.org/(?=mpl/)|creativecommons\.org/(?:licenses/)?(?=by)(?P<cc>))(?P<part>[\w.+/-]{2,40}?)/?$"
)
_GNU = re.compile(
    r"^(?: gnu)?(?: (?P<kind>affero|lesser|library))?(?: gnu)? (?:(?P<short>[al]?gpl)|general public)(?: license)?"
    r"(?: (?:gpl|lgpl|agpl))?(?: (?:version|ver|v))?(?: ?v?(?P<major>[1-3])(?: (?P<minor>[0-9]))?)?"
    r"(?P<later> orlater"
    r"| or (?:at your option )?(?:any )?(?:later|newer|higher|above|greater)(?: versions?)?"
    r"| and (?:later|above)"
    r"| at your option any later version)?"
    r"(?P<only> only)?$"
)


@functools.lru_cache(maxsize=65_536)
def named_expression(name: str) -> str | None:
    """The SPDX expression that a name or an expression stands for; None where that is not clear."""
    name = name.strip(" \t\r\n.,;:'\"`*/<>|_()[]") if len(name) <= _MAX_NAME else ""
    return known_expression(name) or _named(name) or _several(name) or _of_address(name)


_MEANT = {"bsd": "BSD-3-Clause", "bsd3": "BSD-3-Clause", "bsd2": "BSD-2-Clause", "mpl": "MPL-2.0", "cc0": "CC0-1.0"}


def check_id(name: str) -> None:
    """Raises ValueError where a name is no id of SPDX's list (or of one WITH an exception) and no LicenseRef."""
    found = known_expression(name)
    if found is not None and not re.search(" (?:AND|OR) ", found):
        return
    if found is not None:
        raise ValueError(f"{name!r} is an expression of several licences; list each id by itself")
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    squeezed = {re.sub(r"[^a-z0-9]", "", lower): id_ for lower, id_ in spdx_ids().items()}
    near = difflib.get_close_matches(plain, squeezed, n=1, cutoff=0.6)
    hint = _MEANT.get(plain) or named_expression(name) or (squeezed[near[0]] if near else None)
    meant = f"; did you mean {hint!r}?" if hint else ""
    raise ValueError(f"{name!r} is no id of SPDX's licence list (spdx.org/licenses){meant}")


def _of_address(name: str) -> str | None:
    """The licence whose text has an address (`https://opensource.org/licenses/MIT`)."""
    match = _ADDRESS.match(name)
    if match is None:
        return None
    part = match["part"].lower().replace("/", "-").strip("-.")
    part = part.removesuffix(".php").removesuffix(".html").removesuffix(".txt").removesuffix(".en")
    return known_expression({"license-2.0": "Apache-2.0", "by": ""}.get(part, part))


def also_called(license_id: str) -> list[str]:
    """What a licence is called where its text stands beside the name."""
    beside = [names for start, names in _CALLED_BESIDE.items() if license_id.startswith(start)]
    return [name for names in (_CALLED.get(license_id, ""), *beside) for name in names.split(",") if name]


def _several(name: str) -> str | None:
    """`MIT or GPLv3`, `Apache 2.0 and MIT`: names joined by one operator."""
    for operator in ("or", "and"):
        parts = re.split(
            rf"(?i)\s+{operator}\s+(?!(?:\(?at your option|any|later|newer|higher|above|greater|revised))", name
        )
        if 1 < len(parts) < 5:
            found = [known_expression(part.strip()) or _named(part) for part in parts]
            return None if None in found else f" {operator.upper()} ".join(found)  # type: ignore[arg-type]
    return None


def _named(name: str) -> str | None:
    words = joined(name.replace("+", " orlater "))
    return _gnu(words) or _by_core().get(_core(words))


def _gnu(words: str) -> str | None:
    match = _GNU.match(re.sub(r"^ the| (?:license|licensed)$", "", words))
    if match is None:
        return None
    kind = {"affero": "AGPL", "lesser": "LGPL", "library": "LGPL"}.get(match["kind"]) or (
        match["short"] or "gpl"
    ).upper()
    later = "or-later" if match["later"] else "only"
    if not match["major"]:  # "any version ever published", where none is named
        return {"GPL": "GPL-1.0-or-later", "LGPL": "LGPL-2.0-or-later", "AGPL": "AGPL-1.0-or-later"}[kind]
    return known_expression(f"{kind}-{match['major']}.{match['minor'] or 0}-{later}")


def _core(words: str) -> str:
    """The words by which names are compared: no `the`, no `license`, no `version`, 2.0 as 2."""
    words = re.sub(r" v(?=[0-9])", " ", words)
    words = re.sub(r"(?<=[0-9]) 0(?= |$)", "", words)
    previous = None
    while previous != words:
        previous, words = words, _FILLING.sub("", words)
    return words.strip()


@functools.cache
def _by_core() -> dict[str, str]:
    """Core of a name -> id; a core of several ids is left out."""
    found: dict[str, set[str]] = {}
    for row in table()["licenses"]:
        if not row["deprecated"]:
            for each in (row["name"], row["id"]):
                found.setdefault(_core(joined(each)), set()).add(row["id"])
    known = {core: next(iter(ids)) for core, ids in found.items() if len(ids) == 1 and core}
    known.update({_core(joined(called)): id_ for id_, names in _CALLED.items() for called in names.split(",")})
    known.pop("bsd", None)
    return known
