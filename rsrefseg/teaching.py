"""From a champion and what people corrected to a challenger, and what both make of the same samples."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch

from rsrefseg import checkpoint
from rsrefseg.calibration import Calibration
from rsrefseg.datasets.sample import Sample
from rsrefseg.errors import BadDataset
from rsrefseg.evaluate import evaluate_samples
from rsrefseg.gate import Contest
from rsrefseg.heads import head_names, teach_heads, with_own_heads
from rsrefseg.lessons import FromCorrections, Mixture
from rsrefseg.predictor import Predictor
from rsrefseg.results import Result, ResultFile
from rsrefseg.train import Recipe, Trainer, train

log = logging.getLogger(__name__)

KEEP_EVERY = 20
"""Steps after which a run is saved, so that a kill costs no more."""


@dataclass(frozen=True)
class Course:
    """How long and how strongly corrections teach."""

    steps_per_correction: float = 3.0
    least_steps: int = 60
    most_steps: int = 200
    """Beyond it more corrections are each seen less often: a training ends in minutes."""
    learning_rate: float = 3e-4
    text_rate: float = 0.3
    """Of the text tower, which knows its language already."""
    word_rate: float = 60.0
    """Of words that it hardly knows. Their rows of its table say next to nothing, and AdamW's steps are no longer than
    their rate: at the tower's own, a new word never comes as far as those known."""
    warmup_steps: int = 20
    floor: float = 0.02
    weight_decay: float = 0.02
    ema_decay: float = 0.98
    blend: float = 0.5
    """Share of the way from the parent's weights to those that were learnt which the challenger goes: straight between
    the two lie models that learnt nearly as much and forgot far less. Source: Wortsman et al., Robust fine-tuning of
    zero-shot models, CVPR 2022, arXiv 2109.01903."""
    mixture: Mixture = field(default_factory=Mixture)

    def recipe(self, corrections: int) -> Recipe:
        """Fit the recipe to what there is to learn.

        Args:
            corrections: How many.

        Returns:
            The recipe.
        """
        steps = min(self.most_steps, max(self.least_steps, round(self.steps_per_correction * corrections)))
        return Recipe(
            steps=steps,
            learning_rate=self.learning_rate,
            text_rate=self.text_rate,
            word_rate=self.word_rate,
            warmup_steps=min(self.warmup_steps, steps // 2),
            floor=self.floor,
            weight_decay=self.weight_decay,
            gradient_norm=1.0,
            ema_decay=self.ema_decay,
        )

    def described(self) -> dict[str, str]:
        """Say for a version how it was taught.

        Returns:
            Values by name.
        """
        own = {name: value for name, value in asdict(self).items() if name != "mixture"}
        return {name: str(value) for name, value in (own | asdict(self.mixture)).items()}


def teach(
    parent: Predictor,
    lesson: FromCorrections,
    recipe: Recipe,
    out: Path,
    on_step: Callable[[int, float], bool] = lambda _step, _loss: True,
    *,
    blend: float = 1.0,
) -> Path | None:
    """Teach a copy of a predictor's heads; a run that was left or killed is gone on with.

    Args:
        parent: What is taught further; it stays as it is.
        lesson: Prepared for the recipe's steps.
        recipe: How.
        out: Folder of the run.
        on_step: Told after each step its number and loss; where it says False, the run is left.
        blend: How much of what was learnt is kept, as of `Course`.

    Returns:
        The checkpoint of heads; None where the run was left.
    """
    model = with_own_heads(parent.model)
    teach_heads(model)
    trainer = Trainer(model, recipe, lesson, out, base=parent.base_version)
    never = recipe.steps + 1
    tokenizer = parent.tokenizer
    train(trainer, out, resume=True, tokenizer=tokenizer, keep_every=KEEP_EVERY, score_every=never, on_step=on_step)
    return _blended(parent, out / "checkpoint", blend) if trainer.step == recipe.steps else None


def _blended(parent: Predictor, taught: Path, share: float) -> Path:
    # Made again by a run that is gone on with: a kill may have left half of it.
    folder = taught.with_name("blended")
    shutil.rmtree(folder, ignore_errors=True)
    model = parent.with_heads(taught).model
    before, after = parent.model.state_dict(), model.state_dict()
    with torch.no_grad():
        for name in head_names(model):
            if after[name].is_floating_point():
                after[name].lerp_(before[name], 1 - share)
    card = (taught / checkpoint.CARD).read_text()
    checkpoint.save_heads(model, folder, card, parent.base_version)
    return folder


def compete(
    champion: Predictor,
    challenger: Predictor,
    samples: Sequence[Sample],
    scenes: Mapping[str, str] | None = None,
    *,
    kept: tuple[ResultFile | None, ResultFile | None] = (None, None),
    on_samples: Callable[[int, int], None] = lambda _done, _of: None,
) -> Contest:
    """Ask two predictors about the same samples.

    Args:
        champion: Asked.
        challenger: Asked.
        samples: Those of one image after each other.
        scenes: The scene by the sample's id, where it is not the image.
        kept: Where the results of either are kept; samples that are there are not asked about again.
        on_samples: Told after each image how many answers there are of how many; may raise to stop.

    Returns:
        What both made of those samples that can be used.
    """
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        on_samples(done, 2 * len(samples))

    sides: list[dict[str, Result]] = []
    for predictor, file in zip((champion, challenger), kept, strict=True):
        try:
            results = evaluate_samples(predictor, samples, kept=file, on_samples=count).results
        except BadDataset as exc:
            log.warning("nothing to compare on", extra={"reason": str(exc)})
            results = ()
        sides.append({result.sample_id: result for result in results})
    both = [name for name in sides[0] if name in sides[1]]
    return Contest([sides[0][name] for name in both], [sides[1][name] for name in both], scenes or {})


def calibrated(contest: Contest, more: Contest, former: Calibration) -> tuple[Calibration, str]:
    """Find out what a challenger's scores are worth.

    Args:
        contest: What it made of the scenes that it will be asked about, its confidence not calibrated.
        more: Of others, which help where the first are too few.
        former: What its parent's scores were worth, for want of anything better; also of second looks.

    Returns:
        The calibration, and what it rests upon.
    """
    for results, source in (
        (contest.challenger, "held-out corrections"),
        ([*contest.challenger, *more.challenger], "held-out corrections and the anchor"),
    ):
        try:
            fitted = Calibration.fit([r.score for r in results], [r.overlap.iou > 0.5 for r in results])
        except ValueError:
            continue
        return replace(fitted, second_look=former.second_look), f"{len(results)} answers to {source}"
    return former, "the parent's"
