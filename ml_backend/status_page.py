"""The page at `/`: what waits, who works, what failed, how the models came along, and what was drawn last."""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from urllib.parse import urlsplit

from flask import Blueprint, Response, redirect, render_template, request, url_for
from rq.utils import as_text
from werkzeug.wrappers import Response as AnyResponse

from ml_backend import charts
from ml_backend.charts import Chart, Dot, Kind, lay_out
from ml_backend.curve import Taught, versions_taught
from ml_backend.errors import BackendError, BadRequest, Malformed
from workers.failures import Failure
from workers.queue import JobQueue, RedisAway
from workers.redis_client import renaming_redis_errors
from workers.registry import Registry, Version
from workers.settings import Settings
from workers.status import MOVES, Status, status_of
from workers.thumbnails import Thumbnails

SHOWN = 25
"""Most failures, workers and projects on the page."""

REFRESH_S = 10
"""How often a browser asks again while something is under way, in seconds."""

FEWEST = 2
"""Versions below which there is no course of time to be seen."""

UNIT = "mIoU, %"
"""What the vertical axes are."""

SAID_S = 300
"""How long the page can say what became of a button, in seconds."""

SAID = "rsrefseg:said:"
"""What the keys of Redis begin with under which that is kept."""

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True)
class ProjectModels:
    """How the models of a project came along."""

    project_id: int
    champion: str | None
    versions: Sequence[Version]
    """Newest first."""
    charts: Sequence[Chart]
    """Scores over time, and over the corrections that were learnt from; none where there are no two to compare."""


class StatusPage:
    """Builds the page and answers its buttons.

    Args:
        settings: For Label Studio's address and the data directory.
        queue: Where all is read.
    """

    def __init__(self, settings: Settings, queue: JobQueue) -> None:
        self._settings = settings
        self._queue = queue
        self._registry = Registry(settings.data)

    def routes(self) -> Blueprint:
        """Name the routes.

        Returns:
            What the application registers.
        """
        page = Blueprint("status_page", __name__, template_folder="templates", static_folder=None)
        page.add_url_rule("/", view_func=self.page, methods=["GET"])
        page.add_url_rule("/style.css", view_func=self.style, methods=["GET"])
        page.add_url_rule("/thumbnails/<string(length=32):name>.jpg", view_func=self.thumbnail, methods=["GET"])
        page.add_url_rule("/retry", view_func=self.retry, methods=["POST"])
        return page

    def page(self) -> Response:
        """Show how things are.

        Returns:
            HTML; with 503 while Redis is away.
        """
        try:
            said = self._said(request.args.get("said", ""))
            status = status_of(self._queue, failures=SHOWN)
            captions = Thumbnails(self._queue.redis, self._settings.thumbnails).captions()
        except RedisAway:
            html = render_template("away.html", refresh_s=REFRESH_S)
            return Response(html, 503, HEADERS | {"Retry-After": str(REFRESH_S)}, content_type="text/html")
        taught = self._registry.projects()
        html = render_template(
            "status.html",
            status=status,
            busy=bool(status.waiting or status.running or status.to_deliver or _learning(status)),
            refresh_s=REFRESH_S,
            said=said,
            now=datetime.now(UTC),
            shown=SHOWN,
            moves=MOVES,
            failures=_by_project(status.failures),
            projects=sorted(status.projects.items(), key=lambda item: -item[1]),
            models=[self._models(project_id) for project_id in taught[:SHOWN]],
            more_models=len(taught) - SHOWN,
            captions=captions,
            chart=charts,
            label_studio=self._settings.label_studio_for_people,
        )
        return Response(html, 200, HEADERS, content_type="text/html")

    def style(self) -> Response:
        """Send the page's style.

        Returns:
            CSS.
        """
        css = render_template("style.css")
        return Response(css, 200, HEADERS | {"Cache-Control": "max-age=300"}, content_type="text/css")

    def thumbnail(self, name: str) -> Response:
        """Send a picture of a prediction.

        Args:
            name: Which.

        Returns:
            A JPEG; 404 if it is gone.
        """
        jpeg = Thumbnails(self._queue.redis, self._settings.thumbnails).jpeg(name)
        if jpeg is None:
            return Response("", 404, HEADERS)
        return Response(jpeg, 200, HEADERS | {"Cache-Control": "private, max-age=86400"}, content_type="image/jpeg")

    def retry(self) -> AnyResponse:
        """Ask again for what failed: of a project, or for one task.

        Returns:
            The way back to the page, which then says what became of it.

        Raises:
            BadRequest: If the form names no project, or another site sent it, or the labeling config cannot be used.
        """
        _check_site()
        project_id = _number("project")
        task_ids = [_number("task")] if "task" in request.form else None
        # A second to import, for a button that is seldom pressed.
        from ml_backend.again import ask_again
        from ml_backend.label_studio import LabelStudio

        try:
            with closing(LabelStudio.of(self._settings)) as label_studio:
                said = str(ask_again(self._queue, label_studio, project_id, task_ids))
        except BadRequest:
            raise
        except BackendError as exc:
            said = str(exc)
        return redirect(url_for("status_page.page", said=self._keep_saying(said)), 303)

    @renaming_redis_errors()
    def _keep_saying(self, sentence: str) -> str:
        # The address holds a name and no words: else anybody's link could put theirs on our page.
        name = uuid.uuid4().hex
        self._queue.redis.set(SAID + name, sentence, ex=SAID_S)
        return name

    @renaming_redis_errors()
    def _said(self, name: str) -> str:
        sentence = self._queue.redis.get(SAID + name) if re.fullmatch("[0-9a-f]{32}", name) else None
        return as_text(sentence) if isinstance(sentence, bytes) else ""

    def _models(self, project_id: int) -> ProjectModels:
        versions, champion = self._registry.versions(project_id)[-SHOWN:], self._registry.champion(project_id)
        taught = versions_taught(self._registry, project_id)[-SHOWN:]
        charts = [chart for chart in (_over_time(versions, champion), _over_corrections(taught, champion)) if chart]
        return ProjectModels(project_id, champion, versions[::-1], charts)


