"""How soon does the web process acknowledge Label Studio's webhooks, at many a second?

The web process runs by its own command over a Redis of its own. Each event comes at its time, over a connection of its
own, about an annotation of its own, with masks from small to very large, and shows its project's secret.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from statistics import quantiles

import click
from fleets import fleet, webhooks
from record import keep
from rich.console import Console
from rich.table import Table

from ml_backend import access

WARM_S = 2.0
"""Seconds of events before the first that counts."""

PROJECT = 3
"""Of the recorded event."""

GOAL_MS = 50


def measure(per_second: float, seconds: float) -> tuple[webhooks.Heard, int]:
    """Send events.

    Args:
        per_second: How many.
        seconds: For how long.

    Returns:
        What came of them, and how many are kept in Redis.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        fleet.Fleet.gather(
            Path(folder),
            "http://127.0.0.1:1",
            "nobody asks it",
            RSREFSEG_BASIC_USER="label-studio",
            RSREFSEG_BASIC_PASSWORD="of-nobody",  # noqa: S106  It guards nothing.
        ) as ours,
    ):
        ours.start(*fleet.WEB)
        ours.wait_for_web()
        secret = access.install(ours.queue, PROJECT)
        bodies = webhooks.make_bodies()
        headers = f"Authorization: Bearer {secret}\r\n"
        webhooks.send(ours.web_url, bodies, per_second, WARM_S, headers)
        ours.queue.redis.flushall()
        headers = f"Authorization: Bearer {access.install(ours.queue, PROJECT)}\r\n"
        heard = webhooks.send(ours.web_url, bodies, per_second, seconds, headers)
        return heard, int(ours.queue.redis.xlen("rsrefseg:events"))


@click.command()
@click.option("--per-second", type=click.FloatRange(1), default=200, show_default=True)
@click.option("--seconds", type=click.FloatRange(1), default=60, show_default=True)
@click.option("--quick", is_flag=True, help="5 seconds; nothing is kept.")
def main(per_second: float, seconds: float, quick: bool) -> None:
    """Measure how soon webhooks are acknowledged."""
    load_before = os.getloadavg()[0]
    heard, kept = measure(per_second, 5 if quick else seconds)
    sent = len(heard.sizes)
    figures = {
        "ack_ms_p50": round(heard.percentile_ms(50), 2),
        "ack_ms_p99": round(heard.percentile_ms(99), 2),
        "ack_ms_max": round(heard.percentile_ms(100), 2),
        "refused": sent - heard.statuses[200],
        "lost": sent - kept,
        "late": sum(one > webhooks.LATE_S for one in heard.seconds),
    }
    table = Table(
        "webhooks", "KiB each: median, largest", "p50 ms", f"p99 ms, of {GOAL_MS}", "max ms", "not answered 200"
    )
    sizes = f"{quantiles(heard.sizes, n=2)[0] / 1024:.1f}, {max(heard.sizes) / 1024:.0f}"
    times = (f"{figures[name]:.1f}" for name in ("ack_ms_p50", "ack_ms_p99", "ack_ms_max"))
    table.add_row(f"{sent} at {per_second:g}/s", sizes, *times, str(figures["refused"]))
    Console().print(table)
    details = {
        "per_second": per_second,
        "bytes_in_all": sum(heard.sizes),
        "statuses": {str(status): count for status, count in heard.statuses.items()},
        "load_before": load_before,
        "seconds": [round(one, 5) for one in heard.seconds],
    }
    keep("webhook", figures, details, quick=quick)


if __name__ == "__main__":
    main()
