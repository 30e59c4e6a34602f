"""Which tasks to ask people about next: those the model is unsure of, unlike each other, and some by chance.

Everything here is arithmetic over tasks that somebody else has listed; `asking.py` lists them and writes the order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

WIDER = 5
"""How many times as many as are wanted are looked at for being unlike each other."""

ALIKE = 0.2
"""Images count as nearly the same within this share of how far the pool's are from their middle. By the shipped weights
noise, another light and a cropped edge stay below it, different places of NWPU VHR-10 above."""

_SURE = 1e-3
"""How near to 0 and 1 a score is believed."""

Way = Literal["doubts", "doubts and images", "images", "chance"]
"""What the chosen arm goes by: scores alone or with images, images alone before there are scores, or nothing."""

_WAYS: dict[tuple[bool, bool], Way] = {
    (True, True): "doubts and images",
    (True, False): "doubts",
    (False, True): "images",
    (False, False): "chance",
}
"""By whether there are scores, and embeddings."""

Arm = Literal["chosen", "random"]
"""By the model's doubts and the image's strangeness; or by lot."""


@dataclass(frozen=True)
class Candidate:
    """A task that nobody has annotated."""

    task_id: int
    score: float | None = None
    """The chance that its masks are right, by the model that is served; None before it drew them."""
    labels: frozenset[str] = frozenset()
    """What the model found in it."""


@dataclass(frozen=True)
class Pick:
    """A task to ask about."""

    task_id: int
    arm: Arm
    score: float | None


@dataclass(frozen=True)
class Choice:
    """What is to be asked, first things first."""

    picks: tuple[Pick, ...]
    way: Way
    alike: int = 0
    """Candidates that were passed over since they look like another, until nothing else was left."""


def choose(
    candidates: Sequence[Candidate],
    embeddings: Mapping[int, np.ndarray],
    count: int,
    *,
    random_share: float = 0.2,
    seed: int = 0,
    known: Sequence[int] = (),
) -> Choice:
    """Choose tasks to ask about.

    Args:
        candidates: The pool.
        embeddings: (d,) float of what the model saw in a task's images, by its number; any may be missing.
        count: How many to choose; fewer if the pool is smaller.
        random_share: How many of them are drawn by lot from the whole pool, before anything else is looked at.
        seed: The same pool, seed and numbers give the same choice.
        known: Tasks that were annotated before, to which the chosen ones should be unlike too.

    Returns:
        The choice; chosen and random ones are mixed, so that nobody sees from its place which is which.

    Source:
        Kirsch et al., Stochastic Batch Acquisition, TMLR 2023 (power acquisition); Sener and Savarese, Active Learning
        for Convolutional Neural Networks: A Core-Set Approach, ICLR 2018 (greedy k-centre).
    """
    rng = np.random.default_rng(seed)
    pool = sorted(candidates, key=lambda one: one.task_id)
    count = min(count, len(pool))
    by_lot = [pool[i] for i in rng.permutation(len(pool))[: round(count * random_share)]]
    drawn = {one.task_id for one in by_lot}
    ranked = _ranked([one for one in pool if one.task_id not in drawn], embeddings, rng)
    scored = any(one.score is not None for one in ranked)
    seen = sum(one.task_id in embeddings for one in ranked) > 1
    wanted = count - len(by_lot)
    first = _one_of_each_label(ranked, by_lot, wanted)
    chosen, alike = first, 0
    if seen:
        centres = np.array([embeddings[task] for task in known if task in embeddings], np.float32)
        # Scores narrow the field, and only where too many look alike it is widened; without scores images decide.
        width = WIDER * wanted if scored else len(ranked)
        while True:
            chosen, alike = _unlike(ranked[:width], embeddings, first, wanted, centres)
            if len(chosen) >= wanted or width >= len(ranked):
                break
            width *= 2
    taken = {one.task_id for one in chosen}
    chosen = [*chosen, *(one for one in ranked if one.task_id not in taken)][:wanted]
    picks = [Pick(one.task_id, "chosen", one.score) for one in chosen]
    for one in by_lot:
        picks.insert(int(rng.integers(len(picks) + 1)), Pick(one.task_id, "random", one.score))
    return Choice(tuple(picks), _WAYS[scored, seen], alike)


def spread(
    vectors: np.ndarray, count: int, *, begun: int = 0, known: np.ndarray | None = None, least: float = 0.0
) -> list[int]:
    """Choose points far from each other: each the farthest from all before it.

    Args:
        vectors: (n, d) float.
        count: How many to choose.
        begun: The first so many of them are chosen already.
        known: (k, d) float, other points to keep away from.
        least: Stop where no point is farther away than this.

    Returns:
        Indices of vectors in the order of choice, those of the first `begun` at the front.

    >>> spread(np.array([[0.0], [0.1], [5.0], [9.0]]), 3)
    [0, 3, 2]
    """
    order = list(range(min(begun, len(vectors))))
    away = np.full(len(vectors), np.inf)
    for centre in [*(known if known is not None else ()), *vectors[order]]:
        away = np.minimum(away, np.linalg.norm(vectors - centre, axis=1))
    away[order] = -np.inf
    while len(order) < min(count, len(vectors)):
        farthest = int(np.argmax(away))  # the first of all, where nothing is chosen or known
        if away[farthest] <= least:
            break
        order.append(farthest)
        away = np.minimum(away, np.linalg.norm(vectors - vectors[farthest], axis=1))
        away[order] = -np.inf
    return order


def _ranked(
    pool: Sequence[Candidate], embeddings: Mapping[int, np.ndarray], rng: np.random.Generator
) -> list[Candidate]:
    # By a noisy power of the doubt; those without a score by chance, after them, with images before without.
    doubts = [-np.log(np.clip(one.score, _SURE, 1 - _SURE)) if one.score is not None else np.nan for one in pool]
    noisy = np.log(doubts) + rng.gumbel(size=len(pool))
    lots = rng.random(len(pool))
    return [
        pool[i]
        for i in sorted(
            range(len(pool)),
            key=lambda i: (
                pool[i].score is None,
                -noisy[i] if pool[i].score is not None else pool[i].task_id not in embeddings,
                lots[i],
            ),
        )
    ]


def _one_of_each_label(ranked: Sequence[Candidate], there: Sequence[Candidate], most: int) -> list[Candidate]:
    # The rarest label first: who has it has often others too.
    covered = {label for one in there for label in one.labels}
    times = Counter(label for one in ranked for label in one.labels)
    first: list[Candidate] = []
    for label in sorted(times, key=lambda label: (times[label], label)):
        if label not in covered and len(first) < most:
            one = next(one for one in ranked if label in one.labels)
            first.append(one)
            covered |= one.labels
    return first


def _unlike(
    near: Sequence[Candidate],
    embeddings: Mapping[int, np.ndarray],
    first: Sequence[Candidate],
    wanted: int,
    centres: np.ndarray,
) -> tuple[list[Candidate], int]:
    # The first ones, then others as far apart as can be; and how many were passed over since they look alike.
    beginning = [one for one in first if one.task_id in embeddings]
    begun = {one.task_id for one in first}
    others = [one for one in near if one.task_id in embeddings and one.task_id not in begun]
    seen = beginning + others
    if not seen:
        return list(first), 0
    vectors = np.stack([np.asarray(embeddings[one.task_id], np.float32) for one in seen])
    room = wanted - len(first) + len(beginning)
    least = ALIKE * _extent(vectors)
    order = spread(vectors, room, begun=len(beginning), known=centres, least=least)
    chosen = [*first, *(seen[i] for i in order[len(beginning) :])]
    return chosen, len(seen) - len(order) if len(order) < room else 0


def _extent(vectors: np.ndarray) -> float:
    # How far the points are from their middle, on the whole; unlike a median it bears a pool that is mostly copies.
    return float(np.sqrt(np.square(vectors - vectors.mean(axis=0)).sum(axis=1).mean()))
