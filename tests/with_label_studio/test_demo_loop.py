"""`make demo-loop` on a user's own images, with a model that learns fast."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sysconfig
from pathlib import Path

import pytest

from ml_backend.demo_loop import MASKS, Figures
from tests.need import need_label_studio
from tests.squares import dark_anchor, png, small_base, square
from tests.with_label_studio.conftest import wait_for
from tests.with_label_studio.test_demo import processes_about

LIMIT_S = 1500
COUNT = 40


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Forty squares; of the last there is a second thing to find, which has a mask of its own."""
    folder = tmp_path / "squares"
    (folder / MASKS).mkdir(parents=True)
    for number in range(COUNT):
        pixels, mask = square(number)
        (folder / f"{number:02d}.png").write_bytes(png(pixels))
        (folder / f"{number:02d}.txt").write_text("the building\n")
        (folder / MASKS / f"{number:02d}.png").write_bytes(png(255 * mask.astype("uint8")))
    last = folder / MASKS / f"{COUNT - 1:02d}.png"
    (folder / f"{COUNT - 1:02d}.txt").write_text("the building\nthe ground\n")
    (folder / MASKS / f"{COUNT - 1:02d}-2.png").write_bytes(png(255 * (~mask).astype("uint8")))
    last.rename(folder / MASKS / f"{COUNT - 1:02d}-1.png")
    return folder


def run(tmp_path: Path, images: Path) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RSREFSEG_", "REDIS_", "LABEL_STUDIO_"))}
    ours = {
        "RSREFSEG_DATA": str(tmp_path / "data"),
        "RSREFSEG_CHECKPOINT": str(small_base(tmp_path / "base")),
        "RSREFSEG_ANCHOR": str(dark_anchor(tmp_path / "dark")),
        "COLUMNS": "200",
        "OMP_NUM_THREADS": "1",
    }
    program = Path(sysconfig.get_path("scripts")) / "rsrefseg-backend"
    command = [program, "demo-loop", "--once", "--label-studio", str(need_label_studio()), "--images", str(images)]
    return subprocess.run(command, env=kept | ours, capture_output=True, text=True, timeout=LIMIT_S, check=False)


@pytest.mark.timeout(LIMIT_S + 60)
def test_the_loop_is_closed_on_a_users_own_images(tmp_path: Path, images: Path) -> None:
    done = run(tmp_path, images)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert set(said) == set(Figures.__dataclass_fields__)
    wanted = {"miou_before", "miou_after", "anchor_before", "anchor_after", "promoted", "seconds_retrain"}
    assert wanted <= set(said)
    assert not said["failed"]
    taught, measured, left = map(
        int, re.findall(r"Of 41 tasks (\d+) .* (\d+) of held-out .* (\d+) left", done.stderr)[0]
    )
    assert taught + measured + left == COUNT + 1
    assert said["corrections"] == taught > 2 * left > 0
    assert said["version"]
    assert all(0 <= said[name] <= 100 for name in ("miou_before", "miou_after", "anchor_before", "anchor_after"))
    assert said["redrawn"] == (left if said["promoted"] else 0)
    assert Path(said["curve"]).is_file()
    wait_for(lambda: not processes_about(tmp_path))


def test_an_image_without_its_truth_is_refused_before_anything_starts(tmp_path: Path, images: Path) -> None:
    (images / MASKS / f"{COUNT - 1:02d}-2.png").unlink()
    done = run(tmp_path, images)
    assert done.returncode == 2
    assert "39-2.png is missing" in done.stderr.replace("\n", "")
    assert not (tmp_path / "data/demo-loop/label-studio").exists()
