"""The reference pages are what the code says; WRITE_DOCS=1 writes them anew."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flask import Flask

from ml_backend.web import create_app
from tests import reference
from workers.queue import JobQueue, connect
from workers.settings import Settings


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Flask]:
    """The web process's application; nobody asks it anything that needs Redis."""
    settings = Settings(data=tmp_path)
    with connect("redis://127.0.0.1:1/0") as redis:
        yield create_app(settings, JobQueue(redis, settings))


def check(page: Path, text: str) -> None:
    if os.environ.get("WRITE_DOCS"):
        page.write_text(text)
    assert page.read_text() == text


@pytest.mark.parametrize(("page", "text"), [("commands", reference.commands_page), ("python", reference.python_page)])
def test_commands_and_classes_are_in_the_docs(page: str, text: Callable[[], str]):
    check(Path(f"docs/{page}.md"), text())


@pytest.mark.parametrize(("page", "text"), [("routes", reference.routes_page), ("errors", reference.errors_page)])
def test_routes_and_errors_are_in_the_docs(app: Flask, page: str, text: Callable[[Flask], str]):
    check(Path(f"docs/{page}.md"), text(app))
