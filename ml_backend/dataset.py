"""What the corrections of a project come to: how many, of what, by whom, how far from what was shown, since when."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from itertools import combinations
from typing import get_args

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Column, Table

from ml_backend.regions import iou
from workers.corrections import AnnotationRecord, Correction, Corrections, Origin
from workers.snapshots import Manifest

ORIGINS: tuple[Origin, ...] = get_args(Origin)

DAYS_SHOWN = 14

NOTHING_YET = (
    "No corrections of project {project} are here. The courier gathers them from what annotators submit: see that "
    "`rsrefseg-backend courier` runs with the same RSREFSEG_DATA; `rsrefseg-backend doctor --project {project}` looks "
    "at the rest."
)


@dataclass
class Tally:
    """Some of the corrections."""

    corrections: int = 0
    held_out: int = 0
    """Of scenes that no model is ever taught."""
    empty: int = 0
    """Expressions that refer to nothing."""
    agreement: float | None = None
    """Mean IoU between what was shown and what it became; None where nothing was shown."""
    accepted: int = 0
    changed: int = 0
    drawn: int = 0
    rejected: int = 0
    shown: int = 0
    """How many had a prediction beside them."""

    def add(self, correction: Correction, *, held_out: bool) -> None:
        """Count one more.

        Args:
            correction: The correction.
            held_out: Whether its scene is held out.
        """
        self.corrections += 1
        self.held_out += held_out
        self.empty += correction.mask is None
        setattr(self, correction.origin, getattr(self, correction.origin) + 1)
        if correction.iou is not None:
            self.shown += 1
            mean = self.agreement or 0.0
            self.agreement = mean + (correction.iou - mean) / self.shown


@dataclass
class Pair:
    """Two annotators who were at the same tasks."""

    tasks: int = 0
    masks: int = 0
    """Expressions about an image of which both said what they refer to."""
    agreement: float | None = None
    """Mean IoU between the two masks; where both say that there is nothing it is 1."""

    def add(self, ious: Sequence[float]) -> None:
        """Count one more task.

        Args:
            ious: Of its masks.
        """
        self.tasks += 1
        for one in ious:
            self.masks += 1
            mean = self.agreement or 0.0
            self.agreement = mean + (one - mean) / self.masks


@dataclass
class Counts:
    """The corrections of a project."""

    project: int
    tasks: int = 0
    annotations: int = 0
    scenes: int = 0
    total: Tally = field(default_factory=Tally)
    labels: dict[str, Tally] = field(default_factory=dict)
    annotators: dict[str, Tally] = field(default_factory=dict)
    """By the user's number in Label Studio."""
    between_annotators: dict[str, Pair] = field(default_factory=dict)
    """By the two users' numbers, the lower one first."""
    model_versions: dict[str, Tally] = field(default_factory=dict)
    """By who made what was shown; empty where nothing was."""
    days: dict[str, int] = field(default_factory=dict)
    """How many there were at the end of each day (UTC) on which there were more."""
    skipped: dict[str, int] = field(default_factory=dict)
    """What could not be used, by its reason."""
    snapshots: list[dict[str, object]] = field(default_factory=list)
    """What models were taught and measured on, oldest first."""


def count(corrections: Corrections, project_id: int) -> Counts:
    """Count the corrections of a project.

    Args:
        corrections: Where they are.
        project_id: The project.

    Returns:
        The counts.
    """
    counts = Counts(project_id)
    scenes: set[int] = set()
    skipped: Counter[str] = Counter()
    days: Counter[str] = Counter()
    for task in corrections.of(project_id):
        counts.tasks += 1
        scenes.add(hash(task.scene))
        for one, other in combinations(task.annotations, 2):
            if None not in (one.annotator, other.annotator) and one.annotator != other.annotator:
                who = ", ".join(map(str, sorted((one.annotator or 0, other.annotator or 0))))
                counts.between_annotators.setdefault(who, Pair()).add(list(_ious(one, other)))
        for record in task.annotations:
            counts.annotations += 1
            skipped.update(record.skipped)
            days[record.updated_at.astimezone(UTC).date().isoformat()] += len(record.corrections)
            for correction in record.corrections:
                for tally in _tallies(counts, record, correction):
                    tally.add(correction, held_out=task.held_out)
    counts.scenes = len(scenes)
    counts.skipped = dict(skipped.most_common())
    so_far = 0
    for day in sorted(+days):
        so_far += days[day]
        counts.days[day] = so_far
    return counts


