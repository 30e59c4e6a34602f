"""Drawn scenes as files: something to try the commands on, with the right answers beside them."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from rsrefseg.expressions import SYNONYMS, Grammar
from rsrefseg.pictures import write_image
from rsrefseg.scenes import Camera, draw_scene

EXPRESSIONS = "expressions.csv"


def write_samples(
    out: Path,
    count: int,
    size: int,
    seed: int,
    camera: Camera = "daylight",
    names: Mapping[str, Sequence[str]] = SYNONYMS,
) -> int:
    """Draw scenes and say one thing about each.

    Args:
        out: Gets `scene-00.png`, `masks/scene-00.png` and so on, and `expressions.csv` (image, expression).
        count: Scenes.
        size: Side in pixels.
        seed: Of the first scene; the others follow.
        camera: What looks at them.
        names: Words for each class.

    Returns:
        How many were written.
    """
    out.mkdir(parents=True, exist_ok=True)
    with (out / EXPRESSIONS).open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "expression"])
        for number in range(count):
            scene = draw_scene(seed + number, size, camera)
            grammar = Grammar(scene.things, np.random.default_rng(seed + number), names=names)
            [referral] = grammar.referrals(1, absent_share=0.0)
            truth = np.zeros(scene.image.shape[:2], bool)
            for index in referral.indices:
                truth |= scene.things[index].mask
            name = f"scene-{number:02d}.png"
            write_image(out / name, scene.image)
            write_image(out / "masks" / name, truth)
            table.writerow([name, referral.expression])
    return count
