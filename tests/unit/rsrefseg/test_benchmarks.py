import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from rsrefseg.datasets import BENCHMARKS, CorruptRow, Sample, read_benchmark
from rsrefseg.datasets.layout import SampleNames
from rsrefseg.errors import BadDataset, BadImage
from rsrefseg.pictures import write_image
from tests.unit.rsrefseg import benchmark_folders as folders


def read(name, root, split="test"):
    rows = list(read_benchmark(name, root, split))
    return [row for row in rows if isinstance(row, Sample)], [row for row in rows if isinstance(row, CorruptRow)]


def test_every_benchmark_has_a_folder_to_be_tested_on():
    assert set(BENCHMARKS) == set(folders.FOLDERS)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_gives_its_images_words_and_masks(name, tmp_path):
    samples, corrupt = read(name, folders.FOLDERS[name](tmp_path))
    assert corrupt == []
    for sample, scene in zip(samples, folders.scenes(), strict=True):
        assert sample.expression == scene.words
        assert np.abs(sample.image().astype(int) - scene.image).mean() < 12  # RRSIS-D has JPEG images
        assert (sample.gt_mask() == scene.mask).all()
        assert (sample.gt_mask(scene.mask.shape) == scene.mask).all()


@pytest.mark.parametrize(
    ("name", "ids", "categories"),
    [
        ("rrsis-d", ["100", "101"], ["ship", "storagetank"]),
        ("refsegrs", ["0", "1"], [None, None]),
        ("risbench", ["test_0_0", "test_0_1"], [None, None]),
        ("socioseg", ["name_0", "name_1"], [None, None]),
        ("coco", ["7", "1"], ["ship", None]),
    ],
)
def test_samples_carry_the_benchmarks_own_names_and_classes(name, ids, categories, tmp_path):
    samples, _ = read(name, folders.FOLDERS[name](tmp_path))
    assert [sample.sample_id for sample in samples] == ids
    assert [sample.category for sample in samples] == categories


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_wrong_root_says_what_is_missing_and_what_the_layout_is(name, tmp_path):
    with pytest.raises(BadDataset, match=rf"is missing: --root for {name} is a folder ROOT with"):
        read(name, tmp_path / "elsewhere")


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_split_that_is_not_there_is_refused_with_those_that_are(name, tmp_path):
    with pytest.raises(BadDataset, match=r"no split 'tset'; it has: .*test"):
        read(name, folders.FOLDERS[name](tmp_path), "tset")


def test_an_unknown_benchmark_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(BadDataset, match="there are: coco, refsegrs"):
        read_benchmark("refcoco", tmp_path, "test")


def change_refs(root, change):
    path = root / "rrsisd/refs(unc).p"
    refs = pickle.loads(path.read_bytes())
    change(refs)
    path.write_bytes(pickle.dumps(refs))


def test_a_pickle_that_holds_code_is_refused_and_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    root = folders.rrsis_d(tmp_path)
    (root / "rrsisd/refs(unc).p").write_bytes(pickle.dumps([Bomb()]))
    with pytest.raises(BadDataset, match=r"it asks for pathlib.*plain values"):
        read("rrsis-d", root)
    assert not (tmp_path / "ran").exists()


def test_several_sentences_of_a_reference_are_samples_of_one_image(tmp_path):
    root = folders.rrsis_d(tmp_path)
    change_refs(root, lambda refs: refs[0]["sentences"].append({"sent": "the boat"}))
    samples, _ = read("rrsis-d", root)
    assert [sample.sample_id for sample in samples] == ["100", "100-2", "101"]
    assert samples[0].image_path == samples[1].image_path


def test_references_to_one_image_come_one_after_the_other(tmp_path):
    root = folders.rrsis_d(tmp_path)
    change_refs(root, lambda refs: refs.append({**refs[0], "ref_id": 300}))
    samples, _ = read("rrsis-d", root)
    assert [sample.sample_id for sample in samples] == ["100", "300", "101"]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda refs: refs[0].pop("ann_id"), "ref 100: it has no ann_id"),
        (lambda refs: refs[0].update(ann_id=99), r"ref 100: instances.json has no annotation 99"),
        (lambda refs: refs[0].update(image_id=99), r"ref 100: instances.json has no image 99"),
        (lambda refs: refs[0].update(sentences=[]), "it has no sentence"),
        (lambda refs: refs[0].update(sentences=[{"sent": " "}]), "the expression is empty"),
        (lambda refs: refs[0].update(sentences=[5]), "wrong form"),
        (lambda refs: refs.insert(0, None) or refs.pop(1), "record 0: it has no split"),
    ],
)
def test_a_corrupt_reference_is_named_and_the_rest_is_read(damage, reason, tmp_path):
    root = folders.rrsis_d(tmp_path)
    change_refs(root, damage)
    samples, [row] = read("rrsis-d", root)
    assert [sample.sample_id for sample in samples] == ["101"]
    assert reason in str(row)


