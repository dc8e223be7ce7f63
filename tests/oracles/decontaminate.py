"""Decontamination as its modules word it: texts decoded by regular expressions, tuples of lower-cased words; no
automaton, no hash, no table, no prefilter. Texts are bytes, read as Latin-1, so that a character is a byte."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import zip_longest

SEPARATOR, JOINT, BREAK = "\u0100", "\u0101", "\u0102"  # of escapes; what vanishes; of HTML and terminals
PUNCTUATION = "\u0104"
GLUE = "\u0103"  # makes a word one that is no mark
ENTITIES = "lt|gt|quot|apos|nbsp|ldquo|rdquo|lsquo|rsquo|amp|#x?[0-9a-f]+"
BLOCKS = "br|div|pre|tr|li|ol|ul|table|tbody"
INLINE = "td|th|span|code|em|strong|font|mark|var|kbd|samp|a"
HEX = "[0-9a-fA-F]"
DIGITS_OF = {
    "\n": "0a 0d 000a 000d 012 015",
    "\x1b": "1b 001b 033",
    "\\": "5c 005c 134",
    "&": "26 0026 046",
    "<": "3c 003c 074",
}
MEANING = {digits: SEPARATOR + char for char, listed in DIGITS_OF.items() for digits in listed.split()}
NAMED = dict.fromkeys(("amp", "#38", "#x26"), "&") | dict.fromkeys(("#10", "#13", "#xa", "#xd"), BREAK + "\n")
NAMED |= dict.fromkeys(("#92", "#x5c"), "\\")
Text = list[tuple[str, int]]  # characters, and where they stand

FORMS = [
    (r"\\+_", lambda m: JOINT + "_"),
    (r"\\+(?=[\n\r]|$)", lambda m: JOINT),
    (r"\\+[nrNR]", lambda m: "\n"),
    (r"\\+[eE]", lambda m: SEPARATOR + "\x1b"),
    (r"\\+[tT]", lambda m: "\t"),
    (r"\\+[abfvABFV]", lambda m: SEPARATOR),
    (
        rf"\\+(?:u({HEX}{{4}})|[xX]({HEX}{{2}})|([0-7]{{3}}))",
        lambda m: MEANING.get((m[1] or m[2] or m[3]).lower(), SEPARATOR),
    ),
    (rf"\\+(?:[uUxX]\{{{HEX}*\}}?|U{HEX}{{0,8}}|[uxX]{HEX}*|[0-7]+|(?=.)|$)", lambda m: SEPARATOR),
    (rf"&({ENTITIES});", lambda m: NAMED.get(m[1].lower(), BREAK)),
    (rf"</*(?:{BLOCKS})(?:>|[ /][^<>&\n\r]*(?:>|(?=[<&\n\r])|$))|</*p>", lambda m: BREAK + "\n" * (m[0][-1] == ">")),
    (rf"</*(?:(?:{INLINE})(?:>|[ /][^<>&\n\r]*(?:>|(?=[<&\n\r])|$))|[biu]>)", lambda m: BREAK),
    (r"\x1b(?:\[[0-9;?]*[a-z_]?)?", lambda m: BREAK),
    (r"</*(?=[abcdefiklmopstuv])|&#?(?=[lgqanr]|(?<=#)[0-9a-fx])", lambda m: BREAK + GLUE),
    (r"[&<]", lambda m: BREAK),
    (r"\xc2\xad|\xe2\x80[\x8b-\x8f\xaa-\xae]|\xe2\x81[\xa0-\xaf]", lambda m: JOINT),
    (r"\xc2[\x80-\xa0]|\xe2[\x80\x81][\x80-\xbf]|\xe3\x80[\x80-\xbf]", lambda m: PUNCTUATION),
    (r"\xe2[\x86\x87\x94-\x97][\x80-\xbf]", lambda m: "|"),
]
FORMS = [
    (re.compile(form, re.S if form.startswith(r"\\+") else re.S | re.I | re.A), meaning) for form, meaning in FORMS
]
AGAIN = ("\x1b", "\\", "&", "<")  # what an escape stands for may begin another

LETTER = f"[A-Za-z0-9_\x80-\xff{JOINT}{GLUE}]"
WORD = re.compile(f"{LETTER}+")
LEAD = f"(?:(?!{LETTER}).|{JOINT})*"
BLAME = re.compile(f"{LEAD}[0-9a-f]{{7,}} [^&<{BREAK}]*?[0-9]\\)", re.I | re.S | re.A)
DIGITS = f"[0-9{JOINT}]*[0-9][0-9{JOINT}]*"
PERHAPS = re.compile(f"{LEAD}({DIGITS}(?=[] )$\"'{BREAK}{SEPARATOR}]|$)|(?:rem|c|dnl)(?= ))", re.S | re.I | re.A)
NUMBER = re.compile(f"{LEAD}{DIGITS}(?![,;=+*/%^([{{}}\\]]|{LETTER})", re.S)
PROMPT = re.compile(rf"{LEAD}(?:in|out) *\[[ 0-9{JOINT}]*\]:|{LEAD}{LETTER}+> ", re.I | re.S | re.A)
GREP = re.compile(f"{LEAD}{LETTER}+(?:[./-]|{LETTER})*?(?::[0-9]+:|-[0-9]+-)", re.S)
Row = tuple[str, str, bytes]  # benchmark, task, text


def decoded(text: str) -> Text:
    """The text without escapes, entities and tags."""
    rest: Text = [(char, place) for place, char in enumerate(text)]
    done: Text = []
    while rest:
        ahead = "".join(char for char, _ in rest)
        for form, meaning in FORMS:
            if match := form.match(ahead):
                means = [(char, rest[match.end() - 1][1]) for char in meaning(match)]
                rest = rest[match.end() :]
                if means and means[-1][0] in AGAIN:
                    rest.insert(0, means.pop())
                done += means
                break
        else:
            done.append(rest.pop(0))
    return done


def words(text: bytes) -> list[tuple[bytes, int, int]]:
    """The words of a text that are no marks, lower case, each with its first and end byte."""
    found = []
    characters = decoded(text.decode("latin-1"))
    joined = "".join(char for char, _ in characters)
    at = 0
    for line in re.split("[\n\r]", joined):
        numbers, start = unmarked(line)
        for match in [*numbers, *WORD.finditer(line, start)]:
            letters = [each for each in characters[at + match.start() : at + match.end()] if each[0] <= "\xff"]
            places = [place for _, place in letters]
            word = "".join(char for char, _ in letters).encode("latin-1").lower()
            found += [(word, places[0], places[-1] + 1)] if places else []
        at += len(line) + 1
    return found


def unmarked(line: str) -> tuple[list[re.Match[str]], int]:
    """What would be a mark if a word followed, and where the line's text begins behind the marks."""
    at = 0
    while True:
        if match := BLAME.match(line, at):
            at = match.end()
        elif match := PERHAPS.match(line, at):
            word = re.compile(LETTER.replace(JOINT, "")).search(line, match.end())
            between = line[match.end() : word.start() if word else None]
            is_commit = re.search("[0-9]{7} $", match[0] + line[match.end() :][:1])
            if is_commit or (not re.search("[:|.>\t]", between) and (word is None or word[0] == GLUE)):
                return [next(WORD.finditer(line, match.start(1)))], match.end()
            at = match.end()
        elif match := NUMBER.match(line, at) or PROMPT.match(line, at) or GREP.match(line, at):
            at = match.end()
        else:
            return [], at


