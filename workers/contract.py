"""The only words two rooms share: what crosses Redis, as frozen JSON models.

    PredictJob, in a Chunk --worker--> Answer | Refusal

This module imports no torch; images cross as URIs, masks as COCO run lengths.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from functools import cached_property
from typing import Annotated, Literal, Self

import numpy as np
from pycocotools import mask as coco_mask
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

EXPRESSION_LIMIT = 512
"""Longest expression accepted, in characters; the text tower reads fewer."""

ASKS_LIMIT = 64
"""Most expressions about one image in one job."""

IMAGES_LIMIT = 16
"""Most images in one job."""

POINTS_LIMIT = 64
"""Most points that go with one expression."""

PIXELS_LIMIT = 200_000_000
"""Largest image, height times width, that a mask may claim to cover."""


class Wire(BaseModel):
    """What every message on Redis has in common: frozen, closed, plain JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Rle(Wire):
    """A mask as COCO's compressed run lengths: columns first, background first."""

    size_hw: tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]]
    counts: Annotated[str, Field(max_length=20_000_000)]

    @classmethod
    def from_mask(cls, mask: np.ndarray) -> Self:
        """Encode a mask.

        Args:
            mask: (h, w) bool.

        Returns:
            Its run lengths.
        """
        encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
        return cls(size_hw=(mask.shape[0], mask.shape[1]), counts=encoded["counts"].decode("ascii"))

    def to_mask(self) -> np.ndarray:
        """Decode the run lengths.

        Returns:
            (h, w) bool.

        Raises:
            ValueError: If the size is beyond `PIXELS_LIMIT`, or the runs do not cover it.
        """
        height, width = self.size_hw
        if height * width > PIXELS_LIMIT:
            raise ValueError(f"a mask of {height} x {width} pixels is larger than {PIXELS_LIMIT} pixels")
        try:
            decoded: np.ndarray = coco_mask.decode({"size": [height, width], "counts": self.counts.encode("ascii")})
        except (ValueError, TypeError) as exc:
            raise ValueError(f"the run lengths do not describe a mask of {height} x {width} pixels") from exc
        return decoded.astype(bool)


OutputType = Literal["brushlabels", "bitmasklabels", "polygonlabels", "rectanglelabels"]
"""The controls of Label Studio that take what a mask shows."""

Share = Annotated[float, Field(ge=0, le=1)]
"""Of an image's width or height, from its upper left corner."""


class Output(Wire):
    """A control of the labeling config, and how a mask is written for it."""

    from_name: str
    to_name: str
    type: OutputType
    words_name: str | None = None
    """The <TextArea perRegion="true"> that is told the expression."""
    instances: bool = False
    """Whether each connected part of a mask becomes a region of its own."""
    rotated: bool = False
    """Whether a rectangle may be turned to fit more closely."""


class Rules(Wire):
    """How masks are cleaned and made small enough for the editor, before they become regions."""

    speck_pixels: Annotated[int, Field(ge=0)] = 16
    """A part of a mask that has fewer pixels is left out, unless it is the largest."""
    speck_share: Share = 0.002
    """The same, as a share of the largest part."""
    pinhole_pixels: Annotated[int, Field(ge=0)] = 16
    """A hole that has fewer pixels is filled."""
    polygon_hole_pixels: Annotated[int, Field(ge=0)] = 400
    """A hole of a polygon that has fewer pixels is filled; a larger one is cut out."""
    tolerance_px: Annotated[float, Field(ge=0, le=100)] = 1.0
    """How far a polygon may lie from the mask's edge, in pixels."""
    regions_limit: Annotated[int, Field(ge=1)] = 200
    """Most regions of one prediction; beyond it the smallest are left out, though no expression loses its last."""
    points_limit: Annotated[int, Field(ge=100)] = 5_000
    """Most points of one prediction's polygons; beyond it masks are drawn more and more coarsely."""
    bytes_limit: Annotated[int, Field(ge=10_000)] = 2_000_000
    """Most JSON of one prediction's regions, in bytes; beyond it too."""


class Point(Wire):
    """Where a person clicked."""

    x: Share
    y: Share
    inside: bool = True
    """Whether it is on what they mean, or on what they don't."""


class Pointed(Wire):
    """What a person drew with smart tools: SAM's own prompts."""

    points: Annotated[tuple[Point, ...], Field(max_length=POINTS_LIMIT)] = ()
    box_xyxy: tuple[Share, Share, Share, Share] | None = None

    @model_validator(mode="after")
    def _somewhere(self) -> Self:
        if not self.points and self.box_xyxy is None:
            raise ValueError("there is neither a point nor a box")
        return self


class Ask(Wire):
    """What one mask is to show, and where it goes."""

    expression: Annotated[str, Field(max_length=EXPRESSION_LIMIT)]
    """Empty only where something was pointed at."""
    label: Annotated[str, Field(min_length=1)]
    output: Output
    image: Annotated[int, Field(ge=0, lt=IMAGES_LIMIT)] = 0
    """Which of the job's images it is about."""
    pointed: Pointed | None = None

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if not self.expression and self.pointed is None:
            raise ValueError("there is neither an expression nor a place")
        return self


