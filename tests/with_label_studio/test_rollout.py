"""What the real Label Studio shows after the alias of a project's champion moved, and after it moved back."""

from __future__ import annotations

import json
import subprocess
import sysconfig
import time
from collections import defaultdict
from pathlib import Path

import pytest

from tests.factories import make_image_uri, make_version
from tests.with_label_studio.conftest import Fleet, Project, wait_for
from workers.queue import JobQueue
from workers.registry import Registry
from workers.settings import Settings

BASE, CHAMPION, FOREIGN = "simulated@0.01s", "simulated@0.02s", "somebody's"
"""A simulated worker's version is its speed; so one of another speed draws what the champion would."""


def versions(project: Project) -> dict[int, set[str]]:
    """Of the predictions of each task, of which no version is there twice."""
    found: dict[int, set[str]] = defaultdict(set)
    for one in project.predictions():
        assert one["model_version"] not in found[one["task"]]
        found[one["task"]].add(one["model_version"])
    return dict(found)


def shown(project: Project) -> str:
    return str(project.api.get(f"/api/projects/{project.id}/").raise_for_status().json()["model_version"])


@pytest.mark.timeout(600)  # Five processes are started, and everything is drawn three times.
def test_a_promotion_is_shown_and_a_rollback_takes_it_back(fleet: Fleet, project: Project, tmp_path: Path):
    fleet.start("web", "simulated", "courier", RSREFSEG_REPLACED_S="1")
    fleet.wait_until_ready()
    project.connect(fleet.url).raise_for_status()
    tasks = project.add(*({"image": make_image_uri(), "expression": "the ship", "n": n} for n in range(6)))
    annotated, begun, with_foreign, *others = tasks
    project.retrieve()
    wait_for(lambda: versions(project) == {task: {BASE} for task in tasks})
    foreign = {"task": with_foreign, "project": project.id, "result": [], "score": 0.9, "model_version": FOREIGN}
    project.api.post("/api/predictions", json=foreign).raise_for_status()
    [parent] = [one["id"] for one in project.predictions() if one["task"] == annotated]
    sent = {"result": [], "parent_prediction": parent}
    annotation = project.api.post(f"/api/tasks/{annotated}/annotations/", json=sent).raise_for_status().json()["id"]
    project.api.post(f"/api/tasks/{begun}/drafts", json={"result": [], "lead_time": 1}).raise_for_status()
    before = project.api.get(f"/api/annotations/{annotation}/").raise_for_status().json()
    assert shown(project) == "RSRefSeg"

    registry = Registry(Path(fleet.environment["RSREFSEG_DATA"]))
    (tmp_path / "checkpoint").mkdir()
    registry.add(make_version(CHAMPION, project.id), tmp_path / "checkpoint")
    registry.move(project.id, CHAMPION, "promoted")
    fleet.kill("simulated")
    fleet.start("simulated anew")
    expected = {annotated: {BASE}, begun: {BASE, CHAMPION}, with_foreign: {CHAMPION, FOREIGN}}
    expected |= {task: {CHAMPION} for task in others}
    wait_for(lambda: (versions(project), shown(project)) == (expected, CHAMPION))

    fleet.kill("simulated anew")
    fleet.start("simulated")
    wait_for(lambda: fleet.log("simulated").read_text().count("Listening on") == 2)
    began = time.monotonic()
    registry.move(project.id, registry.before(project.id), "rolled back")
    wait_for(lambda: shown(project) == BASE)
    assert time.monotonic() - began < 60
    expected = {annotated: {BASE}, begun: {BASE, CHAMPION}, with_foreign: {BASE, FOREIGN}}
    expected |= {task: {BASE} for task in others}
    wait_for(lambda: versions(project) == expected)
    after = project.api.get(f"/api/annotations/{annotation}/").raise_for_status().json()
    assert {**after, "created_ago": ""} == {**before, "created_ago": ""}


def test_start_training_in_label_studio_asks_a_trainer_about_what_was_annotated_before(fleet: Fleet, project: Project):
    fleet.start("web", "simulated", "courier", RSREFSEG_RECONCILE_S="100000")
    fleet.wait_until_ready()
    backend = project.connect(fleet.url).raise_for_status().json()["id"]
    for hook in project.api.get("/api/webhooks/", params={"project": project.id}).raise_for_status().json():
        project.api.delete(f"/api/webhooks/{hook['id']}/").raise_for_status()
    task, later = project.add(*({"image": make_image_uri(), "expression": "the ship", "n": n} for n in range(2)))
    region = {"id": "a", "from_name": "prompt", "to_name": "image", "type": "textarea", "value": {"text": ["a ship"]}}
    project.api.post(f"/api/tasks/{task}/annotations/", json={"result": [region]}).raise_for_status()
    project.api.post(f"/api/ml/{backend}/train").raise_for_status()
    with JobQueue.open(Settings.load(fleet.environment)) as queue:
        training = wait_for(lambda: queue.trainings().get(project.id))
    assert (training.stage, training.why) == ("waiting", "asked")
    assert (Path(fleet.environment["RSREFSEG_DATA"]) / f"corrections/{project.id}/{task}.json").exists()

    project.api.post(f"/api/tasks/{later}/annotations/", json={"result": [region]}).raise_for_status()
    program = Path(sysconfig.get_path("scripts")) / "rsrefseg-backend"
    command = [program, "retrain", "--project", str(project.id), "--json"]
    said = json.loads(subprocess.run(command, env=fleet.environment, capture_output=True, check=True).stdout)
    assert (said["asked"], said["gathered"], said["trainers"]) == (False, True, 0)
    assert (Path(fleet.environment["RSREFSEG_DATA"]) / f"corrections/{project.id}/{later}.json").exists()
