import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from rsrefseg import checkpoint
from rsrefseg.cli import main
from rsrefseg.datasets import LabelledImage, Sample, read_benchmark
from rsrefseg.errors import BadDataset, BadRequest
from rsrefseg.evaluate import TOGETHER, evaluate, evaluate_samples
from rsrefseg.pictures import read_image, write_image
from rsrefseg.predictor import ImageEmbedding, Segment
from rsrefseg.results import ResultFile
from tests.unit.rsrefseg import benchmark_folders as folders

ABOUT = {"model_version": "bright@0", "dataset": "coco", "split": "test"}


class BrightBlocks:
    """Finds what is bright, whatever the words, but not what words of one letter ask for."""

    version = "bright@0"

    def __init__(self):
        self.encoded = 0
        self.asked = []

    def encode(self, image):
        self.encoded += 1
        return ImageEmbedding(image, image.shape[:2])

    def segment(self, image, expressions):
        if not isinstance(image, ImageEmbedding):
            image = self.encode(image)
        if "?" in expressions:
            raise BadRequest("the expression is empty")
        self.asked.append(list(expressions))
        bright = image.features.min(axis=2) > 150
        return [Segment(words, bright & (len(words) > 1), 0.9, 0.9) for words in expressions]


def samples(root, name="coco"):
    return list(read_benchmark(name, folders.FOLDERS[name](root), "test"))


def in_memory(count, image="one", words="the ship"):
    """Samples of one image; every second truth is only the left half of what is bright."""
    pixels = np.zeros((20, 20, 3), np.uint8)
    pixels[5:15, 5:15] = 200
    made = []
    for number in range(count):
        truth = np.zeros((20, 20), bool)
        truth[5:15, 5 : 15 if number % 2 == 0 else 10] = True
        made.append(Sample(f"{image}-{number}", Path(image), words, "ship", truth, kind="plain", pixels=pixels))
    return made


@pytest.mark.parametrize("name", sorted(folders.FOLDERS))
def test_a_model_that_is_right_scores_a_hundred_on_every_benchmark(name, tmp_path):
    result = evaluate_samples(BrightBlocks(), samples(tmp_path, name))
    assert (result.overall.n, result.images, result.corrupt) == (2, 2, 0)
    assert result.overall.mIoU > 98  # JPEG blurs edges
    assert result.images_per_s > 0


def test_an_image_is_encoded_once_for_all_that_is_asked_about_it():
    model = BrightBlocks()
    result = evaluate_samples(model, [*in_memory(TOGETHER + 3), *in_memory(1, "two")])
    assert model.encoded == 2
    assert [len(asked) for asked in model.asked] == [TOGETHER, 3, 1]
    assert result.overall.n == TOGETHER + 4
    assert result.images == 2


def test_scores_are_broken_down_by_class_and_kind():
    odd = [replace(sample, category="bridge", kind="size") for sample in in_memory(2)[1:]]
    result = evaluate_samples(BrightBlocks(), [*in_memory(1), *odd])
    assert {name: scores.mIoU for name, scores in result.by_category.items()} == {"bridge": 50.0, "ship": 100.0}
    assert {name: scores.mIoU for name, scores in result.by_kind.items()} == {"plain": 100.0, "size": 50.0}
    assert result.overall.mIoU == 75.0


def test_the_grammars_images_are_scored_by_the_same_road(things):
    image = np.zeros((100, 100, 3), np.uint8)
    image[things[3].mask] = 200
    result = evaluate(BrightBlocks(), [LabelledImage.of(image, things[3:], ("bridge",))] * 2, per_image=1)
    assert result.rounded() == {"n": 2, "mIoU": 100.0, "oIoU": 100.0, "P@0.5": 100.0, "by_kind": {"plain": 100.0}}


def corrupt_coco(root):
    rows = samples(root)
    (root / "images/0.png").unlink()
    return rows


