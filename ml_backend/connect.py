"""Wires a project of Label Studio to the web process; each step leaves alone what is right already."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

from ml_backend import access
from ml_backend.errors import AddressBlocked, BackendError, RequestRefused, StartFailed, UnusableConfig
from ml_backend.label_config import read_label_config
from ml_backend.label_studio import SWITCHES, LabelStudio
from ml_backend.options import Options
from ml_backend.wiring import UNCERTAINTY, Backend, Project, Wiring
from workers.queue import JobQueue
from workers.settings import Settings

TITLE = "RSRefSeg"
"""What the backend is called where nobody says otherwise."""

IMAGE_BEGINNINGS = ("/data/", "data:image/", "s3://", "gs://", "azure-blob://", "http://", "https://")
"""How an image's address begins."""

EXPRESSION_FIELDS = ("expression", "expressions", "prompt", "caption", "text", "description")
"""What the field of a task's words is called, the likeliest first."""

NO_DOT = (
    "Label Studio has no webhook for a host without a dot: give --url an address, localhost, or a name with a dot, "
    "such as a network alias backend.internal"
)
"""What to do about a container's short name."""


def suitable_config(image_field: str = "image", expression_field: str | None = "expression") -> str:
    """Write a labeling config for masks from words.

    Args:
        image_field: The key of the tasks' data that holds the image.
        expression_field: The key that holds the words; None where people type them all.

    Returns:
        The config as XML.
    """
    words = f' value="${expression_field}"' if expression_field else ""
    return f"""<View>
  <Image name="image" value="${image_field}" zoom="true" zoomControl="true"/>
  <BrushLabels name="mask" toName="image"><Label value="target" background="#e63c3c"/></BrushLabels>
  <TextArea name="prompt" toName="image"{words} editable="true" rows="2" maxSubmissions="1"/>
</View>"""


def default_url(settings: Settings) -> str:
    """Say where Label Studio finds the web process unless somebody says otherwise.

    Args:
        settings: For RSREFSEG_PUBLIC_URL, or the address that the web process listens on.

    Returns:
        The URL.
    """
    if settings.public_url:
        return settings.public_url
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)  # noqa: S104
    return f"http://{host}:{settings.port}"


def takes_webhooks(url: str) -> bool:
    """Ask whether Label Studio registers a webhook at an address.

    Args:
        url: Of the web process.

    Returns:
        Whether its host has a dot, is an IPv6 address, or is localhost.
    """
    host = urlsplit(url).hostname or ""
    return host == "localhost" or "." in host or ":" in host


def wanted_version(project: Project, backend: Backend, counts: dict[str, int], served: str | None) -> str:
    """Choose which predictions a project should show.

    Args:
        project: The project.
        backend: Ours.
        counts: Its predictions of each version.
        served: The version that workers serve.

    Returns:
        The backend's title, with which new predictions are asked for and shown. Once all tasks have theirs and scores
        are to decide which task comes next: the served version itself, since Label Studio then compares the two.
    """
    complete = bool(served and project.task_number) and counts.get(served or "", 0) >= (project.task_number or 0)
    return (served or "") if complete and project.sampling == UNCERTAINTY else backend.title or ""


def ours(backends: tuple[Backend, ...], url: str, title: str | None, versions: Collection[str]) -> Backend | None:
    """Find ourselves among a project's backends.

    Args:
        backends: All that it has.
        url: Where Label Studio finds the web process.
        title: What it may be called beside `TITLE`.
        versions: What workers ever served.

    Returns:
        The one at our URL, else one of our title, else one that promises a version that our workers serve.
    """
    tests: list[Callable[[Backend], bool]] = [
        lambda backend: backend.url.rstrip("/") == url,
        lambda backend: backend.title in {title, TITLE},
        lambda backend: (backend.model_version or "") in versions,
    ]
    return next((backend for test in tests for backend in backends if test(backend)), None)


