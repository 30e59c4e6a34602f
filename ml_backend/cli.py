"""`rsrefseg-backend`: the processes that speak Label Studio."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ml_backend.errors import BackendError
from workers import logs
from workers.complaint import complaining
from workers.errors import WorkersError
from workers.settings import Settings


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
def courier() -> None:
    """Bring finished masks to Label Studio until Ctrl-C."""
    with complaining(BackendError, WorkersError):
        settings = Settings.load()
        logs.configure(settings.log_level)

        from ml_backend.courier_worker import run

        run(settings)


@main.command()
@click.option("--once", is_flag=True, help="End after the table; the exit code says whether every task got its mask.")
@click.option(
    "--images",
    type=click.Path(path_type=Path, file_okay=False),
    help="Your own images, each with a .txt of one expression a line, or all in expressions.csv.",
)
@click.option(
    "--label-studio",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="LABEL_STUDIO_COMMAND",
    default=Path(".venv-label-studio/bin/label-studio"),
    show_default=True,
    help="The label-studio command of its own environment.",
)
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


if __name__ == "__main__":
    main()
