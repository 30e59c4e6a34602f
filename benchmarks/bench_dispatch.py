"""How much do web process, queue and worker add to a request of a person who waits in the editor?

Each request is about an image of its own, and nothing else runs. What it takes to fetch and decode that image and to
find the mask is measured beside it, in turns, by the same functions in one process, and subtracted.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median, quantiles

import click
import httpx
from fleets import faults, fleet, label_studio
from label_studio_process import Tasks
from record import keep
from rich.console import Console
from rich.table import Table

from workers.contract import Rle
from workers.images import ImageFetcher
from workers.simulated import SimulatedPredictor

WARM = 5
"""Requests before the first that counts."""

WORDS = "the ship at the pier"


def measure(times: int) -> tuple[list[float], list[float]]:
    """Ask through the editor, and without anything between.

    Args:
        times: How often.

    Returns:
        Seconds of each request, and seconds of fetching, decoding and finding alone.

    Raises:
        ClickException: If a request was not answered.
    """
    through, alone = [], []
    with (
        label_studio(times + WARM, times + WARM) as (url, key),
        tempfile.TemporaryDirectory() as folder,
        fleet.Fleet.gather(Path(folder), url, key) as ours,
        httpx.Client(base_url=ours.web_url, trust_env=False, timeout=60) as editor,
    ):
        ours.start(*fleet.WORKER, "--simulate", "0")
        ours.start(*fleet.WEB)
        ours.wait_for(ours.queue.gpu, 1)
        ours.wait_for_web()
        images, predictor = ImageFetcher(ours.queue.settings), SimulatedPredictor(0)
        for task in range(1, times + WARM + 1):
            data = Tasks().get(task)
            began = time.perf_counter()
            Rle.from_mask(predictor.segment(images.fetch(data["image"], task), [WORDS])[0].mask)
            alone.append(time.perf_counter() - began)
            began = time.perf_counter()
            answer = editor.post("/predict", json=typed(task)).raise_for_status().json()
            through.append(time.perf_counter() - began)
            if not answer["results"][0]["result"]:
                raise click.ClickException("a request was not answered; its worker's log says why")
    return through[WARM:], alone[WARM:]


def typed(task: int) -> dict[str, object]:
    """Write what Label Studio sends when a person typed in the editor.

    Args:
        task: The task that is open.

    Returns:
        The body of POST /predict.
    """
    context = {"result": [{"from_name": "prompt", "value": {"text": [WORDS]}}]}
    return {
        "tasks": [{"id": task, "data": Tasks().get(task)}],
        "project": "1.17",
        "label_config": faults.CONFIG,
        "params": {"context": context},
    }


def figure_of(through: list[float], alone: list[float]) -> float:
    """Subtract request by request.

    Args:
        through: Seconds of each request.
        alone: Seconds of what it asks for.

    Returns:
        The median of what is added, in ms.
    """
    return round(1000 * median(one - other for one, other in zip(through, alone, strict=True)), 2)


@click.command()
@click.option("--times", type=click.IntRange(2), default=100, show_default=True)
@click.option("--quick", is_flag=True, help="20 requests; nothing is kept.")
def main(times: int, quick: bool) -> None:
    """Measure what is added to an interactive request."""
    through, alone = measure(20 if quick else times)
    table = Table("of a request", "median ms", "p90 ms")
    for name, seconds in (("through web, queue and worker", through), ("image and mask alone", alone)):
        table.add_row(name, f"{1000 * median(seconds):.1f}", f"{1000 * quantiles(seconds, n=10)[-1]:.1f}")
    Console().print(table)
    details = {"through_s": through, "alone_s": alone}
    keep("dispatch", {"dispatch_ms_median": figure_of(through, alone)}, details, quick=quick)


if __name__ == "__main__":
    main()
