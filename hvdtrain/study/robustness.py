"""Test sets that were changed as the world changes things, and the table of what networks make of them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hvdtrain.bench.table import table

FIRST_COLUMN = "test images"


@dataclass(frozen=True)
class Changed:
    """One changed test set.

    Args:
        name: In files.
        title: For people.
        settings: Of `hvdtrain.workshop.augmentation.augmented`; each image has a draw of its own within them.
    """

    name: str
    title: str
    settings: Mapping[str, float]


CHANGED = (
    Changed("unchanged", "as they are", {}),
    Changed("rotation_15", "turned by up to 15 degrees", {"rotation": 15.0}),
    Changed("rotation_30", "turned by up to 30 degrees", {"rotation": 30.0}),
    Changed("rotation_45", "turned by up to 45 degrees", {"rotation": 45.0}),
    Changed("scale_10", "0.9 to 1.1 times as large", {"scale": 0.1}),
    Changed("scale_30", "0.7 to 1.3 times as large", {"scale": 0.3}),
    Changed("translation_5", "shifted by up to 5 % of the side", {"translation": 0.05}),
    Changed("translation_15", "shifted by up to 15 % of the side", {"translation": 0.15}),
    Changed("noise_01", "noise of 0.1", {"noise": 0.1}),
    Changed("noise_03", "noise of 0.3", {"noise": 0.3}),
    Changed("noise_05", "noise of 0.5", {"noise": 0.5}),
)


def robustness_table(found: Mapping[str, Mapping[str, float]], *, markdown: bool = False) -> str:
    """Return accuracies in per cent, a column for each run.

    Args:
        found: Run -> name of the changed test set -> accuracy, 0 to 1.
        markdown: Whether it is for a document.

    >>> print(robustness_table({"plain": {"unchanged": 0.991}}))
    test images  plain
    as they are  99.10
    """
    names = [one for one in CHANGED if any(one.name in accuracies for accuracies in found.values())]
    rows = [[one.title, *(_per_cent(accuracies.get(one.name)) for accuracies in found.values())] for one in names]
    return table([FIRST_COLUMN, *columns(list(found))], rows, markdown=markdown)


def columns(runs: Sequence[str]) -> list[str]:
    """Return runs' names as heads; two of one name are told apart by number.

    >>> columns(["cnn", "cnn", "fc"])
    ['cnn', 'cnn (2)', 'fc']
    """
    return [name if name not in runs[:i] else f"{name} ({runs[: i + 1].count(name)})" for i, name in enumerate(runs)]


def _per_cent(accuracy: float | None) -> str:
    return "" if accuracy is None else f"{100 * accuracy:.2f}"
