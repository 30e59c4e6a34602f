"""Do people get their masks as fast beside bulk work as without it? The soak in three minutes, without a training."""

from __future__ import annotations

import sys

import click
from bench_soak import Plan, measure
from record import keep


@click.command()
@click.option("--minutes", type=click.FloatRange(0.2), default=3, show_default=True, help="Of the load.")
@click.option("--annotators", type=click.IntRange(1), default=20, show_default=True)
@click.option("--quick", is_flag=True, help="Half a minute; nothing is kept.")
def main(minutes: float, annotators: int, quick: bool) -> None:
    """Measure it, with 1 where a goal is missed."""
    plan = Plan(0.5 if quick else minutes, annotators, retrain=False)
    figures, details = measure(plan)
    sys.exit(not keep("load", figures, details, quick=quick))


if __name__ == "__main__":
    main()
