"""Calls between two processes that do not trust each other: frames on two pipes, of exact builtin types alone.

It runs inside of sandboxes, in the tester and in the solver, and knows the standard library alone. A frame is four
of length and JSON. Either side may call what the other has shown it, while it waits for an answer itself, so that
callbacks and returned functions work. Changes that a call made to lists, dicts, sets and bytearrays among its arguments
are made on the caller's side too. Iterators arrive as what they yield. Exceptions arrive as the builtin class that they
are made of.
"""

import builtins
import itertools
import json
import os
import struct

MOST_BYTES = 16 << 20  # of a frame
_MOST_ITEMS = 100_000  # of an iterator
_SAFE_INT = 1 << 62  # above it Python's JSON may refuse to spell an integer


class NotCrossableError(TypeError):
    """A value that no exact builtin type can stand for."""


class GoneError(Exception):
    """The other side does not answer any more, or nothing that is an answer."""


class Peer:
    """One end. `shown`: name -> function, what the other side may call."""

    def __init__(self, reader, writer):
        self._reader, self._writer = reader, writer
        self.shown = {}
        self.calls = 0  # that really crossed, and were answered

    def call(self, name, args, kwargs):
        """Have the other side call a function of its own; returns or raises what that does."""
        self.send(["call", name, [self.encode(list(args))], [self.encode(kwargs)]])
        while True:
            frame = self.receive()
            if frame[0] == "call":
                self.answer(frame)
                continue
            self.calls += 1
            if frame[0] == "raise":
                raise _exception(frame[1], self.decode(frame[2]))
            if frame[0] == "refuse":
                raise NotCrossableError(str(frame[1]))
            if frame[0] != "return":
                raise GoneError(f"a frame of an unknown kind, {str(frame[0])[:40]!r}")
            for mine, theirs in zip(args, self.decode(frame[2]), strict=False):
                _take_over(mine, theirs)
            return self.decode(frame[1])

    def answer(self, frame):
        """Do a call for the other side."""
        try:
            args, kwargs = self.decode(frame[2][0]), self.decode(frame[3][0])
            result = self.shown[frame[1]](*args, **kwargs)
            told = ["return", self.encode(result), self.encode(args)]
        except NotCrossableError as error:
            told = ["refuse", str(error)]
        except Exception as error:
            told = ["raise", _builtin_name(type(error)), self._arguments(error)]
        self.send(told)

    def _arguments(self, error):
        try:
            return self.encode(list(error.args))
        except Exception:
            return self.encode([_text_of(error)])

    def show(self, function):
        """Let the other side call a function; what stands for it in a frame."""
        for name, known in self.shown.items():
            if known is function:
                return name
        name = f"#{len(self.shown)}"
        self.shown[name] = function
        return name

    def send(self, frame):
        data = json.dumps(frame).encode()
        if len(data) > MOST_BYTES:
            raise NotCrossableError(f"{len(data)} bytes are more than may cross")
        data = struct.pack("<I", len(data)) + data
        try:
            while data:
                data = data[os.write(self._writer, data) :]
        except OSError as error:
            raise GoneError("the other side has gone") from error

    def receive(self):
        (size,) = struct.unpack("<I", self._exactly(4))
        if size > MOST_BYTES:
            raise GoneError(f"a frame of {size} bytes")
        try:
            frame = json.loads(self._exactly(size))
        except (ValueError, RecursionError) as error:
            raise GoneError("a frame that is no JSON") from error
        if not isinstance(frame, list) or not frame:
            raise GoneError("a frame without a kind")
        return frame

    def _exactly(self, size):
        data = bytearray()
        while len(data) < size:
            piece = os.read(self._reader, size - len(data))
            if not piece:
                raise GoneError("the other side has gone")
            data += piece
        return bytes(data)

    def encode(self, value, above=()):
        """A value as JSON has it. Raises NotCrossableError."""
        kind = type(value)
        if value is None or kind is bool or kind is str or kind is float:
            return value
        if isinstance(value, int):
            value = int(value)
            return value if abs(value) < _SAFE_INT else ["i", hex(value)]
        if isinstance(value, float | str):
            return kind.__mro__[-2](value)
        if id(value) in above:
            raise NotCrossableError("a value that holds itself")
        above = (*above, id(value))
        if isinstance(value, dict):
            return ["d", *([self.encode(k, above), self.encode(v, above)] for k, v in value.items())]
        for tag, base in (("l", list), ("t", tuple), ("s", set), ("f", frozenset)):
            if isinstance(value, base):
                return [tag, *(self.encode(each, above) for each in value)]
        if isinstance(value, bytes | bytearray):
            return ["b" if isinstance(value, bytes) else "B", value.hex()]
        if kind is complex:
            return ["c", value.real, value.imag]
        if isinstance(value, type) and vars(builtins).get(value.__name__, "") is value:
            return ["T", value.__name__]
        if kind is range:
            return ["r", *map(self.encode, (value.start, value.stop, value.step))]
        if hasattr(value, "__next__"):
            held = list(itertools.islice(value, _MOST_ITEMS + 1))
            if len(held) > _MOST_ITEMS:
                raise NotCrossableError(f"an iterator of more than {_MOST_ITEMS} items")
            return ["g", *(self.encode(each, above) for each in held)]
        if callable(value) and not isinstance(value, type):
            return ["F", self.show(value)]
        raise NotCrossableError(f"{'the class ' if isinstance(value, type) else ''}{kind.__name__} does not cross")

    def decode(self, frame):
        """The value of a part of a frame. Raises GoneError where it is none."""
        if not isinstance(frame, list):
            return frame
        try:
            return self._tagged(frame[0], frame[1:])
        except (IndexError, ValueError, TypeError, RecursionError) as error:
            raise GoneError("a frame that holds no value") from error

    def _tagged(self, tag, items):
        if tag == "i":
            return int(items[0], 16)
        if tag == "d":
            return {self.decode(key): self.decode(value) for key, value in items}
        if tag in "ltsfg":
            made = {"l": list, "t": tuple, "s": set, "f": frozenset, "g": list}[tag](map(self.decode, items))
            return iter(made) if tag == "g" else made
        if tag in "bB":
            return bytes.fromhex(items[0]) if tag == "b" else bytearray.fromhex(items[0])
        if tag == "c":
            return complex(*items)
        if tag == "r":
            return range(*map(self.decode, items))
        if tag == "T":
            found = getattr(builtins, str(items[0]))
            if isinstance(found, type):
                return found
        if tag == "F":
            name = str(items[0])
            return lambda *args, **kwargs: self.call(name, args, kwargs)
        raise ValueError(tag)


