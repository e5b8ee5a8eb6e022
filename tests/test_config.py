import copy
import json
from typing import Any

import pytest
from pydantic import ValidationError

from hvdtrain.config import Config
from hvdtrain.config_file import config_schema
from hvdtrain.config_problems import complaints, describe
from hvdtrain.errors import ConfigError

VALID: dict[str, Any] = {
    "name": "digits",
    "model": {"source": "pkg.models:build"},
    "data": {"source": "pkg.data:load"},
    "training": {"epochs": 2, "batch_size_per_replica": 32},
}


def with_settings(**settings: Any) -> dict[str, Any]:
    """Return VALID with settings such as training__steps=5 on top."""
    data = copy.deepcopy(VALID)
    for name, value in settings.items():
        *blocks, key = name.split("__")
        block = data
        for part in blocks:
            block = block.setdefault(part, {})
        block[key] = value
    return data


def refused(**settings: Any) -> str:
    """Return what is said about VALID with `settings`, as `key: message` lines."""
    data = with_settings(**settings)
    try:
        Config.model_validate(data)
    except ConfigError as error:
        return str(error)
    except ValidationError as error:
        return "\n".join(f"{'.'.join(map(str, found.keys))}: {found.message}" for found in complaints(error))
    return ""


def test_the_smallest_configuration_and_its_defaults():
    config = Config.model_validate(VALID)
    assert config.optimizer.name == "sgd"
    assert config.metrics == ["accuracy"]
    assert config.launch.num_ranks is None
    assert config.checkpoint.every_epochs == 1


