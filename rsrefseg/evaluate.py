"""Score a predictor on samples: the field's benchmarks, or labelled images that the grammar writes expressions for."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path

from rsrefseg.calibration import UNCALIBRATED, Calibration
from rsrefseg.datasets.grammar_samples import grammar_samples
from rsrefseg.datasets.labelled import LabelledImage
from rsrefseg.datasets.sample import CorruptRow, Sample
from rsrefseg.errors import BadDataset, BadRequest
from rsrefseg.metrics import Overlap, Scores, bootstrap_ci95
from rsrefseg.pictures import write_image
from rsrefseg.predictor import ImageEmbedding, Predictor, Segment
from rsrefseg.results import Result, ResultFile
from rsrefseg.second_look import disagreements, is_uncertain

log = logging.getLogger(__name__)

TOGETHER = 16
"""Expressions about one image that are asked at once: their masks are held in memory together."""


@dataclass(frozen=True)
class Evaluation:
    """Scores over a set, and by kind of expression and class of object where these are known."""

    results: tuple[Result, ...]
    """In the set's order."""
    corrupt: int
    """Rows that were left out of every figure."""
    overall: Scores
    by_kind: dict[str, Scores]
    by_category: dict[str, Scores]
    images: int
    images_per_s: float
    """Images read, encoded and asked about, one after the other."""

    @classmethod
    def of(cls, results: Iterable[Result], corrupt: int = 0) -> Evaluation:
        """Sum up.

        Args:
            results: One for each sample.
            corrupt: Rows that gave none.

        Returns:
            The scores.

        Raises:
            BadDataset: If there is no result.
        """
        kept = tuple(results)
        if not kept:
            raise BadDataset(f"the set has no usable sample, and {corrupt} corrupt rows")
        images = len({result.image for result in kept})
        return cls(
            results=kept,
            corrupt=corrupt,
            overall=Scores.over(result.overlap for result in kept),
            by_kind=_scores_by(kept, lambda result: result.kind),
            by_category=_scores_by(kept, lambda result: result.category),
            images=images,
            images_per_s=images / max(1e-9, sum(result.seconds for result in kept)),
        )

    @cached_property
    def ci95(self) -> dict[str, tuple[float, float]]:
        """Bootstrap the 95 % intervals of oIoU, mIoU and P@0.5, in percent."""
        groups: dict[str, list[Overlap]] = defaultdict(list)
        for result in self.results:
            groups[result.image].append(result.overlap)
        return bootstrap_ci95(groups.values())

    def as_dict(self) -> dict[str, object]:
        """Flatten all but the results.

        Returns:
            What JSON has words for; metrics in percent.
        """
        return {
            **self.overall.as_dict(),
            "images_per_s": self.images_per_s,
            "images": self.images,
            "corrupt": self.corrupt,
            "ci95": {name: list(ends) for name, ends in self.ci95.items()},
            "by_category": {name: scores.as_dict() for name, scores in self.by_category.items()},
            "by_kind": {name: scores.as_dict() for name, scores in self.by_kind.items()},
        }

    def rounded(self) -> dict[str, object]:
        """Shorten for a log line.

        Returns:
            mIoU, oIoU, P@0.5 and the mIoU of each kind, in percent with one digit.
        """
        return {
            "n": self.overall.n,
            "mIoU": round(self.overall.mIoU, 1),
            "oIoU": round(self.overall.oIoU, 1),
            "P@0.5": round(self.overall.precision["P@0.5"], 1),
            "by_kind": {kind: round(scores.mIoU, 1) for kind, scores in self.by_kind.items()},
        }


def evaluate(predictor: Predictor, images: Iterable[LabelledImage], per_image: int = 3, seed: int = 1) -> Evaluation:
    """Ask about every image what the grammar can say of it, and compare at the image's own size.

    Args:
        predictor: Asked.
        images: With known objects.
        per_image: Most expressions about one.
        seed: Of the choice of expressions, the same for every model.

    Returns:
        The scores.
    """
    named = ((f"{number:06d}", labelled) for number, labelled in enumerate(images))
    return evaluate_samples(predictor, grammar_samples(named, per_image, seed))


