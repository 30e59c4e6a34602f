"""Does every request end as exactly one prediction, whoever dies and misbehaves meanwhile?

Real processes by their own commands and with their own patience, a Redis of their own, and a Label Studio that keeps
what it is sent and misbehaves as a seed says.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import click
from fleets import faults, fleet, stand_in_label_studio
from record import keep
from rich.console import Console
from rich.table import Table

from workers import logs

WORKERS = 3
COURIERS = 2
SECONDS_PER_IMAGE = "0.05"


def storm(seed: int, requests: int, times: int) -> faults.Outcome:
    """Send requests through one storm.

    Args:
        seed: Says what happens when.
        requests: How many.
        times: How often each fault comes.

    Returns:
        What became of them.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        stand_in_label_studio.stand_in_label_studio() as label_studio,
        fleet.Fleet.gather(
            Path(folder), label_studio.url, label_studio.key, RSREFSEG_OPEN_WAIT_S="0", RSREFSEG_LOG_LEVEL="WARNING"
        ) as ours,
    ):
        pretended = ",".join(map(str, range(WORKERS)))
        ours.start(*fleet.WORKER, "--simulate", SECONDS_PER_IMAGE, "--gpus", pretended)
        for _ in range(COURIERS):
            ours.start(*fleet.COURIER)
        ours.start(*fleet.WEB)
        ours.wait_for(ours.queue.gpu, WORKERS)
        ours.wait_for(ours.queue.label_studio, COURIERS)
        ours.wait_for_web()
        return faults.Storm(ours, label_studio, seed).rage(requests, times)


@click.command()
@click.option("--requests", type=click.IntRange(20), default=1000, show_default=True, help="Of each seed.")
@click.option("--seeds", default="1,2,3", show_default=True)
@click.option("--times", type=click.IntRange(1), default=2, show_default=True, help="How often each fault comes.")
@click.option("--quick", is_flag=True, help="100 requests, one seed, each fault once; nothing is kept.")
def main(requests: int, seeds: str, times: int, quick: bool) -> None:
    """Count the predictions of requests that flow through faults."""
    logs.configure("INFO")
    if quick:
        requests, seeds, times = 100, seeds.split(",")[0], 1
    outcomes = []
    table = Table("seed", "requests", "predictions", "doubled", "missing", "failures", "faults", "seconds")
    for seed in map(int, seeds.split(",")):
        outcome = storm(seed, requests, times)
        outcomes.append(outcome)
        numbers = (outcome.seed, outcome.requests, outcome.predictions, outcome.doubled, outcome.missing)
        more = (len(outcome.failures), len(outcome.faults), outcome.seconds)
        table.add_row(*map(str, numbers + more))
    Console().print(table)
    figures = {
        "requests": sum(outcome.requests for outcome in outcomes),
        "predictions": sum(outcome.predictions for outcome in outcomes),
        "doubled": sum(outcome.doubled for outcome in outcomes),
        "missing": sum(outcome.missing for outcome in outcomes),
        "failures": sum(len(outcome.failures) for outcome in outcomes),
        "seeds": [outcome.seed for outcome in outcomes],
    }
    details = {"outcomes": [asdict(outcome) for outcome in outcomes]}
    sys.exit(not keep("faults", figures, details, quick=quick))


if __name__ == "__main__":
    main()
