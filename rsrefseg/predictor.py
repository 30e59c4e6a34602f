"""Numpy in, numpy out: the one door for inference."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from rsrefseg import checkpoint
from rsrefseg.cache import FeatureCache
from rsrefseg.calibration import UNCALIBRATED, Calibration
from rsrefseg.device import device_named
from rsrefseg.errors import BadCheckpoint, BadImage, CannotCompile, MissingWeights, UnknownPreset
from rsrefseg.features import BOTTOM_RIGHT, INSIDE, NOT_A_POINT, OUTSIDE, TOP_LEFT, ImageFeatures, PointPrompts
from rsrefseg.model import Decoded, RSRefSeg
from rsrefseg.pictures import squared
from rsrefseg.pointing import Pointing
from rsrefseg.precision import Dtype, dtype_named, lower
from rsrefseg.second_look import disagreements
from rsrefseg.sketch import sketch
from rsrefseg.tokenizer import Tokenize, tokenizer_for

CACHE_BYTES = 256 * 1024 * 1024
"""Room for the features of 33 images of preset b, or of 30 of preset tiny."""

_IMAGES_AT_ONCE = {"cpu": 1}
_MASKS_AT_ONCE = {"cpu": 1}
"""On a CPU masks drawn together are slower than one by one: what is between the layers leaves the caches."""
_AT_ONCE = 16
"""Anywhere else, where a few are too little work for the device."""
_EXPRESSIONS_AT_ONCE = 32


@dataclass(frozen=True)
class ImageEmbedding:
    """What the model keeps of an image; ask about it as often as you like."""

    features: ImageFeatures
    size_hw: tuple[int, int]
    """Of the image itself, in pixels."""


@dataclass(frozen=True)
class Segment:
    """What an expression refers to."""

    expression: str
    mask: np.ndarray
    """(h, w) bool at the image's own size; all false where nothing fits the words."""
    score: float
    """The chance that the mask's IoU is above one half, in [0, 1]: the predicted IoU times how decided the pixels are,
    calibrated where the checkpoint was."""
    predicted_iou: float
    """The mask decoder's own estimate, in [0, 1]."""