class Connector:
    """Makes what is missing.

    Args:
        queue: Where the digest of a webhook's secret goes, and which version is served.
        wiring: Label Studio's side.
        settings: Where the web process is.
        project_id: The project.
        url: Where Label Studio finds the web process; else as `default_url` says.
        title: What a new backend is called.
    """

    def __init__(
        self,
        queue: JobQueue,
        wiring: Wiring,
        settings: Settings,
        project_id: int,
        url: str | None = None,
        title: str | None = None,
    ) -> None:
        self._url = (url or default_url(settings)).rstrip("/")
        self._named = url is not None
        self._queue = queue
        self._wiring = wiring
        self._settings = settings
        self._project_id = project_id
        self._title = title

    def connect(self) -> Iterator[str]:
        """Do all that a project needs, step by step.

        Yields:
            What was done, a sentence each; nothing if all was right.
        """
        for step in (self.config, self.backend, self.webhook, self.sampling, self.shown):
            yield from step()

    def config(self) -> list[str]:
        """Give a project without labeling config one.

        Returns:
            What was done.

        Raises:
            UnusableConfig: If somebody wrote one that will not do; it is left as it is.
        """
        project = self._wiring.project(self._project_id)
        try:
            read_label_config(project.label_config, Options.kept(self._queue.options(project.id)))
        except UnusableConfig:
            if "name=" in project.label_config:
                raise
            fields = _fields(self._wiring.first_data(project.id))
            self._wiring.change_project(project.id, label_config=suitable_config(*fields))
            return [f"The project has a labeling config now: an image, a brush, words in {fields[1] or 'the editor'}."]
        return []

    def backend(self) -> list[str]:
        """Register the web process, reachable and interactive.

        Returns:
            What was done.

        Raises:
            AddressBlocked: If Label Studio may not call its address.
        """
        found = self._ours()
        fields: dict[str, Any] = {"is_interactive": True, "auto_update": True, **self._credentials()}
        if found is None:
            try:
                self._wiring.add_backend(self._project_id, url=self._url, title=self._title or TITLE, **fields)
            except AddressBlocked:
                if self._ours() is None:
                    raise
                # ML_BLOCK_LOCAL_IP alone is off: the backend is there, without its webhook.
                raise AddressBlocked(f"The backend is registered, but not its webhook. {SWITCHES}") from None
            return [f"Registered {self._url} as an interactive ML backend."]
        if self._named and found.url.rstrip("/") != self._url:
            fields["url"] = self._url
        if self._title or not found.title:
            fields["title"] = self._title or TITLE
        held = found.model_dump()
        changed = [name for name, value in fields.items() if name != "basic_auth_pass" and held.get(name) != value]
        if not changed and found.state == "CO":
            return []
        project = self._wiring.project(self._project_id)
        self._wiring.change_backend(self._project_id, found, **fields)
        if "url" in fields and takes_webhooks(self._url):
            for hook in self._wiring.hooks(self._project_id):  # Label Studio leaves it where it was.
                if hook.url == found.webhook_url:
                    self._wiring.change_hook(hook, url=f"{self._url}/webhook")
        if "title" in fields and found.title and project.model_version == found.title:
            self._wiring.change_project(self._project_id, model_version=fields["title"])
        if not changed:
            return []  # Label Studio has merely looked at it again.
        return [f"Set {', '.join(changed)} of the ML backend {fields.get('url', found.url)}."]

    def webhook(self) -> list[str]:
        """Register the webhook of all events, with a secret that the web process knows.

        Returns:
            What was done.

        Raises:
            RequestRefused: If Label Studio accepts no webhook at such an address.
            BackendError: If it does not take the secret.
        """
        backend = self._ours()
        if backend is None:
            return []
        done = []
        hooks = [hook for hook in self._wiring.hooks(self._project_id) if hook.url == backend.webhook_url]
        hook = hooks[0] if hooks else None
        if hook is None:
            if not takes_webhooks(backend.url):
                raise RequestRefused(f"{NO_DOT} ({backend.url}).")
            hook = self._wiring.add_hook(self._project_id, backend.webhook_url)
            done.append(f"Registered the webhook {hook.url}.")
        if not (hook.is_active and hook.send_payload and hook.send_for_all_actions):
            self._wiring.change_hook(hook, is_active=True, send_payload=True, send_for_all_actions=True)
            done.append("Switched the webhook on, for all events with their content.")
        if not access.check(self._queue, self._project_id, hook.authorization, required=True):
            secret = access.install(self._queue, self._project_id)
            try:
                self._wiring.change_hook(hook, headers={**(hook.headers or {}), "Authorization": f"Bearer {secret}"})
            except BackendError:
                access.forget(self._queue, self._project_id)  # Rather no secret than one that Label Studio lacks.
                raise
            done.append("Gave the webhook a new secret, which the web process asks for from now on.")
        return done

    def sampling(self) -> list[str]:
        """Let tasks come first whose masks are the least certain.

        Returns:
            What was done.
        """
        if self._wiring.project(self._project_id).sampling == UNCERTAINTY:
            return []
        self._wiring.change_project(self._project_id, sampling=UNCERTAINTY)
        return ["Tasks with uncertain masks come first now."]

    def shown(self) -> list[str]:
        """Let annotators see the predictions of the served version.

        Returns:
            What was done.
        """
        done = []
        project = self._wiring.project(self._project_id)
        backend = self._ours()
        if not project.show_collab_predictions:
            self._wiring.change_project(project.id, show_collab_predictions=True)
            done.append("Predictions are shown to annotators now.")
        if backend is None:
            return done
        served = self._queue.model_version(project.id)
        wanted = wanted_version(project, backend, self._wiring.model_versions(project.id), served)
        if (project.model_version or "") not in {backend.title, served} or wanted == served != project.model_version:
            self._wiring.change_project(project.id, model_version=wanted)
            done.append(f'The project shows the predictions of "{wanted}" now.')
        return done

    def _ours(self) -> Backend | None:
        backends = self._wiring.backends(self._project_id)
        return ours(backends, self._url, self._title, self._queue.model_versions(self._project_id))

    def _credentials(self) -> dict[str, Any]:
        if not self._settings.basic_user:
            return {"auth_method": "NONE"}
        return {
            "auth_method": "BASIC_AUTH",
            "basic_auth_user": self._settings.basic_user,
            "basic_auth_pass": self._settings.basic_password.get_secret_value(),
        }


