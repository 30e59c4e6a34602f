"""Where images with known objects come from, and how they become training batches."""

from rsrefseg.datasets.coco_instances import read_coco_instances
from rsrefseg.datasets.drawn import DrawnScenes
from rsrefseg.datasets.labelled import LabelledImage
from rsrefseg.datasets.referring import Batch, ReferringBatches

__all__ = ["Batch", "DrawnScenes", "LabelledImage", "ReferringBatches", "read_coco_instances"]
