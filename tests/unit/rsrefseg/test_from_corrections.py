from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from rsrefseg.datasets import Regions, Sample
from rsrefseg.errors import BadDataset
from rsrefseg.lessons import FromCorrections, Mixture
from rsrefseg.predictor import Predictor
from rsrefseg.seen import SeenFeatures


def sample(name: str, seed: int, expression: str = "the building", mask: np.ndarray | None = None) -> Sample:
    """A bright square on dark ground."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 60, (128, 128, 3), dtype=np.uint8)
    x, y = rng.integers(5, 80, 2)
    truth = np.zeros((128, 128), bool)
    truth[y : y + 40, x : x + 40] = True
    pixels[truth] = 230
    return Sample(name, Path(f"{seed}.png"), expression, "building", truth if mask is None else mask, pixels=pixels)


def some(kind: str, first_seed: int, count: int) -> list[Sample]:
    return [sample(f"{kind}-{n}", first_seed + n) for n in range(count)]


@pytest.fixture
def features(predictor: Predictor, tmp_path: Path) -> SeenFeatures:
    return SeenFeatures(predictor, tmp_path / "seen")


def lesson(seen: SeenFeatures, predictor: Predictor, new, older=(), anchor=(), **options) -> FromCorrections:
    return FromCorrections(new, older, anchor, seen, predictor.tokenizer, **options)


def drawn(made: FromCorrections, batches: int) -> list[list[str]]:
    return [[one.sample_id.partition("-")[0] for one, _ in chosen] for chosen in islice(made._choices(), batches)]


def test_a_batch_is_half_new_half_older_and_as_much_of_the_anchor(features, predictor):
    made = lesson(features, predictor, some("new", 0, 3), some("older", 10, 5), some("anchor", 20, 7))
    assert all(Counter(batch) == {"new": 2, "older": 2, "anchor": 4} for batch in drawn(made, 9))


def test_where_nothing_is_older_all_corrections_are_new(features, predictor):
    assert Counter(drawn(lesson(features, predictor, some("new", 0, 3)), 1)[0]) == {"new": 4}
    assert Counter(drawn(lesson(features, predictor, [], some("older", 0, 3)), 1)[0]) == {"older": 4}


def test_of_an_image_with_many_expressions_a_few_come_at_a_time_and_all_in_time(features, predictor):
    many = [sample(f"new-{n}", 0, f"building {n}") for n in range(9)]
    made = lesson(features, predictor, many, mixture=Mixture(corrected=1, expressions=2))
    batches = [[one.sample_id for one, _ in chosen] for chosen in islice(made._choices(), 60)]
    assert {len(batch) for batch in batches} == {2}
    assert {name for batch in batches for name in batch} == {one.sample_id for one in many}


def test_each_correction_comes_as_often_as_the_next_and_an_accepted_one_half_as_often(features, predictor):
    new = some("new", 0, 8)
    made = lesson(features, predictor, new, light={"new-0", "new-1"})
    counts = Counter(one.sample_id for chosen in islice(made._choices(), 350) for one, _ in chosen)
    assert {counts[f"new-{n}"] for n in range(2, 8)} == {200}
    assert counts["new-0"] == counts["new-1"] == 100


def test_without_corrections_there_is_no_lesson(features, predictor):
    with pytest.raises(BadDataset, match="no correction"):
        lesson(features, predictor, [], [], some("anchor", 0, 3))


def test_a_resumed_stream_goes_on_where_it_stopped(features, predictor):
    made = lesson(features, predictor, some("new", 0, 5), some("older", 10, 2))
    made.prepare(8)
    whole = list(islice(made.batches(0), 8))
    rest = list(islice(made.batches(5), 3))
    for expected, found in zip(whole[5:], rest, strict=True):
        assert torch.equal(expected.gt_masks, found.gt_masks)
        assert torch.equal(expected.features.sam, found.features.sam)
        assert all(map(torch.equal, expected.token_ids, found.token_ids))


def test_only_images_that_are_needed_are_read_and_none_is_encoded_twice(features, predictor):
    new = [*some("new", 0, 2), sample("new-9", 0, "the roof")]
    made = lesson(features, predictor, new, anchor=some("anchor", 20, 50))
    told = []
    made.prepare(3, lambda done, of: told.append((done, of)))
    assert told[-1] == (14, 14), "two with corrections, and four of the anchor in each batch"
    assert predictor.cache.use.misses == 14
    again = lesson(features, predictor, new, anchor=some("anchor", 20, 50))
    again.prepare(3)
    assert predictor.cache.use.misses == 14


def test_features_come_back_as_they_were_but_for_half_precision(features, predictor):
    one, other = sample("one", 1), sample("other", 2)
    for each in (one, other):
        features.keep(each.image_path, each.image())
    found = features.get([other.image_path, one.image_path])
    for part, mine, theirs in zip(
        found, predictor.encode(one.image()).features, predictor.encode(other.image()).features, strict=True
    ):
        torch.testing.assert_close(part, torch.cat([theirs, mine]), atol=2e-2, rtol=2e-3)


def test_what_cannot_be_used_is_left_out_of_its_batch(features, predictor):
    good, wrong = some("new", 0, 1), replace(sample("new-1", 1), truth=Regions({"size": [5, 5], "counts": [25]}, None))
    gone = Sample("new-2", Path("gone.png"), "the ship", None, np.zeros((9, 9), bool))
    wordless = sample("new-3", 3, "")
    made = lesson(features, predictor, [*good, wrong, gone, wordless])
    made.prepare(2)
    assert [len(batch.token_ids) for batch in islice(made.batches(0), 2)] == [1, 1]
    with pytest.raises(BadDataset, match="none of the corrections"):
        lesson(features, predictor, [wrong, gone], anchor=some("anchor", 20, 4)).prepare(2)


def test_a_mask_says_which_share_of_each_pixel_is_named(features, predictor):
    mask = np.zeros((128, 128), bool)
    mask[:64, :1] = True
    made = lesson(features, predictor, [sample("new", 0, mask=mask)], mixture=Mixture(corrected=1))
    made.prepare(1)
    [gt_mask] = next(made.batches(0)).gt_masks
    side = features.mask_side
    assert gt_mask.shape == (side, side)
    assert (gt_mask[: side // 2, 0] - side / 128).abs().max() < 0.01
    assert gt_mask[side // 2 :].max() == gt_mask[:, 1:].max() == 0


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_the_anchor_weighs_what_the_mixture_says(features, predictor, weight):
    new, anchor = some("new", 0, 3), some("anchor", 20, 5)
    made = lesson(features, predictor, new, anchor=anchor, mixture=Mixture(corrected=2, anchors=3, anchor=weight))
    made.prepare(1)
    batch = next(made.batches(0))
    whole = made.loss(predictor.model, batch)
    assert Counter(batch.anchored.tolist()) == {False: 2, True: 3}
    decoded = predictor.model.decode(batch.features, predictor.model.encode_text(batch.token_ids), batch.image_index)
    ours, theirs = (
        made._owed(type(decoded)(*(part[rows] for part in decoded)), batch.gt_masks[rows])
        for rows in (~batch.anchored, batch.anchored)
    )
    torch.testing.assert_close(whole, ours + weight * theirs)
