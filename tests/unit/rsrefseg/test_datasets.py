import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from rsrefseg.datasets import (
    KeptImages,
    LabelledImage,
    ReferringBatches,
    drawn_scenes,
    read_coco_instances,
    resized_images,
)
from rsrefseg.datasets.referring import WHOLE, misspelt
from rsrefseg.errors import BadRequest
from rsrefseg.pictures import write_image
from rsrefseg.tokenizer import Tokenizer


@pytest.fixture
def labelled(things, image):
    square = np.random.default_rng(0).integers(0, 256, (100, 100, 3), dtype=np.uint8)
    return LabelledImage.of(square, things, ("ship", "bridge", "harbor"))


def test_packing_and_unpacking_keeps_the_things(labelled, things):
    for before, after in zip(things, labelled.things(), strict=True):
        assert (before.mask == after.mask).all()
        assert (before.category, before.colour) == (after.category, after.colour)


def test_batches_are_the_same_whenever_they_are_taken_up_again(labelled):
    batches = ReferringBatches([([labelled], 1.0)], Tokenizer(32), 4, 2, expressions_per_image=3, drawn_per_image=1)
    unbroken = [batches.batch(number, 64, (0.8, 1.0)) for number in range(3)][2]
    resumed = batches.batch(2, 64, (0.8, 1.0))
    assert (unbroken.images == resumed.images).all()
    assert (unbroken.gt_masks == resumed.gt_masks).all()
    assert [ids.tolist() for ids in unbroken.token_ids] == [ids.tolist() for ids in resumed.token_ids]


def test_a_batch_has_a_mask_for_each_expression_and_an_image_for_each_mask(labelled):
    batches = ReferringBatches([([labelled], 1.0)], Tokenizer(32), 4, 3, expressions_per_image=4, drawn_per_image=2)
    batch = batches.batch(0, 64, (0.7, 1.0))
    n = len(batch.token_ids)
    assert batch.images.shape == (3, 3, 64, 64)
    assert batch.gt_masks.shape == (n, 16, 16)
    assert batch.counted.shape == (3, 16, 16)
    drawn = batch.image_index[batch.drawn].tolist()
    assert all(drawn.count(image) == min(2, batch.image_index.tolist().count(image)) for image in range(3))
    assert batch.image_index.tolist() == sorted(batch.image_index.tolist())
    assert batch.images.dtype == torch.uint8
    assert batch.images.min() < batch.images.max()


def test_what_a_cut_leaves_of_an_object_is_not_counted(things):
    whole = np.zeros((100, 100, 3), np.uint8)
    labelled = LabelledImage.of(whole, things, ("ship", "bridge"))
    batches = ReferringBatches([([labelled], 1.0)], Tokenizer(32), 0, 8, expressions_per_image=1, drawn_per_image=1)
    batch = batches.batch(0, 64, (0.3, 0.5))
    assert batch.counted.min() == 0
    assert (batch.gt_masks[batch.counted[batch.image_index] == 0] < WHOLE).all()


def test_a_slip_of_the_finger_changes_one_long_word_and_leaves_it_readable():
    rng = np.random.default_rng(0)
    for _ in range(200):
        the, left, airplane = misspelt("the left airplane", rng).split()
        assert (the, left) == ("the", "left")
        assert airplane[0] == "a"
        assert abs(len(airplane) - len("airplane")) <= 1
        assert len(set(airplane) - set("airplane")) <= 1
    assert misspelt("the car", rng) == "the car"


def test_other_processes_draw_the_same_scenes_and_map_the_same_files(tmp_path):
    here, elsewhere = (drawn_scenes(tmp_path / str(n), first_seed=7, count=3, size=96, workers=n) for n in (0, 2))
    handed = pickle.dumps(elsewhere)
    assert len(handed) < 1000
    for one, same in zip(here, pickle.loads(handed), strict=True):
        assert (one.image == same.image).all()
        assert (one.ids == same.ids).all()
        assert (one.categories, one.colours, one.vocabulary) == (same.categories, same.colours, same.vocabulary)


def test_kept_images_are_kept_anew_when_others_are_asked_for(labelled, tmp_path):
    first = KeptImages.keep(tmp_path, {"of": "first"}, 1, 100, [labelled])
    assert first[0].categories == labelled.categories
    with pytest.raises(ZeroDivisionError):
        KeptImages.keep(tmp_path, {"of": "second"}, 1, 100, (1 / 0 for _ in range(1)))
    assert KeptImages.keep(tmp_path, {"of": "first"}, 1, 100, [labelled])[0].colours == labelled.colours


def test_images_that_changed_since_they_were_kept_are_kept_as_they_are_now(labelled, tmp_path):
    for shade in (10, 20):
        changed = replace(labelled, image=np.full_like(labelled.image, shade))
        [kept] = resized_images(tmp_path, [changed], 64)
        assert (kept.image == shade).all()


def test_drawn_scenes_are_drawn_once(tmp_path, monkeypatch):
    first = drawn_scenes(tmp_path, first_seed=7, count=2, size=128)
    monkeypatch.setattr("rsrefseg.datasets.kept.draw_scene", None)
    second = drawn_scenes(tmp_path, first_seed=7, count=2, size=128)
    assert len(second) == 2
    assert (first[1].image == second[1].image).all()
    assert first[1].categories == second[1].categories


def coco(folder, segmentation):
    write_image(folder / "images" / "a.png", np.full((20, 30, 3), 90, np.uint8))
    table = {
        "images": [{"id": 5, "file_name": "a.png", "height": 20, "width": 30}],
        "categories": [{"id": 2, "name": "storage_tank"}],
        "annotations": [{"image_id": 5, "category_id": 2, "segmentation": segmentation}],
    }
    (folder / "dev.json").write_text(json.dumps(table))


@pytest.mark.parametrize(
    "segmentation", [[[5, 5, 15, 5, 15, 15, 5, 15]], {"size": [20, 30], "counts": [105] + [10, 10] * 9 + [10, 305]}]
)
def test_coco_polygons_and_run_lengths_are_read(tmp_path, segmentation):
    coco(tmp_path, segmentation)
    [labelled] = read_coco_instances(tmp_path, "dev")
    [thing] = labelled.things()
    assert thing.category == "storage tank"
    assert thing.mask[7:13, 7:13].all()
    assert 90 <= thing.mask.sum() <= 130


def test_a_missing_annotation_file_says_what_the_folder_needs(tmp_path):
    with pytest.raises(BadRequest, match=r"train.json and images/"):
        list(read_coco_instances(tmp_path, "train"))


def test_a_missing_image_is_named(tmp_path):
    coco(tmp_path, [[5, 5, 15, 5, 15, 15]])
    (tmp_path / "images" / "a.png").unlink()
    with pytest.raises(BadRequest, match=r"a\.png does not exist"):
        list(read_coco_instances(tmp_path, "dev"))
