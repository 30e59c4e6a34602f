"""How a training run went, as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure


def draw_curves(rows: Sequence[Mapping[str, str]], path: Path) -> None:
    """Draw the loss, and under it the mIoU of every held-out set.

    Args:
        rows: Of `log.csv`: step, loss, and "mIoU <set>" in the rows of the steps that were scored.
        path: PNG to write.
    """
    figure = Figure(figsize=(8, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    above.plot([int(row["step"]) for row in rows], [float(row["loss"]) for row in rows])
    above.set_ylabel("loss")
    for name in dict.fromkeys(name for row in rows for name in row if name.startswith("mIoU ")):
        scored = [(int(row["step"]), float(row[name])) for row in rows if row.get(name)]
        below.plot(*zip(*scored, strict=True), marker="o", label=name.removeprefix("mIoU "))
        below.legend()
    below.set_ylabel("mIoU, %")
    below.set_xlabel("step")
    for part in (above, below):
        part.grid(alpha=0.3)
    figure.savefig(path, dpi=100)
