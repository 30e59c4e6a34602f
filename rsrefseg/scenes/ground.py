"""What the land is covered with, chosen once a scene so that its parts agree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rsrefseg.scenes.texture import Colour, jittered, ramp, scaled

_GRASS: tuple[tuple[Colour, Colour, Colour], ...] = (
    ((44, 66, 34), (70, 96, 50), (98, 120, 68)),
    ((58, 76, 44), (92, 106, 64), (124, 134, 88)),
    ((84, 84, 56), (122, 116, 80), (158, 146, 106)),
    ((104, 94, 72), (140, 126, 98), (170, 154, 122)),
    ((36, 58, 36), (54, 84, 52), (76, 106, 66)),
)
_GRASS_CHANCES = (0.34, 0.26, 0.15, 0.09, 0.16)
_SOIL: tuple[tuple[Colour, Colour, Colour], ...] = (
    ((112, 92, 70), (146, 122, 94), (178, 154, 122)),
    ((128, 112, 92), (168, 150, 124), (200, 184, 156)),
    ((110, 74, 54), (142, 100, 74), (170, 128, 98)),
    ((92, 86, 76), (124, 116, 104), (150, 144, 132)),
)
_WATER: tuple[tuple[Colour, Colour], ...] = (
    ((14, 36, 44), (30, 58, 66)), ((20, 50, 42), (42, 82, 66)), ((12, 24, 40), (24, 44, 66)),
    ((22, 26, 24), (42, 46, 42)), ((30, 70, 88), (58, 110, 126)), ((52, 62, 52), (84, 92, 76)),
    ((38, 40, 34), (66, 66, 54)), ((20, 60, 84), (44, 96, 122)), ((70, 80, 80), (104, 112, 110)),
)  # fmt: skip


@dataclass(frozen=True)
class Ground:
    """The colour ramps of one scene."""

    grass: np.ndarray
    lawn: np.ndarray
    soil: np.ndarray
    asphalt: np.ndarray
    concrete: np.ndarray
    water: np.ndarray
    shallow: np.ndarray
    asphalt_colour: Colour
    concrete_colour: Colour
    tree: Colour

    @classmethod
    def of(cls, rng: np.random.Generator) -> Ground:
        """Choose what the land of a scene looks like.

        Args:
            rng: Where chance comes from.

        Returns:
            The ramps.
        """
        kind = int(rng.choice(len(_GRASS), p=_GRASS_CHANCES))
        grass = _varied(rng, _GRASS[kind])
        lawn = _varied(rng, _GRASS[int(rng.choice((0, 1, 4)))])
        soil = _varied(rng, _SOIL[rng.integers(len(_SOIL))])
        grey = float(rng.uniform(72, 150))
        asphalt: Colour = (grey + rng.uniform(-1, 4), grey, grey + rng.uniform(-4, 3))
        pale = float(rng.uniform(150, 222))
        concrete: Colour = (pale + rng.uniform(0, 8), pale + rng.uniform(-2, 5), pale - rng.uniform(0, 16))
        dark, light = _WATER[rng.integers(len(_WATER))]
        shift = rng.uniform(0.8, 1.15)
        deep = (scaled(dark, shift), scaled(light, shift))
        trees: tuple[Colour, ...] = ((56, 78, 42), (44, 66, 40), (72, 88, 50), (84, 82, 58), (104, 84, 58))
        return cls(
            grass=ramp(*grass),
            lawn=ramp(*lawn),
            soil=ramp(*soil),
            asphalt=ramp(scaled(asphalt, 0.88), asphalt, scaled(asphalt, 1.1)),
            concrete=ramp(scaled(concrete, 0.91), concrete, scaled(concrete, 1.05)),
            water=ramp(*deep),
            shallow=ramp(scaled(deep[1], 1.15), (128, 150, 136), (176, 172, 146)),
            asphalt_colour=asphalt,
            concrete_colour=concrete,
            tree=jittered(rng, trees[int(rng.choice(5, p=(0.36, 0.32, 0.16, 0.1, 0.06)))], 6),
        )


def _varied(rng: np.random.Generator, colours: tuple[Colour, ...]) -> list[Colour]:
    level = rng.uniform(0.82, 1.18)
    shift = jittered(rng, (128, 128, 128), 6)
    moved = []
    for red, green, blue in colours:
        moved.append((red * level + shift[0] - 128, green * level + shift[1] - 128, blue * level + shift[2] - 128))
    return moved
