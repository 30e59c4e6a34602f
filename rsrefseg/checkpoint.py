"""A model on disk: a folder with `model.safetensors`, `config.json` and `card.md`."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from importlib import resources
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from rsrefseg.errors import BadCheckpoint, UnknownPreset
from rsrefseg.model import RSRefSeg
from rsrefseg.presets import Preset, preset_named
from rsrefseg.tokenizer import Tokenizer

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "card.md"


def shipped(name: str) -> Path:
    """Find the weights that come with the package.

    Args:
        name: A preset's name.

    Returns:
        Their folder.

    Raises:
        UnknownPreset: If there is no such preset, or its weights do not ship.
    """
    preset_named(name)
    folder = Path(str(resources.files("rsrefseg"))) / "weights" / name
    if not (folder / WEIGHTS).exists():
        raise UnknownPreset(f"the weights of preset {name!r} do not come with the package; give --checkpoint DIR")
    return folder


def save(model: RSRefSeg, folder: Path, card: str, *, half: bool = True) -> None:
    """Write a checkpoint; a folder that already holds one is left alone.

    Args:
        model: What to save.
        folder: Made if missing.
        card: Markdown: data, code version, scores, licence.
        half: Store floats in half precision, which takes half the space and moves masks by less than a pixel.

    Raises:
        BadCheckpoint: If the folder already holds a checkpoint.
    """
    if (folder / WEIGHTS).exists():
        raise BadCheckpoint(f"{folder} already holds a checkpoint; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    # Batch norm's variances exceed half precision's range in either direction; they are few, so they stay as they are.
    state = {
        name: (value.half() if half and value.is_floating_point() and "running_" not in name else value).contiguous()
        for name, value in model.state_dict().items()
    }
    (folder / CONFIG).write_text(json.dumps({"preset": asdict(model.preset)}, indent=2) + "\n")
    (folder / CARD).write_text(card)
    save_file(state, folder / WEIGHTS)
    (folder / WEIGHTS).chmod(0o644)  # safetensors leaves it to its owner alone; packages are for everyone


def load(folder: Path) -> RSRefSeg:
    """Read a checkpoint, in float32 on the CPU and ready for inference.

    Args:
        folder: Written by `save`.

    Returns:
        The model.

    Raises:
        BadCheckpoint: If files are missing or damaged, or the weights do not fit the preset.
    """
    try:
        preset = Preset.from_dict(json.loads((folder / CONFIG).read_text())["preset"])
        state = load_file(folder / WEIGHTS)
    except FileNotFoundError as exc:
        raise BadCheckpoint(f"{folder} is not a checkpoint: {Path(exc.filename).name} is missing") from exc
    except (ValueError, KeyError, TypeError, UnknownPreset, SafetensorError) as exc:
        raise BadCheckpoint(f"the checkpoint in {folder} is damaged: {exc}") from exc
    model = RSRefSeg(preset, Tokenizer(preset.text_positions).vocab_size)
    try:
        model.load_state_dict({name: v.float() if v.is_floating_point() else v for name, v in state.items()})
    except RuntimeError as exc:
        raise BadCheckpoint(
            f"the weights in {folder} do not fit the preset {preset.name!r} of its config.json"
        ) from exc
    return model.eval()


def version(folder: Path) -> str:
    """Name a checkpoint by what it holds, so that two that differ never share a name.

    Args:
        folder: Written by `save`.

    Returns:
        "<preset>@<8 hexadecimal digits>".
    """
    digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    name = json.loads((folder / CONFIG).read_text())["preset"]["name"]
    return f"{name}@{digest[:8]}"


def code_version() -> str:
    """Name the code for a card.

    Returns:
        The package's version and torch's.
    """
    from importlib.metadata import version as installed

    return f"rsrefseg {installed('rsrefseg')}, torch {torch.__version__}"
