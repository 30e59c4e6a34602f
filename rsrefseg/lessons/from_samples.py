"""To draw what samples name: how a model is trained on a benchmark, or taught further by corrections."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from rsrefseg.datasets.sample import CorruptRow, Sample
from rsrefseg.errors import BadDataset, BadRequest
from rsrefseg.evaluate import Evaluation, evaluate_samples
from rsrefseg.losses import cross_entropy, dice_loss
from rsrefseg.model import RSRefSeg
from rsrefseg.pictures import squared
from rsrefseg.predictor import Predictor
from rsrefseg.presets import Preset
from rsrefseg.tokenizer import Tokenize

log = logging.getLogger(__name__)


def usable(rows: Iterable[Sample | CorruptRow]) -> list[Sample]:
    """Take the samples of a split, and say which rows are none.

    Args:
        rows: Of a benchmark.

    Returns:
        What can be learnt from.
    """
    samples = []
    for row in rows:
        if isinstance(row, CorruptRow):
            log.warning("row left out", extra={"place": row.place, "reason": row.reason})
        else:
            samples.append(row)
    return samples


class DrawnBatch(NamedTuple):
    """n samples, each with an image of its own."""

    images: Tensor
    """(n, 3, S, S) float in [0, 1]."""
    token_ids: list[Tensor]
    """n tensors (t_i,) int64."""
    gt_masks: Tensor
    """(n, S, S) float, 0 or 1."""


class FromSamples:
    """Teach a model to draw what samples name: five times the cross-entropy of every pixel, as the paper does.

    A sample that cannot be read is reported and left out of its batch; it is never swapped for another one.

    Args:
        samples: To learn from.
        held_out: To score on, by name.
        preset: Of the model.
        tokenizer: Words to ids.
        device: Where the model is.
        images: Samples in a batch, on each device.
        seed: Of their order.
        rank: Of this process among `size`.
        size: Processes that share the samples.
        bce: Weight of the cross-entropy.
        dice: Weight of the Dice loss, which the paper does without.
        loaders: Threads that read images ahead.

    Raises:
        BadDataset: If there are fewer samples than a batch needs.

    Source:
        KyanChen/RSRefSeg configs_RSRefSeg/RSRefSeg-b.py @ c20e056.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        held_out: dict[str, Sequence[Sample]],
        preset: Preset,
        tokenizer: Tokenize,
        *,
        device: str = "cpu",
        images: int = 8,
        seed: int = 0,
        rank: int = 0,
        size: int = 1,
        bce: float = 5.0,
        dice: float = 0.0,
        loaders: int = 2,
    ) -> None:
        if len(samples) < images * size:
            raise BadDataset(f"{len(samples)} samples do not fill a batch of {images * size}: lower --batch")
        self._samples = samples
        self._held_out = held_out
        self._preset = preset
        self._tokenizer = tokenizer
        self._device = device
        self._images = images
        self._seed = seed
        self._rank, self._size = rank, size
        self._bce, self._dice = bce, dice
        self._loaders = loaders
        self._unreadable: set[str] = set()

    @property
    def batches_per_epoch(self) -> int:
        """Batches after which every sample was seen once, apart from a remainder that fills none."""
        return len(self._samples) // (self._images * self._size)

    def begin(self, model: RSRefSeg) -> None:
        """Prepare nothing: the towers know images and words.

        Args:
            model: Left as it is.
        """

    def batches(self, first: int) -> Iterator[DrawnBatch]:
        """Yield batches for ever, every epoch in an order of its own.

        Args:
            first: Number of the first batch, from 0.

        Yields:
            This process's share of each.
        """
        with ThreadPoolExecutor(self._loaders) as loaders:
            coming: deque[list[tuple[Sample, Future[tuple[Tensor, Tensor]]]]] = deque()
            number = first
            while True:
                while len(coming) < 2:
                    coming.append([(sample, loaders.submit(self._read, sample)) for sample in self._chosen(number)])
                    number += 1
                batch = self._batch(coming.popleft())
                if batch is not None:
                    yield batch

    def _chosen(self, number: int) -> list[Sample]:
        epoch, place = divmod(number, self.batches_per_epoch)
        order = np.random.default_rng((self._seed, epoch)).permutation(len(self._samples))
        begin = (place * self._size + self._rank) * self._images
        return [self._samples[i] for i in order[begin : begin + self._images]]

    def _read(self, sample: Sample) -> tuple[Tensor, Tensor]:
        image = sample.image()
        gt_mask = sample.gt_mask((image.shape[0], image.shape[1]))
        side = self._preset.image_size
        square = squared(image, side, self._preset.antialias)
        mask = cv2.resize(gt_mask.astype(np.uint8), (side, side), interpolation=cv2.INTER_NEAREST_EXACT)
        return torch.from_numpy(square).permute(2, 0, 1).float() / 255, torch.from_numpy(mask).float()

    def _batch(self, coming: list[tuple[Sample, Future[tuple[Tensor, Tensor]]]]) -> DrawnBatch | None:
        images, token_ids, masks = [], [], []
        for sample, read in coming:
            try:
                image, mask = read.result()
            except (BadRequest, OSError) as exc:
                self._report(sample, exc)
                continue
            images.append(image)
            masks.append(mask)
            token_ids.append(self._tokenizer(sample.expression).to(self._device))
        if not images:
            return None
        return DrawnBatch(torch.stack(images).to(self._device), token_ids, torch.stack(masks).to(self._device))

    def _report(self, sample: Sample, reason: Exception) -> None:
        if sample.sample_id not in self._unreadable:
            self._unreadable.add(sample.sample_id)
            log.warning("sample left out", extra={"sample_id": sample.sample_id, "reason": str(reason)})
        if 2 * len(self._unreadable) > len(self._samples):
            raise BadDataset(f"more than half of the samples cannot be read, the last because: {reason}") from reason

    def loss(self, model: RSRefSeg, batch: DrawnBatch) -> Tensor:
        """Compare the logits with the truth at the size that the model reads.

        Args:
            model: In training mode.
            batch: Samples.

        Returns:
            Scalar.
        """
        image, text = model.encode_image(batch.images), model.encode_text(batch.token_ids)
        decoded = model.decode(image, text, torch.arange(len(batch.token_ids), device=batch.images.device))
        logits = functional.interpolate(
            decoded.low_res_logits.float()[:, None], batch.gt_masks.shape[1:], mode="bilinear", align_corners=False
        )[:, 0]  # (n, S, S)
        everywhere = torch.ones_like(batch.gt_masks)
        loss = self._bce * cross_entropy(logits, batch.gt_masks, everywhere)
        return loss + self._dice * dice_loss(logits, batch.gt_masks, everywhere) if self._dice else loss

    def score(self, predictor: Predictor) -> dict[str, Evaluation]:
        """Ask about the held-out samples.

        Args:
            predictor: The model as it stands.

        Returns:
            Scores by the name of the set.
        """
        return {name: evaluate_samples(predictor, samples) for name, samples in self._held_out.items()}

    def described(self) -> dict[str, Any]:
        """Say for a card what is taught.

        Returns:
            How many samples, in which batches, and what each part of the loss weighs.
        """
        return {
            "samples": len(self._samples),
            "left out": len(self._unreadable),
            "batch": self._images * self._size,
            "bce": self._bce,
            "dice": self._dice,
        }
