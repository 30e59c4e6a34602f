"""The jobs that travel through RQ: what each calls, how it is named, how long it may take, how often it is tried."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator

from rq import Callback, Queue, Retry
from rq.job import Job, JobStatus
from rq.utils import now

from workers.contract import Answer, Chunk, PredictJob, TrainJob
from workers.failures import Stage
from workers.settings import Settings

GPU = "gpu"
"""The queue that workers with a model serve."""

INTERACTIVE = "interactive"
"""The queue of those who wait in the editor, once a worker serves it; until then they go to the front of `GPU`."""

TRAIN = "train"
"""The queue of jobs that train; a worker for them holds no model, so that all of its device is theirs."""

LABEL_STUDIO = "label-studio"
"""The queue that couriers serve."""

REPLY = "reply-"
"""What the names of jobs that a person waits for begin with."""

DELIVERY = "deliver-"
"""What the names of answers on their way to Label Studio begin with."""

TRAINING = "train-"
"""How the job of a project's training is called, with the project's number."""

CHUNK_REQUESTS = 64
"""Most requests in a chunk; a worker puts back what it has no time for."""

CHUNK_BYTES = 1_000_000
"""From which size on a chunk takes no more: only data URIs come near it."""

WORKER_DEATHS = 3
"""How many workers may die over one chunk before it is given up."""

DELIVER_BACKOFF_S = [5, 15, 60, 300] + [600] * 430
"""Pauses between attempts to deliver an answer, in seconds: three days in all, so that a weekend loses nothing."""

REPLY_TTL_S = 60
"""How long an interactive reply is kept for whoever waits for it, in seconds."""

DONE_TTL_S = 1
"""How long a job that is done stays, in seconds; at 0 RQ 3.0 fails every job of which an execution expired before."""

DAY_S = 24 * 3600

TRAINING_S = DAY_S
"""Longest that a training may take, in seconds; what hangs is found much earlier."""

_GIVEN_UP = "workers.given_up.on_failure"


def chunk_job(queue: Queue, chunk: Chunk, settings: Settings, *, later: bool) -> Job:
    """Make the job of a chunk.

    Args:
        queue: Of the workers with a model.
        chunk: Its requests.
        settings: For the limits.
        later: Whether its time has yet to come.

    Returns:
        The job, as old as the oldest of its requests; nothing is sent yet.
    """
    images = len({uri for request in chunk.requests for uri in request.image_uris})
    job = queue.create_job(
        "workers.predict.work",
        args=(chunk.model_dump_json(),),
        job_id=f"chunk-{uuid.uuid4().hex[:16]}",
        status=JobStatus.SCHEDULED if later else JobStatus.QUEUED,
        description=f"{len(chunk.requests)} requests of project {chunk.project_id}",
        # A bound for the whole; each image has its own, which the worker keeps.
        timeout=settings.predict_timeout_s * (images + 1),
        result_ttl=DONE_TTL_S,
        failure_ttl=settings.failure_days * DAY_S,
        # For workers that die; an image that is away is put back, to be tried again after a pause.
        retry=Retry(max=WORKER_DEATHS, enqueue_at_front=True),
        on_failure=Callback(_GIVEN_UP),
    )
    job.enqueued_at = now()
    # What is put back is as old as before.
    job.created_at = min((one.asked_at for one in chunk.requests if one.asked_at), default=job.enqueued_at)
    return job


def reply_job(queue: Queue, request: PredictJob, settings: Settings) -> Job:
    """Make the job of a request that a person waits for.

    Args:
        queue: Of the workers that serve those who wait.
        request: The request.
        settings: For the limits.

    Returns:
        The job, which nobody takes any more once nobody waits; nothing is sent yet.
    """
    return queue.create_job(
        "workers.predict.reply",
        args=(request.model_dump_json(),),
        job_id=reply_id(request.key),
        status=JobStatus.QUEUED,
        description=f"task {request.task_id} of project {request.project_id}, in the editor",
        timeout=settings.predict_timeout_s,
        result_ttl=REPLY_TTL_S,
        failure_ttl=REPLY_TTL_S,
        # After the deadline nobody waits for the reply, and who asked may have died.
        ttl=int(settings.interactive_wait_s) + 5,
    )


def delivery_job(queue: Queue, answer: Answer, settings: Settings) -> Job:
    """Make the job of an answer that Label Studio is to hold.

    Args:
        queue: Of the couriers.
        answer: What was found.
        settings: For the limits.

    Returns:
        The job, tried again for three days; nothing is sent yet.
    """
    return queue.create_job(
        "ml_backend.courier.deliver",
        args=(answer.model_dump_json(),),
        job_id=f"{DELIVERY}{answer.job.key}",
        status=JobStatus.QUEUED,
        description=f"deliver task {answer.job.task_id} of project {answer.job.project_id}",
        result_ttl=DONE_TTL_S,
        failure_ttl=settings.failure_days * DAY_S,
        retry=Retry(max=len(DELIVER_BACKOFF_S), interval=DELIVER_BACKOFF_S),
        on_failure=Callback(_GIVEN_UP),
    )


def training_job(queue: Queue, asked: TrainJob, settings: Settings) -> Job:
    """Make the job of a training.

    Args:
        queue: Of the trainers.
        asked: Which project, and why.
        settings: For the limits.

    Returns:
        The job, of which a project has one at a time; nothing is sent yet.
    """
    return queue.create_job(
        "workers.retrain.retrain",
        args=(asked.model_dump_json(),),
        job_id=training_id(asked.project_id),
        status=JobStatus.QUEUED,
        description=f"teach project {asked.project_id}",
        timeout=TRAINING_S,
        result_ttl=DONE_TTL_S,
        failure_ttl=settings.failure_days * DAY_S,
        retry=Retry(max=WORKER_DEATHS, enqueue_at_front=True),
        on_failure=Callback(_GIVEN_UP),
    )


def reply_id(key: str) -> str:
    """Name the job of a request that a person waits for.

    Args:
        key: The request's.

    Returns:
        The job's name.
    """
    return f"{REPLY}{key}"


def training_id(project_id: int) -> str:
    """Name the job of a project's training.

    Args:
        project_id: The project.

    Returns:
        The job's name.
    """
    return f"{TRAINING}{project_id}"


def requests_of(job: Job) -> tuple[Stage, tuple[PredictJob, ...]]:
    """Say what a job is about; not one that trains.

    Args:
        job: The job.

    Returns:
        How far its requests are, and those; pydantic's `ValidationError` is raised over a job of another version.
    """
    text = job.args[0]
    if job.id.startswith(DELIVERY):
        return "deliver", (Answer.model_validate_json(text).job,)
    if job.id.startswith(REPLY):
        return "predict", (PredictJob.model_validate_json(text),)
    return "predict", Chunk.model_validate_json(text).requests


def chunks_of(requests: Iterable[PredictJob]) -> Iterator[Chunk]:
    """Pack requests of one project, those about one image together, since it is encoded once for all of them.

    Args:
        requests: The requests.

    Yields:
        Chunks of at most `CHUNK_REQUESTS`.
    """
    by_image: dict[tuple[str, ...], list[PredictJob]] = defaultdict(list)
    for request in requests:
        by_image[request.image_uris].append(request)
    some: list[PredictJob] = []
    size = 0
    for request in (request for about_one in by_image.values() for request in about_one):
        some.append(request)
        size += sum(map(len, request.image_uris))
        if len(some) == CHUNK_REQUESTS or size > CHUNK_BYTES:
            yield Chunk(requests=tuple(some))
            some, size = [], 0
    if some:
        yield Chunk(requests=tuple(some))
