"""Requests flow while a seed decides who dies and who misbehaves; in the end every prediction is counted."""

from __future__ import annotations

import logging
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import httpx

from tests.factories import make_png
from tests.fleet import Fleet
from tests.stand_in_label_studio import (
    Behaviour,
    StandInLabelStudio,
    and_then,
    answers,
    carries_out_late,
    hangs_up,
    hangs_up_after,
)
from workers.queue import RedisAway

log = logging.getLogger(__name__)

CONFIG = """<View><Image name="image" value="$image"/><TextArea name="prompt" toName="image" value="$expression"/>
<BrushLabels name="tag" toName="image"><Label value="target"/></BrushLabels></View>"""
IMAGES = 50
BATCHES = 20
"""In so many calls of /predict the requests come in."""

AHEAD = 3
"""So many of them wait while others are worked on."""

TWICE = 0.2
"""Share of the calls that Label Studio makes twice."""


@dataclass(frozen=True)
class Spans:
    """How long faults last, and how long it takes to be sure that they are over, in seconds."""

    redis_away: float = 6
    label_studio_away: float = 12
    late: float = 90
    """Until a call that got no answer is carried out: at most so long; couriers look again after more."""
    silent: float = 65
    """More than couriers wait for an answer."""
    patience: float = 420
    """Without any progress what is missing then is missing."""


@dataclass(frozen=True)
class Outcome:
    """What became of the requests."""

    seed: int
    requests: int
    predictions: int
    doubled: int
    """Tasks with more than one."""
    missing: int
    """Tasks without any."""
    failures: tuple[str, ...]
    faults: tuple[str, ...]
    seconds: float


