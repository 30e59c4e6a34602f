"""Do people get their masks as fast beside bulk work as without it, for an hour, and does nothing grow or get lost?

The real web process, courier and workers on a Redis of their own, before a stand-in for Label Studio. First one
annotator alone; then twenty of them, who open a task, type words, wait for the mask, correct it and think, while bulk
work never ends.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import httpx
import numpy as np
from fleets import faults, fleet, stand_in_label_studio
from record import keep
from rich.console import Console
from rich.table import Table

from tests.factories import make_png

MASK = [0, 0, 1, 0, 57, 27, 254, 71, 0, 191, 255, 124, 2, 255, 253, 240, 11, 255, 249, 156, 0]
"""A mask of 8 x 8 as Label Studio writes it."""

LOOK_S = 5.0
"""Between two looks at the processes' memory, in seconds."""

SETTLED = 1 / 3
"""Share of the run before which growth is warming up."""

DRAIN_S = 300
"""Longest that what is on its way may take to end, in seconds."""


@dataclass
class Work:
    """What came of it so far."""

    waits: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Seconds from a request of a person to its mask, by phase."""
    empty: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    asked: set[int] = field(default_factory=set)
    """Tasks that were taken by the bulk door, or opened."""
    corrected: int = 0


class Office:
    """Annotators and bulk work.

    Args:
        url: Of the web process.
        label_studio: Where the tasks are.
        tasks: How many there are.
    """

    def __init__(self, url: str, label_studio: Any, tasks: int) -> None:
        self.work = Work()
        self.over = threading.Event()
        self._url = url
        self._label_studio = label_studio
        self._tasks = tasks
        self._lock = threading.Lock()
        self._next_bulk = 1

    def annotate(self, number: int, phase: str, think_s: float, over: threading.Event) -> None:
        """Be one annotator until it is over.

        Args:
            number: Which.
            phase: What the waits are counted under.
            think_s: How long a correction takes, on average.
            over: When to go home.
        """
        chance = random.Random(number)  # noqa: S311
        with httpx.Client(timeout=60, trust_env=False) as client:
            while not over.is_set():
                task = chance.randrange(1, self._tasks + 1)
                self._post(client, "/predict", self._request([task]), [task])
                began = time.perf_counter()
                typed = [{"from_name": "prompt", "to_name": "image", "type": "textarea", "value": {"text": ["a pier"]}}]
                said = self._post(client, "/predict", self._request([task], {"context": {"result": typed}}))
                if said is not None:
                    self.work.waits[phase].append(time.perf_counter() - began)
                    results = said.json()["results"]
                    self.work.empty += not (isinstance(results[0], dict) and results[0]["result"])
                self._correct(client, task)
                over.wait(chance.expovariate(1 / think_s))

    def ask_in_bulk(self, at_once: int, over: threading.Event) -> None:
        """Keep the queue filled until it is over.

        Args:
            at_once: Tasks in a request.
            over: When to stop.
        """
        with httpx.Client(timeout=60, trust_env=False) as client:
            while not over.is_set() and self._next_bulk <= self._tasks:
                if client.get(f"{self._url}/counts").json()["waiting"] > 2 * at_once:
                    over.wait(0.5)
                    continue
                tasks = list(range(self._next_bulk, min(self._next_bulk + at_once, self._tasks + 1)))
                if self._post(client, "/predict", self._request(tasks), tasks) is not None:
                    self._next_bulk = tasks[-1] + 1

    def _correct(self, client: httpx.Client, task: int) -> None:
        region = {
            "id": "r1", "from_name": "tag", "to_name": "image", "type": "brushlabels",
            "original_width": 8, "original_height": 8,
            "value": {"format": "rle", "rle": MASK, "brushlabels": ["target"]},
        }  # fmt: skip
        with self._lock:
            self.work.corrected += 1
            annotation = {"id": self.work.corrected, "result": [region], "was_cancelled": False, "prediction": {}}
        now = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime())
        self._label_studio.annotate(task, {**annotation, "task": task, "created_at": now, "updated_at": now})
        event = {"action": "ANNOTATION_CREATED", "project": {"id": 1}, "annotation": {**annotation, "task": task}}
        self._post(client, "/webhook", event)

    def _request(self, tasks: Sequence[int], params: dict[str, Any] | None = None) -> dict[str, Any]:
        data = [{"image": f"/data/upload/1/{task % faults.IMAGES}.png", "expression": "the ship"} for task in tasks]
        sent = [{"id": task, "data": one} for task, one in zip(tasks, data, strict=True)]
        return {"tasks": sent, "project": "1.17", "label_config": faults.CONFIG, "params": params or {}}

    def _post(
        self, client: httpx.Client, path: str, body: dict[str, Any], tasks: Sequence[int] = ()
    ) -> httpx.Response | None:
        try:
            answer = client.post(self._url + path, json=body)
        except httpx.TransportError as exc:
            self.work.errors[type(exc).__name__] += 1
            return None
        if not answer.is_success:
            self.work.errors[f"{path} {answer.status_code}"] += 1
            return None
        self.work.asked.update(tasks)
        return answer


def memory_mib(pid: int) -> float:
    """Say how much memory of its own a process has.

    Args:
        pid: Which.

    Returns:
        Its resident set, in MiB; 0 if it is gone.
    """
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 2**20
    except OSError:
        return 0.0


def growth_mib_h(looks: Sequence[tuple[float, float]]) -> float:
    """Estimate how fast memory grows: the median slope between all pairs of looks (Theil and Sen).

    Args:
        looks: Seconds and MiB.

    Returns:
        MiB in an hour.
    """
    at, held = np.array(looks).T
    first, second = np.triu_indices(len(at), 1)
    return float(np.median((held[second] - held[first]) / (at[second] - at[first])) * 3600)


@click.command()
@click.option("--minutes", type=click.FloatRange(0.2), default=60, show_default=True, help="Of the load.")
@click.option("--annotators", type=click.IntRange(1), default=20, show_default=True)
@click.option("--think", default=10.0, show_default=True, help="Seconds that a correction takes, on average.")
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True, help="That sleep over each image.")
@click.option("--seconds-per-image", default=0.1, show_default=True)
@click.option("--quick", is_flag=True, help="Half a minute; nothing is kept.")
def main(minutes: float, annotators: int, think: float, workers: int, seconds_per_image: float, quick: bool) -> None:
    """Measure it; it ends by itself."""
    minutes = 0.4 if quick else minutes
    tasks = int(minutes * 60 * workers / seconds_per_image) + 1000
    looks: dict[str, list[tuple[float, float]]] = defaultdict(list)
    loads: list[float] = []
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory() as folder,
        stand_in_label_studio.stand_in_label_studio() as label_studio,
        fleet.Fleet.gather(
            Path(folder), label_studio.url, label_studio.key, RSREFSEG_OPEN_WAIT_S="0", RSREFSEG_LOG_LEVEL="WARNING"
        ) as ours,
    ):
        label_studio.config, label_studio.tasks = faults.CONFIG, range(1, tasks + 1)
        label_studio.images = {f"/data/upload/1/{n}.png": make_png((40 + n, 60)) for n in range(faults.IMAGES)}
        pretended = ",".join(map(str, range(workers)))
        members = {
            "web": ours.start(*fleet.WEB),
            "courier": ours.start(*fleet.COURIER),
            "worker": ours.start(*fleet.WORKER, "--simulate", str(seconds_per_image), "--gpus", pretended),
        }
        ours.wait_for_web()
        ours.wait_for(ours.queue.gpu, workers)
        ours.wait_for(ours.queue.label_studio, 1)
        office = Office(ours.web_url, label_studio, tasks)
        alone, over = threading.Event(), threading.Event()
        first = threading.Thread(target=office.annotate, args=(0, "alone", 0.5, alone))
        first.start()
        time.sleep(max(10.0, minutes * 6))
        alone.set()
        first.join()
        people = [
            threading.Thread(target=office.annotate, args=(n, "beside", think, over)) for n in range(1, annotators + 1)
        ]
        people.append(threading.Thread(target=office.ask_in_bulk, args=(200, over)))
        for one in people:
            one.start()
        started = time.monotonic()
        while (passed := time.monotonic() - started) < minutes * 60:
            for name, member in members.items():
                for place, pid in enumerate((member.process.pid, *member.children())):
                    looks[f"{name} {place}"].append((passed, memory_mib(pid)))
            looks["redis"].append((passed, memory_mib(ours.redis.pid)))
            loads.append(float(Path("/proc/loadavg").read_text().split()[0]))
            time.sleep(LOOK_S)
        over.set()
        for one in people:
            one.join()
        drained = time.monotonic() + DRAIN_S
        quiet = 0
        while quiet < 3 and time.monotonic() < drained:
            counts = ours.queue.counts()
            quiet = 0 if counts["waiting"] + counts["running"] + counts["to_deliver"] else quiet + 1
            time.sleep(1)
        of_task = Counter(one["task"] for one in list(label_studio.predictions.values()))
        failures = len(ours.queue.failures())
    work = office.work
    settled = {name: [look for look in some if look[0] >= minutes * 60 * SETTLED] for name, some in looks.items()}
    growth = {name: round(growth_mib_h(some), 2) for name, some in settled.items() if len(some) > 2}
    p95 = {phase: float(np.percentile(waits, 95)) for phase, waits in work.waits.items()}
    table = Table("process", "MiB at first", "MiB at last", "growth, MiB/h")
    for name, rate in growth.items():
        ends = [statistics.median(mib for _, mib in part) for part in (settled[name][:5], settled[name][-5:])]
        table.add_row(name, f"{ends[0]:.1f}", f"{ends[1]:.1f}", f"{rate:+.1f}")
    Console().print(table)
    figures = {
        "p95_beside_over_alone": round(p95["beside"] / p95["alone"], 2),
        "p95_alone_s": round(p95["alone"], 3),
        "p95_beside_s": round(p95["beside"], 3),
        "asked": len(work.asked),
        "lost": len(work.asked - of_task.keys()),
        "doubled": sum(count > 1 for count in of_task.values()),
        "most_growth_mib_h": max(growth.values(), default=0.0),
    }
    details = {
        "minutes": minutes,
        "annotators": annotators,
        "interactive_requests": {phase: len(waits) for phase, waits in work.waits.items()},
        "p50_s": {phase: round(statistics.median(waits), 3) for phase, waits in work.waits.items()},
        "p99_s": {phase: round(float(np.percentile(waits, 99)), 3) for phase, waits in work.waits.items()},
        "empty_answers": work.empty,
        "errors": dict(work.errors),
        "failures": failures,
        "corrected": work.corrected,
        "growth_mib_h": growth,
        "load": {"median": statistics.median(loads), "most": max(loads)},
        "seconds": round(time.monotonic() - began, 1),
    }
    keep("soak", figures, details, quick=quick)


if __name__ == "__main__":
    main()