def _log(row: CorruptRow) -> None:
    log.warning("corrupt row left out", extra={"place": row.place, "reason": row.reason})


def evaluate_samples(
    predictor: Predictor,
    samples: Iterable[Sample | CorruptRow],
    *,
    kept: ResultFile | None = None,
    masks: Path | None = None,
    on_corrupt: Callable[[CorruptRow], None] = _log,
    on_samples: Callable[[int], None] = lambda _: None,
) -> Evaluation:
    """Ask about every sample and compare at the image's own size; an image is encoded once for samples in a row.

    Args:
        predictor: Asked.
        samples: Of a set; what they need is read one image at a time.
        kept: Gets every result; samples that are in it are not asked again.
        masks: A folder that gets what was predicted: `<sample id>.png`, 0 and 255, at the image's own size.
        on_corrupt: Told of every row that cannot be used; may raise to stop.
        on_samples: Told how many more rows are behind us.

    Returns:
        The scores.

    Raises:
        BadDataset: If no sample is usable, or `kept` holds results of samples that the set does not have.
    """
    done = kept.done if kept else {}
    strangers = set(done)
    results: list[Result] = []
    corrupt = 0
    for _, group in groupby(samples, key=lambda row: row.image_path if isinstance(row, Sample) else None):
        rows = list(group)
        strangers.difference_update(row.sample_id for row in rows if isinstance(row, Sample))
        for outcome in _answered(predictor, rows, done, masks):
            if isinstance(outcome, CorruptRow):
                corrupt += 1
                on_corrupt(outcome)
                continue
            results.append(outcome)
            if kept and done.get(outcome.sample_id) is not outcome:
                kept.add(outcome)
        on_samples(len(rows))
    if strangers:
        raise BadDataset(
            f"the results kept so far are of another set, which has sample {min(strangers)}: choose another --out"
        )
    return Evaluation.of(results, corrupt)


def calibrate(predictor: Predictor, samples: Iterable[Sample | CorruptRow]) -> Calibration:
    """Find out what a predictor's confidence is worth; what second looks are worth stays as it was.

    Args:
        predictor: Asked; what it was calibrated to before is set aside meanwhile.
        samples: That were not learnt from.

    Returns:
        The calibration.

    Raises:
        BadDataset: If there are too few samples to tell.
    """
    before, predictor.calibration = predictor.calibration, UNCALIBRATED
    try:
        results = evaluate_samples(predictor, samples).results
    finally:
        predictor.calibration = before
    try:
        found = Calibration.fit([r.score for r in results], [r.overlap.iou > 0.5 for r in results])
    except ValueError as exc:
        raise BadDataset(f"the set does not tell what the scores are worth: {exc}") from exc
    return replace(found, second_look=before.second_look)


def calibrate_second_looks(predictor: Predictor, samples: Iterable[Sample | CorruptRow]) -> Calibration:
    """Find out what it says of an uncertain answer that the same question put otherwise gets another one.

    Args:
        predictor: Asked; its scores have to be chances already.
        samples: That were not learnt from.

    Returns:
        Its calibration with second looks.

    Raises:
        BadDataset: If too few answers are uncertain.
    """
    scores: list[float] = []
    apart: list[float] = []
    right: list[bool] = []
    for _, group in groupby(samples, key=lambda row: row.image_path if isinstance(row, Sample) else None):
        rows = [row for row in group if isinstance(row, Sample)]
        try:
            image = rows[0].image() if rows else None
        except BadRequest:
            continue
        if image is None:
            continue
        answers = _ask(predictor, predictor.encode(image), rows)
        doubtful = [
            (row, one)
            for row, one in zip(rows, answers, strict=True)
            if not isinstance(one, BadRequest) and is_uncertain(one.score)
        ]
        scores += [one.score for _, one in doubtful]
        apart += disagreements(predictor, image, [one for _, one in doubtful])
        right += [Overlap.of(one.mask, row.gt_mask(image.shape[:2])).iou > 0.5 for row, one in doubtful]
    try:
        return predictor.calibration.fit_second_look(scores, apart, right)
    except ValueError as exc:
        raise BadDataset(f"the set does not tell what second looks are worth: {exc}") from exc


