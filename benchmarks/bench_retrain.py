"""How long does a project's retraining take on this machine, what takes the time, and what is it worth?

The trainer runs by its own command, on the weights that come with the package. Corrections are drawn scenes in an
office's shorthand, which these weights know badly, with the true masks; the images are fetched over HTTP, as from Label
Studio. One training for each number of corrections, each from the base, in a project of its own.
"""

from __future__ import annotations

import csv
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
from fleets import fleet, loopback
from record import keep
from rich.console import Console
from rich.table import Table

from rsrefseg.expressions import SHORTHAND
from rsrefseg.samples import EXPRESSIONS, write_samples
from workers.contract import Rle, Training, TrainJob
from workers.corrections import AnnotationRecord, Correction, Corrections, Mark, TaskCorrections, is_held_out
from workers.registry import Registry

SEED, SIDE = 1_900_000_000, 512
"""Of the first drawn scene, which nothing else is drawn from, and its pixels."""

LOOK_S = 0.1
"""How often the trainer is asked how far it is."""

PATIENCE_S = 3600.0
"""Longest that a training may take."""

ENDS = ("promoted", "refused", "failed")

STAGES = ("waiting", "collecting", "encoding", "learning", "scoring")
"""What the time is told apart by: encoding is what comes before the first step."""


@dataclass(frozen=True)
class Outcome:
    """What became of one training."""

    ended: Training
    seconds: float
    """From the asking to the last word."""
    by_stage: dict[str, float]
    verdict: Any
    """As the registry keeps it."""


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve images under any path, by their names.

    Args:
        folder: Where they are.

    Yields:
        The address.
    """

    class Images(loopback.Answering, BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = folder / self.path.rpartition("/")[2]
            self.say(200, path.read_bytes()) if path.is_file() else self.say(404)

    with loopback.serving(Images) as url:
        yield url


def correct(store: Corrections, project_id: int, folder: Path, taught: int, measured: int) -> None:
    """Write down what annotators drew, so many to be taught and so many of held-out scenes.

    Args:
        store: Where corrections go.
        project_id: Whose.
        folder: Of the drawn scenes.
        taught: Corrections to learn from.
        measured: Corrections to measure by.

    Raises:
        ClickException: If there are too few scenes.
    """
    left = {False: taught, True: measured}
    at = datetime(2026, 1, 1, tzinfo=UTC)
    with (folder / EXPRESSIONS).open(newline="") as file:
        rows = list(csv.DictReader(file))
    for number, row in enumerate(rows, start=1):
        uri = f"/data/upload/{project_id}/{row['image']}"
        if not left[is_held_out(uri)]:
            continue
        left[is_held_out(uri)] -= 1
        mask = np.asarray(cv2.imread(str(folder / "masks" / row["image"]), cv2.IMREAD_GRAYSCALE)) > 127
        drawn = Correction(
            image=0, expression=row["expression"], label="target", mask=Rle.from_mask(mask), origin="drawn"
        )
        record = AnnotationRecord(annotation_id=number, updated_at=at, annotator=1, corrections=(drawn,))
        mark = Mark(project_id=project_id, task_id=number, updated_at=at.isoformat())
        store.put(TaskCorrections(mark=mark, scene=uri, image_uris=(uri,), annotations=(record,)))
    if any(left.values()):
        raise click.ClickException(f"{len(rows)} drawn scenes are too few: {left} are missing; raise --scenes")


def retrain(ours: fleet.Fleet, project_id: int) -> Outcome:
    """Have a project trained, and watch.

    Args:
        ours: With a trainer.
        project_id: The project.

    Returns:
        What became of it.

    Raises:
        ClickException: If it does not end.
    """
    by_stage = dict.fromkeys(STAGES, 0.0)
    began = last = time.monotonic()
    ours.queue.ask_training(TrainJob(project_id=project_id, why="asked"))
    while True:
        word = ours.queue.trainings().get(project_id)
        now = time.monotonic()
        stage = "waiting" if word is None else word.stage
        if word is not None and stage in ENDS:
            break
        by_stage["encoding" if stage == "learning" and word and not word.step else stage] += now - last
        last = now
        if now - began > PATIENCE_S:
            raise click.ClickException("the training does not end; its log says why")
        time.sleep(LOOK_S)
    verdict = Registry(ours.directory).get(project_id, word.version).verdict if word.version else None
    return Outcome(word, now - began, by_stage, verdict)


def measure(corrections: Sequence[int], measured: int, scenes: int) -> dict[int, Outcome]:
    """Train once for each number of corrections.

    Args:
        corrections: How many to learn from.
        measured: Held-out corrections.
        scenes: How many are drawn.

    Returns:
        What became of each.
    """
    outcomes = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "scenes"
        write_samples(folder, scenes, SIDE, SEED, names=SHORTHAND)
        cores = str(len(os.sched_getaffinity(0)))  # As torch takes by itself; other fleets keep to one.
        with serving(folder) as url, fleet.Fleet.gather(Path(name), url, "of-nobody", OMP_NUM_THREADS=cores) as ours:
            ours.start(*fleet.WORKER, "--gpus", "cpu", "--queue", "train")
            ours.wait_for(ours.queue.train, 1)
            for project_id, count in enumerate(corrections, start=1):
                correct(Corrections(ours.directory), project_id, folder, count, measured)
                outcomes[count] = retrain(ours, project_id)
    return outcomes


@click.command()
@click.option("--corrections", type=click.IntRange(1), multiple=True, default=(50, 60), show_default=True)
@click.option("--held-out", type=click.IntRange(1), default=60, show_default=True, help="Corrections to measure by.")
@click.option("--scenes", type=click.IntRange(1), default=420, show_default=True, help="How many are drawn.")
@click.option("--quick", is_flag=True, help="Eight corrections, eight held-out ones; nothing is kept.")
def main(corrections: tuple[int, ...], held_out: int, scenes: int, quick: bool) -> None:
    """Measure what retraining takes and gives."""
    if quick:
        corrections, held_out, scenes = (8,), 8, 80
    outcomes = measure(corrections, held_out, scenes)
    figures: dict[str, Any] = {}
    table = Table("corrections", "s", *(f"{stage}, s" for stage in STAGES), "held-out mIoU", "anchor mIoU", "")
    for count, one in outcomes.items():
        figures |= {f"seconds_{count}": round(one.seconds, 1), f"promoted_{count}": one.ended.stage == "promoted"}
        compared = []
        for name in ("held_out", "anchor"):
            found = getattr(one.verdict, name, None)
            figures |= {f"{name}_before_{count}": found and round(found.before, 2)}
            figures |= {f"{name}_after_{count}": found and round(found.after, 2)}
            figures |= {f"{name}_gain_{count}": found and round(found.after - found.before, 2)}
            compared.append(f"{found.before:.1f} to {found.after:.1f}" if found else "-")
        seconds = (f"{one.by_stage[stage]:.1f}" for stage in STAGES)
        table.add_row(str(count), f"{one.seconds:.1f}", *seconds, *compared, one.ended.stage)
    Console(width=150).print(table)
    details = {
        str(count): {
            "by_stage_s": {stage: round(seconds, 2) for stage, seconds in one.by_stage.items()},
            "reason": one.ended.reason,
            "verdict": one.verdict.model_dump() if one.verdict else None,
        }
        for count, one in outcomes.items()
    }
    keep("retrain", figures, details | {"held_out_corrections": held_out}, quick=quick)


if __name__ == "__main__":
    main()
