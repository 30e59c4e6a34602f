from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsrefseg.gate import Comparison, Contest, compare, judge
from rsrefseg.results import Result

NOTHING = Contest([], [])


def results(ious, labels=None, per_scene: int = 1) -> list[Result]:
    """One for each IoU, of a union of a thousand pixels."""
    labels = labels or ["ship"] * len(ious)
    return [
        Result(f"s{n}", f"images/{n // per_scene}.png", round(1000 * iou), 1000, label, None, 0.5, 0.1)
        for n, (iou, label) in enumerate(zip(ious, labels, strict=True))
    ]


def contest(before, after, labels=None, per_scene: int = 1) -> Contest:
    return Contest(results(before, labels, per_scene), results(after, labels, per_scene))


def spread(mean: float, n: int, seed: int = 0) -> list[float]:
    return list(np.clip(np.random.default_rng(seed).normal(mean, 0.05, n), 0, 1))


BETTER = contest(spread(0.3, 12), spread(0.5, 12, 1))
STEADY = contest([0.6] * 40, [0.59] * 40)

CASES = {
    "better and nothing forgotten": (
        BETTER,
        STEADY,
        True,
        "It is better: on 12 held-out scenes mIoU went from 30.1 to 51.2 (+21.1",
    ),
    "better without an anchor": (BETTER, NOTHING, True, "there was no anchor"),
    "nothing held out": (NOTHING, STEADY, False, "too few held-out corrections to tell: 0 of 0 scenes"),
    "few samples": (contest([0.1] * 7, [0.9] * 7), STEADY, False, "too few held-out corrections to tell: 7 of 7"),
    "few scenes": (
        contest([0.1] * 20, [0.9] * 20, per_scene=4),
        STEADY,
        False,
        "too few held-out corrections to tell: 20 of 5 scenes",
    ),
    "the same": (contest([0.5] * 9, [0.5] * 9), STEADY, False, "It is no better"),
    "worse": (contest(spread(0.5, 12), spread(0.3, 12)), STEADY, False, "It is no better"),
    "a gain by one scene": (contest([0.3] * 12, [0.3] * 11 + [0.9]), STEADY, False, "no gain to be sure of"),
    "forgetful": (
        BETTER,
        contest([0.6] * 40, [0.57] * 40),
        False,
        "It forgot what the base knew: on the anchor from 60",
    ),
    "a label collapsed": (
        contest([0.2] * 20 + [0.8] * 5, [0.9] * 20 + [0.3] * 5, ["ship"] * 20 + ["pier"] * 5),
        STEADY,
        False,
        "The label 'pier' collapsed from 80.0 to 30.0",
    ),
    "a poor label that is lost while another gains": (
        contest([0.2] * 20 + [0.19] * 5, [0.9] * 20 + [0.0] * 5, ["ship"] * 20 + ["pier"] * 5),
        STEADY,
        False,
        "The label 'pier' collapsed from 19.0 to 0.0",
    ),
    "a label that had next to nothing to lose": (
        contest([0.2] * 20 + [0.08] * 5, [0.9] * 20 + [0.035] * 5, ["ship"] * 20 + ["pier"] * 5),
        STEADY,
        True,
        "It is better",
    ),
    "a label that fell far and did not halve": (
        contest([0.2] * 20 + [0.9] * 5, [0.9] * 20 + [0.5] * 5, ["ship"] * 20 + ["pier"] * 5),
        STEADY,
        True,
        "It is better",
    ),
    "a label that halved by two of five": (
        contest([0.2] * 20 + [0.8, 0.8, 0.1, 0.1, 0.1], [0.9] * 20 + [0.1] * 5, ["ship"] * 20 + ["pier"] * 5),
        STEADY,
        True,
        "It is better",
    ),
    "a label of few scenes": (
        contest([0.2] * 60 + [0.8] * 6, [0.9] * 60 + [0.1] * 6, ["ship"] * 60 + ["pier"] * 6, per_scene=3),
        STEADY,
        True,
        "It is better",
    ),
    "a label of the anchor collapsed": (
        BETTER,
        contest([0.6] * 90 + [0.4] * 5, [0.62] * 90 + [0.1] * 5, ["ship"] * 90 + ["pier"] * 5),
        False,
        "It forgot what the base knew: the anchor's label 'pier' collapsed from 40.0 to 10.0",
    ),
    "a label of few samples": (
        contest([0.2] * 20 + [0.8] * 4, [0.9] * 20 + [0.1] * 4, ["ship"] * 20 + ["pier"] * 4),
        STEADY,
        True,
        "It is better",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_verdict_and_its_grounds(case):
    held_out, anchor, passed, said = CASES[case]
    verdict = judge(held_out, anchor)
    assert verdict.passed is passed, verdict.reason
    assert said in verdict.reason
    assert verdict.reason.endswith(".")
    assert "\n" not in verdict.reason


def test_the_numbers_are_kept_with_the_verdict():
    verdict = judge(BETTER, STEADY)
    assert verdict.held_out is not None
    assert verdict.held_out.samples == verdict.held_out.scenes == 12
    assert verdict.held_out.low < verdict.held_out.gain < verdict.held_out.high
    assert verdict.anchor == Comparison(40, 40, *(pytest.approx(x) for x in (60, 59, -1, -1)))
    assert verdict.by_label == {"ship": (pytest.approx(verdict.held_out.before), pytest.approx(verdict.held_out.after))}


def test_images_of_one_scene_fall_together():
    ious = spread(0.3, 24), spread(0.4, 24, 1)
    apart = compare(contest(*ious))
    scenes = {f"s{n}": f"scene {n // 6}" for n in range(24)}
    together = compare(replace(contest(*ious), scenes=scenes))
    assert (apart.scenes, together.scenes) == (24, 4)
    assert (apart.before, apart.after) == (together.before, together.after)


def test_who_was_asked_about_other_samples_is_not_compared():
    with pytest.raises(ValueError, match="different samples"):
        Contest(results([0.5, 0.5]), results([0.5]))


def test_the_same_results_give_the_same_interval():
    assert compare(BETTER) == compare(BETTER)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=6, max_size=30))
