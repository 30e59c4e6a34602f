"""Who may call us: Label Studio by a name and a password, its webhooks by a secret of their project."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from contextlib import suppress

from workers.queue import JobQueue
from workers.settings import Settings

SECRET_BYTES = 32
"""How much chance is in a webhook's secret."""


def install(queue: JobQueue, project_id: int) -> str:
    """Make a secret that a project's webhook has to show from now on; Redis keeps its SHA-256 alone.

    Label Studio has to be told at once, as the header `Authorization: Bearer <secret>` of the webhook. If that fails,
    `forget` lets events in as before.

    Args:
        queue: Where the project is remembered.
        project_id: The project.

    Returns:
        The secret, which nobody can ask for again; one that was installed before no longer holds.
    """
    secret = secrets.token_urlsafe(SECRET_BYTES)
    queue.keep_webhook_digest(project_id, _digest(secret.encode()))
    return secret


def installed(queue: JobQueue, project_id: int) -> bool:
    """Say whether a project's webhook has to show a secret.

    Args:
        queue: Where the project is remembered.
        project_id: The project.

    Returns:
        Whether a secret was installed.
    """
    return queue.webhook_digest(project_id) is not None


def forget(queue: JobQueue, project_id: int) -> None:
    """Ask a project's webhook for no secret any more.

    Args:
        queue: Where the project is remembered.
        project_id: The project.
    """
    queue.keep_webhook_digest(project_id, None)


def check(queue: JobQueue, project_id: int, header: str | None, *, required: bool = False) -> bool:
    """Say whether a webhook's event may come in.

    Args:
        queue: Where the project is remembered.
        project_id: The project that the event is about.
        header: Its `Authorization`, if it has one.
        required: Whether a project without a secret lets nobody in, rather than everybody.

    Returns:
        Whether it shows the secret of its project, or the project has none.
    """
    digest = queue.webhook_digest(project_id)
    if digest is None:
        return not required
    scheme, _, secret = (header or "").partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(_digest(secret.strip().encode()), digest)


def shows_webhook_secret(path: str, header: str) -> bool:
    """Say whether a call shows a webhook's secret, right or wrong, in place of the password.

    Args:
        path: What is called.
        header: The call's `Authorization`, or nothing.

    Returns:
        Whether it does: then whose secret it is stands in the body.
    """
    return path == "/webhook" and header.lower().startswith("bearer ")


def knows_password(settings: Settings, header: str | None) -> bool:
    """Say whether a caller is the one whom the settings name; without a name there everybody is.

    Args:
        settings: For the name and the password.
        header: The call's `Authorization`, if it has one.

    Returns:
        Whether name and password are right.
    """
    if not settings.basic_user:
        return True
    scheme, _, encoded = (header or "").partition(" ")
    try:
        shown = base64.b64decode(encoded.strip(), validate=True) if scheme.lower() == "basic" else b""
    except (binascii.Error, ValueError):
        shown = b""
    # Label Studio writes letters beyond ASCII in Latin-1 where it can, browsers and curl in UTF-8.
    wanted = f"{settings.basic_user}:{settings.basic_password.get_secret_value()}"
    right = [wanted.encode()]
    with suppress(UnicodeEncodeError):
        right.append(wanted.encode("latin-1"))
    return any(hmac.compare_digest(_digest(shown), _digest(one)) for one in right)


def _digest(secret: bytes) -> str:
    return hashlib.sha256(secret).hexdigest()
