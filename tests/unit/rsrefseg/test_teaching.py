from pathlib import Path

import numpy as np
import pytest
import torch

from rsrefseg.calibration import UNCALIBRATED
from rsrefseg.datasets import Sample
from rsrefseg.gate import Contest, judge
from rsrefseg.heads import head_names, teach_heads, with_own_heads
from rsrefseg.lessons import FromCorrections
from rsrefseg.model import RSRefSeg
from rsrefseg.predictor import Predictor
from rsrefseg.results import Result, ResultFile
from rsrefseg.seen import SeenFeatures
from rsrefseg.teaching import Course, calibrated, compete, teach
from rsrefseg.tokenizer import tokenizer_for
from rsrefseg.train import Trainer
from tests.unit.rsrefseg.test_from_corrections import sample, some

COURSE = Course(least_steps=60, learning_rate=3e-3, text_rate=1.0, ema_decay=0.8)
"""Small models learn fast."""


def taught(predictor: Predictor, folder: Path, samples: list[Sample], course: Course = COURSE, on_step=None):
    lesson = FromCorrections(samples, [], [], SeenFeatures(predictor, folder / "seen"), predictor.tokenizer)
    recipe = course.recipe(len(samples))
    lesson.prepare(recipe.steps)
    return teach(predictor, lesson, recipe, folder, on_step or (lambda _step, _loss: True))


@pytest.fixture(scope="module")
def lessons() -> tuple[list[Sample], list[Sample]]:
    return some("new", 0, 24), some("held-out", 500, 12)


