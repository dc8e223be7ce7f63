"""Who states the licence of a file: the nearest statement upward in its package or repository.

Flows in: the paths of a package's files, and what some of them hold (those that `may_state` names). Flows out: for
each path what is stated of it. A folder's licence files and package metadata make its statement together; a folder
without one has that of the folder above. Metadata of installed Python packages speak of the files that their RECORD
lists, REUSE's files of the paths that they name. Pure: folders, git trees and archives all come by here.
"""

from __future__ import annotations

import functools
import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from codemill.pipeline.notices import Notice
from codemill.pipeline.sources.distributions import Owners
from codemill.pipeline.sources.expressions import has_notices, ids_in, joined
from codemill.pipeline.sources.license_files import (
    fits_pointer,
    is_copyright_file,
    is_license_file,
    is_notice_file,
    license_of,
    named_file,
    pointer,
    together,
    with_claims,
)
from codemill.pipeline.sources.package_metadata import Claim, claim_of, is_metadata
from codemill.pipeline.sources.reuse import Rule, dep5_rules, rules_of, tags, toml_rules
from codemill.pipeline.sources.sift import Stated

STATEMENT_BYTES = 1024 * 1024  # of a longer file nothing is read, and what it is for is unknown
RECORD_BYTES = 16 * 1024 * 1024
MOST_FILES = 100_000  # of a package that are read; what the others are for is unknown
MOST_BYTES = 256 * 1024 * 1024  # of them all

Files = Mapping[str, bytes | None]  # path -> content; null = it is there, and was not read
_BESIDE = {"REUSE.toml", "RECORD", "top_level.txt"}
_LICENSE_WORD = re.compile(r"(?i)licen[cs]e|copying|copyright|notice|authors?|ofl|eula")
_REUSE_TEXTS = "LICENSES"
_VENDORED = re.compile(
    r"(?i)/(?:node_modules|bower_components|vendor(?:ed)?|_vendor|third[._-]?party|3rd[._-]?party|external)(?:/|$)"
)


def may_state(folder: str, name: str) -> bool:
    """Whether a file may state a licence. folder: its path, '' = the top."""
    if _name_may_state(name):
        return True
    return folder.endswith((_REUSE_TEXTS, ".dist-info/licenses", ".dist-info/license_files")) or (
        name == "dep5" and folder.endswith(".reuse")
    )


@functools.lru_cache(65_536)
def _name_may_state(name: str) -> bool:
    if name in _BESIDE or is_metadata(name):
        return True
    is_named = _LICENSE_WORD.search(name) is not None  # nearly no name is, and the tests below are slower
    return is_named and (is_license_file(name) or is_notice_file(name) or name.endswith(".license"))


class Candidates:
    """Gathers what may state a licence, within bounds."""

    def __init__(self) -> None:
        self.files: dict[str, bytes | None] = {}
        self._links: dict[str, str] = {}
        self._bytes = 0

    def wants(self, path: str, size_bytes: int) -> bool:
        """Whether a file that may state a licence is to be read; what is not is noted as unread."""
        most = RECORD_BYTES if path.endswith("/RECORD") else STATEMENT_BYTES
        fits = (
            size_bytes <= most
            and len(self.files) < MOST_FILES
            and self._bytes + size_bytes <= MOST_BYTES
        )
        if not fits:
            self.files[path] = None
        return fits

    def add(self, path: str, content: bytes | None) -> None:
        """The content of a file that was wanted; null = it cannot be read."""
        self.files[path] = content
        self._bytes += len(content or b"")

    def link(self, path: str, target: str) -> None:
        """A link to another file, by a path relative to the link's folder."""
        self.files[path] = None
        self._links[path] = posixpath.normpath(
            posixpath.join("/", path.rpartition("/")[0], target)
        ).lstrip("/")

    def resolved(self) -> dict[str, bytes | None]:
        """All files, links with the content of what they name; what they name and is none of the files is unread."""
        return self.files | {path: self.files.get(target) for path, target in self._links.items()}


@dataclass(frozen=True)
class _Own:
    """What a folder itself states."""

    license: str | None
    file: str
    notice: Notice | None
    families: tuple[str, ...] = ()  # vague words: only a statement above may make them one licence
    has_text: bool = False


