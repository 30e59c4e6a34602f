from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

from workers.leased import Pace

SCRIPT = """
import sys
from workers.supervisor import supervise
child = '''
import sys, time
_, file, code = sys.argv
open(file, "a").write(".")
if code == "0":
    time.sleep(60)
sys.exit(int(code))
'''
directory, *codes = sys.argv[1:]
sys.exit(supervise([[sys.executable, "-c", child, f"{directory}/{code}", code] for code in codes], hopeless=2))
"""


def start(directory: Path, *codes: str) -> subprocess.Popen[bytes]:
    """Supervise a process for each exit code, of which 0 is one that lives."""
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(directory), *codes])


def test_a_process_that_dies_is_started_again_and_all_end_together(tmp_path: Path) -> None:
    process = start(tmp_path, "0", "1")
    deadline = time.monotonic() + 20
    while not ((tmp_path / "1").exists() and (tmp_path / "1").stat().st_size >= 2):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert (tmp_path / "0").read_text() == "."
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0


def test_a_process_that_can_never_run_ends_them_all_with_its_code(tmp_path: Path) -> None:
    assert start(tmp_path, "0", "2").wait(20) == 2


def test_the_request_of_a_dead_worker_comes_again_within_40_s() -> None:
    assert Pace().worst_s <= 40
