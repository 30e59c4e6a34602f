"""How much memory processes have over time, and whether it grows."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from fleets import fleet
from rich.console import Console
from rich.table import Table

LOOK_S = 5.0
"""Between two looks, in seconds."""

SETTLED = 1 / 3
"""Share of the time before which growth is warming up."""

AT_AN_END = 5
"""Looks whose median is said to be what there was at first, or at last."""


class Memory:
    """What was seen of some processes."""

    def __init__(self) -> None:
        self._looks: dict[str, list[tuple[float, float]]] = defaultdict(list)
        self._loads: list[float] = []

    def watch(self, members: Mapping[str, fleet.Member], redis: fleet.EmbeddedRedis, seconds: float) -> None:
        """Look at processes and their children again and again.

        Args:
            members: Commands that run.
            redis: Theirs.
            seconds: How long.
        """
        began = time.monotonic()
        while (passed := time.monotonic() - began) < seconds:
            for name, member in members.items():
                for place, pid in enumerate((member.process.pid, *member.children())):
                    self._looks[f"{name} {place}"].append((passed, _mib(pid)))
            self._looks["redis"].append((passed, _mib(redis.pid)))
            self._loads.append(float(Path("/proc/loadavg").read_text().split()[0]))
            time.sleep(min(LOOK_S, seconds / 20))

    def growth_mib_h(self) -> dict[str, float]:
        """Estimate how fast each process grew once it had settled.

        Returns:
            MiB in an hour, by process.
        """
        return {name: round(_slope(looks), 2) for name, looks in self._settled().items()}

    def ends(self) -> dict[str, tuple[float, float]]:
        """Say what each process had once it had settled, and at last.

        Returns:
            MiB, by process.
        """
        return {
            name: (
                round(statistics.median(mib for _, mib in looks[:AT_AN_END]), 1),
                round(statistics.median(mib for _, mib in looks[-AT_AN_END:]), 1),
            )
            for name, looks in self._settled().items()
        }

    def load(self) -> dict[str, float]:
        """Say what else the machine did.

        Returns:
            Its load average over a minute, the median and the most.
        """
        return {"median": statistics.median(self._loads), "most": max(self._loads)}

    def show(self) -> None:
        """Print it."""
        table = Table("process", "MiB, settled", "MiB at last", "growth, MiB/h")
        growth = self.growth_mib_h()
        for name, (first, last) in self.ends().items():
            table.add_row(name, f"{first:.1f}", f"{last:.1f}", f"{growth[name]:+.1f}")
        Console(width=100).print(table)

    def _settled(self) -> dict[str, list[tuple[float, float]]]:
        ends_at = max((looks[-1][0] for looks in self._looks.values()), default=0.0)
        settled = {
            name: [look for look in looks if look[0] >= ends_at * SETTLED] for name, looks in self._looks.items()
        }
        return {name: looks for name, looks in settled.items() if len(looks) > 2}


def _mib(pid: int) -> float:
    # The resident set; 0 if it is gone.
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 2**20
    except OSError:
        return 0.0


def _slope(looks: Sequence[tuple[float, float]]) -> float:
    # The median slope between all pairs of looks (Theil and Sen), which a few outliers do not move.
    at, held = np.array(looks).T
    first, second = np.triu_indices(len(at), 1)
    return float(np.median((held[second] - held[first]) / (at[second] - at[first])) * 3600)
