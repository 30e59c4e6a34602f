"""The routes of Label Studio and operators: validate, enqueue, answer; wait for the model only if a person waits."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from flask import Flask, Response, g, jsonify, request
from prometheus_client import CONTENT_TYPE_LATEST
from redis import ConnectionPool
from werkzeug.exceptions import HTTPException

from ml_backend import access
from ml_backend.body import TaskFile, reading
from ml_backend.errors import BadRequest, Malformed, Unaskable, Unauthorised
from ml_backend.gesture import Gesture, read_gesture
from ml_backend.intake import check_room, take_in
from ml_backend.label_config import LabelConfig, read_label_config
from ml_backend.limits import limit
from ml_backend.openapi import openapi
from ml_backend.options import Options
from ml_backend.protocol import START_TRAINING, Context, PredictRequest, SetupRequest, Task, Webhook, read_as
from ml_backend.status_page import StatusPage
from ml_backend.translate import answer_to_prediction, task_to_job
from workers import fleet, metrics, traces
from workers.contract import Answer, PredictJob
from workers.queue import Event, JobQueue, QueueFull, RedisAway
from workers.settings import Settings

log = logging.getLogger(__name__)

BODY_LIMIT = 250 * 1024 * 1024
"""Largest request, in bytes; the same as Label Studio's own limit."""

FREE_THREADS = 4
"""Threads that never wait for a worker, so that /health and /webhook answer at once whatever the GPUs do."""

REDIS_RETRY_S = 5
"""What we tell the caller to wait when Redis is away."""

REASON_LIMIT = 400
"""Longest sentence put into the status line, in characters."""

KEPT_EVENTS = frozenset({
    "ANNOTATION_CREATED",
    "ANNOTATION_UPDATED",
    "ANNOTATIONS_CREATED",
    "ANNOTATIONS_DELETED",
    "PROJECT_UPDATED",
    START_TRAINING,
    "TASKS_CREATED",
    "TASKS_DELETED",
})
"""The webhooks that later work wants to know of."""


def create_app(settings: Settings, queue: JobQueue, counted_in: ConnectionPool | None = None) -> Flask:
    """Build the web application.

    Args:
        settings: How long people may wait.
        queue: Where requests go.
        counted_in: Connections to the Redis that counts who asks how often; without them nobody is limited.

    Returns:
        The WSGI application.
    """
    routes = Routes(settings, queue)
    app = Flask("rsrefseg-backend", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = BODY_LIMIT
    app.before_request(_begin)
    if counted_in is not None:
        limit(app, settings, counted_in)
    app.before_request(routes.check_caller)
    app.after_request(_count)
    app.add_url_rule("/health", view_func=routes.health, methods=["GET"])
    app.add_url_rule("/setup", view_func=routes.setup, methods=["POST"])
    app.add_url_rule("/predict", view_func=routes.predict, methods=["POST"])
    app.add_url_rule("/webhook", view_func=routes.webhook, methods=["POST"])
    app.add_url_rule("/versions", view_func=routes.versions, methods=["GET"])
    app.add_url_rule("/metrics", view_func=routes.metrics, methods=["GET"])
    app.add_url_rule("/counts", view_func=routes.counts, methods=["GET"])
    app.add_url_rule("/openapi.json", view_func=routes.openapi, methods=["GET"])
    app.register_blueprint(StatusPage(settings, queue).routes())
    app.register_error_handler(Unauthorised, _unauthorised)
    app.register_error_handler(BadRequest, _bad_request)
    app.register_error_handler(QueueFull, _queue_full)
    app.register_error_handler(RedisAway, _redis_away)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _unexpected)
    return app


