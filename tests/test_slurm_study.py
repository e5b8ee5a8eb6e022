"""A scaling study as batch jobs on a real Slurm."""

import pytest

from hvdtrain.studydir import find_study
from tests.cluster.jobs import CONFIG, SITE


@pytest.mark.thorough
def test_a_study_is_submitted_and_collected(bench):
    words = ("--ranks", "1,2", "--repeats", "1", "--seconds", "1", "--warmup-steps", "20")
    result = bench.hvdtrain("scale", str(CONFIG), "--site", str(SITE), *words)
    study = find_study("", bench.folder / "studies")
    assert result.stdout.strip() == study.short_id
    assert f"hvdtrain scale --collect {study.short_id}" in result.stderr
    result = bench.hvdtrain("scale", "--collect", study.short_id, "--wait")
    rows = {(row["kind"], row["num_ranks"]): row for row in study.rows()}
    assert set(rows) == {("ranks", 1), ("ranks", 2), ("one process", 1)}
    assert "efficiency" in result.stdout
    assert study.report.exists()
    assert all(row["is_right"] for row in rows["ranks", 2]["allreduce"]["rows"])


def test_a_site_that_cannot_take_a_size_gets_no_job(bench):
    before = bench.cluster.command("squeue", "--noheader").stdout
    words = ("--ranks", "1,16", "--repeats", "1")
    result = bench.hvdtrain("scale", str(CONFIG), "--site", str(SITE), *words, code=2)
    assert "nodes" in result.stderr
    assert bench.cluster.command("squeue", "--noheader").stdout == before
