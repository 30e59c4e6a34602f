"""The command `rsrefseg`: segment, draw scenes, train, evaluate, bring weights, convert checkpoints."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from rsrefseg.datasets import CorruptRow, Sample
    from rsrefseg.evaluate import Evaluation
    from rsrefseg.predictor import Predictor

HELD_OUT_SEED = 1_000_000_000
"""Drawn scenes from this seed on are never trained on."""


class _Group(click.Group):
    """Turn what the package refuses into one sentence and an exit code, never a stack trace."""

    def invoke(self, ctx: click.Context) -> Any:
        from rsrefseg.errors import RSRefSegError

        try:
            return super().invoke(ctx)
        except RSRefSegError as exc:
            raise click.ClickException(str(exc)) from exc


_OPTIONS = "rsrefseg.options"
"""Where options that only `_predictor` reads wait for it."""


def _set_aside(ctx: click.Context, option: click.Parameter, value: Any) -> None:
    ctx.meta.setdefault(_OPTIONS, {})[option.name] = value


def _model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    aside: dict[str, Any] = {"expose_value": False, "callback": _set_aside}
    for option in (
        click.option(
            "--compile", is_flag=True, help="Compile first: for many images; a CPU needs a C++ compiler.", **aside
        ),
        click.option(
            "--dtype",
            type=click.Choice(["float32", "bfloat16", "float16"]),
            default="float32",
            show_default=True,
            help="bfloat16 suits GPUs, and CPUs with avx512_bf16; float16 only GPUs.",
            **aside,
        ),
        click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N."),
        click.option(
            "--foundation", type=click.Path(path_type=Path), help="Foundation weights, if not where fetch puts them."
        ),
        click.option("--checkpoint", type=click.Path(path_type=Path), help="A checkpoint folder instead of a preset."),
        click.option("--preset", default="tiny", show_default=True, help="Weights that come with the package."),
    ):
        command = option(command)
    return command


def _predictor(preset: str, checkpoint: Path | None, foundation: Path | None, device: str) -> Predictor:
    from rsrefseg import Predictor

    options = click.get_current_context().meta[_OPTIONS]
    if checkpoint:
        return Predictor.from_checkpoint(checkpoint, device, foundation, **options)
    return Predictor.from_preset(preset, device, **options)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="rsrefseg")
def main() -> None:
    """Masks of overhead images from words."""


@main.command()
@click.argument("image", type=click.Path(path_type=Path))
@click.argument("expressions", nargs=-1, required=True, metavar="EXPRESSION...")
@_model_options
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Write masks and an overlay here.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def segment(
    image: Path,
    expressions: tuple[str, ...],
    preset: str,
    checkpoint: Path | None,
    foundation: Path | None,
    device: str,
    out: Path | None,
    as_json: bool,
) -> None:
    """Find what each EXPRESSION refers to in IMAGE."""
    from rich.console import Console
    from rich.table import Table

    from rsrefseg.pictures import overlay, read_image, write_image

    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    _show_extra()
    pixels = read_image(image)
    found = _predictor(preset, checkpoint, foundation, device).segment(pixels, expressions)
    rows: list[dict[str, Any]] = []
    for number, one in enumerate(found):
        row: dict[str, Any] = {
            "expression": one.expression,
            "score": round(one.score, 4),
            "predicted_iou": round(one.predicted_iou, 4),
            "covered_percent": round(100 * float(one.mask.mean()), 3),
        }
        if out:
            row["mask"] = str(write_image(out / f"{image.stem}-{number}.png", one.mask))
        rows.append(row)
    drawn = (
        write_image(out / f"{image.stem}-overlay.png", overlay(pixels, [one.mask for one in found])) if out else None
    )
    if as_json:
        click.echo(json.dumps({"image": str(image), "found": rows, "overlay": str(drawn) if drawn else None}))
        return
    table = Table("expression", "score", "covered %", *(["mask"] if out else []))
    for row in rows:
        cells = [row["expression"], f"{row['score']:.2f}", f"{row['covered_percent']:.2f}"]
        table.add_row(*cells, *([row["mask"]] if out else []))
    Console().print(table)
    if drawn:
        click.echo(f"overlay: {drawn}")


@main.command()
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder to write.")
@click.option("--count", type=click.IntRange(1, 100_000), default=12, show_default=True)
@click.option("--size", type=click.IntRange(128, 4096), default=512, show_default=True, help="Side in pixels.")
@click.option("--seed", type=click.IntRange(0), default=HELD_OUT_SEED, show_default=True, help="Of the first scene.")
def scenes(out: Path, count: int, size: int, seed: int) -> None:
    """Draw overhead scenes: images, one expression for each in expressions.csv, and its true mask."""
    from rsrefseg.samples import write_samples

    click.echo(f"{write_samples(out, count, size, seed)} scenes in {out}")


@main.command()
@click.option("--preset", type=click.Choice(["tiny"]), default="tiny", show_default=True)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder of the run.")
@click.option(
    "--scenes", "scene_count", type=click.IntRange(1), default=3000, show_default=True, help="Scenes to draw."
)
@click.option(
    "--instances", type=click.Path(path_type=Path), help="Folder with train.json, dev.json and images/ (COCO)."
)
@click.option("--resume", is_flag=True, help="Go on with the run in --out.")
@click.option("--start", type=click.Path(path_type=Path), help="A checkpoint whose weights to begin with.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--pace", type=click.FloatRange(0.001), default=1.0, show_default=True, help="Share of the recipe's steps."
)
@click.option("--threads", type=click.IntRange(1), help="CPU threads.")
def train(
    preset: str,
    out: Path,
    scene_count: int,
    instances: Path | None,
    resume: bool,
    start: Path | None,
    seed: int,
    pace: float,
    threads: int | None,
) -> None:
    """Train a preset on drawn scenes, and on real images with instance masks where they are given."""
    import torch

    from rsrefseg.datasets import DrawnScenes, read_coco_instances
    from rsrefseg.presets import preset_named
    from rsrefseg.train import Recipe
    from rsrefseg.train import train as run

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    _show_extra()
    if threads:
        torch.set_num_threads(threads)
    model = preset_named(preset)
    recipe = replace(Recipe(), seed=seed)
    recipe = replace(recipe, phases=tuple(replace(p, steps=max(1, round(p.steps * pace))) for p in recipe.phases))
    size = model.image_size
    drawn = DrawnScenes(out / "scenes", 0, scene_count, size)
    held_out: dict[str, Any] = {"scenes": DrawnScenes(out / "held-out", HELD_OUT_SEED, min(100, scene_count), size)}
    sources: list[tuple[Any, float]] = [(drawn, 1.0)]
    if instances:
        sources = [(drawn, 0.75), ([one.resized(size) for one in read_coco_instances(instances, "train")], 0.25)]
        held_out["instances"] = [one.resized(size) for one in read_coco_instances(instances, "dev")]
    for name, result in run(model, recipe, sources, held_out, out, resume=resume, start=start).items():
        click.echo(f"{name}: {json.dumps(result.rounded())}")
    click.echo(f"checkpoint: {out / 'checkpoint'}")


@main.command()
@click.option(
    "--dataset",
    type=click.Choice(["rrsis-d", "refsegrs", "risbench", "socioseg", "coco", "instances", "scenes"]),
    required=True,
    help="A benchmark in its own layout; or what the grammar says of COCO instances, or of drawn scenes.",
)
@click.option("--root", type=click.Path(path_type=Path), help="The dataset's folder.")
@click.option("--split", default="test", show_default=True)
@click.option("--count", type=click.IntRange(1), default=100, show_default=True, help="Scenes to draw.")
@_model_options
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
    predictor = _predictor(preset, checkpoint, foundation, device)
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


@main.group()
def weights() -> None:
    """What the presets b and l are built on: SigLIP's and SAM's published weights."""


@weights.command()
@click.option("--preset", type=click.Choice(["b", "l"]), required=True)
@click.option("--from", "origin", type=click.Path(path_type=Path, file_okay=False, exists=True), help="Take them here.")
@click.option("--to", "folder", type=click.Path(path_type=Path, file_okay=False), help="Put them here.")
@click.option("--words-only", is_flag=True, help="Only SigLIP's words (0.8 MB): converted checkpoints need no more.")
def fetch(preset: str, origin: Path | None, folder: Path | None, words_only: bool) -> None:
    """Bring foundation weights here, verified; what was interrupted goes on where it stopped.

    They come from the Hugging Face hub and from the authors of SAM, or with --from out of a folder that was filled on
    another machine.
    """
    from functools import partial

    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from rsrefseg import foundation
    from rsrefseg.download import copy, download
    from rsrefseg.presets import preset_named

    folder = folder or foundation.default_folder()
    files = [foundation.VOCABULARY] if words_only else foundation.files_of(preset_named(preset))
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        tasks = [progress.add_task(file.path, total=file.size) for file in files]
        for file, task in zip(files, tasks, strict=True):
            watch = partial(_show_progress, progress, task)
            path = copy(file, origin, folder, watch) if origin else download(file, folder, watch)
            progress.console.print(f"{path}: sha256 verified", highlight=False, soft_wrap=True)


def _show_progress(progress: Progress, task: TaskID, here: int) -> None:
    progress.update(task, completed=here)


@main.command()
@click.argument("upstream", type=click.Path(path_type=Path))
@click.option("--preset", type=click.Choice(["b", "l"]), required=True)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Checkpoint to write.")
@click.option("--alpha", type=float, default=16.0, show_default=True, help="Of LoRA; the file does not hold it.")
@click.option("--half", is_flag=True, help="Store in half precision, whatever the file has.")
@click.option("--adapters-only", is_flag=True, help="Leave out the foundation weights; loading then needs them.")
@click.option(
    "--foundation", type=click.Path(path_type=Path), help="Where SigLIP's words lie, if not where fetch puts them."
)
def convert(
    upstream: Path, preset: str, out: Path, alpha: float, half: bool, adapters_only: bool, foundation: Path | None
) -> None:
    """Make a checkpoint of ours from UPSTREAM, one of KyanChen/RSRefSeg.

    UPSTREAM is mmengine's .pth file, a bare state dict, or the folder that DeepSpeed wrote. Nothing in it is executed,
    and no tensor of it is dropped in silence.
    """
    from rsrefseg.convert import convert as run
    from rsrefseg.presets import preset_named

    done = run(
        upstream,
        preset_named(preset),
        out,
        alpha=alpha,
        half=half,
        adapters_only=adapters_only,
        foundation_folder=foundation,
    )
    assert done.preset.lora is not None
    click.echo(f"{done.folder}: {done.tensors} tensors, {done.parameters:,} numbers")
    click.echo(f"adapters of rank {done.preset.lora.rank}, alpha {alpha:g}")
    for name in done.left_out:
        click.echo(f"left out, no part of the model: {name}")
    if not done.has_words:
        click.echo(f"SigLIP's words are not here yet: rsrefseg weights fetch --preset {preset} --words-only")


def _check_usage(dataset: str, root: Path | None, out: Path | None, resume: bool, sheet: Path | None) -> None:
    from rsrefseg.contact_sheet import FORMATS

    if dataset != "scenes" and root is None:
        raise click.UsageError(f"--dataset {dataset} needs --root DIR")
    if resume and out is None:
        raise click.UsageError("--resume needs --out DIR, the folder of the run to go on with")
    if sheet and sheet.suffix not in FORMATS:
        raise click.UsageError(f"--contact-sheet is a .png or an .html file, {sheet.name} is neither")


def _samples(
    dataset: str, root: Path | None, split: str, count: int
) -> tuple[Callable[[], Iterator[Sample | CorruptRow]], int | None]:
    # A set that can be read several times, and how many rows it has where that is cheap to know.
    from rsrefseg.datasets import LabelledImage, grammar_samples, read_benchmark, read_instance_rows

    if dataset == "scenes":
        from rsrefseg.expressions import SYNONYMS
        from rsrefseg.scenes import draw_scene

        def drawn() -> Iterator[tuple[str, LabelledImage]]:
            for seed in range(HELD_OUT_SEED, HELD_OUT_SEED + count):
                scene = draw_scene(seed)
                yield f"scene-{seed}", LabelledImage.of(scene.image, scene.things, tuple(SYNONYMS))

        return lambda: grammar_samples(drawn()), None
    assert root is not None
    if dataset == "instances":
        return lambda: grammar_samples(read_instance_rows(root, split)), None
    # Its tables are read once for nothing, so that a wrong folder is refused before a large model is loaded.
    return lambda: read_benchmark(dataset, root, split), sum(1 for _ in read_benchmark(dataset, root, split))


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


def _show_extra() -> None:
    """Put the fields of our log lines behind their phrase; the model's room knows no log library."""
    plain = set(vars(logging.makeLogRecord({})))

    def fields(record: logging.LogRecord) -> bool:
        extra = {key: value for key, value in vars(record).items() if key not in plain}
        if extra and not hasattr(record, "shown"):
            record.msg = f"{record.msg} {json.dumps(extra, default=str)}"
            record.shown = True
        return True

    for handler in logging.getLogger().handlers:
        handler.addFilter(fields)
