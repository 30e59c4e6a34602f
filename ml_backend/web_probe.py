"""Asks a web process for /health and /setup as Label Studio does."""

from __future__ import annotations

from typing import Any, NamedTuple

import httpx

from ml_backend.errors import BadRequest, LabelStudioRefused, Unavailable
from workers.settings import Settings

TIMEOUT_S = 4.0
"""Longest that one answer may take; Label Studio waits 1 s for /health and 3 s for /setup."""


class WebAway(Unavailable):
    """Nothing answers there, or not as a web process of ours."""


class WebRefused(LabelStudioRefused):
    """The web process asks for another name and password."""


class Health(NamedTuple):
    """What a web process says of itself."""

    model_version: str | None
    ours: bool
    """Whether it is `rsrefseg-backend web`, and not another ML backend."""


class WebProbe:
    """Calls one web process.

    Args:
        url: Where it is.
        settings: For the name and the password.
    """

    def __init__(self, url: str, settings: Settings) -> None:
        self.url = url.rstrip("/")
        password = settings.basic_password.get_secret_value()
        self._auth = (settings.basic_user, password) if settings.basic_user else None

    def health(self) -> Health:
        """Ask whether it takes requests.

        Returns:
            What it says.

        Raises:
            WebAway: If it does not answer, or cannot take any.
        """
        said = self._call("GET", "health")
        if said.get("status") != "UP":
            raise WebAway(f"What answers at {self.url} is not `rsrefseg-backend web`.")
        # The official server names the class of its model.
        return Health(said.get("model_version"), "model_class" not in said)

    def setup(self, project_id: int, label_config: str, extra_params: Any) -> str | None:
        """Ask which version predictions of a project will carry.

        Args:
            project_id: The project.
            label_config: Its labeling config.
            extra_params: Those of its backend, which the web process would forget if they were not sent along.

        Returns:
            The version, if there is one yet.
        """
        body = {"project": f"{project_id}.0", "schema": label_config, "extra_params": extra_params}
        version = self._call("POST", "setup", body).get("model_version")
        return None if version is None else str(version)

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        try:
            with httpx.Client(timeout=TIMEOUT_S, auth=self._auth) as client:
                answer = client.request(method, f"{self.url}/{path}", json=body)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.InvalidURL, httpx.UnsupportedProtocol) as exc:
            raise WebAway(f"Nothing answers at {self.url}: start `rsrefseg-backend web`.") from exc
        except httpx.HTTPError as exc:
            raise WebAway(f"{self.url}/{path} does not answer within {TIMEOUT_S:g} s.") from exc
        try:
            said = answer.json()
        except ValueError:
            said = None
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            raise WebRefused(
                f"The web process at {self.url} asks for another name and password: set RSREFSEG_BASIC_USER and "
                "RSREFSEG_BASIC_PASSWORD here as they are there."
            )
        if not isinstance(said, dict):
            raise WebAway(f"What answers at {self.url} is not `rsrefseg-backend web`.")
        if answer.status_code == httpx.codes.UNPROCESSABLE_ENTITY:
            raise BadRequest(str(said.get("error", "It refuses the labeling config.")))
        if not answer.is_success:
            reason = said.get("error") or f"it answered {answer.status_code}"
            raise WebAway(f"The web process at {self.url} is up, but: {reason}")
        return said
