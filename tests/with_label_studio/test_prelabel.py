"""The road from words to predictions, with every process real."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from ml_backend.brush import decode
from rsrefseg.samples import write_samples
from tests.with_label_studio.conftest import Fleet, Project, wait_for

SCENES = 48
FIRST_SEED = 2_000_000_000

EXPECTED_IOU = 0.5
"""What the shipped weights have to reach on these scenes on average."""


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_samples(folder, SCENES, 512, FIRST_SEED)
    return folder


def fill(project: Project, scenes: Path) -> dict[int, Path]:
    """A task for each scene, and where its truth is."""
    with (scenes / "expressions.csv").open() as file:
        rows = list(csv.DictReader(file))
    data = [
        {"image": project.upload(row["image"], (scenes / row["image"]).read_bytes()), "expression": row["expression"]}
        for row in rows
    ]
    ids = project.add(*data)
    return {task_id: scenes / "masks" / row["image"] for task_id, row in zip(ids, rows, strict=True)}


def iou(mask: np.ndarray, truth: np.ndarray) -> float:
    return float((mask & truth).sum() / max(1, (mask | truth).sum()))


def mask_of(prediction: dict[str, object], size_hw: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(size_hw, bool)
    for region in prediction["result"]:
        assert (region["original_height"], region["original_width"]) == size_hw
        mask |= decode(region["value"]["rle"], size_hw)
    return mask


def test_masks_of_drawn_scenes_land_on_what_the_words_name(fleet: Fleet, project: Project, scenes: Path):
    fleet.start("web", "worker", "courier")
    fleet.wait_until_ready()
    truths = fill(project, scenes)
    project.connect(fleet.url).raise_for_status()
    project.retrieve()
    wait_for(lambda: len(project.predictions()) == SCENES)

    masks = {prediction["task"]: mask_of(prediction, (512, 512)) for prediction in project.predictions()}
    wanted = {task: np.asarray(Image.open(path)) > 0 for task, path in truths.items()}
    own = np.mean([iou(masks[task], wanted[task]) for task in masks])
    others = np.mean([iou(masks[task], wanted[other]) for task in masks for other in masks if other != task])
    assert own > 2 * others, "the masks would fit other scenes as well"
    assert own > EXPECTED_IOU
    assert all(0 <= prediction["score"] <= 1 for prediction in project.predictions())

    version = httpx.get(f"{fleet.url}/health").json()["model_version"]
    assert {prediction["model_version"] for prediction in project.predictions()} == {version}

    project.retrieve()
    project.retrieve()
    assert len(project.predictions()) == SCENES


def test_a_task_that_is_opened_shows_its_mask_at_once(fleet: Fleet, project: Project, scenes: Path):
    fleet.start("web", "worker", "courier")
    fleet.wait_until_ready()
    task_id, *_ = fill(project, scenes)
    project.connect(fleet.url).raise_for_status()
    opened = project.api.get(f"/api/tasks/{task_id}", params={"project": project.id}).raise_for_status().json()
    assert len(opened["predictions"]) == 1
    assert opened["predictions"][0]["result"][0]["type"] == "brushlabels"


@pytest.mark.parametrize("order", [("courier", "worker", "web"), ("worker", "web", "courier")])
def test_processes_killed_and_started_in_any_order_lose_and_double_nothing(
    fleet: Fleet, project: Project, scenes: Path, order: tuple[str, ...]
):
    fleet.start("web", "worker", "courier")
    fleet.wait_until_ready()
    fill(project, scenes)
    project.connect(fleet.url).raise_for_status()
    fleet.kill("worker" if order[0] == "courier" else "courier")
    project.retrieve()
    fleet.kill(*fleet.running)
    for name in order:
        fleet.start(name)
    fleet.wait_until_ready()
    wait_for(lambda: len(project.predictions()) >= SCENES, timeout_s=120)
    project.retrieve()
    tasks = [prediction["task"] for prediction in project.predictions()]
    assert sorted(tasks) == sorted(set(tasks))
    assert len(tasks) == SCENES


def test_what_cannot_be_asked_is_listed_with_its_reason(fleet: Fleet, project: Project, scenes: Path):
    fleet.start("web", "worker", "courier")
    fleet.wait_until_ready()
    broken = project.upload("broken.png", b"\x89PNG\r\n\x1a\n nothing more")
    good = project.upload("good.png", (scenes / "scene-00.png").read_bytes())
    project.add(
        {"image": good, "expression": "the ship"},
        {"image": good, "expression": ""},
        {"image": broken, "expression": "the ship"},
        {"image": "/data/local-files/?d=missing.png", "expression": "the ship"},
    )
    project.connect(fleet.url).raise_for_status()
    project.retrieve()

    def failures() -> list[dict[str, str]]:
        import subprocess
        import sysconfig

        status = subprocess.run(
            [str(Path(sysconfig.get_path("scripts")) / "rsrefseg-worker"), "status", "--json"],
            env=fleet.environment,
            capture_output=True,
            check=True,
        )
        return list(json.loads(status.stdout)["failures"])

    listed = wait_for(lambda: found if len(found := failures()) == 3 else None)
    reasons = sorted(failure["reason"] for failure in listed)
    assert len(project.predictions()) == 1
    assert any("expression" in reason for reason in reasons)
    assert any("missing.png" in reason for reason in reasons)
    assert not any("Traceback" in reason for reason in reasons)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            '<View><Text name="t" value="$text"/><Choices name="c" toName="t"><Choice value="a"/></Choices></View>',
            "Image",
        ),
        (
            '<View><Image name="i" value="$image"/><Choices name="c" toName="i"><Choice value="a"/></Choices></View>',
            "Brush",
        ),
    ],
)
def test_an_unusable_labeling_config_is_refused_with_the_line_to_add(fleet: Fleet, project: Project, config, said):
    fleet.start("web", "worker")
    fleet.wait_until_ready()
    project.api.patch(f"/api/projects/{project.id}", json={"label_config": config}).raise_for_status()
    answer = project.connect(fleet.url)
    assert answer.status_code == 400
    assert said in answer.text


def test_a_wrong_api_key_is_named_and_nothing_is_lost(fleet: Fleet, project: Project, scenes: Path):
    fleet.start("web", "worker", "courier")
    fleet.wait_until_ready()
    fleet.kill("courier")
    fleet.start("courier", LABEL_STUDIO_API_KEY="0" * 40)
    truths = fill(project, scenes)
    project.connect(fleet.url).raise_for_status()
    project.retrieve()
    wait_for(lambda: "LABEL_STUDIO_API_KEY" in fleet.log("courier").read_text())
    assert "0" * 40 not in fleet.log("courier").read_text()
    fleet.kill(*({"courier"} & set(fleet.running)))
    fleet.start("courier")
    wait_for(lambda: len(project.predictions()) == len(truths), timeout_s=120)


def test_typed_words_get_a_mask_back(fleet: Fleet, project: Project, scenes: Path):
    fleet.start("web", "worker")
    fleet.wait_until_ready()
    task_id, *_ = fill(project, scenes)
    project.connect(fleet.url).raise_for_status()
    [backend] = project.api.get("/api/ml", params={"project": project.id}).json()
    typed = {"id": "x", "from_name": "prompt", "to_name": "image", "type": "textarea", "value": {"text": ["the road"]}}
    answer = project.api.post(
        f"/api/ml/{backend['id']}/interactive-annotating", json={"task": task_id, "context": {"result": [typed]}}
    )
    assert "errors" not in answer.json()
    regions = answer.json()["data"]["result"]
    assert [region["value"]["brushlabels"] for region in regions] in ([["target"]], [])
    assert project.predictions() == []


def test_greyscale_and_rotated_images_line_up(fleet: Fleet, project: Project):
    fleet.start("web", "worker", "courier")
    fleet.wait_until_ready()
    turned = Image.new("L", (60, 40), 90)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by a quarter
    file = io.BytesIO()
    turned.save(file, "JPEG", exif=exif)
    uri = project.upload("turned.jpg", file.getvalue())
    project.add({"image": uri, "expression": "the field"})
    project.connect(fleet.url).raise_for_status()
    project.retrieve()
    [prediction] = wait_for(project.predictions)
    assert {(r["original_width"], r["original_height"]) for r in prediction["result"]} <= {(40, 60)}
