"""What people corrected, mixed with what they corrected before and with what the base was taught."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from rsrefseg.datasets.sample import Sample
from rsrefseg.errors import BadDataset, BadRequest
from rsrefseg.evaluate import Evaluation
from rsrefseg.features import ImageFeatures
from rsrefseg.losses import drawing_loss, finding_loss
from rsrefseg.model import Decoded, RSRefSeg
from rsrefseg.predictor import Predictor
from rsrefseg.seen import SeenFeatures
from rsrefseg.tokenizer import Tokenize

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Mixture:
    """What a batch is made of, and what each part of the loss weighs."""

    corrected: int = 4
    """Corrected images in a batch; where there are older ones, half of them new."""
    anchors: int = 4
    """Images of the anchor in a batch."""
    expressions: int = 1
    """Most expressions about one image at a time."""
    anchor: float = 1.0
    """What the anchor weighs beside the corrections, however many masks either has."""
    finding: float = 2.0
    bce: float = 5.0
    dice: float = 2.0
    iou: float = 0.5


class CorrectedBatch(NamedTuple):
    """n masks of b images."""

    features: ImageFeatures
    """Of b images."""
    image_index: Tensor
    """(n,) int64."""
    token_ids: list[Tensor]
    """n tensors (t_i,) int64."""
    gt_masks: Tensor
    """(n, S/4, S/4) float: the share of each pixel that the expression names."""
    anchored: Tensor
    """(n,) bool: whether it is of the anchor."""


class FromCorrections:
    """Teach heads further by corrections, over features that are computed once.

    Args:
        new: Corrections that nobody learnt from.
        older: Those that the parent learnt from: seen again, lest it forgets.
        anchor: What the base was taught: the same for what nobody corrected.
        seen: Keeps features of images.
        tokenizer: Words to ids.
        light: Samples that count half, since nobody had to change anything: they come every second time.
        device: Where the model is.
        mixture: Of a batch.
        seed: Of the order.

    Raises:
        BadDataset: If there is no correction.
    """

    def __init__(
        self,
        new: Sequence[Sample],
        older: Sequence[Sample],
        anchor: Sequence[Sample],
        seen: SeenFeatures,
        tokenizer: Tokenize,
        *,
        light: Collection[str] = (),
        device: str = "cpu",
        mixture: Mixture | None = None,
        seed: int = 0,
    ) -> None:
        if not new and not older:
            raise BadDataset("there is no correction to learn from")
        self._samples = (new, older, anchor)
        self._mixture = mixture or Mixture()
        corrected = self._mixture.corrected
        replayed = 0 if not older else corrected // 2 if new else corrected
        self._shares = (corrected - replayed, replayed, self._mixture.anchors)
        self._seen = seen
        self._tokenizer = tokenizer
        self._light = frozenset(light)
        self._device = device
        self._seed = seed
        self._masks: dict[str, np.ndarray] = {}
        """(S/4, S/4) uint8, 255 where all of the pixel is named."""
        self._token_ids: dict[str, Tensor] = {}

    def prepare(self, batches: int, on_image: Callable[[int, int], None] = lambda _done, _of: None) -> None:
        """Read and encode what so many batches need, which may be less than there is.

        Args:
            batches: How many.
            on_image: Told after each image how many are done of how many; may raise to stop.

        Raises:
            BadDataset: If no correction of them can be used.
        """
        wanted: dict[Path, dict[str, Sample]] = {}
        for chosen in islice(self._choices(), batches):
            for sample, _ in chosen:
                wanted.setdefault(sample.image_path, {})[_key(sample)] = sample
        for number, samples in enumerate(wanted.values(), start=1):
            self._take_in(list(samples.values()))
            on_image(number, len(wanted))
        new, older, _ = self._samples
        if not any(_key(sample) in self._masks for sample in (*new, *older)):
            raise BadDataset("none of the corrections can be used: the log says why of each")

    def _take_in(self, samples: Sequence[Sample]) -> None:
        # Samples of one image.
        try:
            image = samples[0].image()
            self._seen.keep(samples[0].image_path, image)
        except (BadRequest, OSError) as exc:
            log.warning("image left out", extra={"image": str(samples[0].image_path), "reason": str(exc)})
            return
        for sample in samples:
            try:
                mask = sample.gt_mask((image.shape[0], image.shape[1]))
                self._token_ids[_key(sample)] = self._tokenizer(sample.expression).to(self._device)
            except BadRequest as exc:
                log.warning("sample left out", extra={"sample_id": sample.sample_id, "reason": str(exc)})
                continue
            size = (self._seen.mask_side, self._seen.mask_side)
            self._masks[_key(sample)] = cv2.resize(mask.astype(np.uint8) * 255, size, interpolation=cv2.INTER_AREA)

    def begin(self, model: RSRefSeg) -> None:
        """Prepare nothing: the model is the parent's.

        Args:
            model: Left as it is.
        """

    def batches(self, first: int) -> Iterator[CorrectedBatch]:
        """Yield batches for ever; `prepare` was called for as many as are asked for.

        Args:
            first: Number of the first batch, from 0.

        Yields:
            Images, words and masks.
        """
        usable = ([one for one in chosen if _key(one[0]) in self._masks] for chosen in self._choices())
        for chosen in islice((some for some in usable if some), first, None):
            images = list(dict.fromkeys(sample.image_path for sample, _ in chosen))
            masks = np.stack([self._masks[_key(sample)] for sample, _ in chosen])
            yield CorrectedBatch(
                self._seen.get(images),
                torch.tensor([images.index(sample.image_path) for sample, _ in chosen], device=self._device),
                [self._token_ids[_key(sample)] for sample, _ in chosen],
                torch.from_numpy(masks).to(self._device).float() / 255,
                torch.tensor([anchored for _, anchored in chosen], device=self._device),
            )

    def _choices(self) -> Iterator[list[tuple[Sample, bool]]]:
        # For each batch its samples, and whether they are of the anchor.
        streams = [self._stream(samples, kind) for kind, samples in enumerate(self._samples)]
        while True:
            yield [
                (sample, kind == 2)
                for kind, (stream, images) in enumerate(zip(streams, self._shares, strict=True))
                for some in islice(stream, images)
                for sample in some
            ]

    def _stream(self, samples: Sequence[Sample], kind: int) -> Iterator[list[Sample]]:
        # Image after image with some of its samples, every round in an order of its own.
        images: dict[Path, list[tuple[int, Sample]]] = {}
        for place, sample in enumerate(samples):
            images.setdefault(sample.image_path, []).append((place, sample))
        groups = list(images.values())
        for turn in range(10**9 if groups else 0):
            rng = np.random.default_rng((self._seed, kind, turn))
            for number in rng.permutation(len(groups)):
                group = groups[number]
                due = [s for place, s in group if s.sample_id not in self._light or (turn + place) % 2 == 0]
                chosen = rng.permutation(len(due))[: self._mixture.expressions]
                if due:
                    yield [due[i] for i in sorted(chosen)]

    def loss(self, model: RSRefSeg, batch: CorrectedBatch) -> Tensor:
        """Add up what the masks owe, and what the coarse match of words and cells does.

        Args:
            model: What is taught.
            batch: Images, words and masks.

        Returns:
            Scalar.
        """
        decoded = model.decode(batch.features, model.encode_text(batch.token_ids), batch.image_index)
        loss = batch.gt_masks.new_zeros(())
        for rows, weight in ((~batch.anchored, 1.0), (batch.anchored, self._mixture.anchor)):
            if rows.any():
                loss = loss + weight * self._owed(Decoded(*(part[rows] for part in decoded)), batch.gt_masks[rows])
        return loss

    def _owed(self, decoded: Decoded, gt_masks: Tensor) -> Tensor:
        owed, everywhere = self._mixture, torch.ones_like(gt_masks)
        loss = drawing_loss(decoded, gt_masks, everywhere, bce=owed.bce, dice=owed.dice, iou=owed.iou)
        return loss + owed.finding * finding_loss(decoded.activation.float(), gt_masks, everywhere)

    def score(self, predictor: Predictor) -> dict[str, Evaluation]:
        """Score on nothing: the scenes that are held out are the gate's, and choosing by them would spoil them.

        Args:
            predictor: The model as it stands.

        Returns:
            No scores.
        """
        return {}

    def described(self) -> dict[str, Any]:
        """Say for a card what is taught.

        Returns:
            How many samples of which kind, and the mixture.
        """
        new, older, anchor = map(len, self._samples)
        counts = {"new corrections": new, "older corrections": older, "anchor samples": anchor}
        return counts | {f"mixture {name}": value for name, value in asdict(self._mixture).items()}


def _key(sample: Sample) -> str:
    return f"{sample.image_path}\n{sample.sample_id}"
