"""Where images with known objects come from, and how they become training batches or samples to be scored on."""

from rsrefseg.datasets.benchmarks import BENCHMARKS, read_benchmark
from rsrefseg.datasets.coco_instances import read_coco_instances, read_instance_rows
from rsrefseg.datasets.grammar_samples import grammar_samples
from rsrefseg.datasets.kept import KeptImages, drawn_scenes, resized_images
from rsrefseg.datasets.labelled import LabelledImage
from rsrefseg.datasets.referring import Batch, ReferringBatches
from rsrefseg.datasets.sample import CorruptRow, MaskFile, Regions, Sample

__all__ = [
    "BENCHMARKS",
    "Batch",
    "CorruptRow",
    "KeptImages",
    "LabelledImage",
    "MaskFile",
    "ReferringBatches",
    "Regions",
    "Sample",
    "drawn_scenes",
    "grammar_samples",
    "read_benchmark",
    "read_coco_instances",
    "read_instance_rows",
    "resized_images",
]
