"""Name and password, and the webhook's secret, as Label Studio itself sends them."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from ml_backend import access
from tests.factories import make_png
from tests.with_label_studio.conftest import Fleet, Project, wait_for
from workers.queue import Event, JobQueue
from workers.settings import Settings

LOGIN = {"RSREFSEG_BASIC_USER": "label-studio", "RSREFSEG_BASIC_PASSWORD": "größe:7"}


@pytest.fixture
def queue(fleet: Fleet) -> Iterator[JobQueue]:
    """The web process's own Redis."""
    with JobQueue.open(Settings(data=fleet.environment["RSREFSEG_DATA"])) as queue:
        yield queue


def listening(fleet: Fleet) -> bool:
    try:
        return httpx.get(f"{fleet.url}/health").status_code in (200, 401)
    except httpx.TransportError:
        return False


def connect(project: Project, fleet: Fleet, **login: str) -> httpx.Response:
    backend = {"url": fleet.url, "project": project.id, "title": "RSRefSeg", **login}
    return project.api.post("/api/ml", json=backend)


def basic(password: str) -> dict[str, str]:
    user = LOGIN["RSREFSEG_BASIC_USER"]
    return {"auth_method": "BASIC_AUTH", "basic_auth_user": user, "basic_auth_pass": password}


def events(queue: JobQueue) -> list[str]:
    return [Event.model_validate_json(fields[b"event"]).action for _, fields in queue.redis.xrange("rsrefseg:events")]


def annotate(project: Project, task: int) -> int:
    answer = project.api.post(f"/api/tasks/{task}/annotations", json={"result": [], "lead_time": 1})
    return int(answer.raise_for_status().json()["id"])


def test_label_studio_says_what_is_wrong_with_the_password_and_works_with_the_right_one(
    fleet: Fleet, project: Project, queue: JobQueue
) -> None:
    fleet.start("web", **LOGIN)
    wait_for(lambda: listening(fleet))
    for login in ({}, basic("wrong")):
        refused = connect(project, fleet, **login)
        assert refused.status_code == 400
        assert "authentication parameters were either not provided or are incorrect" in refused.text
    queue.announce("tiny@1")
    backend = connect(project, fleet, **basic(LOGIN["RSREFSEG_BASIC_PASSWORD"])).raise_for_status().json()
    assert (backend["state"], backend["model_version"]) == ("CO", "tiny@1")
    versions = project.api.get(f"/api/ml/{backend['id']}/versions").raise_for_status().json()
    assert versions["versions"] == ["tiny@1"]

    image = project.upload("a.png", make_png((40, 60)))
    [task, other] = project.add(*[{"image": image, "expression": f"the ship {n}"} for n in range(2)])
    project.retrieve()
    assert queue.projects()[project.id] == 2

    trained = project.api.post(f"/api/ml/{backend['id']}/train")
    assert trained.is_success, trained.text
    assert events(queue) == ["START_TRAINING"], "which comes with the password, and the tasks' events come without"
    annotate(project, task)
    assert events(queue) == ["START_TRAINING"]

    [hook] = project.api.get("/api/webhooks/", params={"project": project.id}).raise_for_status().json()
    headers = {"Authorization": "Bearer " + access.install(queue, project.id)}
    project.api.patch(f"/api/webhooks/{hook['id']}/", json={"headers": headers}).raise_for_status()
    annotation = annotate(project, other)
    project.api.delete(f"/api/annotations/{annotation}").raise_for_status()
    assert events(queue) == ["START_TRAINING", "ANNOTATION_CREATED", "ANNOTATIONS_DELETED"]


def test_events_of_a_project_with_a_secret_come_in_only_with_it(
    fleet: Fleet, project: Project, queue: JobQueue
) -> None:
    fleet.start("web")
    wait_for(lambda: listening(fleet))
    queue.announce("tiny@1")
    connect(project, fleet).raise_for_status()
    [hook] = project.api.get("/api/webhooks/", params={"project": project.id}).raise_for_status().json()
    image = project.upload("a.png", make_png((40, 60)))
    [task] = project.add({"image": image, "expression": "the ship"})
    before = events(queue)
    annotate(project, task)
    assert events(queue) == [*before, "ANNOTATION_CREATED"], "nobody has made a secret yet"

    secret = access.install(queue, project.id)
    annotate(project, task)
    assert len(events(queue)) == len(before) + 1, "Label Studio has not been told"
    headers = {"Authorization": f"Bearer {secret}"}
    project.api.patch(f"/api/webhooks/{hook['id']}/", json={"headers": headers}).raise_for_status()
    annotate(project, task)
    assert len(events(queue)) == len(before) + 2
    assert secret not in fleet.log("web").read_text()
