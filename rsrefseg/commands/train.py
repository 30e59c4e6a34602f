"""`rsrefseg train` and `rsrefseg train-tiny`: adapters on a benchmark, and everything from nothing."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rsrefseg.commands.options import BENCHMARKS, HELD_OUT_SEED, SCENE_SIZE, begin_log

if TYPE_CHECKING:
    from rsrefseg.evaluate import Evaluation


def _run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--threads", type=click.IntRange(1), help="CPU threads."),
        click.option("--seed", type=int, default=0, show_default=True),
        click.option("--start", type=click.Path(path_type=Path), help="A checkpoint whose weights to begin with."),
        click.option("--resume", is_flag=True, help="Go on with the run in --out."),
        click.option(
            "--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder of the run."
        ),
    ):
        command = option(command)
    return command


def _never_test(_context: click.Context, option: click.Parameter, split: str) -> str:
    if split == "test":
        raise click.BadParameter("the test split is for `rsrefseg evaluate` alone: name another one", param=option)
    return split


def _begin_run(threads: int | None) -> None:
    import torch

    begin_log(logging.INFO, "%(asctime)s %(message)s")
    if threads:
        torch.set_num_threads(threads)


def _end_run(scores: dict[str, Evaluation], out: Path) -> None:
    for name, result in scores.items():
        click.echo(f"{name}: {json.dumps(result.rounded())}")
    click.echo(f"checkpoint: {out / 'checkpoint'}")


@click.command()
@click.option("--dataset", type=click.Choice(BENCHMARKS), required=True)
@click.option("--root", type=click.Path(path_type=Path), required=True, help="Folder of the data set.")
@click.option("--split", default="train", show_default=True, callback=_never_test, help="To learn from.")
@click.option("--val", default="val", show_default=True, callback=_never_test, help="Split that chooses the best.")
@click.option("--preset", type=click.Choice(["tiny", "b", "l"]), default="b", show_default=True)
@_run_options
@click.option("--foundation", type=click.Path(path_type=Path), help="Foundation weights, if not where fetch puts them.")
@click.option("--epochs", type=click.FloatRange(0, min_open=True), default=200.0, show_default=True)
@click.option("--batch", type=click.IntRange(1), default=8, show_default=True, help="Samples on each device.")
@click.option("--accumulate", type=click.IntRange(1), default=1, show_default=True, help="Batches added up in a step.")
@click.option("--learning-rate", type=click.FloatRange(0, min_open=True), default=1e-4, show_default=True)
@click.option("--dice", type=click.FloatRange(0), default=0.0, show_default=True, help="Weight of a Dice loss.")
@click.option("--ema", type=click.FloatRange(0, 1, max_open=True), help="Decay of a running average of the weights.")
@click.option("--float32", is_flag=True, help="Compute in float32 even where bfloat16 is fast.")
@click.option("--recompute", is_flag=True, help="Half the memory for a third more time.")
@click.option("--freeze-norms", is_flag=True, help="For batches of one or two samples.")
@click.option("--val-every", type=click.FloatRange(0, min_open=True), default=5.0, show_default=True, help="Epochs.")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda; torchrun gives each process its own.")
def train(
    dataset: str,
    root: Path,
    split: str,
    val: str,
    preset: str,
    out: Path,
    resume: bool,
    start: Path | None,
    foundation: Path | None,
    epochs: float,
    batch: int,
    accumulate: int,
    learning_rate: float,
    dice: float,
    ema: float | None,
    float32: bool,
    recompute: bool,
    freeze_norms: bool,
    val_every: float,
    seed: int,
    threads: int | None,
    device: str,
) -> None:
    """Train a preset on a benchmark by the paper's recipe.

    On several GPUs: torchrun --nproc-per-node 8 -m rsrefseg train --device cuda ...
    """
    from rsrefseg.datasets import read_benchmark
    from rsrefseg.device import device_named
    from rsrefseg.lessons import FromSamples, usable
    from rsrefseg.train import Recipe, Team, Trainer, starting_model
    from rsrefseg.train import train as run

    _begin_run(threads)
    device_named(device)
    team = Team.from_torchrun(device)
    model, tokenizer, words = starting_model(preset, start, foundation)
    lesson = FromSamples(
        usable(read_benchmark(dataset, root, split)),
        {val: usable(read_benchmark(dataset, root, val))},
        model.preset,
        tokenizer,
        device=device,
        images=batch,
        seed=seed,
        rank=team.rank,
        size=team.size,
        dice=dice,
    )
    epoch = lesson.batches_per_epoch / accumulate
    recipe = Recipe(
        steps=max(1, round(epochs * epoch)),
        learning_rate=learning_rate,
        warmup_steps=round(min(5, 0.05 * epochs) * epoch),
        ema_decay=ema,
        accumulate=accumulate,
        precision="float32" if float32 else "bfloat16",
        recompute=recompute,
        freeze_norms=freeze_norms,
        seed=seed,
    )
    trainer = Trainer(model.to(device), recipe, lesson, out, team)
    every = max(1, round(val_every * epoch))
    scores = run(trainer, out, resume=resume, tokenizer=tokenizer, words=words, score_every=every)
    if team.leads:
        _end_run(scores, out)


@click.command()
@_run_options
@click.option(
    "--scenes", "scene_count", type=click.IntRange(1), default=3000, show_default=True, help="Scenes to draw."
)
@click.option(
    "--instances", type=click.Path(path_type=Path), help="Folder with train.json, dev.json and images/ (COCO)."
)
@click.option(
    "--pace",
    type=click.FloatRange(0, min_open=True),
    default=1.0,
    show_default=True,
    help="Share of the curriculum's steps.",
)
@click.option(
    "--wide", type=click.IntRange(1), default=1, show_default=True, help="Times as many images in a step: for a GPU."
)
@click.option("--learning-rate", type=click.FloatRange(0, min_open=True), help="If not the recipe's.")
@click.option("--workers", type=click.IntRange(0), default=1, show_default=True, help="Processes that prepare images.")
@click.option("--score-every", type=click.IntRange(1), default=1000, show_default=True, help="Steps between scores.")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
def train_tiny(
    out: Path,
    resume: bool,
    start: Path | None,
    scene_count: int,
    instances: Path | None,
    pace: float,
    wide: int,
    learning_rate: float | None,
    workers: int,
    score_every: int,
    device: str,
    seed: int,
    threads: int | None,
) -> None:
    """Train the preset tiny from nothing: on drawn scenes, and on real images with instance masks where given.

    With --start it goes on from weights that were trained so before: large images only, and the words stay as they are.
    """
    import torch

    from rsrefseg import checkpoint
    from rsrefseg.datasets import drawn_scenes, read_coco_instances, resized_images
    from rsrefseg.device import device_named
    from rsrefseg.lessons import Curriculum, FromScratch
    from rsrefseg.model import RSRefSeg
    from rsrefseg.presets import TINY
    from rsrefseg.train import TINY_RECIPE, Trainer
    from rsrefseg.train import train as run

    _begin_run(threads)
    there = device_named(device)
    if there.type == "cuda":
        torch.set_float32_matmul_precision("high")
    drawn = drawn_scenes(out / "scenes", 0, scene_count, SCENE_SIZE, workers)
    held_out: dict[str, Any] = {
        "scenes": drawn_scenes(out / "held-out", HELD_OUT_SEED, min(100, scene_count), SCENE_SIZE, workers)
    }
    sources: list[tuple[Any, float]] = [(drawn, 1.0)]
    if instances:
        size = TINY.image_size
        photographs = resized_images(out / "photographs", read_coco_instances(instances, "train"), size)
        sources = [(drawn, 0.75), (photographs, 0.25)]
        held_out["instances"] = [one.resized(size) for one in read_coco_instances(instances, "dev")]
    curriculum = (Curriculum().going_on() if start else Curriculum()).at(pace).wide(wide)
    torch.manual_seed(seed)
    model = checkpoint.load(start) if start else RSRefSeg(TINY)
    lesson = FromScratch(curriculum, sources, held_out, model.preset.text.positions, seed, workers)
    rate = learning_rate or TINY_RECIPE.learning_rate
    recipe = replace(TINY_RECIPE, steps=curriculum.steps, seed=seed, learning_rate=rate)
    trainer = Trainer(model.to(there).to(memory_format=torch.channels_last), recipe, lesson, out)
    _end_run(run(trainer, out, resume=resume, score_every=score_every), out)
