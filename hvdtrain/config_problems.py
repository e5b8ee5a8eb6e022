"""From pydantic's errors to messages that say what was given and what is allowed.

What is allowed is read from the JSON Schema of the models, so a message cannot disagree with the check.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import ValidationError

from hvdtrain.config import Config
from hvdtrain.config_types import PATTERN_WORDS, Section
from hvdtrain.names import did_you_mean
from hvdtrain.strict_yaml import KeyPath
from hvdtrain.yaml_scalars import plain_scalar, shown

Schema = Mapping[str, Any]

MAX_ERRORS = 1000  # a flood, as from a list of a million wrong entries, is looked at no further


@dataclass(frozen=True)
class Complaint:
    """What is wrong with one key. `meant` is the key that a misspelled one probably stands for."""

    keys: KeyPath
    message: str
    meant: KeyPath | None = None


@cache
def model_schema(model: type[Section] = Config) -> Schema:
    """Return the JSON Schema of a model of configurations, as pydantic writes it."""
    return model.model_json_schema()


def complaints(error: ValidationError, model: type[Section] = Config) -> list[Complaint]:
    """Return one complaint per key that pydantic refused.

    Args:
        error: What pydantic said.
        model: The model that the data were to fit.
    """
    root = model_schema(model)
    found: dict[KeyPath, Complaint] = {}
    for details in error.errors(include_url=False)[:MAX_ERRORS]:
        complaint = _complaint(details, root)
        found.setdefault(complaint.keys, complaint)
    meant = {complaint.meant for complaint in found.values()}
    # 'soruce' is misspelled: that 'source' is missing then says nothing new.
    return [complaint for keys, complaint in found.items() if keys not in meant]


def _complaint(details: Mapping[str, Any], root: Schema) -> Complaint:
    keys, schema = _locate(details["loc"], root)
    kind, given = details["type"], details["input"]
    if kind == "extra_forbidden":
        return _unknown_key(keys, root)
    if kind == "missing":
        return Complaint(keys, _missing(keys, schema))
    if kind == "value_error":
        return Complaint(keys, str(details["ctx"]["error"]))
    if details["loc"][-1] == "[key]":
        return Complaint(keys, f"the key {shown(given)} must be {_key_words(details)}")
    if kind == "greater_than":
        return Complaint(keys, f"must be greater than {details['ctx']['gt']:g}; got {shown(given)}")
    return Complaint(keys, f"must be {describe(schema)}; got {_given(given, schema)}")


def _unknown_key(keys: KeyPath, root: Schema) -> Complaint:
    parent, name = keys[:-1], str(keys[-1])
    valid = list(_block(_locate(parent, root)[1], root).get("properties", {}))
    hint = did_you_mean(name, valid)
    meant = next((key for key in valid if hint == f"; did you mean {key!r}?"), None)
    return Complaint(
        keys,
        f"unknown key{hint or '; valid keys: ' + ', '.join(valid)}",
        (*parent, meant) if meant else None,
    )


def _missing(keys: KeyPath, schema: Schema) -> str:
    if "properties" in schema:
        return f"missing; give a block with {', '.join(schema.get('required', ()) or list(schema['properties'])[:4])}"
    return f"missing; it must be {describe(schema)}"


def _locate(location: Sequence[str | int], root: Schema) -> tuple[KeyPath, Schema]:
    """Return the key that a pydantic location stands for, without the branches of unions, and its schema."""
    keys: list[str | int] = []
    schema = root
    for part in location:
        block = _block(schema, root)
        inner = _inside(block, part, root)
        if inner is None:
            # A union's branch, or a key that the schema does not know.
            if block.get("type") == "object" and "properties" in block:
                keys.append(part)
            break
        keys.append(part)
        schema = inner
    return tuple(keys), schema


def _inside(schema: Schema, part: str | int, root: Schema) -> Schema | None:
    if isinstance(part, int):
        inner = schema.get("items")
    else:
        inner = schema.get("properties", {}).get(part)
        if inner is None and "patternProperties" in schema:
            inner = next(iter(schema["patternProperties"].values()))
    return _resolve(inner, root) if inner else None


def _block(schema: Schema, root: Schema) -> Schema:
    """Return the block that an optional one may be, with its keys; another schema as it is."""
    return next((_resolve(branch, root) for branch in schema.get("anyOf", ()) if "$ref" in branch), schema)


def _resolve(schema: Schema, root: Schema) -> Schema:
    reference = schema.get("$ref")
    return root["$defs"][reference.rpartition("/")[2]] if reference else schema


def describe(schema: Schema) -> str:
    """Return in words what a schema allows.

    >>> describe({"anyOf": [{"type": "integer", "minimum": 1}, {"const": "auto"}]})
    "a whole number >= 1 or 'auto'"
    """
    if "anyOf" in schema:
        return " or ".join(describe(branch) for branch in schema["anyOf"])
    if "enum" in schema:
        return f"one of {', '.join(shown(choice) for choice in schema['enum'])}"
    if "const" in schema:
        return shown(schema["const"])
    if "$ref" in schema:  # one of the configuration's blocks
        return "a block of 'key: value' lines"
    if schema.get("type") in ("integer", "number"):
        return _describe_number(schema)
    if "pattern" in schema:
        return _pattern_words(schema["pattern"])
    return {
        "boolean": "true or false",
        "string": "text" if not schema.get("minLength") else "text, not empty",
        "null": "null",
        "array": "a list such as [a, b]",
        "object": "a block of 'key: value' lines",
    }.get(str(schema.get("type")), "something else")


def _describe_number(schema: Schema) -> str:
    if "minimum" in schema and schema["minimum"] == schema.get("maximum"):
        return shown(schema["minimum"])
    words = "a whole number" if schema["type"] == "integer" else "a number"
    bounds = (("minimum", ">="), ("exclusiveMinimum", ">"), ("maximum", "<="), ("exclusiveMaximum", "<"))
    limits = [f"{sign} {schema[name]:.15g}" for name, sign in bounds if name in schema]
    return " ".join([words, " and ".join(limits)]).rstrip()


def _pattern_words(pattern: str) -> str:
    return PATTERN_WORDS.get(pattern, f"text that matches {pattern}")


def _key_words(details: Mapping[str, Any]) -> str:
    pattern = details.get("ctx", {}).get("pattern")
    return _pattern_words(pattern) if pattern else "text"


def _given(given: Any, schema: Schema) -> str:
    """Return the value as the user gave it, with a hint at what was probably meant."""
    if isinstance(given, dict | list):
        return "a list" if isinstance(given, list) else "a block of 'key: value' lines"
    types, choices = set(_types(schema)), list(_choices(schema))
    text = shown(given)
    if given is None and types == {"object"}:
        return "nothing; remove the key, or put keys below it"
    if isinstance(given, str):
        if types & {"integer", "number", "boolean"} and _looks_like(given, types):
            return f"the text {text}; remove the quotes"
        return text + did_you_mean(given.lower(), choices)
    if types == {"string"} and not choices and given is not None:
        return f'{text}; put it in quotes ("{text}") if it is meant as text'
    if "integer" in types and isinstance(given, float) and given.is_integer():
        return f"{text}; write {int(given)}"
    return text


def _looks_like(text: str, types: set[str]) -> bool:
    value = plain_scalar(text)[0]
    if isinstance(value, bool):
        return "boolean" in types
    return isinstance(value, int | float) and bool(types & {"integer", "number"})


def _types(schema: Schema) -> Iterator[str]:
    for branch in schema.get("anyOf", [schema]):
        if "type" in branch:
            yield branch["type"]


def _choices(schema: Schema) -> Iterator[str]:
    for branch in schema.get("anyOf", [schema]):
        yield from branch.get("enum", [branch["const"]] if "const" in branch else [])
