"""Labelled images to training batches: cut, turn, recolour, then say what is true of the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from rsrefseg.datasets.gestures import POINTS, Gesture, point_at, union
from rsrefseg.datasets.labelled import LabelledImage
from rsrefseg.expressions import STRETCHED, SYNONYMS, Grammar, Thing, plural
from rsrefseg.features import PointPrompts
from rsrefseg.scenes.palette import COLOURS

CLASSES = tuple(SYNONYMS)
"""The classes that cells are matched with, in the order of `Batch.classes`."""

BACKGROUND, UNKNOWN = -1, -2
"""Pixels of no class, and pixels that nobody should be asked about."""


WHOLE = 240
"""The share of a pixel that is covered wholly: 15 for each of the 16 pixels that make it."""

CELL = 16
"""Side of a cell, in pixels of the images."""

SHOWN = 0.04
"""Share of a cell that an object has to cover for the cell to be asked about it."""


class Traits(NamedTuple):
    """What is true of the object that covers most of each cell, in b images; cells are of 16 pixels."""

    centre: Tensor
    """(b, 2, g, g) float: shares of the image's sides, x then y."""
    size: Tensor
    """(b, g, g) float: half the logarithm of its visible area in cells."""
    colour: Tensor
    """(b, g, g) int64: the position in `COLOURS`; -1 where it has no one colour, or nobody noted it."""
    weight: Tensor
    """(b, g, g) float: how much the cell counts; all cells of an object together as much as the root of their number, 0
    where there is none whose centre and size would mean anything."""


class Batch(NamedTuple):
    """b images with n expressions about them; masks at a quarter of the images' side, as the model draws them.

    Nearly all of it in bytes, since it passes between processes.
    """

    images: Tensor
    """(b, 3, s, s) uint8 RGB."""
    tokens: Tensor
    """(t,) int64: those of the n expressions, and of a wording for each of the k classes, one after the other."""
    lengths: list[int]
    """n + k of them."""
    image_index: Tensor
    """(n,) int64."""
    drawn: Tensor
    """(m,) int64: those of the n that a mask is drawn for; the rest are only looked for."""
    pointed: PointPrompts
    """Where a person points for each of the m; only `NOT_A_POINT` where nowhere."""
    said: Tensor
    """(m,) bool: whether the words are read at all, or only the pointing."""
    drawn_masks: Tensor
    """(m, s/4, s/4) uint8, in parts of `WHOLE`: what is to be drawn, which pointing narrows."""
    gt_masks: Tensor
    """(n, s/4, s/4) uint8, in parts of `WHOLE`: the share of each pixel that the expression names."""
    counted: Tensor
    """(b, s/4, s/4) bool, false where a cut-off object makes the truth unknown."""
    classes: Tensor
    """(b, s/4, s/4) int8, of every fourth pixel: the position in `CLASSES`, BACKGROUND or UNKNOWN."""
    looked_for: Tensor
    """(b, k) bool: whether the image's source labels that class at all."""
    traits: Traits
    """Of the objects in the b images."""

    @property
    def token_ids(self) -> Sequence[Tensor]:
        """Those of the expressions: n tensors (t_i,) int64."""
        said: tuple[Tensor, ...] = self.tokens.split(self.lengths)
        return said[: len(self.image_index)]

    @property
    def class_token_ids(self) -> Sequence[Tensor]:
        """Those of a wording for each class: k tensors (t_i,) int64."""
        said: tuple[Tensor, ...] = self.tokens.split(self.lengths)
        return said[len(self.image_index) :]

    def to(self, device: torch.device) -> Batch:
        """Bring it to where the model is.

        Args:
            device: Which.

        Returns:
            The same batch; its tokens stay where they are, since the text tower pads them first.
        """
        moved: Batch = _moved(self, device)
        return moved._replace(tokens=self.tokens)


def _moved(part: Any, device: torch.device) -> Any:
    if isinstance(part, Tensor):
        return part.to(device, non_blocking=True)
    return type(part)(*(_moved(one, device) for one in part)) if hasattr(part, "_fields") else part


def _cut(
    scene: LabelledImage, size: int, zoom: tuple[float, float], rng: np.random.Generator
) -> tuple[LabelledImage, np.ndarray]:
    # A square of `zoom` times the side, resized, flipped and turned; and how much of each object is left in it.
    side = scene.image.shape[0]
    part = round(side * rng.uniform(*zoom))
    x, y = rng.integers(0, side - part + 1, size=2)
    image, ids = scene.image[y : y + part, x : x + part], scene.ids[y : y + part, x : x + part]
    objects = len(scene.categories) + 1
    shown = np.bincount(ids.ravel(), minlength=objects) / np.maximum(
        1, np.bincount(scene.ids.ravel(), minlength=objects)
    )
    cut = replace(scene, image=image, ids=ids).resized(size)
    turns, step = int(rng.integers(4)), 1 if rng.random() < 0.5 else -1
    image, ids = np.rot90(cut.image, turns)[:, ::step], np.rot90(cut.ids, turns)[:, ::step]
    return replace(cut, image=np.ascontiguousarray(image), ids=np.ascontiguousarray(ids)), shown


