from dataclasses import replace

import numpy as np
import pytest

from rsrefseg.contact_sheet import PREDICTED, SIDE, TRUTH, choose, draw_cases, write_contact_sheet
from rsrefseg.errors import BadRequest
from rsrefseg.pictures import read_image
from rsrefseg.predictor import Segment
from rsrefseg.results import Result
from tests.unit.rsrefseg.test_evaluate import in_memory


def result(name, intersection, union):
    return Result(name, name, intersection, union, "ship", "plain", 0.5, 0.1)


RESULTS = [result("half", 5, 10), result("right", 9, 9), result("missed", 0, 40), result("nothing", 0, 0)]


class Corner:
    def segment(self, image, expressions):
        mask = np.zeros(image.shape[:2], bool)
        mask[:4, :4] = True
        return [Segment(words, mask, 0.5, 0.5) for words in expressions]


def drawn(count=4):
    samples = in_memory(count, words="<b>the ship & its very long wake</b> " * 9)
    cases = draw_cases(Corner(), samples, [result(sample.sample_id, 1, 3) for sample in samples[1:]])
    assert list(cases) == [sample.sample_id for sample in samples[1:]]
    return list(cases.values())


def test_best_and_worst_are_chosen_and_none_is_both():
    best, worst = choose(RESULTS, 5)
    assert [one.sample_id for one in best] == ["right", "half"]
    assert [one.sample_id for one in worst] == ["missed"]


def test_truth_and_prediction_are_drawn_in_their_colours():
    picture = drawn()[0].picture
    assert picture.shape == (SIDE, SIDE, 3)
    truth = (picture == TRUTH).all(axis=2)
    assert truth[: SIDE // 5].sum() == 0
    assert truth.sum() > 200
    assert picture[20, 20].tolist() == [c // 2 for c in PREDICTED]


def test_the_smallest_object_leaves_a_trace():
    [sample] = in_memory(1)
    image = np.zeros((3000, 1500, 3), np.uint8)
    truth = np.zeros((3000, 1500), bool)
    truth[2000, 700] = True
    sample = replace(sample, pixels=image, truth=truth)
    [case] = draw_cases(Corner(), [sample], [result(sample.sample_id, 0, 1)]).values()
    assert (case.picture == TRUTH).all(axis=2).any()


def test_a_page_stands_alone_and_does_not_run_what_the_words_say(tmp_path):
    write_contact_sheet(tmp_path / "sheet.html", "tiny on <test>", drawn()[:2], drawn()[2:])
    page = (tmp_path / "sheet.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 3
    assert "&lt;b&gt;the ship &amp;" in page
    assert "<b>the ship" not in page


def test_a_picture_has_a_cell_for_every_case(tmp_path):
    write_contact_sheet(tmp_path / "sheet.png", "tiny on test", drawn()[:2], drawn()[2:])
    sheet = read_image(tmp_path / "sheet.png")
    assert sheet.shape[1] > 3 * SIDE
    assert sheet.shape[0] > 2 * SIDE


def test_other_formats_are_refused(tmp_path):
    with pytest.raises(BadRequest, match=r"a\.jpg is neither"):
        write_contact_sheet(tmp_path / "a.jpg", "", [], [])
