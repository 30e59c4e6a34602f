"""What a worker does with one request: fetch the image, find what each expression names, hand the answer over."""

from __future__ import annotations

import logging
import time
import uuid

from rq import Retry, get_current_job
from rq.timeouts import JobTimeoutException
from structlog.contextvars import bound_contextvars
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_exponential

from rsrefseg.errors import BadRequest
from workers.bench import at_hand
from workers.contract import Answer, Found, PredictJob, Refusal, Rle
from workers.errors import ImageAway, ImageRefused, RedisAway
from workers.failures import Failure

log = logging.getLogger(__name__)

BACKOFF_S = [5, 30, 120, 600]
"""Pauses before an image that was away is asked for again, in seconds."""


def predict(job_json: str) -> str | Retry | None:
    """Answer one request, or refuse it with a reason.

    Args:
        job_json: A `PredictJob`.

    Returns:
        The reply to an interactive request, a `Retry` when the image is away, else nothing: the courier has the answer.

    Raises:
        RedisAway: If nobody can be told; the request is still in Redis and comes again.
    """
    job = PredictJob.model_validate_json(job_json)
    with bound_contextvars(job_id=job.key, project_id=job.project_id, task_id=job.task_id):
        try:
            return _hand_over(_answer(job))
        except ImageRefused as exc:
            return _hand_over(Refusal(job=job, move=exc.move, reason=str(exc)))
        except BadRequest as exc:
            return _hand_over(Refusal(job=job, move="annotator", reason=f"{exc}."))
        except ImageAway as exc:
            return _try_again(job, exc) or _hand_over(Refusal(job=job, move="wait", reason=str(exc)))
        except JobTimeoutException:
            reason = "It took longer than RSREFSEG_PREDICT_TIMEOUT_S allows."
            return _hand_over(Refusal(job=job, move="ours", reason=reason))
        except RedisAway:
            raise
        except Exception:
            return _hand_over(Refusal(job=job, move="ours", reason=_log_broken()))


def _answer(job: PredictJob) -> Answer:
    started = time.monotonic()
    bench = at_hand()
    image = bench.images.fetch(job.image_uri, job.task_id)
    segments = bench.predictor.segment(image, [ask.expression for ask in job.asks])
    found = tuple(
        Found(
            expression=ask.expression,
            label=ask.label,
            mask=Rle.from_mask(segment.mask),
            score=segment.score,
            predicted_iou=segment.predicted_iou,
        )
        for ask, segment in zip(job.asks, segments, strict=True)
    )
    seconds = time.monotonic() - started
    log.info("masks ready", extra={"masks": len(found), "seconds": round(seconds, 3), "size_hw": image.shape[:2]})
    return Answer(job=job, model_version=bench.predictor.version, found=found, seconds=seconds)


def _try_again(job: PredictJob, away: ImageAway) -> Retry | None:
    rq_job = get_current_job()
    if job.interactive or rq_job is None or (rq_job.number_of_retries or 0) >= away.tries:
        return None
    log.info("image away", extra={"reason": str(away), "attempt": (rq_job.number_of_retries or 0) + 1})
    return Retry(max=len(BACKOFF_S), interval=BACKOFF_S)


# The masks are worth waiting for a Redis that restarts: else the whole job runs again.
@retry(
    retry=retry_if_exception_type(RedisAway), wait=wait_exponential(0.1, max=2), stop=stop_after_delay(30), reraise=True
)
def _hand_over(reply: Answer | Refusal) -> str | None:
    if isinstance(reply, Refusal):
        log.warning("refused", extra={"move": reply.move, "reason": reply.reason})
    if reply.job.interactive:
        return reply.model_dump_json()
    if isinstance(reply, Answer):
        at_hand().queue.deliver(reply)
    else:
        at_hand().queue.record_failure(Failure.of(reply.job, "predict", reply.move, reply.reason))
    return None


def _log_broken() -> str:
    error_id = uuid.uuid4().hex[:8]
    log.exception("prediction broke", extra={"error_id": error_id})
    return f"Something of ours broke; the log names it {error_id}."
