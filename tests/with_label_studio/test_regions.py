"""How a mask with a slant and a hole looks in a real browser, written for each control."""

from __future__ import annotations

import io

import httpx
import numpy as np
import pytest
from PIL import Image

from ml_backend.label_studio_server import LabelStudioServer
from ml_backend.regions import regions
from tests.factories import make_answer, make_job
from tests.with_label_studio.browser import ARTIFACTS, logged_in, reddish
from tests.with_label_studio.conftest import create_project
from workers.contract import Ask, Output, OutputType

SIZE_HW = (400, 600)

CONFIG = """<View><Image name="image" value="$image" smoothing="false"/>
{}</View>"""

CONTROLS: dict[OutputType, str] = {
    "brushlabels": "BrushLabels",
    "bitmasklabels": "BitmaskLabels",
    "polygonlabels": "PolygonLabels",
    "rectanglelabels": "RectangleLabels",
}


def slanted(*, hole: bool) -> np.ndarray:
    """A bar that falls to the right by 30 degrees, and a square in its middle that is not of it."""
    rows, columns = np.mgrid[: SIZE_HW[0], : SIZE_HW[1]]
    along = (columns - 300) * np.cos(np.pi / 6) + (rows - 200) * np.sin(np.pi / 6)
    across = (rows - 200) * np.cos(np.pi / 6) - (columns - 300) * np.sin(np.pi / 6)
    bar = (np.abs(along) < 200) & (np.abs(across) < 60)
    return bar & ~((np.abs(rows - 200) < 30) & (np.abs(columns - 300) < 30)) if hole else bar


def test_a_mask_with_a_slant_and_a_hole_is_shown_as_it_is(label_studio: LabelStudioServer, api: httpx.Client):
    file = io.BytesIO()
    Image.new("L", SIZE_HW[::-1], 90).save(file, "PNG")
    shown: dict[str, float] = {}
    with logged_in(label_studio) as page:
        for kind, tag in CONTROLS.items():
            tags = (
                f'<{tag} name="tag" toName="image" opacity="0.6"><Label value="target" background="#e63c3c"/></{tag}>'
            )
            project = create_project(api, CONFIG.format(tags), tag)
            [task] = project.add({"image": project.upload("grey.png", file.getvalue())})
            output = Output(from_name="tag", to_name="image", type=kind, rotated=True, instances=True)
            job = make_job(asks=(Ask(expression="the bar", label="target", output=output),))
            result = regions(make_answer(job, slanted(hole=True)))
            prediction = {"task": task, "project": project.id, "result": result, "score": 0.8, "model_version": "x@1"}
            api.post("/api/predictions", json=prediction).raise_for_status()
            page.goto(f"{label_studio.url}/projects/{project.id}/data?task={task}")
            page.wait_for_function("window.Htx?.annotationStore?.selected?.regions?.length == 1")
            page.wait_for_timeout(2000)
            page.screenshot(path=ARTIFACTS / f"region-{kind}.png")
            seen = reddish(page.locator("canvas").first.screenshot())
            drawn = np.asarray(Image.fromarray(seen).resize(SIZE_HW[::-1]))
            mask = slanted(hole=kind != "rectanglelabels")
            shown[kind] = float(np.count_nonzero(drawn & mask) / np.count_nonzero(drawn | mask))
    assert shown == {kind: pytest.approx(1, abs=0.06) for kind in CONTROLS}
