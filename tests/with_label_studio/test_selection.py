"""The order of asking in the real Label Studio: its tab, its column, and everything else as it was."""

from __future__ import annotations

import json
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page

from tests.factories import make_image_uri
from tests.with_label_studio.conftest import Fleet, Project
from workers.notices import SKETCH_SIZE, Sketch
from workers.queue import JobQueue
from workers.settings import Settings

SERVED = "simulated@0.01s"


@pytest.fixture
def project(fleet: Fleet, project: Project) -> Project:
    """Twelve tasks; the first is annotated, the second was skipped, the last has no prediction."""
    fleet.start("web", "simulated")
    fleet.wait_until_ready()
    project.connect(fleet.url).raise_for_status()
    tasks = project.add(
        *(
            {
                "image": make_image_uri(),
                "expression": f"ship {n}",
                "there": {"n": [n, None]},
                "elsewhere": "s3://bucket/a.png",
            }
            for n in range(12)
        )
    )
    for place, task in enumerate(tasks[:-1]):
        for version, score in ((SERVED, 0.05 + place / 20), ("older", 0.99)):
            sent = {"task": task, "result": [], "score": score, "model_version": version}
            project.api.post("/api/predictions", json=sent).raise_for_status()
    for task, skipped in ((tasks[0], False), (tasks[1], True)):
        sent = {"result": [], "was_cancelled": skipped}
        project.api.post(f"/api/tasks/{task}/annotations/", json=sent).raise_for_status()
    return project


def select(fleet: Fleet, project: Project, *options: str) -> Any:
    program = Path(sysconfig.get_path("scripts")) / "rsrefseg-backend"
    done = subprocess.run(
        [program, "select", "--project", str(project.id), "--json", *options],
        env=fleet.environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def data(project: Project) -> dict[int, dict[str, Any]]:
    where = {"project": project.id, "resolve_uri": "false", "page_size": 100}
    tasks = project.api.get("/api/tasks/", params=where).raise_for_status().json()["tasks"]
    return {task["id"]: task["data"] for task in tasks}


def listed(project: Project, **where: Any) -> list[int]:
    answer = project.api.get("/api/tasks/", params={"project": project.id, **where}).raise_for_status().json()
    return [task["id"] for task in answer["tasks"]]


def test_the_order_is_a_number_in_each_task_that_the_data_manager_sorts_by(fleet: Fleet, project: Project):
    before = data(project)
    ids = sorted(before)
    environment = {name: value for name, value in fleet.environment.items() if name in Settings.variables()}
    with JobQueue.open(Settings.load(environment)) as queue:
        for number, task in enumerate(ids):
            turn = 2 * np.pi * number / len(ids)
            vector = np.zeros(SKETCH_SIZE, np.float16)
            vector[:2] = np.cos(turn), np.sin(turn)
            if number < 6:  # the others are older than sketches
                queue.keep_sketch(project.id, task, Sketch(vector, 0.05 + number / 20, SERVED, frozenset({"target"})))

    only_sketched = select(fleet, project, "--count", "2", "--random-share", "0")
    assert (only_sketched["way"], only_sketched["unscored"]) == ("doubts and images", 6)
    project.api.patch(f"/api/projects/{project.id}/", json={"model_version": SERVED}).raise_for_status()

    chosen = select(fleet, project, "--count", "5", "--random-share", "0.4")
    asked = [task["task_id"] for task in chosen["tasks"]]
    assert (chosen["pool"], chosen["way"], chosen["unscored"], chosen["model_version"]) == (
        10,
        "doubts and images",
        1,
        SERVED,
    )
    assert len(set(asked)) == 5
    assert not {*asked} & {*ids[:2]}
    assert [task["arm"] for task in chosen["tasks"]].count("random") == 2
    for task in chosen["tasks"]:
        score = None if task["task_id"] == ids[-1] else pytest.approx(0.05 + ids.index(task["task_id"]) / 20)
        assert task["score"] == score
    kept = Path(fleet.environment["RSREFSEG_DATA"]) / "selections" / str(project.id) / "0002.json"
    assert json.loads(kept.read_text())["tasks"] == chosen["tasks"]

    numbers = {task: number for number, task in enumerate(asked, start=11)}
    assert data(project) == {
        task: fields | ({"ask_order": numbers[task]} if task in numbers else {}) for task, fields in before.items()
    }
    columns = project.api.get("/api/dm/columns", params={"project": project.id}).json()["columns"]
    assert "ask_order" in [column["id"] for column in columns]
    tab = int(chosen["tab"].partition("tab=")[2])
    assert listed(project, view=tab) == asked
    by_hand = json.dumps({"ordering": ["tasks:data.ask_order"]})
    assert listed(project, query=by_hand)[:5] == asked
    config = project.api.get(f"/api/projects/{project.id}").json()["label_config"]
    changed = config.replace("#e63c3c", "#3ce63c")
    project.api.patch(f"/api/projects/{project.id}/", json={"label_config": changed}).raise_for_status()

    other = [task["task_id"] for task in select(fleet, project, "--count", "3", "--seed", "4")["tasks"]]
    assert sorted(task for task, fields in data(project).items() if "ask_order" in fields) == sorted(other)
    assert listed(project, view=tab) == other
    assert select(fleet, project, "--clear") == {"cleared": 3}
    assert data(project) == before
    [all_tasks] = project.api.get("/api/dm/views/", params={"project": project.id}).json()
    assert listed(project, view=all_tasks["id"]) == ids


def test_what_label_studio_serves_next_is_what_the_model_is_least_sure_of(fleet: Fleet, project: Project):
    program = Path(sysconfig.get_path("scripts")) / "rsrefseg-backend"
    subprocess.run(
        [program, "connect", "--project", str(project.id)], env=fleet.environment, check=True, capture_output=True
    )
    settings = project.api.get(f"/api/projects/{project.id}/").json()
    assert settings["sampling"] == "Uncertainty sampling"
    # Label Studio compares by the version itself, which `connect` sets once every task has its prediction.
    project.api.patch(f"/api/projects/{project.id}/", json={"model_version": SERVED}).raise_for_status()
    served = project.api.get(f"/api/projects/{project.id}/next").raise_for_status().json()["id"]
    assert served == sorted(data(project))[2]


def test_a_person_sees_the_tab_with_its_order(fleet: Fleet, project: Project, page: Page):
    chosen = select(fleet, project, "--count", "4")
    page.goto(chosen["tab"])
    page.wait_for_selector("text=ask_order", timeout=120_000)
    assert page.locator("text=Ask next").first.is_visible()
    assert page.locator("text=Default").first.is_visible()
    # The numbers of the tasks stand in the first column.
    rows = [[box["y"] for box in boxes(page, str(task["task_id"])) if box["x"] < 100] for task in chosen["tasks"]]
    assert [len(row) for row in rows] == [1, 1, 1, 1]
    assert rows == sorted(rows)


def boxes(page: Page, text: str) -> list[Any]:
    return [found.bounding_box() for found in page.get_by_text(text, exact=True).all()]
