"""Whether a challenger may take the champion's place: asked about the same samples, and only where it is plain."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist

import numpy as np

from rsrefseg.results import Result

LEAST_SAMPLES, LEAST_SCENES = 8, 6
"""Below so many held-out samples or scenes nothing can be told: of 5 scenes 1 in 32 times all are better by chance."""

TOLERANCE = 2.0
"""How far mIoU on the anchor may drop, in points."""

LABEL_SAMPLES, LABEL_SCENES = 5, 3
"""Samples and scenes from which on a label is looked at by itself."""

LABEL_DROP = 5.0
"""A label collapses where its mIoU falls by more points than this, below half of what it was, and beyond doubt."""

DRAWS = 10_000
_DRAWS_AT_ONCE = 500


@dataclass(frozen=True)
class Comparison:
    """Challenger and champion asked about the same samples; mIoU in percent."""

    samples: int
    scenes: int
    before: float
    """The champion's."""
    after: float
    """The challenger's."""
    low: float
    """Lower end of the 95 % interval of the gain, in points."""
    high: float

    @property
    def gain(self) -> float:
        """In points."""
        return self.after - self.before


@dataclass(frozen=True)
class Verdict:
    """What is said of a challenger, and on what grounds."""

    passed: bool
    reason: str
    """One sentence, for people."""
    held_out: Comparison | None = None
    anchor: Comparison | None = None
    by_label: dict[str, tuple[float, float]] = field(default_factory=dict)
    """mIoU before and after of each label of the held-out samples, in percent."""


@dataclass(frozen=True)
class Contest:
    """What champion and challenger made of the same samples."""

    champion: Sequence[Result]
    challenger: Sequence[Result]
    """In the same order."""
    scenes: Mapping[str, str] = field(default_factory=dict)
    """Where samples of several images belong together: the scene by the sample's id; otherwise the image is one."""

    def __post_init__(self) -> None:
        if [one.sample_id for one in self.champion] != [one.sample_id for one in self.challenger]:
            raise ValueError("champion and challenger were asked about different samples")

    def scene_of(self, result: Result) -> str:
        """Say which scene a result is about.

        Args:
            result: Of either side.

        Returns:
            The scene's name, else the image's.
        """
        return self.scenes.get(result.sample_id, result.image)


def judge(held_out: Contest, anchor: Contest) -> Verdict:
    """Let a challenger pass that is better on what it was taught for and forgot nothing.

    Args:
        held_out: On the project's own scenes that nobody was taught.
        anchor: On scenes of what the base was taught.

    Returns:
        The verdict; its sentence has the numbers.
    """
    ours = compare(held_out) if held_out.champion else None
    others = compare(anchor) if anchor.champion else None
    by_label = _by_label(held_out)
    if ours is None or ours.samples < LEAST_SAMPLES or ours.scenes < LEAST_SCENES:
        samples, scenes = (ours.samples, ours.scenes) if ours else (0, 0)
        reason = (
            f"There are too few held-out corrections to tell: {samples} of {scenes} scenes, and at least "
            f"{LEAST_SAMPLES} of {LEAST_SCENES} are needed; annotate more tasks, or promote by hand."
        )
        return Verdict(False, reason, ours, others, by_label)
    on_ours = f"on {ours.scenes} held-out scenes mIoU went from {_change(ours)}"
    if ours.low <= 0:
        what = "There is no gain to be sure of" if ours.gain > 0 else "It is no better"
        return Verdict(False, f"{what}: {on_ours}.", ours, others, by_label)
    if fallen := _collapsed(held_out):
        return Verdict(False, f"The label {fallen}, while {on_ours}.", ours, others, by_label)
    if others is None:
        return Verdict(True, f"It is better: {on_ours}; there was no anchor to compare on.", ours, None, by_label)
    on_anchor = f"on the anchor from {_change(others)}"
    if others.gain < -TOLERANCE:
        reason = f"It forgot what the base knew: {on_anchor}, beyond the {TOLERANCE:g} points allowed, while {on_ours}."
        return Verdict(False, reason, ours, others, by_label)
    if fallen := _collapsed(anchor):
        reason = f"It forgot what the base knew: the anchor's label {fallen}, while {on_ours}."
        return Verdict(False, reason, ours, others, by_label)
    return Verdict(True, f"It is better: {on_ours}; {on_anchor}.", ours, others, by_label)


