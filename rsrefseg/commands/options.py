"""What several commands share: how a model is chosen, and how log lines look."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rsrefseg.predictor import Predictor

BENCHMARKS = ("rrsis-d", "refsegrs", "risbench", "socioseg", "coco")
"""Data sets of images, expressions and masks, by the names that commands take."""

SCENE_SIZE = 512
"""Side of drawn scenes, in pixels, unless another is asked for."""

HELD_OUT_SEED = 1_000_000_000
"""Drawn scenes from this seed on are never trained on."""

CALIBRATION_SEED = 1_500_000_000
"""Scenes from this seed on say what scores are worth; they are neither trained nor scored on."""

_OPTIONS = "rsrefseg.options"
"""Where options that only `predictor_of` reads wait for it."""


def _set_aside(ctx: click.Context, option: click.Parameter, value: Any) -> None:
    ctx.meta.setdefault(_OPTIONS, {})[option.name] = value


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that choose a model.

    Args:
        command: Gets them as arguments, apart from those that only `predictor_of` reads.

    Returns:
        The command.
    """
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


def predictor_of(preset: str, checkpoint: Path | None, foundation: Path | None, device: str) -> Predictor:
    """Load what the options of the running command chose.

    Args:
        preset: Weights that come with the package.
        checkpoint: A folder of others.
        foundation: Where the foundation weights lie.
        device: Where to run.

    Returns:
        The model.
    """
    from rsrefseg import Predictor

    options = click.get_current_context().meta[_OPTIONS]
    if checkpoint:
        return Predictor.from_checkpoint(checkpoint, device, foundation, **options)
    return Predictor.from_preset(preset, device, **options)


_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class _WithFields(logging.Formatter):
    """Put the fields of a log line behind its phrase; the model's room knows no log library."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {key: value for key, value in vars(record).items() if key not in _PLAIN}
        line = super().format(record)
        return f"{line} {json.dumps(fields, default=str)}" if fields else line


def begin_log(level: int, form: str) -> None:
    """Write log lines to standard error.

    Args:
        level: The least serious that is written.
        form: As `logging.Formatter` reads it.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_WithFields(form))
    logging.basicConfig(level=level, handlers=[handler])
