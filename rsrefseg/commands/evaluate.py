"""`rsrefseg evaluate` and `rsrefseg probe`: how right a model is, and whether it listens."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rsrefseg.commands.options import (
    BENCHMARKS,
    CALIBRATION_SEED,
    HELD_OUT_SEED,
    SCENE_SIZE,
    model_options,
    predictor_of,
)

if TYPE_CHECKING:
    from rsrefseg.datasets import CorruptRow, LabelledImage, Sample
    from rsrefseg.evaluate import Evaluation
    from rsrefseg.predictor import Predictor


@click.command()
@click.option(
    "--dataset",
    type=click.Choice([*BENCHMARKS, "instances", "scenes"]),
    required=True,
    help="A benchmark in its own layout; or what the grammar says of COCO instances, or of drawn scenes.",
)
@click.option("--root", type=click.Path(path_type=Path), help="The dataset's folder.")
@click.option("--split", default="test", show_default=True)
@click.option("--count", type=click.IntRange(1), default=100, show_default=True, help="Scenes to draw.")
@model_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Keep scores.json, and a result for each sample."
)
@click.option("--resume", is_flag=True, help="Go on with what --out holds.")
@click.option(
    "--save-masks", "masks", type=click.Path(path_type=Path, file_okay=False), help="Write <sample id>.png here."
)
@click.option(
    "--contact-sheet", "sheet", type=click.Path(path_type=Path, dir_okay=False), help="Best and worst: .png or .html."
)
@click.option("--on-corrupt", type=click.Choice(["skip", "stop"]), default="skip", show_default=True)
def evaluate(
    dataset: str,
    root: Path | None,
    split: str,
    count: int,
    preset: str,
    checkpoint: Path | None,
    foundation: Path | None,
    device: str,
    as_json: bool,
    out: Path | None,
    resume: bool,
    masks: Path | None,
    sheet: Path | None,
    on_corrupt: str,
) -> None:
    """Score a model on a benchmark, or on expressions that the grammar writes for images of known objects.

    Masks are compared at the image's own size. Rows that cannot be used are named on standard error, counted, and left
    out of every figure; the exit code stays 0 unless none is left or --on-corrupt stop is given.
    """
    from contextlib import nullcontext

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from rsrefseg.errors import BadDataset
    from rsrefseg.evaluate import evaluate_samples
    from rsrefseg.results import ResultFile
    from rsrefseg.score_table import score_table

    _check_usage(dataset, root, out, resume, sheet)
    read, total = _samples(dataset, root, split, count)
    predictor = predictor_of(preset, checkpoint, foundation, device)
    about: dict[str, object] = {"model_version": predictor.version, "dataset": dataset}
    about |= {"count": count} if dataset == "scenes" else {"split": split}
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())

    def leave_out(row: CorruptRow) -> None:
        if on_corrupt == "stop":
            raise BadDataset(f"{row} (--on-corrupt skip leaves such rows out)")
        console.print(f"left out: {row}", highlight=False, markup=False, soft_wrap=True)

    kept = ResultFile(out / "results.jsonl", about, resume=resume) if out else None
    with kept or nullcontext(), Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(dataset, total=total)
        result = evaluate_samples(
            predictor,
            read(),
            kept=kept,
            masks=masks,
            on_corrupt=leave_out,
            on_samples=lambda more: progress.advance(task, more),
        )
    figures = json.dumps({**result.as_dict(), **about})
    if out:
        (out / "scores.json").write_text(figures + "\n")
    if as_json:
        click.echo(figures)
    else:
        Console().print(score_table(result))
        click.echo(
            f"{result.images} images, {result.images_per_s:.2f} a second; {result.corrupt} corrupt rows left out"
        )
    if sheet:
        _draw_sheet(
            sheet, predictor, read(), result, f"{predictor.version} on {dataset}" + (f" {split}" if root else "")
        )
        click.echo(f"contact sheet: {sheet}", err=as_json)


@click.command()
@click.option("--dataset", type=click.Choice(["instances", "scenes"]), required=True, help="Images of known objects.")
@click.option("--root", type=click.Path(path_type=Path), help="The dataset's folder.")
@click.option("--split", default="test", show_default=True)
@click.option("--count", type=click.IntRange(1), default=100, show_default=True, help="Scenes to draw.")
@model_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def probe(
    dataset: str,
    root: Path | None,
    split: str,
    count: int,
    preset: str,
    checkpoint: Path | None,
    foundation: Path | None,
    device: str,
    as_json: bool,
) -> None:
    """Ask whether a model listens: to opposites, absent classes, paraphrases, slips; and what its score is worth."""
    from rich.console import Console
    from rich.table import Table

    from rsrefseg.datasets import read_coco_instances
    from rsrefseg.probes import FIGURES
    from rsrefseg.probes import probe as run

    _check_usage(dataset, root)
    images = _drawn(count) if root is None else enumerate(read_coco_instances(root, split))
    found = run(predictor_of(preset, checkpoint, foundation, device), (image for _, image in images))
    if as_json:
        click.echo(json.dumps(found.as_dict()))
        return
    table = Table("asked", "found")
    for name, value in found.as_dict().items():
        table.add_row(FIGURES[name], "-" if value is None else f"{value:.3g}")
    Console().print(table)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.option("--dataset", type=click.Choice([*BENCHMARKS, "instances", "scenes"]), required=True)
@click.option("--root", type=click.Path(path_type=Path), help="The dataset's folder.")
@click.option("--split", default="val", show_default=True, help="Images that were not learnt from.")
@click.option("--count", type=click.IntRange(1), default=200, show_default=True, help="Scenes to draw.")
@click.option("--foundation", type=click.Path(path_type=Path), help="Foundation weights, if not where fetch puts them.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
def calibrate(
    folder: Path, dataset: str, root: Path | None, split: str, count: int, foundation: Path | None, device: str
) -> None:
    """Make the scores of the checkpoint in FOLDER chances that a mask is right; its masks stay as they are."""
    from rsrefseg import Predictor, checkpoint
    from rsrefseg.errors import BadDataset
    from rsrefseg.evaluate import calibrate as run
    from rsrefseg.evaluate import calibrate_second_looks

    _check_usage(dataset, root)
    read, _ = _samples(dataset, root, split, count, CALIBRATION_SEED)
    predictor = Predictor.from_checkpoint(folder, device, foundation)
    found = predictor.calibration = run(predictor, read())
    try:
        found = calibrate_second_looks(predictor, read())
    except BadDataset as exc:
        click.echo(f"{exc}; second looks stay as they are", err=True)
    checkpoint.calibrate(folder, found)
    second = found.second_look
    looked = f"; second look: slope {second.slope:.3f}, bias {second.bias:.3f}" if second else ""
    click.echo(f"{checkpoint.version(folder)}: slope {found.slope:.3f}, bias {found.bias:.3f}{looked}")


def _check_usage(
    dataset: str, root: Path | None, out: Path | None = None, resume: bool = False, sheet: Path | None = None
) -> None:
    from rsrefseg.contact_sheet import FORMATS

    if dataset != "scenes" and root is None:
        raise click.UsageError(f"--dataset {dataset} needs --root DIR")
    if resume and out is None:
        raise click.UsageError("--resume needs --out DIR, the folder of the run to go on with")
    if sheet and sheet.suffix not in FORMATS:
        raise click.UsageError(f"--contact-sheet is a .png or an .html file, {sheet.name} is neither")


def _samples(
    dataset: str, root: Path | None, split: str, count: int, first_seed: int = HELD_OUT_SEED
) -> tuple[Callable[[], Iterator[Sample | CorruptRow]], int | None]:
    # A set that can be read several times, and how many rows it has where that is cheap to know.
    from rsrefseg.datasets import grammar_samples, read_benchmark, read_instance_rows

    if dataset == "scenes":
        return lambda: grammar_samples(_drawn(count, first_seed)), None
    assert root is not None
    if dataset == "instances":
        return lambda: grammar_samples(read_instance_rows(root, split)), None
    # Its tables are read once for nothing, so that a wrong folder is refused before a large model is loaded.
    return lambda: read_benchmark(dataset, root, split), sum(1 for _ in read_benchmark(dataset, root, split))


def _drawn(count: int, first_seed: int = HELD_OUT_SEED) -> Iterator[tuple[str, LabelledImage]]:
    from rsrefseg.datasets import LabelledImage
    from rsrefseg.expressions import SYNONYMS
    from rsrefseg.scenes import draw_scene

    for seed in range(first_seed, first_seed + count):
        scene = draw_scene(seed, SCENE_SIZE)
        yield f"scene-{seed}", LabelledImage.of(scene.image, scene.things, tuple(SYNONYMS))


def _draw_sheet(
    path: Path, predictor: Predictor, samples: Iterator[Sample | CorruptRow], result: Evaluation, name: str
) -> None:
    from rsrefseg.contact_sheet import choose, draw_cases, write_contact_sheet

    best, worst = choose(result.results, 12)
    cases = draw_cases(predictor, samples, [*best, *worst])
    scores = result.overall
    write_contact_sheet(
        path,
        f"{name}: mIoU {scores.mIoU:.1f}, oIoU {scores.oIoU:.1f}, P@0.5 {scores.precision['P@0.5']:.1f}, n {scores.n}",
        [cases[one.sample_id] for one in best if one.sample_id in cases],
        [cases[one.sample_id] for one in worst if one.sample_id in cases],
    )
