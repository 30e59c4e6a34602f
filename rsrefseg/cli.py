"""The command `rsrefseg`."""

from __future__ import annotations

from typing import Any

import click

from rsrefseg.commands.evaluate import calibrate, evaluate, probe
from rsrefseg.commands.segment import scenes, segment
from rsrefseg.commands.train import train, train_tiny
from rsrefseg.commands.weights import convert, weights
from rsrefseg.errors import RSRefSegError


class _Group(click.Group):
    """Turn what the package refuses into one sentence and an exit code, never a stack trace."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except RSRefSegError as exc:
            raise click.ClickException(str(exc)) from exc


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="rsrefseg")
def main() -> None:
    """Masks of overhead images from words."""


for command in (segment, scenes, evaluate, probe, calibrate, train, train_tiny, weights, convert):
    main.add_command(command)
