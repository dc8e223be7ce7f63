"""Which bytes of a text are its words, and which are marks of the form that it stands in.

A benchmark's problem stands in files as it is, but as well inside JSON, notebooks, `repr()`, web pages, diffs,
listings with line numbers, sessions of an interpreter. These forms add marks and change no word. `step` says byte by
byte what belongs to a word, as the rules of one automaton, so that a text is read once, forward, in linear time:

- A word is a run of `[A-Za-z0-9_]` and characters beyond ASCII, without regard to ASCII case. Everything else only
  separates; so do spaces, punctuation, arrows and box drawing beyond ASCII. Zero-width characters vanish.
- Any number of backslashes with a letter, digits or hex digits of an escape separates (`\\n`, `\\x27`, `\\u003c`,
  `\\047`); with `_` it vanishes (Markdown, LaTeX). An escaped line feed begins a line.
- HTML's entities and tags of layout and highlighting separate, and so do ANSI's colours.
- Where a line begins, numbers are marks, unless a comma or the like follows or they stand alone; and so are the
  words for a comment (`REM`, Fortran's `C`), prompts (`In [1]:`, `julia> `), grep's `path:12:` and what `git blame`
  puts before a line.

Texts are UTF-8. A line feed always leads to the same state, so the halves of a text can be read at the same time.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

# What a step does, in this order. They are bits of a table's entry, from bit FLAGS_AT on.
END = 1  # a word ended before this byte
RESET = 2  # no word is pending
LEAD = 4  # the byte begins a character that may yet turn out to be no part of a word
ADD = 8  # the byte, or the character that it ends, belongs to the pending word
ROLL = 16  # what the line holds so far is a mark
LINE = 32  # a line begins behind this byte
RARE = 64  # in tables: something else than either RESET or ADD is done, so that a kernel's usual path is short

BYTE_MASK = 255  # bits of an entry: byte, state, flags
STATE_AT = 8
FLAGS_AT = 20
STATE_MASK = ((1 << FLAGS_AT) - 1) ^ ((1 << STATE_AT) - 1)

_WORD = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") | frozenset(range(0x80, 0x100))
_DIGITS = frozenset(b"0123456789")
_HEX = frozenset(b"0123456789abcdefABCDEF")
_OCTAL = frozenset(b"01234567")
_NO_LINE_NUMBER = frozenset(b",;=+*/%^([{}")  # behind a number: it is one of a list or a term
_PERHAPS = frozenset(b" )]<&\x1b\n$\"'")  # behind a number: it is a mark if a word follows on the line
_NUMBERED = ("", "#")  # lines that hold at most numbers so far
_HASH_DIGITS = 7  # git shortens no name of a commit further

# Escapes by their digits, where they are more than a separator: what they are instead.
_ESCAPED = {
    "0a": "\n", "0d": "\n", "000a": "\n", "000d": "\n", "012": "\n", "015": "\n", "1b": "\x1b", "001b": "\x1b",
    "033": "\x1b", "5c": "\\", "005c": "\\", "134": "\\", "26": "&", "0026": "&", "046": "&", "3c": "<", "003c": "<",
    "074": "<",
}  # fmt: skip
_ENTITIES = {
    **dict.fromkeys(("lt", "gt", "quot", "apos", "nbsp", "ldquo", "rdquo", "lsquo", "rsquo"), " "),
    "amp": "&", "#10": "\n", "#13": "\n", "#xa": "\n", "#xd": "\n", "#38": "&", "#x26": "&", "#92": "\\", "#x5c": "\\",
}  # fmt: skip
# Tags that begin a line where they stand, and tags that do not.
_TAGS = {
    **dict.fromkeys(("br", "div", "pre", "tr", "li", "ol", "ul", "p", "table", "tbody"), "\n"),
    **dict.fromkeys(("td", "th", "span", "code", "em", "strong", "font", "mark", "var", "kbd", "samp"), " "),
    **dict.fromkeys(("a", "b", "i", "u"), " "),
}
_BARE_TAGS = frozenset(("b", "i", "u", "p"))  # `<b >` is rather a comparison
_PROMPTS = ("in", "out")  # IPython's
_COMMENTS = ("rem", "c", "dnl")  # batch files and BASIC; Fortran; m4


def _prefixes(names: Iterable[str]) -> frozenset[str]:
    return frozenset(name[:length] for name in names for length in range(len(name) + 1))


_ESCAPE_PREFIXES, _ENTITY_PREFIXES = _prefixes(_ESCAPED), _prefixes(_ENTITIES)
_TAG_PREFIXES, _LEADING_PREFIXES = _prefixes(_TAGS), _prefixes((*_PROMPTS, *_COMMENTS)) - {""}


class State(NamedTuple):
    """What is known between two bytes.

    mode: what is being read ("" is plain text); seen: how much of it.
    word: the pending word: "" none, "w" any; where a line begins, also "n" and "h" with a digit (that many decimal or
    hex digits, at most 7) and the beginnings of the words of prompts and comments.
    line: "" where it holds only marks so far, "#" what is one if a word follows, "x" text, else the beginning of what
    may be a mark: "p" prompt, "g" path of grep, "b" commit of git blame, ">" end of a prompt.
    """

    mode: str = ""
    seen: str = ""
    word: str = ""
    line: str = ""


class Step(NamedTuple):
    """Where a byte leads, and the flags of what it does."""

    state: State
    flags: int


START = State()


def step(state: State, byte: int) -> Step:
    """Where a byte leads from a state."""
    if byte in b"\n\r":
        return _newline(state)
    return _READERS[state.mode](state, byte)


def _ended(state: State, byte: int = 0x0A) -> Step:
    """The pending word ends, before the byte given."""
    word, line = state.word, state.line
    if not word:
        return Step(State(line=line), RESET)
    if line:
        return Step(State(line="x" if line == "#" else line), RESET | END)
    if word[0] == "n" and byte not in _NO_LINE_NUMBER:
        if byte not in _PERHAPS:
            return Step(State(line=line), RESET)
        return Step(State(line="b" if word == "n7" and byte == 0x20 else "#"), RESET | END)
    if word in _COMMENTS and byte == 0x20:
        line = "#"
    elif word == "h7" and byte == 0x20:
        line = "b"
    elif word in _PROMPTS and byte in b" [":
        line = "p"
    else:
        line = ">" if byte == 0x3E else "g" if byte in b"./-:" else "x"
    return Step(State(line=line), RESET | END)


def _newline(state: State) -> Step:
    return Step(START, _ended(state).flags | LINE)


def _then(first: Step, byte: int) -> Step:
    """A step that does what `first` does and then reads the byte from there."""
    last = step(first.state, byte)
    return Step(last.state, first.flags | last.flags)


def _text(state: State, byte: int) -> Step:
    if byte in _WORD:
        return _letter(state, byte)
    if byte == 0x5C:
        return Step(_simpler(state)._replace(mode="\\"), 0)
    ended = _ended(state, byte)
    if byte in b"&<\x1b":
        line = ended.state.line if ended.state.line in _NUMBERED else "x"
        return Step(State(chr(byte), line=line), ended.flags)
    return _separated(ended, state, byte)


def _simpler(state: State) -> State:
    """Less is known inside of an escape, which keeps the automaton small: no prompts, no digits' number."""
    return state._replace(word=state.word and ("n1" if state.word[0] == "n" else "w"))


