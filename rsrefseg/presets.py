"""The sizes a model comes in: frozen, and saved beside the weights they describe."""

from __future__ import annotations

from dataclasses import dataclass, fields

from rsrefseg.errors import UnknownPreset


@dataclass(frozen=True)
class Preset:
    """Every number that makes the graph; two models of one preset can share weights."""

    name: str
    image_size: int
    """Side S of the square that SAM's path reads, in pixels; masks come out at S / 4."""
    clip_dim: int
    """Channels c of the image-text space."""
    decoder_dim: int
    """Channels d of SAM's prompts and image embedding."""
    decoder_heads: int
    decoder_mlp_dim: int
    multimask_outputs: int
    """SAM's spare masks beside the one that is used."""
    text_layers: int
    text_width: int
    text_heads: int
    text_positions: int
    """Longest expression in tokens, start and end included."""
    text_embedding_rank: int
    """Width of the factorised token table, 0 for a full one."""
    trunk_channels: tuple[int, int, int, int]
    """Channels of the shared convolutional trunk at strides 4, 8, 16 and 32."""
    trunk_blocks: tuple[int, int, int, int]
    """Residual blocks at the same strides."""
    antialias: bool
    """Whether large images are averaged when they shrink; upstream's presets sample them instead."""

    @classmethod
    def from_dict(cls, values: dict[str, object]) -> Preset:
        """Read back what `dataclasses.asdict` wrote.

        Args:
            values: The fields by name; lists stand for tuples.

        Returns:
            The preset.

        Raises:
            UnknownPreset: If a field is missing or too many.
        """
        names = {field.name for field in fields(cls)}
        if names != set(values):
            raise UnknownPreset(f"the preset's fields differ: {', '.join(sorted(names ^ set(values)))}")
        plain = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
        return cls(**plain)  # type: ignore[arg-type]


TINY = Preset(
    name="tiny",
    image_size=512,
    clip_dim=192,
    decoder_dim=192,
    decoder_heads=8,
    decoder_mlp_dim=512,
    multimask_outputs=0,
    text_layers=3,
    text_width=192,
    text_heads=4,
    text_positions=32,
    text_embedding_rank=48,
    trunk_channels=(32, 64, 128, 192),
    trunk_blocks=(1, 2, 3, 2),
    antialias=True,
)

PRESETS = {TINY.name: TINY}


def preset_named(name: str) -> Preset:
    """Look a preset up.

    Args:
        name: "tiny".

    Returns:
        The preset.

    Raises:
        UnknownPreset: If there is none of that name.
    """
    try:
        return PRESETS[name]
    except KeyError:
        raise UnknownPreset(f"there is no preset {name!r}; there are: {', '.join(sorted(PRESETS))}") from None
