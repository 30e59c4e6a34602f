import csv
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rsrefseg import checkpoint
from rsrefseg.datasets import LabelledImage, Sample
from rsrefseg.errors import BadDataset, BadRequest
from rsrefseg.expressions import Thing
from rsrefseg.lessons import Curriculum, FromSamples, FromScratch, Phase
from rsrefseg.model import RSRefSeg
from rsrefseg.predictor import Predictor
from rsrefseg.presets import Preset
from rsrefseg.tokenizer import Tokenizer
from rsrefseg.train import TINY_RECIPE, Recipe, Trainer, train

QUICK = Curriculum(phases=(Phase(2, 64, (0.9, 1.0), 4, 3, 0), Phase(4, 64, (0.9, 1.0), 4, 3, 2)), word_steps=2)


def squares(count: int = 6) -> list[LabelledImage]:
    """Bright squares on dark ground, left and right: something that can be learnt in seconds."""
    images = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        image = rng.integers(0, 60, (128, 128, 3), dtype=np.uint8)
        things = []
        for x in (10, 80):
            y = int(rng.integers(5, 85))
            mask = np.zeros((128, 128), bool)
            mask[y : y + 36, x : x + 36] = True
            image[mask] = 230
            things.append(Thing("building", mask))
        images.append(LabelledImage.of(image, things, ("building",)))
    return images


def square(name: str, seed: int, readable: bool = True) -> Sample:
    """A sample in memory, or one whose file is not there."""
    labelled = squares(seed + 1)[-1]
    pixels = labelled.image if readable else None
    return Sample(name, Path(name), "the building", "building", labelled.ids > 0, pixels=pixels)


def scratch_trainer(small: Preset, out: Path, curriculum: Curriculum = QUICK, **recipe) -> Trainer:
    torch.manual_seed(1)
    lesson = FromScratch(curriculum, [(squares(), 1.0)], {"seen": squares()}, 32, seed=3)
    hurried = {"warmup_steps": 2, **recipe, "steps": curriculum.steps}
    return Trainer(RSRefSeg(small), replace(TINY_RECIPE, **hurried), lesson, out)


def samples_trainer(preset: Preset, out: Path, samples=None, images: int = 2, **recipe) -> Trainer:
    torch.manual_seed(1)
    samples = samples or [square(str(seed), seed) for seed in range(6)]
    lesson = FromSamples(samples, {}, preset, Tokenizer(12) if not preset.lora else letters, images=images, seed=3)
    return Trainer(RSRefSeg(preset), Recipe(**{"steps": 5, "warmup_steps": 2, **recipe}), lesson, out)


def letters(expression: str) -> torch.Tensor:
    return torch.tensor([*(ord(letter) % 47 + 3 for letter in expression[:8]), 1])


MAKERS = {"from scratch": (scratch_trainer, "small"), "adapters": (samples_trainer, "small_b")}


@pytest.mark.parametrize("lesson", MAKERS)
def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(lesson, request, tmp_path):
    make, preset = MAKERS[lesson][0], request.getfixturevalue(MAKERS[lesson][1])
    unbroken = make(preset, tmp_path / "a", ema_decay=0.9)
    unbroken.begin()
    losses = [unbroken.learn(batches) for batches in unbroken.batches()]

    first = make(preset, tmp_path / "b", ema_decay=0.9)
    first.begin()
    before = [first.learn(batches) for batches, _ in zip(first.batches(), range(3), strict=False)]
    first.keep()
    second = make(preset, tmp_path / "b", ema_decay=0.9)
    if preset.lora:  # what never trains is read again from where it came
        frozen = {k: v for k, v in first.model.state_dict().items() if k not in first.model.learnt_names()}
        second.model.load_state_dict(frozen, strict=False)
    assert second.resume()
    after = [second.learn(batches) for batches in second.batches()]
    assert before + after == pytest.approx(losses, abs=1e-6)
    with unbroken.averaged() as expected, second.averaged() as found:
        for name, value in expected.state_dict().items():
            torch.testing.assert_close(found.state_dict()[name], value, atol=1e-6, rtol=1e-5)


