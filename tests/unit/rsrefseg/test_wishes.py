import math

import numpy as np
import pytest
import torch

from rsrefseg.comparison import CLEAR
from rsrefseg.expressions import Grammar
from rsrefseg.lessons.from_scratch import _imagined
from rsrefseg.lessons.wishes import wishes_of


def meanings() -> set[tuple[str, ...]]:
    rng = np.random.default_rng(0)
    return {one.meaning for _ in range(400) for one in Grammar(_imagined(rng), rng).all()}


def test_every_distinction_of_the_grammar_wants_something():
    distinct = sorted({meaning[1] for meaning in meanings() if len(meaning) > 1})
    assert len(distinct) == 4 + 5 + 4 + 2 + 1 + 9  # sides, places, halves, sizes, nearest, colours
    wishes = wishes_of([("ship", distinction) for distinction in distinct])
    wants = torch.cat([wishes.wanted, wishes.outright], dim=1)
    assert wants.abs().sum(1).min() > 0
    assert len(torch.unique(wants, dim=0)) == len(distinct)


def test_a_class_by_itself_and_all_of_it_want_nothing():
    wishes = wishes_of([("ship",), ("bridge",)])
    assert not wishes.wanted.any()
    assert not wishes.outright.any()
    assert torch.sigmoid(wishes.strictness).max() < 0.05


@pytest.mark.parametrize(("distinction", "other"), [("left", "right"), ("top", "bottom"), ("largest", "smallest")])
def test_opposites_want_the_opposite(distinction, other):
    one, two = wishes_of([("ship", distinction), ("ship", other)]).wanted
    assert torch.equal(one, -two)


def test_what_the_grammar_just_dares_to_name_is_clearly_ahead():
    wanted = wishes_of([("ship", "left"), ("ship", "top left"), ("ship", "largest"), ("ship", "nearest")]).wanted
    margins = torch.tensor([Grammar.MARGIN, 2 * Grammar.MARGIN, math.log(Grammar.LARGER) / 2, 2 * Grammar.MARGIN])
    torch.testing.assert_close(wanted.abs().amax(1) * margins, torch.full((4,), CLEAR))
