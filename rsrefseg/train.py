"""Train a model: one loop, resumable, the same stream of batches whether it was interrupted or not."""

from __future__ import annotations

import csv
import json
import logging
import math
import os
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, distributed, nn
from torch.utils.checkpoint import checkpoint as recomputed

from rsrefseg import checkpoint, foundation
from rsrefseg.curves import draw_curves
from rsrefseg.errors import BadRequest
from rsrefseg.evaluate import Evaluation
from rsrefseg.heads import head_names
from rsrefseg.lessons import Lesson
from rsrefseg.model import RSRefSeg
from rsrefseg.muon import Muon, steps_by_muon
from rsrefseg.predictor import Predictor
from rsrefseg.presets import SharedTrunk, preset_named
from rsrefseg.tokenizer import Tokenize, tokenizer_for
from rsrefseg.towers import PairedImageEncoder

log = logging.getLogger(__name__)

KNOWN = 0.25
"""A row of the table of words at least so long, of the longest, is of a word that the text tower was taught."""

READING = ("image_encoder.pyramid.", "image_encoder.traits.", "prompter.finest.", "mask_decoder.output_")
"""The last layers, which read classes, traits and masks off the features, by the start of their weights' names."""

STATE, LOG, CURVES = "training.pt", "log.csv", "curves.png"


@dataclass(frozen=True)
class Recipe:
    """How the loop turns losses into weights, whatever is taught; stored in the card.

    The defaults are the paper's, as KyanChen/RSRefSeg configs_RSRefSeg/RSRefSeg-b.py @ c20e056 has them.
    """

    steps: int
    """Of the optimiser."""
    learning_rate: float = 1e-4
    warmup_steps: int = 500
    """Steps in which the rate rises from a hundredth to the whole."""
    floor: float = 1e-3
    """Share of the learning rate that the cosine falls to."""
    text_rate: float = 1.0
    """Learning rate of the text tower, as a share of that of the rest."""
    reading_rate: float = 1.0
    """And of what reads classes, traits and masks off the features, `READING`: a few layers that learn fast."""
    word_rate: float = 1.0
    """And of the words that it hardly knows, as a share of that of the tower."""
    muon: bool = False
    """Whether what maps features to features takes Muon's steps in place of AdamW's (`rsrefseg.muon`)."""
    weight_decay: float = 0.05
    gradient_norm: float | None = None
    """Gradients longer than this are shortened to it; None leaves them."""
    accumulate: int = 1
    """Batches that one step adds up."""
    ema_decay: float | None = None
    """With a number, a running average of the weights is what is scored and kept."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """Of the arithmetic; the weights stay in float32."""
    recompute: bool = False
    """Compute activations of the towers twice rather than keep them: half the memory, a third more time."""
    freeze_norms: bool = False
    """Leave the prompter's batch norms as they are: with one image a batch, its cells alone would be the statistics."""
    seed: int = 0

    def rate_at(self, step: int) -> float:
        """Warm up linearly, then fall along a cosine.

        Args:
            step: From 0.

        Returns:
            The learning rate.
        """
        if step < self.warmup_steps:
            return self.learning_rate * (0.01 + 0.99 * (step + 1) / self.warmup_steps)
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.learning_rate * (self.floor + (1 - self.floor) * (1 + math.cos(math.pi * min(1.0, done))) / 2)


TINY_RECIPE = Recipe(
    steps=0,  # the curriculum's
    learning_rate=4e-4,
    warmup_steps=150,
    floor=0.01,
    text_rate=0.2,
    reading_rate=5.0,
    muon=True,
    weight_decay=0.02,
    gradient_norm=1.0,
    ema_decay=0.995,
)
"""For the preset tiny, from nothing; docs/tiny.md says what else was tried."""


