"""`rsrefseg-worker run --simulate`: everything but the model is real."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from rq import SimpleWorker

from tests.conftest import ImageHost
from tests.factories import make_job, make_png
from tests.with_redis.conftest import answers_in, wait_for
from workers.queue import JobQueue
from workers.settings import Settings


@pytest.fixture
def worker(request: pytest.FixtureRequest, settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    environ = {
        "REDIS_URL": str(settings.redis_url),
        "LABEL_STUDIO_URL": settings.label_studio_url,
        "LABEL_STUDIO_API_KEY": settings.label_studio_api_key.get_secret_value(),
    }
    command = [sys.executable, "-m", "workers.cli", "run", "--simulate", "0.05", *request.param]
    process = subprocess.Popen(command, env=os.environ | environ)
    yield process
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0


@pytest.mark.parametrize(("worker", "processes"), [([], 1), (["--gpus", "0,1"], 2)], indirect=["worker"])
def test_images_are_fetched_and_answered_by_as_many_processes_as_gpus_are_pretended(
    queue: JobQueue, image_host: ImageHost, worker: subprocess.Popen[bytes], processes: int
) -> None:
    images = [f"/data/upload/1/{number}.png" for number in range(2)]
    image_host.pages |= {image: (200, make_png((40, 60))) for image in images}
    wait_for(lambda: SimpleWorker.count(queue=queue.gpu) == processes, timeout_s=120)
    queue.submit([make_job(number, image_uri=images[number % 2]) for number in range(4)])
    answers = wait_for(lambda: found if len(found := answers_in(queue)) == 4 else None, timeout_s=120)
    assert sorted(image_host.asked) == images, "each is fetched once for all requests about it"
    assert {answer.model_version for answer in answers} == {"simulated@0.05s"}
    for answer in answers:
        mask = answer.found[0].mask.to_mask()
        assert mask.shape == (40, 60)
        assert mask.any()
        assert answer.seconds >= 0.05
    assert queue.failures() == []
