"""The tables of redaction, made from what maintained projects publish.

    python -m benchmarks.redact_tables --gitleaks gitleaks.toml VERSION --credsweeper config.yaml VERSION \\
        --suffixes public_suffix_list.dat

Flows in: gitleaks' default config (MIT), CredSweeper's rules (MIT), the Public Suffix List (MPL 2.0, whose section
ICANN holds every top-level domain of IANA's root zone).
Flows out: `pipeline/redact_rules.tsv`, one shape of a secret a line, and `pipeline/top_level_domains.txt`.

A shape is a regular expression of the simplest kind: sets of bytes, each with its bounds, one after the other. What a
rule says beyond that (words that may follow, what must not) is left out: the scan has one rule for the ends of all
tokens. A set of varying length must not take what the next one needs; where it would, both become one set.
"""

from __future__ import annotations

import argparse
import collections
import re
import sysconfig
import tomllib
from collections.abc import Iterator
from pathlib import Path
from re import _constants as op  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

import yaml

from benchmarks.redact_formats import BY_CODE, DOCUMENTED, PUBLIC, VAGUE
from codemill.pipeline.redact_shapes import TABLE, Atom, Rule, anchors_of, atoms_of, cells_of

MOST_BYTES = 4096  # what `{32,}` ends at
MOST_SHAPES = 64  # of one rule
_COMMON = ("login", "token", "oauth", "initialize")  # words in patterns of names that name no service
MIN_BYTES = 14  # what is shorter is no token by itself

# What begins and ends gitleaks' rules that know a secret by the name that it is given to.
_NAMED = re.compile(
    r"^(?:\[\\w\.-\]\{0,50\}\?\(\?i:|\(\?i\))\[\\w\.-\]\{0,50\}\?(?P<name>\(\?:.*?\))\(\?:\[ \\t\\w\.-\]\{0,20\}\)"
    r"\[\\s'\"\]\{0,3\}\)?\(\?:=\|.*?,\)\[\\x60'\"\\s=\]\{0,5\}(?P<value>.*?)"
    r"\(\?:\[\\x60'\"\\s;\]\|\\\\\[nr\]\|\$\)(?P<more>\|.*)?$"
)
_TAIL = re.compile(r"\(\?:\[\\x60'\"\\s;\]\|\\\\\[nr\]\|\$(?:\|\\b)?\)$|\(\?:\[\^\\w-\]\|\\z\)$")

Shape = tuple[Atom, ...]


def scoped(pattern: str) -> str:
    """A pattern of Go or RE2 in Python's spelling: a flag that holds from its place on becomes a group."""
    pattern = pattern.replace("[[:alnum:]]", "[a-zA-Z0-9]").replace(r"\z", r"\Z")
    while (at := pattern.find("(?i)")) >= 0:
        end = group_end(pattern, at + 4)
        pattern = f"{pattern[:at]}(?i:{pattern[at + 4 : end]}){pattern[end:]}"
    return pattern


def group_end(pattern: str, at: int) -> int:
    """Where the group that is open at a place is closed, or the pattern ends."""
    depth, in_set = 0, False
    while at < len(pattern):
        character = pattern[at]
        if character == "\\":
            at += 1
        elif in_set:
            in_set = character != "]"
        elif character == "[":
            in_set = True
        elif character in "()":
            depth += 1 if character == "(" else -1
            if depth < 0:
                break
        at += 1
    return at


def shapes(pattern: str) -> list[Shape]:
    """The shapes that a pattern stands for, one for each way through its alternatives."""
    return list(dict.fromkeys(merged(shape) for shape in _ways(parser.parse(pattern), False)))


def _ways(parsed: Any, folded: bool) -> list[Shape]:
    ways: list[Shape] = [()]
    for kind, value in parsed:
        steps = _step(kind, value, folded)
        ways = [way + step for way in ways for step in steps]
        if len(ways) > MOST_SHAPES:
            raise ValueError("too many alternatives")
    return ways


def _step(kind: Any, value: Any, folded: bool) -> list[Shape]:
    if kind in (op.AT, op.ASSERT, op.ASSERT_NOT):
        return [()]
    if kind in (op.LITERAL, op.IN, op.ANY):
        return [(Atom(_members(kind, value, folded), 1, 1),)]
    if kind is op.BRANCH:
        return [way for branch in value[1] for way in _ways(branch, folded)]
    if kind is op.SUBPATTERN:
        _, added, removed, inner = value
        return _ways(inner, (folded or bool(added & re.IGNORECASE)) and not removed & re.IGNORECASE)
    if kind in (op.MAX_REPEAT, op.MIN_REPEAT, op.POSSESSIVE_REPEAT):
        return _repeated(*value, folded)
    raise ValueError(f"{kind} has no shape")


