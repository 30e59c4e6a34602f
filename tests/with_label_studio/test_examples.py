"""Each example project in a real Label Studio and a real browser, on an image that EXIF turns."""

from __future__ import annotations

import io
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page

from ml_backend.label_config import LabelConfig, read_label_config
from ml_backend.label_studio_server import LabelStudioServer
from ml_backend.protocol import Task
from ml_backend.translate import task_to_job
from rsrefseg.samples import write_samples
from tests.examples import NAMES, Example
from tests.with_label_studio.browser import ARTIFACTS, logged_in, reddish
from tests.with_label_studio.conftest import Fleet, create_project, fleet_of, wait_for
from workers.simulated import SimulatedPredictor

UPRIGHT_WH = (400, 560)
"""As browsers show it; the file has it the other way round."""

QUARTER_TURN = 6
"""What EXIF calls a turn by 90 degrees clockwise."""


@pytest.fixture(scope="module")
def served(label_studio: LabelStudioServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    fleet = fleet_of(label_studio, tmp_path_factory.mktemp("fleet"))
    fleet.start("web", "simulated", "courier")
    fleet.wait_until_ready()
    yield fleet
    fleet.stop()


@pytest.fixture(scope="module")
def page(label_studio: LabelStudioServer) -> Iterator[Page]:
    with logged_in(label_studio) as page:
        yield page


@pytest.fixture(scope="module")
def turned_scene(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A grey scene, so that colour on the screen can only be a region, lying on its side in its file."""
    folder = tmp_path_factory.mktemp("scene")
    write_samples(folder, 1, 560, 2_000_000_003)
    [png] = folder.glob("scene-*.png")
    upright = Image.open(png).convert("L").resize((560, 560)).crop((0, 0, *UPRIGHT_WH)).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = QUARTER_TURN
    file = io.BytesIO()
    upright.transpose(Image.Transpose.ROTATE_90).save(file, "JPEG", exif=exif, quality=90)
    return file.getvalue()


@pytest.mark.parametrize("name", NAMES)
def test_the_regions_of_an_example_lie_on_its_images(
    name: str, served: Fleet, page: Page, label_studio: LabelStudioServer, api: httpx.Client, turned_scene: bytes
):
    example = Example.read(name)
    project = create_project(api, example.config, name)
    project.connect(served.url, **example.extra_params).raise_for_status()
    uri = project.upload("turned.jpg", turned_scene)
    data = [
        {key: uri if value.startswith("https://") else value for key, value in task["data"].items()}
        for task in example.tasks
    ]
    ids = project.add(*data)
    project.retrieve()
    predictions = wait_for(lambda: len(found := project.predictions()) == len(ids) and found)
    assert sorted(one["task"] for one in predictions) == sorted(ids)

    [first] = [one["result"] for one in predictions if one["task"] == ids[0]]
    assert {(region["original_width"], region["original_height"]) for region in first} == {UPRIGHT_WH}
    page.goto(f"{label_studio.url}/projects/{project.id}/data?task={ids[0]}")
    page.wait_for_selector("canvas")
    page.wait_for_function("window.Htx?.annotationStore?.selected?.regions?.length > 0")
    page.wait_for_timeout(1500)
    page.screenshot(path=ARTIFACTS / f"example-{name}.png")
    ids_shown = page.evaluate("Htx.annotationStore.selected.regions.map(region => region.cleanId)")
    assert sorted(ids_shown) == sorted({region["id"] for region in first})

    config = read_label_config(example.config, example.options)
    for image_name, expected in masks(config, Task(id=1, data=data[0])).items():
        shown = reddish(page.locator(f"canvas >> nth={list_position(config, image_name)}").screenshot())
        drawn = np.asarray(Image.fromarray(shown).resize(UPRIGHT_WH))
        assert np.count_nonzero(drawn & expected) / np.count_nonzero(drawn | expected) > 0.8


def masks(config: LabelConfig, task: Task) -> dict[str, np.ndarray]:
    """What must be coloured on each image."""
    width, height = UPRIGHT_WH
    found: dict[str, np.ndarray] = {}
    for ask in task_to_job(task, 1, config).asks:
        [segment] = SimulatedPredictor(0).segment((height, width), [ask.expression])
        mask = segment.mask
        if ask.output.type == "rectanglelabels":
            rows, columns = np.nonzero(mask)
            mask = np.zeros_like(mask)
            mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
        found[ask.output.to_name] = found.get(ask.output.to_name, np.zeros_like(mask)) | mask
    return found


def list_position(config: LabelConfig, image_name: str) -> int:
    return [image.name for image in config.images].index(image_name)
