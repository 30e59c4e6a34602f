"""Published RSRefSeg checkpoints into ours, whatever wrapped them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rsrefseg import checkpoint, foundation
from rsrefseg.errors import BadCheckpoint
from rsrefseg.layouts import Layout, asked_for, rsrefseg_of_upstream
from rsrefseg.model import RSRefSeg
from rsrefseg.presets import Lora, PairedVits, Preset
from rsrefseg.tensors import compare, listed, read_pickled
from rsrefseg.tokenizer import SIGLIP_VOCABULARY

_DEEPSPEED = ("mp_rank_00_model_states.pt", "mp_rank_00_model_states.pth")
_WRAPPINGS = ("state_dict", "module", "model")
_NOT_OF_THE_MODEL = "data_preprocessor."
"""mmengine's means and deviations; the model has its own, which no checkpoint changes."""


@dataclass(frozen=True)
class Converted:
    """What came of a conversion."""

    folder: Path
    preset: Preset
    tensors: int
    parameters: int
    left_out: tuple[str, ...]
    """Names that are no weights of the model."""
    has_words: bool
    """Whether SigLIP's words were at hand to be put beside the weights."""


def convert(
    origin: Path,
    preset: Preset,
    out: Path,
    *,
    alpha: float = 16.0,
    half: bool = False,
    adapters_only: bool = False,
    foundation_folder: Path | None = None,
) -> Converted:
    """Write a checkpoint of KyanChen/RSRefSeg as one of ours, adapters apart and every number as it was.

    Args:
        origin: A file, or the folder that DeepSpeed wrote.
        preset: "b" or "l".
        out: Folder to write.
        alpha: Of the adapters; the file does not say. It is divided by the rank, which the file does say.
        half: Store floats in half precision, whatever the file has.
        adapters_only: Leave out what training did not change; loading then needs the foundation weights.
        foundation_folder: Where SigLIP's words may lie; None for the default.

    Returns:
        What came of it.

    Raises:
        BadCheckpoint: If the file is damaged, or has names or shapes that do not fit the preset.
    """
    if not isinstance(preset.image, PairedVits):
        raise BadCheckpoint(f"no published checkpoint has the form of preset {preset.name!r}; those that do: b, l")
    given = _weights(origin)
    left_out = {name for name in given if name.startswith(_NOT_OF_THE_MODEL)}
    given = {name: value for name, value in given.items() if name not in left_out}
    preset = replace(preset, lora=_lora(origin, given, alpha))
    layout = rsrefseg_of_upstream(preset)
    _look_for_another_size(origin, given, preset)
    compare(origin, asked_for(layout), set(given))
    with torch.device("meta"):
        model = RSRefSeg(preset)
    kept = model.learnt_names() if adapters_only else set(layout)
    state = _joined(origin, given, layout, model)
    state = {name: value for name, value in state.items() if name in kept}
    config = checkpoint.Config(preset, "adapters" if adapters_only else "everything")
    checkpoint.write(state, config, out, _card(origin, config), half=half)
    words = foundation.path_of(foundation.VOCABULARY, foundation_folder)
    if words is not None:
        (out / SIGLIP_VOCABULARY).write_bytes(words.read_bytes())
    parameters = sum(value.numel() for value in state.values())
    return Converted(out, preset, len(state), parameters, tuple(sorted(left_out)), words is not None)


def _weights(origin: Path) -> dict[str, Tensor]:
    file = _deepspeed_file(origin) if origin.is_dir() else origin
    read = read_pickled(file)
    for name in _WRAPPINGS:
        if isinstance(read, dict) and isinstance(read.get(name), dict):
            read = read[name]
            break
    if not isinstance(read, dict) or not read or not all(isinstance(value, Tensor) for value in read.values()):
        raise BadCheckpoint(f"{file} holds no weights by name, but {_described(read)}")
    while all(name.startswith("module.") for name in read):
        read = {name.removeprefix("module."): value for name, value in read.items()}
    return dict(read)


def _deepspeed_file(folder: Path) -> Path:
    found = sorted(path for name in _DEEPSPEED for path in folder.rglob(name))
    latest = folder / "latest"
    if len(found) > 1 and latest.is_file():
        found = [path for path in found if path.parent.name == latest.read_text().strip()]
    if len(found) != 1:
        raise BadCheckpoint(f"{folder} holds {len(found)} files named {_DEEPSPEED[0]}; name the one that is meant")
    if any(found[0].parent.glob("mp_rank_01_model_states.pt*")):
        raise BadCheckpoint(f"{folder} holds a model in several parts, which no published checkpoint is")
    return found[0]


def _described(read: Any) -> str:
    if not isinstance(read, dict):
        return f"a {type(read).__name__}"
    return listed("other entries", {str(name) for name, value in read.items() if not isinstance(value, Tensor)})


def _lora(origin: Path, given: dict[str, Tensor], alpha: float) -> Lora:
    ranks = {value.shape[0] for name, value in given.items() if name.endswith(".lora_A.default.weight") and value.ndim}
    if len(ranks) != 1:
        raise BadCheckpoint(f"{origin} has adapters of {len(ranks)} ranks, and one is expected; is it of RSRefSeg?")
    return Lora(rank=ranks.pop(), alpha=alpha)


def _look_for_another_size(origin: Path, given: dict[str, Tensor], preset: Preset) -> None:
    # One sentence in place of a thousand names where only b and l were confused.
    assert isinstance(preset.image, PairedVits)
    patches = given.get("backbone.base_model.model.model.pos_embed")
    if patches is not None and patches.ndim == 4 and patches.shape[3] != preset.image.sam.width:
        raise BadCheckpoint(
            f"{origin} has a SAM encoder of width {patches.shape[3]}, and preset {preset.name!r} one of "
            f"{preset.image.sam.width}: try the other preset (b has 768, l 1024)"
        )


def _joined(origin: Path, given: dict[str, Tensor], layout: Layout, model: RSRefSeg) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    misfits: set[str] = set()
    for ours, expected in model.state_dict().items():
        source = layout[ours]
        try:
            state[ours] = source.join(*(given[name] for name in source.names))
        except RuntimeError:
            misfits.update(source.names)
            continue
        if state[ours].shape != expected.shape or state[ours].is_floating_point() != expected.is_floating_point():
            misfits.update(f"{name} {tuple(given[name].shape)}" for name in source.names)
    if misfits:
        raise BadCheckpoint(
            f"{origin} does not fit preset {model.preset.name!r}: {listed('of another shape', misfits)}"
        )
    return state


def _card(origin: Path, config: checkpoint.Config) -> str:
    lora = config.preset.lora
    assert lora is not None
    return "\n".join([
        f"# RSRefSeg {config.preset.name}",
        "",
        f"Converted from `{origin.name}`, a checkpoint of KyanChen/RSRefSeg, by {checkpoint.code_version()}.",
        f"Adapters of rank {lora.rank}, alpha {lora.alpha:g} (the file does not say alpha).",
        "Data, scores and licence are those of its authors; see arXiv 2501.06809.",
        "",
    ])