def test_a_missing_image_is_named_counted_and_left_out(tmp_path):
    told = []
    result = evaluate_samples(BrightBlocks(), corrupt_coco(tmp_path), on_corrupt=told.append)
    assert (result.overall.n, result.corrupt) == (1, 1)
    assert [row.place for row in told] == ["rrsisd_test.jsonl, line 1"]
    assert "0.png does not exist" in told[0].reason


def test_a_mask_of_another_size_and_words_the_model_refuses_are_corrupt(tmp_path):
    rows = samples(tmp_path, "risbench")
    write_image(tmp_path / "mask/test_0_0.png", np.ones((4, 6), bool))
    told = []
    refused = [replace(one, expression="?" if index == 1 else "the ship") for index, one in enumerate(in_memory(3))]
    result = evaluate_samples(BrightBlocks(), [*rows, *refused], on_corrupt=told.append)
    assert (result.overall.n, result.corrupt) == (3, 2)
    assert "the mask is 6 x 4, the image 60 x 40" in str(told[0])
    assert str(told[1]) == "one-1: the expression is empty"


def test_a_set_of_nothing_but_corrupt_rows_has_no_score(tmp_path):
    with pytest.raises(BadDataset, match="no usable sample, and 1 corrupt"):
        evaluate_samples(BrightBlocks(), corrupt_coco(tmp_path)[:1], on_corrupt=lambda _: None)


class KilledError(Exception):
    pass


def test_a_killed_run_goes_on_where_it_stopped_and_gives_the_same_figures(tmp_path):
    rows = [row for number in range(6) for row in in_memory(2, f"image{number}")]
    unbroken = evaluate_samples(BrightBlocks(), rows)

    def killed():
        yield from rows[:7]
        raise KilledError

    path = tmp_path / "out/results.jsonl"
    with pytest.raises(KilledError), ResultFile(path, ABOUT, resume=False) as kept:
        evaluate_samples(BrightBlocks(), killed(), kept=kept)
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])  # the kill cut the last line short
    model = BrightBlocks()
    with ResultFile(path, ABOUT, resume=True) as kept:
        resumed = evaluate_samples(model, rows, kept=kept)
    assert len(kept.done) == whole.count(b"\n") - 2
    assert sum(map(len, model.asked)) == len(rows) - len(kept.done)
    assert resumed.overall == unbroken.overall
    assert resumed.by_kind == unbroken.by_kind
    assert resumed.ci95 == unbroken.ci95
    assert path.read_bytes().count(b"\n") == len(rows) + 1
    with ResultFile(path, ABOUT, resume=True) as kept:
        assert evaluate_samples(None, rows, kept=kept).overall == unbroken.overall


@pytest.mark.parametrize("key", sorted(ABOUT))
def test_results_of_another_model_dataset_or_split_are_not_mixed_in(key, tmp_path):
    with ResultFile(tmp_path / "results.jsonl", ABOUT, resume=False):
        pass
    with pytest.raises(BadRequest, match=rf"{key} {ABOUT[key]} and not other: choose another --out"):
        ResultFile(tmp_path / "results.jsonl", {**ABOUT, key: "other"}, resume=True)


def test_results_of_samples_that_the_set_does_not_have_are_refused(tmp_path):
    with ResultFile(tmp_path / "results.jsonl", ABOUT, resume=False) as kept:
        evaluate_samples(BrightBlocks(), in_memory(2), kept=kept)
    with (
        ResultFile(tmp_path / "results.jsonl", ABOUT, resume=True) as kept,
        pytest.raises(BadDataset, match="another set, which has sample one-0"),
    ):
        evaluate_samples(BrightBlocks(), in_memory(2, "two"), kept=kept)


