import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from rsrefseg import checkpoint
from rsrefseg.cli import main
from rsrefseg.model import RSRefSeg
from rsrefseg.pictures import write_image
from tests.unit.rsrefseg import benchmark_folders as folders


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A benchmark of two splits."""
    root = folders.coco(tmp_path / "root")
    for split in ("train", "val"):
        lines = (root / "rrsisd_test.jsonl").read_text()
        (root / f"rrsisd_{split}.jsonl").write_text(lines.replace('"test"', f'"{split}"'))
    return root


@pytest.fixture
def small_checkpoint(model: RSRefSeg, tmp_path: Path) -> Path:
    checkpoint.save(model, tmp_path / "small", "card")
    return tmp_path / "small"


def ran(*words: object):
    return CliRunner().invoke(main, [str(word) for word in words])


def test_a_model_is_taught_further_on_a_benchmark_and_scored_by_the_next_command(root, small_checkpoint, tmp_path):
    chosen = ("--dataset", "coco", "--root", root, "--preset", "tiny", "--out", tmp_path / "run", "--threads", 1)
    hurried = (
        "--epochs",
        2,
        "--batch",
        1,
        "--val-every",
        1,
        "--freeze-norms",
        "--start",
        small_checkpoint,
        "--device",
        "cpu",
    )
    done = ran("train", *chosen, *hurried)
    assert done.exit_code == 0, done.output
    assert "val: " in done.output
    assert (tmp_path / "run/curves.png").exists()
    scored = ran("evaluate", "--dataset", "coco", "--root", root, "--checkpoint", tmp_path / "run/checkpoint", "--json")
    assert json.loads(scored.stdout)["n"] == 2

    again = ran("train", *chosen, *hurried)
    assert again.exit_code == 1
    assert "--resume" in again.output
    assert ran("train", *chosen, *hurried, "--resume").exit_code == 0


def test_the_test_split_chooses_nothing(root, tmp_path):
    refused = ran("train", "--dataset", "coco", "--root", root, "--val", "test", "--out", tmp_path / "run")
    assert refused.exit_code == 2
    assert "evaluate" in refused.output


def test_a_large_preset_without_its_foundation_says_what_is_missing(root, tmp_path):
    refused = ran(
        "train", "--dataset", "coco", "--root", root, "--preset", "b", "--out", tmp_path / "run",
        "--foundation", tmp_path / "nowhere",
    )  # fmt: skip
    assert refused.exit_code == 1
    assert "rsrefseg weights fetch --preset b" in refused.output


def test_a_checkpoint_of_another_preset_is_not_started_from(root, small_checkpoint, tmp_path):
    refused = ran(
        "train", "--dataset", "coco", "--root", root, "--preset", "b", "--out", tmp_path / "run",
        "--start", small_checkpoint,
    )  # fmt: skip
    assert refused.exit_code == 1
    assert "--preset tiny" in refused.output


@pytest.mark.parametrize("device", ["cuda:99", "cuda:", "tpu"])
@pytest.mark.parametrize("command", ["train-tiny", "segment"])
def test_a_device_that_is_not_there_is_refused_in_a_sentence(command, device, tmp_path):
    image = write_image(tmp_path / "image.png", np.zeros((8, 8, 3), np.uint8))
    words = ("--out", tmp_path / "run") if command == "train-tiny" else (image, "the ship")
    refused = ran(command, *words, "--device", device)
    assert refused.exit_code == 1
    assert device in refused.output
    assert "cpu" in refused.output
    assert not (tmp_path / "run").exists()


def test_tiny_is_trained_from_nothing_in_one_command(tmp_path):
    photographs = folders.instances(tmp_path / "photographs", "train", "dev")
    hurried = ("--scenes", 2, "--pace", 0.0003, "--seed", 1, "--threads", 1, "--workers", 0)
    done = ran("train-tiny", "--out", tmp_path / "run", "--instances", photographs, *hurried)
    assert done.exit_code == 0, done.output
    assert "scenes: " in done.output
    assert checkpoint.read_config(tmp_path / "run/checkpoint").preset.name == "tiny"
