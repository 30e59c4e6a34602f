"""What a model is taught: everything from nothing, or to draw what the samples of a benchmark name."""

from rsrefseg.lessons.from_samples import FromSamples, usable
from rsrefseg.lessons.from_scratch import Curriculum, FromScratch, Phase
from rsrefseg.lessons.lesson import Lesson

__all__ = ["Curriculum", "FromSamples", "FromScratch", "Lesson", "Phase", "usable"]
