"""`rsrefseg-backend`: the processes that speak Label Studio."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ml_backend.errors import BackendError
from workers import logs
from workers.complaint import complaining
from workers.errors import WorkersError
from workers.settings import Settings

if TYPE_CHECKING:
    from ml_backend.models import Models

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


@click.group()
@click.version_option(package_name="rsrefseg")
def main() -> None:
    """Draw masks from words: the Label Studio side of RSRefSeg."""


@main.command()
@click.option("--host", help="Address to listen on.  [default: RSREFSEG_HOST, or 127.0.0.1]")
@click.option("--port", type=click.IntRange(1, 65535), help="Port to listen on.  [default: RSREFSEG_PORT, or 9090]")
def web(host: str | None, port: int | None) -> None:
    """Answer Label Studio's calls until Ctrl-C."""
    with complaining(BackendError, WorkersError):
        settings = Settings.load()
        settings = settings.model_copy(update={"host": host or settings.host, "port": port or settings.port})
        logs.configure(settings.log_level)

        from ml_backend.server import serve  # Each command imports only what it needs, so that it starts at once.

        serve(settings)


@main.command()
def alive() -> None:
    """Exit with 0 if the web process of this host takes requests: for the checks of containers."""
    from ml_backend.web_probe import WebProbe

    with complaining(BackendError, WorkersError):
        settings = Settings.load()
        host = "127.0.0.1" if settings.host in {"0.0.0.0", "::"} else settings.host  # noqa: S104  # None is bound here.
        WebProbe(f"http://{host}:{settings.port}", settings).health()
    click.echo("It takes requests.")


@main.command()
def courier() -> None:
    """Bring finished masks to Label Studio, and fetch what annotators made of them, until Ctrl-C."""
    with complaining(BackendError, WorkersError):
        settings = Settings.load()
        logs.configure(settings.log_level)

        from ml_backend.courier_worker import run

        run(settings)


