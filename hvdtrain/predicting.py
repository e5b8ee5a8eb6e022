"""What `hvdtrain predict` does outside the workers: names checked, ranks started. Must not import TensorFlow."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from hvdtrain import jobs
from hvdtrain.errors import ConfigError, ExitCode, NotFoundError
from hvdtrain.facts import gather_facts
from hvdtrain.launch.shell import script_text
from hvdtrain.rundir import RunDir, find_run, read_json
from hvdtrain.runner import execute, rank_environment

INPUTS = (".npy", ".npz", ".csv")
OUTPUTS = (".npy", ".csv")


def predict_run(
    name: str, runs_root: Path, source: Path, *, output: Path | None, num_ranks: int, header: str, force: bool
) -> dict[str, Any]:
    """Let a run's newest checkpoint predict; return path, rows, step and notes.

    Raises:
        NotFoundError: If there is no such run or input.
        ConfigError: If names or header do not fit, or something is there already.
        WorkerFailedError: If a worker failed; it has said why.
    """
    run = find_run(name, runs_root)
    target = (output or run.path / "predictions" / f"{source.stem}.csv").absolute()
    check_names(source, target, force=force)
    check_header(header)
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "predict.json"
        words = ["--predict", str(result), "--input", str(source.absolute()), "--output", str(target)]
        start(run, [*words, "--header", header, "--ranks", str(num_ranks)], num_ranks)
        return read_json(result)


def check_names(source: Path, target: Path, *, force: bool) -> None:
    """Raise if the input is not there or the output cannot go where it should.

    Raises:
        NotFoundError: If there is no such input.
        ConfigError: If an ending is unknown, or something is there already.
    """
    for path, endings in ((source, INPUTS), (target, OUTPUTS)):
        if path.suffix not in endings:
            raise ConfigError(f"{path}: must end in {' or '.join(endings)}")
    if not source.is_file():
        raise NotFoundError(f"{source}: there is no such file")
    if target.is_dir():
        raise ConfigError(f"--output {target}: is a directory; give a file")
    if target.exists() and not force:
        raise ConfigError(f"--output {target}: is there already; choose another name, or replace it with --force")


def check_header(header: str) -> None:
    """Raise if a header does not name two columns.

    Raises:
        ConfigError: Saying what was given.

    >>> check_header("ImageId,Label")
    """
    if len(header.split(",")) != 2 or "\n" in header or '"' in header:
        raise ConfigError(f"--header {header!r}: must be two names with a comma between them, such as ImageId,Label")


def start(run: RunDir, arguments: list[str], num_ranks: int) -> None:
    """Start the ranks and see them through.

    Raises:
        WorkerFailedError: If one failed; it has said why.
    """
    if num_ranks == 1:
        jobs.run_worker(run, *arguments)
        return
    aside = run.aside()
    jobs.forget_failures(aside)
    aside.logs.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, "-m", "hvdtrain.train", str(run.path), *arguments]
    script = jobs.user_script(words, gather_facts(), num_ranks=num_ranks, launcher="auto")
    with open(aside.launcher_log, "wb") as noise:
        command = [jobs.bash(), "-c", script_text(script), "hvdtrain"]
        code = execute(command, environ=rank_environment(jobs.environ_now()), noise=noise)
    if code:
        first = jobs.first_failure(aside)
        raise jobs.WorkerFailedError(int(first["exit_code"]) if first else int(ExitCode.RANK_LOST))