@dataclass(frozen=True)
class Team:
    """The processes that train one model together, each on its own device and its own part of the data."""

    rank: int = 0
    size: int = 1

    @classmethod
    def from_torchrun(cls, device: str) -> Team:
        """Join the processes that torchrun started, or stay alone.

        Args:
            device: "cpu", or "cuda", of which this process takes the one with its local rank.

        Returns:
            This process's place.
        """
        if "LOCAL_RANK" not in os.environ:
            return cls()
        if device.startswith("cuda"):
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        # The others wait while the first scores.
        distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo", timeout=timedelta(hours=4))
        return cls(distributed.get_rank(), distributed.get_world_size())

    @property
    def leads(self) -> bool:
        """Whether this is the process that logs, scores and writes."""
        return self.rank == 0

    def average(self, tensors: list[Tensor]) -> None:
        """Replace tensors by their mean over the processes, in one message.

        Args:
            tensors: Changed in place.
        """
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        distributed.all_reduce(flat)
        flat /= self.size
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def wait(self) -> None:
        """Wait for the others."""
        if self.size > 1:
            distributed.barrier()


class Trainer:
    """The model, its running average and its optimiser, with one step and one save.

    Args:
        model: On its device; what of it trains is what requires a gradient.
        recipe: Hyperparameters.
        lesson: What is taught.
        out: Folder of the run.
        team: The processes that share the work.
        base: Where heads alone are taught, over what others share: the version of its checkpoint.
    """

    def __init__(
        self,
        model: RSRefSeg,
        recipe: Recipe,
        lesson: Lesson,
        out: Path,
        team: Team | None = None,
        *,
        base: str | None = None,
    ) -> None:
        self._base = base
        self.recipe = recipe
        self.team = team or Team()
        self.lesson = lesson
        self._out = out
        self.model = model
        self.device = next(model.parameters()).device
        if recipe.recompute:
            _recompute(model)
        if self.team.size > 1 and self.device.type == "cuda":
            model.prompter = nn.SyncBatchNorm.convert_sync_batchnorm(model.prompter)
        self._learnt = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._average: dict[str, Tensor] | None = None
        self._words: nn.Parameter | None = None
        groups: dict[tuple[bool, float, float], list[nn.Parameter]] = defaultdict(list)
        for name, parameter in self._learnt.items():
            share = recipe.text_rate if name.startswith("text_encoder.") else 1.0
            share *= recipe.reading_rate if name.startswith(READING) else 1.0
            if recipe.word_rate != 1 and name.endswith("token_embedding.table.weight"):
                share *= recipe.word_rate
                self._words = parameter
            decay = recipe.weight_decay if parameter.ndim > 1 else 0.0
            groups[recipe.muon and steps_by_muon(name, parameter), share, decay].append(parameter)
        by_adamw: list[dict[str, Any]] = []
        by_muon: list[dict[str, Any]] = []
        for (muon, share, decay), group in groups.items():
            (by_muon if muon else by_adamw).append({"params": group, "weight_decay": decay, "share": share})
        self._optimisers: dict[str, torch.optim.Optimizer] = {
            "optimiser": torch.optim.AdamW(by_adamw, lr=recipe.learning_rate, fused=True)
        }
        if by_muon:
            self._optimisers["muon"] = Muon(by_muon, lr=recipe.learning_rate)
        if self._words is not None:
            lengths = self._words.detach().norm(dim=1)
            self._known_words = (lengths > KNOWN * lengths.max()).nonzero()[:, 0]
        self.step = 0
        self.best: float | None = None
        """The highest mean of the held-out sets' mIoU so far, in percent."""

    def begin(self) -> None:
        """Prepare the model as the lesson asks."""
        torch.manual_seed(self.recipe.seed)
        self.lesson.begin(self.model)

    def batches(self) -> Iterator[list[Any]]:
        """Yield what is left: for each step its batches."""
        stream = self.lesson.batches(self.step * self.recipe.accumulate)
        for _ in range(self.step, self.recipe.steps):
            yield [next(stream) for _ in range(self.recipe.accumulate)]

    def learn(self, batches: list[Any]) -> float:
        """Take one step.

        Args:
            batches: Those whose gradients are added up.

        Returns:
            The loss, the mean over batches and processes.
        """
        # So that dropout does not depend on what came before: a resumed run draws what the unbroken one drew.
        torch.manual_seed((self.recipe.seed << 32) + self.step * self.team.size + self.team.rank)
        for optimiser in self._optimisers.values():
            for group in optimiser.param_groups:
                group["lr"] = group["share"] * self.recipe.rate_at(self.step)
        # Where a model is taught further, its norms stay as they are: a few images are no statistics.
        self.model.train(self._base is None)
        if self.recipe.freeze_norms:
            for module in self.model.prompter.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        total = torch.zeros((), device=self.device)
        for batch in batches:
            with self._autocast():
                loss = self.lesson.loss(self.model, batch) / len(batches)
            loss.backward()
            total += loss.detach()
        gradients = [p.grad for p in self._learnt.values() if p.grad is not None]
        self.team.average([*gradients, total])
        if self.recipe.gradient_norm is not None:
            nn.utils.clip_grad_norm_(list(self._learnt.values()), self.recipe.gradient_norm)
        self._take_step()
        self.model.zero_grad(set_to_none=True)
        self._follow()
        self.step += 1
        return float(total)

    @torch.no_grad()
    def _take_step(self) -> None:
        # A table has one rate for the optimiser: known words go back most of the way.
        before = None if self._words is None else self._words[self._known_words]
        for optimiser in self._optimisers.values():
            optimiser.step()
        if self._words is not None and before is not None:
            self._words[self._known_words] = before.lerp(self._words[self._known_words], 1 / self.recipe.word_rate)

    @torch.no_grad()
    def _follow(self) -> None:
        decay = self.recipe.ema_decay
        if decay is None:
            return
        now = [p.detach() for p in self._learnt.values()]
        if self._average is None:
            self._average = {name: p.detach().clone() for name, p in self._learnt.items()}
        # Young averages would remember the random start for long.
        torch._foreach_lerp_(list(self._average.values()), now, 1 - min(decay, (1 + self.step) / (10 + self.step)))

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.recipe.precision == "float32" or (self.device.type == "cpu" and not _fast_bfloat16()):
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    @contextmanager
    def averaged(self) -> Iterator[RSRefSeg]:
        """Lend the model as it is scored and kept: with the running average in place of the weights.

        Yields:
            The model itself; afterwards it has its own weights again.
        """
        average = self._average or {}
        own = {name: self._learnt[name].detach().clone() for name in average}
        with torch.no_grad():
            for name, value in average.items():
                self._learnt[name].copy_(value)
            try:
                yield self.model.eval()
            finally:
                for name, value in own.items():
                    self._learnt[name].copy_(value)

    def resume(self) -> bool:
        """Go on where the run in this folder stopped.

        Returns:
            Whether there was anything to go on from.

        Raises:
            BadRequest: If the run was another model's, or took other steps.
        """
        path = self._out / STATE
        if not path.exists():
            return False
        state = torch.load(path, weights_only=True, map_location=self.device)
        if {k: v.shape for k, v in state["model"].items()} != {k: v.shape for k, v in self._kept().items()}:
            raise BadRequest(f"{path} is of a run of another preset: choose another folder")
        if any(name not in state for name in self._optimisers):
            raise BadRequest(f"{path} is of a run that took no steps by Muon: choose another folder")
        self.model.load_state_dict(state["model"], strict=False)
        self._average = state["average"]
        for name, optimiser in self._optimisers.items():
            optimiser.load_state_dict(state[name])
        self.step, self.best = state["step"], state["best"]
        return True

    def _kept(self) -> dict[str, Tensor]:
        state = self.model.state_dict()
        if self._base:
            return {name: state[name] for name in head_names(self.model)}
        return {name: state[name] for name in self.model.learnt_names()} if self.model.preset.lora else state

    def keep(self) -> None:
        """Write what `resume` needs, so that a kill leaves the former state or the new one, never half."""
        if not self.team.leads:
            return
        self._out.mkdir(parents=True, exist_ok=True)
        state = {
            "model": self._kept(),
            "average": self._average,
            **{name: optimiser.state_dict() for name, optimiser in self._optimisers.items()},
            "step": self.step,
            "best": self.best,
        }
        partial_file = self._out / (STATE + ".part")
        torch.save(state, partial_file)
        partial_file.replace(self._out / STATE)

    def score(self, tokenizer: Tokenize | None, card: str) -> dict[str, Evaluation]:
        """Score on the held-out sets, and keep the checkpoint if it is the best so far or there is nothing to score on.

        Args:
            tokenizer: Words to ids, where the text tower needs a file for it.
            card: Markdown to save beside the weights.

        Returns:
            Scores by the name of the set.
        """
        with self.averaged() as model:
            scores = self.lesson.score(Predictor(model, "in training", str(self.device), tokenizer))
            merit = sum(s.overall.mIoU for s in scores.values()) / len(scores) if scores else None
            if merit is None or self.best is None or merit > self.best:
                self.best = merit
                lines = [f"- {name}: {json.dumps(result.rounded())}" for name, result in scores.items()]
                self._replace_checkpoint(card.replace("{scores}", "\n".join(lines) or "None."))
        return scores

    def _replace_checkpoint(self, card: str) -> None:
        folder = self._out / "checkpoint"
        fresh, old = folder.with_name(folder.name + ".part"), folder.with_name(folder.name + ".old")
        for left_over in (fresh, old):
            shutil.rmtree(left_over, ignore_errors=True)
        if self._base:
            checkpoint.save_heads(self.model, fresh, card, self._base)
        else:
            checkpoint.save(self.model, fresh, card, adapters_only=self.model.preset.lora is not None)
        if folder.exists():
            folder.replace(old)
        fresh.replace(folder)
        shutil.rmtree(old, ignore_errors=True)