def test_a_run_that_took_other_steps_is_not_gone_on_with(small, tmp_path):
    scratch_trainer(small, tmp_path, muon=False).keep()
    with pytest.raises(BadRequest, match="took no steps by Muon: choose another folder"):
        scratch_trainer(small, tmp_path).resume()


def test_who_prepares_batches_does_not_change_them():
    here, elsewhere = (FromScratch(QUICK, [(squares(), 1.0)], {}, 32, seed=3, workers=n).batches(1) for n in (0, 1))
    for one, same in zip(here, elsewhere, strict=True):
        assert torch.equal(one.images, same.images)
        assert torch.equal(one.gt_masks, same.gt_masks)
        assert torch.equal(one.tokens, same.tokens)


def test_a_wider_curriculum_has_more_images_in_as_many_steps():
    wide = QUICK.wide(3)
    assert wide.steps == QUICK.steps
    assert [wide.phase_of(step).images for step in (0, 1, 2, 5)] == [12] * 4
    assert [wide.phase_of(step).drawn for step in (0, 1, 2, 5)] == [0, 0, 2, 2]


def test_training_from_scratch_teaches(small, tmp_path):
    curriculum = Curriculum(phases=(Phase(160, 128, (0.95, 1.0), 4, 4, 2),), word_steps=60)
    trainer = scratch_trainer(small, tmp_path, curriculum, warmup_steps=10, learning_rate=2e-3, ema_decay=0.9)
    scores = train(trainer, tmp_path)
    assert scores["seen"].overall.mIoU > 45
    predictor = Predictor.from_checkpoint(tmp_path / "checkpoint")
    [both] = predictor.segment(squares()[0].image, ["all buildings"])
    assert both.mask[squares()[0].ids > 0].mean() > 0.7


def test_what_reads_the_image_features_goes_farther_in_a_step_than_the_rest(small, tmp_path):
    trainer = scratch_trainer(small, tmp_path, warmup_steps=0, learning_rate=1e-4, weight_decay=0.0, reading_rate=3.0)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.learn(next(trainer.batches()))
    after = trainer.model.state_dict()
    moved = {name: float((after[name] - value).abs().max()) for name, value in before.items()}
    assert moved["image_encoder.traits.1.weight"] == pytest.approx(3e-4, rel=0.01)
    assert moved["image_encoder.to_clip.1.bias"] == pytest.approx(1e-4, rel=0.01)


