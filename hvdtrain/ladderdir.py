"""Every path under one ladder's directory, and how ladders are found again."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hvdtrain.rundir import RunDir, read_json
from hvdtrain.study.ladder_table import Outcome, outcome_of
from hvdtrain.study.rungs import Climb, Question
from hvdtrain.studydir import ReportDir, given_as_path, named, read_asked

RUN = "run"


@dataclass(frozen=True)
class LadderDir(ReportDir):
    """A ladder's directory, `studies/ladder/<timestamp>-<short id>/`."""

    @property
    def question_file(self) -> Path:
        """What was asked, of which machine."""
        return self.path / "ladder.json"

    def config(self, climb: Climb) -> Path:
        """Return a training's configuration, which `hvdtrain run` takes as well."""
        return self.path / "configs" / f"{climb.name}.yaml"

    def run(self, climb: Climb) -> RunDir:
        """Return a training's run directory."""
        return RunDir(self.path / "runs" / climb.name / RUN)

    def pictures(self, name: str) -> Path:
        """Return the arrays behind a model's pictures."""
        return self.run(Climb(name, 0)).path / "look.npz"

    def question(self) -> Question:
        """Return what was asked.

        Raises:
            CorruptError: If `ladder.json` is damaged.
        """
        return read_asked(self.question_file, lambda found: _question(found["question"]))


def _question(data: dict[str, Any]) -> Question:
    return Question(**{**data, **{key: tuple(data[key]) for key in ("examples_per_class", "curve_models")}})


def find_ladder(name: str, root: Path) -> LadderDir:
    """Return the ladder that a path or a short id names; empty text names the newest.

    Raises:
        NotFoundError: If there is none.
    """
    given = given_as_path(name, "ladder.json")
    if given is not None:
        return LadderDir(given)
    found = [LadderDir(path.parent) for path in root.glob("ladder/*/ladder.json")]
    return named("ladder", name, sorted(found, key=lambda ladder: ladder.path.name, reverse=True), root)


def outcome(ladder: LadderDir, climb: Climb) -> Outcome:
    """Return what a finished training has reached."""
    return outcome_of(dataclasses.asdict(climb), read_json(ladder.run(climb).summary))
