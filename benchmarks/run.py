"""Runs benchmarks one after the other, and says at the end what all of them came to."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
from goals import GOALS
from record import compared, last_recorded, machine_here
from rich.console import Console

HERE = Path(__file__).parent

LONG = frozenset({"retrain", "selection", "soak"})
"""Hours, so only by name."""


def questions() -> list[str]:
    """List the benchmarks.

    Returns:
        The word of each.
    """
    return sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))


def run(question: str, *options: str) -> tuple[int, dict[str, Any]]:
    """Run one, and let it be seen.

    Args:
        question: Its word.
        options: To it.

    Returns:
        Its exit code, and the figures of its last line; none if it broke.
    """
    command = [sys.executable, str(HERE / f"bench_{question}.py"), *options]
    last = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            click.echo(line, nl=False)
            last = line
    figures = json.loads(last) if last.startswith("{") else {}
    return process.returncode, figures


@click.command()
@click.argument("wanted", metavar="[QUESTION]...", nargs=-1, type=click.Choice(questions()))
@click.option("--quick", is_flag=True, help="As each of them understands it; nothing is kept.")
def main(wanted: tuple[str, ...], quick: bool) -> None:
    """Run benchmarks, all but the long ones unless some are named.

    After several the last line is one JSON object of all their figures. The exit code is 1 if one broke, or missed what
    it may never miss.
    """
    console = Console(width=110)
    machine = machine_here()
    chosen = wanted or tuple(word for word in questions() if word not in LONG)
    before = {word: last_recorded(word, machine) for word in chosen}
    results = {word: run(word, *(("--quick",) if quick else ())) for word in chosen}
    if len(chosen) > 1:
        for word, (code, figures) in results.items():
            table = compared(figures, before[word], GOALS[word])
            table.title = word + ("" if not code else ", with exit code " + str(code))
            console.print(table)
        click.echo(json.dumps({word: figures for word, (_, figures) in results.items()}))
    sys.exit(int(any(code for code, _ in results.values())))


if __name__ == "__main__":
    main()
