"""From key figures to a conclusion: figures told as one family, and the variants that lie on each side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from deqrun.inference import Told, told
from deqrun.report.answer import MOST_FIGURES, Conclusion, KeyFigure
from deqrun.studies.wording import words

__all__ = ["Figures", "as_family", "concluded", "those", "told_together", "too_few"]

Figures = dict[str, KeyFigure]
"""A key figure of each variant, by its label."""


def as_family(figures: Sequence[KeyFigure]) -> list[KeyFigure]:
    """The same figures, each with the side on which it is told: together they are one family (Holm)."""
    sides = told([figure.of for figure in figures])
    return [replace(figure, told=side) for figure, side in zip(figures, sides, strict=True)]


def told_together(*groups: Mapping[str, KeyFigure]) -> list[Figures]:
    """`as_family` of the figures of all groups, which stay in their groups."""
    family = iter(as_family([figure for group in groups for figure in group.values()]))
    return [{name: next(family) for name in group} for group in groups]


def those(figures: Mapping[str, KeyFigure], side: Told) -> list[str]:
    """The variants whose figure is told on this side, as words."""
    return [words(name) for name, figure in figures.items() if figure.told is side]


def too_few(*groups: Mapping[str, KeyFigure]) -> bool:
    """Whether some figure has too few seeds to be told."""
    return any(figure.told is Told.TOO_FEW for group in groups for figure in group.values())


def concluded(verdict: str, figures: Iterable[KeyFigure]) -> Conclusion:
    """The verdict with the first six of the figures; its family are those of all figures that are told."""
    key = tuple(figures)
    return Conclusion(verdict, key[:MOST_FIGURES], sum(figure.told is not None for figure in key))