@pytest.mark.parametrize(
    "settings",
    [
        {"training__epochs": None, "training__steps": 100},
        {"training__batch_size_per_replica": None, "training__global_batch_size": 64},
        {"training__gradient_accumulation_steps": 4},
        {"checkpoint__every_epochs": None},
        {"optimizer__name": "AdamW"},
        {"optimizer__momentum": 0},
        {"optimizer__name": "RMSprop", "optimizer__momentum": 0.9},
        {"optimizer__learning_rate": 1},
        {"launch__num_ranks": 4, "launch__launcher": "mpirun"},
        {"launch__num_ranks": 1, "launch__strategy": "single"},
        {"launch__num_devices": 2, "launch__strategy": "mirrored"},
        {"launch__pass_env": ["HOME"], "launch__env": {"OMP_NUM_THREADS": "1"}},
        {"optimizer__schedule": "step", "optimizer__schedule_args": {"boundaries_epochs": [1, 2.5], "factor": 0.5}},
        {"optimizer__schedule": "cosine", "optimizer__schedule_args": {"final_factor": 0}},
        {"optimizer__schedule": "one_cycle", "optimizer__schedule_args": {"warmup_fraction": 0.2, "final_factor": 1}},
        {"optimizer__schedule": "polynomial", "optimizer__schedule_args": {"power": 2}},
        {"model__source": "a_1.b2:Class.method"},
        {"model__args": {"layers": [1, {"x": None}]}},
    ],
)
def test_allowed(settings):
    assert refused(**settings) == ""


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"training__epochs": None}, "training.epochs: give either epochs or steps; got neither"),
        ({"training__steps": 5}, "not both; got epochs 2 and steps 5"),
        ({"training__batch_size_per_replica": None}, "batch_size_per_replica or global_batch_size; got neither"),
        ({"training__global_batch_size": 64}, "not both; got batch_size_per_replica 32 and global_batch_size 64"),
        ({"launch__num_ranks": 2, "launch__strategy": "mirrored"}, "num_ranks must be 1 or null; got 2; for several"),
        ({"launch__num_ranks": 2, "launch__strategy": "single"}, "'single' has one process, so num_ranks must be 1"),
        ({"launch__num_ranks": 2, "launch__launcher": "none"}, "launcher 'none' starts one rank, but num_ranks is 2"),
        ({"launch__launcher": "mpirun", "launch__strategy": "mirrored"}, "which needs no mpirun"),
        ({"launch__launcher": "mpirun", "launch__strategy": "single"}, "which needs no mpirun"),
        ({"launch__num_devices": 2, "launch__strategy": "horovod"}, "set launch.num_ranks instead"),
        ({"launch__num_devices": 2, "launch__strategy": "single"}, "use strategy 'mirrored' for several"),
        ({"launch__pass_env": ["A"], "launch__env": {"A": "1"}}, "A: either passed on or set in launch.env, not both"),
        ({"launch__pass_env": ["A", "A"]}, "got 'A' more than once"),
        ({"metrics": ["accuracy", "accuracy"]}, "got 'accuracy' more than once"),
        ({"optimizer__name": "adam", "optimizer__momentum": 0.9}, "adam takes no momentum (only sgd and rmsprop do)"),
        ({"optimizer__schedule": "one_cycle", "optimizer__warmup_epochs": 1}, "set warmup_epochs to 0"),
        (
            {"sync__on_nonfinite": "skip", "training__gradient_accumulation_steps": 2},
            "sync.on_nonfinite: 'skip' does not go with gradient_accumulation_steps 2",
        ),
        (
            {"sync__on_nonfinite": "skip", "launch__strategy": "mirrored"},
            "'skip' needs the averaged gradients, which MirroredStrategy keeps to itself; use 'stop'",
        ),
        ({"optimizer__args": {"learning_rate": 1}}, "learning_rate (set optimizer.learning_rate instead)"),
        ({"optimizer__schedule": "step"}, "needs schedule_args.boundaries_epochs"),
        ({"optimizer__schedule_args": {"factor": 0.1}}, "schedule 'constant' has no such argument; it takes none"),
        (
            {"optimizer__schedule": "cosine", "optimizer__schedule_args": {"final_facter": 0}},
            "schedule_args.final_facter: schedule 'cosine' has no such argument; did you mean 'final_factor'?",
        ),
        (
            {"optimizer__schedule": "step", "optimizer__schedule_args": {"boundaries_epochs": [2, 1]}},
            "must be a list of increasing numbers of epochs greater than 0; got [2, 1]",
        ),
        (
            {"optimizer__schedule": "step", "optimizer__schedule_args": {"boundaries_epochs": [1], "factor": 1}},
            "must be a number between 0 and 1; got 1",
        ),
        (
            {"optimizer__schedule": "polynomial", "optimizer__schedule_args": {"power": True}},
            "must be a number greater than 0; got true",
        ),
    ],
)
def test_settings_that_do_not_go_together(settings, words):
    message = refused(**settings)
    assert words in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"training__epochs": "many"}, "training.epochs: must be a whole number >= 1 or null; got 'many'"),
        ({"training__epochs": True}, "training.epochs: must be a whole number >= 1 or null; got true"),
        ({"training__epochs": 0}, "training.epochs: must be a whole number >= 1 or null; got 0"),
        ({"training__epochs": 2.0}, "training.epochs: must be a whole number >= 1 or null; got 2.0; write 2"),
        (
            {"checkpoint__keep": "8"},
            "checkpoint.keep: must be a whole number >= 1; got the text '8'; remove the quotes",
        ),
        ({"optimizer__learning_rate": -0.1}, "optimizer.learning_rate: must be greater than 0; got -0.1"),
        (
            {"optimizer__learning_rate": "0.1"},
            "optimizer.learning_rate: must be a number > 0; got the text '0.1'; remove the quotes",
        ),
        ({"optimizer__learning_rate": True}, "optimizer.learning_rate: must be a number > 0; got true"),
        ({"optimizer__momentum": 1}, "optimizer.momentum: must be a number >= 0 and < 1 or null; got 1"),
        (
            {"optimizer__lr_scaling": "liner"},
            "optimizer.lr_scaling: must be one of 'none', 'sqrt', 'linear'; got 'liner'; did you mean 'linear'?",
        ),
        (
            {"training__steps_per_execution": "a"},
            "training.steps_per_execution: must be a whole number >= 1 or 'auto'; got 'a'",
        ),
        (
            {"training__deterministic": "true"},
            "training.deterministic: must be true or false; got the text 'true'; remove the quotes",
        ),
        ({"training__deterministic": 1}, "training.deterministic: must be true or false; got 1"),
        ({"launch__max_restarts": 3}, "launch.max_restarts: must be 0; got 3"),
        ({"data__remainder": "fill"}, "data.remainder: must be one of 'drop', 'pad'; got 'fill'"),
        (
            {"name": 2024},
            "name: must be 1 to 64 letters, digits, '.', '_' or '-', the first a letter or digit; got 2024; "
            "put it in quotes (\"2024\") if it is meant as text",
        ),
        (
            {"model__source": "pkg.models"},
            "model.source: must be an import path of the form 'package.module:function'; got 'pkg.models'",
        ),
        ({"training": 3}, "training: must be a block of 'key: value' lines; got 3"),
        ({"metrics": "accuracy"}, "metrics: must be a list such as [a, b]; got 'accuracy'"),
        ({"loss": ""}, "loss: must be text, not empty; got ''"),
        (
            {"launch__env": {"A": 1}},
            'launch.env.A: must be text without NUL characters; got 1; put it in quotes ("1") if it is '
            'meant as text',
        ),
        ({"launch__env": {"A": "\0"}}, "launch.env.A: must be text without NUL characters; got '\\x00'"),
        (
            {"launch__foo": 1},
            "launch.foo: unknown key; valid keys: num_ranks, num_devices, cores_per_rank, threads_per_rank, "
            "yield_when_idle, strategy, launcher, hostfile, max_restarts, "
            "pass_env, env",
        ),
        ({"training__epohcs": 1}, "training.epohcs: unknown key; did you mean 'epochs'?"),
        ({"model__args": {"x": {"y": float("nan")}}}, "model.args: numbers must be finite; got nan at 'y'"),
        ({"model__args": {1: 2}}, "model.args: the key 1 must be text"),
    ],
)  # fmt: skip
def test_messages(settings, message):
    assert refused(**settings) == message


