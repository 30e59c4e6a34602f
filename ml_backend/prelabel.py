"""The bulk door: pages through a project and submits every task that has no prediction of the served model version.

Nothing is kept between two runs: what is in Label Studio or on its way is passed over, so a run that was interrupted,
wherever that was, is finished by the next one.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_delay, wait_exponential_jitter

from ml_backend.errors import LabelStudioAway
from ml_backend.intake import Taken, most_at_once, take_in
from ml_backend.label_config import LabelConfig, read_label_config
from ml_backend.label_studio import LabelStudio, pages
from ml_backend.options import Options
from ml_backend.protocol import ListedTask
from workers.contract import PredictJob
from workers.queue import JobQueue, QueueFull, RedisAway

PATIENCE_S = 60.0
"""How long a Label Studio or a Redis that is away is waited for."""

LONGEST_PAUSE_S = 15.0
"""Most seconds between two attempts, also at a full queue."""

LOOK_S = 0.2
"""How often the requests on their way are looked at, in seconds."""

LOOKED_AT = 500
"""How many of them, the oldest first."""

QUIET_S = 60.0
"""After how long without any mask the person who waits is told where to look."""

NO_VERSION = (
    "No worker ever said which model version it serves, so every task is enqueued, whatever predictions it has; "
    "start one with `rsrefseg-worker run`."
)


@dataclass
class Tally:
    """What a run came to, in tasks."""

    project: int
    model_version: str | None = None
    """What the tasks were looked through for."""
    tasks: int = 0
    """Looked at: each is one of the next four."""
    enqueued: int = 0
    already: int = 0
    """Had a prediction of the model version."""
    in_flight: int = 0
    """Were on their way before."""
    unaskable: int = 0
    """Lack image or expression; listed as failures."""
    delivered: int | None = None
    """Of those enqueued and in flight; None where nobody waited for them."""
    failed: int | None = None
    complete: bool = False
    """Whether the project's last task was looked at."""
    seconds: float = 0.0

    def __str__(self) -> str:
        parts = [f"{self.enqueued} enqueued"]
        if self.already:
            parts.append(f"{self.already} have a prediction of {self.model_version}")
        if self.in_flight:
            parts.append(f"{self.in_flight} were on their way")
        if self.unaskable:
            parts.append(f"{self.unaskable} cannot be asked")
        said = f"Project {self.project}: of {self.tasks} tasks looked at, {', '.join(parts)}."
        if self.failed is not None:
            said += f" {self.delivered} masks delivered, {self.failed} failed."
        if self.failed or self.unaskable:
            said += " `rsrefseg-worker status` lists the reasons."
        return said


class Rate(ProgressColumn):
    """How many tasks pass in a second."""

    def render(self, task: Task) -> Text:
        """Write the rate of the last half minute.

        Args:
            task: The bar.

        Returns:
            The rate, or nothing before there is one.
        """
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.1f}/s")


