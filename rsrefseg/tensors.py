"""Tensors out of files: nothing is executed, and no file is held in memory beside what is made of it."""

from __future__ import annotations

import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Self
from zipfile import is_zipfile

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.serialization import safe_globals

from rsrefseg.errors import BadCheckpoint
from rsrefseg.layouts import Layout, asked_for

_ROWS_AT_ONCE = 64
_LONGEST_LIST = 40


class _Inert:
    """Stands where a pickled object of another library would; takes whatever it is given and does nothing with it."""

    def __new__(cls, *_args: object, **_kwargs: object) -> Self:
        return super().__new__(cls)

    def __init__(self, *_args: object, **_kwargs: object) -> None:
        pass

    def __setstate__(self, _state: object) -> None:
        pass


class _InertList(list[Any]):
    def __init__(self, *_args: object) -> None:
        super().__init__()


_STAND_INS: dict[str, type] = {
    # mmengine's message hub and configuration
    "mmengine.logging.history_buffer.HistoryBuffer": _Inert,
    "mmengine.logging.message_hub.MessageHub": _Inert,
    "mmengine.config.config.Config": _Inert,
    "mmengine.config.config.ConfigDict": OrderedDict,
    "mmengine.config.lazy.LazyAttr": _Inert,
    "mmengine.config.lazy.LazyObject": _Inert,
    # DeepSpeed's mixed precision and ZeRO
    "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler": _Inert,
    "deepspeed.runtime.fp16.loss_scaler.LossScaler": _Inert,
    "deepspeed.runtime.zero.config.ZeroStageEnum": _Inert,
    "deepspeed.utils.tensor_fragment.fragment_address": _Inert,
    # the arrays and numbers that these hold, in either spelling of numpy's modules
    "numpy.core.multiarray._reconstruct": _Inert,
    "numpy.core.multiarray.scalar": _Inert,
    "numpy._core.multiarray._reconstruct": _Inert,
    "numpy._core.multiarray.scalar": _Inert,
    "numpy.dtype": _Inert,
    "numpy.ndarray": _Inert,
    "collections.deque": _InertList,
}


def read_pickled(file: Path) -> Any:
    """Read what torch.save wrote, with torch's restricted unpickler.

    What mmengine and DeepSpeed put beside the tensors becomes inert; anything else that is not a tensor or a plain
    value is refused by name.

    Args:
        file: A checkpoint of whatever origin.

    Returns:
        The object, its tensors still on disk where the format allows it.

    Raises:
        BadCheckpoint: If the file is damaged, or asks for more than tensors and plain values.
    """
    with safe_globals([(stand_in, name) for name, stand_in in _STAND_INS.items()]):
        try:
            # The format before torch 1.6 is no archive, and cannot be mapped.
            return torch.load(file, map_location="cpu", weights_only=True, mmap=is_zipfile(file))
        except FileNotFoundError as exc:
            raise BadCheckpoint(f"there is no file {file}") from exc
        except pickle.UnpicklingError as exc:
            wanted = re.search(r"GLOBAL (\S+)", str(exc))
            if wanted is None:
                raise BadCheckpoint(f"{file} is not a checkpoint, or it is damaged") from exc
            raise BadCheckpoint(
                f"{file} asks to load {wanted[1]}, which is no part of a checkpoint; nothing of it was executed"
            ) from exc
        except (RuntimeError, OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, IndexError) as exc:
            raise BadCheckpoint(f"{file} is not a checkpoint, or it is damaged") from exc


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """Read a whole file, floats as float32.

    Args:
        file: Written by safetensors.

    Returns:
        Tensors by name, none of them backed by the file.
    """
    names = _safetensors_names(file)
    return dict(_assembled(file, ((name, (name,), _as_is) for name in names)))


def read_layout(file: Path, layouts: Mapping[str, Callable[[], Layout]]) -> dict[str, Tensor]:
    """Read others' safetensors under our names, floats as float32.

    Args:
        file: Written by safetensors.
        layouts: What the file may be, by a prefix that only its names have.

    Returns:
        Our tensors by our names, none of them backed by the file.

    Raises:
        BadCheckpoint: If it is none of these, or a name is missing or unknown.
    """
    # transformers once wrote down that the positions are 0, 1, 2, ...
    names = {name for name in _safetensors_names(file) if not name.endswith("embeddings.position_ids")}
    found = [layout for prefix, layout in layouts.items() if any(name.startswith(prefix) for name in names)]
    if not found:
        raise BadCheckpoint(f"{file} holds no names that begin with {' or '.join(layouts)}")
    layout = found[0]()
    compare(file, asked_for(layout), names)
    return dict(_assembled(file, ((ours, source.names, source.join) for ours, source in layout.items())))


def compare(origin: Path, needed: set[str], given: set[str]) -> None:
    """Insist that a file holds what is needed and nothing else.

    Args:
        origin: Named if it does not.
        needed: Names.
        given: Names.

    Raises:
        BadCheckpoint: Listing what is missing and what is unknown.
    """
    if needed != given:
        raise BadCheckpoint(
            f"{origin} does not fit: {listed('missing', needed - given)}; {listed('unknown', given - needed)}"
        )


def listed(what: str, names: set[str]) -> str:
    """Write a list of names that stays readable.

    Args:
        what: They are.
        names: Any number.

    Returns:
        Their number and the first of them.
    """
    shown = sorted(names)[:_LONGEST_LIST]
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return f"{len(names)} {what}{': ' + ', '.join(shown) if shown else ''}{more}"


def _as_is(tensor: Tensor) -> Tensor:
    return tensor


def _safetensors_names(file: Path) -> set[str]:
    try:
        with safe_open(file, "pt") as opened:
            return set(opened.keys())
    except SafetensorError as exc:
        raise BadCheckpoint(f"{file} is damaged: {exc}") from exc


def _assembled(
    file: Path, rows: Iterator[tuple[str, tuple[str, ...], Callable[..., Tensor]]]
) -> Iterator[tuple[str, Tensor]]:
    # The file is mapped into memory, and what was read of it counts as ours until it is closed; so it is, often.
    while chunk := list(islice(rows, _ROWS_AT_ONCE)):
        with safe_open(file, "pt") as opened:
            for ours, theirs, join in chunk:
                tensor = join(*(opened.get_tensor(name) for name in theirs))
                yield ours, tensor.to(torch.float32 if tensor.is_floating_point() else tensor.dtype, copy=True)
