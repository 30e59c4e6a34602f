"""What annotators do in the real Label Studio, and what the store then holds."""

from __future__ import annotations

import io
import json
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page

from ml_backend import brush
from ml_backend.label_studio_server import LabelStudioServer
from tests.factories import make_image_uri
from tests.with_label_studio.conftest import Fleet, Project, wait_for
from workers.corrections import Corrections, TaskCorrections

SIZE_HW = (6, 8)
LEFT, RIGHT = np.zeros(SIZE_HW, bool), np.zeros(SIZE_HW, bool)
LEFT[1:4, 1:4], RIGHT[1:4, 5:7] = True, True


def region(mask: np.ndarray, name: str = "a", **fields: Any) -> dict[str, Any]:
    return {
        "id": name,
        "from_name": "mask",
        "to_name": "image",
        "type": "brushlabels",
        "original_width": mask.shape[1],
        "original_height": mask.shape[0],
        "value": {"format": "rle", "rle": brush.encode(mask), "brushlabels": ["target"]},
        **fields,
    }


class Annotator:
    """A person at the API, as the editor is."""

    def __init__(self, project: Project) -> None:
        self.api, self.project = project.api, project.id

    def predict(self, task: int, *masks: np.ndarray) -> int:
        result = [region(mask, meta={"text": ["the ship"]}, origin="prediction") for mask in masks]
        sent = {"task": task, "project": self.project, "result": result, "score": 0.5, "model_version": "v1"}
        return int(self.api.post("/api/predictions", json=sent).raise_for_status().json()["id"])

    def submit(self, task: int, prediction: int | None, *regions: dict[str, Any], **fields: Any) -> int:
        sent = {"result": regions, "parent_prediction": prediction, "lead_time": 4.5, **fields}
        return int(self.api.post(f"/api/tasks/{task}/annotations/", json=sent).raise_for_status().json()["id"])

    def update(self, annotation: int, **fields: Any) -> None:
        self.api.patch(f"/api/annotations/{annotation}/", json=fields).raise_for_status()

    def delete(self, annotation: int) -> None:
        self.api.delete(f"/api/annotations/{annotation}/").raise_for_status()


@pytest.fixture
def annotator(project: Project) -> Annotator:
    return Annotator(project)


@pytest.fixture
def tasks(project: Project) -> list[int]:
    return project.add(*({"image": make_image_uri(), "expression": "the ship", "n": n} for n in range(8)))


def store(fleet: Fleet) -> Corrections:
    return Corrections(Path(fleet.environment["RSREFSEG_DATA"]))


def origins(fleet: Fleet, project: Project) -> dict[int, list[tuple[str, bool]]]:
    """Of each task: what was done to its masks, and whether something remains."""
    return {task.mark.task_id: said(task) for task in store(fleet).of(project.id)}


def said(task: TaskCorrections) -> list[tuple[str, bool]]:
    return [(one.origin, one.mask is not None) for record in task.annotations for one in record.corrections]


def test_what_annotators_do_is_what_the_store_holds(
    fleet: Fleet, project: Project, annotator: Annotator, tasks: list[int]
):
    fleet.start("web", "simulated", "courier", RSREFSEG_RECONCILE_S="100000")
    fleet.wait_until_ready()
    project.connect(fleet.url).raise_for_status()
    accept, change, reject, cancel, delete, draft, draw, empty = tasks
    shown = {task: annotator.predict(task, LEFT) for task in tasks if task not in (draw, empty)}
    kept = region(LEFT, meta={"text": ["the ship"]}, origin="prediction")

    annotator.submit(accept, shown[accept], kept)
    changed = annotator.submit(change, shown[change], region(LEFT | RIGHT, origin="prediction-changed"))
    annotator.submit(reject, shown[reject])
    annotator.submit(cancel, shown[cancel], kept, was_cancelled=True)
    deleted = annotator.submit(delete, shown[delete], kept)
    annotator.api.post(f"/api/tasks/{draft}/drafts", json={"result": [kept], "lead_time": 1}).raise_for_status()
    annotator.submit(draw, None, region(RIGHT))
    annotator.submit(empty, annotator.predict(empty))

    expected = {
        accept: [("accepted", True)],
        change: [("changed", True)],
        reject: [("rejected", False)],
        delete: [("accepted", True)],
        draw: [("drawn", True)],
        empty: [("accepted", False)],
    }
    wait_for(lambda: origins(fleet, project) == expected, 60)
    [record] = store(fleet).get(project.id, change).annotations
    assert (record.prediction_id, record.model_version, record.annotator) == (shown[change], "v1", 1)
    assert record.lead_time_s == 4.5
    [correction] = record.corrections
    assert (correction.expression, correction.label) == ("the ship", "target")
    assert correction.iou == pytest.approx(9 / 15)
    assert (correction.mask.to_mask() == (LEFT | RIGHT)).all()

    annotator.delete(deleted)
    annotator.update(changed, result=[kept])
    del expected[delete]
    expected[change] = [("accepted", True)]
    wait_for(lambda: origins(fleet, project) == expected, 60)
    annotator.update(changed, was_cancelled=True)
    del expected[change]
    wait_for(lambda: origins(fleet, project) == expected, 60)
    annotator.api.delete(f"/api/tasks/{draw}/").raise_for_status()
    del expected[draw]
    wait_for(lambda: origins(fleet, project) == expected, 60)

    program = Path(sysconfig.get_path("scripts")) / "rsrefseg-backend"
    done = subprocess.run(
        [program, "dataset", "--project", str(project.id), "--json"],
        env=fleet.environment,
        capture_output=True,
        check=True,
    )
    counts = json.loads(done.stdout)
    assert (counts["tasks"], counts["annotations"]) == (3, 3)
    assert (counts["total"]["accepted"], counts["total"]["rejected"], counts["total"]["empty"]) == (2, 1, 2)
    assert counts["total"]["agreement"] == pytest.approx(2 / 3)


