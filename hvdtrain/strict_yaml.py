"""Reading YAML the strict way: plain data plus the line of every key, and every flaw found at once.

Scalars are `yaml_scalars`' work. Tags, aliases, merge keys, duplicate keys and further documents are refused.
Pure: text in, data out; knows nothing of the configuration.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import yaml

from hvdtrain.yaml_scalars import plain_scalar, shown

KeyPath = tuple[str | int, ...]

MAX_DEPTH = 32
MAX_FLAWS = 1000

NEVER_CLOSED = "a quotation mark that is opened here is never closed"
# What PyYAML says -> what it means to somebody who does not write parsers.
PLAIN_WORDS = (
    (r"'\\t' that cannot start any token", "a tab where only spaces can be; indent with spaces"),
    (r"mapping values are not allowed here", "a ':' where no key can be; check the indentation, or quote the text"),
    (r"could not find expected ':'", "this line is no 'key: value'; is the ':' missing?"),
    (r"expected <block end>", "the indentation does not fit the lines above"),
    (r"expected ',' or '\]'", "the list opened with '[' on line {opened} lacks a ',' or its closing ']'"),
    (r"expected ',' or '\}'", "the mapping opened with '{{' on line {opened} lacks a ',' or its closing '}}'"),
    (r"unexpected end of stream|document separator", NEVER_CLOSED),
    (r"unknown escape character", "an unknown escape; write \\\\ for a backslash, or use single quotes"),
    (r"expected escape sequence", "an escape that lacks its hexadecimal digits"),
    (r"undefined tag handle", "YAML tags (!...) are not supported; remove the tag"),
    (r"sequence entries are not allowed", "a list entry '- ' where none can be; check the indentation"),
    (r"cannot start any token", "a text that begins with a special character (@ ` % ...); quote it"),
    (r"expected '<document start>'", "only one block of 'key: value' lines can be at the top level"),
)


@dataclass(frozen=True)
class Flaw:
    """Something wrong with the text itself: at which key and line, and what."""

    keys: KeyPath
    line: int
    message: str


@dataclass(frozen=True)
class Document:
    """The data of one YAML document, the line of each key and list entry, and what is wrong with the text.

    A flawed value reads as None. When the text could not be read to its end, `is_readable` is False.
    """

    data: Any
    lines: dict[KeyPath, int]
    flaws: tuple[Flaw, ...]
    is_readable: bool = True


class _GiveUpError(Exception):
    """Reading cannot go on; the flaw is recorded."""


def read_yaml(text: str) -> Document:
    """Return the document in `text`. Never raises: whatever is wrong is among its flaws."""
    reader = _Reader()
    try:
        data = reader.read(text)
    except _GiveUpError:
        return Document(None, reader.lines, tuple(reader.flaws), is_readable=False)
    return Document(data, reader.lines, tuple(reader.flaws))


class _Reader:
    """Builds plain data from PyYAML's events: bounded in depth, without constructors and without aliases."""

    def __init__(self) -> None:
        self.lines: dict[KeyPath, int] = {}
        self.flaws: list[Flaw] = []

    def read(self, text: str) -> Any:
        """Return the data of the only document in `text`."""
        self._loader = self._call(lambda: yaml.SafeLoader(text), text)
        self._event()  # stream start
        if self._next_is(yaml.StreamEndEvent):
            return None
        self._event()  # document start
        data = self._value((), 0)
        self._event()  # document end
        if not self._next_is(yaml.StreamEndEvent):
            self._give_up(self._event(), "a second YAML document begins here; one file holds one configuration")
        return data

    def _value(self, keys: KeyPath, depth: int) -> Any:
        event = self._event()
        if depth > MAX_DEPTH:
            self._give_up(event, f"nested more than {MAX_DEPTH} levels deep")
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            self._flaw(keys, event, "anchors and aliases (&name, *name) are not supported; write the value out")
        elif event.tag is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            self._flaw(keys, event, f"YAML tags ({shown(tag)}) are not supported; remove the tag")
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(keys, depth)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(keys, depth)
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(keys, event)
        return None

    def _mapping(self, keys: KeyPath, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        first_lines: dict[str, int] = {}
        while not self._next_is(yaml.MappingEndEvent):
            line, key = self._key(keys, depth)
            place = (*keys, "?" if key is None else key)
            if key in found:
                message = f"given twice, also on line {first_lines[key]}; remove one of the two"
                self.flaws.append(Flaw(place, line, message))
            value = self._value(place, depth + 1)
            if key is not None and key not in found:
                found[key] = value
                first_lines[key] = self.lines[place] = line
        self._event()
        return found

    def _key(self, keys: KeyPath, depth: int) -> tuple[int, str | None]:
        """Return (line, key), with None for a key that is not usable."""
        start, num_flaws = self._peek(), len(self.flaws)
        name = start.value if isinstance(start, yaml.ScalarEvent) else "?"
        if name == "<<" and start.implicit[0]:
            self._flaw((*keys, name), self._event(), "merge keys are not supported; write the keys out")
            return _line(start), None
        key = self._value((*keys, name), depth + 1)
        if len(self.flaws) > num_flaws:
            return _line(start), None
        if not isinstance(key, str):
            what = shown(key) if isinstance(start, yaml.ScalarEvent) else "a list or mapping"
            self._flaw((*keys, name), start, f"a key must be text; got {what}; put it in quotes if it is meant as text")
            return _line(start), None
        return _line(start), key

    def _sequence(self, keys: KeyPath, depth: int) -> list[Any]:
        found: list[Any] = []
        while not self._next_is(yaml.SequenceEndEvent):
            item = (*keys, len(found))
            self.lines[item] = _line(self._peek())
            found.append(self._value(item, depth + 1))
        self._event()
        return found

    def _scalar(self, keys: KeyPath, event: yaml.ScalarEvent) -> Any:
        text = event.value
        if any("\ud800" <= character <= "\udfff" for character in text):
            self._flaw(keys, event, f"half of a surrogate pair is no character; got {shown(text)}")
            return None
        if not event.implicit[0]:
            return text
        value, flaw = plain_scalar(text)
        if flaw:
            self._flaw(keys, event, flaw)
        return value

    def _flaw(self, keys: KeyPath, event: yaml.Event, message: str) -> None:
        self.flaws.append(Flaw(keys, _line(event), message))
        if len(self.flaws) >= MAX_FLAWS:
            raise _GiveUpError

    def _give_up(self, event: yaml.Event, message: str) -> None:
        self._flaw((), event, message)
        raise _GiveUpError

    def _event(self) -> Any:
        return self._call(self._loader.get_event)

    def _peek(self) -> Any:
        return self._call(self._loader.peek_event)

    def _next_is(self, kind: type[yaml.Event]) -> bool:
        return isinstance(self._peek(), kind)

    def _call(self, step: Callable[[], Any], text: str = "") -> Any:
        """Run one step of PyYAML; turn its complaint into a flaw and stop."""
        try:
            return step()
        except yaml.reader.ReaderError as error:
            position = int(error.position)
            line, message = text.count("\n", 0, position) + 1, f"a control character ({text[position]!r}) in the text"
        except yaml.MarkedYAMLError as error:
            line, message = _explain(error)
        except (ValueError, OverflowError):
            # PyYAML converts "\UFFFFFFFF" and the digits of a %YAML directive without looking.
            line, message = self._loader.line + 1, "a number in an escape or a directive is out of range"
        self.flaws.append(Flaw((), line, message))
        raise _GiveUpError


def _line(event: yaml.Event) -> int:
    mark = event.start_mark
    return int(mark.line) + 1 if mark else 1


def _explain(error: yaml.MarkedYAMLError) -> tuple[int, str]:
    """Return (line, message) of a syntax error; an unclosed quote is reported where it opens."""
    problem = str(error.problem or error.context)
    words = next((words for pattern, words in PLAIN_WORDS if re.search(pattern, problem)), None)
    opened = error.context_mark.line + 1 if error.context_mark else 1
    line = error.problem_mark.line + 1 if error.problem_mark else opened
    if words is None:
        return line, f"not valid YAML: {problem}"
    return (opened if words == NEVER_CLOSED else line), words.format(opened=opened)
