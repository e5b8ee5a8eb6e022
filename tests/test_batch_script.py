"""Batch scripts on text and under stub programs: what they ask for, what ranks see, how they stop and requeue."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hvdtrain.config_file import load_config
from hvdtrain.errors import ConfigError
from hvdtrain.facts import assumed_facts
from hvdtrain.prepare import prepare
from hvdtrain.sites import load_site
from hvdtrain.submit import array_indices
from tests.conftest import PROJECT

CONFIG = str(PROJECT / "configs" / "digits_cnn.yaml")
LOCAL = load_site(str(PROJECT / "configs" / "sites" / "local-cluster.yaml"), {})


def rendered(*overrides: str, explain: bool = False, site=LOCAL) -> str:
    return prepare(CONFIG, assumed_facts(), overrides=overrides, site=site).text(explain=explain)


def directives(text: str) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH ")]


def test_two_nodes_ask_for_two_nodes():
    found = directives(rendered("slurm.nodes=2"))
    assert {"--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1", "--partition=main", "--time=30"} <= set(found)
    assert "--signal=B:USR1@120" in found, "the batch shell alone is told, not the ranks"
    assert {"--requeue", "--open-mode=append"} <= set(found)


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("slurm.account=abc123", "--account=abc123"),
        ("slurm.qos=regular", "--qos=regular"),
        ("slurm.reservation=school", "--reservation=school"),
        ("slurm.constraint=a100&nvme", "--constraint=a100&nvme"),
        ("slurm.memory=16G", "--mem=16G"),
        ("slurm.exclusive=true", "--exclusive"),
        ("slurm.dependency=afterok:12:13", "--dependency=afterok:12:13"),
        ("slurm.array=0-2", "--array=0-2"),
        ("slurm.mail_user=me@example.org", "--mail-user=me@example.org"),
        ("slurm.mail_type=[END, FAIL]", "--mail-type=END,FAIL"),
        ("slurm.work_dir=/scratch/me", "--chdir=/scratch/me"),
        ("slurm.options={licenses: 'matlab:1'}", "--licenses=matlab:1"),
        ("slurm.options={overcommit: null}", "--overcommit"),
        ("slurm.max_requeues=0", "--no-requeue"),
        ("slurm.stop_lead_s=300", "--signal=B:USR1@300"),
        ("slurm.partition=urgent", "--partition=urgent"),
        ("slurm.cpus_per_rank=2", "--cpus-per-task=2"),
    ],
)
def test_each_key_becomes_its_line(override, line):
    assert line in directives(rendered(override))


def test_gpus_are_asked_for_per_node_and_by_type():
    site = load_site(str(PROJECT / "configs" / "sites" / "bridges2.yaml"), {})
    more = ("launch.num_ranks=16", "slurm.nodes=2", "slurm.gpu_type=v100-32")
    assert "--gpus-per-node=v100-32:8" in directives(rendered(*more, site=site))
    by_gres = site.model_copy(update={"gpu_option": "gres"})
    assert "--gres=gpu:v100-32:8" in directives(rendered(*more, site=by_gres))


def test_every_line_of_a_job_has_a_reason():
    lines = rendered("slurm.nodes=2", "slurm.account=x", explain=True).splitlines()
    for i, line in enumerate(lines):
        if line.startswith("#SBATCH"):
            assert re.match(r"# \S", lines[i - 1]), line


def test_no_line_asks_slurm_for_something_after_the_head():
    text = rendered("slurm.prologue=['#SBATCH --account=thief']")
    head = text[: text.index("set -uo pipefail")]
    assert "thief" not in head, "Slurm reads no #SBATCH line after the first command"


@pytest.mark.parametrize("text", ["0-2", "1,3,5", "0-9%2", "0-8:4", "7"])
def test_indices_of_arrays(text):
    spans = {"0-2": [0, 1, 2], "1,3,5": [1, 3, 5], "0-9%2": [*range(10)], "0-8:4": [0, 4, 8], "7": [7]}
    assert array_indices(text) == spans[text]


# -- hostile text -------------------------------------------------------------------------------

THIEF = "#SBATCH --account=thief"
EXAMPLES = (
    f"a\n{THIEF}", "$(touch canary)", "`touch canary`", "'; touch canary; '", '"; touch canary; "', "-x", THIEF, "%j",
    "../../up", f"a\u2028{THIEF}", "a\x85touch canary", "a b", "--wrap=touch canary", "${IFS}touch${IFS}canary",
    "a;touch canary", "a|touch canary", "a&touch canary",
)  # fmt: skip
LETTERS = st.one_of(st.sampled_from("'\"`$(){};|&<>\\\n\r\t #!*?~-=%./"), st.characters(exclude_categories=["Cs"]))
HOSTILE = st.one_of(st.sampled_from(EXAMPLES), st.text(LETTERS, min_size=1, max_size=25))
FIELDS = (
    "account", "partition", "qos", "reservation", "constraint", "dependency", "mail_user", "gpu_type", "cpu_bind",
    "gpu_bind", "work_dir", "memory", "array",
)  # fmt: skip
STUB = """#!/bin/bash
printf '%s\\0' "$@" > "$RECORD/$(basename "$0")"
"""


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(field=st.sampled_from([*FIELDS, "name", "modules", "options", "env", "model_args"]), text=HOSTILE)
def test_hostile_text_asks_for_nothing_else(tmp_path, field, text):
    """What can be represented is represented; the rest is an error of the configuration. Never a third thing."""
    value = json.dumps(text)
    override = {
        "name": f"name={value}",
        "modules": f"slurm.modules=[{value}]",
        "options": f"slurm.options={{licenses: {value}}}",
        "env": f"launch.env={{MINE: {value}}}",
        "model_args": f"model.args={{x: {value}}}",
    }.get(field, f"slurm.{field}={value}")
    site = LOCAL.model_copy(
        update={"partitions": {**LOCAL.partitions, text: LOCAL.partitions["main"]}} if field == "partition" else {}
    )
    plain = rendered()
    try:
        found = rendered(override, site=site)
    except ConfigError:
        return
    extra = [line for line in directives(found) if line not in directives(plain)]
    assert len(extra) <= 1, extra
    own_lines = text.count("\n") + (12 if field == "modules" else 4)
    assert found.count("\n") <= plain.count("\n") + own_lines
    syntax = subprocess.run(["bash", "-n"], input=found, text=True, capture_output=True, check=False)
    assert syntax.returncode == 0, syntax.stderr
    if field in ("env", "modules", "cpu_bind", "gpu_bind"):  # these reach the shell's own text
        run_under_stubs(found, tmp_path)
        assert not (tmp_path / "canary").exists()


def test_control_a_naive_template_fails_the_same_check():
    """What the check above is for: text put into a script as it is asks for more, or runs."""
    plain = rendered()
    naive = [plain.replace("#SBATCH --nodes=1", f"#SBATCH --account={text}\n#SBATCH --nodes=1") for text in EXAMPLES]
    extra = [[line for line in directives(text) if line not in directives(plain)] for text in naive]
    assert any(len(lines) > 1 for lines in extra)
    assert any("thief" in line for lines in extra for line in lines)


def test_most_ordinary_text_can_be_represented():
    """The check above would also pass if everything were refused."""
    for word in ("abc_123", "a100&nvme", "afterok:12", "me@example.org", "[gpu|cpu]", "prj-7.x"):
        assert f"--account={word}" in directives(rendered(f"slurm.account={json.dumps(word)}"))


def run_under_stubs(text: str, folder: Path, **environ: str) -> subprocess.CompletedProcess:
    """Run a batch script with programs that only note what they are given."""
    tools = folder / "tools"
    tools.mkdir(exist_ok=True)
    for program in ("srun", "mpirun", "scontrol", "squeue", "python"):
        (tools / program).write_text(STUB)
        (tools / program).chmod(0o755)
    run = folder / "run"
    run.mkdir(exist_ok=True)
    seen = {"PATH": f"{tools}:/usr/bin:/bin", "RECORD": str(folder), "HVDTRAIN_PYTHON": "python", "SLURM_JOB_ID": "7"}
    body = re.sub(r"^keep=\"", 'keep=" RECORD', text, count=1, flags=re.MULTILINE)
    return subprocess.run(
        ["bash", "-c", body, "script", str(run)],
        env={**seen, **environ},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def recorded(place: Path) -> list[str]:
    return place.read_text().split("\0")[:-1]


def test_srun_is_given_what_was_planned(tmp_path):
    result = run_under_stubs(rendered("slurm.nodes=2"), tmp_path)
    assert result.returncode == 0, result.stderr
    words = recorded(tmp_path / "srun")
    assert words[:2] == ["--nodes=2", "--ntasks=2"]
    assert "--mpi=pmix" in words
    assert words[-4:] == ["python", "-m", "hvdtrain.train", str(tmp_path / "run")]


def test_values_of_variables_arrive_as_they_are(tmp_path):
    value = "two\nlines $(touch canary) 'and' \"quotes\""
    spy = '"${launch[@]}"'
    text = rendered(f"launch.env={{MINE: {json.dumps(value)}}}")
    text = text.replace(spy, 'printf %s "$MINE" > "$RECORD/mine"; ' + spy)
    result = run_under_stubs(text, tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "mine").read_text() == value
    assert not (tmp_path / "canary").exists()


def test_no_secret_of_the_job_reaches_ranks(tmp_path):
    spy = '"${launch[@]}"'
    text = rendered("launch.pass_env=[WANTED]").replace(spy, 'env -0 > "$RECORD/env"; ' + spy)
    secrets = {
        "AWS_SECRET_ACCESS_KEY": "canary", "SLURM_JWT": "canary", "GITHUB_TOKEN": "canary", "WANTED": "wanted",
        "SLURM_NODELIST": "node1", "BASH_FUNC_evil%%": "() { echo canary; }",
    }  # fmt: skip
    result = run_under_stubs(text, tmp_path, **secrets)
    assert result.returncode == 0, result.stderr
    seen = (tmp_path / "env").read_text()
    assert "canary" not in seen
    assert "WANTED=wanted" in seen
    assert "SLURM_NODELIST=node1" in seen, "srun and the ranks need what Slurm says"


@pytest.mark.parametrize("name", ["python", "run_dir", "keep", "name", "launch", "rank_env", "job", "step", "code"])
def test_what_the_environment_calls_like_a_variable_of_the_script_does_no_harm(tmp_path, name):
    result = run_under_stubs(rendered(), tmp_path, **{name: "theirs"})
    assert result.returncode == 0, result.stderr
    assert recorded(tmp_path / "srun")[-1] == str(tmp_path / "run")


def test_scripts_are_clean():
    tool = Path(sys.executable).with_name("shellcheck")
    for overrides in ((), ("slurm.array=0-2",), ("launch.launcher=native",), ("launch.launcher=mpirun",)):
        for explain in (False, True):
            text = rendered(*overrides, explain=explain)
            result = subprocess.run([tool, "-"], input=text, capture_output=True, text=True, check=False)
            assert result.returncode == 0, result.stdout


def test_a_config_of_one_node_still_plans_for_its_ranks():
    config = load_config(CONFIG)
    assert config.launch.num_ranks == 2
    assert "--ntasks-per-node=2" in directives(rendered())


@pytest.mark.parametrize("text", ["0-2-4", "5-2", "0-4:0", "0-99999999", "1,,2", "a", "0-5000"])
def test_arrays_that_make_no_sense_are_refused(text):
    def submit() -> None:
        rendered(f"slurm.array='{text}'")
        array_indices(text)

    with pytest.raises(ConfigError, match=r"slurm\.array"):
        submit()