def _over_time(versions: Sequence[Version], champion: str | None) -> Chart | None:
    dots = [
        Dot(
            one.made_at.timestamp(),
            one.verdict.held_out.after,
            _kind(one.version, champion, passed=one.verdict.passed),
            f"{one.version}, {one.made_at:%Y-%m-%d %H:%M}: {one.verdict.held_out.after:.1f}",
        )
        for one in versions
        if one.verdict.held_out
    ]
    if len(dots) < FEWEST:
        return None
    ends = [datetime.fromtimestamp(dots[place].x, UTC) for place in (0, -1)]
    form = "%H:%M" if ends[0].date() == ends[1].date() else "%Y-%m-%d"
    ticks = [(at.timestamp(), at.strftime(form)) for at in ends]
    axis = f"made, {ends[0]:%Y-%m-%d}, UTC" if form == "%H:%M" else "made"
    return lay_out(dots, ticks, f"Held-out mIoU of {_range(dots)}, by the time they were made", axis, UNIT)


def _over_corrections(taught: Sequence[Taught], champion: str | None) -> Chart | None:
    scored = [
        Dot(
            one.corrections,
            one.after,
            _kind(one.version, champion, passed=one.passed),
            f"{one.version}, {one.corrections} corrections: {one.after:.1f}",
            joined=one.promoted,
        )
        for one in taught
        if one.after is not None
    ]
    before = next((one.before for one in taught if one.before is not None), None)
    if not scored or before is None:
        return None
    dots = [Dot(0, before, "passed", f"before any correction: {before:.1f}"), *scored]
    most = max(dot.x for dot in dots)
    ticks = [(0.0, "0"), (most, f"{most:g}")]
    summary = f"Learning curve: held-out mIoU of {_range(scored)}, by corrections; {before:.1f} without any"
    return lay_out(dots, ticks, summary, "corrections learnt from", UNIT)


def _range(dots: Sequence[Dot]) -> str:
    scores = [dot.y for dot in dots]
    return f"{len(dots)} versions, from {min(scores):.1f} to {max(scores):.1f}"


def _kind(version: str, champion: str | None, *, passed: bool) -> Kind:
    return "champion" if version == champion else "passed" if passed else "refused"


def _check_site() -> None:
    # A browser sends the password along with whatever another site makes it send, but says whose it is.
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    if site not in {None, "same-origin"} or (origin is not None and urlsplit(origin).netloc != request.host):
        raise Malformed("This form was sent from another site; use the page's own button.", field="Origin")


def _number(field: str) -> int:
    said = request.form.get(field, "")
    if not (said.isascii() and said.isdecimal() and len(said) < 16):
        raise Malformed(f"{field} must be a number.", field=field)
    return int(said)


def _learning(status: Status) -> bool:
    return any(one.stage in {"waiting", "collecting", "learning", "scoring"} for one in status.trainings)


def _by_project(failures: Sequence[Failure]) -> list[tuple[int, list[Failure]]]:
    ordered = sorted(failures, key=lambda failure: failure.project_id)
    return [(project, list(some)) for project, some in groupby(ordered, key=lambda failure: failure.project_id)]
