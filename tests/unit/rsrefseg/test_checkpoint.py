import json

import numpy as np
import pytest
import torch

from rsrefseg import Predictor, checkpoint
from rsrefseg.errors import BadCheckpoint, UnknownPreset
from rsrefseg.presets import TINY


def test_what_is_saved_is_what_is_loaded(model, tmp_path):
    checkpoint.save(model, tmp_path / "one", "card", half=False)
    loaded = checkpoint.load(tmp_path / "one")
    assert loaded.preset == model.preset
    for name, value in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value, atol=0, rtol=0)


def test_half_precision_takes_half_the_space_and_draws_the_same(model, image, tmp_path):
    checkpoint.save(model, tmp_path / "half", "card")
    checkpoint.save(model, tmp_path / "full", "card", half=False)
    half, full = ((tmp_path / name / checkpoint.WEIGHTS).stat().st_size for name in ("half", "full"))
    assert half < 0.6 * full
    masks = [
        Predictor.from_checkpoint(tmp_path / name).segment(image, ["the ship"])[0].mask for name in ("half", "full")
    ]
    assert np.mean(masks[0] == masks[1]) > 0.99


def test_a_folder_with_a_checkpoint_is_never_overwritten(model, tmp_path):
    checkpoint.save(model, tmp_path, "card")
    with pytest.raises(BadCheckpoint, match="choose another folder"):
        checkpoint.save(model, tmp_path, "card")


def test_different_weights_have_different_versions(model, tmp_path):
    checkpoint.save(model, tmp_path / "a", "card")
    with torch.no_grad():
        model.prompter.logit_bias += 1
    checkpoint.save(model, tmp_path / "b", "card")
    first, second = checkpoint.version(tmp_path / "a"), checkpoint.version(tmp_path / "b")
    assert first != second
    assert first.startswith("tiny@")


def test_an_empty_folder_is_not_a_checkpoint(tmp_path):
    with pytest.raises(BadCheckpoint, match=r"config\.json is missing"):
        checkpoint.load(tmp_path)


def test_damaged_weights_are_named(model, tmp_path):
    checkpoint.save(model, tmp_path, "card")
    (tmp_path / checkpoint.WEIGHTS).write_bytes(b"no weights")
    with pytest.raises(BadCheckpoint, match="damaged"):
        checkpoint.load(tmp_path)


def test_weights_of_another_size_are_refused(model, tmp_path):
    checkpoint.save(model, tmp_path, "card")
    config = json.loads((tmp_path / checkpoint.CONFIG).read_text())
    config["preset"]["clip_dim"] = 64
    (tmp_path / checkpoint.CONFIG).write_text(json.dumps(config))
    with pytest.raises(BadCheckpoint, match="do not fit"):
        checkpoint.load(tmp_path)


def test_a_config_with_unknown_fields_is_refused(model, tmp_path):
    checkpoint.save(model, tmp_path, "card")
    (tmp_path / checkpoint.CONFIG).write_text(json.dumps({"preset": {"name": "tiny", "depth": 3}}))
    with pytest.raises(BadCheckpoint, match="fields of Preset differ"):
        checkpoint.load(tmp_path)


def test_an_unknown_preset_lists_those_there_are():
    with pytest.raises(UnknownPreset, match="there are: b, l, tiny"):
        Predictor.from_preset("huge")


def test_the_shipped_weights_fit_the_preset_they_name():
    predictor = Predictor.from_preset("tiny")
    assert predictor.model.preset == TINY
    assert predictor.version.startswith("tiny@")


def test_a_checkpoint_that_holds_something_else_is_refused(model, tmp_path):
    checkpoint.save(model, tmp_path, "card")
    config = json.loads((tmp_path / checkpoint.CONFIG).read_text())
    (tmp_path / checkpoint.CONFIG).write_text(json.dumps({**config, "holds": "the past"}))
    with pytest.raises(BadCheckpoint, match="it holds 'the past'"):
        checkpoint.load(tmp_path)
