"""`rsrefseg segment` and `rsrefseg scenes`: masks of images, and images to try that on."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rsrefseg.commands.options import HELD_OUT_SEED, SCENE_SIZE, begin_log, model_options, predictor_of

if TYPE_CHECKING:
    from rsrefseg.scenes import Camera


@click.command()
@click.argument("image", type=click.Path(path_type=Path))
@click.argument("expressions", nargs=-1, required=True, metavar="EXPRESSION...")
@model_options
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

    begin_log(logging.WARNING, "%(message)s")
    pixels = read_image(image)
    found = predictor_of(preset, checkpoint, foundation, device).segment(pixels, expressions)
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


@click.command()
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder to write.")
@click.option("--count", type=click.IntRange(1, 100_000), default=12, show_default=True)
@click.option("--size", type=click.IntRange(128, 4096), default=SCENE_SIZE, show_default=True, help="Side in pixels.")
@click.option("--seed", type=click.IntRange(0), default=HELD_OUT_SEED, show_default=True, help="Of the first scene.")
@click.option(
    "--camera",
    type=click.Choice(["daylight", "thermal"]),
    default="daylight",
    show_default=True,
    help="What looks at them; the weights that come with the package have seen daylight alone.",
)
@click.option(
    "--names",
    type=click.Choice(["words", "shorthand"]),
    default="words",
    show_default=True,
    help="What classes are called; the weights that come with the package were taught words alone.",
)
def scenes(out: Path, count: int, size: int, seed: int, camera: Camera, names: str) -> None:
    """Draw overhead scenes: images, one expression for each in expressions.csv, and its true mask."""
    from rsrefseg.expressions import SHORTHAND, SYNONYMS
    from rsrefseg.samples import write_samples

    called = SHORTHAND if names == "shorthand" else SYNONYMS
    click.echo(f"{write_samples(out, count, size, seed, camera, called)} scenes in {out}")
