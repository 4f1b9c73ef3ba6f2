# SPDX-License-Identifier: GPL-3.0-or-later
"""Showing figures: a table for people, plain data for programs."""

from collections.abc import Sequence
from statistics import median
from typing import Any

from tests.benchmarks.figures import Figure, Unit

HEADINGS = ("figure", "ours", "floor", "ratio", "goal", "met", "peer", "peer ratio")


def as_text(figures: Sequence[Figure]) -> str:
    """Lay figures out in columns, a line each, with what belongs to them below."""
    rows = [HEADINGS, *(_row(figure) for figure in figures)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(HEADINGS))]
    lines = [_line(rows[0], widths), "  ".join("─" * width for width in widths)]
    for figure, row in zip(figures, rows[1:], strict=True):
        lines.append(_line(row, widths))
        below = [f"floor: {figure.floor_name}"] if figure.floor_name else []
        below += figure.notes
        if below:
            lines.append(f"    {'; '.join(below)}")
    return "\n".join(lines)


def as_data(figures: Sequence[Figure]) -> list[dict[str, Any]]:
    """Give all that was measured, for JSON."""
    return [
        {
            "name": figure.name,
            "floor_name": figure.floor_name,
            "unit": figure.unit.name.lower(),
            "ours": list(figure.series.ours),
            "floor": list(figure.series.floor),
            "peer": list(figure.series.peer),
            "ratio": figure.series.ratio,
            "peer_ratio": figure.series.peer_ratio,
            "goals": [goal.show(figure.unit) for goal in figure.goals],
            "met": figure.met,
            "notes": list(figure.notes),
        }
        for figure in figures
    ]


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
    return "  ".join((first, *others)).rstrip()


def _row(figure: Figure) -> tuple[str, ...]:
    series, unit = figure.series, figure.unit
    return (
        figure.name,
        _value(series.ours, unit),
        _value(series.floor, unit),
        _ratio(series.ratio),
        ", ".join(goal.show(unit) for goal in figure.goals),
        {True: "yes", False: "NO", None: ""}[figure.met],
        _value(series.peer, unit),
        _ratio(series.peer_ratio),
    )


def _value(values: Sequence[float], unit: Unit) -> str:
    return unit.show(median(values)) if values else ""


def _ratio(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f} x"
