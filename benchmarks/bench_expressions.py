"""How much is won by encoding an image once and asking often, in which precision, and in how much memory?

Preset b with random weights: times and memory do not depend on what the weights say. Every ratio is of two times taken
in one run, in turns, so that a machine that slows down slows both.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import click
import numpy as np
import torch
from goals import GOALS
from record import keep, machine_here
from rich.console import Console
from rich.table import Table
from segment_anything.modeling.image_encoder import Attention
from torch import Tensor

from rsrefseg import ImageEmbedding, Predictor, checkpoint
from rsrefseg.attention import GridAttention
from rsrefseg.model import RSRefSeg
from rsrefseg.precision import lower
from rsrefseg.presets import B

EXPRESSIONS = [
    "the ship at the pier",
    "all storage tanks",
    "the airplane nearest the terminal",
    "the small white vehicle on the left",
    "the tennis court beside the pool",
    "the bridge over the river",
    "the red roof in the upper right",
    "the largest building",
    "the baseball field left of the road",
    "the chimney behind the dam",
]


@dataclass
class Clock:
    """Times by what was timed."""

    seconds: dict[str, list[float]] = field(default_factory=dict)

    def time(self, name: str, work: Callable[..., object], *given: object) -> None:
        """Run something and note how long it took.

        Args:
            name: Of what is run.
            work: Run once.
            given: To it.
        """
        began = time.perf_counter()
        work(*given)
        self.seconds.setdefault(name, []).append(time.perf_counter() - began)
        click.echo(f"{name}: {self.seconds[name][-1]:.3f} s", err=True)

    def __getitem__(self, name: str) -> float:
        return median(self.seconds[name])


def random_b(dtype: torch.dtype = torch.float32) -> RSRefSeg:
    """Build preset b in a few seconds.

    Args:
        dtype: Of its weights.

    Returns:
        A model whose weights are one stretch of noise over and over, and whose norms keep what passes in range.
    """
    with torch.device("meta"):
        model = RSRefSeg(B)
    lower(model, dtype)
    model = model.to_empty(device="cpu").eval()
    noise = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0)) * 0.02
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            tensor.zero_()
            continue
        flat = tensor.view(-1)
        for start in range(0, len(flat), len(noise)):
            flat[start : start + len(noise)] = noise[: len(flat) - start]
        if name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight")):
            tensor += 1
    return model


def words_to_ids(expression: str) -> Tensor:
    """Stand in for SigLIP's tokenizer, whose words cannot be shipped: as many ids as it would find.

    Args:
        expression: Words.

    Returns:
        (t,) int64, about one id a word, and the end token.
    """
    ids = [sum(word.encode()) % 30_000 + 3 for word in expression.split()]
    return torch.tensor([*ids, 1])


@contextmanager
def published_attention(model: RSRefSeg) -> Iterator[None]:
    """Put segment_anything's own attention into SAM's encoder for a while; it has the same parameters.

    Args:
        model: Gets ours back.

    Yields:
        Nothing.
    """
    ours = [module for module in model.modules() if isinstance(module, GridAttention)]
    for module in ours:
        module.__class__ = Attention
    yield
    for module in ours:
        module.__class__ = GridAttention


def one_by_one(predictor: Predictor, embedding: ImageEmbedding, expressions: Sequence[str]) -> None:
    """Ask one expression after the other.

    Args:
        predictor: Asked.
        embedding: Of the image.
        expressions: Words.
    """
    for words in expressions:
        predictor.segment(embedding, [words])


def measure(model: RSRefSeg, halved: RSRefSeg, clock: Clock, repeats: int) -> None:
    """Take all times.

    Args:
        model: Preset b in float32, its adapters merged.
        halved: The same in bfloat16.
        clock: Filled.
        repeats: Of everything but the published attention.
    """
    image = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), dtype=np.uint8)
    eight = EXPRESSIONS[:8]
    for _ in range(repeats):
        predictor = Predictor(model, "fresh", tokenizer=words_to_ids)
        clock.time("one pass", predictor.segment, image, EXPRESSIONS[:1])
        half = Predictor(halved, "half", tokenizer=words_to_ids, dtype="bfloat16")
        clock.time("one pass, bfloat16", half.segment, image, EXPRESSIONS[:1])
        for words in EXPRESSIONS[1:4]:
            clock.time("second question", predictor.segment, image, [words])
        embedding = predictor.encode(image)
        clock.time("eight one by one", one_by_one, predictor, embedding, eight)
        clock.time("eight together", predictor.segment, embedding, eight)
        predictor = Predictor(model, "fresh", tokenizer=words_to_ids)
        clock.time("ten on one image", predictor.segment, image, EXPRESSIONS)
    predictor = Predictor(model, "fresh", tokenizer=words_to_ids)
    with published_attention(model):
        clock.time("one pass, published attention", predictor.segment, image, EXPRESSIONS[:1])


def peak_of_a_process(folder: Path) -> dict[str, float]:
    """Load a checkpoint in a process of its own, and see how much memory it comes to.

    Args:
        folder: The checkpoint.

    Returns:
        GiB after loading, after one expression on one image, and after 32.
    """
    command = [sys.executable, __file__, "--peak-of", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    peaks: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return peaks


def measure_peak(folder: Path) -> None:
    """Print what `peak_of_a_process` reads.

    Args:
        folder: The checkpoint.
    """
    peaks = {}
    model = checkpoint.load(folder)
    model.merge_adapters()
    predictor = Predictor(model, "peak", tokenizer=words_to_ids)
    peaks["loaded"] = _peak_gib()
    image = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), dtype=np.uint8)
    predictor.segment(image, EXPRESSIONS[:1])
    peaks["one expression"] = _peak_gib()
    predictor.segment(image, [f"{words} {number}" for number in range(4) for words in EXPRESSIONS[:8]])
    peaks["32 expressions"] = _peak_gib()
    click.echo(json.dumps(peaks))


def _peak_gib() -> float:
    status = Path("/proc/self/status")
    if status.exists():
        # Not getrusage: a new process takes over the peak of the one that started it.
        kib = int(status.read_text().partition("VmHWM:")[2].split()[0])
        return round(kib / 2**20, 2)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**30, 2)  # bytes, on a Mac


@click.command()
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True)
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True, help="Of each time.")
@click.option("--quick", is_flag=True, help="Each once; nothing is kept.")
@click.option("--peak-of", type=click.Path(path_type=Path), hidden=True)
def main(threads: int, repeats: int, quick: bool, peak_of: Path | None) -> None:
    """Measure expressions on one image with preset b of random weights."""
    torch.set_num_threads(threads)
    if peak_of:
        measure_peak(peak_of)
        return
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        click.echo("building preset b of random weights ...", err=True)
        model, halved = random_b(), random_b(torch.bfloat16)
        checkpoint.save(model, Path(folder) / "b", "random weights\n")
        model.merge_adapters()
        halved.merge_adapters()
        measure(model, halved, clock, 1 if quick else repeats)
        del model, halved
        click.echo("peak memory, in a process of its own ...", err=True)
        peaks = peak_of_a_process(Path(folder) / "b")
    figures = {
        "speedup_10_expressions": round(10 * clock["one pass"] / clock["ten on one image"], 2),
        "speedup_cached": round(clock["one pass"] / clock["second question"], 1),
        "speedup_together": round(clock["eight one by one"] / clock["eight together"], 2),
        "speedup_bf16": round(clock["one pass"] / clock["one pass, bfloat16"], 2),
        "peak_gib": peaks["one expression"],
        "peak_gib_32_expressions": peaks["32 expressions"],
        "speedup_10_over_published_attention": round(
            10 * clock["one pass, published attention"] / clock["ten on one image"], 2
        ),
    }
    console = Console()
    times = Table("preset b, one 1024 x 1024 image", "median s", "least", "most", "times", title=f"{threads} threads")
    for name, seconds in clock.seconds.items():
        numbers = (median(seconds), min(seconds), max(seconds))
        times.add_row(name, *(f"{number:.3f}" for number in numbers), str(len(seconds)))
    console.print(times)
    goals = GOALS["expressions"] | (
        {"speedup_bf16": ">= 1.6"} if "avx512_bf16" in machine_here()["half_precision"] else {}
    )
    seconds = {name: [round(one, 4) for one in times] for name, times in clock.seconds.items()}
    keep("expressions", figures, {"threads": threads, "seconds": seconds, "peaks_gib": peaks}, goals=goals, quick=quick)


if __name__ == "__main__":
    main()
