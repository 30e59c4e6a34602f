"""How far trainings are, as people read it."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from workers.contract import Training


def training_table(trainings: Sequence[Training]) -> Table | None:
    """Lay trainings out, those under way and how the last of each project ended.

    Args:
        trainings: One for each project.

    Returns:
        A table; None if there are none.
    """
    if not trainings:
        return None
    table = Table("project", "stage", "corrections", "step", "loss", "mIoU", "version", "why", "at", title="Trainings")
    for one in trainings:
        step = f"{one.step}/{one.steps}" if one.steps else "-"
        under_way = f" {one.done}/{one.of}" if one.of else ""
        loss = "-" if one.loss is None else f"{one.loss:.3f}"
        miou = "-" if one.before is None or one.after is None else f"{one.before:.1f} to {one.after:.1f}"
        table.add_row(
            str(one.project_id),
            one.stage + under_way,
            str(one.corrections),
            step,
            loss,
            miou,
            one.version or "-",
            escape(one.reason) or "-",
            f"{one.at:%Y-%m-%d %H:%M:%S}",
        )
    return table
