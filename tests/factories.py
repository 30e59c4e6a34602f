"""The smallest valid messages and images; a test says only what matters to it."""

from __future__ import annotations

import base64
import io
from datetime import UTC, datetime
from typing import Any

import numpy as np
from PIL import Image

from workers.contract import Answer, Ask, Found, Output, PredictJob, Rle
from workers.corrections import AnnotationRecord, Correction, Mark, TaskCorrections
from workers.registry import Verdict, Version

OUTPUT = Output(from_name="tag", to_name="image", type="brushlabels")


def make_png(size_hw: tuple[int, int] = (6, 8), mode: str = "RGB", **options: Any) -> bytes:
    """A black image with a white upper left quarter."""
    pixels = np.zeros(size_hw, np.uint8)
    pixels[: size_hw[0] // 2, : size_hw[1] // 2] = 255
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, options.pop("format", "PNG"), **options)
    return file.getvalue()


def make_image_uri(size_hw: tuple[int, int] = (6, 8)) -> str:
    return "data:image/png;base64," + base64.b64encode(make_png(size_hw)).decode()


def make_job(task_id: int = 7, expressions: tuple[str, ...] = ("the ship",), **fields: Any) -> PredictJob:
    return PredictJob(**{
        "project_id": 1,
        "task_id": task_id,
        "image_uris": (fields.pop("image_uri", None) or make_image_uri(),),  # one is what most tests need
        "asks": tuple(Ask(expression=expression, label="target", output=OUTPUT) for expression in expressions),
        **fields,
    })


def make_answer(job: PredictJob | None = None, mask: np.ndarray | None = None, **fields: Any) -> Answer:
    job = job or make_job()
    rle = Rle.from_mask(np.eye(6, 8, dtype=bool) if mask is None else mask)
    return Answer(**{
        "job": job,
        "model_version": "tiny@0",
        "found": tuple(
            Found(expression=ask.expression, label=ask.label, mask=rle, score=0.8, predicted_iou=0.9)
            for ask in job.asks
        ),
        "seconds": 0.1,
        **fields,
    })


def make_task_corrections(task: int = 7, corrections: int = 2, updated_at: datetime | None = None) -> TaskCorrections:
    one = Correction(
        image=0,
        expression="the ship",
        label="target",
        mask=Rle.from_mask(np.eye(6, 8, dtype=bool)),
        origin="drawn",
    )
    record = AnnotationRecord(
        annotation_id=100 + task, updated_at=updated_at or datetime.now(UTC), corrections=(one,) * corrections
    )
    mark = Mark(project_id=1, task_id=task, updated_at="1")
    return TaskCorrections(mark=mark, scene="a", image_uris=(make_image_uri(),), annotations=(record,))


def make_version(version: str = "tiny@1", project_id: int = 1, **fields: Any) -> Version:
    return Version(**{
        "version": version,
        "project_id": project_id,
        "base": "tiny@0",
        "parent": "tiny@0",
        "dataset": "0001-0a1b2c3d",
        "corrections": 50,
        "recipe": {},
        "code": "",
        "made_at": datetime.now(UTC),
        "seconds": 1.0,
        "verdict": Verdict(passed=True, reason="The gain is real."),
        **fields,
    })