class Predictor:
    """Segment what words refer to.

    Args:
        model: In float32; it is changed in place.
        version: Names the weights.
        device: "cpu", "cuda" or "cuda:1".
        tokenizer: Words to ids; None where the text tower needs no file for it.
        dtype: "float32", "bfloat16" or "float16"; what that would spoil is computed in float32 all the same.
        compile: Compile the image encoder, which makes the first image slow and those after it faster.
        cache_bytes: Most memory for features of images that may be asked about again; 0 for none.
        calibration: What its confidence is worth.
    """

    def __init__(
        self,
        model: RSRefSeg,
        version: str,
        device: str = "cpu",
        tokenizer: Tokenize | None = None,
        *,
        dtype: Dtype = "float32",
        compile: bool = False,
        cache_bytes: int = CACHE_BYTES,
        calibration: Calibration = UNCALIBRATED,
    ) -> None:
        self.calibration = calibration
        self.dtype = dtype_named(dtype)
        lower(model, self.dtype)
        self.device = device_named(device)
        self.model = model.to(self.device).eval()
        if compile:
            self.model.image_encoder.compile()
        self.version = self.base_version = version
        """What draws, and what it is loaded over: the same unless this one was made by `with_heads`."""
        self.cache = FeatureCache(cache_bytes)
        self.tokenizer = tokenizer or tokenizer_for(model.preset.text, None)

    @classmethod
    def from_preset(
        cls,
        name: str,
        device: str = "cpu",
        *,
        dtype: Dtype = "float32",
        compile: bool = False,
        cache_bytes: int = CACHE_BYTES,
    ) -> Predictor:
        """Load the weights that come with the package.

        Args:
            name: "tiny".
            device: Where to run.
            dtype: As of the class.
            compile: As of the class.
            cache_bytes: As of the class.

        Returns:
            Ready to use.
        """
        folder = checkpoint.shipped(name)
        return cls.from_checkpoint(folder, device, dtype=dtype, compile=compile, cache_bytes=cache_bytes)

    @classmethod
    def from_checkpoint(
        cls,
        folder: str | Path,
        device: str = "cpu",
        foundation: str | Path | None = None,
        *,
        dtype: Dtype = "float32",
        compile: bool = False,
        cache_bytes: int = CACHE_BYTES,
    ) -> Predictor:
        """Load weights from a folder.

        Args:
            folder: A checkpoint; heads alone only where they belong over weights that come with the package.
            device: Where to run.
            foundation: Where the foundation weights lie, for checkpoints of adapters alone; None for the default.
            dtype: As of the class.
            compile: As of the class.
            cache_bytes: As of the class.

        Returns:
            Ready to use.
        """
        folder, below = Path(folder), Path(foundation) if foundation else None
        config = checkpoint.read_config(folder)
        if config.holds == "heads":
            shipped = _shipped_base(folder, config)
            base = cls.from_checkpoint(shipped, device, dtype=dtype, compile=compile, cache_bytes=cache_bytes)
            return base.with_heads(folder)
        model = checkpoint.load(folder, below)
        words = checkpoint.vocabulary(folder, model.preset, below)
        model.merge_adapters()
        return cls(
            model,
            checkpoint.version(folder),
            device,
            tokenizer_for(model.preset.text, words),
            dtype=dtype,
            compile=compile,
            cache_bytes=cache_bytes,
            calibration=config.calibration,
        )

    def with_heads(self, folder: str | Path) -> Predictor:
        """Load other heads beside one's own, over the same image encoder and cache: what one encoded serves both.

        Args:
            folder: A checkpoint of heads, over the base that this one was loaded from.

        Returns:
            A second predictor, of the same device and precision; this one stays as it is.
        """
        folder = Path(folder)
        model = checkpoint.load_heads(self.model, folder, self.base_version)
        other = copy.copy(self)
        other.model, other.version = model, checkpoint.version(folder)
        other.calibration = checkpoint.read_config(folder).calibration
        return other

    def encode(self, image: np.ndarray) -> ImageEmbedding:
        """Do the expensive part, which no expression changes, or find it in the cache.

        Args:
            image: (h, w, 3) uint8 RGB.

        Returns:
            The reusable part.
        """
        return self.encode_all([image])[0]

    @torch.inference_mode()
    def encode_all(self, images: Sequence[np.ndarray]) -> list[ImageEmbedding]:
        """Encode several images, as many at once as suits the device.

        Args:
            images: (h, w, 3) uint8 RGB each, of any sizes.

        Returns:
            The reusable part of each, in their order.
        """
        squares = [self._square(image) for image in images]
        # What the model sees decides, not what it was made from; and large images take long to digest.
        keys = [(self.base_version, hashlib.blake2b(square.data, digest_size=16).digest()) for square in squares]
        kept = {key: self.cache.get(key) for key in dict.fromkeys(keys)}
        found = {key: features for key, features in kept.items() if features is not None}
        missing = {key: square for key, square in zip(keys, squares, strict=True) if key not in found}
        unknown = list(missing)
        for some in _parts(len(unknown), _IMAGES_AT_ONCE.get(self.device.type, _AT_ONCE)):
            encoded = self._features([missing[key] for key in unknown[some]])
            for key, features in zip(unknown[some], encoded, strict=True):
                self.cache.put(key, features)
                found[key] = features
        return [
            ImageEmbedding(found[key], (image.shape[0], image.shape[1]))
            for key, image in zip(keys, images, strict=True)
        ]

    def _square(self, image: np.ndarray) -> np.ndarray:
        check_image(image)
        return squared(image, self.model.preset.image_size, self.model.preset.antialias)

    def _features(self, squares: Sequence[np.ndarray]) -> list[ImageFeatures]:
        pixels = torch.from_numpy(np.stack(squares)).to(self.device).permute(0, 3, 1, 2).to(self.dtype) / 255
        try:
            features = self.model.encode_image(pixels)  # of b images
        except RuntimeError as exc:
            if "C++ compiler" not in str(exc):
                raise
            raise CannotCompile("there is no C++ compiler to compile with: install g++, or leave compile out") from exc
        if len(squares) == 1:
            return [features]
        # Copied, or the cache would keep the whole batch for the sake of one.
        return [ImageFeatures(*(part[i : i + 1].clone() for part in features)) for i in range(len(squares))]

    @torch.inference_mode()
    def segment(
        self,
        image: np.ndarray | ImageEmbedding,
        expressions: Sequence[str],
        pointings: Sequence[Pointing | None] | None = None,
    ) -> list[Segment]:
        """Find what each expression refers to.

        Args:
            image: (h, w, 3) uint8 RGB, or what `encode` made of it.
            expressions: Words in plain English; an empty one where pointing says it all.
            pointings: Where to look for each of them, which narrows what its words refer to; None for nowhere.

        Returns:
            One segment for each expression, in their order.

        Raises:
            TypeError: If one string is given instead of several.
            ValueError: If there are not as many pointings as expressions.
        """
        if isinstance(expressions, str):
            raise TypeError("expressions is a list of strings: write ['the ship'] for one")
        if pointings is None:
            pointings = [None] * len(expressions)
        if len(pointings) != len(expressions):
            raise ValueError(f"there are {len(pointings)} pointings for {len(expressions)} expressions")
        # Before the image: words that are refused should not cost its encoding.
        token_ids = [
            None if pointing and not words.strip() else self.tokenizer(words).to(self.device)
            for words, pointing in zip(expressions, pointings, strict=True)
        ]
        if not token_ids:
            return []
        embedding = image if isinstance(image, ImageEmbedding) else self.encode(image)
        found: dict[int, Segment] = {}
        for some in _alike(token_ids, pointings):
            decoded = self._decoded(embedding, [token_ids[i] for i in some], [pointings[i] for i in some])
            for i, logits, predicted_iou in zip(some, decoded.low_res_logits, decoded.predicted_iou, strict=True):
                sure = float(predicted_iou.clamp(0, 1))
                segment = self._segment(expressions[i], logits, sure, embedding.size_hw)
                pointing = pointings[i]
                found[i] = replace(segment, mask=pointing.narrow(segment.mask)) if pointing else segment
        return [found[i] for i in range(len(expressions))]

    def look_again(self, image: np.ndarray, segments: Sequence[Segment]) -> list[Segment]:
        """Ask the same in a mirror and in other words, and think again of what one's answers are worth.

        Args:
            image: (h, w, 3) uint8 RGB.
            segments: Answers about it, to words; what was pointed at is not looked at again.

        Returns:
            The same masks with new scores; the same scores where the checkpoint does not know what that is worth.
        """
        if self.calibration.second_look is None or not segments:
            return list(segments)
        found = disagreements(self, image, segments)
        return [
            replace(one, score=self.calibration.score_again(one.score, disagreement))
            for one, disagreement in zip(segments, found, strict=True)
        ]

    def sketch(self, embedding: ImageEmbedding) -> np.ndarray:
        """Sum up what an image looks like.

        Args:
            embedding: What `encode` made of it.

        Returns:
            (64,) float16 of length one: what lies near it was made of an image that looks alike, by the same encoder.
        """
        return sketch(embedding.features.clip.float().mean(dim=(0, 2, 3)).cpu().numpy())

    def _decoded(
        self, embedding: ImageEmbedding, token_ids: list[torch.Tensor | None], pointings: list[Pointing | None]
    ) -> Decoded:
        words = [ids for ids in token_ids if ids is not None]
        text = self.model.encode_text(words) if words else None
        gestures = [pointing for pointing in pointings if pointing]
        pointed = point_prompts(gestures, self.device) if gestures else None
        about = torch.zeros(len(token_ids), dtype=torch.long, device=self.device)
        masks_at_once = _MASKS_AT_ONCE.get(self.device.type, _AT_ONCE)
        return self.model.decode(embedding.features, text, about, masks_at_once, pointed)

    def _segment(
        self, expression: str, low_res_logits: torch.Tensor, predicted_iou: float, size_hw: tuple[int, int]
    ) -> Segment:
        size = self.model.preset.image_size
        logits = low_res_logits.float()[None, None]
        for step in ((size, size), size_hw):  # in two steps, as the model was trained and published
            logits = functional.interpolate(logits, size=step, mode="bilinear", align_corners=False)
        mask = (logits[0, 0] > 0).cpu().numpy()
        probability = torch.sigmoid(low_res_logits.float())
        inside = probability > 0.5
        decided = float(probability[inside].mean()) if bool(inside.any()) else 1 - float(probability.max())
        return Segment(expression, mask, self.calibration.score(predicted_iou * decided), predicted_iou)


