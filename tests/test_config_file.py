import os
import re

import pytest
import yaml
from click.testing import CliRunner

from hvdtrain.cli import cli
from hvdtrain.config import Config
from hvdtrain.config_file import load_config, parse_overrides
from hvdtrain.errors import ConfigError, ExitCode

VALID = """\
# a comment
name: digits
model:
  source: "hvdtrain.workshop.models:cnn_dropout"
  args:
    width: 8
data:
  source: hvdtrain.workshop.data:digits
  num_examples: 1437
  epoch_splitting: shard
  remainder: drop
training:
  epochs: 10
  batch_size_per_replica: 32
  gradient_accumulation_steps: 1
  precision: float32
  steps_per_execution: auto
  deterministic: false
  seed: 0
  max_minutes: null
optimizer:
  name: sgd
  learning_rate: 1e-2
  momentum: 0.9
  args: {nesterov: true}
  lr_scaling: linear
  warmup_epochs: 5
  schedule: cosine
  schedule_args:
    final_factor: 0.1
  clip: null
loss: sparse_categorical_crossentropy
metrics: [accuracy]
sync:
  check_every_steps: 200
  on_nonfinite: stop
checkpoint:
  every_epochs: 1
  keep: 3
  on_error: stop
launch:
  num_ranks: 2
  num_devices: auto
  strategy: auto
  launcher: auto
  max_restarts: 0
  pass_env: [HOME]
  env:
    OMP_NUM_THREADS: "1"
horovod:
  cycle_time_ms: auto
  fusion_threshold_mb: 64
  compression: none
slurm:
  site: null
  nodes: 1
  time_limit_min: 30
measure:
  seconds: 2.5
  warmup_steps: 20
  data: synthetic
timeline:
  first_step: 11
  last_step: 30
"""
LINES = VALID.splitlines()


@pytest.fixture
def load(tmp_path):
    """Return a function that loads text or bytes from a file named c.yaml."""

    def load_text(content: str | bytes, *overrides: str) -> Config:
        path = tmp_path / "c.yaml"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return load_config(path, overrides)

    return load_text


@pytest.fixture
def refused(load, tmp_path):
    """Return a function that gives the lines of the ConfigError for some text, without the folder."""

    def messages(content: str | bytes, *overrides: str) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            load(content, *overrides)
        assert caught.value.exit_code == ExitCode.CONFIG
        return str(caught.value).replace(f"{tmp_path}/", "").splitlines()

    return messages


def test_a_full_configuration(load):
    config = load(VALID)
    assert config.optimizer.learning_rate == 0.01
    assert config.model.args == {"width": 8}
    assert config.launch.env == {"OMP_NUM_THREADS": "1"}


def test_committed_configurations_load(project):
    paths = sorted((project / "configs").glob("*.yaml"))
    assert paths
    for path in paths:
        load_config(path)


def test_every_problem_at_once_in_the_order_of_the_file(refused):
    text = VALID.replace("batch_size_per_replica: 32", "batch_size_per_repilca: 32").replace("nodes: 1", "nodes: many")
    text = text.replace("lr_scaling: linear", "lr_scaling: liner").replace("shard", "no").replace("keep: 3", "keep: 0")
    assert refused(text, "training.epochs=abc", "optimizer.clip=-1") == [
        "c.yaml:10: data.epoch_splitting: 'no' means false to some YAML readers and text to others; write false, "
        'or "no" in quotes for text',
        "c.yaml:14: training.batch_size_per_repilca: unknown key; did you mean 'batch_size_per_replica'?",
        "c.yaml:26: optimizer.lr_scaling: must be one of 'none', 'sqrt', 'linear'; got 'liner'; did you mean 'linear'?",
        "c.yaml:39: checkpoint.keep: must be a whole number >= 1; got 0",
        "c.yaml:56: slurm.nodes: must be a whole number >= 1; got 'many'",
        "--set training.epochs=abc: training.epochs: must be a whole number >= 1 or null; got 'abc'",
        "--set optimizer.clip=-1: optimizer.clip: must be greater than 0; got -1",
    ]


