"""The tests' fleet and stand-in, for benchmarks."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent))  # Tests are not installed.

from tests import faults, fleet, loopback, stand_in_label_studio, webhooks  # noqa: E402

__all__ = ["beside", "faults", "fleet", "label_studio", "loopback", "stand_in_label_studio", "webhooks"]


@contextmanager
def beside(script: str, *arguments: str) -> Iterator[str]:
    """Run a script of this directory beside a measurement.

    Args:
        script: Its file; it ends when its input does.
        arguments: To it.

    Yields:
        The first line that it prints, once it is ready.
    """
    command = [sys.executable, str(HERE / script), *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()


@contextmanager
def label_studio(tasks: int, images: int = 0) -> Iterator[tuple[str, str]]:
    """Run a stand-in in a process of its own.

    Args:
        tasks: How many it lists.
        images: So many of their images are really there.

    Yields:
        Its address and the key to it.
    """
    with beside("label_studio_process.py", "--tasks", str(tasks), "--images", str(images)) as line:
        said = json.loads(line)
        yield said["url"], said["key"]