def _repeated(least: int, most: Any, inner: Any, folded: bool) -> list[Shape]:
    most = MOST_BYTES if most is op.MAXREPEAT else int(most)
    ways = _ways(inner, folded)
    if all(len(way) == 1 for way in ways):
        return [(Atom(way[0].members, least * way[0].least, min(MOST_BYTES, most * way[0].most)),) for way in ways]
    if most > 4:
        raise ValueError("a long repetition of groups")
    repeated: list[Shape] = []
    for count in range(least, most + 1):
        whole: list[Shape] = [()]
        for _ in range(count):
            whole = [way + step for way in whole for step in ways]
        repeated += whole
    return repeated


_CLASSES = {op.CATEGORY_DIGIT: rb"[0-9]", op.CATEGORY_WORD: rb"\w", op.CATEGORY_SPACE: rb"\s"}
_CLASSES |= {op.CATEGORY_NOT_SPACE: rb"[!-~]"}


def _members(kind: Any, value: Any, folded: bool) -> frozenset[int]:
    if kind is op.ANY:
        return frozenset(range(0x21, 0x7F))
    found: set[int] = set()
    for item, what in [(kind, value)] if kind is op.LITERAL else value:
        if item is op.LITERAL:
            found.add(what)
        elif item is op.RANGE:
            found |= set(range(what[0], what[1] + 1))
        elif item is op.CATEGORY:
            found |= {byte for byte in range(128) if re.match(_CLASSES[what], bytes([byte]))}
        else:
            raise ValueError(f"{item} has no shape")
    letters = {ord(case) for byte in found for case in (chr(byte).lower(), chr(byte).upper())} if folded else set()
    return frozenset(byte for byte in found | letters if 0x20 <= byte < 0x7F)


def merged(shape: Shape) -> Shape:
    """The shape with neighbours joined: of one set, or where a varying set would take what the next one needs."""
    out: list[Atom] = []
    for atom in shape:
        if atom.most == 0:
            continue
        last = out[-1] if out else None
        same = last and last.members == atom.members and (len(atom.members) > 2 or atom.most > 1)
        greedy = last and last.least < last.most and last.members & atom.members
        if last and greedy and last.members < atom.members and last.least:
            out[-1] = last._replace(most=last.least)
            out.append(atom._replace(most=min(MOST_BYTES, atom.most + last.most - last.least)))
        elif last and (same or greedy):
            joined = Atom(last.members | atom.members, last.least + atom.least, min(MOST_BYTES, last.most + atom.most))
            out[-1] = joined
        else:
            out.append(atom)
    return tuple(out)


def spelled(shape: Shape) -> str:
    """A shape as the regular expression that the table holds."""
    return "".join(_set(atom.members) + _bounds(atom) for atom in shape)


def _set(members: frozenset[int]) -> str:
    if len(members) == 1:
        return _character(min(members))
    runs: list[list[int]] = []
    for byte in sorted(members):
        if runs and byte == runs[-1][1] + 1:
            runs[-1][1] = byte
        else:
            runs.append([byte, byte])
    return "[" + "".join(_character(a) + (f"-{_character(b)}" if b > a else "") for a, b in runs) + "]"


def _character(byte: int) -> str:
    character = chr(byte)
    if character.isalnum() or character in "_/:~@%=,<>\"'; ":
        return character
    return f"\\{character}" if 0x21 <= byte < 0x7F else f"\\x{byte:02x}"


def _bounds(atom: Atom) -> str:
    if atom.least == atom.most:
        return "" if atom.most == 1 else f"{{{atom.most}}}"
    return f"{{{atom.least},{atom.most}}}"


def gitleaks(path: Path) -> Iterator[Rule]:
    """The rules of gitleaks' config that are about one issuer's secret."""
    for rule in tomllib.loads(path.read_text())["rules"]:
        pattern, entropy = rule.get("regex"), float(rule.get("entropy", 0))
        if not pattern or PUBLIC.search(rule["id"]) or rule["id"] in BY_CODE:
            continue
        named = _NAMED.match(pattern)
        if named:
            yield from _spelled(rule["id"], _name(named["name"]), entropy, f"(?i:{named['value']})")
            pattern = (named["more"] or "").removeprefix("|")
        if pattern:
            yield from _spelled(rule["id"], "", entropy, _TAIL.sub("", pattern))
    yield from _spelled("sourcegraph-access-token", "", 3.0, "sgp_(?:(?:[a-fA-F0-9]{16}|local)_)?[a-fA-F0-9]{40}")
    yield from _spelled("sourcegraph-access-token", "sourcegraph", 3.0, "[a-fA-F0-9]{40}")
    yield from _spelled("vault-service-token", "vault", 3.5, r"s\.[A-Za-z0-9]{24}")


def _name(pattern: str) -> str:
    """A name's pattern, to be searched in names without regard to case."""
    return re.sub(r"\(\?-i:([^()]*)\)", r"(?:\1)", pattern).lower().replace("(login|token)", "(?:login|token)")