def compare(contest: Contest, seed: int = 0, alike: int = 1) -> Comparison:
    """Bootstrap the gain over scenes, in pairs: what is hard is hard for both, and scenes fall as a whole.

    The percentiles lie further out than 2.5 and 97.5 where scenes are few, by what Student's t asks for; else the
    interval would be too narrow.

    Args:
        contest: Both sides' results; at least one.
        seed: The same gives the same interval.
        alike: Of how many such comparisons none may be outside of its interval by chance, at the same 95 %.

    Returns:
        The comparison.

    Source:
        Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13; Koehn, Statistical significance tests
        for machine translation evaluation, EMNLP 2004, for pairs; Hesterberg, What teachers should know about the
        bootstrap, The American Statistician 69, 2015, section 5.3.2, for few scenes.
    """
    before = np.array([100 * result.overlap.iou for result in contest.champion])
    after = np.array([100 * result.overlap.iou for result in contest.challenger])
    scenes: dict[str, list[int]] = defaultdict(list)
    for row, result in enumerate(contest.champion):
        scenes[contest.scene_of(result)].append(row)
    gains = np.array([(after[rows] - before[rows]).sum() for rows in scenes.values()])
    counts = np.array([len(rows) for rows in scenes.values()], float)
    n = len(scenes)
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(DRAWS // _DRAWS_AT_ONCE):
        times = rng.multinomial(n, np.full(n, 1 / n), size=_DRAWS_AT_ONCE)  # (draws, scenes)
        drawn.append((times @ gains) / (times @ counts))
    tail = 100 * _tail(n, 0.025 / alike)
    low, high = np.percentile(np.concatenate(drawn), (tail, 100 - tail))
    return Comparison(
        samples=len(before),
        scenes=n,
        before=float(before.mean()),
        after=float(after.mean()),
        low=float(low),
        high=float(high),
    )


def _tail(n: int, beyond: float) -> float:
    # Share of the draws beyond each end, for an interval over n scenes that is missed so often on either side.
    if n < 2:
        return 0.0
    z, v = -NormalDist().inv_cdf(beyond), n - 1
    # Student's quantile. Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 1964, 26.7.5.
    t = z + (z**3 + z) / (4 * v) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
    t += (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
    return NormalDist().cdf(-t * (n / v) ** 0.5)


def _by_label(contest: Contest) -> dict[str, tuple[float, float]]:
    return {
        label: (_miou(part.champion), _miou(part.challenger))
        for label, part in sorted(_parts(contest).items())
        if label
    }


def _parts(contest: Contest) -> dict[str | None, Contest]:
    # A contest for each label.
    pairs: dict[str | None, list[tuple[Result, Result]]] = defaultdict(list)
    for before, after in zip(contest.champion, contest.challenger, strict=True):
        pairs[before.category].append((before, after))
    return {
        label: Contest([before for before, _ in some], [after for _, after in some], contest.scenes)
        for label, some in pairs.items()
    }


def _miou(results: Sequence[Result]) -> float:
    return float(np.mean([100 * result.overlap.iou for result in results]))


def _collapsed(contest: Contest) -> str | None:
    # The label that fell furthest, and how far.
    parts = {
        label: part
        for label, part in _parts(contest).items()
        if label and len(part.champion) >= LABEL_SAMPLES and len(set(map(part.scene_of, part.champion))) >= LABEL_SCENES
    }
    fallen = []
    for label, part in parts.items():
        before, after = _miou(part.champion), _miou(part.challenger)
        # The interval last, which costs most; of many labels one falls far by chance.
        if before - after > LABEL_DROP and after < before / 2 and compare(part, alike=len(parts)).high < 0:
            fallen.append((before - after, f"{label!r} collapsed from {before:.1f} to {after:.1f} mIoU"))
    return max(fallen)[1] if fallen else None


def _change(found: Comparison) -> str:
    return (
        f"{found.before:.1f} to {found.after:.1f} "
        f"({found.gain:+.1f} points, 95 % between {found.low:+.1f} and {found.high:+.1f})"
    )
