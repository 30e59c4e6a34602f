"""Do people get their masks as fast beside bulk work as without it, for an hour, and does nothing grow or get lost?

The real web process, courier, workers and trainer on a Redis of their own, before a stand-in for Label Studio, as
docs/scaling.md recommends where people must not wait: one worker for them alone, the others for all else. First one
annotator; then twenty of them, who open a task, type words, wait for the mask, correct it and think, while bulk work
never ends, and partway what they corrected is taught.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
from fleets import fleet, stand_in_label_studio
from goals import GOALS
from memory import Memory
from office import Office
from record import keep

from tests.squares import dark_anchor, small_base

DRAIN_S = 600
"""Longest that what is on its way may take to end, in seconds."""

TEACH_AT = 1 / 6
"""When a training is asked for, as a share of the run, so that it is over before memory is watched."""

TRAINER = ("nice", "-n", "19", sys.executable, str(fleet.ROOT / "tests/with_redis/trainer_process.py"), "80")
"""A small model is taught a short course; nice, as a real one has a device of its own."""

RETRAIN = (sys.executable, "-m", "ml_backend.cli", "retrain", "--project", "1", "--wait", "--json")

LONG_ENOUGH_MIN = 30
"""In less time nobody can tell growth from warming up, so it is no goal there."""


@dataclass(frozen=True)
class Plan:
    """What is put on whom."""

    minutes: float
    annotators: int = 20
    think_s: float = 10.0
    workers: int = 2
    """For bulk work and opened tasks."""
    interactive_workers: int = 1
    """For those alone who type; with none they wait for the batch in hand of the others."""
    seconds_per_image: float = 0.1
    retrain: bool = True

    @property
    def tasks(self) -> int:
        """How many there are: after a promotion all are drawn anew, in half of the time."""
        return int(self.minutes * 60 * self.workers / self.seconds_per_image / 4) + 500


@dataclass
class Site:
    """All that runs."""

    ours: fleet.Fleet
    label_studio: Any
    office: Office
    members: dict[str, fleet.Member]
    memory: Memory = field(default_factory=Memory)
    training: dict[str, Any] = field(default_factory=dict)
    """What the command said when the training had ended."""


@contextmanager
def open_site(plan: Plan) -> Iterator[Site]:
    """Start everything, and end it.

    Args:
        plan: How many of what.

    Yields:
        What runs.
    """
    with (
        tempfile.TemporaryDirectory() as name,
        stand_in_label_studio.stand_in_label_studio() as label_studio,
        fleet.Fleet.gather(
            folder := Path(name),
            label_studio.url,
            label_studio.key,
            RSREFSEG_OPEN_WAIT_S="0",
            RSREFSEG_LOG_LEVEL="WARNING",
            RSREFSEG_RETRAIN_AFTER="0",
            RSREFSEG_RETRAIN_HOURS="0",
            RSREFSEG_CHECKPOINT=str(folder / "base"),
            RSREFSEG_ANCHOR=str(folder / "dark"),
        ) as ours,
    ):
        office = Office(ours.web_url, label_studio, plan.tasks)
        simulate = ("--simulate", str(plan.seconds_per_image), "--gpus")
        members = {
            "web": ours.start(*fleet.WEB),
            "courier": ours.start(*fleet.COURIER),
            "worker": ours.start(*fleet.WORKER, *simulate, _gpus(plan.workers)),
        }
        if plan.interactive_workers:
            mine = (*simulate, _gpus(plan.interactive_workers), "--queue", "interactive")
            members["interactive"] = ours.start(*fleet.WORKER, *mine)
        if plan.retrain:
            small_base(folder / "base")
            dark_anchor(folder / "dark")
            members["trainer"] = ours.start(*TRAINER)
        ours.wait_for_web()
        for queue, processes in (
            (ours.queue.gpu, plan.workers),
            (ours.queue.interactive, plan.interactive_workers),
            (ours.queue.label_studio, 1),
            (ours.queue.train, int(plan.retrain)),
        ):
            ours.wait_for(queue, processes)
        yield Site(ours, label_studio, office, members)


def put_load_on(site: Site, plan: Plan) -> None:
    """Let one annotator work alone, then all of them beside bulk work, then wait until nothing is on its way.

    Args:
        site: What runs.
        plan: How many annotators, and how long.
    """
    office, alone, over = site.office, threading.Event(), threading.Event()
    first = threading.Thread(target=office.annotate, args=(0, "alone", 0.5, alone))
    first.start()
    time.sleep(max(15.0, plan.minutes * 6))
    alone.set()
    first.join()
    others = [
        threading.Thread(target=office.annotate, args=(number, "beside", plan.think_s, over))
        for number in range(1, plan.annotators + 1)
    ]
    others.append(threading.Thread(target=office.ask_in_bulk, args=(over,)))
    for one in others:
        one.start()
    teacher = threading.Timer(plan.minutes * 60 * TEACH_AT, _teach, [site])
    if plan.retrain:
        teacher.start()
    site.memory.watch(site.members, site.ours.redis, plan.minutes * 60)
    over.set()
    for one in others:
        one.join()
    if plan.retrain:
        teacher.join()
    _drain(site)


def judge(site: Site, plan: Plan) -> tuple[dict[str, Any], dict[str, Any]]:
    """Say what came of it.

    Args:
        site: What ran.
        plan: What was put on it.

    Returns:
        The figures, and what else is worth keeping.
    """
    work = site.office.work
    of_task = Counter((one["task"], one["model_version"]) for one in list(site.label_studio.predictions.values()))
    tasks = {task for task, _ in of_task}
    p95 = {phase: float(np.percentile(waits, 95)) for phase, waits in work.waits.items()}
    growth = site.memory.growth_mib_h()
    figures = {
        "p95_beside_over_alone": round(p95["beside"] / p95["alone"], 2),
        "p95_alone_s": round(p95["alone"], 3),
        "p95_beside_s": round(p95["beside"], 3),
        "empty_answers": work.empty,
        "asked": len(work.asked),
        "lost": len(work.asked - tasks),
        "doubled": sum(count > 1 for count in of_task.values()),
        "failures": len(site.ours.queue.failures()),
        "errors": work.errors.total(),
        "trained": int(site.training.get("stage") in {"promoted", "refused"}),
        "most_growth_mib_h": max(growth.values(), default=0.0),
    }
    if not plan.retrain:
        del figures["trained"]
    details = {
        "plan": vars(plan),
        "interactive_requests": {phase: len(waits) for phase, waits in work.waits.items()},
        "p50_s": {phase: round(statistics.median(waits), 3) for phase, waits in work.waits.items()},
        "p99_s": {phase: round(float(np.percentile(waits, 99)), 3) for phase, waits in work.waits.items()},
        "empty_answers": dict(_reasons(site.members["web"].log)),
        "errors": dict(work.errors),
        "corrected": work.corrected,
        "training": site.training,
        "predictions": dict(Counter(version for _, version in of_task)),
        "growth_mib_h": growth,
        "mib": site.memory.ends(),
        "load": site.memory.load(),
    }
    return figures, details


def _gpus(count: int) -> str:
    return ",".join(map(str, range(count)))


def _teach(site: Site) -> None:
    done = subprocess.run(RETRAIN, env=site.ours.environ, cwd=fleet.ROOT, capture_output=True, text=True, check=False)
    last = (done.stdout.splitlines() or [""])[-1]
    site.training.update(json.loads(last) if last.startswith("{") else {"stage": "failed", "reason": done.stderr})


def _drain(site: Site) -> None:
    until, quiet = time.monotonic() + DRAIN_S, 0
    while quiet < 5 and time.monotonic() < until:  # A job that changes queues may be between two counts.
        counts = site.ours.queue.counts()
        quiet = 0 if counts["waiting"] + counts["running"] + counts["to_deliver"] else quiet + 1
        time.sleep(1)


def _reasons(log: Path) -> Counter[str]:
    # Label Studio is told nothing of why no mask came, so the log is where it stands.
    lines = (json.loads(line) for line in log.read_text("utf-8").splitlines() if line.startswith("{"))
    return Counter(line.get("reason", "") for line in lines if line.get("event") == "nothing drawn")


def goals_of(plan: Plan) -> dict[str, str]:
    """Say what has to be so.

    Args:
        plan: What was put on the site.

    Returns:
        The goals by their figures.
    """
    goals = GOALS["soak"]
    return goals if plan.minutes >= LONG_ENOUGH_MIN else goals | {"most_growth_mib_h": "lower"}


def measure(plan: Plan) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run it from beginning to end.

    Args:
        plan: What is put on whom.

    Returns:
        The figures, and what else is worth keeping.
    """
    began = time.monotonic()
    with open_site(plan) as site:
        put_load_on(site, plan)
        site.memory.show()
        figures, details = judge(site, plan)
    return figures, details | {"seconds": round(time.monotonic() - began, 1)}


@click.command()
@click.option("--minutes", type=click.FloatRange(0.2), default=60, show_default=True, help="Of the load.")
@click.option("--annotators", type=click.IntRange(1), default=20, show_default=True)
@click.option("--think", default=10.0, show_default=True, help="Seconds that a correction takes, on average.")
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True, help="That sleep over each image.")
@click.option(
    "--interactive-workers",
    type=click.IntRange(0),
    default=1,
    show_default=True,
    help="For those alone who type; 0 lets them wait for the batch in hand of the others.",
)
@click.option("--seconds-per-image", default=0.1, show_default=True)
@click.option("--quick", is_flag=True, help="A minute, without a training; nothing is kept.")
def main(
    minutes: float,
    annotators: int,
    think: float,
    workers: int,
    interactive_workers: int,
    seconds_per_image: float,
    quick: bool,
) -> None:
    """Measure it; it ends by itself, with 1 where a goal is missed."""
    plan = Plan(1 if quick else minutes, annotators, think, workers, interactive_workers, seconds_per_image, not quick)
    figures, details = measure(plan)
    sys.exit(not keep("soak", figures, details, goals=goals_of(plan), quick=quick))


if __name__ == "__main__":
    main()
