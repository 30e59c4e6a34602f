"""Labelled images to samples: the grammar says something about each, so the right mask is known."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from rsrefseg.datasets.labelled import LabelledImage
from rsrefseg.datasets.layout import SampleNames
from rsrefseg.datasets.sample import CorruptRow, Sample
from rsrefseg.expressions import SYNONYMS, Grammar


def grammar_samples(
    images: Iterable[tuple[str, LabelledImage | CorruptRow]],
    per_image: int = 3,
    seed: int = 1,
    called: Mapping[str, Sequence[str]] = SYNONYMS,
) -> Iterator[Sample | CorruptRow]:
    """Write expressions about images, the same at every reading.

    Args:
        images: Names of their files, and they; what cannot be used is passed on.
        per_image: Most expressions about one.
        seed: Of the choice of expressions.
        called: Words for each class.

    Yields:
        Samples in memory, those of one image after each other.
    """
    names = SampleNames()
    for number, (name, labelled) in enumerate(images):
        if isinstance(labelled, CorruptRow):
            yield labelled
            continue
        things = labelled.things()
        grammar = Grammar(things, np.random.default_rng((seed, number)), labelled.vocabulary, called)
        for index, referral in enumerate(grammar.referrals(per_image)):
            truth = np.zeros(labelled.ids.shape, bool)
            for i in referral.indices:
                truth |= things[i].mask
            category = things[referral.indices[0]].category if referral.indices else None
            yield Sample(
                sample_id=names.take(f"{Path(name).with_suffix('')}-{index}"),
                image_path=Path(name),
                expression=referral.expression,
                category=category,
                truth=truth,
                kind=referral.kind,
                pixels=labelled.image,
            )
