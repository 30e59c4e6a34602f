"""What a worker lays out once and every job finds at hand: queue, images, and the models, warm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from workers.ahead import ImagesAhead
from workers.at_hand import AtHand
from workers.leased import Stop
from workers.queue import JobQueue
from workers.thumbnails import Thumbnails

if TYPE_CHECKING:
    from rsrefseg.pointing import Pointing


class Segmented(Protocol):
    """What a model says of one expression, as `rsrefseg.predictor.Segment` does."""

    @property
    def mask(self) -> np.ndarray:
        """(h, w) bool at the image's own size."""

    @property
    def score(self) -> float:
        """Confidence in [0, 1]."""

    @property
    def predicted_iou(self) -> float:
        """The model's own estimate in [0, 1]."""


class Model(Protocol):
    """The door of `rsrefseg.Predictor`, as far as a worker goes through it; naming the class would import torch."""

    version: str

    def encode_all(self, images: Sequence[np.ndarray], /) -> Sequence[Any]:
        """Do what is done once for each image."""

    def segment(
        self, image: Any, expressions: Sequence[str], pointings: Sequence[Pointing | None] | None = None, /
    ) -> Sequence[Segmented]:
        """Find what each expression refers to, or what was pointed at, in what `encode_all` made of an image."""

    def look_again(self, image: np.ndarray, segments: Sequence[Any], /) -> Sequence[Segmented]:
        """Ask the same in other ways about an image, and say anew what the answers are worth; the masks stay."""

    def sketch(self, image: Any, /) -> np.ndarray:
        """Say in (64,) float16 of length one what an image looks like, by what `encode_all` made of it."""


class Models(Protocol):
    """Who knows which model serves a project, as `workers.champions.Champions` does."""

    def of(self, project_id: int, /) -> Model:
        """Find what serves a project from now on; whoever asks once finishes what they have in hand on it."""


@dataclass
class Bench:
    """The tools of one worker process."""

    queue: JobQueue
    images: ImagesAhead
    models: Models
    stop: Stop
    """Whether the process is asked to end."""
    batch_images: int = 1
    """How many images are encoded at once; less and less where memory is short."""
    image_s: float = 0.0
    """What an image of the last batch took, in seconds; 0 before the first."""
    looks_left: float = 0.0
    """How many answers may be looked at again; each answer brings its share."""
    thumbnails: Thumbnails | None = None
    """Where pictures of answers go, if anywhere."""


BENCH: AtHand[Bench] = AtHand("rsrefseg-worker run")
"""One a process, as its model is."""