def _recoloured(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    # Light, contrast, tint and sharpness change mildly enough that a red roof stays red.
    levels = np.linspace(0, 1, 256, dtype=np.float32) ** rng.uniform(0.75, 1.35)
    levels = (levels - 0.5) * rng.uniform(0.75, 1.25) + 0.5 + rng.uniform(-0.1, 0.1)
    table = (levels[:, None] * rng.uniform(0.92, 1.08, size=3)).astype(np.float32)  # (256, 3)
    x: np.ndarray = cv2.LUT(image, table[None])  # (s, s, 3)
    if rng.random() < 0.15:
        x = cv2.GaussianBlur(x, (0, 0), rng.uniform(0.4, 1.2))
    if rng.random() < 0.3:
        x = x + rng.normal(0, rng.uniform(0.005, 0.03), size=x.shape).astype(np.float32)
    return np.clip(255 * x + 0.5, 0, 255).astype(np.uint8)


class ReferringBatches:
    """Batches from several sources, by their numbers.

    Args:
        sources: Labelled square images, and the share of each source in a batch.
        tokenizer: Words to ids.
        seed: Of every choice; the same seed and number give the same batch.
        images_per_batch: b.
        expressions_per_image: Most expressions about one image.
        drawn_per_image: To how many of them a mask belongs.
    """

    def __init__(
        self,
        sources: Sequence[tuple[Sequence[LabelledImage], float]],
        tokenizer: Callable[[str], Tensor],
        seed: int,
        images_per_batch: int,
        expressions_per_image: int,
        drawn_per_image: int,
    ) -> None:
        self._sources = sources
        self._tokenizer = tokenizer
        self._seed = seed
        self._images = images_per_batch
        self._expressions = expressions_per_image
        self._drawn = drawn_per_image

    def batch(self, number: int, size: int, zoom: tuple[float, float]) -> Batch:
        """Make a batch.

        Args:
            number: Which; a resumed run sees what the unbroken one would have seen.
            size: Side s of the images, in pixels.
            zoom: Smallest and largest share of a side to cut out.

        Returns:
            The batch.
        """
        rng = np.random.default_rng((self._seed, number))
        shares = np.array([share for _, share in self._sources])
        images: list[np.ndarray] = []
        token_ids: list[Tensor] = []
        index: list[int] = []
        drawn: list[int] = []
        gestures: list[Gesture] = []
        gt_masks: list[np.ndarray] = []
        counted: list[np.ndarray] = []
        classes: list[np.ndarray] = []
        looked_for: list[np.ndarray] = []
        traits: list[Traits] = []
        while len(images) < self._images:
            source = self._sources[int(rng.choice(len(shares), p=shares / shares.sum()))][0]
            scene = source[int(rng.integers(len(source)))]
            cut, shown = _cut(scene, size, zoom, rng)
            things, unknown = self._visible(cut, shown)
            referrals = Grammar(things, rng, scene.vocabulary).referrals(self._expressions)
            for place, referral in enumerate(referrals):
                if place < self._drawn:
                    drawn.append(len(token_ids))
                    gestures.append(point_at(things, referral, unknown.shape, rng))
                token_ids.append(self._tokenizer(_roughened(referral.expression, rng)))
                index.append(len(images))
                gt_masks.append(_quartered(union(things, referral.indices, unknown.shape)))
            images.append(_recoloured(cut.image, rng))
            counted.append(_quartered(unknown) == 0)
            classes.append(_class_map(cut, unknown))
            looked_for.append(np.isin(CLASSES, scene.vocabulary))
            traits.append(_traits(things, size // CELL))
        token_ids += [self._tokenizer(class_words(name, rng)) for name in CLASSES]
        return Batch(
            torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2),
            torch.cat(token_ids),
            [len(ids) for ids in token_ids],
            torch.tensor(index, dtype=torch.long),
            torch.tensor(drawn, dtype=torch.long),
            PointPrompts(
                torch.tensor([one.points for one in gestures], dtype=torch.float32).reshape(-1, POINTS, 2),
                torch.tensor([one.kinds for one in gestures], dtype=torch.long).reshape(-1, POINTS),
            ),
            torch.tensor([one.said for one in gestures], dtype=torch.bool),
            torch.from_numpy(np.stack([_quartered(one.mask) for one in gestures]))
            if gestures
            else torch.zeros(0, size // 4, size // 4, dtype=torch.uint8),
            torch.from_numpy(np.stack(gt_masks)),
            torch.from_numpy(np.stack(counted)),
            torch.from_numpy(np.stack(classes)),
            torch.from_numpy(np.stack(looked_for)),
            Traits(*(torch.stack(parts) for parts in zip(*traits, strict=True))),
        )

    @staticmethod
    def _visible(cut: LabelledImage, shown: np.ndarray) -> tuple[list[Thing], np.ndarray]:
        # Objects that the cut still shows, apart from remnants nobody should be asked about.
        things, unknown = [], np.zeros(cut.ids.shape, bool)
        pixels = np.bincount(cut.ids.ravel(), minlength=len(shown))
        for number in np.flatnonzero(pixels[1:]) + 1:
            mask = cut.ids == number
            if pixels[number] >= 24 and shown[number] >= 0.25:
                things.append(Thing(cut.categories[number - 1], mask, cut.colours[number - 1]))
            else:
                unknown |= mask
        return things, unknown


def _roughened(expression: str, rng: np.random.Generator) -> str:
    # People do not write like a grammar.
    if rng.random() < 0.1:
        expression = expression.removeprefix("the ")
    if rng.random() < 0.1:
        expression = expression.capitalize() + rng.choice(["", "."])
    return misspelt(expression, rng) if rng.random() < 0.1 else expression


def misspelt(expression: str, rng: np.random.Generator) -> str:
    """Make one slip of the finger, in a word that is long enough to be read all the same.

    Args:
        expression: Such as "the leftmost airplane".
        rng: Chooses where and which.

    Returns:
        Such as "the leftmost airpalne"; the same where no word has five letters.
    """
    words = expression.split(" ")
    long = [number for number, word in enumerate(words) if len(word) >= 5]
    if not long:
        return expression
    number = long[int(rng.integers(len(long)))]
    word = words[number]
    at = int(rng.integers(1, len(word) - 1))  # the first letter is seldom wrong
    slips = (
        word[:at] + word[at + 1] + word[at] + word[at + 2 :],
        word[:at] + word[at + 1 :],
        word[:at] + word[at] + word[at:],
        word[:at] + "abcdefghijklmnopqrstuvwxyz"[int(rng.integers(26))] + word[at + 1 :],
    )
    words[number] = slips[int(rng.integers(len(slips)))]
    return " ".join(words)


def _quartered(mask: np.ndarray) -> np.ndarray:
    h, w = mask.shape
    shares: np.ndarray = cv2.resize(
        mask.view(np.uint8) * np.uint8(WHOLE), (w // 4, h // 4), interpolation=cv2.INTER_AREA
    )
    return shares


def _traits(things: Sequence[Thing], grid: int) -> Traits:
    shares: np.ndarray = np.zeros((grid, grid), np.float32)  # of the object that covers most of the cell so far
    number = np.full((grid, grid), -1)
    known = np.zeros((len(things) + 1, 5), np.float32)  # x, y, size, colour, weight; the last row is of no object
    known[:, 3] = -1
    for place, thing in enumerate(things):
        share = cv2.resize(thing.mask.astype(np.float32), (grid, grid), interpolation=cv2.INTER_AREA)
        number[share > shares] = place
        shares = np.maximum(shares, share)
        known[place, :2] = thing.extent.x, thing.extent.y
        known[place, 2] = np.log(thing.extent.area / CELL**2) / 2
        known[place, 3] = COLOURS.index(thing.colour) if thing.colour in COLOURS else -1
        known[place, 4] = thing.category not in STRETCHED
    number[shares < SHOWN] = -1
    cells = np.bincount(number[number >= 0], minlength=len(things) + 1)
    known[:, 4] /= np.sqrt(np.maximum(cells, 1))
    x, y, size, colour, weight = torch.from_numpy(known[number]).permute(2, 0, 1)
    return Traits(torch.stack([x, y]), size, colour.long(), weight)


def _class_map(cut: LabelledImage, unknown: np.ndarray) -> np.ndarray:
    table = np.array([BACKGROUND, *(CLASSES.index(c) if c in CLASSES else BACKGROUND for c in cut.categories)], np.int8)
    classes: np.ndarray = table[cut.ids[::4, ::4]]
    classes[unknown[::4, ::4]] = UNKNOWN
    return classes


def class_words(category: str, rng: np.random.Generator) -> str:
    """Word a class.

    Args:
        category: One of `CLASSES`.
        rng: Chooses among synonyms, singular and plural.

    Returns:
        Such as "all aircraft".
    """
    noun = SYNONYMS[category][int(rng.integers(len(SYNONYMS[category])))]
    wordings = (noun, f"the {noun}", f"all {plural(noun)}", plural(noun), f"the {plural(noun)}")
    return wordings[int(rng.integers(len(wordings)))]