def test_duplicate_keys_name_both_lines(refused):
    text = VALID.replace("  seed: 0\n", "  seed: 0\n  epochs: 3\n")
    assert refused(text) == ["c.yaml:20: training.epochs: given twice, also on line 13; remove one of the two"]


def test_rules_are_placed_at_a_key_that_was_given(refused):
    [message] = refused(VALID.replace("strategy: auto", "strategy: mirrored"))
    assert message.startswith("c.yaml:42: launch.num_ranks: strategy 'mirrored' has one process")
    [message] = refused(VALID.replace("  epochs: 10\n", ""))
    assert message == "c.yaml:12: training.epochs: give either epochs or steps; got neither"
    [message] = refused(VALID, "training.steps=5")
    assert message.startswith("--set training.steps=5: training.steps: give either epochs or steps, not both")


def test_a_syntax_error_comes_with_the_flaws_before_it(refused):
    assert [line.split(": ")[0] for line in refused("name: &x a\nloss: 'b\n", "training.epochs")] == [
        "c.yaml:1",
        "c.yaml:2",
        "--set training.epochs",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "c.yaml: the configuration is empty; it needs at least name, model, data, training"),
        ("# only a comment\n", "c.yaml: the configuration is empty; it needs at least name, model, data, training"),
        ("- a\n", "c.yaml:1: the top level must be 'key: value' lines with at least name, model, data, "
            "training; got a list"),
        ("hello\n", "c.yaml:1: the top level must be 'key: value' lines with at least name, model, data, "
            "training; got 'hello'"),
        (b"\x89PNG\r\n\0\0", "c.yaml: a binary file; a configuration is YAML text in UTF-8"),
        (b"name: a\nloss: \xff\n", "c.yaml:2: not UTF-8 text; save the file in the encoding UTF-8"),
        (VALID.encode("utf-16"), "c.yaml: a binary file; a configuration is YAML text in UTF-8"),
        (b"#" * (2**18 + 1), "c.yaml: larger than 256 KiB; this cannot be a configuration"),
        ("a: " + "[" * 5000, "c.yaml:1: nested more than 32 levels deep"),
    ],
)  # fmt: skip
def test_files_that_are_no_configuration(refused, content, message):
    assert refused(content) == [message]


def test_a_byte_order_mark_and_windows_line_ends_are_fine(load):
    assert load(b"\xef\xbb\xbf" + VALID.replace("\n", "\r\n").encode()) == load(VALID)


def test_paths_that_cannot_be_read(tmp_path):
    for path, words in [
        (tmp_path / "none.yaml", "none.yaml: there is no such file"),
        (tmp_path, "this is a directory"),
        (tmp_path / ("x" * 999), "cannot be read"),
        ("a\0b", "cannot be the path of a file"),
        (os.fsdecode(b"bad-\xff.yaml"), "bad-\\udcff.yaml: there is no such file"),
    ]:
        with pytest.raises(ConfigError, match=re.escape(words)) as caught:
            load_config(path)
        str(caught.value).encode()


def test_a_flood_of_problems_is_cut_short_and_quick(refused):
    messages = refused(VALID + "zzz: [" + "*a, 3, " * 5000 + "]\n" + "metrics: [" + "1, " * 5000 + "]\n")
    assert len(messages) == 101
    assert messages[-1].endswith("further problems")


# -- --set --------------------------------------------------------------------------------------


def test_overrides_win_and_the_last_one_wins(load):
    config = load(VALID, "training.epochs=3", "training.epochs=4", "optimizer.args={}", "model.args.depth=2")
    assert config.training.epochs == 4
    assert config.optimizer.args == {}
    assert config.model.args == {"width": 8, "depth": 2}


