"""What corrections made of a project's models: the learning curve, with the tasks drawn by lot beside it.

From one project's history two things can be said. On scenes that no model is taught, each version was measured before
it was promoted or refused. And what annotators left of the masks they were shown says how good these were: of tasks
drawn by lot that is an unbiased estimate over the tasks that were open then, of chosen ones how hard these are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Literal

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from ml_backend.errors import StartFailed
from ml_backend.interval import interval
from ml_backend.selections import Selections
from workers.corrections import Corrections
from workers.registry import Registry

Kind = Literal["random", "chosen", "unasked"]
"""Drawn by lot, chosen by the model's doubts, or annotated without having been selected."""

NOTHING_YET = (
    "Project {project} has no history yet: no version was ever taught, and no correction of a mask that was shown is "
    "here. `rsrefseg-backend dataset --project {project}` says what the courier has gathered."
)

NO_LOT = (
    "No task was drawn by lot yet, so nothing says how good the masks are over all tasks: "
    "`rsrefseg-backend select --project {project}` draws some with each selection."
)


@dataclass(frozen=True)
class Taught:
    """A version on the scenes that no model is taught."""

    version: str
    at: str
    corrections: int
    """How many it learnt from."""
    before: float | None
    """mIoU of its champion at the time, in percent; None where there were no held-out scenes."""
    after: float | None
    """Its own."""
    low: float | None
    """Lower end of the gain's 95 % interval, in points."""
    high: float | None
    passed: bool
    """The gate's word."""
    promoted: bool
    """Whether it ever became the champion."""


@dataclass(frozen=True)
class Shown:
    """What was left of the masks of one version, in the tasks that came to be annotated in one way."""

    model_version: str
    arm: Kind
    annotations: int
    iou: float
    """Mean over annotations between what was shown and what it became, in percent."""
    low: float | None
    """Lower end of the 95 % interval, over tasks drawn anew; None where they are too few."""
    high: float | None


@dataclass(frozen=True)
class LearningCurve:
    """A project's history."""

    project: int
    taught: tuple[Taught, ...]
    """Oldest first."""
    shown: tuple[Shown, ...]
    """By version, in the order in which people first met them."""


def learning_curve(
    registry: Registry, corrections: Corrections, selections: Selections, project_id: int
) -> LearningCurve:
    """Read a project's history.

    Args:
        registry: Its versions.
        corrections: What became of masks.
        selections: Which tasks were drawn by lot.
        project_id: The project.

    Returns:
        The curve; empty where nothing has happened.
    """
    shown = tuple(_shown(corrections, selections, project_id))
    return LearningCurve(project_id, versions_taught(registry, project_id), shown)


def versions_taught(registry: Registry, project_id: int) -> tuple[Taught, ...]:
    """Read of a project's history what its registry knows, which takes no time.

    Args:
        registry: Its versions.
        project_id: The project.

    Returns:
        The versions, oldest first.
    """
    champions = {move.version for move in registry.history(project_id)}
    taught = []
    for version in registry.versions(project_id):
        held_out = version.verdict.held_out
        taught.append(
            Taught(
                version=version.version,
                at=version.made_at.isoformat(timespec="seconds"),
                corrections=version.corrections,
                before=held_out.before if held_out else None,
                after=held_out.after if held_out else None,
                low=held_out.low if held_out else None,
                high=held_out.high if held_out else None,
                passed=version.verdict.passed,
                promoted=version.version in champions,
            )
        )
    return tuple(taught)


def tables(found: LearningCurve) -> RenderableType:
    """Show a curve to a person.

    Args:
        found: The curve.

    Returns:
        What rich prints.
    """
    if not found.taught and not found.shown:
        return NOTHING_YET.format(project=found.project)
    parts: list[RenderableType] = []
    if found.taught:
        table = Table("corrections", "version", "champion then", "its own", "gain, 95 %", "", title="held-out mIoU, %")
        for one in found.taught:
            gain = "" if one.low is None or one.high is None else f"{one.low:+.1f} ... {one.high:+.1f}"
            became = "promoted" if one.promoted else "passed" if one.passed else "refused"
            table.add_row(
                str(one.corrections), escape(one.version), _number(one.before), _number(one.after), gain, became
            )
        parts.append(table)
    if found.shown:
        table = Table("version shown", "tasks", "annotations", "IoU, %", "95 %", title="what was left of the masks")
        for row in found.shown:
            interval = "" if row.low is None or row.high is None else f"{row.low:.1f} ... {row.high:.1f}"
            table.add_row(escape(row.model_version), WORDS[row.arm], str(row.annotations), _number(row.iou), interval)
        parts.append(table)
        if not any(row.arm == "random" for row in found.shown):
            parts.append(NO_LOT.format(project=found.project))
    return Group(*parts)