def _no_markup(state: State, byte: int) -> Step:
    """What looked like an entity or a tag is text."""
    line = "x" if state.word and state.line == "#" else state.line
    return _text(State("", "", state.word, line), byte)


def _letter(state: State, byte: int) -> Step:
    if byte in (0xC2, 0xE2, 0xE3):
        return Step(_simpler(state)._replace(mode="lead", seen=chr(byte)), LEAD)
    word, line = _longer_word(state, byte), state.line
    if line == "#":
        return Step(State("", "", word), ADD | ROLL)
    if line == ">":
        line = "x"
    elif line and line[0] in "pgb":
        line = _line_with(line, byte)
    return Step(State("", "", word, line), ADD)


def _longer_word(state: State, byte: int) -> str:
    word = state.word
    if state.line not in _NUMBERED:
        return "w"
    longer = word + chr(byte).lower()
    if longer in _LEADING_PREFIXES:
        return longer
    if byte in _HEX and (not word or word in ("c", "d") or word[-1] in "1234567"):
        kind = "n" if byte in _DIGITS and word[:1] in ("", "n") else "h"
        return kind + str(min((word in ("c", "d")) + int(word[1:] or 0) + 1, _HASH_DIGITS))
    return "w"


def _line_with(line: str, byte: int) -> str:
    """The beginning of a possible mark, with one more byte of a word."""
    kind, digit = line[0], byte in _DIGITS
    if kind == "b":
        return "b1" if digit else "b"
    if kind == "p":
        return line if digit and line == "p[" else "x"
    if line in ("g:", "g-"):
        return line + "1" if digit else "x" if line == "g:" else "g"
    return "g" if line == "g" or (line == "g-1" and not digit) else line if digit else "x"


