"""How projects of Label Studio are wired to us: their settings, their ML backends, their webhooks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pydantic import TypeAdapter

from ml_backend.label_studio import LabelStudio
from ml_backend.protocol import Sent

PROJECTS_PAGE = 100
"""Projects on one page of their list."""

UNCERTAINTY = "Uncertainty sampling"
"""Label Studio's name for serving tasks with low scores first."""


class Project(Sent):
    """A project, as far as it decides which predictions people see."""

    id: int
    title: str
    label_config: str = ""
    model_version: str | None = ""
    """The title of a backend, whose predictions are asked for and shown, or a version whose predictions are shown."""
    show_collab_predictions: bool = True
    sampling: str | None = ""
    task_number: int | None = None
    total_predictions_number: int | None = None


class Backend(Sent):
    """What a project knows of one ML backend."""

    id: int
    url: str
    title: str | None = ""
    state: str = ""
    readable_state: str = ""
    error_message: str | None = None
    is_interactive: bool = False
    auto_update: bool = True
    """Whether Label Studio believes what /setup says of the model version."""
    model_version: str | None = None
    """What /setup said last."""
    auth_method: str = "NONE"
    basic_auth_user: str | None = None
    extra_params: Any = None

    @property
    def webhook_url(self) -> str:
        """Where its events go."""
        return self.url.rstrip("/") + "/webhook"


class Hook(Sent):
    """A webhook."""

    id: int
    url: str
    send_payload: bool = True
    send_for_all_actions: bool = True
    headers: dict[str, str] | None = None
    is_active: bool = True

    @property
    def authorization(self) -> str:
        """The secret that it shows, with the word before it."""
        return (self.headers or {}).get("Authorization", "")


_BACKENDS, _HOOKS = TypeAdapter(tuple[Backend, ...]), TypeAdapter(tuple[Hook, ...])


class Wiring:
    """The calls that read and change it.

    Args:
        label_studio: Where the projects are.
    """

    def __init__(self, label_studio: LabelStudio) -> None:
        self._label_studio = label_studio
        self.url = label_studio.url

    def version(self) -> str:
        """Ask which release of Label Studio answers.

        Returns:
            The version, such as 1.23.2; empty if it does not say.
        """
        said = self._label_studio.call("GET", "api/version")
        return str(said.get("release", "")) if isinstance(said, dict) else ""

    def projects(self) -> Iterator[Project]:
        """List the projects that are shown to us.

        Yields:
            Id and title of each, page by page.
        """
        page = 1
        while True:
            where: dict[str, Any] = {"page": page, "page_size": PROJECTS_PAGE, "include": "id,title"}
            said = self._label_studio.call("GET", "api/projects/", **where)
            yield from map(Project.model_validate, said["results"])
            if not said.get("next"):
                return
            page += 1

    def project(self, project_id: int) -> Project:
        """Read a project.

        Args:
            project_id: Which.

        Returns:
            Its settings.
        """
        return Project.model_validate(self._label_studio.project(project_id))

    def create_project(self, title: str, label_config: str) -> int:
        """Make a project.

        Args:
            title: Three letters or more.
            label_config: Its labeling config.

        Returns:
            Its number.
        """
        body = {"title": title, "label_config": label_config}
        return Project.model_validate(self._label_studio.call("POST", "api/projects/", body)).id

    def change_project(self, project_id: int, **fields: Any) -> None:
        """Change settings of a project.

        Args:
            project_id: Which.
            **fields: What to change.
        """
        self._label_studio.call("PATCH", f"api/projects/{project_id}/", fields)

    def model_versions(self, project_id: int) -> dict[str, int]:
        """Count a project's predictions.

        Args:
            project_id: Which project.

        Returns:
            How many there are of each model version.
        """
        said = self._label_studio.call("GET", f"api/projects/{project_id}/model-versions/")
        return {version: count for version, count in said.items() if count}  # Titles of backends are there with 0.

    def backends(self, project_id: int) -> tuple[Backend, ...]:
        """List a project's ML backends; Label Studio calls /health and /setup of each for it.

        Args:
            project_id: Which project.

        Returns:
            The backends; of several, predictions are asked from the first.
        """
        return _BACKENDS.validate_python(self._label_studio.call("GET", "api/ml/", project=project_id))

    def add_backend(self, project_id: int, **fields: Any) -> None:
        """Register an ML backend, and with it a webhook if its address will do for one.

        Args:
            project_id: Of which project.
            **fields: URL and whatever else is to be set.
        """
        self._label_studio.call("POST", "api/ml/", {"project": project_id, **fields})

    def change_backend(self, project_id: int, backend: Backend, **fields: Any) -> None:
        """Change an ML backend.

        Args:
            project_id: Its project.
            backend: Which.
            **fields: What to change.
        """
        # Without these two Label Studio 1.23.2 answers 500.
        body = {"url": backend.url, "project": project_id, **fields}
        self._label_studio.call("PATCH", f"api/ml/{backend.id}", body)

    def hooks(self, project_id: int) -> tuple[Hook, ...]:
        """List a project's webhooks.

        Args:
            project_id: Which project.

        Returns:
            The webhooks.
        """
        return _HOOKS.validate_python(self._label_studio.call("GET", "api/webhooks/", project=project_id))

    def add_hook(self, project_id: int, url: str) -> Hook:
        """Register a webhook for all events.

        Args:
            project_id: Whose events.
            url: Where they go.

        Returns:
            The webhook.
        """
        body = {"project": project_id, "url": url, "send_payload": True, "send_for_all_actions": True}
        return Hook.model_validate(self._label_studio.call("POST", "api/webhooks/", body))

    def change_hook(self, hook: Hook, **fields: Any) -> None:
        """Change a webhook.

        Args:
            hook: Which.
            **fields: What to change.
        """
        self._label_studio.call("PATCH", f"api/webhooks/{hook.id}/", fields)

    def first_data(self, project_id: int) -> dict[str, Any]:
        """Look at what tasks of a project are made of.

        Args:
            project_id: Which project.

        Returns:
            The data of its first task; empty if there is none.
        """
        page = self._label_studio.tasks(project_id, page_size=1)
        return page.tasks[0].data if page.tasks else {}

    def an_example(self, project_id: int) -> tuple[int, dict[str, Any]] | None:
        """Fetch one prediction whole, of the task that got one last.

        Args:
            project_id: Of which project.

        Returns:
            The task and the prediction; None if no task has one.
        """
        has_some = {"filter": "filter:tasks:total_predictions", "operator": "greater", "type": "Number", "value": 0}
        query = {"filters": {"conjunction": "and", "items": [has_some]}, "ordering": ["-tasks:id"]}
        where: dict[str, Any] = {
            "project": project_id,
            "page_size": 1,
            "query": json.dumps(query),
            "fields": "task_only",
        }
        found = self._label_studio.call("GET", "api/tasks/", **where)["tasks"]
        if not found:
            return None
        task_id = int(found[0]["id"])
        predictions = self._label_studio.call("GET", "api/predictions/", task=task_id)
        return (task_id, max(predictions, key=lambda one: one["id"])) if predictions else None