class PredictJob(Wire):
    """Ask for the regions that one or more expressions refer to in the images of one task."""

    schema_version: Literal[1] = 1
    project_id: int
    task_id: int
    image_uris: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=4_000_000)], ...],
        Field(min_length=1, max_length=IMAGES_LIMIT),
    ]
    """As the task holds them: an upload path, a local-files path, http(s), s3, or a data URI."""
    asks: Annotated[tuple[Ask, ...], Field(min_length=1, max_length=ASKS_LIMIT)]
    model_version: str = ""
    """The version the asker expects; the answer names the version that really computed it."""
    interactive: bool = False
    """A person waits in the editor: the answer goes back to the caller and is not delivered."""
    rules: Rules | None = None
    """How its masks are cleaned; None where the project leaves that to us."""
    asked_at: AwareDatetime | None = None
    """When it was taken in."""
    traceparent: Annotated[str, Field(max_length=55)] | None = None
    """Its place in a trace, as W3C Trace Context writes it; None where nothing is told of it."""

    @model_validator(mode="after")
    def _about_its_images(self) -> Self:
        if max(ask.image for ask in self.asks) >= len(self.image_uris):
            raise ValueError("an ask is about an image that the job does not have")
        return self

    @cached_property
    def key(self) -> str:
        """Name the request, so that the same question is never computed twice at once nor stored twice.

        Returns:
            32 hexadecimal digits over everything that makes the answer.
        """
        question = self.model_dump_json(exclude={"asked_at", "traceparent"})
        return hashlib.sha256(question.encode()).hexdigest()[:32]

    def taken_in(self, at: datetime, traceparent: str | None) -> Self:
        """Note when and by which way the request came; it stays the same request.

        Args:
            at: When.
            traceparent: Its place in a trace.

        Returns:
            The request with these.
        """
        noted = self.model_copy(update={"asked_at": at, "traceparent": traceparent})
        noted.__dict__["key"] = self.key  # Data URIs of megabytes are not hashed again.
        return noted

    def __copy__(self) -> Self:
        # A copy is made to be changed, and then has a key of its own.
        copy = super().__copy__()
        copy.__dict__.pop("key", None)
        return copy


class Chunk(Wire):
    """Requests of one project that a worker takes together; those about the same images stand side by side."""

    schema_version: Literal[1] = 1
    requests: Annotated[tuple[PredictJob, ...], Field(min_length=1)]
    tries: Annotated[int, Field(ge=0)] = 0
    """How often an image of theirs was away."""

    @property
    def project_id(self) -> int:
        """The project of all its requests."""
        return self.requests[0].project_id


class Found(Wire):
    """What one expression refers to; an all-false mask says that nothing does."""

    expression: str
    label: str
    mask: Rle
    score: Annotated[float, Field(ge=0, le=1)]
    """Confidence that the mask is right."""
    predicted_iou: Annotated[float, Field(ge=0, le=1)]
    """The mask decoder's own estimate of the mask's IoU."""


class Answer(Wire):
    """The masks that a job asked for, in the order of its asks."""

    kind: Literal["answer"] = "answer"
    job: PredictJob
    model_version: Annotated[str, Field(min_length=1)]
    found: tuple[Found, ...]
    seconds: Annotated[float, Field(ge=0)]
    """Time from taking the job to having the masks, image download included."""

    @property
    def score(self) -> float:
        """The lowest of its expressions': a mean would hide the one bad mask that somebody should look at."""
        return min((found.score for found in self.found), default=0.0)


class Refusal(Wire):
    """An expected no: whose move it is, and why."""

    kind: Literal["refusal"] = "refusal"
    job: PredictJob
    move: Literal["annotator", "wait", "ours"]
    reason: Annotated[str, Field(min_length=1)]


class TrainJob(Wire):
    """Teach a project's champion further by what its annotators corrected."""

    schema_version: Literal[1] = 1
    project_id: int
    why: Literal["count", "time", "asked"]
    """There were enough new corrections, or old ones enough; or a person said so."""
    promote: bool = False
    """Promote the outcome whatever the gate says; its verdict is kept all the same."""


class Training(Wire):
    """How far the teaching of a project is, for those who watch."""

    project_id: int
    stage: Literal["waiting", "collecting", "learning", "scoring", "promoted", "refused", "failed"]
    """The last three are ends."""
    why: Literal["count", "time", "asked"]
    began_at: AwareDatetime
    at: AwareDatetime
    """Of this word."""
    done: int = 0
    """Of what the stage goes through before, or instead of, steps: tasks collected, images read, answers."""
    of: int = 0
    """How many there are; 0 where nobody knows yet."""
    step: int = 0
    steps: int = 0
    loss: float | None = None
    corrections: int = 0
    before: float | None = None
    """mIoU of the champion on the held-out scenes, in percent."""
    after: float | None = None
    """The challenger's."""
    version: str | None = None
    """The challenger's name."""
    reason: str = ""
    """Why it ended as it did, in a sentence for people."""

    @property
    def gone_through(self) -> tuple[int, int]:
        """How much of its stage is done, and of how much: steps, or what comes before and after them."""
        return (self.done, self.of) if self.of else (self.step, self.steps)


Reply = Annotated[Answer | Refusal, Field(discriminator="kind")]
