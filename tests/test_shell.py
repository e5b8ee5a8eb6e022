import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hvdtrain.errors import ConfigError
from hvdtrain.launch import LAUNCHERS, LaunchRequest
from hvdtrain.launch.request import Setting
from hvdtrain.launch.shell import Script, comment, quote, script_text

HOSTILE = st.text(
    alphabet=st.one_of(st.sampled_from("'\"`$(){};|&<>\\\n\r\t #!*?~-="), st.characters(exclude_categories=["Cs"])),
    max_size=30,
).filter(lambda text: "\0" not in text)


@settings(max_examples=40, deadline=None)
@given(st.lists(HOSTILE, min_size=1, max_size=20))
def test_bash_reads_back_exactly_what_was_quoted(tokens):
    line = "printf '%s\\0' " + " ".join(quote(token) for token in tokens)
    result = subprocess.run(["bash", "-c", line], capture_output=True, check=True)
    assert result.stdout.decode().split("\0")[:-1] == tokens


def test_nul_is_refused():
    with pytest.raises(ConfigError, match="NUL"):
        quote("a\0b")


@given(st.text(max_size=200))
def test_a_comment_is_one_line(text):
    assert len(comment(text).splitlines()) == 1
    assert comment(text).startswith("# ")


@settings(max_examples=25, deadline=None)
@given(HOSTILE, HOSTILE, HOSTILE)
def test_a_script_runs_what_was_asked_and_nothing_else(tmp_path_factory, title, argument, value):
    folder = tmp_path_factory.mktemp("script")
    script = Script(
        title=title,
        origin=title,
        env=(Setting((f"CHOSEN={value}",), title),),
        command=("bash", "-c", 'printf "%s\\0%s\\0" "$CHOSEN" "$1"', "bash", argument),
    )
    for explain in (False, True):
        text = script_text(script, explain=explain)
        result = subprocess.run(["bash", "-c", text], capture_output=True, cwd=folder, check=True)
        assert result.stdout.decode() == f"{value}\0{argument}\0"
    assert list(folder.iterdir()) == [], "nothing else ran"


def test_ranks_see_only_named_variables(monkeypatch):
    monkeypatch.setenv("MY_SECRET", "canary")
    monkeypatch.setenv("MY_CHOICE", "two\nlines")
    script = Script(title="t", origin="o", pass_names=("MY_CHOICE",), command=("env", "-0"))
    result = subprocess.run(["bash", "-c", script_text(script)], capture_output=True, check=True)
    seen = dict(pair.split("=", 1) for pair in result.stdout.decode().split("\0") if "=" in pair)
    assert seen["MY_CHOICE"] == "two\nlines"
    assert "MY_SECRET" not in seen
    assert "PATH" in seen


def tokens(name: str, num_ranks: int, num_cores: int) -> list[str]:
    settings = LAUNCHERS[name].tokens(LaunchRequest(num_ranks, num_cores))
    assert all(setting.reason for setting in settings)
    return [token for setting in settings for token in setting.tokens]


def test_open_mpi_dialects_differ_where_the_versions_do():
    assert tokens("openmpi5", 4, 2)[:3] == ["mpirun", "--np", "4"]
    assert ":OVERSUBSCRIBE" in tokens("openmpi5", 4, 2)
    assert "--oversubscribe" in tokens("openmpi4", 4, 2)
    assert "--oversubscribe" not in tokens("openmpi4", 2, 2)


def test_waiting_ranks_yield_only_where_they_fill_the_cores():
    assert "mpi_yield_when_idle" in tokens("openmpi5", 2, 2)
    assert "mpi_yield_when_idle" not in tokens("openmpi5", 2, 8)


def test_no_launcher_is_no_token():
    assert tokens("none", 1, 8) == []