def test_a_repeated_name_and_a_line_without_words_keep_the_others_apart(tmp_path):
    root = folders.refsegrs(tmp_path)
    (root / "output_phrase_test.txt").write_bytes(b"0 a road\n\n0 the car\n1\n1 \xff\xfe\n1  all  vehicles \n")
    samples, corrupt = read("refsegrs", root)
    assert [(s.sample_id, s.expression) for s in samples] == [
        ("0", "a road"),
        ("0-2", "the car"),
        ("1-2", "all  vehicles"),
    ]
    assert [str(row).split(":")[0] for row in corrupt] == [
        "output_phrase_test.txt, line 4",
        "output_phrase_test.txt, line 5",
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [(None, "cannot be read"), ("{", "no problem"), ('{"problem": " "}', "empty"), ('{"problem": 5}', "empty")],
)
def test_a_question_that_cannot_be_read_is_named(text, reason, tmp_path):
    root = folders.socioseg(tmp_path)
    question = root / "test/name_0/question.json"
    question.unlink() if text is None else question.write_text(text)
    samples, [row] = read("socioseg", root)
    assert [sample.sample_id for sample in samples] == ["name_1"]
    assert row.place == "test/name_0"
    assert reason in row.reason


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON"),
        ("[]", "not a record"),
        ('{"sent": "a", "file_name": "0.png"}', "no segmentation"),
        ('{"sent": " ", "file_name": "0.png", "segmentation": [[1, 1, 9, 1, 9, 9]]}', "empty"),
    ],
)
def test_a_corrupt_line_is_named_by_its_number(line, reason, tmp_path):
    root = folders.coco(tmp_path)
    path = root / "rrsisd_test.jsonl"
    path.write_text(path.read_text() + line + "\n")
    samples, [row] = read("coco", root)
    assert len(samples) == 2
    assert row.place == "rrsisd_test.jsonl, line 3"
    assert reason in row.reason


def test_two_files_that_fit_a_split_are_refused(tmp_path):
    root = folders.coco(tmp_path)
    (root / "other_test.jsonl").write_text("")
    with pytest.raises(BadDataset, match=r"other_test\.jsonl, rrsisd_test\.jsonl"):
        read("coco", root)


def coco_sample(root, segmentation):
    row = {"sent": "the ship", "file_name": "0.png", "segmentation": segmentation}
    (root / "rrsisd_test.jsonl").write_text(json.dumps(row) + "\n")
    [sample], _ = read("coco", root)
    return sample


def test_polygons_and_plain_run_lengths_are_read(tmp_path):
    root, scene = folders.coco(tmp_path), folders.scenes()[0]
    assert (coco_sample(root, [folders.polygon(scene.mask)]).gt_mask() == scene.mask).all()
    columns = scene.mask.T.ravel()
    edges = np.flatnonzero(np.diff(columns.astype(int))) + 1
    counts = np.diff([0, *edges, len(columns)]).tolist()
    plain = {"size": list(folders.SIZE_HW), "counts": counts}
    assert (coco_sample(root, plain).gt_mask() == scene.mask).all()


def test_compressed_run_lengths_of_any_mask_are_read(tmp_path):
    root = folders.coco(tmp_path)
    rng = np.random.default_rng(0)
    for share in (0.0, 0.01, 0.5, 0.99, 1.0):
        mask = rng.random(folders.SIZE_HW) < share
        assert (coco_sample(root, folders.rle(mask)).gt_mask() == mask).all()


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        ([], "empty"),
        ({"size": [40, 60], "counts": "12"}, "do not add up"),
        ({"size": [40, 60], "counts": ""}, "do not add up"),
        ({"size": [40, 60], "counts": "\u00e9"}, "cannot be read"),
        ({"size": [40, 60], "counts": [3000, -600]}, "do not add up"),
        ({"size": [40, 60], "counts": ["a"]}, "cannot be read"),
        ({"size": [40, 60]}, "cannot be read"),
        ({"size": [60, 40], "counts": [2400]}, "are for size"),
        ({"counts": [2400]}, "are for size"),
        ([[1, 1, 5, 5]], "three points"),
        ([["a", 1, 5, 5, 6, 6]], "cannot be read"),
        ([[1, 1, 1e12, 5, 6, 6]], "far outside"),
        ([5], "three points"),
    ],
)
def test_a_damaged_mask_is_refused_with_the_reason(segmentation, reason, tmp_path):
    with pytest.raises(BadDataset, match=reason):
        coco_sample(folders.coco(tmp_path), segmentation).gt_mask()


def test_a_mask_of_another_size_than_its_image_is_refused(tmp_path):
    root = folders.risbench(tmp_path)
    write_image(root / "mask/test_0_0.png", np.ones((4, 6), bool))
    sample = read("risbench", root)[0][0]
    with pytest.raises(BadDataset, match="mask is 6 x 4, the image 60 x 40"):
        sample.gt_mask(sample.image().shape[:2])


def test_a_missing_mask_is_refused_by_its_name(tmp_path):
    root = folders.risbench(tmp_path)
    (root / "mask/test_0_0.png").unlink()
    with pytest.raises(BadImage, match=r"mask/test_0_0\.png does not exist"):
        read("risbench", root)[0][0].gt_mask()


def test_a_name_that_no_file_can_have_is_a_bad_image(tmp_path):
    root = folders.coco(tmp_path)
    row = {"sent": "the ship", "file_name": "a\0b.png", "segmentation": [folders.polygon(folders.scenes()[0].mask)]}
    (root / "rrsisd_test.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(BadImage, match="cannot be read"):
        read("coco", root)[0][0].image()


def test_transparency_of_a_mask_file_is_no_truth(tmp_path):
    root = folders.risbench(tmp_path)
    mask = folders.scenes()[0].mask
    pixels = np.zeros((*mask.shape, 4), np.uint8)
    pixels[..., 3] = 255
    pixels[mask, 1] = 1
    write_image(root / "mask/test_0_0.png", pixels)
    assert (read("risbench", root)[0][0].gt_mask() == mask).all()


def test_sample_names_are_safe_as_file_names_and_never_the_same():
    names = SampleNames()
    taken = [names.take(wanted) for wanted in ("a/../b", "a_.._b", "", "..", "a", "a-2", "a", "é" * 300)]
    assert len(set(taken)) == len(taken)
    assert all(name.isascii() and "/" not in name and not name.startswith(".") and len(name) < 130 for name in taken)
