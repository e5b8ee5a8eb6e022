"""From a YAML file and `--set` to a Config, with every problem found at once and the place of each.

The only module that reads configuration files. This module must not import TensorFlow or probe the machine.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from hvdtrain.config import Config
from hvdtrain.config_problems import Complaint, complaints, model_schema
from hvdtrain.config_rules import broken_rules
from hvdtrain.config_types import Section
from hvdtrain.errors import ConfigError, Problem
from hvdtrain.overrides import Override, apply_override, parse_overrides, printable
from hvdtrain.strict_yaml import Document, KeyPath, read_yaml
from hvdtrain.yaml_scalars import FLOAT, INT, shown

MAX_BYTES = 2**18
MAX_PROBLEMS = 100

__all__ = ["YamlFile", "config_schema", "dump_config", "load_config", "located", "parse_overrides", "section_of"]


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Return the configuration in a YAML file, with the settings of the command line on top.

    Args:
        path: The YAML file.
        overrides: What `--set` was given, such as "training.epochs=3"; the last setting of a key wins.

    Raises:
        ConfigError: With every problem of the file and the settings, in the order of the file.
    """
    name = printable(str(path))
    document = read_yaml(_read_text(path, name))
    settings, problems = _parse_settings(overrides)
    places = _Places(name, document)
    problems = [places.problem(flaw.keys, flaw.message, flaw.line) for flaw in document.flaws] + problems
    if not document.is_readable:
        raise ConfigError(_in_order(problems))
    data = _top_level(document.data, name)
    for override in settings:
        message = apply_override(data, override)
        places.override(override)
        if message:
            problems.append(places.problem(override.keys, message))
    config, found = _validate(data, {flaw.keys for flaw in document.flaws if flaw.keys}, places)
    problems += found
    if problems or config is None:
        raise ConfigError(_in_order(problems))
    return config


def located(problem: Problem, path: str | Path, overrides: Sequence[str] = ()) -> Problem:
    """Return a problem with the place where its key was given; for one that was found after reading, by its key."""
    name = printable(str(path))
    places = _Places(name, read_yaml(_read_text(path, name)))
    for override in _parse_settings(overrides)[0]:
        places.override(override)
    return places.problem(tuple(problem.key.split(".")), problem.message)


class YamlFile:
    """A YAML file that was read, and the places of its keys.

    Args:
        path: The file.

    Raises:
        ConfigError: If it cannot be read, or is flawed as YAML.
    """

    def __init__(self, path: str | Path) -> None:
        name = printable(str(path))
        document = read_yaml(_read_text(path, name))
        self._places = _Places(name, document)
        flaws = [self._places.problem(flaw.keys, flaw.message, flaw.line) for flaw in document.flaws]
        if flaws or not document.is_readable:
            raise ConfigError(_in_order(flaws))
        self.data = document.data

    def problems(self, found: Iterable[tuple[KeyPath, str]]) -> list[Problem]:
        """Return (key, message) pairs as problems with their lines."""
        return _in_order([self._places.problem(keys, message) for keys, message in found])


def _in_order(problems: list[Problem]) -> list[Problem]:
    """Return the problems of the file by line, then those of the command line; a flood is cut short."""
    problems = sorted(problems, key=lambda problem: (problem.path.startswith("--set "), problem.line or 0))
    further = len(problems) - MAX_PROBLEMS
    return problems if further <= 0 else [*problems[:MAX_PROBLEMS], Problem(f"... and {further} further problems")]


def _parse_settings(overrides: Sequence[str]) -> tuple[list[Override], list[Problem]]:
    """Return (settings, problems); the good settings are left out if some are bad."""
    try:
        return parse_overrides(overrides), []
    except ConfigError as error:
        return [], error.problems


def _read_text(path: str | Path, name: str) -> str:
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(Problem("there is no such file", path=name)) from None
    except IsADirectoryError:
        raise ConfigError(Problem("this is a directory; a configuration is a YAML file", path=name)) from None
    except OSError as error:
        raise ConfigError(Problem(f"cannot be read: {error.strerror or error}", path=name)) from None
    except ValueError:
        raise ConfigError(Problem("this cannot be the path of a file", path=name)) from None
    if len(content) > MAX_BYTES:
        raise ConfigError(Problem("larger than 256 KiB; this cannot be a configuration", path=name))
    if b"\0" in content:
        raise ConfigError(Problem("a binary file; a configuration is YAML text in UTF-8", path=name))
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        message = "not UTF-8 text; save the file in the encoding UTF-8"
        raise ConfigError(Problem(message, path=name, line=line)) from None


def _top_level(data: Any, name: str) -> dict[str, Any]:
    needed = ", ".join(model_schema()["required"])
    if data is None:
        raise ConfigError(Problem(f"the configuration is empty; it needs at least {needed}", path=name))
    if not isinstance(data, dict):
        what = "a list" if isinstance(data, list) else shown(data)
        message = f"the top level must be 'key: value' lines with at least {needed}; got {what}"
        raise ConfigError(Problem(message, path=name, line=1))
    return data


