"""Label Studio's API as far as we call it: one place for tokens, timeouts and the names of its errors."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Literal, NamedTuple, Self, TypeVar

import httpx
from label_studio_sdk.base_client import LabelStudioBase as Client  # The SDK's first name for it imports pandas.
from label_studio_sdk.core.api_error import ApiError
from pydantic import ValidationError

from ml_backend.errors import (
    AddressBlocked,
    KeyRefused,
    LabelStudioAway,
    LabelStudioRefused,
    NotFound,
    RequestRefused,
    StartFailed,
    TaskGone,
)
from ml_backend.protocol import AnnotatedTask, ChangedPage, ListedTask, PoolPage, Task, TaskPage
from workers import metrics
from workers.settings import Settings

log = logging.getLogger(__name__)

TIMEOUT_S = 60.0
"""Longest that one call may take; a prediction with many masks is megabytes of JSON."""

AWAY = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses after which the same call may succeed."""

BLOCKED_WORDS = ("reserved network address", "provided URL was not allowed")
"""How Label Studio says that it may not call an address."""

SWITCHES = (
    "Label Studio calls no private or loopback address: start it with both ML_BLOCK_LOCAL_IP=false (for the backend) "
    "and SSRF_PROTECTION_ENABLED=false (for its webhook), or give it a public address of the web process."
)
"""What to do about such an address."""

SHOWN = 300
"""How much of Label Studio's own words goes into a sentence of ours, in characters."""

PAGE = 200
"""Tasks on one page of a project's list: Label Studio itself loads their masks for it, though it sends none."""

UNREAD_COLUMNS = (
    "annotations_ids",
    "annotations_results",
    "annotators",
    "avg_lead_time",
    "completed_at",
    "draft_exists",
    "file_upload",
    "predictions_results",
    "predictions_score",
    "storage_filename",
)
"""Columns of the Data Manager that Label Studio computes for each task unless they are hidden."""

MODEL_VERSIONS = "predictions_model_versions"
"""One more of them."""


def _number(column: str, operator: str, value: int | list[int]) -> dict[str, Any]:
    return {"filter": f"filter:tasks:{column}", "operator": operator, "type": "Number", "value": value}


UNANNOTATED = (_number("total_annotations", "equal", 0), _number("cancelled_annotations", "equal", 0))

NO_DRAFT = {"filter": "filter:tasks:draft_exists", "operator": "equal", "type": "Boolean", "value": False}

Page = TypeVar("Page", TaskPage, ChangedPage)


def pages(fetch: Callable[[int], Page]) -> Iterator[Page]:
    """Go through a list of tasks.

    Args:
        fetch: Fetches the page that begins after the task of this id.

    Yields:
        Page after page, to the last.
    """
    after = 0
    while True:
        page = fetch(after)
        yield page
        if len(page.tasks) in (0, page.total):
            return
        after = page.tasks[-1].id


class Stored(NamedTuple):
    """A prediction as Label Studio keeps it, without its masks."""

    id: int
    task_id: int
    model_version: str
    score: float | None
    region_ids: tuple[str, ...]