class Storm:
    """One seed's faults over a fleet."""

    def __init__(
        self, fleet: Fleet, label_studio: StandInLabelStudio, seed: int, spans: Spans = Spans(), words: str = "the ship"
    ) -> None:
        self._fleet = fleet
        self._label_studio = label_studio
        self._seed = seed
        self._chance = random.Random(seed)
        self._spans = spans
        self._words = words
        self.faults: dict[str, Callable[[], None]] = {
            "worker killed": self._kill_worker,
            "courier killed": self._kill_courier,
            "couriers killed after a POST": self._kill_couriers_after_post,
            "redis frozen": self._freeze_redis,
            "redis restarted": self._restart_redis,
            "label studio away": self._send_label_studio_away,
            "refused for now": lambda: self._misbehave(*(answers(status) for status in (429, 500, 502, 503, 504))),
            "hung up": lambda: self._misbehave(hangs_up),
            "hung up after": lambda: self._misbehave(hangs_up_after, methods=("POST",)),
            "carried out late": lambda: self._misbehave(carries_out_late(self._up_to(spans.late)), methods=("POST",)),
            "silent": lambda: self._misbehave(and_then(lambda: time.sleep(spans.silent))),
        }

    def rage(self, requests: int, times: int = 1) -> Outcome:
        """Let requests flow under each fault so many times, and wait until nothing is in flight."""
        began = time.monotonic()
        self._lay_out(requests)
        faults = list(self.faults) * times
        self._chance.shuffle(faults)
        # By what is done and not by the clock, so that each comes while requests flow, on any machine.
        due = sorted(self._chance.uniform(0, 0.9) * requests for _ in faults)
        tasks = list(self._label_studio.tasks)
        size = -(-requests // BATCHES)
        batches = [tasks[start : start + size] for start in range(0, requests, size)]
        calls = [batch for batch in batches for _ in range(1 + (self._chance.random() < TWICE))]
        sent, changed_at, seen = 0, time.monotonic(), None
        while not self._is_over(all_sent=not calls) and time.monotonic() - changed_at < self._spans.patience:
            self._fleet.tend()
            done = len(self._label_studio.predictions)
            if calls and sent - done <= AHEAD * size and self._call(calls[0]):
                sent = max(sent, calls.pop(0)[-1])
            if due and done >= due[0]:
                due.pop(0)
                fault = faults[len(due)]
                log.info("fault", extra={"fault": fault, "done": done})
                self.faults[fault]()
            if (done, len(calls), len(due)) != seen:
                changed_at, seen = time.monotonic(), (done, len(calls), len(due))
            time.sleep(0.05)
        return self._count(requests, tuple(reversed(faults)), time.monotonic() - began)

    def _lay_out(self, requests: int) -> None:
        held = self._label_studio
        held.config = CONFIG
        held.tasks = range(1, requests + 1)
        held.images = {f"/data/upload/1/{number}.png": make_png((40 + number, 60)) for number in range(IMAGES)}

    def _call(self, tasks: list[int]) -> bool:
        # As Label Studio does; what is not acknowledged is asked again.
        body = {
            "tasks": [
                {"id": task, "data": {"image": f"/data/upload/1/{task % IMAGES}.png", "expression": self._words}}
                for task in tasks
            ],
            "project": "1.17",
            "label_config": CONFIG,
        }
        with suppress(httpx.TransportError):
            return httpx.post(f"{self._fleet.web_url}/predict", json=body, timeout=30, trust_env=False).is_success
        return False

    def _is_over(self, *, all_sent: bool) -> bool:
        held, queue = self._label_studio, self._fleet.queue
        if not all_sent:
            return False
        with suppress(RedisAway):
            ended = len({one["task"] for one in list(held.predictions.values())}) + len(queue.failures())
            # Twice: a job that changes queues may be between two counts.
            return ended >= len(held.tasks) and self._is_quiet() and not time.sleep(1) and self._is_quiet()
        return False

    def _is_quiet(self) -> bool:
        counts = self._fleet.queue.counts()
        return not counts["waiting"] + counts["running"] + counts["to_deliver"]

    def _count(self, requests: int, faults: tuple[str, ...], seconds: float) -> Outcome:
        of_task = Counter(one["task"] for one in self._label_studio.predictions.values())
        return Outcome(
            seed=self._seed,
            requests=requests,
            predictions=of_task.total(),
            doubled=sum(count > 1 for count in of_task.values()),
            missing=requests - len(of_task),
            failures=tuple(failure.reason for failure in self._fleet.queue.failures()),
            faults=faults,
            seconds=round(seconds, 1),
        )

    def _up_to(self, most_s: float) -> float:
        return self._chance.uniform(most_s / 10, most_s)

    def _kill_worker(self) -> None:
        self._kill_one(self._fleet.pids(self._fleet.queue.gpu))

    def _kill_courier(self) -> None:
        self._kill_one(self._fleet.pids(self._fleet.queue.label_studio))

    def _kill_one(self, pids: list[int]) -> None:
        if pids:
            _kill(self._chance.choice(pids))

    def _kill_couriers_after_post(self) -> None:
        # All of them, as the one that waits for this answer is among them.
        couriers = self._fleet.pids(self._fleet.queue.label_studio)
        self._misbehave(and_then(lambda: [_kill(pid) for pid in couriers]), methods=("POST",))

    def _freeze_redis(self) -> None:
        pid = self._fleet.redis.pid
        os.kill(pid, signal.SIGSTOP)
        time.sleep(self._up_to(self._spans.redis_away))
        os.kill(pid, signal.SIGCONT)

    def _restart_redis(self) -> None:
        self._fleet.restart_redis(self._up_to(self._spans.redis_away))

    def _send_label_studio_away(self) -> None:
        self._label_studio.away = self._chance.choice([answers(502), answers(503), hangs_up])
        time.sleep(self._up_to(self._spans.label_studio_away))
        self._label_studio.away = None

    def _misbehave(self, *behaviours: Behaviour, methods: tuple[str, ...] = ("GET", "POST")) -> None:
        for behaviour in behaviours:
            self._label_studio.misbehave(self._chance.choice(methods), behaviour)


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