# -- where a problem is -------------------------------------------------------------------------


class _Places:
    """Where each key was given: a line of the file, or a setting of the command line."""

    def __init__(self, name: str, document: Document) -> None:
        self._name = name
        self._lines: dict[KeyPath, int] = dict(document.lines)
        self._settings: dict[KeyPath, str] = {}

    def override(self, override: Override) -> None:
        """Remember that a key now comes from the command line, and all that lies inside it."""
        keys: KeyPath = override.keys
        self._lines = {at: line for at, line in self._lines.items() if at[: len(keys)] != keys}
        self._settings = {at: text for at, text in self._settings.items() if at[: len(keys)] != keys}
        self._settings[keys] = override.place

    def problem(self, keys: KeyPath, message: str, line: int | None = None) -> Problem:
        """Return a problem with its place: that of the key, or of the nearest block around it."""
        for length in range(len(keys), 0, -1) if line is None else ():
            around = keys[:length]
            if around in self._settings:
                return Problem(message, _dotted(keys), self._settings[around])
            if around in self._lines:
                line = self._lines[around]
                break
        inside = [text for at, text in self._settings.items() if at[: len(keys)] == keys]
        if line is None and keys and inside:
            return Problem(message, _dotted(keys), inside[0])
        return Problem(message, _dotted(keys), self._name, line)

    def first_given(self, keys: Sequence[KeyPath]) -> KeyPath:
        """Return the key to name in a problem of several: one from the command line, else one from the file."""
        given = [key for key in keys if key in self._settings] or [key for key in keys if key in self._lines]
        return given[0] if given else keys[0]


def _dotted(keys: Iterable[str | int]) -> str:
    """Return a key as it is written in messages.

    >>> _dotted(("launch", "pass_env", 0))
    'launch.pass_env[0]'
    """
    parts = (f"[{key}]" if isinstance(key, int) else f".{printable(key)}" for key in keys)
    return "".join(parts).removeprefix(".")


# -- checking -----------------------------------------------------------------------------------


def _validate(data: dict[str, Any], flawed: Set[KeyPath], places: _Places) -> tuple[Config | None, list[Problem]]:
    """Return (config, problems); nothing is said about values whose text is flawed already."""
    config, found = None, []
    try:
        config = Config.model_validate(data)
    except ValidationError as error:
        found = [complaint for complaint in complaints(error) if not _is_inside(complaint.keys, flawed)]
    except ConfigError:
        pass  # broken rules, which are said below with their places
    doubtful = {*flawed, *_doubtful(found)}
    broken = broken_rules(_with_defaults(data), doubtful)
    problems = [places.problem(complaint.keys, complaint.message) for complaint in found]
    return config, problems + [places.problem(places.first_given(rule.keys), rule.message) for rule in broken]


def _is_inside(keys: KeyPath, blocks: Set[KeyPath]) -> bool:
    return any(keys[:length] in blocks for length in range(1, len(keys) + 1))


def _doubtful(found: Iterable[Complaint]) -> Iterable[KeyPath]:
    for complaint in found:
        yield complaint.keys
        if complaint.meant:
            yield complaint.meant


def _with_defaults(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the data with the defaults of the models filled in; None for what has no default."""
    values = _defaults(Config)
    for name, default in values.items():
        given = data.get(name, default)
        block = section_of(Config.model_fields[name].annotation)
        if default is None and block is not None and isinstance(given, dict):
            default = _defaults(block)
        values[name] = {**default, **given} if isinstance(default, dict) and isinstance(given, dict) else given
    return values


def _defaults(model: type[Section]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            values[name] = _defaults(kind)
        else:  # an optional block among them
            values[name] = None if field.is_required() else field.get_default(call_default_factory=True)
    return values


def section_of(annotation: Any) -> type[Section] | None:
    """Return the block that a field holds, if need be beside null."""
    kinds = get_args(annotation) or (annotation,)
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)), None)


# -- writing ------------------------------------------------------------------------------------


class _Dumper(yaml.SafeDumper):
    """Quotes whatever YAML 1.1 or 1.2 could take for something else than text."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write a value out each time it occurs: aliases are not read."""
        return True

    def represent_text(self, text: str) -> yaml.ScalarNode:
        """Escape line breaks of any kind: PyYAML loses some of them in other styles."""
        style = None if text.isprintable() else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _Dumper.represent_text)
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(f"({FLOAT.pattern})$"), list("-+.0123456789"))
_Dumper.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(f"({INT.pattern})$"), list("-+0123456789"))


def dump_config(config: Config) -> str:
    """Return YAML text, defaults included, that `load_config` reads back to an equal configuration."""
    text: str = yaml.dump(config.model_dump(), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=2**31)
    return text


def config_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a configuration file, for editors."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **model_schema(),
        "title": "hvdtrain configuration",
    }