class Statements:
    """What a package's files state, for each of its paths."""

    def __init__(
        self, paths: Sequence[str], files: Files, show: Callable[[str], str] = str
    ) -> None:
        """paths: those that will be asked about. show: a path of the package -> as it is shown in `Stated.file`."""
        self._files, self._show = files, show
        self._by_folder: dict[str, dict[str, bytes | None]] = {}
        for path in sorted(files):
            folder, _, name = path.rpartition("/")
            self._by_folder.setdefault(folder, {})[name] = files[path]
        self._nearest: dict[str, tuple[Stated, str]] = {}
        self._unknown: dict[str, str] = {}  # folder -> its licence file that is not recognized
        self.notices: dict[str, Notice] = {}
        self._of_files = self._find_named(paths)
        self._owners = Owners(self._by_folder, self._distribution)
        self._rules, self._broken = self._read_rules()
        self._ruled = self._match(paths)

    def of(self, path: str) -> Stated:
        """What is stated of the file at a path."""
        folder = path.rpartition("/")[0]
        nearest, at = self._nearest_of(folder)
        owner = self._owners.of(path)
        if owner is not None and (nearest.file is None or len(owner[1]) >= len(at)):
            nearest, at = owner
        for stem, file in self._of_files.get(folder, {}).items():
            if _belongs(path.rpartition("/")[2], stem):
                text = self._files[file]
                named = _Own(None if text is None else license_of(text), file, _notice({file: text}))
                nearest, at = self._settled(named, nearest), folder
        beside = self._files.get(f"{path}.license", b"")
        if beside is None or "SPDX-License-Identifier:" in beside.decode("utf-8", "replace"):
            stated = None if beside is None else tags(beside.decode("utf-8", "replace"))
            return self._stated(stated, f"{path}.license", nearest, "override")
        rules = [self._rules[number] for number in self._ruled.get(path, ())]
        return self._by_rules(rules, nearest, at) if rules else nearest

    def _find_named(self, paths: Sequence[str]) -> dict[str, dict[str, str]]:
        """Folder -> beginning of names -> the licence file of the files whose names begin so, where there are any."""
        found: dict[str, dict[str, str]] = {}
        for path in self._files:
            folder, _, name = path.rpartition("/")
            stem = named_file(name) if is_license_file(name) else None
            if stem is not None:
                found.setdefault(folder, {})[stem] = path
        there: dict[str, set[str]] = {folder: set() for folder in found}
        for path in paths if found else ():
            folder, _, name = path.rpartition("/")
            stems = found.get(folder, {})
            there.get(folder, set()).update(stem for stem in stems if _belongs(name, stem) and path not in self._files)
        return {folder: {stem: stems[stem] for stem in there[folder]} for folder, stems in found.items()}

    def _by_rules(self, rules: list[Rule], nearest: Stated, at: str) -> Stated:
        """What REUSE's annotations say of a file: the top one that overrides, else the deepest, and what aggregates."""
        rules = sorted(rules, key=lambda rule: rule.folder.count("/"))
        top = next((rule for rule in rules if rule.precedence == "override"), None)
        if top is not None:
            return self._stated(top.license, top.file, nearest, "override")
        chosen = [rule for rule in rules if rule is rules[-1] or rule.precedence == "aggregate"]
        stated = _all(rule.license for rule in chosen)
        is_nearer = nearest.file is not None and len(at) > len(rules[-1].folder.rstrip("/"))
        if (
            is_nearer and nearest.license != stated
        ):  # a licence file below the annotations: both hold
            stated = _all([stated, nearest.license])
        return self._stated(stated, rules[-1].file, nearest, rules[-1].precedence)

    def _stated(
        self, license_id: str | None, file: str, nearest: Stated, precedence: str
    ) -> Stated:
        return Stated(license_id, self._show(file), self._text_for(license_id, nearest), precedence)

    def _text_for(self, license_id: str | None, nearest: Stated) -> str | None:
        """The id of the nearest texts, where the licence's is among them; of a choice one is enough."""
        notice = self.notices.get(nearest.text) if nearest.text else None
        there = ids_in(notice.license or "") if notice is not None else frozenset()
        has = license_id is not None and bool(ids_in(license_id) & there) and has_notices(license_id, there)
        return nearest.text if has else None

    def _nearest_of(self, folder: str) -> tuple[Stated, str]:
        """The nearest statement of a folder and those above it, and the folder of that."""
        way = [folder]
        while way[-1] not in self._nearest and way[-1]:
            way.append(way[-1].rpartition("/")[0])
        known = self._nearest.get(way[-1])
        for each in reversed(way if known is None else way[:-1]):
            above = known or (Stated(), "")
            own = self._own(each)
            own = self._under_unknown(own, each, *above) if isinstance(own, _Own) else own
            stated = self._settled(own, above[0]) if isinstance(own, _Own) else own
            known = above if stated is None else (stated, each)
            self._nearest[each] = known
        return known or (Stated(), "")

    def _under_unknown(self, own: _Own, folder: str, above: Stated, at: str) -> _Own:
        """A folder's statement, where the licence file above it is not recognized.

        That text may speak of this folder (`web/src/ee/ is licensed under ...`), which metadata alone do not settle;
        those of another project that lies here do.
        """
        is_bare = own.license is not None and own.notice is None
        if (
            not is_bare
            or at not in self._unknown
            or _VENDORED.search("/" + folder.removeprefix(at).lstrip("/"))
        ):
            if own.license is None and own.has_text:
                self._unknown[folder] = own.file
            return own
        return _Own(None, self._unknown[at], None)

    def _settled(self, own: _Own, above: Stated) -> Stated:
        """A folder's own statement as that of its files; it may need what stands above it."""
        is_vague = bool(own.families) and own.license is None
        if (
            is_vague
            and above.license
            and all(key.lower().startswith(own.families) for key in ids_in(above.license))
        ):
            return above
        if own.notice is None:
            return self._stated(own.license, own.file, above, "closest")
        self.notices[own.notice.id] = own.notice
        return Stated(own.license, self._show(own.file), own.notice.id)

    def _own(self, folder: str) -> _Own | Stated | None:
        """What the files directly in a folder state together; None where they state nothing."""
        if self._owners.knows(folder):
            return self._owners.statement(folder)
        files = self._by_folder.get(folder, {})
        start = f"{folder}/" if folder else ""
        broken = (
            f"{start}REUSE.toml" if f"{start}REUSE.toml" in self._broken else f"{start}.reuse/dep5"
        )
        if broken in self._broken:
            return _Own(None, broken, None)
        own = self._compose(folder, files)
        reuse = {
            f"{_REUSE_TEXTS}/{name}": text
            for name, text in self._by_folder.get(start + _REUSE_TEXTS, {}).items()
        }
        if own is None and not reuse:
            return self._owners.whole(folder)
        if own is None:
            return _Own(together(reuse, may_choose=False), start + min(reuse), _notice({**reuse, **_notices(files)}))
        return (
            own
            if not reuse or own.notice is None
            else _Own(own.license, own.file, _notice({**_texts(files), **reuse}))
        )

    def _compose(self, folder: str, files: Mapping[str, bytes | None]) -> _Own | None:
        """The statement of licence files and metadata that lie together."""
        start = f"{folder}/" if folder else ""
        claims = {
            name: claim
            for name in files
            if is_metadata(name) and (claim := _claim(name, files[name]))
        }
        of_files = self._of_files.get(folder, {}).values()
        texts = {name: files[name] for name in files if is_license_file(name) and start + name not in of_files}
        if not texts and not claims:
            texts = {name: files[name] for name in files if is_copyright_file(name)}
        for claim in claims.values():
            texts |= self._named(folder, claim)
        for text in texts.values():
            claims |= self._beside_target(folder, text)
        texts = {name: self._followed(folder, text) for name, text in texts.items()}
        if not texts and not claims:
            return None
        has_text = bool(texts)
        license_id = with_claims(
            together(texts) if texts else None, has_text, list(claims.values())
        )
        families = (
            tuple(claim.family for claim in claims.values() if claim.family) if not has_text else ()
        )
        notice = _notice({**texts, **_notices(files)}) if has_text else None
        return _Own(
            license_id, start + _decider(license_id, texts, claims), notice, families, has_text
        )

    def _named(self, folder: str, claim: Claim) -> dict[str, bytes | None]:
        """The licence file that metadata name; where it is not there, what they state is unknown."""
        if claim.file is None:
            return {}
        path = posixpath.normpath(posixpath.join(folder, claim.file))
        return {claim.file: self._files.get(path)}

    def _followed(self, folder: str, text: bytes | None) -> bytes | None:
        """A licence file's content, or that of the one that it only points to."""
        found = None if text is None else pointer(text)
        if found is None:
            return text
        path, above = found
        target = self._files.get(posixpath.normpath(posixpath.join(folder, path)))
        return target if target is not None and fits_pointer(above, target) else text

    def _beside_target(self, folder: str, text: bytes | None) -> dict[str, Claim]:
        """The metadata beside the licence file that a page only points to: they go with it there, and so here."""
        found = None if text is None else pointer(text)
        if found is None:
            return {}
        there = posixpath.normpath(posixpath.join(folder, found[0])).rpartition("/")[0]
        beside = self._by_folder.get(there, {}) if there != folder else {}
        claims = {f"{there}/{name}": _claim(name, beside[name]) for name in beside if is_metadata(name)}
        return {path: claim for path, claim in claims.items() if claim}

    def _distribution(self, folder: str, more: Mapping[str, bytes | None]) -> Stated | None:
        """What an installed Python distribution states in its `.dist-info`. more: licence files beside that."""
        files = {**more, **self._by_folder.get(folder, {})}
        for below in ("licenses", "license_files"):
            files |= self._by_folder.get(f"{folder}/{below}", {})
        own = self._compose(folder, files)
        if own is None:
            return None
        file = own.file
        if file not in self._files:
            name = file.rpartition("/")[2]
            places = (
                f"{folder}/licenses/{name}",
                f"{folder}/license_files/{name}",
                f"{folder.rpartition('/')[0]}/{name}",
            )
            file = next(
                (place.lstrip("/") for place in places if place.lstrip("/") in self._files), file
            )
        return self._settled(_Own(own.license, file, own.notice), Stated())

    def _read_rules(self) -> tuple[list[Rule], set[str]]:
        """REUSE's rules, and the files of rules that cannot be read."""
        rules: list[Rule] = []
        broken: set[str] = set()
        for path, content in self._files.items():
            is_toml = path.rpartition("/")[2] == "REUSE.toml"
            if not is_toml and path != ".reuse/dep5":
                continue
            try:
                if content is None:
                    raise ValueError("not read")
                found = toml_rules(path, content) if is_toml else dep5_rules(path, content)
                rules_of(found, [])
            except (ValueError, RecursionError):
                broken.add(path)
            else:
                rules += found
        return rules, broken

    def _match(self, paths: Sequence[str]) -> dict[str, list[int]]:
        if not self._rules:
            return {}
        return {paths[row]: numbers for row, numbers in rules_of(self._rules, list(paths)).items()}


