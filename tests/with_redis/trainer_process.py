"""A trainer whose course is as short as a small model needs."""

from __future__ import annotations

import torch

from rsrefseg.lessons import Mixture
from rsrefseg.teaching import Course
from workers import logs
from workers.leased import Pace
from workers.queue import JobQueue
from workers.settings import Settings
from workers.worker import serve_training

if __name__ == "__main__":
    torch.set_num_threads(1)
    course = Course(
        least_steps=80,
        most_steps=80,
        learning_rate=3e-3,
        text_rate=1.0,
        ema_decay=0.8,
        blend=1.0,
        mixture=Mixture(corrected=4, anchors=1, anchor=0.0),
    )
    settings = Settings.load()
    logs.configure(settings.log_level)
    with JobQueue.open(settings) as queue:
        serve_training(queue, Pace(beat_s=1, grace_s=2, round_s=1), course=course)
