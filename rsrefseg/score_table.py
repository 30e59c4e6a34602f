"""An evaluation as a table for the terminal."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from rsrefseg.evaluate import Evaluation
from rsrefseg.metrics import THRESHOLDS, Scores


def score_table(evaluation: Evaluation) -> Table:
    """Lay the scores out: each kind of expression, each class, the whole set.

    Args:
        evaluation: What to show.

    Returns:
        Metrics in percent, in eighty columns.
    """
    names = [f"P@{threshold}" for threshold in THRESHOLDS]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption=_intervals(evaluation), caption_justify="left")
    table.add_column("", overflow="fold")
    for name in ("n", "oIoU", "mIoU", *names):
        table.add_column(name, justify="right", no_wrap=True)
    for rows in (evaluation.by_kind, evaluation.by_category):
        for name, scores in rows.items():
            table.add_row(Text(name), *_cells(scores, names))
        if rows:
            table.add_section()
    table.add_row("all", *_cells(evaluation.overall, names), style="bold")
    return table


def _intervals(evaluation: Evaluation) -> str:
    ends = (f"{name} {low:.1f} to {high:.1f}" for name, (low, high) in evaluation.ci95.items())
    return "95 % intervals: " + ", ".join(ends)


def _cells(scores: Scores, names: list[str]) -> list[str]:
    values = [scores.oIoU, scores.mIoU, *(scores.precision[name] for name in names)]
    return [str(scores.n), *(f"{value:.1f}" for value in values)]