def _fields(data: dict[str, Any]) -> tuple[str, str | None]:
    # Of tasks that are there already: which of their fields is the image, and which the words.
    if not data:
        return "image", "expression"
    texts = {name: value for name, value in data.items() if isinstance(value, str)}
    images = [name for name, value in texts.items() if value.startswith(IMAGE_BEGINNINGS)]
    if not images:
        raise UnusableConfig(
            f"The project's tasks hold no image: none of their fields ({', '.join(data)}) has the address of one."
        )
    return images[0], next((name for name in EXPRESSION_FIELDS if name in data and name not in images), None)


def run(
    settings: Settings, project_id: int | None, new_title: str | None, url: str | None, title: str | None
) -> Iterator[str]:
    """Wire a project, or make one first.

    Args:
        settings: Where Label Studio, Redis and the web process are.
        project_id: The project.
        new_title: What to call a new one instead.
        url: Where Label Studio finds the web process.
        title: What a new backend is called.

    Yields:
        What was done, a sentence each, and the project's address.

    Raises:
        StartFailed: If neither or both are named.
    """
    if (project_id is None) == (new_title is None):
        raise StartFailed("Name a project with --project ID, or make one with --new TITLE.")
    with closing(LabelStudio.of(settings)) as label_studio, JobQueue.open(settings) as queue:
        queue.ping()
        wiring = Wiring(label_studio)
        if project_id is None:
            project_id = wiring.create_project(new_title or "", suitable_config())
            yield f'Made project {project_id}, "{new_title}"; --project {project_id} goes on should something go wrong.'
        did = False
        for done in Connector(queue, wiring, settings, project_id, url, title).connect():
            did = True
            yield done
        if not did:
            yield "All was right already."
        yield f"{wiring.url}/projects/{project_id}/data"