def test_a_run_leaves_its_curves_and_a_card_behind(small, tmp_path):
    train(scratch_trainer(small, tmp_path), tmp_path, score_every=3)
    with (tmp_path / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["3", "6"]
    assert all(float(row["mIoU seen"]) >= 0 for row in rows)
    assert (tmp_path / "curves.png").stat().st_size > 1000
    card = (tmp_path / "checkpoint/card.md").read_text()
    assert "mIoU" in card
    assert "learning_rate" in card


def test_the_checkpoint_that_is_left_is_the_best_and_not_the_last(small, tmp_path):
    trainer = scratch_trainer(small, tmp_path)
    trainer.begin()
    trainer.score(None, "first {scores}")
    trainer.best = 101.0
    trainer.score(None, "second {scores}")
    assert (tmp_path / "checkpoint/card.md").read_text().startswith("first")


def test_the_words_that_training_never_says_say_nothing(small, tmp_path):
    trainer = scratch_trainer(small, tmp_path)
    trainer.begin()
    table = trainer.model.text_encoder.tower.token_embedding.table.weight
    said = Tokenizer(32)("the leftmost building")
    assert (table[said].abs().sum(1) > 0).all()
    assert (table.abs().sum(1) > 0).float().mean() < 0.05  # slips of the finger included


def pooled_words(model: RSRefSeg) -> torch.Tensor:
    words = ("the leftmost building", "the house on the far left", "the rightmost building", "all ships")
    with torch.no_grad():
        pooled = model.text_encoder.eval()([Tokenizer(32)(one) for one in words]).pooled
    return torch.nn.functional.normalize(pooled, dim=1)


def test_expressions_of_one_meaning_point_the_same_way_before_any_image(small):
    torch.manual_seed(1)
    model = RSRefSeg(small)
    FromScratch(replace(QUICK, word_steps=1200), [], {}, 32, seed=3).begin(model)
    pooled = pooled_words(model)
    same, _, other_class = (pooled[0] @ pooled[1:].T).tolist()  # so small a tower can say no more
    assert same > other_class
    left, _, right, _ = model.prompter.comparison.wanted(pooled * pooled.shape[1] ** 0.5)[:, 0].tolist()
    assert left < right  # of x


def test_in_the_shipped_weights_they_still_do():
    pooled = pooled_words(checkpoint.load(checkpoint.shipped("tiny")))
    same, other_side, other_class = (pooled[0] @ pooled[1:].T).tolist()
    assert same > 0.95
    assert 0.9 > other_side > other_class + 0.3


def test_who_goes_on_from_trained_weights_keeps_their_words_and_sees_large_images_only(small):
    going_on = Curriculum().going_on()
    assert [phase.size for phase in going_on.phases] == [448, 768]
    assert going_on.at(0.001).word_steps == 0
    model = RSRefSeg(small)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    FromScratch(going_on, [(squares(4), 1.0)], {}, 32, seed=3).begin(model)
    assert all((value == before[name]).all() for name, value in model.state_dict().items())


def test_only_what_trains_of_a_large_preset_is_kept(small_b, tmp_path):
    trainer = samples_trainer(small_b, tmp_path)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    train(trainer, tmp_path, tokenizer=letters)
    learnt = trainer.model.learnt_names()
    moved = {name for name, value in trainer.model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved
    assert moved <= learnt
    assert set(torch.load(tmp_path / "training.pt", weights_only=True)["model"]) == learnt
    assert checkpoint.read_config(tmp_path / "checkpoint").holds == "adapters"


def test_a_large_preset_learns_by_its_adapters(small_b, tmp_path):
    trainer = samples_trainer(small_b, tmp_path, steps=40, learning_rate=3e-3)
    losses = [trainer.learn(batches) for batches in trainer.batches()]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_two_small_batches_make_the_step_of_a_large_one(small_b, tmp_path):
    small_b = replace(small_b, lora=replace(small_b.lora, dropout=0.0))
    four = [square(str(seed), seed) for seed in range(4)]
    large = samples_trainer(small_b, tmp_path / "a", four, images=4, freeze_norms=True, precision="float32")
    split = samples_trainer(
        small_b, tmp_path / "b", four, images=2, accumulate=2, freeze_norms=True, precision="float32"
    )
    for _ in range(2):
        assert split.learn(next(split.batches())) == pytest.approx(large.learn(next(large.batches())), abs=1e-5)


def test_recomputing_activations_changes_no_gradient(small_b, tmp_path):
    kept, recomputed = (
        samples_trainer(small_b, tmp_path / name, recompute=value, precision="float32")
        for name, value in (("a", False), ("b", True))
    )
    for _ in range(2):
        assert recomputed.learn(next(recomputed.batches())) == pytest.approx(kept.learn(next(kept.batches())), abs=1e-6)


def test_a_sample_that_cannot_be_read_is_left_out_and_said(small_b, tmp_path, caplog):
    samples = [square("torn", 0, readable=False), *(square(str(seed), seed) for seed in range(3))]
    trainer = samples_trainer(small_b, tmp_path, samples, images=4)
    [batch] = next(trainer.batches())
    assert len(batch.images) == len(batch.token_ids) == 3
    [record] = [record for record in caplog.records if record.getMessage() == "sample left out"]
    assert record.sample_id == "torn"
    assert "torn" in record.reason


def test_a_data_set_that_is_mostly_unreadable_stops_the_run(small_b, tmp_path):
    samples = [square(str(seed), seed, readable=seed < 2) for seed in range(6)]
    with pytest.raises(BadDataset, match="more than half"):
        for _ in zip(samples_trainer(small_b, tmp_path, samples).batches(), range(5), strict=False):
            pass


def test_fewer_samples_than_a_batch_are_refused(small_b, tmp_path):
    with pytest.raises(BadDataset, match="--batch"):
        samples_trainer(small_b, tmp_path, [square("only", 0)], images=2)


def test_a_run_is_not_started_over_by_accident(small, tmp_path):
    (tmp_path / "training.pt").write_bytes(b"")
    with pytest.raises(BadRequest, match="--resume"):
        train(scratch_trainer(small, tmp_path), tmp_path)


def test_a_run_of_another_preset_is_not_resumed(small, small_b, tmp_path):
    scratch_trainer(small, tmp_path).keep()
    with pytest.raises(BadRequest, match="another preset"):
        samples_trainer(small_b, tmp_path).resume()


def test_what_a_killed_run_logged_too_much_is_logged_once(small, tmp_path):
    first = scratch_trainer(small, tmp_path)
    train(first, tmp_path, score_every=3)
    state = torch.load(tmp_path / "training.pt", weights_only=True)
    torch.save({**state, "step": 3}, tmp_path / "training.pt")
    train(scratch_trainer(small, tmp_path), tmp_path, resume=True, score_every=3)
    with (tmp_path / "log.csv").open(newline="") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["3", "6"]


def test_the_learning_rate_warms_up_and_falls():
    recipe = Recipe(steps=100, warmup_steps=10, learning_rate=1.0)
    rates = [recipe.rate_at(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.109)
    assert max(rates) == pytest.approx(1.0)
    assert rates[-1] < 0.02


def test_resuming_reads_no_code_from_the_file(small, tmp_path):
    torch.save({"model": print}, tmp_path / "training.pt")
    with pytest.raises(Exception, match=r"(?i)weights"):
        scratch_trainer(small, tmp_path).resume()


TOGETHER = """
import sys, torch
from pathlib import Path
torch.set_num_threads(1)
sys.path[:0] = sys.argv[1:3]
from test_train import square, letters
from rsrefseg.lessons import FromSamples
from rsrefseg.model import RSRefSeg
from rsrefseg.train import Recipe, Team, Trainer
team = Team.from_torchrun("cpu")
preset = torch.load(sys.argv[3], weights_only=False)
torch.manual_seed(1)
lesson = FromSamples(
    [square(str(s), s) for s in range(4)], {}, preset, letters, images=2, seed=3, rank=team.rank, size=team.size
)
recipe = Recipe(steps=3, warmup_steps=1, freeze_norms=True, precision="float32")
trainer = Trainer(RSRefSeg(preset), recipe, lesson, Path(sys.argv[4]), team)
losses = [trainer.learn(b) for b in trainer.batches()]
if team.leads:
    print(losses)
"""


def test_two_processes_take_the_steps_of_one_with_twice_the_batch(small_b, tmp_path):
    small_b = replace(small_b, lora=replace(small_b.lora, dropout=0.0))
    torch.save(small_b, tmp_path / "preset.pt")
    (tmp_path / "together.py").write_text(TOGETHER)
    here = Path(__file__)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    arguments = [tmp_path / "together.py", here.parents[3], here.parent, tmp_path / "preset.pt", tmp_path / "run"]
    ran = subprocess.run(
        [*command, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    four = [square(str(seed), seed) for seed in range(4)]
    alone = samples_trainer(
        small_b, tmp_path, four, images=4, steps=3, warmup_steps=1, freeze_norms=True, precision="float32"
    )
    assert eval(ran.stdout) == pytest.approx([alone.learn(b) for b in alone.batches()], abs=1e-5)