class Routes:
    """What each route does.

    Args:
        settings: How long people may wait.
        queue: Where requests go.
    """

    def __init__(self, settings: Settings, queue: JobQueue) -> None:
        self.settings = settings
        self.queue = queue
        most = max(1, settings.web_threads - FREE_THREADS)
        self._waiting = threading.BoundedSemaphore(most)
        # Who typed waits for nothing else, who opened a task is served by the courier as well: never more than a half.
        self._opening = threading.BoundedSemaphore(max(1, most // 2))

    def check_caller(self) -> None:
        """Let nobody in who does not show the name and the password of the settings; a webhook may show its secret.

        Raises:
            Unauthorised: If they are missing or wrong.
        """
        header = request.headers.get("Authorization", "")
        if access.shows_webhook_secret(request.path, header):
            return
        if not access.knows_password(self.settings, header):
            raise Unauthorised(
                "This backend asks for a name and a password: enter those of RSREFSEG_BASIC_USER and "
                "RSREFSEG_BASIC_PASSWORD where Label Studio connects the model (Basic authentication).",
                "Basic",
            )

    def health(self) -> dict[str, Any]:
        """Say whether requests can be taken.

        Returns:
            UP, and the version of the workers' base if one ever announced it: nobody says for which project they ask.
        """
        self.queue.ping()
        return {"status": "UP", **self._version(None)}

    def setup(self) -> dict[str, Any]:
        """Check the labeling config, and promise the version that predictions will carry.

        Returns:
            The model version; nothing while no worker ever announced one.
        """
        return self.promise(read_as(SetupRequest, request.get_data(cache=False)))

    def promise(self, sent: SetupRequest) -> dict[str, Any]:
        """Answer a /setup, however it came.

        Args:
            sent: The request.

        Returns:
            The version that serves the project; nothing while no worker ever announced one.
        """
        read_label_config(sent.label_config, sent.extra_params)
        # Label Studio sends the extra parameters here alone.
        self.queue.keep_options(sent.project, sent.extra_params.to_keep())
        return self._version(sent.project)

    def predict(self) -> dict[str, Any]:
        """Take tasks, and answer what can be answered now.

        Returns:
            For each task an empty list, which Label Studio takes for "not yet": the courier delivers. For a person who
            waits in the editor, the regions.
        """
        with traces.call("/predict", request.headers.get("traceparent")), reading(request.stream) as (sent, tasks):
            return {"results": self.answer(sent, tasks)}

    def answer(self, sent: PredictRequest, tasks: TaskFile) -> list[Any]:
        """Answer a /predict, however it came.

        Args:
            sent: The request.
            tasks: What it is about.

        Returns:
            For each task an empty list or, for a person who waits in the editor, the regions.
        """
        config = read_label_config(sent.label_config, Options.kept(self.queue.options(sent.project)))
        version = self.queue.model_version(sent.project) or ""
        context = sent.params.context
        if context is not None:
            return [self._draw(task, sent, config, version, context) for some in tasks.batches() for task in some]
        self._enqueue(tasks, sent.project, config, version)
        return [[]] * len(tasks)

    def webhook(self) -> dict[str, Any]:
        """Keep what happened; Label Studio waits one second and never repeats itself, so nothing else is done here.

        Returns:
            Whether the event was kept, now or when it came before.
        """
        sent = read_as(Webhook, request.get_data(cache=False))
        self._check_event(sent)
        return self.keep(sent)

    def keep(self, sent: Webhook) -> dict[str, Any]:
        """Keep an event, however it came.

        Args:
            sent: The event.

        Returns:
            Whether it was kept, now or when it came before.
        """
        if sent.action not in KEPT_EVENTS or sent.project is None:
            return {"status": "ignored"}
        event = Event(
            action=sent.action,
            project_id=sent.project.id,
            annotation_ids=sent.annotation_ids,
            task_ids=sent.task_ids,
            at=datetime.now(UTC),
        )
        self.queue.keep_event(event, sent.fingerprint)
        return {"status": "kept"}

    def versions(self) -> dict[str, Any]:
        """List the model versions that workers announced.

        Returns:
            The versions, newest first.
        """
        return {"versions": self.queue.model_versions()}

    def counts(self) -> dict[str, int]:
        """Count the requests that are on their way, for whoever starts and ends workers by it.

        Returns:
            How many wait for a worker, are worked on, and wait for the courier, and how many failures are listed.
        """
        return self.queue.counts()

    def metrics(self) -> Response:
        """Tell Prometheus what this process counts, and what Redis knows of the whole fleet.

        Returns:
            Its text format.
        """
        return Response(fleet.of_web(self.queue), content_type=CONTENT_TYPE_LATEST)

    def openapi(self) -> dict[str, Any]:
        """Describe all routes.

        Returns:
            An OpenAPI document.
        """
        return openapi()

    def _check_event(self, sent: Webhook) -> None:
        header = request.headers.get("Authorization")
        secured = bool(self.settings.basic_user)
        if secured and access.knows_password(self.settings, header):
            return
        if sent.action == START_TRAINING or sent.project is None:
            let_in = not secured  # Neither shows a secret, the one by its way, the other for want of a project.
        else:
            let_in = access.check(self.queue, sent.project.id, header, required=secured)
        if not let_in:
            raise Unauthorised(
                "The webhook does not show its secret: `rsrefseg-backend doctor --project ID --fix` tells it to "
                "Label Studio anew.",
                "Bearer",
            )

    def _version(self, project_id: int | None) -> dict[str, Any]:
        # Without a version the key is left out: Label Studio would store a null and then fail to save predictions.
        version = self.queue.model_version(project_id)
        return {} if version is None else {"model_version": version}

    def _enqueue(self, tasks: TaskFile, project_id: int, config: LabelConfig, version: str) -> None:
        opened = len(tasks) == 1
        check_room(self.queue, tasks, project_id, config, version)
        new = unaskable = 0
        for some in tasks.batches():
            taken = take_in(self.queue, some, project_id, config, version, front=opened)
            new += taken.new
            unaskable += taken.unaskable
        counts = {"tasks": len(tasks), "new": new, "unaskable": unaskable}
        metrics.TAKEN.labels("opened" if opened else "many").inc(new)
        log.info("tasks taken", extra={"project_id": project_id, **counts})
        if opened and taken.jobs:
            self._wait_until_settled(taken.jobs[0])

    def _wait_until_settled(self, job: PredictJob) -> None:
        # Label Studio reads its predictions again after we answered, so what the courier delivers meanwhile is shown.
        with _place(self._opening, self._waiting) as waits:
            if waits:
                self.queue.wait_until_settled(job.project_id, [job.key], self.settings.open_wait_s)

    def _draw(
        self, task: Task, sent: PredictRequest, config: LabelConfig, version: str, context: Context
    ) -> dict[str, Any]:
        # Label Studio hands this dict to the editor, which shows nothing for any other shape.
        nothing = {"result": [], "score": 0.0, "model_version": version}
        try:
            gesture = self._with_words(read_gesture(context, config), sent.project, task.id)
            job = task_to_job(task, sent.project, config, version, gesture)
        except Unaskable as exc:
            metrics.UNSERVED.labels("unaskable").inc()
            log.info("nothing drawn", extra={"task_id": task.id, "reason": str(exc)})
            return nothing
        with _place(self._waiting) as waits:
            if not waits:
                metrics.UNSERVED.labels("too_many_wait").inc()
                log.warning("nothing drawn", extra={"task_id": task.id, "reason": "too many people wait already"})
                return nothing
            metrics.TAKEN.labels("interactive").inc(self.queue.submit([job], front=True))
            reply = self.queue.wait_for_reply(job, self.settings.interactive_wait_s)
        if isinstance(reply, Answer):
            return answer_to_prediction(reply)
        metrics.UNSERVED.labels("refused" if reply else "timeout").inc()
        reason = reply.reason if reply else f"no worker answered within {self.settings.interactive_wait_s:g} s"
        log.warning("nothing drawn", extra={"task_id": task.id, "reason": reason})
        return nothing

    def _with_words(self, gesture: Gesture, project_id: int, task_id: int) -> Gesture:
        # What is pointed at narrows the words that were typed before.
        where = (project_id, task_id, gesture.to_name)
        if gesture.pointed is None:
            self.queue.remember_words(*where, gesture.expressions)
            return gesture
        return replace(gesture, expressions=self.queue.words(*where))


@contextmanager
def _place(*places: threading.BoundedSemaphore) -> Iterator[bool]:
    # One in each, if all have one, until the end.
    with ExitStack() as given_back:
        free = True
        for one in places:
            free = free and one.acquire(blocking=False)
            if free:
                given_back.callback(one.release)
        yield free


def _begin() -> None:
    g.began = time.perf_counter()


def _count(response: Response) -> Response:
    # What is no route of ours is one label, whatever somebody may ask for.
    route = request.url_rule.rule if request.url_rule else "other"
    metrics.HTTP_SECONDS.labels(route, str(response.status_code)).observe(time.perf_counter() - g.began)
    return response


def _say(status: int, reason: str, **facts: str) -> Response:
    # Of a refusal Label Studio shows the status line and never the body, hence the reason in both.
    line = "".join(letter if " " <= letter <= "~" else "?" for letter in reason[:REASON_LIMIT])
    response = jsonify({"error": reason, **facts})
    response.status = f"{status} {line}"
    return response


def _unauthorised(exc: Unauthorised) -> Response:
    log.info("caller refused", extra={"path": request.path, "scheme": exc.scheme})
    response = _say(401, str(exc))
    response.headers["WWW-Authenticate"] = f'{exc.scheme} realm="rsrefseg-backend"'
    return response


def _bad_request(exc: BadRequest) -> Response:
    log.info("request refused", extra={"path": request.path, "field": exc.field, "reason": str(exc)})
    return _say(400 if isinstance(exc, Malformed) else 422, str(exc), field=exc.field)


def _queue_full(exc: QueueFull) -> Response:
    log.warning("queue full", extra={"path": request.path})
    response = _say(503, f"Too many requests wait for a worker; ask again in {exc.retry_after_s} s.")
    response.headers["Retry-After"] = str(exc.retry_after_s)
    return response


def _redis_away(_exc: RedisAway) -> Response:
    log.error("redis away", extra={"path": request.path})
    response = _say(503, f"The queue cannot be reached; ask again in {REDIS_RETRY_S} s.")
    response.headers["Retry-After"] = str(REDIS_RETRY_S)
    return response


def _http_error(exc: HTTPException) -> Response:
    return _say(exc.code or 500, exc.description or exc.name)


def _unexpected(exc: Exception) -> Response:
    error_id = uuid.uuid4().hex[:12]
    log.error("request failed", exc_info=exc, extra={"path": request.path, "error_id": error_id})
    return _say(500, f"Something went wrong on our side; the log names it {error_id}.", id=error_id)
