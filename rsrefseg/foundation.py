"""The weights that the full sizes start from: SigLIP's and SAM's, as their authors publish them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from rsrefseg.download import HubFile, RemoteFile, WebFile, size_words
from rsrefseg.errors import BadCheckpoint, MissingWeights, UnknownPreset
from rsrefseg.layouts import asked_for, sam_of_segment_anything, siglip_of_open_clip, siglip_of_transformers
from rsrefseg.lora import is_adapter, start
from rsrefseg.model import RSRefSeg
from rsrefseg.presets import Preset
from rsrefseg.prompter import Prompter
from rsrefseg.tensors import compare, read_layout, read_pickled

_SIGLIP = "siglip-so400m-patch14-384"
_SIGLIP_HUB = partial(HubFile, f"google/{_SIGLIP}", "9fdffc58afc957d1a03a25b10dba0329ab15c2a3")
_SAM = "https://dl.fbaipublicfiles.com/segment_anything/"

SIGLIP = RemoteFile(
    f"{_SIGLIP}/model.safetensors",
    3_511_950_624,
    "ea2abad2b7f8a9c1aa5e49a244d5d57ffa71c56f720c94bc5d240ef4d6e1d94a",
    _SIGLIP_HUB("model.safetensors"),
    also=(f"{_SIGLIP}/open_clip_model.safetensors", "open_clip_model.safetensors"),  # timm/ViT-SO400M-14-SigLIP-384
)
VOCABULARY = RemoteFile(
    f"{_SIGLIP}/spiece.model",
    798_330,
    "1e5036bed065526c3c212dfbe288752391797c4bb1a284aa18c9a0b23fcaf8ec",
    _SIGLIP_HUB("spiece.model"),
    also=("spiece.model",),
)
SAM_B = RemoteFile(
    "sam_vit_b_01ec64.pth",
    375_042_383,
    "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
    WebFile(f"{_SAM}sam_vit_b_01ec64.pth"),
)
SAM_L = RemoteFile(
    "sam_vit_l_0b3195.pth",
    1_249_524_607,
    "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
    WebFile(f"{_SAM}sam_vit_l_0b3195.pth"),
)

_SAMS = {"b": SAM_B, "l": SAM_L}


def default_folder() -> Path:
    """Name the folder that is meant where none is named.

    Returns:
        Below the home folder.
    """
    return Path.home() / ".local/share/rsrefseg/foundation"


def files_of(preset: Preset) -> tuple[RemoteFile, ...]:
    """List what a preset is built on.

    Args:
        preset: "b" or "l".

    Returns:
        The words first, since they are small.

    Raises:
        UnknownPreset: If it is built on nothing.
    """
    if preset.name not in _SAMS:
        raise UnknownPreset(f"the preset {preset.name!r} is built on no foundation weights; those that are: b, l")
    return VOCABULARY, _SAMS[preset.name], SIGLIP


def path_of(file: RemoteFile, folder: Path | None) -> Path | None:
    """Find one of the files.

    Args:
        file: Which.
        folder: Where they lie; None for the default.

    Returns:
        Where it lies, or None.
    """
    folder = folder or default_folder()
    return next((folder / path for path in (file.path, *file.also) if (folder / path).exists()), None)


def find(preset: Preset, folder: Path | None = None) -> dict[RemoteFile, Path]:
    """Find everything that a preset is built on.

    Args:
        preset: "b" or "l".
        folder: Where the files lie; None for the default.

    Returns:
        Where each lies.

    Raises:
        MissingWeights: Saying which are not there, where they come from, and how large they are.
    """
    found = {file: path_of(file, folder) for file in files_of(preset)}
    missing = [file for file, path in found.items() if path is None]
    if missing:
        raise MissingWeights(
            f"the preset {preset.name!r} is built on published weights that are not here. "
            + how_to_get(preset, missing, folder)
        )
    return {file: path for file, path in found.items() if path is not None}


def describe(preset: Preset, folder: Path | None = None) -> str:
    """Say whether the files are here, and how to get those that are not.

    Args:
        preset: "b" or "l".
        folder: Where they lie; None for the default.

    Returns:
        A sentence, or some lines.
    """
    missing = [file for file in files_of(preset) if path_of(file, folder) is None]
    return how_to_get(preset, missing, folder) if missing else f"They are in {folder or default_folder()}."


def how_to_get(preset: Preset, missing: Sequence[RemoteFile], folder: Path | None) -> str:
    """Say what is missing, where it comes from, how large it is, and which command brings it.

    Args:
        preset: Whose.
        missing: What.
        folder: Where it should lie; None for the default.

    Returns:
        Some lines.
    """
    rows = [f"  {file.path}  {size_words(file.size)}  from {file.source.address}" for file in missing]
    option = "" if folder is None else f" --to {folder}"
    small = " --words-only" if list(missing) == [VOCABULARY] else ""
    return "\n".join([
        f"Missing in {folder or default_folder()}:",
        *rows,
        f"Bring {size_words(sum(file.size for file in missing))} here with: "
        f"rsrefseg weights fetch --preset {preset.name}{small}{option}",
        "On a machine without a network, add --from DIR with the files in DIR.",
    ])


def load(preset: Preset, folder: Path | None = None) -> RSRefSeg:
    """Build a model on its foundation weights, in float32 on the CPU; what is not published starts afresh.

    Args:
        preset: "b" or "l".
        folder: Where the files lie; None for the default.

    Returns:
        The model, its prompter untrained and its adapters without effect.

    Raises:
        BadCheckpoint: If a file holds something else.
    """
    files = find(preset, folder)
    with torch.device("meta"):
        model = RSRefSeg(preset)
    names = list(model.state_dict())
    sam_file = files[_SAMS[preset.name]]
    sam, layout = read_pickled(sam_file), sam_of_segment_anything(names)
    if not isinstance(sam, dict) or not all(isinstance(value, Tensor) for value in sam.values()):
        raise BadCheckpoint(f"{sam_file} is not a checkpoint of segment-anything")
    compare(sam_file, asked_for(layout), set(sam))
    state = {ours: sam[source.names[0]].to(torch.float32, copy=True) for ours, source in layout.items()}
    del sam  # and with it the mapped file
    layouts = {
        "visual.": partial(siglip_of_open_clip, preset),
        "vision_model.": partial(siglip_of_transformers, preset),
    }
    state |= read_layout(files[SIGLIP], layouts)
    prompter = Prompter(preset.clip_dim, preset.decoder_dim).state_dict()
    state = {**{f"prompter.{name}": value for name, value in prompter.items()}, **state, **_adapters(model)}
    try:
        model.load_state_dict(state, assign=True)
    except RuntimeError as exc:
        raise BadCheckpoint(f"the foundation weights do not fit the preset {preset.name!r}: {exc}") from exc
    return model


def _adapters(model: RSRefSeg) -> dict[str, Tensor]:
    shapes = {name: value.shape for name, value in model.state_dict().items() if is_adapter(name)}
    fresh = {name: torch.empty(shape) for name, shape in shapes.items()}
    for name, value in fresh.items():
        if name.endswith("lora_a"):
            start(value, fresh[name[:-1] + "b"])
    return fresh
