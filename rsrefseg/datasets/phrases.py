"""RefSegRS (arXiv 2306.08625) and RISBench (arXiv 2410.08613): a line of words for each mask file.

Source:
    zhu-xlab/rrsis README.md @ d6d5ace; HIT-SIRS/CroBIM README.md @ ec1bfbb.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rsrefseg.datasets.layout import SampleNames, require, require_split
from rsrefseg.datasets.sample import CorruptRow, MaskFile, Sample


@dataclass(frozen=True)
class PhraseReader:
    """Where one of the two keeps its files; calling it reads a split."""

    benchmark: str
    images: str
    masks: str
    suffix: str
    """Of images and masks; a line may leave it out."""

    def __call__(self, root: Path, split: str) -> Iterator[Sample | CorruptRow]:
        """Read the samples of a split in the order of its lines.

        Args:
            root: Holds the folders of images and masks, and `output_phrase_<split>.txt`.
            split: "train", "val" or "test".

        Yields:
            Samples named by their files, and lines that cannot be used.
        """
        layout = f"{self.images}/, {self.masks}/ and output_phrase_<split>.txt"
        for part in (self.images, self.masks):
            require(root / part, self.benchmark, layout)
        splits = [path.stem.removeprefix("output_phrase_") for path in root.glob("output_phrase_*.txt")]
        if not splits:
            require(root / f"output_phrase_{split}.txt", self.benchmark, layout)
        require_split(split, splits, root)
        names = SampleNames()
        phrases = root / f"output_phrase_{split}.txt"
        with phrases.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                place = f"{phrases.name}, line {number}"
                try:
                    words = line.decode().split(maxsplit=1)
                except UnicodeDecodeError as exc:
                    yield CorruptRow(place, f"it is not UTF-8: {exc}")
                    continue
                if not words:
                    continue
                stem = words[0].removesuffix(self.suffix)
                name, file = names.take(stem), stem + self.suffix
                if len(words) == 1:
                    yield CorruptRow(place, "the expression is empty")
                    continue
                mask = MaskFile(root / self.masks / file)
                yield Sample(name, root / self.images / file, words[1].strip(), None, mask, place)


read_refsegrs = PhraseReader("refsegrs", "images", "masks", ".tif")
read_risbench = PhraseReader("risbench", "img_rgb", "mask", ".png")
