"""The anchor: what the base was taught, in small, mixed into what corrections teach and asked about afterwards.

It is a folder of referring lines with the splits `train`, to be mixed in, and `test`, to be scored on: one that we
draw, or one that somebody puts in its place.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Literal

import numpy as np
from pycocotools import mask as coco_mask

from rsrefseg.datasets import LabelledImage, Sample, grammar_samples, read_benchmark
from rsrefseg.expressions import SYNONYMS
from rsrefseg.lessons import usable
from rsrefseg.pictures import write_image
from rsrefseg.scenes import draw_scene

SEEDS = {"train": 2_000_000_000, "test": 2_100_000_000}
"""Of the first drawn scene of each split; no scene from the first on is drawn for anything else."""

SCENES = {"train": 48, "test": 40}
"""How many scenes are drawn, and how many images are taken of another anchor."""

PER_SCENE = {"train": 6, "test": 3}
"""Most expressions about a drawn scene."""

SIDE = 512
"""Of drawn scenes, in pixels."""

Split = Literal["train", "test"]


def draw_anchor(folder: Path, on_scene: Callable[[], None] = lambda: None) -> None:
    """Draw the anchor, unless it is there; it appears as a whole.

    Args:
        folder: Where it is to be.
        on_scene: Told after each scene; may raise to stop.

    Raises:
        OSError: If it cannot be put there.
    """
    described = json.dumps({"seeds": SEEDS, "scenes": SCENES, "per_scene": PER_SCENE, "side": SIDE})
    if _is_there(folder, described):
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}-{secrets.token_hex(4)}")
    try:
        for split, first_seed in SEEDS.items():
            lines = []
            for seed in range(first_seed, first_seed + SCENES[split]):
                lines += list(_lines(partial, seed, PER_SCENE[split]))
                on_scene()
            (partial / f"{split}.jsonl").write_text("".join(lines))
        (partial / "anchor.json").write_text(described)
        if folder.exists() and not _is_there(folder, described):
            folder.rename(partial / "former")
        try:
            partial.rename(folder)
        except OSError:
            if not _is_there(folder, described):
                raise
            return  # Another drew the same meanwhile, and may be reading it already.
        shutil.rmtree(folder / "former", ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _is_there(folder: Path, described: str) -> bool:
    with suppress(OSError):
        return (folder / "anchor.json").read_text() == described
    return False


def _lines(folder: Path, seed: int, count: int) -> Iterator[str]:
    scene = draw_scene(seed, SIDE)
    name = f"scene-{seed}.png"
    write_image(folder / "images" / name, scene.image)
    labelled = LabelledImage.of(scene.image, scene.things, tuple(SYNONYMS))
    for sample in grammar_samples([(name, labelled)], count, seed):
        if isinstance(sample, Sample):
            rle = coco_mask.encode(np.asfortranarray(sample.gt_mask(), dtype=np.uint8))
            segmentation = {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")}
            line = {"ref_id": sample.sample_id, "file_name": name, "sent": sample.expression}
            yield json.dumps({**line, "category_name": sample.category, "segmentation": segmentation}) + "\n"


def read_anchor(folder: Path, split: Split) -> list[Sample]:
    """Read one side of an anchor; of a large one always the same images are taken.

    Args:
        folder: Of referring lines.
        split: Which side.

    Returns:
        Its samples, those of an image after each other.
    """
    samples = usable(read_benchmark("coco", folder, split))
    images = [(path, list(group)) for path, group in groupby(samples, key=lambda sample: sample.image_path)]
    chosen = sorted(images, key=lambda image: hashlib.sha256(image[0].name.encode()).digest())[: SCENES[split]]
    return [sample for _, group in sorted(chosen, key=lambda image: image[0]) for sample in group]