def test_names_of_environment_variables():
    assert "B-C" in refused(launch__env={"B-C": "x"})
    assert "name of an environment variable" in refused(launch__pass_env=["1A"])


@pytest.mark.parametrize(
    "source", ["", "a", "a:", ":a", "a:b:c", "a.b", "a..b:c", "1a:b", "a:b-c", "a b:c", "a:b\n", "./m.py:f"]
)
def test_import_paths_are_checked(source):
    assert "import path" in refused(data__source=source)


def test_a_misspelled_required_key_is_said_once():
    assert refused(model={"soruce": "a:b"}) == "model.soruce: unknown key; did you mean 'source'?"


def test_missing_keys():
    with pytest.raises(ValidationError) as caught:
        Config.model_validate({"name": "x", "model": {}})
    found = {found.keys: found.message for found in complaints(caught.value)}
    assert found == {
        ("model", "source"): "missing; it must be an import path of the form 'package.module:function'",
        ("data",): "missing; give a block with source",
        ("training",): "missing; give a block with epochs, steps, batch_size_per_replica, global_batch_size",
    }


def test_every_key_is_described_in_the_json_schema():
    schema = config_schema()
    json.dumps(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    for block in (schema, *schema["$defs"].values()):
        assert block["description"]
        for key, prop in block["properties"].items():
            assert "description" in prop or "$ref" in prop, key


def test_every_kind_of_value_is_described_in_words():
    schema = config_schema()
    for block in (schema, *schema["$defs"].values()):
        for key, prop in block["properties"].items():
            if "$ref" not in prop:
                assert "something else" not in describe(prop), key
                assert "text that matches" not in describe(prop), key
