"""`make demo` as a newcomer runs it, short of installing."""

from __future__ import annotations

import os
import signal
import subprocess
import sysconfig
import time
from pathlib import Path

import pytest

from tests.factories import make_png
from tests.need import need_label_studio
from tests.with_label_studio.conftest import wait_for

LIMIT_S = 240


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "my images"
    folder.mkdir()
    (folder / "first scene.png").write_bytes(make_png((80, 120)))
    (folder / "first scene.txt").write_text("the building\nall ships\n")
    return folder


def demo(tmp_path: Path, *arguments: str) -> subprocess.Popen[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RSREFSEG_", "REDIS_", "LABEL_STUDIO_"))}
    return subprocess.Popen(
        [
            Path(sysconfig.get_path("scripts")) / "rsrefseg-backend",
            "demo",
            "--label-studio",
            str(need_label_studio()),
            *arguments,
        ],
        env=kept | {"RSREFSEG_DATA": str(tmp_path / "data"), "COLUMNS": "200", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def processes_about(path: Path) -> list[str]:
    """Command lines and surroundings that name the path: whatever the demo has left behind."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            text = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        except OSError:
            continue
        if str(path).encode() in text and int(process.name) != os.getpid():
            found.append((process / "cmdline").read_text().replace("\0", " "))
    return found


def test_once_prelabels_the_users_own_images_and_ends_well(tmp_path: Path, images: Path):
    process = demo(tmp_path, "--once", "--images", str(images))
    said, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, said
    assert "all ships" in said
    assert "the building" in said
    assert "http://127.0.0.1:" in said
    wait_for(lambda: not processes_about(tmp_path))


def test_a_second_run_finds_the_masks_there(tmp_path: Path, images: Path):
    first, _ = demo(tmp_path, "--once", "--images", str(images)).communicate(timeout=LIMIT_S)
    began = time.monotonic()
    second, _ = demo(tmp_path, "--once", "--images", str(images)).communicate(timeout=LIMIT_S)
    assert "had it" not in first
    assert second.count("had it") == 2
    assert time.monotonic() - began < 120


def test_a_task_without_a_mask_fails_the_demo_and_says_why(tmp_path: Path, images: Path):
    (images / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and nothing more")
    (images / "broken.txt").write_text("the ship")
    process = demo(tmp_path, "--once", "--images", str(images))
    said, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 1
    assert "broken" in said
    assert "Traceback" not in said


def test_ctrl_c_leaves_no_process_behind(tmp_path: Path, images: Path):
    process = demo(tmp_path, "--images", str(images))
    assert process.stdout
    for line in process.stdout:
        if "Ctrl-C" in line:
            break
    assert processes_about(tmp_path)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 0
    wait_for(lambda: not processes_about(tmp_path))


def test_a_folder_without_images_is_refused_in_one_sentence(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    process = demo(tmp_path, "--once", "--images", str(tmp_path / "empty"))
    said, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 2
    assert "holds no images" in said
    assert "Traceback" not in said
