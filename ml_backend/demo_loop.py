"""`make demo-loop`: masks are drawn, corrected, learnt from and drawn anew, all on this machine."""

from __future__ import annotations

import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import cv2
import httpx
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ml_backend import brush
from ml_backend.curve import draw, learning_curve, tables
from ml_backend.demo_project import DemoProject, Sample, draw_scenes, image_at, local_uri, read_samples
from ml_backend.errors import StartFailed
from ml_backend.label_studio import LabelStudio
from ml_backend.prelabel import Prelabel
from ml_backend.regions import iou
from ml_backend.selections import Selections
from ml_backend.stage import Stage, end_on_sigterm
from workers.contract import Training, TrainJob
from workers.corrections import Corrections, is_held_out
from workers.registry import Registry
from workers.settings import Settings

TAUGHT, MEASURED, LEFT = 60, 60, 20
"""Tasks that are corrected for the model to learn from, corrected to measure it by, and left to be drawn anew.

Where there are few, a quarter of those that are not held out is left.
"""

SEED = 960_000
"""Of the first drawn scene; those that the weights learnt from and are measured by have others."""

ACCEPTED_IOU = 0.9
"""From which agreement on an annotator leaves a mask as it is."""

HUMAN_S = 2.0
"""Pause between two submissions at human pace."""

QUIET_LIMIT_S = 600
"""How long nothing may change before the loop gives up."""

ON_REQUEST = {"RSREFSEG_RETRAIN_AFTER": "0", "RSREFSEG_RETRAIN_HOURS": "0"}
"""Settings by which no training begins by itself: the loop asks for one when all is corrected."""

ENDS = ("promoted", "refused", "failed")

MASKS = "masks"
"""The folder beside the images that holds the truth: white on black, under the image's name, as PNG; where there are
several expressions about an image, its name ends in -1, -2 and so on, in their order."""


@dataclass(frozen=True)
class Figures:
    """What the loop came to; mIoU in percent."""

    miou_before: float | None
    """On the held-out scenes, of what drew the first masks."""
    miou_after: float | None
    anchor_before: float | None
    """On scenes of what the base was taught."""
    anchor_after: float | None
    promoted: bool
    failed: bool
    """Whether the training broke off."""
    seconds_retrain: float
    version: str | None
    corrections: int
    """That were learnt from."""
    redrawn: int
    """Tasks that nobody had annotated, and that have a mask of the new version now."""
    curve: str
    """Where the learning curve is drawn."""


@dataclass(frozen=True)
class Errand:
    """A task for a scripted annotator, who knows the truth."""

    task_id: int
    mask: Path
    """Where the truth is."""
    measured: bool
    """Whether its scene is held out."""

    @classmethod
    def of(cls, task: dict[str, Any], folder: Path, masks: Mapping[Sample, Path]) -> Self:
        """Look at a task of the project.

        Args:
            task: Its id and data.
            folder: Of the images.
            masks: Where the truth is.

        Returns:
            What is to be done about it.
        """
        uri, expression = task["data"]["image"], task["data"]["expression"]
        return cls(task["id"], masks[Sample(image_at(uri, folder), expression)], is_held_out(uri))

    def truth(self) -> np.ndarray:
        """Read what the expression refers to.

        Returns:
            (h, w) bool.

        Raises:
            StartFailed: If the mask cannot be read.
        """
        mask = cv2.imread(str(self.mask), cv2.IMREAD_GRAYSCALE)
        if mask is None:
            raise StartFailed(f"{self.mask} is no image: the scripted annotators draw what they find there")
        return np.asarray(mask > 127)


def find_masks(samples: Sequence[Sample]) -> dict[Sample, Path]:
    """Find the truth about each sample, before anybody is asked to draw it.

    Args:
        samples: Images with their expressions.

    Returns:
        The file of each.

    Raises:
        StartFailed: If one is missing.
    """
    about: dict[Path, list[Sample]] = defaultdict(list)
    for sample in dict.fromkeys(samples):
        about[sample.image].append(sample)
    found = {}
    for image, several in about.items():
        for number, sample in enumerate(several, start=1):
            name = image.stem if len(several) == 1 else f"{image.stem}-{number}"
            found[sample] = image.parent / MASKS / f"{name}.png"
            if not found[sample].is_file():
                raise StartFailed(
                    f"{found[sample]} is missing: the scripted annotators draw what they find there for "
                    f"{sample.expression!r} in {image.name}"
                )
    return found


