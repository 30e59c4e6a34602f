"""Commands that the pages show and that are too slow, or too bare of weights, to run there as they stand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from rsrefseg import checkpoint
from rsrefseg.cli import main
from rsrefseg.model import RSRefSeg
from rsrefseg.samples import write_samples
from tests.unit.rsrefseg import benchmark_folders as folders


@pytest.fixture
def weights(model: RSRefSeg, tmp_path: Path) -> Path:
    checkpoint.save(model, tmp_path / "weights", "card")
    return tmp_path / "weights"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return folders.rrsis_d(tmp_path / "root")


def run(*words: object) -> Result:
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done


def test_an_image_is_asked_with_a_checkpoint_of_ones_own(weights: Path, tmp_path: Path) -> None:
    write_samples(tmp_path, 1, 128, 2_000_000_003)
    image = next(tmp_path.glob("scene-*.png"))
    run("segment", image, "the ship at the pier", "--checkpoint", weights, "--out", tmp_path / "masks")
    assert list((tmp_path / "masks").glob("*.png"))


def test_a_split_is_evaluated_on_a_device(weights: Path, root: Path, tmp_path: Path) -> None:
    chosen = ("--dataset", "rrsis-d", "--root", root, "--split", "test", "--checkpoint", weights)
    assert json.loads(run("evaluate", *chosen, "--device", "cpu", "--json").stdout)["n"] == 2


def test_a_checkpoint_is_probed_on_a_dataset(weights: Path, tmp_path: Path) -> None:
    root = folders.instances(tmp_path / "instances", "dev")
    chosen = ("--dataset", "instances", "--root", root, "--split", "dev", "--checkpoint", weights)
    assert json.loads(run("probe", *chosen, "--json").stdout)


def test_a_checkpoint_that_is_right_about_absent_classes_alone_is_not_calibrated(
    model: RSRefSeg, tmp_path: Path
) -> None:
    with torch.no_grad():  # it finds nothing anywhere, and follows what it finds
        model.prompter.logit_bias.fill_(-1e4)
        model.prompter.finest_gain.fill_(1.0)
    checkpoint.save(model, tmp_path / "weights", "card")
    root = folders.instances(tmp_path / "instances", "val")
    chosen = ["--dataset", "instances", "--root", str(root), "--split", "val"]
    done = CliRunner().invoke(main, ["calibrate", str(tmp_path / "weights"), *chosen])
    assert done.exit_code == 1
    assert "5 answers, 2 of them right: at least ten right and ten wrong are needed" in done.output
