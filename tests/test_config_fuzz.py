"""Configurations of any shape: what is written is read back alike, and what is wrong is refused without a traceback."""

import math
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hvdtrain.config import Config
from hvdtrain.config_file import dump_config, load_config
from hvdtrain.errors import ConfigError, Problem
from tests.test_config_file import VALID

names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
tricky = st.sampled_from(
    ["no", "1e-3", "08", "1:30", "null", "~", "", "<<", "=", "2024-01-01", "0o17", "#x", "a: b", ".nan"]
)
texts = st.text(max_size=20) | tricky
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
args = st.dictionaries(texts | names, plain, max_size=3)
configs = st.fixed_dictionaries(
    {
        "name": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True),
        "model": st.fixed_dictionaries({"source": st.just("m:f"), "args": args}),
        "data": st.fixed_dictionaries({"source": st.just("möd.d:g"), "args": args}),
        "training": st.fixed_dictionaries(
            {"batch_size_per_replica": st.integers(1, 2**40), "seed": st.integers(0, 2**31 - 1)},
        ).flatmap(lambda d: st.sampled_from(["epochs", "steps"]).map(lambda key: {**d, key: 7})),
        "loss": texts.filter(bool),
        "metrics": st.lists(texts.filter(bool), unique=True, max_size=3),
        "optimizer": st.fixed_dictionaries(
            {"learning_rate": st.floats(min_value=0, exclude_min=True, allow_infinity=False)},
            optional={"name": st.sampled_from(["sgd", "Adam", "LION"]), "clip": st.floats(1e-9, 1e9)},
        ),
        "launch": st.fixed_dictionaries(
            {"env": st.dictionaries(names, texts.map(lambda t: t.replace("\0", "")), max_size=3)}
        ),
    }
)


@given(configs)
@settings(max_examples=150, deadline=None)
def test_dump_and_load_give_the_same_configuration(data):
    config = Config.model_validate(data)
    text = dump_config(config)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "c.yaml")
        path.write_text(text, encoding="utf-8", newline="")
        assert load_config(path) == config
    assert_same(yaml.safe_load(text), config.model_dump())


def assert_same(a: Any, b: Any) -> None:
    """Compare what PyYAML reads as well: a dump must mean the same to readers of YAML 1.1."""
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, float):
        assert a == b
        assert math.copysign(1, a) == math.copysign(1, b)
    elif not isinstance(a, list):
        assert a == b


JARGON = re.compile(
    r"Input should|type=|(int|float|string|bool|dict|list|model)_type|Traceback|<class|pydantic|yaml\.|ValueError"
)


def load_or_refuse(content: bytes, overrides: Sequence[str] = ()) -> None:
    """Load `content`; anything but a Config or a readable ConfigError fails the test."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "c.yaml")
        path.write_bytes(content)
        try:
            load_config(path, overrides)
            problems = []
        except ConfigError as error:
            problems = error.problems or [Problem("")]
    for problem in problems:
        assert problem.message
        assert not JARGON.search(problem.message)
        assert len(str(problem).splitlines()) == 1
        str(problem).encode()


@given(st.binary(max_size=100))
@settings(max_examples=100, deadline=None)
def test_fuzz_bytes(content):
    load_or_refuse(content)


@given(
    st.integers(0, len(VALID)),
    st.integers(0, 40),
    st.text(max_size=8) | tricky | st.sampled_from(list("[]{}:&*!'\"\t\n%")),
)
@settings(max_examples=150, deadline=None)
def test_fuzz_spliced_text(start, length, insertion):
    load_or_refuse((VALID[:start] + insertion + VALID[start + length :]).encode())


paths = [f"{block}.{key}" for block, keys in yaml.safe_load(VALID).items() if isinstance(keys, dict) for key in keys]


@given(
    st.dictionaries(
        st.sampled_from([*paths, *yaml.safe_load(VALID), "optimizer.schedule_args.factor"]), plain, max_size=4
    )
)
@settings(max_examples=250, deadline=None)
def test_fuzz_values_of_any_type(values):
    dump = {key: yaml.safe_dump(value, default_flow_style=True, width=2**31) for key, value in values.items()}
    load_or_refuse(VALID.encode(), [f"{key}={text}" for key, text in dump.items()])


@given(st.lists(st.text(st.characters(), max_size=12) | st.tuples(texts, texts).map("=".join), max_size=2))
@settings(max_examples=100, deadline=None)
def test_fuzz_overrides(overrides):
    load_or_refuse(VALID.encode(), overrides)
