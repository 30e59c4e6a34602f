"""How much faster than Label Studio's SDK are brush run lengths written and read, and are they the same?"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import click
import cv2
import numpy as np
from label_studio_sdk.converter.brush import decode_rle, mask2rle
from record import keep
from rich.console import Console
from rich.table import Table

from ml_backend.brush import OPAQUE, decode, encode

SIDE = 4096
FLIPPED = 0.012
"""Share of the pixels that are noise: some 800,000 runs in 4096 x 4096 pixels."""

OURS = 5
"""How often ours goes for each time of the SDK's: it is so short that a neighbour on the machine doubles it."""


@click.command()
@click.option("--times", type=click.IntRange(1), default=3, show_default=True, help="How often, in turns.")
@click.option("--quick", is_flag=True, help="A mask of 512 x 512 pixels, once; nothing is kept.")
def main(times: int, quick: bool) -> None:
    """Write and read one noisy mask by the SDK and by ours, from and to the same: an array, and a list of integers."""
    mask = noisy_mask(512 if quick else SIDE)
    alpha = mask.astype(np.uint8) * 255  # What the SDK's encoder takes; not counted against it.
    seconds: dict[str, list[float]] = {"sdk_encode": [], "encode": [], "sdk_decode": [], "decode": []}
    identical = True
    encode(mask[:64]), decode(encode(mask[:64]), (64, mask.shape[1]))  # Imports and tables are not what is measured.
    for _ in range(1 if quick else times):
        theirs = timed(seconds["sdk_encode"], lambda: mask2rle(alpha))
        for _ in range(OURS):
            ours = timed(seconds["encode"], lambda: encode(mask))
            read = timed(seconds["decode"], lambda rle=ours: decode(rle, mask.shape))
        flat = timed(seconds["sdk_decode"], lambda rle=ours: decode_rle(rle))
        seen = flat.reshape(*mask.shape, 4)[..., 3] >= OPAQUE
        identical &= ours == theirs and np.array_equal(read, seen) and np.array_equal(read, mask)
    middle = {name: median(each) for name, each in seconds.items()}
    figures = {
        "encode_speedup": round(middle["sdk_encode"] / middle["encode"], 1),
        "decode_speedup": round(middle["sdk_decode"] / middle["decode"], 1),
        "identical": bool(identical),
    }
    runs = int(np.count_nonzero(mask.reshape(-1)[1:] != mask.reshape(-1)[:-1])) + 1
    table = Table("", "SDK, s", "ours, s", "speedup")
    for name in ("encode", "decode"):
        mine, sdk = middle[name], middle[f"sdk_{name}"]
        table.add_row(name, f"{sdk:.2f}", f"{mine:.3f}", f"{sdk / mine:.1f}")
    Console().print(table)
    click.echo(f"{mask.shape[0]} x {mask.shape[1]} pixels, {runs} runs, {len(ours)} bytes, identical: {identical}")
    keep("rle", figures, {"seconds": seconds, "runs": runs, "bytes": len(ours)}, quick=quick)


def noisy_mask(side: int) -> np.ndarray:
    """Draw blobs with noise over them.

    Args:
        side: Height and width in pixels.

    Returns:
        (side, side) bool.
    """
    rng = np.random.default_rng(0)
    hills = cv2.GaussianBlur(rng.standard_normal((side, side), np.float32), (0, 0), 8)
    mask: np.ndarray = (hills > 0) ^ (rng.random((side, side)) < FLIPPED)
    return mask


def timed(times: list[float], work: Callable[[], Any]) -> Any:
    """Do some work, and write down how long it took.

    Args:
        times: Where to write it, in seconds.
        work: What to do.

    Returns:
        What came of it.
    """
    began = time.perf_counter()
    result = work()
    times.append(time.perf_counter() - began)
    return result


if __name__ == "__main__":
    main()
