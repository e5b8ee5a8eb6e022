"""Containers around the ranks: the line that is composed, what is seen inside, and images that cannot work."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hvdtrain.config_file import load_config
from hvdtrain.doctor.container import judge_image
from hvdtrain.errors import ConfigError
from hvdtrain.lint import findings
from hvdtrain.schedulers.layout import make_layout
from tests.conftest import PROJECT
from tests.test_batch_script import LOCAL, recorded, rendered, run_under_stubs
from tests.test_lint import CONFIG, site

IMAGE = "container.image=/images/my own.sif"
WORKSHOP = "/ocean/containers/ngc/tensorflow/tensorflow_23.04-tf2-py3.sif"


@pytest.mark.parametrize("runtime", ["apptainer", "singularity"])
def test_srun_stands_outside_and_the_container_inside(tmp_path, runtime):
    result = run_under_stubs(rendered(IMAGE, f"container.runtime={runtime}", "container.binds=['/a b:/c']"), tmp_path)
    assert result.returncode == 0, result.stderr
    words = recorded(tmp_path / "srun")
    inside = words[words.index(runtime) :]
    run = str(tmp_path / "run")
    assert inside[:4] == [runtime, "exec", "--bind", run]
    assert inside[inside.index("/a b:/c") - 1] == "--bind"
    after_image = inside[inside.index("/images/my own.sif") + 1 :]
    assert after_image[0] == "env"
    assert after_image[-4:] == ["python3", "-m", "hvdtrain.train", run]


def test_mpirun_stands_outside_too(tmp_path):
    run_under_stubs(rendered(IMAGE, "launch.launcher=mpirun"), tmp_path)
    words = recorded(tmp_path / "mpirun")
    assert words.index("apptainer") < words.index("/images/my own.sif") < words.index("hvdtrain.train")


def test_pyxis_is_a_part_of_srun(tmp_path):
    overrides = ("container.image=nvcr.io#nvidia/tensorflow:25.02-tf2-py3", "container.runtime=pyxis")
    text = rendered(*overrides, "container.binds=['/d$(touch canary)\"a']")
    result = run_under_stubs(text, tmp_path)
    assert result.returncode == 0, result.stderr
    words = recorded(tmp_path / "srun")
    mounts = next(word for word in words if word.startswith("--container-mounts="))
    assert mounts.endswith('/d$(touch canary)"a:/d$(touch canary)"a')
    assert f"{tmp_path}/run:{tmp_path}/run" in mounts
    assert not (tmp_path / "canary").exists()


def test_the_hosts_python_does_not_leak_into_the_image():
    seen = rendered(IMAGE, "container.python_path=/pkgs")
    command = seen[seen.index(" env -u ") :].split(" </dev/null")[0].split(" -m ")[0]
    script = f"{command.replace('python3', sys.executable)} -c 'import json, os; print(json.dumps(dict(os.environ)))'"
    names = {"LD_LIBRARY_PATH": "/x", "VIRTUAL_ENV": "/x", "PYTHONPATH": "/x", "OPAL_PREFIX": "/x", "SLURM_PROCID": "0"}
    result = subprocess.run(["bash", "-c", script], env=names, capture_output=True, text=True, check=True)
    inside = json.loads(result.stdout)
    assert (inside["PYTHONPATH"], inside["PYTHONNOUSERSITE"], inside["SLURM_PROCID"]) == ("/pkgs", "1", "0")
    assert not {"LD_LIBRARY_PATH", "VIRTUAL_ENV", "OPAL_PREFIX"} & set(inside)


def test_gpus_are_shown_inside():
    assert "--nv" in rendered(IMAGE, site=site("bridges2"))
    assert "--nv" not in rendered(IMAGE)


@pytest.mark.parametrize("bad", ["relative/path", "/a,/etc:/etc", "/a\n/b"])
def test_a_bind_that_would_be_two_is_refused(bad):
    with pytest.raises(ConfigError, match="absolute path without commas"):
        rendered(IMAGE, f"container.binds=[{json.dumps(bad)}]")


def found(image: str, *overrides: str, where=LOCAL) -> tuple[list[str], list[str]]:
    config = load_config(CONFIG, [f"container.image={image}", *overrides])
    seen = list(findings(config, make_layout(config, where), run_folder="/x"))
    return [str(one.problem) for one in seen if one.is_error], [str(one.problem) for one in seen if not one.is_error]


def test_the_workshops_image_is_refused_with_the_reason():
    errors, _ = found(WORKSHOP)
    assert "23.04 has Keras 2 and Python 3.8" in errors[0]
    assert errors[0].startswith("container.image: ")


def test_a_newer_image_passes_marked_as_not_tried():
    errors, warnings = found("nvcr.io/nvidia/tensorflow:25.02-tf2-py3", "container.python_path=/pkgs")
    assert errors == []
    assert "was not tried" in warnings[0]


def test_pyxis_without_srun_is_refused():
    errors, _ = found("x", "container.runtime=pyxis", "launch.launcher=mpirun", "container.python_path=/p")
    assert "pyxis is a part of srun" in errors[0]


STUB = """#!/bin/bash
shift
while [ "$1" = --bind ]; do shift 2; done
shift
exec "$@"
"""


def doctor(tmp_path, *words: str) -> subprocess.CompletedProcess:
    """Look into this very environment, through a program that takes its options off and runs the rest."""
    (tmp_path / "apptainer").write_text(STUB)
    (tmp_path / "apptainer").chmod(0o755)
    environ = {**os.environ, "PATH": f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = [sys.executable, "-m", "hvdtrain", "doctor", "--in-container", *words]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.usefixtures("require_horovod")
def test_doctor_looks_into_an_image(tmp_path):
    result = doctor(tmp_path, "/images/mine.sif", "--python", sys.executable, "--python-path", str(PROJECT), "--json")
    assert result.returncode == 0, result.stdout + result.stderr
    seen = json.loads(result.stdout)
    assert {one["check"]: one["status"] for one in seen["findings"]} == dict.fromkeys(
        ("python", "tensorflow", "keras", "horovod", "hvdtrain", "xxhash", "google_crc32c", "mpi"), "ok"
    )


def test_an_old_image_is_refused_by_what_is_in_it():
    seen = {"python": "3.8.10", "tensorflow": "2.12.0", "keras": "2.12.0", "horovod": "0.26.1", "horovod gloo": True}
    seen |= {"hvdtrain error": "ModuleNotFoundError: no", "xxhash": "3", "google_crc32c": "1.9"}
    seen |= {"mpirun": "mpirun (Open MPI) 4.1.5"}
    findings = {one.check: one for one in judge_image(WORKSHOP, seen, host_mpi="mpirun (Open MPI) 5.0.1")}
    assert {name for name, one in findings.items() if one.status == "error"} == {
        "python", "tensorflow", "keras", "horovod", "hvdtrain", "image",
    }  # fmt: skip
    assert findings["mpi"].status == "warning"
    assert "native" in findings["mpi"].fix


def test_an_image_that_does_not_start_is_an_error_in_words(tmp_path):
    result = doctor(tmp_path, "/images/mine.sif", "--python", "/no/such/python")
    assert result.returncode == 3
    assert "does not start /no/such/python" in result.stderr
    assert "Traceback" not in result.stderr
