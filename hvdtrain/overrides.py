"""Settings given on the command line: `--set training.epochs=3`, the value in YAML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hvdtrain.errors import ConfigError, Problem
from hvdtrain.strict_yaml import read_yaml


@dataclass(frozen=True)
class Override:
    """One setting of the command line; `text` is what was typed."""

    keys: tuple[str, ...]
    value: Any
    text: str

    @property
    def place(self) -> str:
        """Return where the setting comes from, as messages name it."""
        return place_of(self.text)


def place_of(text: str) -> str:
    """Return how messages name the setting `text`.

    >>> place_of("training.epochs=3")
    '--set training.epochs=3'
    """
    return f"--set {printable(text)}"


def printable(text: str) -> str:
    """Return `text` with escapes for what a terminal cannot show, such as bytes that are not UTF-8.

    >>> printable("runs\\udcff")
    'runs\\\\udcff'
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def parse_overrides(overrides: Sequence[str]) -> list[Override]:
    """Return the settings, values parsed as YAML scalars or flow values.

    Raises:
        ConfigError: With every setting that is not `key=value` or whose value is no YAML.

    >>> [(o.keys, o.value) for o in parse_overrides(["training.epochs=3", "metrics=[accuracy]"])]
    [(('training', 'epochs'), 3), (('metrics',), ['accuracy'])]
    """
    found, problems = [], []
    for text in overrides:
        keys, _, value_text = text.partition("=")
        message = _flaw_of_form(text)
        document = read_yaml(value_text)
        if not message and document.flaws:
            message = document.flaws[0].message
        if message:
            problems.append(Problem(message, path=place_of(text)))
        found.append(Override(tuple(keys.strip().split(".")), document.data, text))
    if problems:
        raise ConfigError(problems)
    return found


def _flaw_of_form(text: str) -> str:
    key, sign, value = text.partition("=")
    if any("\ud800" <= character <= "\udfff" for character in text):
        return "not valid UTF-8"
    if not sign or not all(part.strip() == part != "" for part in key.strip().split(".")):
        return "must have the form key=value, for example training.epochs=3"
    if not value.strip() or value.strip().startswith("#"):
        return f"no value after '='; for nothing write {printable(key)}=null"
    return ""


def apply_override(data: dict[str, Any], override: Override) -> str:
    """Put one setting into the data of a file, in place; return what is wrong, or an empty text."""
    block = data
    for i, key in enumerate(override.keys[:-1]):
        if block.get(key) is None:
            block[key] = {}
        if not isinstance(block[key], dict):
            return f"{'.'.join(override.keys[: i + 1])} is not a block of keys; set it as a whole"
        block = block[key]
    block[override.keys[-1]] = override.value
    return ""
