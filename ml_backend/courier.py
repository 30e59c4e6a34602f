"""The only caller of Label Studio's API: brings each answer there exactly once.

To Label Studio a prediction that is sent twice is two predictions. So a delivery looks first, writes what is not there,
and looks again; whoever dies when, and however often it is repeated, one prediction remains.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from label_studio_sdk.label_interface import LabelInterface
from redis.exceptions import LockError
from redis.lock import Lock
from rq import Retry, get_current_job
from structlog.contextvars import bound_contextvars
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_exponential_jitter

from ml_backend.errors import LabelStudioAway, LabelStudioRefused, RequestRefused, TaskBusy, TaskGone
from ml_backend.label_studio import LabelStudio, Stored
from ml_backend.translate import answer_to_prediction
from workers import metrics
from workers.contract import Answer, PredictJob
from workers.errors import Move
from workers.queue import Failure, JobQueue
from workers.rollouts import Rollouts

log = logging.getLogger(__name__)

ALONE_S = 20
"""How long a delivery keeps others off its task unless it renews that, in seconds."""

POSTING_S = 24 * 3600
"""How long it is remembered that a call got no answer, in seconds."""

CONFIG_S = 60
"""How long a project's labeling config is trusted, in seconds."""

SERVER_ERROR = 500
"""What Label Studio answers when it breaks over a call: a busy database, or this very prediction."""

FOREVER = 10**9
"""Times that a delivery may go back to the queue: it waits for as long as Label Studio is away."""


@dataclass(frozen=True)
class Patience:
    """How long a courier waits for what, in seconds."""

    hold_s: float = 15 * 60
    """For Label Studio, before the delivery goes back to the queue; no other could be made meanwhile."""
    pause_s: float = 0.5
    """Between its first two attempts; then longer and longer."""
    longest_pause_s: float = 30
    later_s: int = 60
    """Until a delivery that went back to the queue comes again."""
    busy_s: int = 5
    """The same, where another delivery was at its task."""
    late_s: int = 120
    """Until it looks again after a call that got no answer: Label Studio may still carry it out."""
    errors_in_a_row: int = 5
    """How often Label Studio may answer one delivery with 500 before the others get their turn."""
    rounds_of_errors: int = 10
    """How often such a delivery comes again before it is given up."""


class Found(NamedTuple):
    """What a delivery finds on its task."""

    same: list[Stored]
    """Of its version with its regions: this delivery, done before."""
    others: list[Stored]
    """Of its version with other regions: the answer to an earlier question."""
    of_other_versions: bool
    """Whether there are any that are not its version's."""