def test_a_mask_that_the_editor_hands_back_untouched_is_accepted_and_a_painted_one_changed(
    fleet: Fleet, project: Project, annotator: Annotator, page: Page, label_studio: LabelStudioServer
):
    mask = np.zeros((300, 400), bool)
    y, x = np.mgrid[:300, :400]
    mask[np.hypot(x - 200, y - 150) < 60] = True
    file = io.BytesIO()
    Image.new("RGB", (400, 300), (128, 128, 128)).save(file, "PNG")
    image = project.upload("grey.png", file.getvalue())
    untouched, painted = project.add(*({"image": image, "expression": "the ship", "n": n} for n in range(2)))
    for task in (untouched, painted):
        annotator.predict(task, mask)
    fleet.start("web", "simulated", "courier", RSREFSEG_RECONCILE_S="2")
    fleet.wait_until_ready()
    project.connect(fleet.url).raise_for_status()
    for task in (untouched, painted):
        page.goto(f"{label_studio.url}/projects/{project.id}/data?task={task}")
        page.wait_for_selector("canvas")
        page.locator("[class*=outliner-item]").first.click()
        if task == painted:
            page.locator("[aria-label=brush-tool]").first.click()
            canvas = page.locator("canvas").first.bounding_box()
            assert canvas is not None
            page.mouse.move(canvas["x"] + 20, canvas["y"] + 30)
            page.mouse.down()
            page.mouse.move(canvas["x"] + 200, canvas["y"] + 40, steps=8)
            page.mouse.up()
        page.wait_for_timeout(800)
        page.get_by_test_id("bottombar-submit-button").click()
        wait_for(lambda task=task: project.api.get(f"/api/tasks/{task}/annotations/").raise_for_status().json())
    wait_for(lambda: set(origins(fleet, project)) == {untouched, painted}, 60)
    found = [store(fleet).get(project.id, task).annotations[0].corrections for task in (untouched, painted)]
    [[accepted], [changed]] = found
    assert (accepted.origin, accepted.expression, accepted.iou) == ("accepted", "the ship", 1)
    assert changed.origin == "changed"
    assert 0.3 < changed.iou < 0.99
    assert (changed.mask.to_mask() & mask).sum() == mask.sum()


def test_what_no_webhook_told_of_is_found_all_the_same(
    fleet: Fleet, project: Project, annotator: Annotator, tasks: list[int]
):
    fleet.start("web", "simulated", "courier", RSREFSEG_RECONCILE_S="2")
    fleet.wait_until_ready()
    project.connect(fleet.url).raise_for_status()
    for hook in project.api.get("/api/webhooks/", params={"project": project.id}).raise_for_status().json():
        project.api.delete(f"/api/webhooks/{hook['id']}/").raise_for_status()
    first, second, *_ = tasks
    annotation = annotator.submit(first, None, region(LEFT))
    other = annotator.submit(second, None, region(LEFT))
    wait_for(lambda: origins(fleet, project) == {first: [("drawn", True)], second: [("drawn", True)]}, 60)
    annotator.update(annotation, result=[region(LEFT), region(RIGHT, "b")])
    annotator.delete(other)

    def united() -> bool:
        task = store(fleet).get(project.id, first)
        masks = [one.mask.to_mask() for record in task.annotations for one in record.corrections]
        return len(masks) == 1 and bool((masks[0] == (LEFT | RIGHT)).all())

    wait_for(united, 60)
    wait_for(lambda: set(origins(fleet, project)) == {first}, 60)
    fleet.kill("courier")
    third = annotator.submit(second, None, region(RIGHT))
    assert third != other
    fleet.start("courier", RSREFSEG_RECONCILE_S="2")
    wait_for(lambda: set(origins(fleet, project)) == {first, second}, 180)