def _spelled(rule: str, name: str, entropy: float, pattern: str) -> Iterator[Rule]:
    try:
        found = shapes(scoped(pattern))
    except (ValueError, KeyError) as error:
        print(f"left out: {rule}: {error}")
        return
    for shape in found:
        if sum(atom.least for atom in shape) >= (10 if name else MIN_BYTES):
            yield Rule(rule, name, "", entropy, spelled(shape))
        else:
            print(f"left out: {rule}: {spelled(shape)}: too short")


def credsweeper(path: Path) -> Iterator[Rule]:
    """The rules of CredSweeper whose value has a shape of its own."""
    for rule in yaml.safe_load(path.read_text()):
        if rule["type"] != "pattern" or rule["name"] in VAGUE or rule["name"].startswith(("DOC_", "CMD ")):
            continue
        for pattern in rule["values"]:
            if "_PAIR" not in rule["name"] and "TRIPLE" not in rule["name"]:
                at = pattern.index("(?P<value>") + len("(?P<value>")
                identifier = re.sub("[^a-z0-9]+", "-", rule["name"].lower())
                yield from _spelled(identifier, "", 0, pattern[at : group_end(pattern, at)])


def top_level_domains(path: Path) -> list[str]:
    """The last labels of the rules in the section ICANN, in lower case, A-labels beside U-labels."""
    text = path.read_text()
    section = text[text.index("===BEGIN ICANN DOMAINS===") : text.index("===END ICANN DOMAINS===")]
    rules = [line.split()[0] for line in section.splitlines() if line.strip() and not line.startswith("//")]
    names = {rule.lstrip("!*.").rpartition(".")[2].lower() for rule in rules if not rule.startswith("=")}
    ascii_names = {name.encode("idna").decode() for name in names if not name.isascii()}
    return sorted(names | ascii_names)


def word_counts() -> collections.Counter[bytes]:
    """How often the standard library's code has each four bytes, in lower case."""
    counts: collections.Counter[bytes] = collections.Counter()
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        text = path.read_bytes().lower()
        counts.update(text[k : k + 4] for k in range(len(text) - 3))
    return counts


def anchored(rule: Rule, counts: collections.Counter[bytes]) -> Rule | None:
    """The rule with the rarest anchors that it can have; None where it has none."""
    if rule.name:
        names = [word.encode() for word in re.findall("[a-z_]{4,}", rule.name) if word not in _COMMON]
        windows = [[name[k : k + 4] for k in range(len(name) - 3)] for name in names]
        words = [min(each, key=lambda window: (counts[window], window)) for each in windows]
        return rule._replace(anchors=b",".join(dict.fromkeys(words)).decode())
    costs = [
        (sum(counts[word] for word in words) + len(words) / 10, place)
        for place, words in anchors_of(cells_of(atoms_of(rule.shape)))
    ]
    if not costs:
        print(f"left out: {rule.rule}: {rule.shape}: no four bytes of it are few words")
        return None
    return rule._replace(anchors=str(min(costs)[1]))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--gitleaks", nargs=2, required=True, metavar=("TOML", "VERSION"))
    arguments.add_argument("--credsweeper", nargs=2, required=True, metavar=("YAML", "VERSION"))
    arguments.add_argument("--suffixes", type=Path, required=True)
    given = arguments.parse_args()
    rules = [*gitleaks(Path(given.gitleaks[0])), *credsweeper(Path(given.credsweeper[0]))]
    for rule, pattern in DOCUMENTED.items():
        rules += _spelled(rule, "", 0, pattern)
    distinct = list({(rule.name, rule.shape): rule for rule in reversed(rules)}.values())[::-1]
    head = (
        f"# Shapes of secrets. Made by `python -m benchmarks.redact_tables` from the rules of\n"
        f"# gitleaks {given.gitleaks[1]} (MIT, Zachary Rice), CredSweeper {given.credsweeper[1]} (MIT, Samsung),\n"
        f"# and formats that issuers document. Do not edit.\n"
        f"# rule, name that the value is given to (a pattern; empty = any), four letters of each such name or\n"
        f"# the place of the anchor in the shape, least entropy in bits a character, shape\n"
    )
    counts = word_counts()
    kept = [rule for rule in (anchored(rule, counts) for rule in distinct) if rule]
    lines = [f"{r.rule}\t{r.name}\t{r.anchors}\t{r.entropy:g}\t{r.shape}\n" for r in kept]
    TABLE.write_text(head + "".join(lines))
    domains = top_level_domains(given.suffixes)
    version = re.search(r"VERSION: (\S+)", given.suffixes.read_text())
    head = (
        "# Top-level domains, as A-labels and U-labels. Made by `python -m benchmarks.redact_tables` from the Public\n"
        f"# Suffix List of {version[1] if version else 'an unknown date'} (MPL 2.0). Do not edit.\n"
    )
    TABLE.with_name("top_level_domains.txt").write_text(head + "\n".join(domains) + "\n")
    print(f"{len(kept)} shapes of {len({rule.rule for rule in kept})} rules, {len(domains)} domains")


if __name__ == "__main__":
    main()
