"""COCO instance annotations: real images whose objects have polygon or run-length masks."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rsrefseg.datasets.labelled import LabelledImage
from rsrefseg.datasets.layout import require, require_split
from rsrefseg.datasets.regions import draw_regions
from rsrefseg.datasets.sample import CorruptRow
from rsrefseg.errors import BadDataset, BadRequest
from rsrefseg.expressions import Thing
from rsrefseg.pictures import read_image


def read_coco_instances(root: Path, split: str) -> Iterator[LabelledImage]:
    """Read images one by one, larger objects below smaller ones.

    Args:
        root: Holds `<split>.json` and `images/`.
        split: Name of the annotation file.

    Yields:
        Images at their own size; underscores in class names become spaces.

    Raises:
        BadDataset: If the annotation file or an image is missing or unreadable.
    """
    for _, row in read_instance_rows(root, split):
        if isinstance(row, CorruptRow):
            raise BadDataset(str(row))
        yield row


def read_instance_rows(root: Path, split: str) -> Iterator[tuple[str, LabelledImage | CorruptRow]]:
    """Read images one by one, and say which cannot be used.

    Args:
        root: Holds `<split>.json` and `images/`.
        split: Name of the annotation file.

    Yields:
        Name of the image's file, and the image as `read_coco_instances` gives it, or what is wrong with it.

    Raises:
        BadDataset: If the annotation file is missing or unreadable.
    """
    path = root / f"{split}.json"
    layout = f"{split}.json and images/"
    for part in (root, root / "images"):
        require(part, "instances", layout)
    if not path.exists():
        splits = [file.stem for file in root.glob("*.json")]
        require_split(split, splits, root) if splits else require(path, "instances", layout)
    try:
        table = json.loads(path.read_bytes())
        names = {category["id"]: str(category["name"]).replace("_", " ") for category in table["categories"]}
        annotations = defaultdict(list)
        for annotation in table["annotations"]:
            annotations[annotation["image_id"]].append(annotation)
        entries = [(entry["id"], str(entry["file_name"])) for entry in table["images"]]
    except (OSError, ValueError, TypeError, KeyError) as exc:
        raise BadDataset(f"{path} is not a table of annotations, images and categories: {exc!r}") from exc
    for key, file in entries:
        try:
            row: LabelledImage | CorruptRow = _labelled(root / "images" / file, annotations[key], names)
        except BadRequest as exc:
            row = CorruptRow(f"{path.name}, image {file}", str(exc))
        except (KeyError, TypeError) as exc:
            row = CorruptRow(f"{path.name}, image {file}", f"a field of its annotations is missing or wrong: {exc}")
        yield file, row


def _labelled(file: Path, annotations: list[dict[str, Any]], names: dict[Any, str]) -> LabelledImage:
    image = read_image(file)
    things = [Thing(names[a["category_id"]], draw_regions(a["segmentation"], image.shape[:2])) for a in annotations]
    return LabelledImage.of(image, sorted(things, key=lambda thing: -int(thing.mask.sum())), tuple(names.values()))