class Courier:
    """Brings answers to one Label Studio.

    Args:
        queue: Where the answers come from.
        label_studio: Where they go.
        patience: How long to wait for what.
    """

    def __init__(self, queue: JobQueue, label_studio: LabelStudio, patience: Patience = Patience()) -> None:
        self.leaving = False
        """Set when the process is asked to end: what waits goes back to the queue."""
        self._queue = queue
        self._label_studio = label_studio
        self._patience = patience
        self._rollouts = Rollouts(queue.redis)
        self._configs: dict[int, tuple[float, LabelInterface]] = {}
        self._alone: Lock | None = None

    def deliver(self, answer: Answer) -> Retry | None:
        """Bring one answer to its task.

        Args:
            answer: The masks.

        Returns:
            When to come again; None if this delivery is over, be it that its task is gone and a failure says so.
        """
        job = answer.job
        with bound_contextvars(
            job_id=job.key, project_id=job.project_id, task_id=job.task_id, model_version=answer.model_version
        ):
            started = time.monotonic()
            prediction = answer_to_prediction(answer)
            try:
                with metrics.timed("deliver", [job]):
                    unsure = self._patiently(answer, prediction)
            except (TaskGone, RequestRefused) as exc:
                self._give_up(answer, "annotator", str(exc), "task_gone" if isinstance(exc, TaskGone) else "refused")
                return None
            except TaskBusy:
                return Retry(max=FOREVER, interval=self._patience.busy_s)
            except (LabelStudioAway, LabelStudioRefused) as exc:
                return self._later(answer, exc)
            if self._queue.settle(job):
                metrics.DELIVERED.labels("delivered").inc()
                if job.asked_at:
                    metrics.ASKED_TO_DELIVERED.observe((datetime.now(UTC) - job.asked_at).total_seconds())
            facts = {"regions": len(prediction["result"]), "score": prediction["score"]}
            log.info("prediction delivered", extra={**facts, "seconds": round(time.monotonic() - started, 3)})
            return Retry(max=FOREVER, interval=self._patience.late_s) if unsure else None

    def renew(self) -> None:
        """Keep others off the task in hand for a while longer; called beside the delivery, as long as it runs."""
        alone = self._alone
        if alone:
            with suppress(LockError):
                alone.reacquire()

    def _patiently(self, answer: Answer, prediction: dict[str, Any]) -> bool:
        # Tenacity's own stop conditions and sleeps know nothing of SIGTERM.
        held_long_enough = stop_after_delay(self._patience.hold_s)
        pause_s = self._patience.pause_s
        attempts = Retrying(
            retry=retry_if_exception(_may_pass),
            wait=wait_exponential_jitter(multiplier=pause_s, max=self._patience.longest_pause_s, jitter=pause_s),
            stop=lambda state: self.leaving or self._only_errors(state) or held_long_enough(state),
            sleep=self._nap,
            before_sleep=_say_that_we_wait,
            reraise=True,
        )
        return attempts(self._bring, answer, prediction)

    def _bring(self, answer: Answer, prediction: dict[str, Any]) -> bool:
        # Leaves exactly this prediction of its model version on the task, and says whether an earlier call got no
        # answer, so that Label Studio may still carry it out.
        job = answer.job
        with self._alone_at(job.task_id):
            unsure = self._may_still_come(job)
            found = self._look(job.task_id, prediction)
            if not found.same:
                self._check(job.project_id, prediction)
                self._create(job, prediction, unsure=unsure)
                found = self._look(job.task_id, prediction)
            for superfluous in [*found.same[1:], *found.others]:
                self._label_studio.delete_prediction(superfluous.id)
            if found.of_other_versions:
                self._rollouts.replaced(job.project_id, job.task_id)
            self._forget_posting(job)
            return unsure

    def _create(self, job: PredictJob, prediction: dict[str, Any], *, unsure: bool) -> None:
        self._queue.redis.set(_posting_key(job), 1, ex=POSTING_S)
        try:
            self._label_studio.create_prediction(job.task_id, job.project_id, prediction)
        except LabelStudioAway as exc:
            if not (exc.arrived or unsure):
                self._forget_posting(job)
            raise
        if not unsure:
            self._forget_posting(job)

    def _may_still_come(self, job: PredictJob) -> bool:
        return bool(self._queue.redis.exists(_posting_key(job)))

    def _forget_posting(self, job: PredictJob) -> None:
        self._queue.redis.delete(_posting_key(job))

    @contextmanager
    def _alone_at(self, task_id: int) -> Iterator[None]:
        lock = self._queue.redis.lock(f"rsrefseg:delivering:{task_id}", timeout=ALONE_S, thread_local=False)
        if not lock.acquire(blocking=False):
            raise TaskBusy(f"Another delivery is at task {task_id}.")
        self._alone = lock
        try:
            yield
        finally:
            self._alone = None
            with suppress(LockError):
                lock.release()

    def _look(self, task_id: int, prediction: dict[str, Any]) -> Found:
        region_ids = tuple(region["id"] for region in prediction["result"])
        stored = self._label_studio.predictions(task_id=task_id)
        mine = [one for one in stored if one.model_version == prediction["model_version"]]
        return Found(
            same=[one for one in mine if one.region_ids == region_ids],
            others=[one for one in mine if one.region_ids != region_ids],
            of_other_versions=len(mine) < len(stored),
        )

    def _check(self, project_id: int, prediction: dict[str, Any]) -> None:
        # Label Studio takes by default whatever it is sent, and its editor fails on what the config does not know.
        known = self._configs.get(project_id)
        complaints = _complaints(known[1], prediction) if known and time.monotonic() - known[0] < CONFIG_S else ["old"]
        if complaints:
            config = LabelInterface(self._label_studio.label_config(project_id))
            self._configs[project_id] = (time.monotonic(), config)
            complaints = _complaints(config, prediction)
        if complaints:
            raise RequestRefused(
                f"The labeling config of project {project_id} was changed and no longer takes this mask; "
                f"retrieve predictions again: {'; '.join(complaints)[:300]}"
            )

    def _later(self, answer: Answer, exc: LabelStudioAway | LabelStudioRefused) -> Retry | None:
        if self.leaving:
            return Retry(max=FOREVER, enqueue_at_front=True)
        if _is_server_error(exc) and _rounds_of_errors() >= self._patience.rounds_of_errors:
            self._give_up(answer, "ours", f"{exc} It did so each time; its log says why.", "label_studio_broken")
            return None
        metrics.DELIVERED.labels("put_off").inc()
        log.error("delivery put off", extra={"reason": str(exc), "seconds": self._patience.later_s})
        return Retry(max=FOREVER, interval=self._patience.later_s)

    def _give_up(self, answer: Answer, move: Move, reason: str, cause: str) -> None:
        metrics.FAILURES.labels("deliver", move, cause).inc()
        metrics.DELIVERED.labels("given_up").inc()
        log.error("prediction not delivered", extra={"move": move, "reason": reason})
        self._queue.record_failure(Failure.of(answer.job, "deliver", move, reason))

    def _only_errors(self, state: RetryCallState) -> bool:
        exc = state.outcome.exception() if state.outcome else None
        return _is_server_error(exc) and state.attempt_number >= self._patience.errors_in_a_row

    def _nap(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self.leaving and (rest := until - time.monotonic()) > 0:
            time.sleep(min(rest, 0.2))


_at_work: list[Courier] = []
"""The courier of this process: RQ calls `deliver` by its name, and hands it nothing but text."""


def employ(courier: Courier) -> None:
    """Make a courier the one of this process.

    Args:
        courier: Who delivers from now on.
    """
    _at_work[:] = [courier]


def deliver(answer_json: str) -> Retry | None:
    """Deliver an answer; this is the job that RQ calls.

    Args:
        answer_json: The answer.

    Returns:
        When to come again, or None.
    """
    (courier,) = _at_work
    return courier.deliver(Answer.model_validate_json(answer_json))


def _posting_key(job: PredictJob) -> str:
    return f"rsrefseg:posting:{job.key}"


def _may_pass(exc: BaseException) -> bool:
    # A key that is refused may be set right in Label Studio while we wait.
    return isinstance(exc, LabelStudioAway | LabelStudioRefused) and not isinstance(exc, TaskGone | RequestRefused)


def _say_that_we_wait(state: RetryCallState) -> None:
    reason = str(state.outcome.exception()) if state.outcome else ""
    log.warning("waiting for label studio", extra={"reason": reason, "attempt": state.attempt_number})


def _is_server_error(exc: BaseException | None) -> bool:
    return isinstance(exc, LabelStudioAway) and exc.status == SERVER_ERROR


def _rounds_of_errors() -> int:
    job = get_current_job()
    if job is None:
        return 1
    job.meta["rounds_of_errors"] = int(job.meta.get("rounds_of_errors", 0)) + 1
    job.save_meta()
    return int(job.meta["rounds_of_errors"])


def _complaints(config: LabelInterface, prediction: dict[str, Any]) -> list[str]:
    regions = [{**region, "value": _start(region["value"])} for region in prediction["result"]]
    complaints: list[str] = config.validate_prediction({**prediction, "result": regions}, return_errors=True)
    return complaints


def _start(value: dict[str, Any]) -> dict[str, Any]:
    # Every number of a mask is ours, and there may be millions: the first of them will do.
    return {name: part[:8] if name in ("rle", "points", "imageDataURL") else part for name, part in value.items()}