class LabelStudio:
    """A connection to one Label Studio; takes legacy tokens and personal access tokens.

    Args:
        url: Where Label Studio is.
        api_key: The token.
        timeout_s: Longest that one call may take.
    """

    def __init__(self, url: str, api_key: str, timeout_s: float = TIMEOUT_S) -> None:
        self.url = url
        with self._renaming_errors():
            # No retries here: a create that is sent twice is stored twice. Waiting is the courier's business.
            self._client = Client(base_url=url, api_key=api_key, timeout=timeout_s, max_retries=0)
            self._client._client_wrapper.httpx_client.httpx_client.event_hooks["response"].append(_count)

    @classmethod
    def of(cls, settings: Settings, timeout_s: float = TIMEOUT_S) -> Self:
        """Connect to the Label Studio of the settings.

        Args:
            settings: Its address and our key.
            timeout_s: Longest that one call may take.

        Returns:
            The connection.

        Raises:
            StartFailed: If there is no key.
        """
        key = settings.label_studio_api_key.get_secret_value()
        if not key:
            raise StartFailed("LABEL_STUDIO_API_KEY is not set: copy a token from Account & Settings of Label Studio.")
        return cls(settings.label_studio_url, key, timeout_s)

    def close(self) -> None:
        """Let go of the connection."""
        self._client._client_wrapper.httpx_client.httpx_client.close()

    def check_key(self) -> str:
        """Ask whether Label Studio accepts our key.

        Returns:
            The e-mail address of the user whose key it is.
        """
        with self._renaming_errors():
            return self._client.users.whoami().email or ""

    def call(
        self,
        method: Literal["GET", "POST", "PATCH", "DELETE"],
        path: str,
        body: dict[str, Any] | None = None,
        **where: Any,
    ) -> Any:
        """Make a call that is not worth the SDK's objects.

        Args:
            method: What to do.
            path: The address below Label Studio's own.
            body: What to send.
            **where: The query.

        Returns:
            The answer's JSON; None where it has none.
        """
        with self._renaming_errors():
            return json.loads(self._read(path, where, method=method, json=body) or "null")

    def label_config(self, project_id: int) -> str:
        """Read a project's labeling config.

        Args:
            project_id: The project.

        Returns:
            The config as XML.
        """
        return str(self.project(project_id).get("label_config") or "")

    def project(self, project_id: int) -> dict[str, Any]:
        """Read a project.

        Args:
            project_id: The project.

        Returns:
            Its settings.

        Raises:
            NotFound: If there is no such project, or it is not shown to us.
        """
        try:
            return dict(self.call("GET", f"api/projects/{project_id}/"))
        except NotFound as exc:
            raise NotFound(
                f"Label Studio at {self.url} shows us no project {project_id}; the address of its page has its number."
            ) from exc

    def tasks(self, project_id: int, after: int = 0, page_size: int = PAGE, *, unannotated: bool = False) -> TaskPage:
        """List some tasks of a project, with the model versions of their predictions and without the predictions.

        Args:
            project_id: The project.
            after: The id of the task before the first one; unlike a page's number it holds while tasks are deleted.
            page_size: Most tasks to list; Label Studio may be set to give fewer.
            unannotated: Only those that have no annotation, not even a cancelled one.

        Returns:
            The tasks in the order of their ids, and how many there are from the first of them on.
        """
        filters = [_number("id", "greater", after), *(UNANNOTATED if unannotated else ())]
        with self._renaming_errors():
            return TaskPage.model_validate_json(self._page(project_id, page_size, *filters))

    def these(self, project_id: int, task_ids: Sequence[int]) -> Sequence[ListedTask]:
        """Read some tasks of a project.

        Args:
            project_id: Their project.
            task_ids: Which.

        Returns:
            Those of them that exist.
        """
        with self._renaming_errors():
            page = self._page(project_id, len(task_ids), _number("id", "in_list", list(task_ids)))
            return TaskPage.model_validate_json(page).tasks

    def untouched(self, project_id: int, task_ids: Sequence[int]) -> set[int]:
        """Say which tasks nobody has begun to annotate.

        Args:
            project_id: Their project.
            task_ids: The tasks.

        Returns:
            Those that exist, and have neither annotations, cancelled ones included, nor drafts.
        """
        filters = [_number("id", "in_list", list(task_ids)), *UNANNOTATED, NO_DRAFT]
        with self._renaming_errors():
            page = self._page(project_id, len(task_ids), *filters, hidden=(*UNREAD_COLUMNS, MODEL_VERSIONS))
            return {task.id for task in ChangedPage.model_validate_json(page).tasks}

    def annotated(self, project_id: int, after: int = 0, page_size: int = PAGE) -> ChangedPage:
        """List some tasks of a project that have annotations which count, without these.

        Args:
            project_id: The project.
            after: The id of the task before the first one.
            page_size: Most tasks to list; Label Studio may be set to give fewer.

        Returns:
            The tasks in the order of their ids, and how many there are from the first of them on.
        """
        filters = [_number("id", "greater", after), _number("total_annotations", "greater", 0)]
        with self._renaming_errors():
            page = self._page(project_id, page_size, *filters, hidden=(*UNREAD_COLUMNS, MODEL_VERSIONS))
            return ChangedPage.model_validate_json(page)

    def unannotated(self, project_id: int, after: int = 0, page_size: int = PAGE) -> PoolPage:
        """List some tasks of a project that nobody has annotated or skipped, with the scores of their predictions.

        Args:
            project_id: The project.
            after: The id of the task before the first one.
            page_size: Most tasks to list; Label Studio may be set to give fewer.

        Returns:
            The tasks in the order of their ids, and how many there are from the first of them on.
        """
        hidden = [column for column in UNREAD_COLUMNS if column != "predictions_score"]
        with self._renaming_errors():
            page = self._page(project_id, page_size, _number("id", "greater", after), *UNANNOTATED, hidden=hidden)
            return PoolPage.model_validate_json(page)

    def with_number(self, project_id: int, field: str, page_size: int = PAGE) -> TaskPage:
        """List some tasks of a project whose data has a number above nought in a field.

        Args:
            project_id: The project.
            field: The key of their data.
            page_size: Most tasks to list.

        Returns:
            The tasks in the order of their ids, and how many there are in all.
        """
        with self._renaming_errors():
            return TaskPage.model_validate_json(
                self._page(project_id, page_size, _number(f"data.{field}", "greater", 0))
            )

    def put_number(self, task_id: int, field: str, number: int | None) -> bool | None:
        """Put a number into a task's data, beside everything that is there at that moment.

        Args:
            task_id: The task.
            field: The key of its data.
            number: The number; None to take it away.

        Returns:
            Whether that changed anything; None where the task is gone.
        """
        try:
            # Raw addresses again: what is written back here is the task's data from then on.
            data = Task.model_validate(self.call("GET", f"api/tasks/{task_id}/", resolve_uri="false")).data
            fresh = {key: value for key, value in data.items() if key != field}
            if number is not None:
                fresh[field] = number
            if fresh == data:
                return False
            self.call("PATCH", f"api/tasks/{task_id}/", {"data": fresh})
        except NotFound:
            return None
        return True

    def with_annotations(self, project_id: int, task_ids: Sequence[int]) -> dict[int, AnnotatedTask | None]:
        """Read tasks with all their annotations and predictions.

        Args:
            project_id: Their project.
            task_ids: The tasks; their masks are all in memory at once.

        Returns:
            Those of them that exist, by their numbers; None for one that cannot be read, whatever somebody put there.
        """
        these = _number("id", "in_list", list(task_ids))
        with self._renaming_errors():
            sent = json.loads(self._page(project_id, len(task_ids), these, fields="all"))
        found: dict[int, AnnotatedTask | None] = {}
        for task in sent["tasks"]:
            try:
                found[task["id"]] = AnnotatedTask.model_validate(task)
            except ValidationError as exc:
                [first, *_] = exc.errors(include_url=False, include_context=False, include_input=False)
                facts = {"project_id": project_id, "task_id": task["id"], "field": ".".join(map(str, first["loc"]))}
                log.warning("task not readable", extra={**facts, "reason": first["msg"]})
                found[task["id"]] = None
        return found

    def predictions(self, *, task_id: int | None = None, project_id: int | None = None) -> list[Stored]:
        """List the predictions of one task or of a whole project.

        Args:
            task_id: The task.
            project_id: The project.

        Returns:
            The predictions, oldest first.

        Raises:
            TaskGone: If the task no longer exists.
        """
        try:
            with self._renaming_errors():
                found = self._client.predictions.list(task=task_id, project=project_id)
        except RequestRefused as exc:
            # A filter by a task that is not there gives 400, as an invalid prediction does.
            raise TaskGone(f"Task {task_id} is no longer in Label Studio.") from exc
        stored = [
            Stored(
                id=one.id or 0,
                task_id=one.task,
                model_version=one.model_version or "",
                score=one.score,
                region_ids=tuple(str(region.get("id")) for region in one.result),
            )
            for one in found
        ]
        return sorted(stored)

    def create_prediction(self, task_id: int, project_id: int, prediction: dict[str, Any]) -> int:
        """Store a prediction; called twice it stores two.

        Args:
            task_id: The task.
            project_id: Its project.
            prediction: Result, score and model version.

        Returns:
            The id that Label Studio gave it.
        """
        with self._renaming_errors(task_id):
            return self._client.predictions.create(task=task_id, project=project_id, **prediction).id or 0

    def delete_prediction(self, prediction_id: int) -> None:
        """Delete a prediction; one that is already gone is no error.

        Args:
            prediction_id: The prediction.
        """
        with suppress(NotFound), self._renaming_errors():
            self._client.predictions.delete(id=prediction_id)

    def _page(
        self, project_id: int, size: int, *filters: dict[str, Any], hidden: Sequence[str] = UNREAD_COLUMNS, **more: str
    ) -> bytes:
        columns = [f"tasks:{column}" for column in hidden]
        query = {
            "filters": {"conjunction": "and", "items": filters},
            "ordering": ["tasks:id"],
            "hiddenColumns": {"explore": columns, "labeling": columns},
        }
        # Raw addresses, as /predict is sent them, lest the same request has two keys.
        where = {"project": project_id, "page_size": size, "query": json.dumps(query), "resolve_uri": "false", **more}
        return self._read("api/tasks/", where)

    def _read(self, path: str, params: dict[str, Any], method: str = "GET", **sent: Any) -> bytes:
        # By the SDK's connection and not by its method: the objects that it builds take half a second for a page.
        client = self._client._client_wrapper.httpx_client
        response: httpx.Response = client.request(path, method=method, params=params, **sent)
        if not response.is_success:
            raise ApiError(status_code=response.status_code, body=response.text)
        return response.content

    @contextmanager
    def _renaming_errors(self, task_id: int | None = None) -> Iterator[None]:
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.InvalidURL) as exc:
            metrics.LABEL_STUDIO_CALLS.labels("any", "unreachable").inc()
            raise LabelStudioAway(f"Label Studio cannot be reached at {self.url}.", arrived=False) from exc
        except httpx.HTTPError as exc:
            metrics.LABEL_STUDIO_CALLS.labels("any", "no answer").inc()
            raise LabelStudioAway(f"Label Studio at {self.url} did not answer: {type(exc).__name__}.") from exc
        except ApiError as exc:
            raise self._renamed(exc, task_id) from exc
        except UnicodeEncodeError as exc:
            raise KeyRefused("LABEL_STUDIO_API_KEY holds letters that no key has: copy it anew.") from exc
        except ValueError as exc:
            raise LabelStudioAway(f"What answers at {self.url} does not speak Label Studio's JSON.") from exc

    def _renamed(self, exc: ApiError, task_id: int | None) -> LabelStudioAway | LabelStudioRefused:
        status, said = exc.status_code or 0, _reason(exc.body)
        if any(words in said for words in BLOCKED_WORDS):
            return AddressBlocked(SWITCHES)
        if "resolve hostname" in said:
            return RequestRefused(
                f"{said}: give the address by which Label Studio's own machine finds the web process."
            )
        if status in AWAY:
            return LabelStudioAway(f"Label Studio at {self.url} answered {status}.", status=status)
        if status in (0, 401, 403):
            return KeyRefused(
                f"Label Studio at {self.url} does not accept LABEL_STUDIO_API_KEY ({status or 'it has expired'}): "
                "copy it anew from Account & Settings."
            )
        if status == 404:
            return NotFound(f"Label Studio at {self.url} does not know what we ask for: {said}")
        if status in (400, 413, 422):
            fields = _parsed(exc.body).get("validation_errors")
            if task_id is not None and isinstance(fields, dict) and "task" in fields:
                return TaskGone(f"Task {task_id} is no longer in Label Studio.")
            return RequestRefused(f"Label Studio refused it ({status}): {said}")
        return LabelStudioRefused(f"Label Studio at {self.url} answered {status}: {said}")


def _count(response: httpx.Response) -> None:
    metrics.LABEL_STUDIO_CALLS.labels(response.request.method, str(response.status_code)).inc()


def _parsed(body: Any) -> dict[str, Any]:
    with suppress(ValueError, TypeError):
        body = json.loads(body)
    return body if isinstance(body, dict) else {}


def _reason(body: Any) -> str:
    # The sentence itself where there is one, without the links that it has for a browser.
    parsed = _parsed(body)
    first: Any = parsed.get("validation_errors") or parsed.get("detail") or body
    while isinstance(first, dict | list) and first:
        first = next(iter(first.values() if isinstance(first, dict) else first))
    return re.sub(r"<[^>]+>", "", str(first))[:SHOWN]
