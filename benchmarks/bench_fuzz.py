"""Is any request answered by an error of our own? Ten thousand and more that nobody would think of."""

from __future__ import annotations

import logging
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import click
import fleets  # noqa: F401  # It makes the tests importable.
from record import keep
from rich.console import Console
from rich.table import Table

from tests import fuzzing
from workers.queue import connect
from workers.redis_server import EmbeddedRedis
from workers.settings import Settings


@click.command()
@click.option("--requests", type=click.IntRange(100), default=12_000, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of chance.")
@click.option("--quick", is_flag=True, help="Some hundred; nothing is kept.")
def main(requests: int, seed: int, quick: bool) -> None:
    """Half of them from the routes' own description, by schemathesis; half of them broken by hand."""
    logging.disable(logging.CRITICAL)
    requests = 400 if quick else requests
    began = time.perf_counter()
    seen: Counter[tuple[str, int]] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        server = EmbeddedRedis.start(Path(folder) / "redis")
        settings = Settings(
            redis_url=server.url,
            data=Path(folder),
            open_wait_s=0,
            interactive_wait_s=0.01,
            label_studio_url="http://127.0.0.1:9",
        )
        with connect(server.url) as redis:
            app = fuzzing.guarded(settings, redis)
            seen += fuzzing.from_description(app, requests // 2, seed)
            seen += fuzzing.junk(app, requests - sum(seen.values()), seed)
        server.stop()
    statuses = sorted({status for _, status in seen})
    table = Table("route", *map(str, statuses))
    for route in sorted({route for route, _ in seen}):
        table.add_row(route[:60], *(str(seen[route, status] or "") for status in statuses))
    Console().print(table)
    figures = {
        "requests": sum(seen.values()),
        "accepted": sum(count for (_, status), count in seen.items() if status == 200),
        "predictions_accepted": sum(
            count for (route, status), count in seen.items() if "/predict" in route and status == 200
        ),
        "errors_of_ours": sum(count for (_, status), count in seen.items() if status >= 500 and status != 503),
        "asked_to_wait": sum(count for (_, status), count in seen.items() if status == 503),
    }
    by_route = {f"{route} {status}": count for (route, status), count in sorted(seen.items())}
    details = {"by_route": by_route, "seconds": round(time.perf_counter() - began, 1)}
    sys.exit(not keep("fuzz", figures, details, quick=quick))


if __name__ == "__main__":
    main()
