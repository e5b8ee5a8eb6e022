"""Every path under one study's directory, and how studies are found again: `studies/<name>/<timestamp>-<short id>/`."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from hvdtrain.cli.show import name_of
from hvdtrain.errors import CorruptError, NotFoundError
from hvdtrain.rundir import RunDir, read_json, write_text
from hvdtrain.study.expand import RANKS, Point, Question, points
from hvdtrain.study.sample import Sample, sample_of

FACTS = ("name", "question", "machine", "command", "version")
POINT_KEYS = ("kind", "num_ranks", "repeat")


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
T = TypeVar("T")


@dataclass(frozen=True)
class StudyDir(ReportDir):
    """One study's directory; attributes are the paths in it."""

    @property
    def study(self) -> Path:
        """What was asked, of which machine."""
        return self.path / "study.json"

    @property
    def config(self) -> Path:
        """The configuration as it was when the study began."""
        return self.path / "config.yaml"

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
        """Return what `study.json` holds.

        Raises:
            CorruptError: If it is damaged.
        """
        return read_asked(self.study, lambda found: {name: found[name] for name in FACTS})

    def question(self) -> Question:
        """Return what was asked.

        Raises:
            CorruptError: If `study.json` is damaged.
        """
        return read_asked(self.study, lambda found: _question(found["question"]))

    def samples(self) -> list[Sample]:
        """Return what has been measured."""
        return [sample_of(row, kind=row["kind"], repeat=row["repeat"]) for row in self.rows()]

    def rows(self) -> list[dict[str, Any]]:
        """Return the measurements with the point each belongs to.

        Raises:
            CorruptError: If a line is damaged.
        """
        found = []
        for number, line in enumerate(self._lines(), 1):
            row = _row(line)
            if row is None:
                raise CorruptError(
                    f"{self.measurements}:{number} is damaged; write it anew from the runs: hvdtrain scale --collect "
                    f"{name_of(self)}"
                )
            found.append(row)
        return found

    def has_sizes(self) -> bool:
        """Tell whether a number of ranks has been measured, not one process alone."""
        return any(row["kind"] == RANKS for row in self.rows())

    def kept(self) -> dict[Point, dict[str, Any]]:
        """Return the measurements that can be read, by point."""
        rows = [row for line in self._lines() if (row := _row(line)) is not None]
        return {Point(*(row[key] for key in POINT_KEYS)): row for row in rows}

    def _lines(self) -> list[bytes]:
        return self.measurements.read_bytes().splitlines() if self.measurements.is_file() else []


def gather(study: StudyDir) -> list[Point]:
    """Write what the runs have found so far into `measurements.jsonl`; return the points that are missing.

    What is there of a run whose directory is gone stays.
    """
    name, kept, missing, lines = study.read()["name"], study.kept(), [], []
    for point in points(study.question()):
        found = read_json(study.run_of(name, point).measurement)
        row = {"kind": point.kind, "repeat": point.repeat, **found} if found else kept.get(point)
        if row is None:
            missing.append(point)
        else:
            lines.append(json.dumps(row))
    write_text(study.measurements, "".join(line + "\n" for line in lines))
    return missing


def read_asked(path: Path, make: Callable[[Any], T]) -> T:
    """Return what is made of a JSON file that says what was asked.

    Args:
        path: The file.
        make: Makes it of the file's data; what is missing there or of another kind fails in it.

    Raises:
        CorruptError: If the file is damaged.
    """
    try:
        return make(json.loads(path.read_bytes()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptError(
            f"{path} is damaged ({type(error).__name__}: {error}); move {path.parent} away, or name another one"
        ) from error


def _question(data: dict[str, Any]) -> Question:
    return Question(**{**data, "ranks": tuple(data["ranks"]), "overrides": tuple(data["overrides"])})


def _row(line: bytes) -> dict[str, Any] | None:
    """Return a line of `measurements.jsonl`; None if it is damaged."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and all(key in row for key in POINT_KEYS) else None


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
    given = given_as_path(name, "study.json")
    return StudyDir(given) if given is not None else named("study", name, list(find_studies(root)), root)


def given_as_path(name: str, file: str) -> Path | None:
    """Return the directory that a name is the path of; None if that holds no such file, or the name is empty."""
    with contextlib.suppress(OSError):  # a name no file system takes
        if name and (Path(name) / file).is_file():
            return Path(name).resolve()
    return None


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
