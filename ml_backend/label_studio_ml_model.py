"""Our model for the official server, `label-studio-ml start`: the same answers as our own web process gives."""

from __future__ import annotations

import atexit
import io
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import cache
from typing import Any

from ml_backend.body import reading
from ml_backend.protocol import SetupRequest, Webhook
from ml_backend.web import Routes
from workers.queue import JobQueue
from workers.settings import Settings

try:
    from label_studio_ml.model import LabelStudioMLBase
except ImportError as exc:
    raise ImportError(
        "label-studio-ml 2 is not installed, which only the official server needs: see docs/official-server.md."
    ) from exc


@cache
def routes() -> Routes:
    """Reach Redis once for all requests, at the first of them.

    Returns:
        What our web process would answer with.
    """
    settings = Settings.load()
    stack = ExitStack()
    atexit.register(stack.close)
    return Routes(settings, stack.enter_context(JobQueue.open(settings)))


class RSRefSegModel(LabelStudioMLBase):  # type: ignore[misc]  # the library is optional
    """Masks from words, drawn by our workers; the server makes one for each request."""

    def use_label_config(self, label_config: str) -> None:
        """Take the labeling config as it is; what cannot be used is said where it is needed.

        Args:
            label_config: The XML.
        """
        self._label_config = label_config

    def get(self, key: str) -> str | None:
        """Answer from Redis; the library's own memory would outlive a change of the model.

        Args:
            key: What is asked for; we know the model version alone.

        Returns:
            The version that serves the project, if a worker ever announced one.
        """
        project = str(self.project_id)
        known = int(project) if project.isdecimal() else None
        return routes().queue.model_version(known) if key == "model_version" else None

    def set(self, key: str, value: str) -> None:
        """Keep nothing: workers say which version they serve.

        Args:
            key: Not used.
            value: Not used.
        """

    def has(self, key: str) -> bool:
        """Say whether something is known.

        Args:
            key: What.

        Returns:
            Whether it is.
        """
        return self.get(key) is not None

    def set_extra_params(self, extra_params: Any) -> None:
        """Take what somebody wrote into the backend's extra parameters; the server calls this at /setup.

        Args:
            extra_params: An object, or its JSON.
        """
        sent = {"project": self.project_id, "schema": self._label_config, "extra_params": extra_params}
        routes().promise(SetupRequest.model_validate(sent))

    def predict(
        self, tasks: Sequence[Mapping[str, Any]], context: Mapping[str, Any] | None = None, **_params: Any
    ) -> list[Any]:
        """Answer a /predict.

        Args:
            tasks: The tasks.
            context: What a person did in the editor, if one waits there.
            **_params: Not used: name and password for tasks' data.

        Returns:
            For each task an empty list, since the courier delivers; regions for a person who waits.
        """
        # As our own web process would have been sent it, so that it is read in the same way.
        sent = {"tasks": tasks, "project": self.project_id, "label_config": self._label_config}
        sent["params"] = {"context": context or None}
        with reading(io.BytesIO(json.dumps(sent).encode())) as (request, kept):
            return routes().answer(request, kept)

    def fit(self, event: str, data: Mapping[str, Any], **_params: Any) -> dict[str, Any]:
        """Keep an event for those who pull the corrections.

        Args:
            event: Its action.
            data: The rest of what the webhook said.
            **_params: Not used.

        Returns:
            Whether it was kept.
        """
        return routes().keep(Webhook.model_validate({**data, "action": event}))
