"""How long does a laptop take with the shipped weights, and how much do they weigh?"""

from __future__ import annotations

import time
from statistics import median

import click
import numpy as np
import torch
from record import keep

from rsrefseg import Predictor, checkpoint

SIDE = 800
"""Of the image, in pixels."""

WORDS = ("the ship at the pier", "all storage tanks", "the largest building", "the leftmost airplane")


@click.command()
@click.option("--times", type=click.IntRange(2), default=20, show_default=True)
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True)
@click.option("--quick", is_flag=True, help="Three times; nothing is kept.")
def main(times: int, threads: int, quick: bool) -> None:
    """Measure the preset tiny on a CPU."""
    torch.set_num_threads(threads)
    times = 3 if quick else times
    predictor = Predictor.from_preset("tiny", device="cpu")
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    predictor.segment(image, WORDS[:1])
    new_s, further_s = [], []
    for number in range(times):
        image[0, 0] = number, 1, 2  # Unlike all before, or it would be remembered.
        began = time.perf_counter()
        predictor.segment(image, [WORDS[0]])
        new_s.append(time.perf_counter() - began)
        embedding = predictor.encode(image)
        for words in WORDS:
            began = time.perf_counter()
            predictor.segment(embedding, [words])
            further_s.append(time.perf_counter() - began)
    folder = checkpoint.shipped("tiny")
    figures = {
        "new_image_s": round(median(new_s), 3),
        "further_expression_ms": round(1000 * median(further_s), 1),
        "megabytes": round(sum(file.stat().st_size for file in folder.iterdir()) / 1e6, 1),
    }
    details = {"new_s": new_s, "further_s": further_s, "threads": threads, "model_version": predictor.version}
    keep("tiny", figures, details, quick=quick)


if __name__ == "__main__":
    main()
