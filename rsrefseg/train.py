"""Train a model: one loop, resumable, the same stream of batches whether it was interrupted or not."""

from __future__ import annotations

import csv
import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from rsrefseg import checkpoint
from rsrefseg.datasets import Batch, LabelledImage, ReferringBatches
from rsrefseg.errors import BadRequest
from rsrefseg.evaluate import Evaluation, evaluate
from rsrefseg.features import TextFeatures
from rsrefseg.losses import alignment_loss, drawing_loss
from rsrefseg.model import RSRefSeg
from rsrefseg.predictor import Predictor
from rsrefseg.presets import Preset
from rsrefseg.tokenizer import Tokenizer

log = logging.getLogger(__name__)

STATE = "training.pt"


@dataclass(frozen=True)
class Phase:
    """A stretch of training at one image size: small cuts first, since they teach most for their cost."""

    steps: int
    size: int
    """Side of the cuts, in pixels; a multiple of 64."""
    zoom: tuple[float, float]
    """Smallest and largest share of a scene's side that a cut takes."""
    images: int
    """Images in a batch."""
    expressions: int
    """Most expressions about one image; with none only towers are trained, to agree on the classes."""


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters; stored in the card."""

    phases: tuple[Phase, ...] = (
        Phase(steps=700, size=256, zoom=(0.35, 1.0), images=12, expressions=0),
        Phase(steps=2300, size=256, zoom=(0.35, 1.0), images=12, expressions=3),
        Phase(steps=400, size=512, zoom=(0.6, 1.0), images=5, expressions=3),
    )
    learning_rate: float = 1e-3
    weight_decay: float = 0.02
    warmup_steps: int = 150
    gradient_norm: float = 1.0
    ema_decay: float = 0.998
    bce: float = 5.0
    dice: float = 1.0
    activation: float = 2.0
    alignment: float = 8.0
    iou: float = 0.5
    seed: int = 0

    @property
    def steps(self) -> int:
        """Add the phases up."""
        return sum(phase.steps for phase in self.phases)

    def rate_at(self, step: int) -> float:
        """Warm up linearly, then fall along a cosine to a hundredth.

        Args:
            step: From 0.

        Returns:
            The learning rate.
        """
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.learning_rate * (0.01 + 0.99 * (1 + math.cos(math.pi * min(1.0, done))) / 2)


class Trainer:
    """The model, its running average and its optimiser, with one step and one save.

    Args:
        preset: Size of the model.
        recipe: Hyperparameters.
        sources: Labelled square images with each source's share.
        out: Folder of the run.
    """

    def __init__(
        self, preset: Preset, recipe: Recipe, sources: Sequence[tuple[Sequence[LabelledImage], float]], out: Path
    ) -> None:
        torch.manual_seed(recipe.seed)
        self._recipe = recipe
        self._out = out
        self._sources = sources
        self._tokenizer = Tokenizer(preset.text.positions)
        self.model = RSRefSeg(preset).to(memory_format=torch.channels_last)
        self._ema = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema_decay), use_buffers=True)
        decayed = [p for p in self.model.parameters() if p.ndim > 1]
        plain = [p for p in self.model.parameters() if p.ndim <= 1]
        self._optimiser = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=recipe.learning_rate,
        )
        self.step = 0

    @property
    def averaged(self) -> RSRefSeg:
        """The running average of the weights, which is what is evaluated and kept."""
        model: nn.Module = self._ema.module
        assert isinstance(model, RSRefSeg)
        return model

    def resume(self) -> bool:
        """Go on where the run in this folder stopped.

        Returns:
            Whether there was anything to go on from.
        """
        path = self._out / STATE
        if not path.exists():
            return False
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self._ema.load_state_dict(state["ema"])
        self._optimiser.load_state_dict(state["optimiser"])
        self.step = state["step"]
        return True

    def keep(self) -> None:
        """Write what `resume` needs, so that a kill leaves the former state or the new one, never half."""
        self._out.mkdir(parents=True, exist_ok=True)
        state = {
            "model": self.model.state_dict(),
            "ema": self._ema.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "step": self.step,
        }
        partial = self._out / (STATE + ".part")
        torch.save(state, partial)
        Path(partial).replace(self._out / STATE)

    def batches(self) -> Iterator[tuple[Phase, Batch]]:
        """Yield what is left of the phases, from the current step on."""
        begun = 0
        for phase in self._recipe.phases:
            if self.step < begun + phase.steps:
                stream = ReferringBatches(
                    self._sources, self._tokenizer, self._recipe.seed, phase.images, phase.expressions
                ).stream(self.step, phase.size, phase.zoom)
                for _ in range(self.step, begun + phase.steps):
                    yield phase, next(stream)
            begun += phase.steps

    def learn(self, batch: Batch) -> float:
        """Take one step.

        Args:
            batch: Images and expressions.

        Returns:
            The loss.
        """
        recipe = self._recipe
        for group in self._optimiser.param_groups:
            group["lr"] = recipe.rate_at(self.step)
        self.model.train()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=_fast_bfloat16()):
            images = batch.images.contiguous(memory_format=torch.channels_last)
            image = self.model.encode_image(images)
            text = self.model.encode_text([*batch.class_token_ids, *batch.token_ids])
            named = len(batch.class_token_ids)
            matched = self.model.prompter.match(image.clip, text.pooled[:named])
            loss = recipe.alignment * alignment_loss(matched.float(), batch.classes, batch.looked_for)
            if batch.token_ids:
                decoded = self.model.decode(image, TextFeatures(*(part[named:] for part in text)), batch.image_index)
        if batch.token_ids:
            loss = loss + drawing_loss(
                decoded,
                batch.gt_masks,
                batch.counted,
                bce=recipe.bce,
                dice=recipe.dice,
                activation=recipe.activation,
                iou=recipe.iou,
            )
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), recipe.gradient_norm)
        self._optimiser.step()
        self._ema.update_parameters(self.model)
        self.step += 1
        return float(loss.detach())


def _fast_bfloat16() -> bool:
    return bool(torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def train(
    preset: Preset,
    recipe: Recipe,
    sources: Sequence[tuple[Sequence[LabelledImage], float]],
    held_out: dict[str, Sequence[LabelledImage]],
    out: Path,
    *,
    resume: bool = False,
    every: int = 500,
) -> dict[str, Evaluation]:
    """Train to the end of the recipe and write the checkpoint to `out/checkpoint`.

    Args:
        preset: Size of the model.
        recipe: Hyperparameters.
        sources: Labelled square images with each source's share of a batch.
        held_out: Images to score by name; they choose nothing, they only tell.
        out: Folder of the run: `training.pt`, `log.csv`, and in the end `checkpoint/`.
        resume: Go on with the run in `out`.
        every: Steps between saves and scores.

    Returns:
        The last scores by name.

    Raises:
        BadRequest: If the folder holds a run and `resume` is not asked for.
    """
    if (out / STATE).exists() and not resume:
        raise BadRequest(f"{out} holds a run already: add --resume to go on with it, or choose another folder")
    trainer = Trainer(preset, recipe, sources, out)
    if resume and trainer.resume():
        log.info("training resumed", extra={"step": trainer.step})
    out.mkdir(parents=True, exist_ok=True)
    scores: dict[str, Evaluation] = {}
    began, losses = time.monotonic(), []
    with (out / "log.csv").open("a", newline="") as file:
        table = csv.writer(file)
        for phase, batch in trainer.batches():
            losses.append(trainer.learn(batch))
            if trainer.step % 50 == 0 or trainer.step == recipe.steps:
                loss, seconds = sum(losses) / len(losses), (time.monotonic() - began) / len(losses)
                table.writerow([trainer.step, phase.size, f"{loss:.4f}", f"{seconds:.3f}"])
                file.flush()
                log.info(
                    "training",
                    extra={
                        "step": trainer.step,
                        "of": recipe.steps,
                        "loss": round(loss, 4),
                        "seconds_per_step": round(seconds, 3),
                    },
                )
                began, losses = time.monotonic(), []
            if trainer.step % every == 0 or trainer.step == recipe.steps:
                trainer.keep()
                predictor = Predictor(trainer.averaged, "in training")
                scores = {name: evaluate(predictor, images) for name, images in held_out.items()}
                for name, result in scores.items():
                    log.info("scored", extra={"step": trainer.step, "set": name, **result.rounded()})
                began, losses = time.monotonic(), []
    checkpoint.save(trainer.averaged, out / "checkpoint", _card(preset, recipe, scores))
    return scores


def _card(preset: Preset, recipe: Recipe, scores: dict[str, Evaluation]) -> str:
    lines = [f"# RSRefSeg {preset.name}", "", f"Trained by {checkpoint.code_version()}.", "", "## Scores", ""]
    lines += [f"- {name}: {result.rounded()}" for name, result in scores.items()]
    lines += ["", "## Recipe", "", *(f"- {key}: {value}" for key, value in asdict(recipe).items()), ""]
    return "\n".join(lines)
