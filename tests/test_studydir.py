"""Studies on disk: what is kept of runs that are gone, and what is said of damaged files."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from hvdtrain.errors import CorruptError, NotFoundError
from hvdtrain.ladderdir import find_ladder
from hvdtrain.study.expand import Point, Question, points
from hvdtrain.studydir import StudyDir, find_study, gather, write_study
from hvdtrain.sweeps.sweepdir import find_sweep
from tests.test_sample import measurement, rank

FINDERS = {"study": find_study, "ladder": find_ladder, "sweep": find_sweep}
MEGABYTE = {"name": "w", "bytes": 2**20}
PLAN = {"num_examples": 60_000, "epochs": 2, "config": {"horovod": {"num_groups": None}}}


def measured(folder: Path, ranks: tuple[int, ...] = (1, 2), *, num_nodes: int = 1, **asked) -> StudyDir:
    """Return a study with one repeat, below `folder`/studies, whose runs have measured all its points."""
    question = Question(asked.pop("config", "c.yaml"), ranks, asked.pop("mode", "weak"), 1, 10.0, 50, "real", **asked)
    study = StudyDir(folder / "studies" / "c" / "20260101-000000-abcdef")
    write_study(study, "c", question, machine="one", command="hvdtrain scale", version="0")
    for point in points(question):
        run = study.run_of("c", point)
        run.logs.mkdir(parents=True)
        found = measurement(*[rank()] * point.num_ranks, gradients=[MEGABYTE])
        run.measurement.write_text(json.dumps({**found, "num_nodes": min(num_nodes, point.num_ranks)}))
        run.plan.write_text(json.dumps(PLAN))
    assert gather(study) == []
    return study


def test_what_was_measured_outlives_its_run(tmp_path):
    study = measured(tmp_path)
    before = study.rows()
    shutil.rmtree(study.runs)
    assert gather(study) == []
    assert study.rows() == before


def test_a_run_that_has_measured_counts_more_than_what_was_kept(tmp_path):
    study = measured(tmp_path)
    path = study.run_of("c", Point("ranks", 2, 0)).measurement
    path.write_text(json.dumps(measurement(rank(step=0.02), rank(), gradients=[])))
    assert gather(study) == []
    assert [row["ranks"][0]["cycles"]["step"][0] for row in study.rows()] == [0.01, 0.02, 0.01]


def test_a_damaged_measurement_is_named_and_gathered_anew(tmp_path):
    study = measured(tmp_path)
    before = study.measurements.read_text()
    for damaged in (before[:-40], before + "5\n", before + "{}\n", before + "\udcff"):
        study.measurements.write_text(damaged, errors="surrogateescape")
        with pytest.raises(CorruptError, match=r"measurements.jsonl:\d is damaged; .*--collect .*abcdef"):
            study.rows()
        assert gather(study) == []
        assert study.measurements.read_text() == before


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"question": {}, "sweep": []}', "\x00"])
@pytest.mark.parametrize("kind", FINDERS)
def test_a_damaged_question_is_named(kind, text, tmp_path):
    path = tmp_path / "ladder" / "20260101-000000-abcdef" / f"{kind}.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    found: Any = FINDERS[kind]("", tmp_path)
    with pytest.raises(CorruptError, match=rf"{kind}.json is damaged \(\w+: .*\); move .*-abcdef away"):
        found.sweep() if kind == "sweep" else found.question()
    if isinstance(found, StudyDir):
        with pytest.raises(CorruptError, match="is damaged"):
            found.read()


@pytest.mark.parametrize("kind", FINDERS)
def test_a_name_that_no_file_system_takes_is_no_study(kind, tmp_path):
    with pytest.raises(NotFoundError, match=f"no {kind} 'xxx"):
        FINDERS[kind](300 * "x", tmp_path)