class Prelabel:
    """One run over one project.

    Args:
        queue: Where the requests go.
        label_studio: Where the tasks are.
        project_id: The project.
        console: Where progress is shown.
        patience_s: How long a Label Studio or a Redis that is away is waited for, in seconds.
    """

    def __init__(
        self,
        queue: JobQueue,
        label_studio: LabelStudio,
        project_id: int,
        console: Console,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.tally = Tally(project_id)
        """What it has come to so far."""
        self._queue = queue
        self._label_studio = label_studio
        self._project_id = project_id
        self._console = console
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=console)
        # The keys of requests to wait for, oldest first: all that is kept of a task that was enqueued.
        self._pending: deque[bytes] = deque()
        pauses = wait_exponential_jitter(multiplier=0.5, max=LONGEST_PAUSE_S, jitter=0.5)
        self._through_outages = Retrying(
            retry=retry_if_exception_type((LabelStudioAway, RedisAway)),
            stop=stop_after_delay(patience_s),
            wait=pauses,
            before_sleep=self._say_why,
            reraise=True,
        )
        self._until_there_is_room = Retrying(
            retry=retry_if_exception_type(QueueFull), wait=pauses, before_sleep=self._say_why
        )

    def run(self, limit: int | None = None, *, wait: bool = False) -> None:
        """Submit what is missing; `tally` says what it came to, also after an exception.

        Args:
            limit: Most tasks to enqueue.
            wait: Stay until what was found or put on its way is delivered or has failed.
        """
        began = time.monotonic()
        try:
            with self._progress:
                self._enqueue(limit, remember=wait)
                if wait:
                    self._wait()
        finally:
            self.tally.seconds = round(time.monotonic() - began, 3)

    def _enqueue(self, limit: int | None, *, remember: bool) -> None:
        bar = self._progress.add_task("looking through the tasks", total=None)
        patiently = self._through_outages
        xml = patiently(self._label_studio.label_config, self._project_id)
        config = read_label_config(xml, Options.kept(patiently(self._queue.options, self._project_id)))
        version = self.tally.model_version = patiently(self._queue.model_version, self._project_id)
        if version is None:
            self._console.print(NO_VERSION, style="yellow")
        for page in pages(lambda after: patiently(self._label_studio.tasks, self._project_id, after)):
            total = self.tally.tasks + page.total
            missing = [task for task in page.tasks if version not in task.model_versions]
            self.tally.tasks += len(page.tasks) - len(missing)
            self.tally.already += len(page.tasks) - len(missing)
            while missing and (limit is None or self.tally.enqueued < limit):
                few = self._few(limit)
                jobs = self._take_in(missing[:few], config, version)
                missing = missing[few:]
                if remember:
                    self._pending.extend(bytes.fromhex(job.key) for job in jobs)
                self._progress.update(bar, total=total, completed=self.tally.tasks)
            self._progress.update(bar, total=total, completed=self.tally.tasks)
            if missing:
                return
        self.tally.complete = True

    def _few(self, limit: int | None) -> int:
        few = most_at_once(self._queue.settings)
        return few if limit is None else min(few, limit - self.tally.enqueued)

    def _take_in(self, tasks: Sequence[ListedTask], config: LabelConfig, version: str | None) -> Sequence[PredictJob]:
        taken: Taken = self._until_there_is_room(
            self._through_outages, take_in, self._queue, tasks, self._project_id, config, version or ""
        )
        self.tally.tasks += len(tasks)
        self.tally.enqueued += taken.new
        self.tally.in_flight += len(taken.jobs) - taken.new
        self.tally.unaskable += taken.unaskable
        return taken.jobs

    def _wait(self) -> None:
        bar = self._progress.add_task("waiting for the masks", total=len(self._pending))
        self.tally.delivered = self.tally.failed = 0
        heard_at = time.monotonic()
        while self._pending:
            oldest = [self._pending.popleft().hex() for _ in range(min(LOOKED_AT, len(self._pending)))]
            states = self._through_outages(self._queue.states, self._project_id, oldest)
            self.tally.delivered += states.count("delivered")
            self.tally.failed += states.count("failed")
            still = [key for key, state in zip(oldest, states, strict=True) if state == "in flight"]
            self._pending.extendleft(bytes.fromhex(key) for key in reversed(still))
            self._progress.update(bar, completed=self.tally.delivered + self.tally.failed)
            if len(still) < len(oldest):
                heard_at = time.monotonic()
            elif time.monotonic() - heard_at > QUIET_S:
                self._console.print(
                    f"Nothing came for {QUIET_S:g} s: `rsrefseg-worker status` shows who works on what."
                )
                heard_at = time.monotonic()
            if still:
                time.sleep(LOOK_S)

    def _say_why(self, state: RetryCallState) -> None:
        if state.attempt_number == 1 and state.outcome:
            self._console.print(f"{state.outcome.exception()} Trying again.", style="yellow", markup=False)
