"""Do corrections of selected tasks teach more than as many in random order?

A pool of drawn scenes with an expression each, in an office's shorthand, which the shipped weights know badly. Two
annotators know the truth: one corrects what `rsrefseg-backend select` would put first, one what comes by lot. After
each round either's model is taught from the base by all that it has so far, and asked about scenes that nobody is
taught.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import click
import numpy as np
import torch
from record import keep
from rich.console import Console
from rich.progress import track
from rich.table import Table

from ml_backend.selection import Candidate, choose
from rsrefseg import Predictor
from rsrefseg.anchor import draw_anchor, read_anchor
from rsrefseg.datasets import LabelledImage, Sample, grammar_samples
from rsrefseg.evaluate import evaluate_samples
from rsrefseg.expressions import SHORTHAND, SYNONYMS
from rsrefseg.lessons import FromCorrections
from rsrefseg.scenes import draw_scene
from rsrefseg.seen import SeenFeatures
from rsrefseg.teaching import Course, teach

POOL_SEED, HELD_OUT_SEED = 1_800_000_000, 1_850_000_000
"""Of the first scene of either."""

SIDE = 512

ARMS = ("selected", "random")


@click.command()
@click.option("--pool", type=click.IntRange(10), default=240, show_default=True, help="Tasks to choose from.")
@click.option("--held-out", type=click.IntRange(4), default=80, show_default=True, help="Scenes to be scored on.")
@click.option("--a-round", type=click.IntRange(2), default=20, show_default=True, help="Corrections a round.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--seeds", type=click.IntRange(1), default=2, show_default=True, help="How often all of it is done.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True)
@click.option("--quick", is_flag=True, help="A handful of scenes, one round, two steps; nothing is kept.")
def main(
    pool: int, held_out: int, a_round: int, rounds: int, seeds: int, device: str, threads: int, quick: bool
) -> None:
    """Draw both curves, and say what either cost the anchor, whoever wins."""
    torch.set_num_threads(threads)
    if quick:
        pool, held_out, a_round, rounds, seeds = 12, 4, 4, 1, 1
    base = Predictor.from_preset("tiny", device=device)
    tasks, unseen = in_shorthand(POOL_SEED, pool, 1), in_shorthand(HELD_OUT_SEED, held_out, 3)
    before = score(base, unseen)
    began = time.perf_counter()
    curves: dict[str, list[list[float]]] = {arm: [] for arm in ARMS}
    kept: dict[str, list[float]] = {arm: [] for arm in ARMS}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        anchor, of_anchor = list[Sample](), tasks[:2]
        course = Course()
        if quick:
            course = replace(course, least_steps=2, most_steps=2)
        else:
            draw_anchor(folder / "anchor")
            anchor, of_anchor = (read_anchor(folder / "anchor", split) for split in ("train", "test"))
        known = score(base, of_anchor)
        for seed in range(seeds):
            for arm in ARMS:
                curves[arm].append([before])
                chosen: list[Sample] = []
                model = base
                for turn in range(rounds):
                    chosen += next_of(arm, model, tasks, chosen, a_round, seed + 100 * turn)
                    run = folder / f"{seed}-{arm}-{turn}"
                    model = taught(base, course, chosen, anchor, SeenFeatures(base, folder / "seen"), run, seed)
                    curves[arm][-1].append(score(model, unseen))
                kept[arm].append(score(model, of_anchor))
    means = {arm: [round(fmean(points), 2) for points in zip(*curves[arm], strict=True)] for arm in ARMS}
    table = Table("corrections", *(f"{arm}, mIoU" for arm in ARMS))
    for turn in range(rounds + 1):
        table.add_row(str(turn * a_round), *(f"{means[arm][turn]:.1f}" for arm in ARMS))
    Console().print(table)
    costs = {f"{arm}_anchor_gain": round(fmean(kept[arm]) - known, 2) for arm in ARMS}
    figures = {f"{arm}_miou": means[arm] for arm in ARMS} | costs
    figures["gain_over_random"] = round(means["selected"][-1] - means["random"][-1], 2)
    details = {
        "curves": curves,
        "anchor": {"before": known, "after": kept},
        "corrections": [turn * a_round for turn in range(rounds + 1)],
        "pool": pool,
        "held_out_samples": len(unseen),
        "model_version": base.version,
        "device": device,
        "seconds": round(time.perf_counter() - began, 1),
    }
    keep("selection", figures, details, quick=quick)


def in_shorthand(first_seed: int, count: int, per_scene: int) -> list[Sample]:
    """Speak of drawn scenes in words that no weights which ship were taught.

    Args:
        first_seed: Of the first scene.
        count: How many scenes.
        per_scene: Most expressions about each.

    Returns:
        What can be said of them, and what is meant.
    """
    labelled = []
    for seed in track(range(first_seed, first_seed + count), "drawing scenes"):
        scene = draw_scene(seed, SIDE)
        labelled.append((f"scene-{seed}", LabelledImage.of(scene.image, scene.things, tuple(SYNONYMS))))
    said = grammar_samples(labelled, per_scene, first_seed, SHORTHAND)
    return [one for one in said if isinstance(one, Sample)]


def score(predictor: Predictor, samples: Sequence[Sample]) -> float:
    """Ask a model about scenes that nobody is taught.

    Args:
        predictor: Asked.
        samples: Of the scenes.

    Returns:
        mIoU in percent.
    """
    return evaluate_samples(predictor, samples).overall.mIoU


def next_of(
    arm: str, predictor: Predictor, tasks: Sequence[Sample], done: Sequence[Sample], count: int, seed: int
) -> list[Sample]:
    """Say what an annotator corrects next.

    Args:
        arm: Which of `ARMS`.
        predictor: Whose doubts count.
        tasks: All of the pool.
        done: Those that were corrected.
        count: How many more.
        seed: Of chance.

    Returns:
        The tasks.
    """
    known = {sample.sample_id for sample in done}
    if arm == "random":
        left = [sample for sample in tasks if sample.sample_id not in known]
        return [left[i] for i in np.random.default_rng(seed).permutation(len(left))[:count]]
    candidates, sketches = [], {}
    for number, sample in enumerate(track(tasks, "looking through the pool")):
        embedding = predictor.encode(sample.image())
        sketches[number] = predictor.sketch(embedding)
        if sample.sample_id not in known:
            [found] = predictor.segment(embedding, [sample.expression])
            labels = frozenset({sample.category or ""} if found.mask.any() else ())
            candidates.append(Candidate(number, found.score, labels))
    numbers = [number for number, sample in enumerate(tasks) if sample.sample_id in known]
    # As the command does it, its share by lot included.
    choice = choose(candidates, sketches, count, seed=seed, known=numbers)
    return [tasks[pick.task_id] for pick in choice.picks]


def taught(
    base: Predictor,
    course: Course,
    chosen: Sequence[Sample],
    anchor: Sequence[Sample],
    seen: SeenFeatures,
    folder: Path,
    seed: int,
) -> Predictor:
    """Teach the base by what was corrected so far.

    Args:
        base: Taught further; it stays as it is.
        course: How long and how strongly.
        chosen: The corrections.
        anchor: What the base knows.
        seen: Features of their images, as far as they are known.
        folder: Of the run.
        seed: Of the order.

    Returns:
        The model.
    """
    recipe = course.recipe(len(chosen))
    device = base.device.type
    lesson = FromCorrections(chosen, [], anchor, seen, base.tokenizer, device=device, mixture=course.mixture, seed=seed)
    lesson.prepare(recipe.steps)
    with Console().status(f"learning from {len(chosen)} corrections"):
        checkpoint = teach(base, lesson, recipe, folder, blend=course.blend)
    assert checkpoint is not None
    return base.with_heads(checkpoint)


if __name__ == "__main__":
    main()
