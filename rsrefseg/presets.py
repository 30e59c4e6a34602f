"""The sizes a model comes in: frozen, and saved beside the weights they describe."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any

from rsrefseg.errors import UnknownPreset


@dataclass(frozen=True)
class SharedTrunk:
    """One small convolutional trunk for both image paths."""

    channels: tuple[int, int, int, int]
    """At strides 4, 8, 16 and 32."""
    blocks: tuple[int, int, int, int]
    """Residual blocks at the same strides."""
    pyramid: tuple[int, int]
    """Channels of the maps that carry what was understood back to strides 8 and 4."""
    colours: int
    """How many colours of objects it tells apart."""
    refined: tuple[int, int] = (0, 0)
    """Residual blocks on those maps, once they are understood; models of before have none."""


@dataclass(frozen=True)
class SamVit:
    """SAM's image encoder, patches of 16 pixels."""

    width: int
    layers: int
    heads: int
    window: int
    """Side of the windows that most layers attend within, in patches."""
    global_layers: tuple[int, ...]
    """The layers that attend to the whole image."""


@dataclass(frozen=True)
class SiglipVision:
    """SigLIP's image tower; its width is the preset's `clip_dim`."""

    image_size: int
    """Side of the square it reads, in pixels."""
    patch_size: int
    layers: int
    heads: int
    mlp_dim: int


@dataclass(frozen=True)
class PairedVits:
    """SAM's image encoder and SigLIP's beside it, each on its own copy of the image."""

    sam: SamVit
    siglip: SiglipVision


@dataclass(frozen=True)
class ClipText:
    """A small text tower on CLIP's byte-pair vocabulary."""

    layers: int
    width: int
    heads: int
    positions: int
    """Longest expression in tokens, start and end included."""
    vocab_size: int
    embedding_rank: int
    """Width of the factorised token table."""


@dataclass(frozen=True)
class SiglipText:
    """SigLIP's text tower on its sentencepiece vocabulary; its width is the preset's `clip_dim`."""

    layers: int
    heads: int
    mlp_dim: int
    positions: int
    """Longest expression in tokens, the end included."""
    vocab_size: int


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters on the encoders, whose own weights stay as they are.

    Source:
        Hu et al., arXiv 2106.09685.
    """

    rank: int = 16
    alpha: float = 16.0
    """The adapters' sum is multiplied by alpha / rank."""
    dropout: float = 0.1


@dataclass(frozen=True)
class Preset:
    """Every number that makes the graph; two models of one preset can share weights."""

    name: str
    image_size: int
    """Side S of the square that SAM's path reads, in pixels; masks come out at S / 4."""
    antialias: bool
    """Whether large images are averaged when they shrink to S; upstream's presets sample them instead."""
    clip_dim: int
    """Channels c of the image-text space."""
    decoder_dim: int
    """Channels d of SAM's prompts and image embedding."""
    decoder_heads: int
    decoder_mlp_dim: int
    multimask_outputs: int
    """SAM's spare masks beside the one that is used."""
    image: SharedTrunk | PairedVits
    text: ClipText | SiglipText
    lora: Lora | None
    """None where the encoders have no adapters: they never had, or these are merged into the weights."""

    def as_dict(self) -> dict[str, Any]:
        """Write every field in words that JSON has.

        Returns:
            What `from_dict` reads.
        """
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preset:
        """Read back what `as_dict` wrote.

        Args:
            values: The fields by name; lists stand for tuples, and each tower says its kind.

        Returns:
            The preset.
        """
        return cls(**_fields(cls, values))


_KINDS = {kind.__name__: kind for kind in (SharedTrunk, PairedVits, ClipText, SiglipText, SamVit, SiglipVision, Lora)}


def _plain(value: Any) -> Any:
    if not is_dataclass(value):
        return value
    return {"kind": type(value).__name__, **{f.name: _plain(getattr(value, f.name)) for f in fields(value)}}


def _fields(kind: type[Any], values: dict[str, Any]) -> dict[str, Any]:
    names = {field.name for field in fields(kind)}
    needed = {field.name for field in fields(kind) if field.default is MISSING}
    if wrong := (needed - set(values)) | (set(values) - names):
        raise UnknownPreset(f"the fields of {kind.__name__} differ: {', '.join(sorted(wrong))}")
    return {name: _parsed(value) for name, value in values.items()}


def _parsed(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(value)
    if not isinstance(value, dict):
        return value
    rest = {name: part for name, part in value.items() if name != "kind"}
    kind = _KINDS.get(value.get("kind", ""))
    if kind is None:
        raise UnknownPreset(f"there is no tower of kind {value.get('kind')!r}; there are: {', '.join(sorted(_KINDS))}")
    return kind(**_fields(kind, rest))


TINY = Preset(
    name="tiny",
    image_size=768,
    antialias=True,
    clip_dim=192,
    decoder_dim=192,
    decoder_heads=8,
    decoder_mlp_dim=512,
    multimask_outputs=0,
    image=SharedTrunk(channels=(32, 64, 128, 192), blocks=(1, 2, 3, 2), pyramid=(64, 32), colours=9, refined=(1, 2)),
    text=ClipText(layers=3, width=192, heads=4, positions=32, vocab_size=49408, embedding_rank=48),
    lora=None,
)

_SIGLIP_SO400M = SiglipVision(image_size=384, patch_size=14, layers=27, heads=16, mlp_dim=4304)


def _published(name: str, sam: SamVit) -> Preset:
    # KyanChen/RSRefSeg configs_RSRefSeg/RSRefSeg-b.py and -l.py @ c20e056 differ in SAM's encoder only.
    return Preset(
        name=name,
        image_size=1024,
        antialias=False,
        clip_dim=1152,
        decoder_dim=256,
        decoder_heads=8,
        decoder_mlp_dim=2048,
        multimask_outputs=3,
        image=PairedVits(sam, _SIGLIP_SO400M),
        text=SiglipText(layers=27, heads=16, mlp_dim=4304, positions=64, vocab_size=32_000),
        lora=Lora(),
    )


B = _published("b", SamVit(width=768, layers=12, heads=12, window=14, global_layers=(2, 5, 8, 11)))
L = _published("l", SamVit(width=1024, layers=24, heads=16, window=14, global_layers=(5, 11, 17, 23)))

PRESETS = {preset.name: preset for preset in (TINY, B, L)}


def preset_named(name: str) -> Preset:
    """Look a preset up.

    Args:
        name: "tiny", "b" or "l".

    Returns:
        The preset.

    Raises:
        UnknownPreset: If there is none of that name.
    """
    try:
        return PRESETS[name]
    except KeyError:
        raise UnknownPreset(f"there is no preset {name!r}; there are: {', '.join(sorted(PRESETS))}") from None
