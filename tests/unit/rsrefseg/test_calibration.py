import numpy as np
import pytest

from rsrefseg import checkpoint
from rsrefseg.calibration import Calibration, SecondLook
from rsrefseg.errors import BadCheckpoint
from rsrefseg.metrics import calibration_error
from rsrefseg.predictor import Predictor


def boaster(n: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Claims that come true less often than they say."""
    rng = np.random.default_rng(0)
    chance = rng.uniform(0.02, 0.98, n)
    odds = np.log(chance / (1 - chance))
    return 1 / (1 + np.exp(-(0.5 * odds + 1.0))), rng.random(n) < chance


def test_a_fit_makes_a_boaster_honest():
    claimed, right = boaster()
    calibration = Calibration.fit(claimed, right)
    honest = [calibration.score(one) for one in claimed]
    assert calibration_error(claimed, right) > 0.1
    assert calibration_error(honest, right) < 0.03
    assert calibration.slope == pytest.approx(2.0, abs=0.2)
    assert calibration.bias == pytest.approx(-2.0, abs=0.2)


def test_calibration_keeps_the_order_even_of_confidence_that_misleads():
    claimed, right = boaster()
    assert Calibration.fit(claimed, ~right).slope == 0.0


def test_confidence_that_parts_right_from_wrong_completely_still_has_a_fit():
    calibration = Calibration.fit([0.1] * 20 + [0.9] * 20, [False] * 20 + [True] * 20)
    assert np.isfinite([calibration.slope, calibration.bias]).all()
    assert calibration.score(0.0) < 0.1 < 0.9 < calibration.score(1.0)


def test_too_few_answers_are_not_fitted():
    with pytest.raises(ValueError, match="at least ten"):
        Calibration.fit([0.5] * 15, [True] * 15)


def test_a_checkpoint_remembers_what_its_scores_are_worth(model, tmp_path, image):
    checkpoint.save(model, tmp_path, "card")
    plain = Predictor.from_checkpoint(tmp_path)
    checkpoint.calibrate(tmp_path, Calibration(slope=2.0, bias=-1.0))
    calibrated = Predictor.from_checkpoint(tmp_path)
    [before], [after] = (one.segment(image, ["the ship"]) for one in (plain, calibrated))
    assert after.score == pytest.approx(Calibration(slope=2.0, bias=-1.0).score(before.score), abs=1e-6)
    assert (after.mask == before.mask).all()
    assert after.predicted_iou == before.predicted_iou
    assert calibrated.version != plain.version


def test_a_damaged_calibration_is_refused(model, tmp_path):
    checkpoint.save(model, tmp_path, "card")
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"holds"', '"calibration": {"slope": "steep"}, "holds"'))
    with pytest.raises(BadCheckpoint, match="damaged"):
        checkpoint.read_config(tmp_path)


def test_second_looks_part_right_from_wrong_where_scores_cannot():
    rng = np.random.default_rng(0)
    apart = rng.uniform(0, 1, 2000)
    right = rng.random(2000) < 1 / (1 + np.exp(-(1.5 - 3 * apart)))
    known = Calibration(slope=2.0, bias=-1.0)
    calibration = known.fit_second_look([0.5] * 2000, apart, right)
    assert (calibration.slope, calibration.bias) == (2.0, -1.0)
    assert calibration.second_look is not None
    assert calibration.second_look.slope == pytest.approx(3.0, abs=0.4)
    assert calibration.second_look.bias == pytest.approx(1.5, abs=0.3)
    again = [calibration.score_again(0.5, one) for one in apart]
    assert calibration_error(again, right) < 0.05
    assert known.score_again(0.4, 0.9) == 0.4


def test_disagreement_that_misleads_changes_nothing():
    apart = np.linspace(0, 1, 100)
    assert Calibration(1.0, 0.0).fit_second_look([0.5] * 100, apart, apart > 0.5).second_look is None


def test_a_checkpoint_remembers_second_looks_and_an_older_one_has_none(model, tmp_path):
    checkpoint.save(model, tmp_path, "card")
    checkpoint.calibrate(tmp_path, Calibration(2.0, -1.0))
    assert "second_look" not in (tmp_path / "config.json").read_text()
    before = checkpoint.version(tmp_path)
    assert checkpoint.read_config(tmp_path).calibration == Calibration(2.0, -1.0)
    whole = Calibration(2.0, -1.0, SecondLook(3.0, 1.5))
    checkpoint.calibrate(tmp_path, whole)
    assert checkpoint.read_config(tmp_path).calibration == whole
    assert checkpoint.version(tmp_path) != before
