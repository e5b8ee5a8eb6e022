"""A sweep as job arrays on a real Slurm."""

import json

import pytest

from hvdtrain.sweeps.sweepdir import find_sweep, outcomes
from tests.cluster.jobs import PROJECT, SITE

BASE = PROJECT / "configs" / "sweeps" / "dense_dropout.yaml"
HALVING = f"""\
base: {BASE}
method: halving
halving: {{factor: 3}}
parameters:
  model.args.units: [16, 24, 32]
"""


@pytest.mark.thorough
def test_stages_are_arrays_one_after_the_other(bench):
    (bench.folder / "my.yaml").write_text(HALVING)
    words = ("--site", str(SITE), "--set", "training.epochs=3", "--parallel", "2", "--wait", "--json")
    result = bench.hvdtrain("sweep", "my.yaml", *words)
    found = find_sweep("", bench.folder / "studies")
    asked = found.sweep()
    trials = outcomes(found, asked)
    assert sorted((one.state, one.epochs) for one in trials) == [("dropped", 1), ("dropped", 1), ("finished", 3)]
    best = max(trials, key=lambda one: one.scores[1])
    assert json.loads(result.stdout)["winner"] == best.trial.number
    jobs = {trial.number: found.run(asked, trial).job_id() for trial in asked.trials}
    first = {job.partition("_")[0] for number, job in jobs.items() if job and number != best.trial.number}
    assert len(first) == 1, "one array for the first stage"
    assert (jobs[best.trial.number] or "").partition("_")[0] not in {*first, ""}, "and another one for the second"
    assert (
        "#SBATCH --array=0-2%2" in found.run(asked, next(t for t in asked.trials if t != best.trial)).script.read_text()
    )
    assert found.report.exists()
    assert bench.hvdtrain("sweep", "--resume").stderr.count("job array") == 0, "nothing is left to submit"
