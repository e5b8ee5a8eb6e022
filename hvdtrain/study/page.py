"""A report as one self-contained page: sections of text and tables, and plots as SVG within it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hvdtrain.study.plots import to_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class PageTable:
    """Cells below their head."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class PageSection:
    """A heading with paragraphs, tables, a list, and code, whichever there are."""

    title: str
    texts: Sequence[str] = ()
    tables: Sequence[PageTable] = ()
    items: Sequence[str] = ()
    code: str = ""


def page(
    template: str,
    *,
    title: str,
    subtitle: str,
    summary: str,
    plots: Mapping[str, tuple[Figure, str]],
    sections: Sequence[PageSection],
) -> str:
    """Return the HTML. Everything but the plots is escaped.

    Args:
        template: The page in Jinja's language.
        title: Heading.
        subtitle: A quiet line below it.
        summary: The outcome in a sentence.
        plots: Name -> (figure, caption).
        sections: What follows the plots.
    """
    from jinja2 import Environment

    drawn = [{"name": name, "svg": to_svg(figure, name), "caption": text} for name, (figure, text) in plots.items()]
    made = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(template)
    return made.render(title=title, subtitle=subtitle, summary=summary, plots=drawn, sections=sections)
