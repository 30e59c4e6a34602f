"""Asks for a training by hand, and watches it to its end."""

from __future__ import annotations

import time
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ml_backend.chain import alive
from ml_backend.dataset import NOTHING_YET
from ml_backend.errors import StartFailed
from ml_backend.new_corrections import ENDS, NewCorrections
from workers.changes import Changes
from workers.contract import Training, TrainJob
from workers.queue import LABEL_STUDIO, TRAIN, JobQueue
from workers.status import status_of

GATHER_S = 60.0
"""How long the courier may take to gather what people did just now, in seconds."""

LOOK_S = 0.5
"""How often it is looked how far the training is, in seconds."""

EXIT_CODES = {"promoted": 0, "failed": 1, "refused": 2}

STAGES = {
    "waiting": "waiting for a trainer",
    "collecting": "collecting corrections and their images",
    "learning": "learning",
    "scoring": "measuring against the champion",
}


class Asked(NamedTuple):
    """What became of the wish."""

    asked: bool
    """Not where a training of the project is on its way already."""
    new: int
    """Corrections that no training has looked at."""
    trainers: int
    """Processes that train."""
    gathered: bool
    """Whether all that people did before is among the corrections."""


class Retrain:
    """One wish.

    Args:
        queue: Where trainings are asked for.
        project_id: Of which project.
        console: Where it is said what happens.
    """

    def __init__(self, queue: JobQueue, project_id: int, console: Console) -> None:
        self._queue = queue
        self._project_id = project_id
        self._console = console
        self._before: Training | None = None

    def ask(self, *, promote: bool = False) -> Asked:
        """Ask for a training of all that was gathered, and say what happens.

        Args:
            promote: Promote the outcome whatever the gate says of it.

        Returns:
            What became of it.

        Raises:
            StartFailed: If there is nothing to learn from.
        """
        settings = self._queue.settings
        status = status_of(self._queue)
        with self._console.status("The courier looks through the project."):
            gathered = bool(alive(status, LABEL_STUDIO)) and self._gather()
        corrections = NewCorrections(settings.data)
        self._before = self._queue.trainings().get(self._project_id)
        new = corrections.of(self._project_id, self._before).corrections
        if self._project_id not in corrections.projects():
            raise StartFailed(NOTHING_YET.format(project=self._project_id))
        asked = self._queue.ask_training(TrainJob(project_id=self._project_id, why="asked", promote=promote))
        trainers = len(alive(status, TRAIN))
        said = f"{new} corrections of project {self._project_id} are new."
        if asked:
            said = f"Asked for a training: {said}"
        else:
            said = f"A training is on its way already, and stays as it was asked for. {said}"
        self._console.print(said)
        if not gathered:
            self._console.print(
                "What people did since the courier last looked is not among them: no courier answers.", style="yellow"
            )
        if not trainers:
            self._console.print(
                "No trainer runs, so it waits: start one with `rsrefseg-worker run --queue train`.", style="yellow"
            )
        return Asked(asked, new, trainers, gathered)

    def wait(self) -> Training:
        """Watch the training until it ends.

        Returns:
            How it ended.
        """
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}"),
        )
        with Progress(*columns, TimeElapsedColumn(), console=self._console) as progress:
            bar = progress.add_task(STAGES["waiting"], total=None, facts="")
            while True:
                training = self._queue.trainings().get(self._project_id)
                # What is said of the former training is not what becomes of this one.
                if training is not None and training != self._before:
                    if training.stage in ENDS:
                        break
                    done, of = training.gone_through
                    progress.update(
                        bar,
                        description=STAGES[training.stage],
                        total=of or None,
                        completed=done,
                        facts=_facts(training),
                    )
                time.sleep(LOOK_S)
        self._console.print(_outcome(training), markup=False)
        return training

    def _gather(self) -> bool:
        changes = Changes(self._queue.redis, self._queue.settings.reconcile_s)
        wanted = changes.want(self._project_id)
        deadline = time.monotonic() + GATHER_S
        while not changes.looked_through_since(self._project_id, wanted):
            if time.monotonic() > deadline:
                return False
            time.sleep(LOOK_S)
        return True


def _facts(training: Training) -> str:
    found = [f"{training.corrections} corrections"] if training.corrections else []
    if training.loss is not None:
        found.append(f"loss {training.loss:.3f}")
    if training.before is not None:
        after = "" if training.after is None else f" -> {training.after:.1f}"
        found.append(f"held-out mIoU {training.before:.1f}{after}")
    return ", ".join(found)


def _outcome(training: Training) -> str:
    said = {
        "promoted": f"{training.version} serves project {training.project_id} now.",
        "refused": f"{training.version or 'Nothing'} was not promoted.",
        "failed": "The training has failed.",
    }[training.stage]
    return f"{said} {training.reason}".rstrip()
