"""Reading a sweep file, with every problem found at once and the line of each. Must not import TensorFlow."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hvdtrain.config import Config
from hvdtrain.config_file import YamlFile, section_of
from hvdtrain.config_problems import complaints
from hvdtrain.config_types import PATTERN_WORDS, RUN_NAME, Section
from hvdtrain.errors import ConfigError, Problem
from hvdtrain.names import did_you_mean
from hvdtrain.strict_yaml import KeyPath
from hvdtrain.study.sweep_space import Range, Space, Values
from hvdtrain.sweeps.config import SweepConfig, SweepFile
from hvdtrain.yaml_scalars import shown

Found = tuple[KeyPath, str]
RANGE_KEYS = ("low", "high", "log", "integer")
# Where trials run is the same for all; what they are compared on, too.
SAME_FOR_ALL = {
    "name": "the sweep names its trials",
    "launch": "all trials run in the same way; for the number of ranks: hvdtrain scale",
    "slurm": "all trials run in the same way",
    "container": "all trials run in the same way",
    "horovod": "it decides how fast a run is, which is what hvdtrain tune is for",
    "measure": "a sweep trains; for speed: hvdtrain scale",
    "timeline": "set it in the base, or with --set",
    "data.validation_split": "all trials must be compared on the same examples",
    "data.validation_seed": "all trials must be compared on the same examples",
    "training.max_minutes": "trials would be compared at different ages",
    "training.stop_after_epochs": "that is the sweep's own",
}


def load_sweep(path: str | Path) -> SweepFile:
    """Return what a sweep file says.

    Raises:
        ConfigError: With every problem of the file, by line.
    """
    document = YamlFile(path)
    data = document.data
    if not isinstance(data, dict):
        raise ConfigError(document.problems([((), "a sweep file is a block of 'key: value' lines; see docs/sweep.md")]))
    if "model" in data and "base" not in data:
        raise ConfigError(
            Problem(
                "this is the configuration of one training; a sweep file names it (base: my.yaml) and says what to "
                "change (method, parameters); see docs/sweep.md",
                path=str(path),
            )
        )
    found: list[tuple[KeyPath, str]] = []
    config = None
    try:
        config = SweepConfig.model_validate(data)
    except ValidationError as error:
        found = [(one.keys, one.message) for one in complaints(error, SweepConfig)]
    parameters = data.get("parameters")
    space = dict(_space(parameters, found)) if isinstance(parameters, dict) else {}
    if config is not None:
        found += _broken_rules(config, space, Path(path).stem)
    if found or config is None:
        raise ConfigError(document.problems(found))
    return SweepFile(Path(path), config, space, document)


# -- parameters ---------------------------------------------------------------------------------


def _space(parameters: Mapping[str, Any], found: list[Found]) -> Iterator[tuple[str, Values | Range]]:
    """Yield the parameters that make sense; what is wrong with others is added to `found`."""
    for key, given in parameters.items():
        place = ("parameters", key)
        problems = [*_key_problems(key), *_value_problems(given)]
        found += [((*place, *inside), message) for inside, message in problems]
        if problems:
            continue
        if isinstance(given, list):
            yield key, Values(tuple(given))
        else:
            yield key, Range(given["low"], given["high"], given.get("log", False), given.get("integer", False))


def _key_problems(key: str) -> Iterator[Found]:
    """Yield what is wrong with a key: that no configuration has it, or that no sweep may change it."""
    parts = key.split(".")
    for length in range(1, len(parts) + 1):
        reason = SAME_FOR_ALL.get(".".join(parts[:length]))
        if reason is not None:
            yield (), f"cannot be swept: {reason}"
            return
    fixed = [other for other in SAME_FOR_ALL if other.startswith(f"{key}.")]
    if fixed:
        yield (), f"cannot be swept as a whole: {', '.join(fixed)} must stay; sweep keys inside it, {key}.NAME"
        return
    block: type[Section] | None = Config
    for place, part in enumerate(parts):
        if block is None:
            around = ".".join(parts[:place])
            if not around.endswith("args"):
                yield (), f"unknown key: {around} has no keys inside"
            return
        if part not in block.model_fields:
            hint = did_you_mean(part, block.model_fields) or f"; valid: {', '.join(block.model_fields)}"
            yield (), f"no configuration has the key {'.'.join(parts[: place + 1])!r}{hint}"
            return
        block = section_of(block.model_fields[part].annotation)


def _value_problems(given: Any) -> Iterator[Found]:
    """Yield what is wrong with a parameter's values."""
    if isinstance(given, list):
        yield from _list_problems(given)
    elif isinstance(given, dict):
        yield from _range_problems(given)
    else:
        text = f"must be a list of values, such as [{shown(given)}], or a range {{low: , high: }}; got {shown(given)}"
        yield (), text


