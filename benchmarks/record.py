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

RESULTS = Path(__file__).parent / "results"
_PACKAGES = ("rsrefseg", "torch", "numpy", "open_clip_torch", "segment-anything", "timm")


def keep(question: str, figures: Mapping[str, Any], details: Mapping[str, Any], *, quick: bool = False) -> None:
    """Write figures with what they were measured on, and print them as the last line.

    Args:
        question: Of the benchmark, one word.
        figures: What goes on the last line.
        details: What else is worth keeping: times, spreads, sizes.
        quick: Only print; the run was too small to say anything.
    """
    if not quick:
        _write(question, figures, details)
    click.echo(json.dumps(dict(figures)))


def _write(question: str, figures: Mapping[str, Any], details: Mapping[str, Any]) -> None:
    # A second run of a day replaces the first.
    machine = machine_here()
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