def _separated(ended: Step, before: State, byte: int) -> Step:
    """A separator of one byte, which may end a mark at the beginning of a line."""
    line, char = ended.state.line, chr(byte)
    if line == "#" and not before.word and char in ":|.>\t":
        return Step(ended.state._replace(line=""), ended.flags | ROLL)
    if line in ("", "#", "x") or (before.line == "" and before.word):
        is_path = line == "g" and char in ":-"
        if is_path:
            line += char
        elif line == "p":
            line = "p[" if char == "[" else "p"
        return Step(ended.state._replace(line=line), ended.flags)
    rolled = (
        (line == ">" and char == " ") or (line == "p]" and char == ":") or (line == "b1" and char == ")")
        or (line == "g:1" and char == ":") or (line == "g-1" and char == "-")
    )  # fmt: skip
    if rolled:
        return Step(ended.state._replace(line=""), ended.flags & ~END | ROLL)
    if line[0] == "b":
        line = "b"
    elif line[0] == "p":
        line = {"p": {" ": "p", "[": "p["}, "p[": {" ": "p[", "]": "p]"}}.get(line, {}).get(char, "x")
    elif line[0] == "g":
        line = "x" if line[:2] == "g:" or char not in ":-./" else "g" + char if char in ":-" else "g"
    else:
        line = "x"
    return Step(ended.state._replace(line=line), ended.flags)


def _backslash(state: State, byte: int) -> Step:
    """Behind a run of backslashes."""
    if byte == 0x5C:
        return Step(state, 0)
    name = chr(byte)
    char = name.lower()  # as case does not count
    if char == "_":
        return _letter(state._replace(mode=""), byte)
    if char in "nr":
        return _newline(state)
    state = state._replace(line=state.line if state.line in ("", "#", "b") else "x")
    ended = _ended(state)
    if char == "e":
        return Step(ended.state._replace(mode="\x1b"), ended.flags)
    if char in "abtfv":
        return _separated(_ended(state, 0x09), state, 0x09) if char == "t" else ended
    if char in "ux":
        length = {"u": 4, "U": 8, "x": 2, "X": 2}[name]
        return Step(ended.state._replace(mode=f"hex{length}"), ended.flags)
    if byte in _OCTAL:
        return Step(ended.state._replace(mode="octal", seen=char), ended.flags)
    return _then(ended, byte)


def _escaped(state: State, seen: str) -> Step:
    """The end of an escape by digits."""
    char = _ESCAPED.get(seen, " ")
    if char == "\n":
        return _newline(state)
    return Step(state._replace(mode="" if char == " " else char, seen=""), RESET)


def _hex(state: State, byte: int) -> Step:
    length = int(state.mode[3:])
    if byte == 0x7B and not state.seen:  # \u{1f600}
        return Step(state._replace(mode="braces"), RESET)
    if byte not in _HEX:
        return _then(Step(state._replace(mode="", seen=""), RESET), byte)
    return _digit(state, chr(byte).lower(), length)


def _digit(state: State, digit: str, length: int) -> Step:
    """One more digit of an escape; of those that lead to nothing only the number counts."""
    seen = state.seen + digit
    if len(seen) == length:
        return _escaped(state, seen)
    is_known = length < 8 and seen in _ESCAPE_PREFIXES
    return Step(state._replace(seen=seen if is_known else "?" * len(seen)), RESET)


def _octal(state: State, byte: int) -> Step:
    if byte not in _OCTAL:
        return _then(Step(state._replace(mode="", seen=""), RESET), byte)
    return _digit(state, chr(byte), 3)


def _braces(state: State, byte: int) -> Step:
    if byte in _HEX:
        return Step(state, RESET)
    return _then(Step(state._replace(mode=""), RESET), byte if byte != 0x7D else 0x20)


def _entity(state: State, byte: int) -> Step:
    """Behind `&`: what has been read of the name is a word, until `;` shows that it is none."""
    seen = state.seen
    if byte == 0x3B and (seen in _ENTITIES or seen == "#?"):
        char = _ENTITIES.get(seen, " ")
        if char == "\n":
            return Step(START, RESET | LINE)
        mode = "" if char == " " else char
        return Step(state._replace(mode=mode, seen="", word=""), RESET)
    longer = seen + chr(byte).lower()
    if longer.startswith("#") and longer not in _ENTITY_PREFIXES and longer != "#x":
        longer = "#?" if byte in _HEX else ""
    if longer and (longer in _ENTITY_PREFIXES or longer in ("#?", "#x")):
        is_word = byte in _WORD
        return Step(state._replace(seen=longer, word="w" if is_word else state.word), ADD if is_word else 0)
    return _no_markup(state, byte)


def _tag(state: State, byte: int) -> Step:
    """Behind `<`: what has been read of the name is a word, until the tag's end shows that it is none."""
    name, char = state.seen, chr(byte).lower()
    if name in _TAGS and (char == ">" or (char in " /" and name not in _BARE_TAGS)):
        inside = state._replace(mode="tag", seen=_TAGS[name], word="")
        return _then(Step(inside, RESET), byte) if char == ">" else Step(inside, RESET)
    if char == "/" and not name:
        return Step(state, 0)
    if name + char in _TAG_PREFIXES:
        return Step(state._replace(seen=name + char, word="w"), ADD)
    return _no_markup(state, byte)