@pytest.mark.parametrize("content", [b"no JSON\n", b"[]\n", json.dumps(ABOUT).encode() + b"\n{}\n"])
def test_a_damaged_file_of_results_is_refused_not_overwritten(content, tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_bytes(content)
    with pytest.raises(BadRequest, match="choose another --out"):
        ResultFile(path, ABOUT, resume=True)
    assert path.read_bytes() == content


def test_results_are_not_begun_anew_by_accident(tmp_path):
    with ResultFile(tmp_path / "results.jsonl", ABOUT, resume=False):
        pass
    with pytest.raises(BadRequest, match="--resume"):
        ResultFile(tmp_path / "results.jsonl", ABOUT, resume=False)


def test_masks_are_kept_by_sample_at_the_images_size_and_made_up_for_when_missing(tmp_path):
    rows = samples(tmp_path)
    with ResultFile(tmp_path / "results.jsonl", ABOUT, resume=False) as kept:
        evaluate_samples(BrightBlocks(), rows, kept=kept)
    with ResultFile(tmp_path / "results.jsonl", ABOUT, resume=True) as kept:
        result = evaluate_samples(BrightBlocks(), rows, kept=kept, masks=tmp_path / "masks")
    assert result.overall.n == 2
    for sample, scene in zip(rows, folders.scenes(), strict=True):
        assert (read_image(tmp_path / f"masks/{sample.sample_id}.png") == 255 * scene.mask[..., None]).all()


@pytest.fixture
def weights(model, tmp_path):
    checkpoint.save(model, tmp_path / "checkpoint", "card")
    return tmp_path / "checkpoint"


def run(*arguments):
    return CliRunner().invoke(main, ["evaluate", *map(str, arguments)])


def test_the_command_prints_one_object_and_keeps_all_it_is_asked_to(weights, tmp_path):
    root = folders.rrsis_d(tmp_path)
    common = ("--dataset", "rrsis-d", "--root", root, "--checkpoint", weights, "--json", "--out", tmp_path / "out")
    first = run(*common, "--save-masks", tmp_path / "masks", "--contact-sheet", tmp_path / "sheet.html")
    assert first.exit_code == 0, first.output
    figures = json.loads(first.stdout)
    assert {"n", "oIoU", "mIoU", "P@0.5", "P@0.6", "P@0.7", "P@0.8", "P@0.9", "images_per_s"} <= set(figures)
    assert (figures["n"], figures["corrupt"], set(figures["by_category"])) == (2, 0, {"ship", "storagetank"})
    assert set(figures["ci95"]) == {"oIoU", "mIoU", "P@0.5"}
    assert sorted(path.name for path in (tmp_path / "masks").iterdir()) == ["100.png", "101.png"]
    assert json.loads((tmp_path / "out/scores.json").read_text()) == figures
    assert "The ship on the left" in (tmp_path / "sheet.html").read_text()
    again = json.loads(run(*common, "--resume").stdout)
    assert again == figures


def test_corrupt_rows_are_named_on_standard_error_or_stop_the_run(weights, tmp_path):
    corrupt_coco(tmp_path)
    common = ("--dataset", "coco", "--root", tmp_path, "--checkpoint", weights)
    skipped = run(*common, "--json")
    assert skipped.exit_code == 0
    assert json.loads(skipped.stdout)["corrupt"] == 1
    assert "left out: rrsisd_test.jsonl, line 1" in skipped.stderr
    stopped = run(*common, "--on-corrupt", "stop")
    assert stopped.exit_code == 1
    assert "rrsisd_test.jsonl, line 1" in stopped.stderr
    assert "1 corrupt rows left out" in run(*common).stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--dataset", "coco"), "needs --root DIR"),
        (("--dataset", "scenes", "--resume"), "--resume needs --out DIR"),
        (("--dataset", "scenes", "--contact-sheet", "a.jpg"), ".png or an .html"),
        (("--dataset", "rrsis-d", "--root", "nowhere"), "refs(unc).p is missing"),
        (("--dataset", "instances", "--root", "nowhere"), "nowhere is missing"),
    ],
)
def test_a_wrong_call_gets_one_sentence(arguments, words, weights):
    result = run(*arguments, "--checkpoint", weights)
    assert result.exit_code in (1, 2)
    assert words in result.stderr
    assert "Traceback" not in result.output
