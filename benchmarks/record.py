"""What a benchmark leaves behind: a readable table, a file in `results/`, and one JSON object on the last line."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
from goals import GOALS
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"

NOISE = 0.05
"""Figures that differ by less than this share are the same."""

NO_RECORD = "Nothing was recorded before on a machine like this one."
_PACKAGES = ("rsrefseg", "torch", "numpy", "open_clip_torch", "segment-anything", "timm")


def keep(
    question: str,
    figures: Mapping[str, Any],
    details: Mapping[str, Any],
    *,
    goals: Mapping[str, str] | None = None,
    quick: bool = False,
) -> bool:
    """Write figures with what they were measured on, and print them as the last line.

    Args:
        question: Of the benchmark, one word.
        figures: What goes on the last line.
        details: What else is worth keeping: times, spreads, sizes.
        goals: In place of what `goals.py` says.
        quick: Only print; the run was too small to say anything.

    Returns:
        Whether all goals are met.
    """
    goals = GOALS[question] if goals is None else goals
    machine = machine_here()
    before = last_recorded(question, machine)
    console = Console(width=110)
    console.print(compared(figures, before, goals))
    if before is None:
        console.print(NO_RECORD)
    missed = [name for name, goal in goals.items() if is_met(figures.get(name), goal) is False]
    for name in missed:
        console.print(f"Missed: {name} is {_said(figures[name])}, wanted {goals[name]}.")
    if not quick:
        _write(question, figures, details, machine)
    click.echo(json.dumps(dict(figures)))
    return not missed


def last_recorded(question: str, machine: Mapping[str, Any], results: Path = RESULTS) -> dict[str, Any] | None:
    """Find what was kept last of a benchmark on a machine like this one.

    Args:
        question: Of the benchmark.
        machine: As `machine_here` describes it; another processor or other cores are another machine.
        results: Where results are kept.

    Returns:
        The file's content, with `date`; None if there is none.
    """
    for path in sorted((results / question).glob("*.json"), reverse=True):
        held: dict[str, Any] = json.loads(path.read_text())
        if all(held["machine"].get(name) == machine[name] for name in ("cpu", "cores")):
            return held | {"date": path.name[:10]}
    return None


def compared(figures: Mapping[str, Any], before: Mapping[str, Any] | None, goals: Mapping[str, str] = {}) -> Table:
    """Lay figures out beside those that were kept last, and beside what is wanted.

    Args:
        figures: What was measured now.
        before: What `last_recorded` found.
        goals: As in `goals.py`.

    Returns:
        A table, which says what became better or worse where a goal says which way that is.
    """
    then_title = f"{before['date']}, {before['commit']}" if before else "before"
    table = Table("figure", "now", then_title, "ratio", "since then", "wanted", "met")
    for name, now in figures.items():
        then = before["figures"].get(name) if before else None
        goal = goals.get(name, "")
        both = isinstance(now, int | float) and isinstance(then, int | float) and then
        ratio = f"{now / then:.2f}" if both else ""
        met = {True: "yes", False: "NO", None: ""}[is_met(now, goal)]
        table.add_row(name, _said(now), "-" if then is None else _said(then), ratio, trend(now, then, goal), goal, met)
    return table


def trend(now: Any, then: Any, goal: str) -> str:
    """Say whether a figure became better.

    Args:
        now: The figure.
        then: What it was.
        goal: As in `goals.py`.

    Returns:
        "better", "worse" or, within `NOISE`, "same"; nothing where no goal says which way is which.
    """
    if not goal or not isinstance(now, int | float) or not isinstance(then, int | float):
        return ""
    if abs(now - then) <= NOISE * abs(then):
        return "same"
    more_is_better = goal.startswith((">=", "higher"))
    return "better" if (now > then) == more_is_better else "worse"


def is_met(figure: Any, goal: str) -> bool | None:
    """Say whether a figure is as it is wanted.

    Args:
        figure: What was measured.
        goal: As in `goals.py`.

    Returns:
        Whether it is; None where nothing is promised, or nothing was measured.
    """
    sign, _, limit = goal.partition(" ")
    if sign not in {">=", "<="} or not isinstance(figure, int | float):
        return None
    return figure >= float(limit) if sign == ">=" else figure <= float(limit)


def _said(figure: Any) -> str:
    return f"{figure:,.4g}" if isinstance(figure, float) else str(figure)


def _write(question: str, figures: Mapping[str, Any], details: Mapping[str, Any], machine: dict[str, Any]) -> None:
    # A second run of a day replaces the first.
    path = RESULTS / question / f"{time.strftime('%Y-%m-%d')}-{_slug(machine['cpu'])}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {
        "figures": dict(figures),
        "details": dict(details),
        "machine": machine,
        "commit": commit_here(),
        "versions": {name: version(name) for name in _PACKAGES} | {"python": platform.python_version()},
    }
    path.write_text(json.dumps(whole, indent=2) + "\n")
    click.echo(f"kept in {path}")


def machine_here() -> dict[str, Any]:
    """Describe this machine.

    Returns:
        CPU, its cores, what it has for half precision, and memory in GiB.
    """
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = re.search(r"^model name\s*: (.*)$", info, re.MULTILINE)
    flags = set(info.partition("flags")[2].partition("\n")[0].split())
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": model[1].strip() if model else platform.machine(),
        "cores": os.cpu_count(),
        "half_precision": sorted(flags & {"avx512_bf16", "avx512_fp16", "amx_bf16", "amx_fp16"}),
        "memory_gib": round(pages / 2**30, 1),
        "load_at_end": os.getloadavg()[0],
    }


def commit_here() -> str:
    """Name the code.

    Returns:
        The commit, and whether files differ from it.
    """

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments],  # noqa: S607
            cwd=RESULTS.parent,
            capture_output=True,
            text=True,
            check=False,
        ).stdout.strip()

    changed = git("status", "--porcelain", "--", ".", ":!benchmarks/results")
    return (git("rev-parse", "--short=12", "HEAD") or "unknown") + (" with changes" if changed else "")


def _slug(words: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")
