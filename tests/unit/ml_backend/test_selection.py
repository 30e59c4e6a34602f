from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_backend.selection import Candidate, Choice, choose, spread


def pool(n: int, seed: int = 0, **fields: object) -> list[Candidate]:
    scores = np.random.default_rng(seed).uniform(0.05, 0.95, n)
    return [Candidate(task_id, float(score), **fields) for task_id, score in enumerate(scores)]  # type: ignore[arg-type]


def circle(n: int) -> dict[int, np.ndarray]:
    turns = np.linspace(0, 2 * np.pi, n, endpoint=False)
    return {i: np.array([np.cos(turn), np.sin(turn)], np.float16) for i, turn in enumerate(turns)}


def tasks(choice: Choice, arm: str | None = None) -> list[int]:
    return [one.task_id for one in choice.picks if arm in (None, one.arm)]


def test_the_farthest_comes_next():
    points = np.array([[0.0, 0], [0.1, 0], [10, 0], [0, 10], [10, 10], [9.9, 10]])
    assert spread(points, 4) == [0, 4, 2, 3]
    assert spread(points, 2, begun=1, known=np.array([[10.0, 10.0]])) == [0, 2]
    assert spread(points, 6, least=0.5) == [0, 4, 2, 3]


@given(st.integers(2, 40), st.integers(0, 10**6))
def test_what_is_spread_leaves_no_point_farther_away_than_its_own_are_from_each_other(n: int, seed: int):
    points = np.random.default_rng(seed).random((n, 3))
    chosen = points[spread(points, max(2, n // 2))]
    between = np.linalg.norm(chosen[:, None] - chosen[None], axis=2) + np.eye(len(chosen)) * 9
    to_nearest = np.linalg.norm(points[:, None] - chosen[None], axis=2).min(axis=1)
    assert to_nearest.max() <= between.min() + 1e-9


@given(st.integers(1, 60), st.integers(0, 80), st.floats(0, 1), st.integers(0, 10**6), st.booleans(), st.booleans())
def test_as_many_as_wanted_are_chosen_once_each_and_exactly_the_share_by_lot(
    n: int, count: int, share: float, seed: int, scored: bool, seen: bool
):
    candidates = [Candidate(one.task_id, one.score if scored else None) for one in pool(n)]
    choice = choose(candidates, circle(n) if seen else {}, count, random_share=share, seed=seed)
    assert len(set(tasks(choice))) == len(choice.picks) == min(n, count)
    assert len(tasks(choice, "random")) == round(min(n, count) * share)
    again = choose(candidates[::-1], circle(n) if seen else {}, count, random_share=share, seed=seed)
    assert again == choice


def test_another_seed_is_another_choice():
    first, second = (tasks(choose(pool(100), {}, 10, seed=seed)) for seed in (0, 1))
    assert set(first) != set(second)


def test_the_doubtful_are_asked_about_more_often_and_the_sure_still_sometimes():
    candidates = [Candidate(i, 0.1 if i < 50 else 0.9) for i in range(100)]
    times = Counter(
        task < 50 for seed in range(50) for task in tasks(choose(candidates, {}, 10, random_share=0, seed=seed))
    )
    assert times[True] > 8 * times[False] > 0


def test_the_lot_is_drawn_from_the_whole_pool_whatever_the_scores():
    candidates = [Candidate(i, 0.01 if i < 50 else 0.99) for i in range(100)]
    lot = [task for seed in range(100) for task in tasks(choose(candidates, {}, 20, seed=seed), "random")]
    assert len(lot) == 400
    assert 150 < sum(task < 50 for task in lot) < 250


def test_places_do_not_say_who_was_drawn_by_lot():
    places = [
        [one.arm for one in choose(pool(100), {}, 20, random_share=0.5, seed=seed).picks].index("random")
        for seed in range(30)
    ]
    assert min(places) == 0 < max(places)


def test_chosen_tasks_are_unlike_each_other_and_unlike_what_was_annotated():
    candidates = pool(100)
    images = {i: circle(100)[i] for i in range(100)}
    scattered = choose(candidates, images, 10, random_share=0)
    assert scattered.way == "doubts and images"
    chosen = np.stack([images[task] for task in tasks(scattered)]).astype(np.float32)
    apart = np.linalg.norm(chosen[:, None] - chosen[None], axis=2) + 9 * np.eye(10)
    plain = np.stack([images[task] for task in tasks(choose(candidates, {}, 10, random_share=0))]).astype(np.float32)
    close = np.linalg.norm(plain[:, None] - plain[None], axis=2) + 9 * np.eye(10)
    assert apart.min() > 2 * close.min()
    images[1000] = images[7]
    beside = choose([one for one in candidates if one.task_id != 7], images, 5, random_share=0, known=[1000])
    distance = min(np.linalg.norm(images[task].astype(float) - images[7].astype(float)) for task in tasks(beside))
    assert distance > 0.5


def test_near_duplicates_come_only_where_nothing_else_is_left():
    candidates = [Candidate(i, 0.2) for i in range(40)]
    # Thirty pictures of one place, and ten others.
    images = {i: np.eye(12)[max(0, i - 29)] + (1e-4 * i if i < 30 else 0) for i in range(40)}
    choice = choose(candidates, images, 10, random_share=0, seed=3)
    assert sum(task < 30 for task in tasks(choice)) <= 1
    everything = choose(candidates, images, 40, random_share=0)
    assert len(everything.picks) == 40
    assert everything.alike == 29


@pytest.mark.parametrize("seed", range(5))
def test_each_label_that_there_is_has_a_task(seed: int):
    candidates = [
        Candidate(i, 0.99 if i % 50 == 0 else 0.01, frozenset({f"rare {i // 50}"} if i % 50 == 0 else {"common"}))
        for i in range(200)
    ]
    labels = {i: one.labels for i, one in enumerate(candidates)}
    choice = choose(candidates, circle(200), 10, seed=seed)
    assert frozenset().union(*(labels[task] for task in tasks(choice))) == {"common", *(f"rare {n}" for n in range(4))}


def test_before_there_are_scores_images_decide_and_without_images_chance():
    unscored = [Candidate(i) for i in range(60)]
    images = {i: np.array([float(i // 20), 0.001 * (i % 20)]) for i in range(60)}
    choice = choose(unscored, images, 3, random_share=0)
    assert choice.way == "images"
    assert {task // 20 for task in tasks(choice)} == {0, 1, 2}
    assert choose(unscored, {}, 3).way == "chance"
    assert choose(pool(60), {}, 3).way == "doubts"


def test_tasks_without_a_score_come_after_those_with_one():
    candidates = [*pool(10), *(Candidate(i) for i in range(10, 100))]
    assert max(tasks(choose(candidates, {}, 10, random_share=0))) == 9
    assert len(choose(candidates, {}, 15, random_share=0).picks) == 15