def _shipped_base(folder: Path, config: checkpoint.Config) -> Path:
    # The only base that can be found by its version.
    try:
        shipped = checkpoint.shipped(config.preset.name)
        if checkpoint.version(shipped) == config.base:
            return shipped
    except (MissingWeights, UnknownPreset):
        pass
    raise BadCheckpoint(
        f"the heads in {folder} belong over the base {config.base}, which does not come with the package: load its "
        "checkpoint, then Predictor.with_heads"
    )


def check_image(image: np.ndarray) -> None:
    """Refuse what is not an image as the model wants it, and say how to make it one.

    Args:
        image: Should be (h, w, 3) uint8 RGB.

    Raises:
        BadImage: If it is not.
    """
    if not isinstance(image, np.ndarray):
        raise BadImage(
            f"an image is a numpy array, (h, w, 3) uint8 RGB, not {type(image).__name__}: np.asarray makes one"
        )
    what = f"an image is (h, w, 3) uint8 RGB, this is {image.shape} {image.dtype}"
    if 0 in image.shape:
        raise BadImage(f"{what}: it has no pixels")
    if image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 1):
        raise BadImage(f"{what}: repeat the grey channel, np.dstack([grey] * 3)")
    if image.ndim == 3 and image.shape[2] == 4:
        raise BadImage(f"{what}: leave out the fourth channel, image[:, :, :3]")
    if image.ndim == 3 and image.shape[0] == 3 != image.shape[2]:
        raise BadImage(f"{what}: put the channels last, image.transpose(1, 2, 0)")
    if image.ndim != 3 or image.shape[2] != 3:
        raise BadImage(f"{what}: choose three channels of one image")
    if image.dtype != np.uint8:
        raise BadImage(f"{what}: scale it to 0 ... 255, without NaN, then image.astype(np.uint8)")