def mask_path(folder: Path, sample_id: str) -> Path:
    """Name the file of a sample's predicted mask.

    Args:
        folder: Of masks.
        sample_id: The sample's.

    Returns:
        Its path.
    """
    return folder / f"{sample_id}.png"


def _answered(
    predictor: Predictor, rows: Sequence[Sample | CorruptRow], done: dict[str, Result], masks: Path | None
) -> list[Result | CorruptRow]:
    # One outcome for each row, in order; what was done before is not asked again unless its mask is wanted and missing.
    asked = [
        row
        for row in rows
        if isinstance(row, Sample)
        and (row.sample_id not in done or (masks is not None and not mask_path(masks, row.sample_id).exists()))
    ]
    names = [sample.sample_id for sample in asked]
    fresh = dict(zip(names, _outcomes(predictor, asked, masks), strict=True))
    return [row if isinstance(row, CorruptRow) else fresh.get(row.sample_id) or done[row.sample_id] for row in rows]


def _outcomes(predictor: Predictor, samples: Sequence[Sample], masks: Path | None) -> Iterator[Result | CorruptRow]:
    # One for each sample of one image, in their order.
    if not samples:
        return
    began = time.perf_counter()
    try:
        image = samples[0].image()
        embedding = predictor.encode(image)
    except BadRequest as exc:
        yield from (sample.corrupt(str(exc)) for sample in samples)
        return
    encoded_s = (time.perf_counter() - began) / len(samples)
    for first in range(0, len(samples), TOGETHER):
        together = samples[first : first + TOGETHER]
        began = time.perf_counter()
        answers = _ask(predictor, embedding, together)
        seconds = encoded_s + (time.perf_counter() - began) / len(together)
        for sample, answer in zip(together, answers, strict=True):
            yield _compared(sample, answer, embedding.size_hw, seconds, masks)


def _ask(predictor: Predictor, embedding: ImageEmbedding, samples: Sequence[Sample]) -> list[Segment | BadRequest]:
    try:
        return list(predictor.segment(embedding, [sample.expression for sample in samples]))
    except BadRequest as exc:
        if len(samples) == 1:
            return [exc]
        return [answer for sample in samples for answer in _ask(predictor, embedding, [sample])]


def _compared(
    sample: Sample, answer: Segment | BadRequest, size_hw: tuple[int, int], seconds: float, masks: Path | None
) -> Result | CorruptRow:
    if isinstance(answer, BadRequest):
        return sample.corrupt(str(answer))
    try:
        overlap = Overlap.of(answer.mask, sample.gt_mask(size_hw))
    except BadRequest as exc:
        return sample.corrupt(str(exc))
    if masks:
        write_image(mask_path(masks, sample.sample_id), answer.mask)
    return Result(
        sample_id=sample.sample_id,
        image=sample.image_path.as_posix(),
        intersection=overlap.intersection,
        union=overlap.union,
        category=sample.category,
        kind=sample.kind,
        score=answer.score,
        seconds=seconds,
    )


def _scores_by(results: Sequence[Result], key: Callable[[Result], str | None]) -> dict[str, Scores]:
    groups: dict[str, list[Overlap]] = defaultdict(list)
    for result in results:
        name = key(result)
        if name is not None:
            groups[name].append(result.overlap)
    return {name: Scores.over(pairs) for name, pairs in sorted(groups.items())}
