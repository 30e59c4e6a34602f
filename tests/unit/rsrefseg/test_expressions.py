import numpy as np
import pytest

from rsrefseg.expressions import SHORTHAND, SYNONYMS, Grammar, Referral, Thing, plural


def said(things: tuple[Thing, ...], seeds: int = 40) -> list[Referral]:
    return [referral for seed in range(seeds) for referral in Grammar(things, np.random.default_rng(seed)).all()]


def meaning(things: tuple[Thing, ...], *words: str) -> set[tuple[int, ...]]:
    return {r.indices for r in said(things) if all(word in r.expression for word in words)}


@pytest.mark.parametrize(
    ("words", "indices"),
    [
        (["left"], (0,)),
        (["rightmost"], (2,)),
        (["largest"], (2,)),
        (["red"], (0,)),
        (["white"], (1, 2)),
        (["all ", "s"], (0, 1, 2)),
        (["nearest"], (0,)),
    ],
)
def test_words_name_what_the_masks_show(things, words, indices):
    ships = {r.indices for r in said(things) if all(w in r.expression for w in words) and 3 not in r.indices}
    if words == ["all ", "s"]:
        assert (0, 1, 2) in ships
    else:
        assert ships == {indices}


def test_the_only_one_of_its_class_needs_no_place(things):
    assert {r.indices for r in said(things) if r.kind == "plain"} == {(3,)}


def test_nothing_is_called_smallest_when_two_are_as_small(things):
    assert meaning(things, "smallest") == set()


def test_an_extreme_without_a_clear_margin_is_not_named():
    from tests.unit.rsrefseg.conftest import disc

    close = (Thing("ship", disc(0.30, 0.5, 0.04)), Thing("ship", disc(0.33, 0.2, 0.04)))
    assert meaning(close, "leftmost") == set()


def test_flipping_the_image_swaps_left_and_right(things):
    flipped = tuple(Thing(t.category, t.mask[:, ::-1], t.colour) for t in things)
    assert meaning(things, "leftmost") == {(0,)}
    assert meaning(flipped, "leftmost") == {(2,)}


def test_an_absent_class_refers_to_nothing_and_was_looked_for(things):
    absent = [Grammar(things, np.random.default_rng(s), ("ship", "harbor")).absent() for s in range(20)]
    assert all(r.indices == () for r in absent)
    assert all(any(word in r.expression for word in SYNONYMS["harbor"]) for r in absent)


def test_an_empty_image_can_still_be_asked_about():
    [referral] = Grammar((), np.random.default_rng(0)).referrals(1)
    assert referral.kind == "absent"


def test_the_same_choices_give_the_same_words(things):
    first, second = (Grammar(things, np.random.default_rng(3)).referrals(5) for _ in range(2))
    assert first == second


def test_plurals_are_english():
    assert [plural(w) for w in ("ship", "aircraft", "swimming pool")] == ["ships", "aircraft", "swimming pools"]


def test_an_office_may_call_all_classes_by_names_of_its_own(things):
    assert set(SHORTHAND) == set(SYNONYMS)
    grammar = Grammar(things, np.random.default_rng(0), names=SHORTHAND)
    said_so = [r.expression for r in [*grammar.all(), *(grammar.absent() for _ in range(20))]]
    words = {word for names in SYNONYMS.values() for name in names for word in name.split()}
    assert not words & {word for expression in said_so for word in expression.split()}
    assert any("vsl" in expression for expression in said_so)