@main.command()
@click.option("--project", "project_id", type=click.IntRange(1), required=True, help="The project's number.")
@click.option("--limit", type=click.IntRange(1), help="Enqueue at most so many tasks.")
@click.option("--wait", is_flag=True, help="Stay until they are done; the exit code says whether all got their mask.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def prelabel(project_id: int, limit: int | None, wait: bool, as_json: bool) -> None:
    """Ask for the masks of all tasks of a project that have none of the current model version."""
    from rich.console import Console

    from ml_backend.label_studio import LabelStudio
    from ml_backend.prelabel import Prelabel
    from workers import traces
    from workers.queue import JobQueue

    with complaining(BackendError, WorkersError):
        settings = Settings.load()
        traces.start(settings, "rsrefseg-prelabel")
        with closing(LabelStudio.of(settings)) as label_studio, JobQueue.open(settings) as queue:
            queue.ping()
            work = Prelabel(queue, label_studio, project_id, Console(stderr=True))
            ended = False
            try:
                work.run(limit, wait=wait)
                ended = True
            except KeyboardInterrupt:
                sys.exit(INTERRUPTED)
            finally:
                if as_json or work.tally.tasks:
                    click.echo(json.dumps(asdict(work.tally)) if as_json else str(work.tally))
                if not ended:
                    click.echo("Stopped. The same command goes on where this one ended.", err=True)
    sys.exit(int(bool(work.tally.failed or (wait and work.tally.unaskable))))


@main.command()
@click.option("--project", "project_id", type=click.IntRange(1), required=True, help="The project's number.")
@click.option("--task", "task_ids", type=click.IntRange(1), multiple=True, help="This task alone; may be repeated.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def retry(project_id: int, task_ids: tuple[int, ...], as_json: bool) -> None:
    """Ask again for what failed; `rsrefseg-worker status` lists it with its reasons."""
    from ml_backend.again import ask_again
    from ml_backend.label_studio import LabelStudio
    from workers.queue import JobQueue

    with complaining(BackendError, WorkersError):
        settings = Settings.load()
        with closing(LabelStudio.of(settings)) as label_studio, JobQueue.open(settings) as queue:
            queue.ping()
            asked = ask_again(queue, label_studio, project_id, task_ids or None)
    click.echo(json.dumps(asked._asdict()) if as_json else str(asked))


@main.command()
@click.option("--project", "project_id", type=click.IntRange(1), required=True, help="The project's number.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--export",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Copy the newest snapshot there: images/, train.jsonl, test.jsonl of the scenes that are held out, and "
    "val.jsonl of one in five of the others.",
)
def dataset(project_id: int, as_json: bool, folder: Path | None) -> None:
    """Count the corrections of a project that the courier has gathered so far, and list what was made of them."""
    from rich.console import Console

    from ml_backend.dataset import count, described, tables
    from workers.corrections import Corrections
    from workers.snapshots import Snapshots

    with complaining(BackendError, WorkersError):
        data = Settings.load().data
        snapshots = Snapshots(data)
        if folder:
            exported = snapshots.export(project_id, folder)
            parts = {"train": exported.train, "val": exported.val, "held_out": exported.held_out}
            if as_json:
                click.echo(json.dumps(described(exported.manifest) | parts | {"val_scenes": exported.val_scenes}))
                return
            click.echo(
                f"Snapshot {exported.manifest.name} in {folder}: {exported.train} corrections to learn from in "
                f"train.jsonl, {exported.val} to choose by in val.jsonl, {exported.held_out} held out in test.jsonl. "
                f"To choose by: {', '.join(exported.val_scenes) or 'no scene, as there is but one to learn from'}."
            )
            return
        counts = count(Corrections(data), project_id)
        counts.snapshots = [described(manifest) for manifest in snapshots.all(project_id)]
        if as_json:
            click.echo(json.dumps(asdict(counts)))
        else:
            Console().print(tables(counts))


@main.group()
def models() -> None:
    """List the model versions of a project, promote one, take one back."""


_project = click.option("--project", "project_id", type=click.IntRange(1), required=True, help="The project's number.")
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@contextmanager
def _models(project_id: int) -> Iterator[Models]:
    from ml_backend.models import Models
    from workers.queue import JobQueue
    from workers.registry import Registry

    with complaining(BackendError, WorkersError):
        settings = Settings.load()
        with JobQueue.open(settings) as queue:
            queue.ping()
            yield Models(queue, Registry(settings.data), project_id)


@models.command("list")
@_project
@_json
def list_models(project_id: int, as_json: bool) -> None:
    """Show which versions there are, how they did on held-out scenes, and which one serves."""
    from rich.console import Console

    with _models(project_id) as found:
        if as_json:
            click.echo(json.dumps(found.listed()))
        else:
            Console().print(found.table())


@models.command()
@_project
@click.option("--version", required=True, help="Its name in the list, or `base`.")
@_json
def promote(project_id: int, version: str, as_json: bool) -> None:
    """Let a version serve the project, whatever the gate said of it."""
    with _models(project_id) as found:
        said = found.promote(version)
        click.echo(json.dumps(found.listed()) if as_json else said)


@models.command()
@_project
@click.option("--version", help="One that served before, or `base`.  [default: the one before the champion]")
@_json
def rollback(project_id: int, version: str | None, as_json: bool) -> None:
    """Let the version serve again that did before the champion; once more leads further back."""
    with _models(project_id) as found:
        said = found.rollback(version)
        click.echo(json.dumps(found.listed()) if as_json else said)


@models.command()
@_project
@click.option("--keep", type=click.IntRange(1), default=5, show_default=True, help="How many, the newest, stay whole.")
@_json
def prune(project_id: int, keep: int, as_json: bool) -> None:
    """Remove the weights of versions that never served; their scores stay in the list."""
    with _models(project_id) as found:
        pruned = found.prune(keep)
        if as_json:
            click.echo(json.dumps({"pruned": pruned}))
        else:
            click.echo(f"Removed the weights of {', '.join(pruned)}." if pruned else "There was nothing to remove.")


@main.command()
@click.option("--project", "project_id", type=click.IntRange(1), required=True, help="The project's number.")
@click.option("--wait", is_flag=True, help="Stay to the end; the exit code is 1 if it failed, 2 if it was refused.")
@click.option("--promote", is_flag=True, help="Promote the outcome, whatever the gate says of it.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def retrain(project_id: int, wait: bool, promote: bool, as_json: bool) -> None:
    """Ask a trainer to teach a project's model by what its annotators corrected."""
    from rich.console import Console

    from ml_backend.retrain import EXIT_CODES, Retrain
    from workers.queue import JobQueue

    with complaining(BackendError, WorkersError), JobQueue.open(Settings.load()) as queue:
        queue.ping()
        wish = Retrain(queue, project_id, Console(stderr=True))
        asked = wish.ask(promote=promote)
        if not wait:
            if as_json:
                click.echo(json.dumps(asked._asdict()))
            return
        try:
            training = wish.wait()
        except KeyboardInterrupt:
            click.echo("The training goes on; `rsrefseg-worker status` says how far it is.", err=True)
            sys.exit(INTERRUPTED)
        if as_json:
            click.echo(training.model_dump_json())
    sys.exit(EXIT_CODES[training.stage])


@main.command()
@click.option("--project", "project_id", type=click.IntRange(1), required=True, help="The project's number.")
@click.option("--count", type=click.IntRange(1), default=50, show_default=True, help="Tasks to put in order.")
@click.option(
    "--random-share",
    type=click.FloatRange(0, 1),
    default=0.2,
    show_default=True,
    help="How many of them are drawn by lot, so that there is something to compare with.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of chance.")
@click.option("--clear", is_flag=True, help="Take the order away again, and do nothing else.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def select(project_id: int, count: int, random_share: float, seed: int, clear: bool, as_json: bool) -> None:
    """Put the tasks that people should look at next in order: those in doubt, unlike each other, and some by lot."""
    from rich.console import Console

    from ml_backend.asking import Asking, said, table
    from ml_backend.label_studio import LabelStudio
    from ml_backend.selections import Selections
    from workers.corrections import Corrections
    from workers.queue import JobQueue

    with complaining(BackendError, WorkersError):
        settings = Settings.load()
        with closing(LabelStudio.of(settings)) as label_studio, JobQueue.open(settings) as queue:
            queue.ping()
            asking = Asking(queue, label_studio, Selections(settings.data), Corrections(settings.data), project_id)
            if clear:
                cleared = asking.clear()
                click.echo(json.dumps({"cleared": cleared}) if as_json else f"{cleared} tasks lost their place.")
                return
            asked = asking.select(count, random_share, seed)
    if as_json:
        click.echo(json.dumps(asked.as_dict()))
    else:
        Console().print(table(asked))
        click.echo(said(asked))


@main.command()
@click.option("--project", "project_id", type=click.IntRange(1), required=True, help="The project's number.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Draw it: .png, .svg or .pdf.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def curve(project_id: int, out: Path | None, as_json: bool) -> None:
    """Show what a project's corrections made of its models, and what the tasks drawn by lot say of them."""
    from rich.console import Console

    from ml_backend.curve import draw, learning_curve, tables
    from ml_backend.selections import Selections
    from workers.corrections import Corrections
    from workers.registry import Registry

    with complaining(BackendError, WorkersError):
        data = Settings.load().data
        found = learning_curve(Registry(data), Corrections(data), Selections(data), project_id)
        if out:
            draw(found, out)
        if as_json:
            click.echo(json.dumps(asdict(found)))
        else:
            Console().print(tables(found))


@main.command()
@click.option("--project", "project_id", type=click.IntRange(1), help="Look at this project too, link by link.")
@click.option("--fix", is_flag=True, help="Mend what can be mended, and look again.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(project_id: int | None, fix: bool, as_json: bool) -> None:
    """Say in a line each what is right, what is wrong, and what to do; the exit code is 1 if something is wrong."""
    from rich.console import Console

    from ml_backend.doctor import visit

    try:
        right = visit(os.environ, project_id, Console(), fix=fix, as_json=as_json)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    sys.exit(0 if right else 1)


@main.command()
@click.option("--project", "project_id", type=click.IntRange(1), help="The project's number.")
@click.option("--new", "new_title", metavar="TITLE", help="Make a project of this title instead.")
@click.option(
    "--url", help="Where Label Studio finds the web process.  [default: RSREFSEG_PUBLIC_URL, or where it listens]"
)
@click.option("--title", help="What Label Studio calls the backend.  [default: RSRefSeg]")
def connect(project_id: int | None, new_title: str | None, url: str | None, title: str | None) -> None:
    """Wire a project to the web process: backend, webhook, its secret, sampling, a labeling config if it has none."""
    from ml_backend.connect import run

    with complaining(BackendError, WorkersError):
        for line in run(Settings.load(), project_id, new_title, url, title):
            click.echo(line)


_label_studio = click.option(
    "--label-studio",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="LABEL_STUDIO_COMMAND",
    default=Path(".venv-label-studio/bin/label-studio"),
    show_default=True,
    help="The label-studio command of its own environment.",
)


@main.command()
@click.option("--once", is_flag=True, help="End after the table; the exit code says whether every task got its mask.")
@click.option(
    "--images",
    type=click.Path(path_type=Path, file_okay=False),
    help="Your own images, each with a .txt of one expression a line, or all in expressions.csv.",
)
@_label_studio
def demo(once: bool, images: Path | None, label_studio: Path) -> None:
    """Start everything on this machine, pre-label images, and show the address to look at."""
    with complaining(BackendError, WorkersError):
        settings = Settings.load()

        from ml_backend.demo import Demo

        try:
            complete = Demo(settings, label_studio, images).run(once=once)
        except KeyboardInterrupt:
            click.echo("stopped")
            return
    sys.exit(0 if complete else 1)


@main.command("demo-loop")
@click.option("--once", is_flag=True, help="Correct without pauses, and end with a line of JSON.")
@click.option(
    "--images",
    type=click.Path(path_type=Path, file_okay=False),
    help="Your own images, with expressions as for `demo` and the right masks in masks/, as PNG under the same names.",
)
@_label_studio
def demo_loop(once: bool, images: Path | None, label_studio: Path) -> None:
    """Draw masks, have scripted annotators correct them, retrain, judge, promote and draw anew, all on this machine."""
    with complaining(BackendError, WorkersError):
        settings = Settings.load()

        from ml_backend.demo_loop import DemoLoop

        try:
            figures = DemoLoop(settings, label_studio, images).run(once=once)
        except KeyboardInterrupt:
            click.echo("stopped")
            return
        click.echo(json.dumps(asdict(figures)))
        if figures.failed:
            sys.exit(1)


if __name__ == "__main__":
    main()
