"""Image files that somebody made to do harm; run as a script it decodes each under limits and says what came."""

from __future__ import annotations

import io
import json
import resource
import struct
import sys
import time
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

PIXELS_LIMIT = 25_000_000
ROOM_BYTES = 1 << 30
"""How much more memory than before decoding may be asked for."""

SECONDS = 10.0


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, data: bytes = b"", *more: bytes, depth: int = 8, colour: int = 2) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def tiff(entries: list[tuple[int, int, int, int]], next_ifd: int = 0) -> bytes:
    body = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\x00" + struct.pack("<I", 8) + body + struct.pack("<I", next_ifd)


def saved(format: str, mode: str = "RGB", size: tuple[int, int] = (64, 48), **how: object) -> bytes:
    held = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), np.uint8)
    Image.fromarray(noise).convert(mode).save(held, format, **how)
    return held.getvalue()


def corpus() -> dict[str, bytes]:
    """The files by what is wrong with them."""
    good = {name: saved(name) for name in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")}
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "A" * 60_000_000, zip=True)
    base = [(256, 4, 1, 64), (257, 4, 1, 48), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (277, 3, 1, 1)]
    found = {
        "bomb, 100,000 x 100,000 of nothing": png(100_000, 100_000, zlib.compress(b"\0" * 50_000_000, 9)),
        "bomb, pixels just above the limit": png(5_001, 5_000, zlib.compress(b"\0" * (5_000 * 15_004), 9)),
        "bomb in a comment": saved("PNG", pnginfo=text),
        "bomb in a colour profile": png(8, 8, b"", chunk(b"iCCP", b"x\0\0" + zlib.compress(b"\0" * 200_000_000, 9))),
        "data that unpacks to far more than its pixels": png(8, 8, zlib.compress(b"\0" * 300_000_000, 9)),
        "a million chunks": png(8, 8, b"", *[chunk(b"teXt", b"a\0b")] * 1_000_000),
        "no width": png(0, 10),
        "no data": png(64, 64),
        "largest size that can be written": png(2**31 - 1, 2**31 - 1),
        "negative size in a BMP": good["BMP"][:18] + struct.pack("<ii", -5, -(2**31)) + good["BMP"][26:],
        "a TIFF that refers to itself": tiff(base, next_ifd=8),
        "a TIFF with four billion values": tiff([*base, (273, 4, 2**32 - 1, 8), (279, 4, 2**32 - 1, 8)]),
        "a TIFF whose tags are beyond its end": tiff([*base, (273, 4, 4, 2**31), (279, 4, 4, 2**31)]),
        "a TIFF with 65,535 samples a pixel": tiff([*base[:5], (277, 3, 1, 65_535), (273, 4, 1, 8), (279, 4, 1, 8)]),
        "a TIFF of two thousand million pixels": tiff([
            (256, 4, 1, 50_000),
            (257, 4, 1, 40_000),
            *base[2:],
            (273, 4, 1, 8),
            (279, 4, 1, 8),
        ]),
        "SVG with a script": b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
        "SVG that reads a file": b'<!DOCTYPE s [<!ENTITY f SYSTEM "file:///etc/passwd">]><svg><text>&f;</text></svg>',
        "HTML": b"<!doctype html><img src=x onerror=alert(1)>" * 50,
        "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\n",
        "PDF before a JPEG": b"%PDF-1.7\n" + good["JPEG"],
        "an empty file": b"",
        "one byte": b"\x89",
        "a GIF of 200 frames of 4,000 x 4,000": b"GIF89a"
        + struct.pack("<HHBBB", 4_000, 4_000, 0, 0, 0)
        + (b"," + struct.pack("<HHHHB", 0, 0, 4_000, 4_000, 0) + b"\x02\x02D\x01\x00") * 200
        + b";",
        "a JPEG of 65,500 x 65,500": good["JPEG"].replace(
            struct.pack(">HH", 48, 64), struct.pack(">HH", 65_500, 65_500), 1
        ),
        "an image behind a zip": b"PK\x03\x04" + good["PNG"],
        "DDS": b"DDS " + struct.pack("<7I", 124, 0x1007, 2**20, 2**20, 0, 0, 0) + b"\0" * 100,
        "FLI": struct.pack("<IHHHHHH", 128, 0xAF11, 65_000, 65_000, 65_000, 8, 0) + b"\0" * 116,
        "PSD": b"8BPS\0\1" + b"\0" * 6 + struct.pack(">HIIHH", 3, 300_000, 300_000, 8, 3),
        "a PPM that promises more than it has": b"P6 5000 5000 255\n" + b"\0" * 100,
        "a PPM with a number of a million digits": b"P6 " + b"9" * 1_000_000 + b" 5 255\n",
    }
    chance = np.random.default_rng(1)
    for name, content in good.items():
        for share in (0.02, 0.3, 0.6, 0.95):
            found[f"{name} cut at {share:.0%}"] = content[: int(len(content) * share)]
        for number in range(5):
            broken = bytearray(content)
            for place in chance.integers(0, min(len(broken), 400), 8):
                broken[place] = chance.integers(256)
            found[f"{name} with eight bytes changed, {number}"] = bytes(broken)
    return found


def polyglots() -> dict[str, bytes]:
    """Files that are an image and something else behind it; they are read as the image."""
    return {
        "PNG and zip": saved("PNG") + b"PK\x03\x04" + b"\0" * 100,
        "GIF and script": saved("GIF") + b"/*<script>alert(1)</script>*/",
        "JPEG and HTML": saved("JPEG") + b"<html>",
        "JPEG turned by 99": saved("JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\x63" + b"\0" * 6),
        "TIFF as its own name says not": saved("TIFF"),
        "CMYK": saved("JPEG", "CMYK"),
        "palette": saved("PNG", "P"),
    }


def main() -> None:
    from workers.errors import ImageRefused
    from workers.images import decode

    decode(saved("PNG"), PIXELS_LIMIT)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + ROOM_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    for name, content in (corpus() | polyglots()).items():
        began = time.perf_counter()
        try:
            outcome = "x".join(map(str, decode(content, PIXELS_LIMIT).shape))
        except ImageRefused as exc:
            outcome = f"refused: it {exc}"
        except BaseException as exc:
            outcome = f"broke: {type(exc).__name__}"
        print(json.dumps({"name": name, "outcome": outcome, "seconds": time.perf_counter() - began}), flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()