def starting_model(
    preset: str, start: Path | None, foundation_folder: Path | None
) -> tuple[RSRefSeg, Tokenize, Path | None]:
    """Load what training on samples begins with: a checkpoint, or what a preset is published or shipped as.

    Args:
        preset: "tiny", "b" or "l".
        start: A checkpoint of that preset, its adapters apart.
        foundation_folder: Where the foundation weights lie; None for the default.

    Returns:
        The model in float32 on the CPU, its tokenizer, and the file of its words if it has one.

    Raises:
        BadRequest: If the checkpoint is of another preset, or its adapters are merged.
    """
    wanted = preset_named(preset)
    folder = start or (checkpoint.shipped(preset) if isinstance(wanted.image, SharedTrunk) else None)
    if folder is None:
        model = foundation.load(wanted, foundation_folder)
        words = foundation.path_of(foundation.VOCABULARY, foundation_folder)
        return model, tokenizer_for(wanted.text, words), words
    model = checkpoint.load(folder, foundation_folder)
    if model.preset.name != preset:
        raise BadRequest(f"{folder} is of the preset {model.preset.name!r}: give --preset {model.preset.name}")
    if wanted.lora and not model.preset.lora:
        raise BadRequest(f"the adapters of {folder} are merged into its weights: nothing of it is left to train")
    words = checkpoint.vocabulary(folder, model.preset, foundation_folder)
    return model, tokenizer_for(model.preset.text, words), words