def tokens(text: bytes) -> list[bytes]:
    return [word for word, _, _ in words(text)]


def forms(text: bytes) -> list[list[bytes]]:
    """The words of a text as it is, on one line, and with a line a word."""
    listed = [tokens(text), tokens(re.sub(rb"[\n\r]", b" ", text)), tokens(re.sub(rb"[ \t\f\v]", b"\n", text))]
    return [form for place, form in enumerate(listed) if form not in listed[:place]]


def is_telling(gram: Sequence[bytes], letters: int) -> bool:
    """Whether the distinct words have so many letters; numbers and single characters are no words."""
    return sum(len(token) for token in set(gram) if len(token) > 1 and not token[:1].isdigit()) >= letters


class Oracle:
    """`rows` with distinct texts; what to look for in `grams` (n-gram -> words from there on) and `wholes`."""

    def __init__(self, rows: Sequence[Row], ngram: int, tasks: int, letters: int, whole_tokens: int) -> None:
        self.ngram = ngram
        every = [list(each) for each in zip_longest(*(forms(text) for _, _, text in rows))]
        texts = [(number, text) for form in every for number, text in enumerate(form) if text is not None]
        where: dict[tuple[str, tuple[bytes, ...]], set[str]] = defaultdict(set)
        for number, text in texts:
            for gram in self.all_grams(text):
                where[rows[number][0], gram].add(rows[number][1])
        boilerplate = {gram for (_, gram), holders in where.items() if len(holders) >= tasks}
        self.grams: dict[tuple[bytes, ...], tuple[int, list[bytes]]] = {}
        self.wholes: list[tuple[int, list[bytes]]] = []
        found: set[int] = set()
        for number, text in texts:
            usable = {gram for gram in self.all_grams(text) if gram not in boilerplate and is_telling(gram, letters)}
            for place, gram in enumerate(self.all_grams(text)):
                if gram in usable:
                    self.grams.setdefault(gram, (number, text[place:]))
            is_whole = not usable and not boilerplate & set(self.all_grams(text)) and len(text) >= whole_tokens
            if is_whole and is_telling(text, letters):
                self.wholes.append((number, text))
                found.add(number)
            found |= {number} if usable else set()
        self.unsearchable = [number for number in range(len(rows)) if number not in found]

    def all_grams(self, text: list[bytes]) -> list[tuple[bytes, ...]]:
        return [tuple(text[i : i + self.ngram]) for i in range(len(text) - self.ngram + 1)]

    def find(self, document: bytes) -> tuple[int, int, int] | None:
        """(text, first byte, end byte) of the first n-gram that is known, else of the first whole text."""
        found = words(document)
        held = [word for word, _, _ in found]
        for i, gram in enumerate(self.all_grams(held)):
            if gram in self.grams:
                number, rest = self.grams[gram]
                return number, found[i][1], found[i + self.run(held[i:], rest) - 1][2]
        for i in range(len(held)):
            for number, text in self.wholes:
                if held[i : i + len(text)] == text:
                    return number, found[i][1], found[i + len(text) - 1][2]
        return None

    @staticmethod
    def run(a: list[bytes], b: list[bytes]) -> int:
        pairs = zip(a, b, strict=False)
        return next((i for i, (x, y) in enumerate(pairs) if x != y), min(len(a), len(b)))