def _belongs(name: str, stem: str) -> bool:
    """Whether a file is the one that a beginning of names means (`a.c` and `a_more.c` of `a`)."""
    return name.startswith(stem) and not name[len(stem) : len(stem) + 1].isalnum()


def _all(licenses: object) -> str | None:
    """All of some expressions together; null where one of them is not known."""
    found = list(licenses)  # type: ignore[call-overload]
    return joined(found, "AND") if found and None not in found else None


def _claim(name: str, content: bytes | None) -> Claim | None:
    return Claim(is_refusal=True) if content is None else _claim_of(name, content)


@functools.lru_cache(4096)
def _claim_of(name: str, content: bytes) -> Claim | None:
    return claim_of(name, content)


def _decider(
    license_id: str | None, texts: Mapping[str, bytes | None], claims: Mapping[str, Claim]
) -> str:
    """The name of the file that decided."""
    refusals = [name for name in sorted(claims) if claims[name].is_refusal]
    if refusals or not texts:
        return (refusals or sorted(claims))[0]
    unknown = [
        name for name, text in sorted(texts.items()) if text is None or license_of(text) is None
    ]
    return (unknown or sorted(texts))[0] if license_id is None else min(texts)


def _notices(files: Mapping[str, bytes | None]) -> dict[str, bytes | None]:
    return {name: text for name, text in files.items() if is_notice_file(name)}


def _texts(files: Mapping[str, bytes | None]) -> dict[str, bytes | None]:
    return {
        name: text for name, text in files.items() if is_license_file(name) or is_notice_file(name)
    }


def _notice(texts: Mapping[str, bytes | None]) -> Notice | None:
    """The notice that is made of some files; None where none was read."""
    read = {name: text for name, text in sorted(texts.items()) if text is not None}
    if not read:
        return None
    known = [license_id for text in read.values() if (license_id := license_of(text))]
    plain = tuple(text.decode("utf-8-sig", "replace") for text in read.values())
    return Notice(joined(known, "AND") if known else None, tuple(read), plain)