def train(
    trainer: Trainer,
    out: Path,
    *,
    resume: bool = False,
    tokenizer: Tokenize | None = None,
    words: Path | None = None,
    keep_every: int = 200,
    score_every: int = 1000,
    on_step: Callable[[int, float], bool] = lambda _step, _loss: True,
) -> dict[str, Evaluation]:
    """Train to the end of the recipe; the checkpoint with the best scores lies in `out/checkpoint`.

    Args:
        trainer: Made with the same folder.
        out: Folder of the run: `training.pt`, `log.csv`, `curves.png` and `checkpoint/`.
        resume: Go on with the run in `out`.
        tokenizer: Words to ids, where the text tower needs a file for it.
        words: That file, to lie in the checkpoint too.
        keep_every: Steps between saves.
        score_every: Steps between scores.
        on_step: Told after each step its number and loss; where it says False, the run is saved and left.

    Returns:
        The last scores by name.

    Raises:
        BadRequest: If the folder holds a run and `resume` is not asked for.
    """
    if (out / STATE).exists() and not resume:
        raise BadRequest(f"{out} holds a run already: add --resume to go on with it, or choose another folder")
    out.mkdir(parents=True, exist_ok=True)
    if resume and trainer.resume():
        log.info("training resumed", extra={"step": trainer.step})
        # What a killed run logged after its last save will be logged again.
        _write_rows(out / LOG, [row for row in _read_rows(out / LOG) if int(row["step"]) <= trainer.step])
    else:
        trainer.begin()
    recipe, card = trainer.recipe, _card(trainer)
    scores: dict[str, Evaluation] = {}
    began, losses = time.monotonic(), []
    with _progress(trainer) as advance:
        for batches in trainer.batches():
            last_loss = trainer.learn(batches)
            losses.append(last_loss)
            step, last = trainer.step, trainer.step == recipe.steps
            advance(step, last_loss)
            scored = step % score_every == 0 or last
            if scored and trainer.team.leads:
                scores = trainer.score(tokenizer, card)
                if words:
                    shutil.copy(words, out / "checkpoint" / words.name)
            if step % 50 == 0 or scored:
                row = {
                    "step": step,
                    "loss": round(sum(losses) / len(losses), 5),
                    "learning_rate": recipe.rate_at(step - 1),
                    "seconds_per_step": round((time.monotonic() - began) / len(losses), 3),
                    **({f"mIoU {name}": round(s.overall.mIoU, 2) for name, s in scores.items()} if scored else {}),
                }
                if trainer.team.leads:
                    _write_row(out, row)
                    log.info("training", extra={**row, "of": recipe.steps})
                    if scored:
                        draw_curves(_read_rows(out / LOG), out / CURVES)
                began, losses = time.monotonic(), []
            if step % keep_every == 0 or scored:
                trainer.keep()
            if scored:
                trainer.team.wait()
            if not on_step(step, last_loss) and not last:
                trainer.keep()
                break
    return scores


