"""Train a model: one loop, resumable, the same stream of batches whether it was interrupted or not."""

from __future__ import annotations

import copy
import csv
import logging
import math
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from rsrefseg import checkpoint
from rsrefseg.datasets import Batch, LabelledImage, ReferringBatches
from rsrefseg.datasets.referring import CLASSES, class_words
from rsrefseg.encoders import FactorisedEmbedding
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
        Phase(steps=1800, size=256, zoom=(0.3, 0.65), images=12, expressions=0),
        Phase(steps=1500, size=256, zoom=(0.3, 0.75), images=12, expressions=2),
        Phase(steps=150, size=512, zoom=(0.7, 1.0), images=5, expressions=3),
    )
    word_steps: int = 300
    """Steps of the text tower alone, before the first phase."""
    learning_rate: float = 3e-4
    text_rate: float = 0.1
    """Learning rate of the text tower, as a share of that of the rest."""
    weight_decay: float = 0.02
    warmup_steps: int = 150
    gradient_norm: float = 1.0
    ema_decay: float = 0.995
    bce: float = 5.0
    dice: float = 2.0
    activation: float = 2.0
    alignment: float = 2.0
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
        groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
        for name, parameter in self.model.named_parameters():
            share = recipe.text_rate if name.startswith("text_encoder.") else 1.0
            groups[share, recipe.weight_decay if parameter.ndim > 1 else 0.0].append(parameter)
        self._optimiser = torch.optim.AdamW(
            [{"params": group, "weight_decay": decay, "share": share} for (share, decay), group in groups.items()],
            lr=recipe.learning_rate,
        )
        self._seen = torch.zeros(self._tokenizer.vocab_size, dtype=torch.bool)
        self.step = 0

    def averaged(self) -> RSRefSeg:
        """Copy the running average of the weights, which is what is evaluated and kept.

        Returns:
            A model in which words that training never showed say nothing.
        """
        model = copy.deepcopy(self._ema.module)
        assert isinstance(model, RSRefSeg)
        embedding = model.text_encoder.tower.token_embedding
        if isinstance(embedding, FactorisedEmbedding):
            embedding.silence(~self._seen)
        return model

    def part_words(self) -> float:
        """Teach the text tower which words mean the same class, before any image.

        Without it the first thing to be learnt is that most cells match nothing: all words move together, away from
        the images, and take thousands of steps to part again.

        Returns:
            The last loss.
        """
        rng = np.random.default_rng(self._recipe.seed)
        tower = self.model.text_encoder.train()
        corners = nn.init.orthogonal_(torch.empty(len(CLASSES), self.model.preset.clip_dim))
        optimiser = torch.optim.AdamW(tower.parameters(), lr=1e-3)
        loss = torch.zeros(())
        for _ in range(self._recipe.word_steps):
            named = rng.integers(len(CLASSES), size=32)
            token_ids = [self._tokenizer(class_words(CLASSES[i], rng)) for i in named]
            self._seen[torch.cat(token_ids)] = True
            near = functional.normalize(tower(token_ids).pooled, dim=1) @ corners.T  # (32, k)
            loss = functional.cross_entropy(10 * near, torch.from_numpy(named))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
        self._ema.module.load_state_dict(self.model.state_dict())
        return float(loss.detach())

    def start_from(self, folder: Path) -> None:
        """Take over the weights of a checkpoint; the recipe begins at its first step.

        Args:
            folder: A checkpoint of the same preset.

        Raises:
            BadRequest: If it is of another preset.
        """
        model = checkpoint.load(folder)
        if model.preset != self.model.preset:
            raise BadRequest(f"{folder} is of the preset {model.preset.name!r}, not {self.model.preset.name!r}")
        self.model.load_state_dict(model.state_dict())
        self._ema.module.load_state_dict(model.state_dict())
        embedding = model.text_encoder.tower.token_embedding
        if isinstance(embedding, FactorisedEmbedding):
            self._seen |= embedding.table.weight.abs().sum(1) > 0

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
        self._seen = state["seen"]
        self.step = state["step"]
        return True

    def keep(self) -> None:
        """Write what `resume` needs, so that a kill leaves the former state or the new one, never half."""
        self._out.mkdir(parents=True, exist_ok=True)
        state = {
            "model": self.model.state_dict(),
            "ema": self._ema.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "seen": self._seen,
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
                batches = ReferringBatches(
                    self._sources, self._tokenizer, self._recipe.seed, phase.images, phase.expressions
                )
                stream = batches.stream(self.step, phase.size, phase.zoom)
                # A thread prepares the next batch while this one computes; a forked process may hang under OpenMP.
                with ThreadPoolExecutor(1) as ahead:
                    coming = ahead.submit(next, stream)
                    for _ in range(self.step, begun + phase.steps):
                        batch, coming = coming.result(), ahead.submit(next, stream)
                        yield phase, batch
            begun += phase.steps

    def learn(self, batch: Batch) -> float:
        """Take one step.

        Args:
            batch: Images and expressions.

        Returns:
            The loss.
        """
        recipe = self._recipe
        self._seen[torch.cat([*batch.class_token_ids, *batch.token_ids])] = True
        for group in self._optimiser.param_groups:
            group["lr"] = group["share"] * recipe.rate_at(self.step)
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
    start: Path | None = None,
    keep_every: int = 200,
    score_every: int = 1000,
) -> dict[str, Evaluation]:
    """Train to the end of the recipe and write the checkpoint to `out/checkpoint`.

    Args:
        preset: Size of the model.
        recipe: Hyperparameters.
        sources: Labelled square images with each source's share of a batch.
        held_out: Images to score by name; they choose nothing, they only tell.
        out: Folder of the run: `training.pt`, `log.csv`, and in the end `checkpoint/`.
        resume: Go on with the run in `out`.
        start: A checkpoint whose weights to begin with.
        keep_every: Steps between saves.
        score_every: Steps between scores.

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
    elif start:
        trainer.start_from(start)
    else:
        log.info("words parted", extra={"loss": round(trainer.part_words(), 4)})
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
            if trainer.step % keep_every == 0 or trainer.step == recipe.steps:
                trainer.keep()
            if trainer.step % score_every == 0 or trainer.step == recipe.steps:
                predictor = Predictor(trainer.averaged(), "in training")
                scores = {name: evaluate(predictor, images) for name, images in held_out.items()}
                for name, result in scores.items():
                    log.info("scored", extra={"step": trainer.step, "set": name, **result.rounded()})
                began, losses = time.monotonic(), []
    checkpoint.save(trainer.averaged(), out / "checkpoint", _card(preset, recipe, scores))
    return scores


def _card(preset: Preset, recipe: Recipe, scores: dict[str, Evaluation]) -> str:
    lines = [f"# RSRefSeg {preset.name}", "", f"Trained by {checkpoint.code_version()}.", "", "## Scores", ""]
    lines += [f"- {name}: {result.rounded()}" for name, result in scores.items()]
    lines += ["", "## Recipe", "", *(f"- {key}: {value}" for key, value in asdict(recipe).items()), ""]
    return "\n".join(lines)
