"""The stand-in in a process of its own, fast enough to be no part of what is measured; ends when its input does."""

from __future__ import annotations

import hashlib
import io
import json
import sys
from typing import Any

import click
import numpy as np
from fleets import faults, stand_in_label_studio
from PIL import Image

SIZE = 512
WORDS = (
    ("largest", "small white", "red", "northern", "second", "long", "grey", "half hidden"),
    ("ship", "storage tank", "airplane", "bridge", "tennis court", "chimney", "harbour crane", "vehicle"),
    ("at the pier", "beside the pool", "near the terminal", "over the river", "left of the road", "behind the dam"),
)


class Tasks(dict[int, dict[str, Any]]):
    """What tasks hold, made when it is asked for: there may be a million."""

    def get(self, number: int, _default: object = None) -> dict[str, Any]:  # type: ignore[override]
        """Say what a task holds.

        Args:
            number: Of the task.

        Returns:
            Its data.
        """
        return {"image": image_path(number), "expression": expression(number)}


def image_path(number: int) -> str:
    """Name a task's image.

    Args:
        number: Of the task.

    Returns:
        Its path, as Label Studio names an uploaded file.
    """
    return f"/data/upload/1/{_hash(number)[:8]}-scene_{number}.jpg"


def expression(number: int) -> str:
    """Say what a task asks for.

    Args:
        number: Of the task.

    Returns:
        Words that differ from task to task, as their size in Redis depends on that.
    """
    return "the " + " ".join(words[int(_hash(number)[8 + at], 16) % len(words)] for at, words in enumerate(WORDS))


def _hash(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def make_image(number: int) -> bytes:
    """Draw an image that is as large a file as a photograph from above.

    Args:
        number: Seeds it.

    Returns:
        JPEG, `SIZE` pixels a side, some 100 kB.
    """
    chance = np.random.default_rng(number)
    coarse = Image.fromarray(chance.integers(40, 200, (SIZE // 8, SIZE // 8, 3), dtype=np.uint8))
    fine = chance.integers(0, 24, (SIZE, SIZE, 1), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(np.asarray(coarse.resize((SIZE, SIZE))) + fine).save(file, "JPEG", quality=90)
    return file.getvalue()


@click.command()
@click.option("--tasks", type=int, required=True)
@click.option("--images", type=int, default=0, help="So many of the tasks' images are really there.")
def main(tasks: int, images: int) -> None:
    """Serve until the input ends; the first line says where."""
    with stand_in_label_studio.stand_in_label_studio(keep_alive=True) as held:
        held.config = faults.CONFIG
        held.tasks = range(1, tasks + 1)
        held.data = Tasks()
        held.images = {image_path(number): make_image(number) for number in range(1, images + 1)}
        click.echo(json.dumps({"url": held.url, "key": held.key}))
        sys.stdin.read()


if __name__ == "__main__":
    main()
