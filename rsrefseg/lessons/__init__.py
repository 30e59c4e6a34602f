"""What a model is taught: everything from nothing, to draw what samples name, or what people corrected."""

from rsrefseg.lessons.from_corrections import FromCorrections, Mixture
from rsrefseg.lessons.from_samples import FromSamples, usable
from rsrefseg.lessons.from_scratch import Curriculum, FromScratch, Phase
from rsrefseg.lessons.lesson import Lesson

__all__ = ["Curriculum", "FromCorrections", "FromSamples", "FromScratch", "Lesson", "Mixture", "Phase", "usable"]
