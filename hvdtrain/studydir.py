"""Every path under one study's directory, and how studies are found again: `studies/<name>/<timestamp>-<short id>/`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from hvdtrain.errors import NotFoundError
from hvdtrain.rundir import RunDir, read_json, write_text
from hvdtrain.study.expand import Point, Question, points
from hvdtrain.study.sample import Sample, sample_of


@dataclass(frozen=True)
class ReportDir:
    """A directory `<timestamp>-<short id>` that ends with a report: what studies and ladders have in common."""

    path: Path

    @property
    def report(self) -> Path:
        """Everything on one page."""
        return self.path / "report.html"

    @property
    def plots(self) -> Path:
        """The report's plots as files."""
        return self.path / "plots"

    @property
    def short_id(self) -> str:
        """The last part of the directory's name."""
        return self.path.name.rsplit("-", 1)[-1]

    def table(self, suffix: str) -> Path:
        """Return the table as `.md`, `.csv` or `.json`."""
        return self.path / f"table.{suffix}"


D = TypeVar("D", bound=ReportDir)


@dataclass(frozen=True)
class StudyDir(ReportDir):
    """One study's directory; attributes are the paths in it."""

    @property
    def study(self) -> Path:
        """What was asked, of which machine."""
        return self.path / "study.json"

    @property
    def runs(self) -> Path:
        """A run directory for each point."""
        return self.path / "runs"

    @property
    def measurements(self) -> Path:
        """What each run found, one JSON object per line: all that tables and plots are made from."""
        return self.path / "measurements.jsonl"

    @property
    def forecast(self) -> Path:
        """What more ranks would do."""
        return self.path / "forecast.json"

    def run_of(self, name: str, point: Point) -> RunDir:
        """Return a point's run directory."""
        return RunDir(self.runs / name / point.name)

    def read(self) -> dict[str, Any]:
        """Return what `study.json` holds."""
        return read_json(self.study)

    def question(self) -> Question:
        """Return what was asked."""
        data = self.read()["question"]
        return Question(**{**data, "ranks": tuple(data["ranks"]), "overrides": tuple(data["overrides"])})

    def samples(self) -> list[Sample]:
        """Return what has been measured."""
        return [sample_of(row, kind=row["kind"], repeat=row["repeat"]) for row in self.rows()]

    def rows(self) -> list[dict[str, Any]]:
        """Return the measurements with the point each belongs to."""
        if not self.measurements.is_file():
            return []
        return [json.loads(line) for line in self.measurements.read_text(encoding="utf-8").splitlines()]


def gather(study: StudyDir) -> list[Point]:
    """Write what the runs have found so far into `measurements.jsonl`; return the points that are missing."""
    name, missing, lines = study.read()["name"], [], []
    for point in points(study.question()):
        found = read_json(study.run_of(name, point).measurement)
        if found:
            lines.append(json.dumps({"kind": point.kind, "repeat": point.repeat, **found}))
        else:
            missing.append(point)
    write_text(study.measurements, "".join(line + "\n" for line in lines))
    return missing


def write_study(study: StudyDir, name: str, question: Question, **facts: Any) -> None:
    """Make a study's directory."""
    study.path.mkdir(parents=True)
    text = json.dumps({"name": name, "question": dataclasses.asdict(question), **facts}, indent=1)
    write_text(study.study, text + "\n")


def find_studies(root: Path) -> Iterator[StudyDir]:
    """Yield all studies below `root`, newest first."""
    found = [StudyDir(path.parent) for path in root.glob("*/*/study.json")]
    yield from sorted(found, key=lambda study: study.path.name, reverse=True)


def find_study(name: str, root: Path) -> StudyDir:
    """Return the study that a path, a directory's name or a short id names; empty text names the newest.

    Raises:
        NotFoundError: If there is none.
    """
    if name and (Path(name) / "study.json").is_file():
        return StudyDir(Path(name).resolve())
    return named("study", name, list(find_studies(root)), root)


def named(kind: str, name: str, found: Sequence[D], root: Path) -> D:
    """Return the directory that a name or a short id names; empty text names the first.

    Args:
        kind: What it is, for people.
        name: As the user gave it.
        found: All there are, newest first.
        root: Where they were looked for.

    Raises:
        NotFoundError: If there is none.
    """
    for one in found:
        if name in ("", one.short_id, one.path.name):
            return one
    known = ", ".join(one.short_id for one in found[:5]) or "none"
    raise NotFoundError(f"no {kind} {name!r}: give a {kind}'s directory or short id; newest under {root}: {known}")