def _inside_tag(state: State, byte: int) -> Step:
    if byte == 0x3E:
        return Step(START, RESET | LINE) if state.seen == "\n" else Step(state._replace(mode="", seen=""), RESET)
    if byte in b"<&":  # an attribute with an entity holds text
        return Step(state._replace(mode=chr(byte), seen=""), RESET)
    return Step(state, RESET)


def _ansi(state: State, byte: int) -> Step:
    """Behind an escape character: `[31m` and the like."""
    if not state.seen:
        if byte == 0x5B:
            return Step(state._replace(seen="["), RESET)
    elif byte in b"0123456789;?":
        return Step(state, RESET)
    elif byte in _WORD and byte < 0x80:
        return Step(state._replace(mode="", seen=""), RESET)
    return _text(state._replace(mode="", seen=""), byte)


def _character(state: State, byte: int) -> Step:
    """Inside a character beyond ASCII whose first bytes are `seen`."""
    lead, plain = state.seen, state._replace(mode="", seen="")
    if not 0x80 <= byte < 0xC0:
        return _text(plain, byte)  # no UTF-8
    if lead == "\xc2":
        if byte == 0xAD:  # soft hyphen
            return Step(plain, 0)
        return _letter(plain, byte) if byte > 0xA0 else _separated(_ended(plain, byte), plain, byte)
    if len(lead) == 1:
        separates = byte in (0x80, 0x81, 0x86, 0x87, 0x94, 0x95, 0x96, 0x97) if lead == "\xe2" else byte == 0x80
        seen = lead + (chr(byte) if byte < 0x82 else "?")
        return Step(state._replace(seen=seen), LEAD) if separates else _letter(plain, byte)
    vanishes = lead == "\xe2\x80" and (0x8B <= byte <= 0x8F or 0xAA <= byte <= 0xAE)
    if vanishes or (lead == "\xe2\x81" and 0xA0 <= byte < 0xB0):
        return Step(plain, 0)
    bar = 0x7C if lead[1] == "?" else byte  # boxes and arrows stand behind numbers like a bar
    return _separated(_ended(plain, bar), plain, bar)


_READERS = {
    "": _text, "\\": _backslash, "&": _entity, "<": _tag, "tag": _inside_tag, "\x1b": _ansi, "lead": _character,
    "hex2": _hex, "hex4": _hex, "hex8": _hex, "octal": _octal, "braces": _braces,
}  # fmt: skip


def _twin(byte: int) -> int:
    """A byte that every state treats alike, which is tried but once."""
    if byte < 0x80:
        return byte if byte in _SPECIAL else 0x7A if byte in _WORD else 0x21
    if byte >= 0xC0:
        return byte if byte in (0xC2, 0xE2, 0xE3) else 0xFF
    if byte in _SPECIAL_ENDS:
        return byte
    return 0x82 if byte < 0xA0 else 0xA1 if byte < 0xB0 else 0xB0


_NAMES = "".join((*_ENTITIES, *_TAGS, *_PROMPTS, *_COMMENTS, "abfnrtvuxe"))
_SPECIAL = frozenset(
    f"0123456789ABCDEFabcdef{_NAMES}{_NAMES.upper()}\n\r\\&<>\x1b ;:#/[]{{}}()-.?_,=+*%^|\t$\"'".encode()
)
_SPECIAL_ENDS = frozenset((0x80, 0x81, 0x86, 0x87, *range(0x8B, 0x90), *range(0x94, 0x98), 0xA0, *range(0xAA, 0xAF)))


@functools.cache
def automaton() -> np.ndarray:
    """int32[states * 256], read-only: entry `256 * state + byte` has the next state, flags and the byte to add, lower
    case. The state at the start is 0."""
    numbers, states, rows = {START: 0}, [START], []
    for state in states:  # which grows
        row = np.empty(256, np.int32)
        for byte in range(256):
            twin = _twin(byte)
            if twin == byte:
                after, flags = step(state, byte)
                if after not in numbers:
                    numbers[after] = len(states)
                    states.append(after)
                if flags & ROLL or bool(flags & RESET) == bool(flags & ADD):
                    flags |= RARE
                row[byte] = numbers[after] << STATE_AT | flags << FLAGS_AT
        row[_OTHERS] = row[[_twin(byte) for byte in _OTHERS]]
        rows.append(row)
    table = np.concatenate(rows) | np.tile(_LOWER, len(rows))
    table.flags.writeable = False
    return table


_OTHERS = [byte for byte in range(256) if _twin(byte) != byte]
_LOWER = np.array([byte + 32 if 0x41 <= byte <= 0x5A else byte for byte in range(256)], np.int32)