def described(manifest: Manifest) -> dict[str, object]:
    """Sum a snapshot up.

    Args:
        manifest: Of the snapshot.

    Returns:
        What JSON has words for.
    """
    return {
        "name": manifest.name,
        "made_at": manifest.made_at.isoformat(timespec="seconds"),
        "train": manifest.train.corrections,
        "held_out": manifest.held_out.corrections,
        "held_out_scenes": manifest.held_out.scenes,
        "left_out": manifest.left_out,
    }


def tables(counts: Counts) -> RenderableType:
    """Show counts to a person.

    Args:
        counts: The counts.

    Returns:
        What rich prints.
    """
    if not counts.annotations:
        return NOTHING_YET.format(project=counts.project)
    shown: list[RenderableType] = [
        f"Project {counts.project}: {counts.total.corrections} corrections from {counts.annotations} annotations of "
        f"{counts.tasks} tasks, {counts.scenes} scenes."
    ]
    shown.append(_table("all", {"": counts.total}.items()))
    shown.append(_table("label", counts.labels.items()))
    shown.append(_table("annotator", counts.annotators.items()))
    if counts.between_annotators:
        pairs = Table("annotators", "tasks of both", "masks of both", "mean IoU between them")
        for who, pair in sorted(counts.between_annotators.items(), key=lambda one: (-one[1].masks, one[0])):
            agreement = "" if pair.agreement is None else f"{pair.agreement:.3f}"
            pairs.add_row(who, str(pair.tasks), str(pair.masks), agreement)
        shown.append(pairs)
    shown.append(_table("model version shown", counts.model_versions.items()))
    growth = Table("day", "corrections so far")
    for day, so_far in [*counts.days.items()][-DAYS_SHOWN:]:
        growth.add_row(day, str(so_far))
    shown.append(growth)
    if counts.skipped:
        left_out = Table("left out because", "times")
        for reason, times in counts.skipped.items():
            left_out.add_row(escape(reason), str(times))
        shown.append(left_out)
    if counts.snapshots:
        shown.append(_snapshots_table(counts.snapshots[-DAYS_SHOWN:]))
    return Group(*shown)


def _ious(one: AnnotationRecord, other: AnnotationRecord) -> Iterator[float]:
    # Of what both were asked about, where their masks are of one size.
    theirs = {(found.image, found.expression, found.label): found.mask for found in other.corrections}
    for found in one.corrections:
        key = (found.image, found.expression, found.label)
        if key not in theirs:
            continue
        mask, their = found.mask, theirs[key]
        if mask is None or their is None:
            yield float(mask is their)
        elif mask.size_hw == their.size_hw:
            yield iou(mask.to_mask(), their.to_mask())


def _tallies(counts: Counts, record: AnnotationRecord, correction: Correction) -> tuple[Tally, ...]:
    return (
        counts.total,
        counts.labels.setdefault(correction.label, Tally()),
        counts.annotators.setdefault(str(record.annotator or ""), Tally()),
        counts.model_versions.setdefault(record.model_version or "", Tally()),
    )


def _snapshots_table(snapshots: Iterable[dict[str, object]]) -> Table:
    table = Table(Column("snapshot", no_wrap=True), "made at", "taught", "held out", "scenes held out", "left out")
    for one in snapshots:
        left_out = one["left_out"]
        away = sum(left_out.values()) if isinstance(left_out, dict) else 0
        numbers = (str(one[name]) for name in ("train", "held_out", "held_out_scenes"))
        table.add_row(str(one["name"]), str(one["made_at"]), *numbers, str(away))
    return table


def _table(title: str, rows: Iterable[tuple[str, Tally]]) -> Table:
    table = Table(title, "corrections", *ORIGINS, "empty", "held out", "mean IoU with what was shown")
    for name, tally in sorted(rows, key=lambda row: (-row[1].corrections, row[0])):
        origins = (str(getattr(tally, origin)) for origin in ORIGINS)
        agreement = "" if tally.agreement is None else f"{tally.agreement:.3f}"
        numbers = (str(tally.corrections), *origins, str(tally.empty), str(tally.held_out), agreement)
        table.add_row(escape(name) or "-", *numbers)
    return table