def test_an_override_replaces_a_wrong_value_and_makes_missing_blocks(load):
    text = VALID.replace("epochs: 10", "epochs: ten").replace(
        "slurm:\n  site: null\n  nodes: 1\n  time_limit_min: 30\n", ""
    )
    config = load(text, "training.epochs=3", "slurm.nodes=2", "slurm.site='17'")
    assert (config.training.epochs, config.slurm.nodes, config.slurm.site) == (3, 2, "17")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("training.epochs", "must have the form key=value"),
        ("=3", "must have the form key=value"),
        ("training..epochs=3", "must have the form key=value"),
        ("training. epochs=3", "must have the form key=value"),
        ("training.epochs=", "no value after '='; for nothing write training.epochs=null"),
        ("training.epochs=#3", "no value after '='"),
        ("training.epochs=[1", "lacks a ',' or its closing ']'"),
        ("training.deterministic=yes", "write true"),
        ("training.epohcs=3", "training.epohcs: unknown key; did you mean 'epochs'?"),
        ("trainin.epochs=3", "trainin: unknown key; did you mean 'training'?"),
        ("metrics.0=mae", "metrics is not a block of keys; set it as a whole"),
        ("optimizer={nmae: sgd}", "optimizer.nmae: unknown key; did you mean 'name'?"),
        ("name=\udcff", "not valid UTF-8"),
        ("model.args.x=.nan", "must be a finite number"),
        ("model.args.x=*a", "anchors and aliases"),
    ],
)
def test_wrong_overrides_are_placed_at_the_setting(refused, setting, words):
    [message] = refused(VALID, setting)
    assert message.startswith("--set " + setting.replace("\udcff", "\\udcff") + ": ")
    assert words in message


def test_override_values_are_yaml():
    texts = ["a=1e-3", "a=true", "a=null", "a=[x, {y: 2}]", "a='8'", "a=b=c", "a=pkg.m:f"]
    assert [override.value for override in parse_overrides(texts)] == [
        1e-3, True, None, ["x", {"y": 2}], "8", "b=c", "pkg.m:f",
    ]  # fmt: skip


# -- the corpus of mutations --------------------------------------------------------------------


def mutations():
    """Yield (mutated text, the line where the problem is) from VALID: one mistake each."""
    free = range(LINES.index("    width: 8"), LINES.index("    width: 8") + 1)
    for i, line in enumerate(LINES):
        match = re.fullmatch(r"( *)(\w+):( ?)(.*)", line)
        if not match:
            continue
        indent, key, space, value = match.groups()
        number = i + 1
        is_checked = i not in free and key not in ("OMP_NUM_THREADS", "nesterov")

        def changed(*new: str, at: int = i) -> str:
            return "\n".join([*LINES[:at], *new, *LINES[at + 1 :]]) + "\n"

        if is_checked:
            yield changed(f"{indent}{key[:1]}{key[2:]}:{space}{value}"), number
            yield changed(f"{indent}zzz_{key}: 1", line), number
        if value:
            yield changed(line, line), number + 1
            yield changed(f"{indent}{key}: !!python/object/apply:os.system [ls]"), number
            yield changed(f"{indent}{key}: 1:30"), number
            yield changed(f"{indent}{key}: *anchor"), number
            yield changed(f"{indent}{key}: 'unclosed"), number
            yield changed(f"\t{key}: {value}"), number
        if value and is_checked:
            yield changed(f"{indent}{key}: [1, {{a: 2}}]"), number
            yield changed(f"{indent}{key}: -1"), number


def test_the_corpus_of_mutations_is_refused_at_the_right_line(load):
    corpus = list(mutations())
    assert len(corpus) > 200
    for text, line in corpus:
        with pytest.raises(ConfigError) as caught:
            load(text)
        problems = caught.value.problems
        assert [p.line for p in problems if p.line == line], f"expected line {line}: {problems}\n{text}"
        assert len({p.line for p in problems}) <= 2, problems


def test_hvdtrain_schema_prints_the_schema():
    result = CliRunner().invoke(cli, ["schema"])
    assert result.exit_code == 0
    assert yaml.safe_load(result.stdout)["title"] == "hvdtrain configuration"
