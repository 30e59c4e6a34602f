"""What a test cannot do without: missing on a laptop it skips with the reason, missing in CI it fails."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest


def need(path: str | Path | None, what: str, remedy: str) -> Path:
    """The path, if it is there."""
    if path and Path(path).exists():
        return Path(path)
    message = f"{what} is not here: {remedy}"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


def need_label_studio() -> Path:
    command = os.environ.get("LABEL_STUDIO_COMMAND", ".venv-label-studio/bin/label-studio")
    return need(command, "Label Studio", "run `make test`, which installs it apart")


def need_browser() -> Path:
    return need(shutil.which("chromium"), "chromium", "apt install chromium")


def need_promtool() -> Path:
    return need(shutil.which("promtool"), "promtool", "apt install prometheus")


def need_backend_python() -> Path:
    python = os.environ.get("BACKEND_PYTHON", ".venv-backend/bin/python")
    return need(python, "an environment without torch", "run `make test`, which makes it")
