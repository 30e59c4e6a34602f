"""What RQ calls: `work` for a chunk of requests, `reply` for one that a person waits for in the editor."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from rq import get_current_job
from rq.job import Job
from rq.utils import now
from structlog.contextvars import bound_contextvars

from workers import metrics, traces
from workers.bench import BENCH, Model
from workers.contract import Chunk, PredictJob, Refusal
from workers.drawing import Drawn, Fetched, draw, without_image
from workers.jobs import WORKER_DEATHS
from workers.pipeline import Pipeline

log = logging.getLogger(__name__)


def work(chunk_json: str) -> None:
    """Answer the requests of a chunk, or refuse them with a reason, or put them back.

    Args:
        chunk_json: A `Chunk`.

    Raises:
        RuntimeError: Outside of a worker.
    """
    job = get_current_job()
    if job is None:
        raise RuntimeError("a chunk is worked on where RQ runs its job, by `rsrefseg-worker run`")
    chunk = Chunk.model_validate_json(chunk_json)
    died = (job.retries_left or 0) < WORKER_DEATHS
    with bound_contextvars(job_id=job.id, project_id=chunk.project_id), traces.chunk(job.id, chunk):
        _time_wait(job, chunk.requests)
        Pipeline(BENCH.take(), chunk, job.id, died=died).run()


def reply(job_json: str) -> str:
    """Answer one request, or refuse it with a reason.

    Args:
        job_json: A `PredictJob`.

    Returns:
        An `Answer` or a `Refusal`, as JSON.
    """
    job = PredictJob.model_validate_json(job_json)
    if rq_job := get_current_job():
        _time_wait(rq_job, (job,))
    with bound_contextvars(job_id=job.key, project_id=job.project_id, task_id=job.task_id):
        model = BENCH.take().models.of(job.project_id)
        outcome = _drawn(model, job)
        with bound_contextvars(model_version=model.version):
            if isinstance(outcome, Refusal):
                metrics.ANSWERED.labels(f"refused_{outcome.move}").inc()
                log.warning("refused", extra={"move": outcome.move, "reason": outcome.reason})
                return outcome.model_dump_json()
            metrics.ANSWERED.labels("interactive").inc()
            log.info("masks ready", extra={"masks": len(outcome.segments), "seconds": round(outcome.seconds, 3)})
            return outcome.answer(model.version).model_dump_json()


def _time_wait(job: Job, requests: Sequence[PredictJob]) -> None:
    if job.enqueued_at:
        seconds = max(0.0, (now() - job.enqueued_at).total_seconds())
        metrics.STAGE_SECONDS.labels("queue").observe(seconds)
        traces.past("queue", requests, seconds)


def _drawn(model: Model, job: PredictJob) -> Drawn | Refusal:
    bench = BENCH.take()
    try:
        images, seconds = bench.images.take((job,), bench.queue.settings.predict_timeout_s)
    except Exception as exc:
        return without_image(job, exc)
    [outcome] = draw(bench, model, [Fetched(images, (job,), seconds)])
    return outcome
