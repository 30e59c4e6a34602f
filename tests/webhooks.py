"""Webhooks as Label Studio sends them, so many a second, each at its time whether or not the former are answered."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import cv2
import numpy as np

from ml_backend import brush

RECORDED = Path(__file__).parent / "recorded" / "webhook_annotation_created.json"

SIDES = (256,) * 80 + (1024,) * 15 + (2048,) * 4 + (4096,)
"""Of the masks' images, by how often each comes in a hundred: most masks are small, and one is very large."""

ANNOTATION, TASK = 700_000_007, 700_000_009
"""Stand in a body where each event has numbers of its own."""

LATE_S = 1.0
"""How long Label Studio waits for an answer."""


@dataclass
class Heard:
    """What came of webhooks."""

    sizes: list[int]
    """Of each body, in bytes."""
    seconds: list[float] = field(default_factory=list)
    """From the time that each was due to the end of its answer, in order of the answers."""
    statuses: Counter[int] = field(default_factory=Counter)
    """Of the answers; 0 where there was none."""

    def percentile_ms(self, percent: float) -> float:
        """How long so many of them took at most."""
        return float(1000 * np.percentile(self.seconds, percent))


def make_bodies(seed: int = 0) -> list[bytes]:
    """A hundred events of real sizes, in the order of chance; `numbered` makes others of each."""
    sent = json.loads(RECORDED.read_text())
    sent["annotation"] |= {"id": ANNOTATION, "task": TASK}
    sent["task"]["id"] = TASK
    [region] = sent["annotation"]["result"]
    bodies = {}
    for side in set(SIDES):
        region |= {"original_width": side, "original_height": side}
        region["value"]["rle"] = brush.encode(blobs(side))
        bodies[side] = json.dumps(sent).encode()
    return [bodies[side] for side in np.random.default_rng(seed).permutation(SIDES)]


def blobs(side: int) -> np.ndarray:
    """A mask as a model draws it: a few regions with a ragged edge."""
    rng = np.random.default_rng(side)
    hills = cv2.GaussianBlur(rng.standard_normal((side, side)).astype(np.float32), (0, 0), side / 24)
    hills /= hills.std()
    mask: np.ndarray = hills + 0.05 * rng.standard_normal((side, side)).astype(np.float32) > 0.8
    return mask


def numbered(body: bytes, number: int) -> bytes:
    """The event about another annotation of another task."""
    return body.replace(b"%d" % ANNOTATION, b"%d" % (ANNOTATION + number)).replace(
        b"%d" % TASK, b"%d" % (TASK + number)
    )


def send(url: str, bodies: Sequence[bytes], per_second: float, seconds: float, headers: str = "") -> Heard:
    """Send them to a web process, over a connection each, as Label Studio does."""
    count = round(per_second * seconds)
    return asyncio.run(_send(url, [bodies[number % len(bodies)] for number in range(count)], per_second, headers))


async def _send(url: str, bodies: Sequence[bytes], per_second: float, headers: str) -> Heard:
    heard = Heard([len(body) for body in bodies])
    began = time.perf_counter() + 0.5

    async def one(number: int, body: bytes) -> None:
        due = began + number / per_second
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        status = await _post(url, numbered(body, number), headers)
        heard.seconds.append(time.perf_counter() - due)
        heard.statuses[status] += 1

    await asyncio.gather(*(one(number, body) for number, body in enumerate(bodies)))
    return heard


async def _post(url: str, body: bytes, headers: str) -> int:
    address = urlsplit(url)
    try:
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
    except OSError:
        return 0
    try:
        head = (
            f"POST /webhook HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n{headers}\r\n"
        )
        writer.write(head.encode() + body)
        answer = await reader.read()
        return int(answer.split(maxsplit=2)[1])
    except (OSError, IndexError, ValueError):
        return 0
    finally:
        writer.close()
