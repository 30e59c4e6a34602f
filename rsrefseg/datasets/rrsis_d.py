"""RRSIS-D (arXiv 2312.12470): a pickle of references beside COCO-style annotations.

Source:
    Lsan2401/RMSIN refer/refer.py and README.md @ b4a9b27.
"""

from __future__ import annotations

import json
import pickle
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rsrefseg.datasets.layout import SampleNames, require, require_split
from rsrefseg.datasets.sample import CorruptRow, Regions, Sample
from rsrefseg.errors import BadDataset

REFS, INSTANCES, IMAGES = Path("rrsisd/refs(unc).p"), Path("rrsisd/instances.json"), Path("images/rrsisd/JPEGImages")


_Records = dict[Any, dict[str, Any]]


class _PlainUnpickler(pickle.Unpickler):  # noqa: S301
    """Read lists, records, words and numbers; anything else in a pickle is code."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, and references are made of plain values")


def read_rrsis_d(root: Path, split: str) -> Iterator[Sample | CorruptRow]:
    """Read the samples of a split, those of one image after each other.

    Args:
        root: Holds `rrsisd/refs(unc).p`, `rrsisd/instances.json` and `images/rrsisd/JPEGImages/`.
        split: "train", "val" or "test".

    Yields:
        Samples named by their `ref_id`, and rows that cannot be used.
    """
    layout = f"{REFS}, {INSTANCES} and {IMAGES}/"
    for part in (REFS, INSTANCES, IMAGES):
        require(root / part, "rrsis-d", layout)
    refs = _refs(root / REFS)
    require_split(split, (str(ref["split"]) for ref in refs if _is_ref(ref)), root)
    annotations, images, categories = _instances(root / INSTANCES)
    by_image: dict[str, list[tuple[int, Any]]] = defaultdict(list)
    for number, ref in enumerate(refs):
        if not _is_ref(ref):
            yield CorruptRow(f"{REFS}, record {number}", "it has no split")
        elif ref["split"] == split:
            by_image[str(ref.get("image_id"))].append((number, ref))
    names = SampleNames()
    for number, ref in (one for same in by_image.values() for one in same):
        place = f"{REFS}, ref {ref.get('ref_id', f'of record {number}')}"
        try:
            category_id, path, truth, sentences = _joined(ref, annotations, images, root)
            category = categories.get(category_id)
        except KeyError as exc:
            yield CorruptRow(place, str(exc.args[0]))
            continue
        except (TypeError, AttributeError, ValueError) as exc:
            yield CorruptRow(place, f"a field has the wrong form: {exc}")
            continue
        if not sentences:
            yield CorruptRow(place, "it has no sentence")
        for sentence in sentences:
            name = names.take(ref["ref_id"])
            if sentence:
                yield Sample(name, path, sentence, category, truth, place)
            else:
                yield CorruptRow(place, "the expression is empty")


def _joined(
    ref: dict[str, Any], annotations: _Records, images: _Records, root: Path
) -> tuple[Any, Path, Regions, list[str]]:
    for field in ("ref_id", "ann_id", "image_id", "sentences"):
        if field not in ref:
            raise KeyError(f"it has no {field}")
    annotation, entry = annotations.get(ref["ann_id"]), images.get(ref["image_id"])
    if annotation is None or entry is None:
        missing = f"annotation {ref['ann_id']}" if annotation is None else f"image {ref['image_id']}"
        raise KeyError(f"{INSTANCES.name} has no {missing}")
    if "segmentation" not in annotation:
        raise KeyError(f"annotation {ref['ann_id']} of {INSTANCES.name} has no segmentation")
    if not {"file_name", "height", "width"} <= set(entry):
        raise KeyError(f"image {ref['image_id']} of {INSTANCES.name} has no file_name, height or width")
    return (
        annotation.get("categories_id", annotation.get("category_id", ref.get("category_id"))),
        root / IMAGES / entry["file_name"],
        Regions(annotation["segmentation"], (int(entry["height"]), int(entry["width"]))),
        [str(sentence.get("sent") or sentence.get("raw") or "").strip() for sentence in ref["sentences"]],
    )


def _is_ref(ref: Any) -> bool:
    return isinstance(ref, dict) and "split" in ref


def _refs(path: Path) -> list[Any]:
    try:
        with path.open("rb") as file:
            refs = _PlainUnpickler(file, encoding="utf-8").load()
    except Exception as exc:  # what a damaged pickle raises is up to the damage
        raise BadDataset(f"{path} cannot be read: {exc}") from exc
    if not isinstance(refs, list):
        raise BadDataset(f"{path} holds no list of references")
    return refs


def _instances(path: Path) -> tuple[_Records, _Records, dict[Any, str]]:
    try:
        table = json.loads(path.read_bytes())
        return (
            {annotation["id"]: annotation for annotation in table["annotations"]},
            {image["id"]: image for image in table["images"]},
            {category["id"]: category["name"] for category in table["categories"]},
        )
    except (ValueError, TypeError, KeyError) as exc:
        raise BadDataset(f"{path} is not a table of annotations, images and categories: {exc!r}") from exc
