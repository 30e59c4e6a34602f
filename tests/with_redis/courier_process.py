"""A courier in a process of its own, in a hurry."""

from __future__ import annotations

from ml_backend.courier import Courier, Patience
from ml_backend.courier_worker import serve
from ml_backend.label_studio import LabelStudio
from workers import logs
from workers.leased import Pace
from workers.queue import JobQueue
from workers.settings import Settings

if __name__ == "__main__":
    settings = Settings.load()
    logs.configure(settings.log_level)
    label_studio = LabelStudio(
        settings.label_studio_url, settings.label_studio_api_key.get_secret_value(), timeout_s=10
    )
    with JobQueue.open(settings) as queue:
        courier = Courier(queue, label_studio, Patience(pause_s=0.05, longest_pause_s=0.2, late_s=1, busy_s=1))
        serve(queue, courier, Pace(beat_s=1, grace_s=1, round_s=1))
