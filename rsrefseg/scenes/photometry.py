"""What air, optics and sensor do to a scene on its way to a file."""

from __future__ import annotations

import cv2
import numpy as np


def develop(rng: np.random.Generator, image: np.ndarray, infrared: bool) -> np.ndarray:
    """Turn a clean painting into something a satellite could have sent.

    Args:
        rng: Where chance comes from.
        image: (h, w, 3) uint8 RGB.
        infrared: Whether to show near infrared as a visible colour.

    Returns:
        (h, w, 3) uint8 RGB.
    """
    if infrared:
        image = _false_colour(rng, image)
    saturation = rng.uniform(0.5, 1.1)
    contrast = rng.uniform(0.8, 1.3)
    mean = float(image.mean())
    # Providers stretch their images: neither night-dark nor washed out.
    wanted = float(np.clip(mean + rng.normal(0.0, 14.0), 62.0, 185.0))
    balance = 1.0 + rng.normal(0.0, 0.022, 3)
    haze = max(0.0, rng.normal(-0.02, 0.08))
    grey = np.full((3, 3), 1 / 3) * (1 - saturation) + np.eye(3) * saturation
    matrix = np.diag(balance * contrast) @ grey
    shift = (wanted - mean * contrast) * np.ones(3)
    air = np.array((186.0, 196.0, 208.0))
    matrix, shift = matrix * (1 - haze), shift * (1 - haze) + air * haze
    out: np.ndarray = cv2.transform(image, np.concatenate([matrix, shift[:, None]], axis=1))
    gamma = float(np.exp(rng.normal(0.0, 0.13)))
    table = np.clip(255.0 * (np.arange(256) / 255.0) ** gamma + 0.5, 0, 255).astype(np.uint8)
    out = cv2.LUT(out, table)
    blur = rng.uniform(0.0, 1.0)
    if blur > 0.35:
        out = cv2.GaussianBlur(out, (0, 0), float(0.3 + blur * 0.55) * image.shape[0] / 512)
    if rng.uniform() < 0.35:
        soft = cv2.GaussianBlur(out, (0, 0), 1.2)
        gain = float(rng.uniform(0.3, 0.9))
        out = cv2.addWeighted(out, 1 + gain, soft, -gain, 0.0)
    out = _sensor_noise(rng, out)
    if rng.uniform() < 0.6:
        quality = int(rng.integers(45, 96))
        _, packed = cv2.imencode(".jpg", out, [cv2.IMWRITE_JPEG_QUALITY, quality])
        out = np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR), np.uint8)
    return out


def thermal(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Show a scene as a thermal camera does at night: what is dark radiates, and nothing has a colour.

    Args:
        rng: Where chance comes from.
        image: (h, w, 3) uint8 RGB, in daylight.

    Returns:
        (h, w, 3) uint8, three times the same.
    """
    soft = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(1.2, 1.8)) * image.shape[0] / 512)
    warmth = 255 - np.asarray(cv2.cvtColor(soft, cv2.COLOR_RGB2GRAY), np.float64)
    low, high = (float(np.quantile(warmth, share)) for share in (0.01, 0.99))
    stretched = (warmth - low) * (235.0 / max(1.0, high - low)) + 10
    seen = np.clip(stretched + rng.normal(0.0, 3.0, warmth.shape), 0, 255).astype(np.uint8)
    return np.repeat(seen[..., None], 3, axis=2)


def _sensor_noise(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    strength = abs(rng.normal(0.0, 0.045))
    if strength < 0.008:
        return image
    grey = rng.uniform() < 0.5
    shape = image.shape[:2] if grey else image.shape
    grain = rng.integers(0, 256, shape, np.uint8)
    if grey:
        grain = cv2.merge((grain, grain, grain))
    return cv2.addWeighted(image, 1.0, grain, strength, -127.5 * strength)


def _false_colour(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    # Leaves are bright in the near infrared: estimate it from how green a pixel is.
    strength = rng.uniform(1.2, 2.4)
    # More weight on blue than on red, or swimming pools would pass for leaves.
    infrared = [0.3 - 0.35 * strength, 0.35 + strength, 0.3 - 0.65 * strength]
    red, green = [0.55, 0.25, 0.0], [0.15, 0.75, 0.15]
    rows = [infrared, red, green] if rng.uniform() < 0.65 else [red, infrared, green]
    return np.asarray(cv2.transform(image, np.array(rows)), np.uint8)