def test_corrections_teach_heads_that_pass_the_gate_and_leave_the_parent_as_it_was(predictor, lessons, tmp_path):
    before = {name: value.clone() for name, value in predictor.model.state_dict().items()}
    checkpoint = taught(predictor, tmp_path, lessons[0])
    assert checkpoint.parent == tmp_path
    assert all(torch.equal(value, before[name]) for name, value in predictor.model.state_dict().items())
    assert not predictor.model.image_encoder.training
    challenger = predictor.with_heads(checkpoint)
    verdict = judge(compete(predictor, challenger, lessons[1]), Contest([], []))
    assert verdict.passed, verdict.reason
    names = head_names(predictor.model)
    changed = {name for name, value in challenger.model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed <= names
    assert any(name.startswith("text_encoder.") for name in changed)
    assert "FromCorrections" not in (checkpoint / "card.md").read_text()
    assert "new corrections: 24" in (checkpoint / "card.md").read_text()


def test_a_share_of_what_was_learnt_lies_that_far_from_the_parent(predictor, lessons, tmp_path):
    lesson = FromCorrections(lessons[0], [], [], SeenFeatures(predictor, tmp_path / "seen"), predictor.tokenizer)
    recipe = Course(least_steps=2, most_steps=2, learning_rate=1e-2).recipe(1)
    lesson.prepare(recipe.steps)
    whole, half = (teach(predictor, lesson, recipe, tmp_path / "run", blend=blend) for blend in (1.0, 0.5))
    assert whole == half  # one run gone on with, blended again
    learnt, blended = (
        predictor.with_heads(folder).model.state_dict() for folder in (tmp_path / "run" / "checkpoint", half)
    )
    for name, value in predictor.model.state_dict().items():
        assert torch.allclose(blended[name].float(), (value.float() + learnt[name].float()) / 2, atol=2e-3), name
    assert any(not torch.equal(blended[name], value) for name, value in predictor.model.state_dict().items())


def test_a_word_that_was_never_taught_goes_farther_in_a_step_than_those_that_were(lessons, small, tmp_path):
    parent = Predictor(RSRefSeg(small), "parent")
    table = parent.model.text_encoder.tower.token_embedding.table.weight
    _, new, *known, _ = parent.tokenizer(lessons[0][0].expression).tolist()
    with torch.no_grad():
        table[new] = 0
    lesson = FromCorrections(lessons[0][:1], [], [], SeenFeatures(parent, tmp_path / "seen"), parent.tokenizer)
    recipe = Course(learning_rate=1e-4, text_rate=1, word_rate=10, weight_decay=0, warmup_steps=0).recipe(1)
    lesson.prepare(1)
    model = with_own_heads(parent.model)
    teach_heads(model)
    Trainer(model, recipe, lesson, tmp_path, base="base").learn([next(lesson.batches(0))])
    moved = (model.text_encoder.tower.token_embedding.table.weight - table).detach().abs().amax(1)
    assert float(moved[new]) == pytest.approx(1e-3, rel=0.01)
    assert moved[known].tolist() == pytest.approx([1e-4] * len(known), rel=0.01)


def shuffled(masks: list[np.ndarray]) -> list[np.ndarray]:
    """Each is another's."""
    return [*masks[1:], masks[0]]


def inverted(masks: list[np.ndarray]) -> list[np.ndarray]:
    """Everything but what is meant."""
    return [~mask for mask in masks]


@pytest.mark.parametrize("spoil", [shuffled, inverted])
def test_a_challenger_that_was_taught_wrong_masks_is_refused(predictor, lessons, tmp_path, spoil):
    champion = predictor.with_heads(taught(predictor, tmp_path / "champion", lessons[0]))
    masks = spoil([one.gt_mask() for one in lessons[0]])
    spoilt = [
        Sample(one.sample_id, one.image_path, one.expression, one.category, mask, pixels=one.pixels)
        for one, mask in zip(lessons[0], masks, strict=True)
    ]
    challenger = predictor.with_heads(taught(champion, tmp_path / "spoilt", spoilt))
    verdict = judge(compete(champion, challenger, lessons[1]), Contest([], []))
    assert not verdict.passed
    assert "no better" in verdict.reason
    assert verdict.held_out is not None
    assert verdict.held_out.after < verdict.held_out.before - 5


def test_a_run_that_is_left_and_one_that_is_killed_go_on_as_if_nothing_had_happened(predictor, lessons, tmp_path):
    course = Course(least_steps=30, learning_rate=1e-3)
    whole = taught(predictor, tmp_path / "whole", lessons[0][:4], course)

    seen: list[int] = []

    def leave_at_23(step: int, _loss: float) -> bool:
        seen.append(step)
        return step != 23

    class Killed(BaseException):
        pass

    def die_at_27(step: int, _loss: float) -> bool:
        seen.append(step)
        if step == 27:
            raise Killed
        return True

    broken = tmp_path / "broken"
    assert taught(predictor, broken, lessons[0][:4], course, leave_at_23) is None
    with pytest.raises(Killed):
        taught(predictor, broken, lessons[0][:4], course, die_at_27)
    resumed = taught(predictor, broken, lessons[0][:4], course, lambda step, _loss: not seen.append(step))
    assert seen == [*range(1, 24), *range(24, 28), *range(24, 31)]
    one, other = predictor.with_heads(whole), predictor.with_heads(resumed)
    for name, value in one.model.state_dict().items():
        torch.testing.assert_close(other.model.state_dict()[name], value, atol=1e-4, rtol=1e-3)
    assert taught(predictor, broken, lessons[0][:4], course, lambda *_: pytest.fail("it had ended")) == resumed


def test_the_number_of_corrections_says_how_long_it_takes_within_bounds():
    assert [Course().recipe(count).steps for count in (1, 50, 10_000)] == [60, 150, 200]


def test_a_text_tower_that_knows_the_language_stays_as_it_is(small_b, words, tmp_path):
    torch.manual_seed(0)
    large = Predictor(RSRefSeg(small_b), "random@1", tokenizer=tokenizer_for(small_b.text, words))
    before = {name: value.clone() for name, value in large.model.state_dict().items()}
    checkpoint = taught(large, tmp_path, some("new", 0, 4), Course(least_steps=2, learning_rate=1e-3))
    changed = large.with_heads(checkpoint).model.state_dict()
    assert {name.partition(".")[0] for name, value in changed.items() if not torch.equal(value, before[name])} <= {
        "prompter",
        "prompt_encoder",
        "mask_decoder",
    }


def test_both_sides_are_asked_about_what_can_be_used_and_every_image_is_told_of(predictor, tmp_path):
    seen = []
    gone = Sample("gone", Path("gone.png"), "the ship", None, np.zeros((9, 9), bool))
    samples = [sample("a", 1), sample("b", 1, "the roof"), gone, sample("c", 2)]
    contest = compete(
        predictor, predictor, samples, {"c": "harbour"}, on_samples=lambda done, of: seen.append((done, of))
    )
    assert [result.sample_id for result in contest.challenger] == ["a", "b", "c"]
    assert [contest.scene_of(result) for result in contest.champion] == ["1.png", "1.png", "harbour"]
    assert seen == [(2, 8), (3, 8), (4, 8), (6, 8), (7, 8), (8, 8)]


def test_answers_that_were_kept_are_not_asked_for_again(predictor, tmp_path):
    samples = [sample("a", 1), sample("b", 2)]
    with ResultFile(tmp_path / "kept.jsonl", {"model_version": "1"}, resume=True) as kept:
        first = compete(predictor, predictor, samples, kept=(kept, None))
    before = predictor.cache.use
    with ResultFile(tmp_path / "kept.jsonl", {"model_version": "1"}, resume=True) as kept:
        again = compete(predictor, predictor, samples, kept=(kept, kept))
    assert predictor.cache.use == before
    assert again.champion == first.champion == again.challenger


def answers(right: int, wrong: int) -> Contest:
    rng = np.random.default_rng(0)
    found = [
        Result(str(n), str(n), 9 * (n < right), 10, None, None, float(rng.uniform(0.2, 0.5 + 0.4 * (n < right))), 0.1)
        for n in range(right + wrong)
    ]
    return Contest(found, found)


def test_scores_are_calibrated_on_held_out_corrections_else_with_the_anchor_else_as_the_parents():
    nothing = Contest([], [])
    fitted, source = calibrated(answers(20, 20), nothing, UNCALIBRATED)
    assert fitted.slope > 0
    assert source == "40 answers to held-out corrections"
    _, source = calibrated(answers(5, 5), answers(20, 20), UNCALIBRATED)
    assert source == "50 answers to held-out corrections and the anchor"
    assert calibrated(answers(5, 5), nothing, fitted) == (fitted, "the parent's")
