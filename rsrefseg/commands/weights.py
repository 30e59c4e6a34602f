"""`rsrefseg weights` and `rsrefseg convert`: bring what others trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


@click.group()
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


@click.command()
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
