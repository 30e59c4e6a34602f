"""COCO instance annotations: real images whose objects have polygon or run-length masks."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from rsrefseg.datasets.labelled import LabelledImage
from rsrefseg.errors import BadRequest
from rsrefseg.expressions import Thing


def _mask(segmentation: object, size_hw: tuple[int, int]) -> np.ndarray:
    height, width = size_hw
    if isinstance(segmentation, list):
        rle = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation, dict) and isinstance(segmentation.get("counts"), list):
        rle = coco_mask.frPyObjects(segmentation, height, width)
    else:
        rle = segmentation
    return np.asarray(coco_mask.decode(rle), dtype=bool)


def read_coco_instances(root: Path, split: str) -> Iterator[LabelledImage]:
    """Read images one by one, larger objects below smaller ones.

    Args:
        root: Holds `<split>.json` and `images/`.
        split: Name of the annotation file.

    Yields:
        Images at their own size; underscores in class names become spaces.

    Raises:
        BadRequest: If the annotation file or an image is missing or unreadable.
    """
    path = root / f"{split}.json"
    try:
        table = json.loads(path.read_text())
    except FileNotFoundError as exc:
        raise BadRequest(f"{path} is missing: --root needs a folder with {split}.json and images/") from exc
    except ValueError as exc:
        raise BadRequest(f"{path} is not JSON: {exc}") from exc
    names = {category["id"]: category["name"].replace("_", " ") for category in table["categories"]}
    annotations = defaultdict(list)
    for annotation in table["annotations"]:
        annotations[annotation["image_id"]].append(annotation)
    for entry in table["images"]:
        file = root / "images" / entry["file_name"]
        image = cv2.imread(str(file), cv2.IMREAD_COLOR_RGB)
        if image is None:
            raise BadRequest(f"{file} is missing or not an image")
        things = [
            Thing(names[a["category_id"]], _mask(a["segmentation"], image.shape[:2])) for a in annotations[entry["id"]]
        ]
        yield LabelledImage.of(image, sorted(things, key=lambda thing: -int(thing.mask.sum())), tuple(names.values()))