class Annotators:
    """Who correct masks by a script, through Label Studio's API, as the editor does.

    Args:
        url: Of Label Studio.
        token: Of its user.
        transport: How it is reached; over the network by default.
    """

    def __init__(self, url: str, token: str, transport: httpx.BaseTransport | None = None) -> None:
        headers = {"Authorization": f"Token {token}"}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=60, transport=transport)

    def correct(self, errand: Errand) -> bool:
        """Submit what is right.

        Args:
            errand: The task.

        Returns:
            Whether the mask was right already.
        """
        shown = self._http.get("/api/predictions", params={"task": errand.task_id}).raise_for_status().json()
        truth = errand.truth()
        began, result = None, []
        if shown:
            began = max(shown, key=lambda prediction: int(prediction["id"]))
            result = began["result"]
        right = iou(drawn(result, truth.shape), truth) >= ACCEPTED_IOU
        if not right:
            result = [_region(truth)]
        sent = {"result": result, "parent_prediction": began and began["id"], "lead_time": 8.0}
        self._http.post(f"/api/tasks/{errand.task_id}/annotations/", json=sent).raise_for_status()
        return right


class DemoLoop:
    """One run.

    Args:
        settings: Where data lives; the loop keeps to `<data>/demo-loop`.
        label_studio: The `label-studio` command of its own environment.
        images: The user's folder, with the truth under `masks/`; None for drawn ones in shorthand.
    """

    def __init__(self, settings: Settings, label_studio: Path, images: Path | None) -> None:
        self._home = settings.data / "demo-loop"
        self._settings = settings
        self._label_studio = label_studio
        self._images = images.resolve() if images else None
        self._console = Console(stderr=True)

    def run(self, *, once: bool) -> Figures:
        """Do all of it.

        Args:
            once: Correct as fast as Label Studio takes it, and end; else at human pace, and stay up until Ctrl-C.

        Returns:
            What it came to.
        """
        end_on_sigterm()
        self._home.mkdir(parents=True, exist_ok=True)
        folder = self._images or self._draw()
        samples = _enough(read_samples(folder), folder)
        masks = find_masks(samples)
        with Stage.set_up(
            self._settings, self._home, self._label_studio, folder.parent, self._console, trains=ON_REQUEST
        ) as stage:
            # Each run is a project of its own: the corrections of another would be known already.
            project = DemoProject(stage.server, f"RSRefSeg loop {datetime.now():%Y-%m-%d %H:%M:%S}")
            project.fill(samples, folder)
            project.connect(stage.queue, stage.url)
            self._say(f"Label Studio  {stage.server.url}/projects/{project.id}/data")
            self._say(f"status page   {stage.url}/")
            self._say(f"user {stage.server.username}, password {stage.server.password}")
            errands = [Errand.of(task, folder, masks) for task in project.tasks()]
            self._prelabel(stage, project)
            self._correct(stage, project, errands, 0.0 if once else HUMAN_S)
            training = self._retrain(stage, project)
            redrawn = self._redrawn(stage, project, training) if training.stage == "promoted" else 0
            figures = self._figures(project, training, redrawn)
            if not once:
                self._say("The loop is closed. Ctrl-C stops everything.")
                stage.stay()
        return figures

    def _draw(self) -> Path:
        folder, count = self._home / "shorthand", 5 * MEASURED  # One in five is held out, whatever anybody wishes.
        with self._console.status(f"drawing {count} scenes, spoken of in shorthand"):
            draw_scenes(folder, "--count", str(count), "--seed", str(SEED), "--names", "shorthand")
        return folder

    def _prelabel(self, stage: Stage, project: DemoProject) -> None:
        with closing(LabelStudio.of(stage.queue.settings)) as label_studio:
            work = Prelabel(stage.queue, label_studio, project.id, self._console)
            work.run(wait=True)
        self._say(str(work.tally))

    def _correct(self, stage: Stage, project: DemoProject, errands: Sequence[Errand], pause_s: float) -> None:
        annotators = Annotators(stage.server.url, stage.server.token)
        done = project.annotated()
        taught = [errand for errand in errands if not errand.measured]
        measured = [errand for errand in errands if errand.measured]
        left = min(LEFT, len(taught) // 4)
        corrected = taught[: min(TAUGHT, len(taught) - left)]
        # The held-out ones too: they say whether it was any use.
        chosen = [*corrected, *measured]
        self._say(
            f"Of {len(errands)} tasks {len(corrected)} are corrected to learn from, {len(measured)} of held-out scenes "
            f"to measure by, and {len(taught) - len(corrected)} left to be drawn anew."
        )
        right = 0
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self._console) as progress:
            bar = progress.add_task("correcting masks", total=len(chosen))
            for errand in chosen:
                if errand.task_id not in done:
                    right += annotators.correct(errand)
                    time.sleep(pause_s)
                progress.advance(bar)
        self._say(f"{len(chosen)} tasks corrected, {right} of them right already.")
        store = Corrections(stage.queue.settings.data)
        self._until(stage, lambda: sum(1 for _ in store.of(project.id)) >= len(chosen), "the courier gathers them")

    def _retrain(self, stage: Stage, project: DemoProject) -> Training:
        before = stage.queue.trainings().get(project.id)
        stage.queue.ask_training(TrainJob(project_id=project.id, why="asked"))
        said = ""
        heard_at = time.monotonic()
        while True:
            training = stage.queue.trainings().get(project.id)
            if training and training != before:
                if training.stage in ENDS:
                    self._say(f"{training.stage}: {training.reason}")
                    return training
                done, of = training.gone_through
                line = f"{training.stage} {done}/{of}"
                if line != said:
                    said, heard_at = line, time.monotonic()
                    if done % 20 == 0:
                        self._say(f"{line}" + ("" if training.loss is None else f", loss {training.loss:.2f}"))
            if time.monotonic() - heard_at > QUIET_LIMIT_S:
                raise StartFailed(f"the training says nothing any more; its log is {self._home / 'trainer.log'}")
            stage.processes.mend()
            time.sleep(0.5)

    def _redrawn(self, stage: Stage, project: DemoProject, training: Training) -> int:
        def left() -> set[int]:
            drawn = {p["task"] for p in project.predictions() if p["model_version"] == training.version}
            return {task["id"] for task in project.tasks()} - project.annotated() - drawn

        open_tasks = len(project.tasks()) - len(project.annotated())
        self._until(stage, lambda: not left(), "masks of tasks that nobody annotated are drawn anew")
        self._until(stage, lambda: project.model_version() == training.version, "Label Studio shows the new version")
        return open_tasks

    def _figures(self, project: DemoProject, training: Training, redrawn: int) -> Figures:
        registry = Registry(self._home)
        made = registry.get(project.id, training.version) if training.version else None
        verdict = made.verdict if made else None
        held_out, anchor = (verdict.held_out, verdict.anchor) if verdict else (None, None)
        curve = self._home / "curve.png"
        found = learning_curve(registry, Corrections(self._home), Selections(self._home), project.id)
        draw(found, curve)
        self._console.print(tables(found))
        return Figures(
            miou_before=held_out.before if held_out else None,
            miou_after=held_out.after if held_out else None,
            anchor_before=anchor.before if anchor else None,
            anchor_after=anchor.after if anchor else None,
            promoted=training.stage == "promoted",
            failed=training.stage == "failed",
            seconds_retrain=round((training.at - training.began_at).total_seconds(), 1),
            version=training.version,
            corrections=training.corrections,
            redrawn=redrawn,
            curve=str(curve),
        )

    def _until(self, stage: Stage, there: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + QUIET_LIMIT_S
        with self._console.status(what):
            while not there():
                if time.monotonic() > deadline:
                    raise StartFailed(f"this took longer than {QUIET_LIMIT_S} s: {what}; the logs are in {self._home}")
                stage.processes.mend()
                time.sleep(0.5)

    def _say(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False)


def _enough(samples: Sequence[Sample], folder: Path) -> list[Sample]:
    # As many as are corrected, and some that are drawn anew; in their order.
    held_out = [is_held_out(local_uri(sample.image, folder)) for sample in samples]
    taught = [sample for sample, measured in zip(samples, held_out, strict=True) if not measured]
    measured = [sample for sample, measured in zip(samples, held_out, strict=True) if measured]
    wanted = {*taught[: TAUGHT + LEFT], *measured[:MEASURED]}
    return [sample for sample in samples if sample in wanted]


def drawn(result: Sequence[dict[str, Any]], size_hw: tuple[int, ...]) -> np.ndarray:
    """Lay the brush regions of a prediction over each other.

    Args:
        result: Its regions, as Label Studio holds them.
        size_hw: Of the image.

    Returns:
        (h, w) bool.
    """
    mask = np.zeros(size_hw, bool)
    for region in result:
        mask |= brush.decode(region["value"]["rle"], (size_hw[0], size_hw[1]))
    return mask


def _region(mask: np.ndarray) -> dict[str, Any]:
    return {
        "id": f"truth-{secrets.token_hex(4)}",
        "from_name": "mask",
        "to_name": "image",
        "type": "brushlabels",
        "original_width": mask.shape[1],
        "original_height": mask.shape[0],
        "image_rotation": 0,
        "value": {"format": "rle", "rle": brush.encode(mask), "brushlabels": ["target"]},
    }
