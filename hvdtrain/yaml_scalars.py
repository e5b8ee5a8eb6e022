"""What an unquoted YAML scalar means: null, true, false, a number or text.

Follows the YAML 1.2 core schema, so `1e-3` is a number. What YAML 1.1 and 1.2 readers take for different things
(`no`, `1:30`, `1_000`, `017`, dates) is refused rather than guessed.
"""

from __future__ import annotations

import math
import re
from typing import Any

import yaml

MAX_INT = 2**63 - 1

INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
LEADING_ZERO = re.compile(r"[-+]?0[0-9]+")
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
TRUE = ("true", "True", "TRUE")
FALSE = ("false", "False", "FALSE")
NULL = ("", "~", "null", "Null", "NULL")


def plain_scalar(text: str) -> tuple[Any, str]:
    """Return (value, flaw) of an unquoted scalar; the value is None where there is a flaw.

    >>> plain_scalar("1e-3"), plain_scalar("cosine")
    ((0.001, ''), ('cosine', ''))
    >>> plain_scalar("no")
    (None, '\\'no\\' means false to some YAML readers and text to others; write false, or "no" in quotes for text')
    """
    if text in NULL:
        return None, ""
    if text in TRUE or text in FALSE:
        return text in TRUE, ""
    if _is_ambiguous(text):
        return None, _ambiguity(text)
    if INT.fullmatch(text):
        return _whole_number(text)
    if NOT_FINITE.fullmatch(text):
        return None, f"must be a finite number; got {text}"
    if FLOAT.fullmatch(text):
        value = float(text)
        return (value, "") if math.isfinite(value) else (None, f"the number {shorten(text)} is too large")
    return text, ""


def _is_ambiguous(text: str) -> bool:
    """Tell whether YAML 1.1 and 1.2 read `text` differently; `1e-3` counts as a number, as every scientist means it."""
    if LEADING_ZERO.fullmatch(text):
        return True
    if INT.fullmatch(text):
        return yaml_1_1_tag(text) != "int"
    is_number = FLOAT.fullmatch(text) or NOT_FINITE.fullmatch(text)
    return not is_number and yaml_1_1_tag(text) != "str"


def yaml_1_1_tag(text: str) -> str:
    """Return what YAML 1.1, as PyYAML implements it, takes an unquoted scalar for: `bool`, `int`, `str`..."""
    for tag, pattern in yaml.SafeLoader.yaml_implicit_resolvers.get(text[:1], []):
        if pattern.match(text):
            return str(tag).rpartition(":")[2]
    return "str"


def _ambiguity(text: str) -> str:
    tag = yaml_1_1_tag(text)
    quoted = f'"{shorten(text)}" in quotes for text'
    if tag == "bool":
        meant = "true" if text.lower() in ("yes", "on") else "false"
        return f"{text!r} means {meant} to some YAML readers and text to others; write {meant}, or {quoted}"
    if tag == "timestamp":
        return f"{text} means a date to some YAML readers and text to others; write {quoted}"
    return f"{shorten(text)} means different things to different YAML readers; write a plain number, or {quoted}"


def _whole_number(text: str) -> tuple[int | None, str]:
    if len(text) <= 40:
        value = int(text, 0 if text[:2] in ("0o", "0x") else 10)
        if -MAX_INT <= value <= MAX_INT:
            return value, ""
    return None, f"the whole number {shorten(text)} is too large (more than 64 bits)"


def shown(value: Any) -> str:
    """Return a value as a message shows it: short, on one line, text in quotes.

    >>> shown(True), shown(None), shown("liner"), shown({"a": 1})
    ('true', 'null', "'liner'", "{'a': 1}")
    """
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return shorten(ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value))


def shorten(text: str, limit: int = 60) -> str:
    """Return `text`, cut to `limit` characters."""
    return text if len(text) <= limit else text[: limit - 3] + "..."