def test_of_two_models_at_most_one_passes_against_the_other(pairs):
    before, after = [b for b, _ in pairs], [a for _, a in pairs]
    there, back = contest(before, after, per_scene=1), contest(after, before, per_scene=1)
    assert not (judge(there, NOTHING).passed and judge(back, NOTHING).passed)


@pytest.mark.parametrize("scenes", [6, 12, 40])
def test_equal_models_pass_by_chance_in_less_than_one_of_twenty(scenes):
    passed, rounds = 0, 200
    for seed in range(rounds):
        rng = np.random.default_rng((scenes, seed))
        hard = rng.beta(1, 1, scenes).repeat(3)  # three expressions about each: they succeed and fail together
        luck = rng.normal(0, 0.12, (2, scenes)).repeat(3, axis=1) + rng.normal(0, 0.08, (2, 3 * scenes))
        before, after = np.clip(hard + luck, 0, 1)
        passed += judge(contest(before, after, per_scene=3), NOTHING).passed
    assert passed < rounds / 20


def test_a_plain_gain_is_seen_in_a_dozen_scenes():
    seen = 0
    for seed in range(50):
        rng = np.random.default_rng(seed)
        before = np.clip(rng.beta(1, 2, 12), 0, 1)
        seen += judge(contest(before, np.clip(before + rng.normal(0.2, 0.15, 12), 0, 1)), NOTHING).passed
    assert seen > 40


@pytest.mark.parametrize("labels", [1, 6])
@pytest.mark.parametrize("hits", [False, True])
def test_of_labels_that_are_as_good_as_before_hardly_any_is_said_to_have_collapsed(labels, hits):
    said, rounds = 0, 60
    for seed in range(rounds):
        rng = np.random.default_rng((labels, seed))
        n = 8 * labels
        hard = rng.beta(1, 4, n)
        luck = rng.normal(0, 0.08, (2, n))
        answers = 0.8 * (rng.random((2, n)) < 0.4) if hits else np.clip(hard + luck, 0, 1)
        names = ["ship"] * 40 + [f"label {row % labels}" for row in range(n)]
        held_out = contest([0.2] * 40 + [*answers[0]], [0.9] * 40 + [*answers[1]], names)
        said += not judge(held_out, NOTHING).passed
    assert said <= rounds / 20


def test_a_label_that_is_lost_is_mostly_found():
    found = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        before = np.clip(rng.beta(2, 5, 8), 0, 1)
        names = ["ship"] * 30 + ["pier"] * 8
        verdict = judge(contest([0.2] * 30 + [*before], [0.9] * 30 + [*(0.2 * before)], names), NOTHING)
        found += "'pier' collapsed" in verdict.reason
    assert found > 16