def point_prompts(pointings: Sequence[Pointing], device: torch.device) -> PointPrompts:
    """Write gestures as SAM's prompts: all of them with as many points, boxes or none.

    Args:
        pointings: n of them, alike in the numbers of their points.
        device: Where they are needed.

    Returns:
        (n, k) prompts.
    """
    points, kinds = [], []
    for pointing in pointings:
        box = pointing.box_xyxy
        # As SAM does: a place that is none stands for the box that is not there.
        corners = [(TOP_LEFT, box[:2]), (BOTTOM_RIGHT, box[2:])] if box else [(NOT_A_POINT, (0.0, 0.0))]
        row = [(INSIDE, p) for p in pointing.inside] + [(OUTSIDE, p) for p in pointing.outside] + corners
        kinds.append([kind for kind, _ in row])
        points.append([place for _, place in row])
    return PointPrompts(torch.tensor(points, device=device), torch.tensor(kinds, device=device))


def _alike(token_ids: Sequence[object], pointings: Sequence[Pointing | None]) -> Iterator[list[int]]:
    # What can be decoded together: with words or without, and with as many points.
    kinds: dict[object, list[int]] = {}
    for i, (words, pointing) in enumerate(zip(token_ids, pointings, strict=True)):
        shape = pointing and (len(pointing.inside) + len(pointing.outside), pointing.box_xyxy is None)
        kinds.setdefault((words is None, shape), []).append(i)
    for rows in kinds.values():
        for some in _parts(len(rows), _EXPRESSIONS_AT_ONCE):
            yield rows[some]


def _parts(count: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, count, size))
