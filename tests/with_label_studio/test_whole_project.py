"""`rsrefseg-backend prelabel` on a real project: its pages, its versions, and what is left to do."""

from __future__ import annotations

import json
import subprocess
import sysconfig
from contextlib import closing
from pathlib import Path
from typing import Any

from ml_backend.label_studio import LabelStudio
from ml_backend.label_studio_server import LabelStudioServer
from tests.factories import make_png
from tests.with_label_studio.conftest import Fleet, Project

TASKS = 12
VERSION = "simulated@0.01s"


def prelabel(fleet: Fleet, project: Project, *options: str) -> tuple[int, dict[str, Any]]:
    """Exit code and JSON of the command."""
    program = str(Path(sysconfig.get_path("scripts")) / "rsrefseg-backend")
    command = [program, "prelabel", "--project", str(project.id), "--json", *options]
    done = subprocess.run(command, env=fleet.environment, capture_output=True, text=True, timeout=250)
    assert "Traceback" not in done.stderr
    return done.returncode, json.loads(done.stdout)


def test_a_whole_project_gets_its_masks_by_one_command(fleet: Fleet, project: Project, label_studio: LabelStudioServer):
    fleet.start("web", "simulated", "courier")
    fleet.wait_until_ready()
    image = project.upload("scene.png", make_png((40, 60)))
    ids = project.add(*[{"image": image, "expression": "", "caption": f"the ship {n}"} for n in range(TASKS)])
    backend = {"url": fleet.url, "project": project.id, "title": "RSRefSeg"}
    backend["extra_params"] = {"expression_field": "caption"}
    project.api.post("/api/ml", json=backend).raise_for_status()

    code, tally = prelabel(fleet, project, "--limit", "5", "--wait")
    assert code == 0
    assert (tally["enqueued"], tally["delivered"], tally["complete"]) == (5, 5, False)
    code, tally = prelabel(fleet, project, "--wait")
    assert code == 0
    assert (tally["enqueued"], tally["already"], tally["delivered"], tally["complete"]) == (7, 5, 7, True)
    code, tally = prelabel(fleet, project)
    assert (code, tally["already"], tally["enqueued"]) == (0, TASKS, 0)
    assert tally["model_version"] == VERSION

    predictions = project.predictions()
    assert sorted(one["task"] for one in predictions) == sorted(ids)
    assert {region["meta"]["text"][0] for one in predictions for region in one["result"]} == {
        f"the ship {n}" for n in range(TASKS)
    }


def test_pages_follow_one_another_and_carry_versions_and_raw_addresses(
    project: Project, label_studio: LabelStudioServer
):
    ids = sorted(project.add(*[{"image": f"s3://scenes/{n}.png", "expression": "the ship"} for n in range(7)]))
    for task, version in [(ids[0], "a@1"), (ids[0], "b@2"), (ids[1], "a@1"), (ids[1], "a@1")]:
        body = {"task": task, "result": [], "model_version": version, "score": 0.5}
        project.api.post("/api/predictions", json=body).raise_for_status()
    with closing(LabelStudio(label_studio.url, label_studio.token)) as door:
        first = door.tasks(project.id, page_size=3)
        assert ([task.id for task in first.tasks], first.total) == (ids[:3], 7)
        assert [sorted(task.model_versions) for task in first.tasks] == [["a@1", "b@2"], ["a@1"], []]
        assert first.tasks[0].data["image"] == "s3://scenes/0.png"

        project.api.delete(f"/api/tasks/{ids[1]}").raise_for_status()
        second = door.tasks(project.id, after=ids[2], page_size=3)
        assert ([task.id for task in second.tasks], second.total) == (ids[3:6], 4)
        third = door.tasks(project.id, after=ids[5], page_size=3)
        assert ([task.id for task in third.tasks], third.total) == (ids[6:], 1)
        assert door.tasks(project.id, after=ids[6]) == first.model_copy(update={"tasks": (), "total": 0})
