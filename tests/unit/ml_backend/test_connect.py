from __future__ import annotations

import pytest

from ml_backend.connect import default_url, ours, suitable_config, takes_webhooks, wanted_version
from ml_backend.label_config import read_label_config
from ml_backend.wiring import UNCERTAINTY, Backend, Project
from workers.settings import Settings

BACKEND = Backend(id=1, url="http://127.0.0.1:9090", title="RSRefSeg", model_version="tiny@1")


@pytest.mark.parametrize("fields", [("image", "expression"), ("scene", None)])
def test_the_suitable_config_is_one_that_we_can_use(fields: tuple[str, str | None]) -> None:
    config = read_label_config(suitable_config(*fields))
    [image] = config.images
    assert (image.field, image.expression_field) == fields
    assert config.prompt_name == "prompt"


@pytest.mark.parametrize(
    ("url", "takes"),
    [
        ("http://backend:9090", False),
        ("http://backend.internal:9090", True),
        ("http://localhost:9090", True),
        ("http://10.0.0.7:9090", True),
        ("http://[::1]:9090", True),
    ],
)
def test_a_host_without_a_dot_takes_no_webhook(url: str, takes: bool) -> None:
    assert takes_webhooks(url) is takes


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        ({}, "http://127.0.0.1:9090"),
        ({"host": "0.0.0.0", "port": 80}, "http://127.0.0.1:80"),
        ({"public_url": "https://masks.example.org/rsrefseg/"}, "https://masks.example.org/rsrefseg"),
    ],
)
def test_where_label_studio_finds_us_unless_somebody_says_otherwise(settings: dict[str, object], url: str) -> None:
    assert default_url(Settings(**settings)) == url


@pytest.mark.parametrize(
    ("others", "found"),
    [
        ({"url": "http://127.0.0.1:9090/", "title": "SAM", "model_version": "sam"}, True),
        ({"url": "http://10.0.0.7:9090", "title": "RSRefSeg", "model_version": ""}, True),
        ({"url": "http://10.0.0.7:9090", "title": "Masks", "model_version": "tiny@1"}, True),
        ({"url": "http://10.0.0.7:9090", "title": "SAM", "model_version": "sam"}, False),
    ],
)
def test_our_backend_is_known_by_address_title_or_version(others: dict[str, str], found: bool) -> None:
    backends = (Backend(id=3, url="http://10.0.0.8:1", title="SAM"), Backend(id=2, **others))
    one = ours(backends, "http://127.0.0.1:9090", None, ["tiny@1"])
    assert (one is not None and one.id == 2) is found


@pytest.mark.parametrize(
    ("have", "sampling", "wanted"),
    [(0, UNCERTAINTY, "RSRefSeg"), (2, UNCERTAINTY, "RSRefSeg"), (3, UNCERTAINTY, "tiny@1"), (3, "Random", "RSRefSeg")],
)
def test_the_version_itself_is_shown_once_all_tasks_have_it_and_scores_decide(
    have: int, sampling: str, wanted: str
) -> None:
    project = Project(id=1, title="Harbour", task_number=3, sampling=sampling)
    assert wanted_version(project, BACKEND, {"tiny@1": have, "tiny@0": 3}, "tiny@1") == wanted


def test_a_project_without_tasks_follows_the_backend() -> None:
    project = Project(id=1, title="Harbour", task_number=None, sampling=UNCERTAINTY)
    assert wanted_version(project, BACKEND, {}, "tiny@1") == "RSRefSeg"
