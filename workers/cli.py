"""`rsrefseg-worker`: run workers, and see what they do."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec

import click
from rich.console import Console

from workers import logs
from workers.complaint import USAGE, Complaint, complaining
from workers.errors import WorkersError
from workers.queue import GPU, JobQueue
from workers.settings import Settings
from workers.status import as_tables, status_of

VISIBLE = "CUDA_VISIBLE_DEVICES"
"""What CUDA reads, once, to know which GPUs a process may use."""


NO_GPU = "No such GPU is to be seen from here: mend the driver, or use --gpus cpu."

NO_TORCH = "This installation has no torch: a worker needs the extra, as in pip install 'rsrefseg[worker]'."

PRETEND = "There are no GPUs to find with --simulate: say which to pretend, as in --gpus 0,1,2."


@click.group()
@click.version_option(package_name="rsrefseg")
def main() -> None:
    """Draw masks from words: the GPU side of RSRefSeg."""


@main.command()
@click.option(
    "--gpus", metavar="cpu|all|0,2", help="Where the model runs: one process for each GPU.  [default: all, or cpu]"
)
@click.option("--queue", type=click.Choice([GPU]), default=GPU, show_default=True, help="Which jobs to take.")
@click.option(
    "--simulate",
    metavar="SECONDS_PER_IMAGE",
    type=click.FloatRange(0),
    help="Sleep in place of the model; all else is real. --gpus 0,1,2 then pretends that there are three.",
)
def run(gpus: str | None, queue: str, simulate: float | None) -> None:
    """Load the model and take jobs until Ctrl-C."""
    with complaining(WorkersError):
        settings = Settings.load()
    if simulate is None:
        _require_torch()
    logs.configure(settings.log_level)
    chosen = _choose_gpus(gpus, settings) if simulate is None else _pretend_gpus(gpus)
    if len(chosen) > 1:
        from workers.supervisor import supervise  # Only many processes need one.

        command = [sys.executable, "-m", "workers.cli", "run", "--queue", queue]
        command += [] if simulate is None else ["--simulate", str(simulate)]
        sys.exit(supervise([[*command, "--gpus", gpu] for gpu in chosen], hopeless=USAGE))
    elif simulate is None:
        _run_one(settings, *chosen)
    else:
        _simulate_one(settings, simulate)


def _require_torch() -> None:
    if find_spec("torch") is None:
        raise Complaint(NO_TORCH)


def _run_one(settings: Settings, gpu: str | None = None) -> None:
    if gpu is not None:
        os.environ[VISIBLE] = gpu  # Before torch is imported, or it takes the first.

    import torch  # `status` does without.

    from rsrefseg.errors import RSRefSegError
    from workers.worker import load, serve

    if gpu is not None and not torch.cuda.is_available():
        raise Complaint(NO_GPU)
    with complaining(RSRefSegError):
        # Before the queue is opened: a process that is killed while it loads has left nothing behind.
        predictor = load(settings, "cpu" if gpu is None else "cuda")
    with complaining(WorkersError), JobQueue.open(settings) as queue:
        serve(queue, predictor, batch_images=1 if gpu is None else settings.batch_images)


def _simulate_one(settings: Settings, seconds_per_image: float) -> None:
    from workers.simulated import SimulatedPredictor
    from workers.worker import serve

    with complaining(WorkersError), JobQueue.open(settings) as queue:
        serve(queue, SimulatedPredictor(seconds_per_image))


def _pretend_gpus(wanted: str | None) -> list[str]:
    if wanted == "all":
        raise Complaint(PRETEND)
    return wanted.split(",") if wanted and wanted != "cpu" else []


def _choose_gpus(wanted: str | None, settings: Settings) -> list[str]:
    wanted = wanted or {"cpu": "cpu", "cuda": "all", None: ""}[settings.device]
    if wanted == "cpu":
        return []
    if wanted not in ("", "all"):
        return wanted.split(",")

    import torch  # Asked last: it takes seconds.

    if not torch.cuda.is_available():
        if wanted:
            raise Complaint(NO_GPU)
        return []
    visible = os.environ.get(VISIBLE)
    return visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def status(as_json: bool) -> None:
    """Show what waits, who works on what, and what failed and why."""
    with complaining(WorkersError):
        settings = Settings.load()
        with JobQueue.open(settings) as queue:
            seen = status_of(queue)
    if as_json:
        click.echo(seen.model_dump_json())
    else:
        Console().print(as_tables(seen))


if __name__ == "__main__":
    main()