def _write_row(out: Path, row: dict[str, Any]) -> None:
    rows = [*_read_rows(out / LOG), {key: str(value) for key, value in row.items()}]
    _write_rows(out / LOG, rows)


def _read_rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        table.writeheader()
        table.writerows(rows)


@contextmanager
def _progress(trainer: Trainer) -> Iterator[Any]:
    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not (console.is_terminal and trainer.team.leads)) as bar:
        task = bar.add_task("training", total=trainer.recipe.steps, completed=trainer.step, loss=0.0)
        yield lambda step, loss: bar.update(task, completed=step, loss=loss)


def _fast_bfloat16() -> bool:
    return bool(torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _recompute(model: RSRefSeg) -> None:
    blocks: list[nn.Module] = []
    if isinstance(model.image_encoder, PairedImageEncoder):
        blocks += [*model.image_encoder.sam.blocks, *model.image_encoder.siglip.blocks]
        blocks += model.text_encoder.tower.transformer.resblocks
    for block in blocks:
        block.forward = partial(recomputed, block.forward, use_reentrant=False)


def _card(trainer: Trainer) -> str:
    taught = trainer.lesson.described()
    return "\n".join([
        f"# RSRefSeg {trainer.model.preset.name}",
        "",
        f"Trained by {checkpoint.code_version()}.",
        "",
        "## Scores on the held-out sets",
        "",
        "{scores}",
        "",
        "## Lesson",
        "",
        *(f"- {key}: {value}" for key, value in taught.items()),
        "",
        "## Recipe",
        "",
        *(f"- {key}: {value}" for key, value in asdict(trainer.recipe).items()),
        "",
    ])