def _list_problems(given: list[Any]) -> Iterator[Found]:
    if not given:
        yield (), "must list at least one value; got []"
    seen: dict[str, int] = {}
    for place, value in enumerate(given):
        first = seen.setdefault(json.dumps(value, sort_keys=True), place)
        if first != place:
            yield (place,), f"{shown(value)} is given twice; each value once"


def _range_problems(given: Mapping[str, Any]) -> Iterator[Found]:
    for key in given:
        if key not in RANGE_KEYS:
            hint = did_you_mean(key, RANGE_KEYS) or f"; a range has {', '.join(RANGE_KEYS)}"
            yield (key,), f"unknown key{hint}; several whole blocks are given as a list: [{{...}}, {{...}}]"
    ends = {key: given.get(key) for key in ("low", "high")}
    for key, value in ends.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            yield (key,), f"must be a number; got {shown(value)}" if key in given else "missing; it must be a number"
            return
        if given.get("integer") is True and not isinstance(value, int):
            yield (key,), f"must be a whole number, since integer is true; got {shown(value)}"
    for key in ("log", "integer"):
        if not isinstance(given.get(key, False), bool):
            yield (key,), f"must be true or false; got {shown(given[key])}"
    problem = _problem_of_ends(float(ends["low"] or 0), float(ends["high"] or 0), is_log=given.get("log") is True)
    if problem:
        yield ("low",), f"{problem}; got low {shown(ends['low'])} and high {shown(ends['high'])}"


def _problem_of_ends(low: float, high: float, *, is_log: bool) -> str:
    if not low < high or not math.isfinite(high - low):
        return "must be less than high"
    if is_log and low <= 0:
        return "must be greater than 0, since log is true"
    return "is too far below high, since log is true" if is_log and not math.isfinite(high / low) else ""


# -- what does not go together ------------------------------------------------------------------


def _broken_rules(config: SweepConfig, space: Space, stem: str) -> Iterable[Found]:
    """Return what is wrong with settings together."""
    found: list[Found] = []
    if config.name is None and not re.match(RUN_NAME, stem):
        found.append((("name",), f"the file's name is none for a folder ({PATTERN_WORDS[RUN_NAME]}); give name: ..."))
    if not config.parameters:
        found.append((("parameters",), "name at least one parameter: model.args.units: [32, 64]"))
    ranges = [key for key, choice in space.items() if isinstance(choice, Range)]
    if config.method == "grid" and config.num_trials is not None:
        found.append((("num_trials",), "method 'grid' trains every combination; remove it, or use method: random"))
    if config.method == "random" and config.num_trials is None:
        found.append((("num_trials",), "missing; how many combinations method 'random' draws, such as 20"))
    if config.method == "grid" or (config.method == "halving" and config.num_trials is None):
        use = "method: random" if config.method == "grid" else "num_trials: 20"
        found += [
            (("parameters", key), f"a grid needs a list of values; for a range between low and high use {use}")
            for key in ranges
        ]
    if config.halving is not None and config.method != "halving":
        found.append((("halving",), f"only for method: halving; method is {config.method!r}"))
    if config.method == "halving":
        found += [
            (("parameters", key), "cannot be swept with method 'halving', which decides how long a trial trains")
            for key in space
            if key in ("training", "training.epochs", "training.steps")
        ]
    found += [
        (("parameters", inner), f"lies inside {outer!r}, which is swept as well; sweep one of them")
        for outer in space
        for inner in space
        if inner.startswith(f"{outer}.")
    ]
    return found
