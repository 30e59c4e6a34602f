"""Benchmarks of a few samples in their true layouts: the same two scenes in each."""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from rsrefseg.pictures import write_image

SIZE_HW = (40, 60)


@dataclass(frozen=True)
class Scene:
    image: np.ndarray
    mask: np.ndarray
    words: str


def scenes() -> list[Scene]:
    """A bright block on grey noise each: JPEG would change colours more."""
    made = []
    for number, (top, left) in enumerate([(5, 8), (20, 30)]):
        image = np.repeat(np.random.default_rng(number).integers(0, 90, (*SIZE_HW, 1), dtype=np.uint8), 3, axis=2)
        mask = np.zeros(SIZE_HW, bool)
        mask[top : top + 12, left : left + 20] = True
        image[mask] = 220
        made.append(Scene(image, mask, ["The ship on the left", "a storage tank, near the pier"][number]))
    return made


def rle(mask: np.ndarray) -> dict:
    coded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(coded["size"]), "counts": coded["counts"].decode()}


def polygon(mask: np.ndarray) -> list[int]:
    rows, columns = np.nonzero(mask)
    left, top, right, bottom = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    return [int(v) for v in (left, top, right, top, right, bottom, left, bottom)]


def rrsis_d(root: Path) -> Path:
    refs, annotations, images = [], [], []
    for number, scene in enumerate(scenes()):
        name, ref_id = f"{number + 1:05d}.jpg", 100 + number
        write_image(root / "images/rrsisd/JPEGImages" / name, scene.image)
        half = scene.mask.copy()
        half[:, : np.nonzero(scene.mask)[1].min() + 10] = False
        refs.append({
            "image_id": number,
            "split": "test",
            "sentences": [{"tokens": scene.words.split(), "raw": scene.words, "sent_id": number, "sent": scene.words}],
            "file_name": name,
            "category_id": number,
            "ann_id": 7 + number,
            "sent_ids": [number],
            "ref_id": ref_id,
        })
        annotations.append({
            "id": 7 + number,
            "image_id": number,
            "categories_id": number,
            "bbox": [0, 0, 1, 1],
            "segmentation": [rle(half), rle(scene.mask & ~half)] if number else [rle(scene.mask)],
            "area": 279213,
        })
        images.append({"id": number, "file_name": name, "height": SIZE_HW[0], "width": SIZE_HW[1]})
    refs.append({**refs[0], "split": "train", "ref_id": 900})
    (root / "rrsisd").mkdir()
    (root / "rrsisd/refs(unc).p").write_bytes(pickle.dumps(refs))
    categories = [{"id": 0, "name": "ship"}, {"id": 1, "name": "storagetank"}]
    table = {"images": images, "annotations": annotations, "categories": categories}
    (root / "rrsisd/instances.json").write_text(json.dumps(table))
    return root


def refsegrs(root: Path) -> Path:
    return _phrases(root, "images", "masks", "{}.tif", "{}", (1, 1))


def risbench(root: Path) -> Path:
    return _phrases(root, "img_rgb", "mask", "test_0_{}.png", "test_0_{}.png", (255, 38))


def _phrases(root: Path, images: str, masks: str, file: str, called: str, values: tuple[int, int]) -> Path:
    lines = []
    for number, scene in enumerate(scenes()):
        write_image(root / images / file.format(number), scene.image)
        write_image(root / masks / file.format(number), np.uint8(values[number]) * scene.mask.astype(np.uint8))
        lines.append(f"{called.format(number)} {scene.words}\n")
    (root / "output_phrase_test.txt").write_text("".join(lines))
    (root / "output_phrase_val.txt").write_text(lines[0])
    return root


def socioseg(root: Path) -> Path:
    for number, scene in enumerate(scenes()):
        folder = root / "test" / f"name_{number}"
        write_image(folder / "sat.png", scene.image)
        write_image(folder / "map.png", 255 - scene.image)
        Image.fromarray(scene.mask).save(folder / "mask.png")  # one bit a pixel
        (folder / "question.json").write_text(json.dumps({"problem": scene.words}))
    return root


def coco(root: Path) -> Path:
    lines = []
    for number, scene in enumerate(scenes()):
        write_image(root / "images" / f"{number}.png", scene.image)
        row = {"split": "test", "sent": scene.words, "file_name": f"{number}.png", "segmentation": rle(scene.mask)}
        if number == 0:  # version 1 of upstream's
            row |= {"segmentation": [row["segmentation"]], "category_name": "ship", "category_id": 13, "ann_id": 7}
        lines.append(json.dumps(row) + "\n")
    (root / "rrsisd_test.jsonl").write_text("".join(lines))
    return root


def instances(root: Path, *splits: str) -> Path:
    """The two scenes in each split, with two things in each."""
    images, annotations = [], []
    for number, scene in enumerate(scenes()):
        write_image(root / "images" / f"{number}.png", scene.image)
        images.append({"id": number, "file_name": f"{number}.png"})
        for kind, mask in enumerate((scene.mask, np.roll(scene.mask, 25, axis=1))):
            annotations.append({"image_id": number, "category_id": kind, "segmentation": rle(mask)})
    categories = [{"id": 0, "name": "ship"}, {"id": 1, "name": "storage_tank"}]
    for split in splits:
        table = {"images": images, "annotations": annotations, "categories": categories}
        (root / f"{split}.json").write_text(json.dumps(table))
    return root


FOLDERS = {"rrsis-d": rrsis_d, "refsegrs": refsegrs, "risbench": risbench, "socioseg": socioseg, "coco": coco}
