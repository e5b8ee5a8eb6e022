"""The tables a benchmark prints, as text for a terminal or as Markdown. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hvdtrain.bench.statistics import Estimate
from hvdtrain.bench.task import INPUTS


@dataclass(frozen=True)
class Target:
    """What a ratio should be: at least or at most a value.

    Args:
        value: The limit.
        is_upper: Whether it is the most allowed, as for time and memory.
        is_strict: Whether the limit itself does not meet it.
    """

    value: float
    is_upper: bool = False
    is_strict: bool = False

    @property
    def text(self) -> str:
        """The target as shown."""
        sign = ("<" if self.is_upper else ">") + ("" if self.is_strict else "=")
        return f"{sign} {self.value:g}"

    def is_met(self, value: float) -> bool:
        """Tell whether a value meets it."""
        if value == self.value:
            return not self.is_strict
        return (value < self.value) == self.is_upper


# What a user could do instead; hvdtrain is to be ahead of all of it.
ALTERNATIVES = (
    "one process", "one process at global batch", "horovodrun", "mirrored", "PyTorch", "PyTorch at global batch",
    "PyTorch DDP",
)  # fmt: skip
# (other arm, model) -> target of hvdtrain's throughput over that arm's
THROUGHPUT_TARGETS = {
    ("hand-written", "cnn"): Target(0.98),
    ("hand-written", "fc512"): Target(0.98),
    ("ceiling", "cnn"): Target(0.98),
    ("ceiling", "fc512"): Target(0.88),
    ("ceiling", "fc64"): Target(0.72),
    ("default", "cnn"): Target(1.3),
    ("default", "fc512"): Target(1.5),
    ("default", "fc64"): Target(1.5),
    **{(arm, model): Target(1, is_strict=True) for arm in ALTERNATIVES for model in ("cnn", "fc512", "fc64")},
    ("hvdtrain unchecked", "cnn"): Target(0.995),
    ("hvdtrain unchecked", "fc512"): Target(0.98),
    **{("hvdtrain curves", model): Target(1.01, is_upper=True) for model in ("cnn", "fc512", "fc64")},
    ("hvdtrain saving", "cnn"): Target(1.01, is_upper=True),
    **{(f"hvdtrain on {data}", "cnn"): Target(1.03, is_upper=True) for data in INPUTS},
}
STARTUP_TARGET = Target(1.15, is_upper=True)
MEMORY_TARGET = Target(1.1, is_upper=True)

RATIO_HEAD = ("ratio", "model", "median", "95 % interval", "quartiles", "n", "target", "")


def ratio_row(ratio: str, model: str, found: Estimate | None, target: Target | None) -> tuple[str, ...]:
    """Return one line of the ratio table; a ratio without values says so."""
    wanted = target.text if target else ""
    if found is None:
        return (ratio, model, "none", "", "", "0", wanted, "not measured")
    verdict = "" if target is None else "met" if target.is_met(found.median) else "NOT MET"
    return (
        ratio,
        model,
        f"{found.median:.3f}",
        f"{found.low:.3f} to {found.high:.3f}",
        f"{found.first_quartile:.3f} to {found.third_quartile:.3f}",
        str(found.n),
        wanted,
        verdict,
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, markdown: bool) -> str:
    """Return the rows below their head, in columns; in Markdown with what would end a cell escaped.

    >>> print(table(["a", "bc"], [["1", "2"]], markdown=True))
    | a | bc |
    |---|----|
    | 1 | 2  |
    """
    if markdown:
        head, *rows = [[_in_cell(text) for text in row] for row in [head, *rows]]
    widths = [max(len(row[place]) for row in [head, *rows]) for place in range(len(head))]
    edge = "|" if markdown else ""
    between = " | " if markdown else "  "

    def line(cells: Sequence[str]) -> str:
        text = between.join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        return f"{edge} {text} {edge}" if markdown else text.rstrip()

    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|" if markdown else None
    return "\n".join([line(head), *([rule] if rule else []), *map(line, rows)])


def _in_cell(text: str) -> str:
    """Return text that stays in its cell of a Markdown table.

    >>> _in_cell("a|b\\nc")
    'a\\\\|b c'
    """
    return " ".join(text.replace("|", r"\|").splitlines())