def _take_over(mine, theirs):
    """Make a container equal to what it became on the other side, and keep which objects it is made of."""
    if type(mine) is not type(theirs) or not isinstance(mine, list | dict | set | bytearray | tuple):
        return
    if isinstance(mine, list):
        for place in range(min(len(mine), len(theirs))):
            if type(mine[place]) is type(theirs[place]) and isinstance(mine[place], list | dict | set | bytearray):
                _take_over(mine[place], theirs[place])
            else:
                mine[place] = theirs[place]
        mine[len(theirs) :] = theirs[len(mine) :]
    elif isinstance(mine, tuple):
        for one, other in zip(mine, theirs, strict=False):
            _take_over(one, other)
    elif isinstance(mine, dict):
        kept = {key: value for key, value in mine.items() if key in theirs}
        mine.clear()
        for key, value in theirs.items():
            old = kept.get(key)
            if type(old) is type(value) and isinstance(old, list | dict | set | bytearray):
                _take_over(old, value)
                value = old
            mine[key] = value
    elif isinstance(mine, set):
        mine.clear()
        mine.update(theirs)
    else:
        mine[:] = theirs


def _builtin_name(kind: type) -> str:
    """The builtin class that an exception's class is made of."""
    return next(each.__name__ for each in kind.__mro__ if vars(builtins).get(each.__name__) is each)


def _exception(name, args):
    kind = getattr(builtins, str(name), None)
    if not (isinstance(kind, type) and issubclass(kind, Exception)) or not isinstance(args, list):
        raise GoneError(f"an exception that is none, {str(name)[:40]!r}")
    try:
        return kind(*args)
    except TypeError:
        return kind.__mro__[-3]() if kind is not Exception else Exception()


def _text_of(error):
    try:
        return str(error)[:500]
    except Exception:
        return ""
