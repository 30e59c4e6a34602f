"""`rsrefseg-worker`: run workers, and see what they do."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

import click
from rich.console import Console

from workers import exposition, logs, progress, traces
from workers.complaint import USAGE, Complaint, complaining
from workers.errors import RedisAway, WorkersError
from workers.leased import is_of
from workers.queue import GPU, INTERACTIVE, TRAIN, JobQueue
from workers.settings import Settings
from workers.simulated import SimulatedPredictor
from workers.status import SHOWN, names_of_workers, status_of, watch
from workers.supervisor import LINE, supervise

if TYPE_CHECKING:
    from workers.bench import Model

VISIBLE = "CUDA_VISIBLE_DEVICES"
"""What CUDA reads, once, to know which GPUs a process may use."""

CPU = "cpu"
"""What `--gpus` calls the device that is always there."""

COUNT_GPUS = "import torch; print(torch.cuda.is_available() * torch.cuda.device_count())"
"""Torch is asked, since what CUDA lists is more than this torch may be able to use."""

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
@click.option(
    "--queue",
    type=click.Choice([GPU, INTERACTIVE, TRAIN]),
    default=GPU,
    show_default=True,
    help="Which jobs to take: masks; only those that a person waits for; or training, without a model in memory.",
)
@click.option(
    "--simulate",
    metavar="SECONDS_PER_IMAGE",
    type=click.FloatRange(0),
    help="Sleep in place of the model; all else is real. --gpus 0,1,2 then pretends that there are three.",
)
@click.option(LINE, "line", type=int, hidden=True, help="The supervisor gives it to each of its processes.")
def run(gpus: str | None, queue: str, simulate: float | None, line: int | None) -> None:
    """Load the model and take jobs until Ctrl-C.

    One process for each GPU, which is started again when it dies or hangs. Ctrl-C or SIGTERM lets each end its batch;
    a second one ends them at once.
    """
    with complaining(WorkersError):
        settings = Settings.load()
    if simulate is None:
        _require_torch()
    logs.configure(settings.log_level)
    if line is not None:
        progress.report_to(line, settings.stop_s)
        _work(settings, gpus or CPU, queue, simulate)
        return
    chosen = _choose_gpus(gpus, settings) if simulate is None else _pretend_gpus(gpus)
    command = [sys.executable, "-m", "workers.cli", "run", "--queue", queue]
    command += [] if simulate is None else ["--simulate", str(simulate)]
    commands = [[*command, "--gpus", gpu] for gpu in chosen]
    with complaining(WorkersError), exposition.shown_for_children(settings):
        code = supervise(commands, settings.hung_s, settings.stop_s, hopeless=USAGE)
    sys.exit(code)


def _require_torch() -> None:
    if find_spec("torch") is None:
        raise Complaint(NO_TORCH)


def _work(settings: Settings, gpu: str, queue_name: str, simulate: float | None) -> None:
    device = _pin(gpu) if simulate is None else f"{gpu} (simulated)"
    # Loaded before the queue is opened: a process that is killed while it loads has left nothing behind.
    predictor = None if queue_name == TRAIN else _predictor(settings, gpu, simulate)

    from workers.worker import serve, serve_training  # OpenCV is in there, which only a running worker needs.

    with complaining(WorkersError), JobQueue.open(settings) as queue:
        traces.start(settings, "rsrefseg-worker")
        if predictor is None:
            serve_training(queue, device=device, torch_device=CPU if gpu == CPU else "cuda")
        else:
            batch_images = 1 if gpu == CPU else settings.batch_images
            serve(queue, predictor, device=device, serves=queue_name, batch_images=batch_images)


def _pin(gpu: str) -> str:
    if gpu == CPU:
        return CPU
    os.environ[VISIBLE] = gpu  # Before torch is imported, or it takes the first.

    import torch  # Neither `status` nor the supervisor needs it.

    if not torch.cuda.is_available():
        raise Complaint(NO_GPU)
    return f"GPU {gpu}, {torch.cuda.get_device_name()}"


def _predictor(settings: Settings, gpu: str, simulate: float | None) -> Model:
    if simulate is not None:
        return SimulatedPredictor(simulate)

    from rsrefseg.errors import RSRefSegError
    from workers.worker import load

    with complaining(RSRefSegError):
        return load(settings, CPU if gpu == CPU else "cuda")


def _pretend_gpus(wanted: str | None) -> list[str]:
    if wanted == "all":
        raise Complaint(PRETEND)
    return wanted.split(",") if wanted else [CPU]


def _choose_gpus(wanted: str | None, settings: Settings) -> list[str]:
    wanted = wanted or {"cpu": CPU, "cuda": "all", None: ""}[settings.device]
    if wanted not in ("", "all"):
        return wanted.split(",")
    # In a process of its own: the supervisor stays small, and torch holds what it once touched.
    counted = subprocess.run([sys.executable, "-c", COUNT_GPUS], stdout=subprocess.PIPE, check=False, text=True)
    count = int(counted.stdout or 0)
    if count == 0:
        if wanted:
            raise Complaint(NO_GPU)
        return [CPU]
    visible = os.environ.get(VISIBLE)
    return visible.split(",") if visible else [str(number) for number in range(count)]


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--once", is_flag=True, help="Do not stay and look again each second, as in a terminal.")
def status(as_json: bool, once: bool) -> None:
    """Show what waits, who works on what, how fast, and what failed and why."""
    with complaining(WorkersError):
        settings = Settings.load()
        with JobQueue.open(settings) as queue:
            if as_json:
                click.echo(status_of(queue).model_dump_json())
            else:
                watch(lambda: status_of(queue, failures=SHOWN), Console(), once=once)


@main.command()
def alive() -> None:
    """Exit with 0 if a worker, trainer or courier of this host takes jobs, else 1: for checks of containers.

    A Redis that is away is waited for, and to start anew would not bring it back: that is 0 too.
    """
    with complaining(WorkersError):
        settings = Settings.load()
        try:
            with JobQueue.open(settings) as queue:
                names = [name for name in names_of_workers(queue) if is_of(name, socket.gethostname())]
        except RedisAway as exc:
            click.echo(f"{exc}. It is waited for.")
            return
    click.echo(f"{', '.join(names)} takes jobs." if names else "Nothing on this host takes jobs.")
    sys.exit(not names)


if __name__ == "__main__":
    main()
