"""A model on disk: a folder with `model.safetensors`, `config.json`, `card.md`, and SigLIP's words where it needs them.

It holds everything, or only what training changed: then the foundation weights are read first, and the adapters over
them. Or it holds heads alone, and names the base that they belong over.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Literal, get_args

import torch
from safetensors.torch import save_file
from torch import Tensor

from rsrefseg import foundation
from rsrefseg.calibration import UNCALIBRATED, Calibration
from rsrefseg.errors import BadCheckpoint, MissingWeights, UnknownPreset
from rsrefseg.heads import head_names, with_own_heads
from rsrefseg.model import RSRefSeg
from rsrefseg.presets import ClipText, Preset, SharedTrunk, preset_named
from rsrefseg.tensors import compare, read_safetensors
from rsrefseg.tokenizer import SIGLIP_VOCABULARY

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "card.md"

Holds = Literal["everything", "adapters", "heads"]


@dataclass(frozen=True)
class Config:
    """What `config.json` says."""

    preset: Preset
    holds: Holds
    """"adapters" stands for all that training changed: adapters, prompter, prompt encoder and mask decoder; "heads" for
    all behind the image encoder, as `heads.head_names` has it."""
    calibration: Calibration = UNCALIBRATED
    base: str = ""
    """The version of the checkpoint that heads belong over; empty where nothing is missing."""

    def as_json(self) -> str:
        """Write the file.

        Returns:
            Its text; a calibration that changes nothing is left out.
        """
        described: dict[str, object] = {"preset": self.preset.as_dict(), "holds": self.holds}
        if self.calibration != UNCALIBRATED:
            described["calibration"] = self.calibration.as_dict()
        if self.base:
            described["base"] = self.base
        return json.dumps(described, indent=2) + "\n"


def shipped(name: str) -> Path:
    """Find the weights that come with the package.

    Args:
        name: A preset's name.

    Returns:
        Their folder.

    Raises:
        UnknownPreset: If the weights should ship and do not.
        MissingWeights: If the preset is one whose weights never ship.
    """
    preset = preset_named(name)
    folder = Path(str(resources.files("rsrefseg"))) / "weights" / name
    if (folder / WEIGHTS).exists():
        return folder
    if isinstance(preset.image, SharedTrunk):
        raise UnknownPreset(f"the weights of preset {name!r} do not come with the package; give --checkpoint DIR")
    raise MissingWeights(
        f"nobody publishes trained weights of preset {name!r}: convert a checkpoint of KyanChen/RSRefSeg (rsrefseg "
        "convert), then give --checkpoint DIR. The preset is built on published weights of SigLIP and SAM. "
        + foundation.describe(preset)
    )


def save(model: RSRefSeg, folder: Path, card: str, *, half: bool = True, adapters_only: bool = False) -> None:
    """Write a checkpoint; a folder that already holds one is left alone.

    Args:
        model: What to save.
        folder: Made if missing.
        card: Markdown: data, code version, scores, licence.
        half: Store floats in half precision, which takes half the space and moves masks by less than a pixel.
        adapters_only: Leave out what training does not change; loading then needs the foundation weights.

    Raises:
        BadCheckpoint: If adapters are asked for of a model that has none.
    """
    state = model.state_dict()
    if adapters_only:
        if model.preset.lora is None:
            raise BadCheckpoint(f"a model of preset {model.preset.name!r} without adapters is saved whole")
        learnt = model.learnt_names()
        state = {name: value for name, value in state.items() if name in learnt}
    write(state, Config(model.preset, "adapters" if adapters_only else "everything"), folder, card, half=half)


def save_heads(
    model: RSRefSeg, folder: Path, card: str, base: str, calibration: Calibration = UNCALIBRATED, *, half: bool = True
) -> None:
    """Write what corrections taught; a folder that already holds a checkpoint is left alone.

    Args:
        model: Whose heads to save; its adapters may be merged or not.
        folder: Made if missing.
        card: Markdown.
        base: The version of the checkpoint whose image encoder it was taught over.
        calibration: What its confidence is worth.
        half: As of `save`.

    Raises:
        BadCheckpoint: If a weight is not a number any more: its training went astray.
    """
    state, names = model.state_dict(), head_names(model)
    heads = {name: value.detach().cpu() for name, value in state.items() if name in names}
    if astray := _not_numbers(heads, half=half):
        raise BadCheckpoint(f"weights of {astray} are not numbers that can be saved: the training went astray")
    write(heads, Config(replace(model.preset, lora=None), "heads", calibration, base), folder, card, half=half)


def write(state: dict[str, Tensor], config: Config, folder: Path, card: str, *, half: bool) -> None:
    """Write a checkpoint of tensors; a folder that already holds one is left alone.

    Args:
        state: Tensors by the model's names.
        config: What they are.
        folder: Made if missing.
        card: Markdown.
        half: Store floats in half precision.

    Raises:
        BadCheckpoint: If the folder already holds a checkpoint.
    """
    if (folder / WEIGHTS).exists():
        raise BadCheckpoint(f"{folder} already holds a checkpoint; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    # Batch norm's variances exceed half precision's range in either direction; they are few, so they stay as they are.
    stored = {
        name: (value.half() if half and value.is_floating_point() and "running_" not in name else value).contiguous()
        for name, value in state.items()
    }
    # Two names of one tensor are two tensors here; safetensors knows no other way.
    storages = {value.untyped_storage().data_ptr(): name for name, value in stored.items()}
    stored = {
        name: value if storages[value.untyped_storage().data_ptr()] == name else value.clone()
        for name, value in stored.items()
    }
    (folder / CONFIG).write_text(config.as_json())
    (folder / CARD).write_text(card)
    save_file(stored, folder / WEIGHTS)
    (folder / WEIGHTS).chmod(0o644)  # safetensors leaves it to its owner alone; packages are for everyone


def read_config(folder: Path) -> Config:
    """Read what a checkpoint is, without its weights.

    Args:
        folder: Written by `save`.

    Returns:
        Preset and extent.

    Raises:
        BadCheckpoint: If the file is missing or damaged.
    """
    try:
        described = json.loads((folder / CONFIG).read_text())
        preset, holds = Preset.from_dict(described["preset"]), described["holds"]
        found = described.get("calibration")
        calibration = Calibration.from_dict(found) if found else UNCALIBRATED
        base = described.get("base", "")
    except OSError as exc:
        raise BadCheckpoint(f"{folder} is not a checkpoint: {CONFIG} is missing") from exc
    except (ValueError, KeyError, TypeError, AttributeError, UnknownPreset) as exc:
        raise BadCheckpoint(f"the checkpoint in {folder} is damaged: {exc}") from exc
    if holds not in get_args(Holds):
        raise BadCheckpoint(f"the checkpoint in {folder} is damaged: it holds {holds!r}")
    if not isinstance(base, str) or bool(base) != (holds == "heads"):
        raise BadCheckpoint(f"the checkpoint in {folder} is damaged: it holds {holds} over the base {base!r}")
    return Config(preset, holds, calibration, base)


def calibrate(folder: Path, calibration: Calibration) -> None:
    """Say anew what a checkpoint's scores are worth; its weights stay.

    Args:
        folder: Written by `save`.
        calibration: From answers of known truth.
    """
    fresh = folder / (CONFIG + ".part")
    fresh.write_text(replace(read_config(folder), calibration=calibration).as_json())
    fresh.replace(folder / CONFIG)


def load(folder: Path, foundation_folder: Path | None = None) -> RSRefSeg:
    """Read a checkpoint, in float32 on the CPU and ready for inference, its adapters apart.

    Args:
        folder: Written by `save`.
        foundation_folder: Where the foundation weights lie, for checkpoints of adapters alone.

    Returns:
        The model.

    Raises:
        BadCheckpoint: If the folder is no checkpoint, is damaged, holds heads alone, or its weights do not fit its
            preset.
    """
    config = read_config(folder)
    if config.holds == "heads":
        raise BadCheckpoint(
            f"{folder} holds heads alone, which belong over the base {config.base}: load it, then Predictor.with_heads"
        )
    if config.holds == "adapters":
        model = foundation.load(config.preset, foundation_folder)
        load_adapters(model, folder)
        return model.eval()
    state = _weights(folder)
    try:
        with torch.device("meta"):
            model = RSRefSeg(config.preset)
    except (RuntimeError, ValueError, AssertionError, ArithmeticError) as exc:
        raise BadCheckpoint(_misfit(folder, config)) from exc
    _fill(model, state, folder, config)
    return model.eval()


def load_adapters(model: RSRefSeg, folder: Path) -> None:
    """Replace all that training changed, in a model whose foundation is loaded already.

    Args:
        model: Of the same preset, its adapters not merged.
        folder: A checkpoint of adapters alone.

    Raises:
        BadCheckpoint: If it is not one, or of another preset.
    """
    config = read_config(folder)
    if config.holds != "adapters" or config.preset != model.preset:
        raise BadCheckpoint(f"{folder} does not hold adapters alone for this model of preset {model.preset.name!r}")
    state = _weights(folder)
    compare(folder / WEIGHTS, model.learnt_names(), set(state))
    frozen = {name: value for name, value in model.state_dict().items() if name not in state}
    _fill(model, {**frozen, **state}, folder, config)


def load_heads(model: RSRefSeg, folder: Path, base: str) -> RSRefSeg:
    """Read heads over the image encoder of a model that is loaded already.

    Args:
        model: Whose encoder and whose precision they share; it is left as it is.
        folder: Written by `save_heads`.
        base: The version of what the model was loaded from.

    Returns:
        A model of its own heads.

    Raises:
        BadCheckpoint: If the folder holds no heads, those of another base, or its weights are damaged or do not fit.
    """
    config = read_config(folder)
    if config.holds != "heads":
        raise BadCheckpoint(f"{folder} holds {config.holds}, not heads alone")
    if config.base != base:
        raise BadCheckpoint(f"the heads in {folder} belong over the base {config.base}, not over {base}")
    state, own = _weights(folder), with_own_heads(model)
    compare(folder / WEIGHTS, head_names(own), set(state))
    if astray := _not_numbers(state):
        raise BadCheckpoint(f"the weights in {folder} are damaged: {astray} are not all numbers")
    try:
        own.load_state_dict(state, strict=False)  # copies into what is there, so precision and device stay
    except RuntimeError as exc:
        raise BadCheckpoint(_misfit(folder, config)) from exc
    return own.eval()


def _not_numbers(state: dict[str, Tensor], *, half: bool = False) -> str | None:
    # Norms' variances exceed half precision and are kept in single; see `write`.
    for name, value in state.items():
        narrow = value.half() if half and value.is_floating_point() and "running_" not in name else value
        if not bool(narrow.isfinite().all()):
            return name
    return None


def _weights(folder: Path) -> dict[str, Tensor]:
    if not (folder / WEIGHTS).exists():
        raise BadCheckpoint(f"{folder} is not a checkpoint: {WEIGHTS} is missing")
    return read_safetensors(folder / WEIGHTS)


def _fill(model: RSRefSeg, state: dict[str, Tensor], folder: Path, config: Config) -> None:
    try:
        model.load_state_dict(state, assign=True)
    except RuntimeError as exc:
        raise BadCheckpoint(_misfit(folder, config)) from exc


def _misfit(folder: Path, config: Config) -> str:
    return f"the weights in {folder} do not fit the preset {config.preset.name!r} of its {CONFIG}"


def vocabulary(folder: Path, preset: Preset, foundation_folder: Path | None = None) -> Path | None:
    """Find the words of a checkpoint's text tower.

    Args:
        folder: The checkpoint, which may hold them.
        preset: Its preset.
        foundation_folder: Where else they may lie: with the foundation weights.

    Returns:
        SigLIP's sentencepiece model, or None where the tower needs no file.

    Raises:
        MissingWeights: If it is in neither place.
    """
    if isinstance(preset.text, ClipText):
        return None
    if (folder / SIGLIP_VOCABULARY).exists():
        return folder / SIGLIP_VOCABULARY
    elsewhere = foundation.path_of(foundation.VOCABULARY, foundation_folder)
    if elsewhere is not None:
        return elsewhere
    raise MissingWeights(
        f"{SIGLIP_VOCABULARY} is missing, SigLIP's words. "
        + foundation.how_to_get(preset, [foundation.VOCABULARY], foundation_folder)
    )


def version(folder: Path) -> str:
    """Name a checkpoint by what it holds, so that two that differ never share a name.

    Args:
        folder: Written by `save`.

    Returns:
        "<preset>@<8 hexadecimal digits>".
    """
    config = read_config(folder)
    preset = config.preset
    with (folder / WEIGHTS).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    if preset.lora:
        digest.update(repr(preset.lora).encode())  # the same adapters at another scale draw other masks
    if config.calibration != UNCALIBRATED:
        digest.update(config.calibration.name.encode())
    if config.base:
        digest.update(config.base.encode())
    return f"{preset.name}@{digest.hexdigest()[:8]}"


def code_version() -> str:
    """Name the code for a card.

    Returns:
        The package's version and torch's.
    """
    from importlib.metadata import version as installed

    return f"rsrefseg {installed('rsrefseg')}, torch {torch.__version__}"