WORDS: dict[Kind, str] = {"random": "drawn by lot", "chosen": "chosen", "unasked": "in no selection"}
"""How tasks came to be annotated, for people."""


def draw(found: LearningCurve, path: Path) -> None:
    """Draw a curve: held-out mIoU over corrections above, what was left of the masks below.

    Args:
        found: The curve.
        path: PNG, SVG or PDF to write.

    Raises:
        StartFailed: If there is nothing to draw, or nothing to draw it with.
    """
    if not found.taught and not found.shown:
        raise StartFailed(NOTHING_YET.format(project=found.project))
    try:
        from matplotlib.figure import Figure  # Of the worker's extra; whoever wants figures alone does without.
    except ImportError:
        raise StartFailed(
            "Drawing needs matplotlib: pip install '.[worker]'; --json and the table need nothing."
        ) from None
    figure = Figure(figsize=(8, 7), layout="constrained")
    above, below = figure.subplots(2, 1)
    scored = [one for one in found.taught if one.before is not None and one.after is not None]
    champions = [one for one in scored if one.promoted]
    if champions:
        places = [0, *(one.corrections for one in champions)]
        above.plot(places, [champions[0].before, *(one.after for one in champions)], marker="o", label="promoted")
    others = [one for one in scored if not one.promoted]
    if others:
        above.plot([one.corrections for one in others], [one.after for one in others], "x", label="not promoted")
    if scored:
        above.legend()
    above.set_xlabel("corrections learnt from")
    above.set_ylabel("mIoU of held-out scenes, %")
    versions = list(dict.fromkeys(row.model_version for row in found.shown))
    for number, arm in enumerate(WORDS):
        rows = [row for row in found.shown if row.arm == arm]
        if rows:
            beside = [versions.index(row.model_version) + 0.1 * (number - 1) for row in rows]
            ends = [
                [0.0 if row.low is None else max(0.0, row.iou - row.low) for row in rows],
                [0.0 if row.high is None else max(0.0, row.high - row.iou) for row in rows],
            ]
            below.errorbar(beside, [row.iou for row in rows], ends, marker="o", capsize=3, label=WORDS[arm])
    if found.shown:
        below.legend()
    below.set_xticks(range(len(versions)), versions)
    below.set_xlim(-0.5, max(1, len(versions)) - 0.5)
    below.set_xlabel("version whose masks were shown")
    below.set_ylabel("IoU with what became of them, %")
    for part in (above, below):
        part.grid(alpha=0.3)
    try:
        figure.savefig(path, dpi=100)
    except (OSError, ValueError) as exc:
        raise StartFailed(
            f"{path} cannot be drawn: {exc}. Choose a .png, .svg or .pdf in a folder that is there."
        ) from exc


def _shown(corrections: Corrections, selections: Selections, project_id: int) -> Iterable[Shown]:
    arms = selections.arms(project_id)
    ious: dict[tuple[str, Kind], dict[int, list[float]]] = {}
    met: dict[str, str] = {}
    for task in corrections.of(project_id):
        for record in task.annotations:
            of_masks = [one.iou for one in record.corrections if one.iou is not None]
            if of_masks and record.model_version:
                arm: Kind = arms.of(task.mark.task_id, record.updated_at) or "unasked"
                # One figure each: the masks of one picture are good and bad together.
                of_tasks = ious.setdefault((record.model_version, arm), {})
                of_tasks.setdefault(task.mark.task_id, []).append(fmean(of_masks))
                at = record.updated_at.isoformat()
                met[record.model_version] = min(met.get(record.model_version, at), at)
    for version, arm in sorted(ious, key=lambda key: (met[key[0]], key[0], list(WORDS).index(key[1]))):
        of_tasks = ious[version, arm]
        percent = [[100 * value for value in values] for values in of_tasks.values()]
        every = [value for values in percent for value in values]
        yield Shown(version, arm, len(every), fmean(every), *interval(percent))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
