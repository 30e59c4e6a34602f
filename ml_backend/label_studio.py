"""Label Studio's API as far as we call it: one place for tokens, timeouts and the names of its errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import httpx
from label_studio_sdk import LabelStudio as Client
from label_studio_sdk.core.api_error import ApiError

from ml_backend.errors import KeyRefused, LabelStudioAway, LabelStudioRefused, NotFound, RequestRefused, TaskGone

TIMEOUT_S = 60.0
"""Longest that one call may take; a prediction with many masks is megabytes of JSON."""

AWAY = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses after which the same call may succeed."""

SHOWN = 300
"""How much of Label Studio's own words goes into a sentence of ours, in characters."""


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

    def check_key(self) -> str:
        """Ask whether Label Studio accepts our key.

        Returns:
            The e-mail address of the user whose key it is.
        """
        with self._renaming_errors():
            return self._client.users.whoami().email or ""

    def label_config(self, project_id: int) -> str:
        """Read a project's labeling config.

        Args:
            project_id: The project.

        Returns:
            The config as XML.
        """
        with self._renaming_errors():
            return self._client.projects.get(id=project_id).label_config or ""

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

    @contextmanager
    def _renaming_errors(self, task_id: int | None = None) -> Iterator[None]:
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.InvalidURL) as exc:
            raise LabelStudioAway(f"Label Studio cannot be reached at {self.url}.", arrived=False) from exc
        except httpx.HTTPError as exc:
            raise LabelStudioAway(f"Label Studio at {self.url} did not answer: {type(exc).__name__}.") from exc
        except ApiError as exc:
            raise self._renamed(exc, task_id) from exc
        except UnicodeEncodeError as exc:
            raise KeyRefused("LABEL_STUDIO_API_KEY holds letters that no key has: copy it anew.") from exc
        except ValueError as exc:
            raise LabelStudioAway(f"What answers at {self.url} does not speak Label Studio's JSON.") from exc

    def _renamed(self, exc: ApiError, task_id: int | None) -> LabelStudioAway | LabelStudioRefused:
        status, said = exc.status_code or 0, str(exc.body)[:SHOWN]
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
            fields = exc.body.get("validation_errors") if isinstance(exc.body, dict) else None
            if task_id is not None and isinstance(fields, dict) and "task" in fields:
                return TaskGone(f"Task {task_id} is no longer in Label Studio.")
            return RequestRefused(f"Label Studio refused it ({status}): {said}")
        return LabelStudioRefused(f"Label Studio at {self.url} answered {status}: {said}")
