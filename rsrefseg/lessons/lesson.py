"""What the training loop needs to know of what is taught."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from torch import Tensor

from rsrefseg.evaluate import Evaluation
from rsrefseg.model import RSRefSeg
from rsrefseg.predictor import Predictor


class Lesson(Protocol):
    """Batches in a fixed order, what a step owes for one, and how what was learnt is scored."""

    def begin(self, model: RSRefSeg) -> None:
        """Prepare a model before its first step.

        Args:
            model: Changed in place.
        """

    def batches(self, first: int) -> Iterator[Any]:
        """Yield batches from one on, so that a resumed run sees what the unbroken one would have seen.

        Args:
            first: Number of the first batch, from 0.

        Yields:
            What `loss` takes.
        """

    def loss(self, model: RSRefSeg, batch: Any) -> Tensor:
        """Say how wrong the model is about a batch.

        Args:
            model: In training mode, under autocast.
            batch: One of `batches`.

        Returns:
            Scalar.
        """

    def score(self, predictor: Predictor) -> dict[str, Evaluation]:
        """Score on images that are never learnt from.

        Args:
            predictor: The model as it stands.

        Returns:
            Scores by the name of the set; none where there is nothing to score on.
        """

    def described(self) -> dict[str, Any]:
        """Say for a card what is taught.

        Returns:
            Facts by name.
        """
