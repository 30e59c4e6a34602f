"""Image files that somebody made to do harm; run as a script it decodes them under the limits that a worker has.

Without an argument all small ones in one process, which lives to the last; with a name that one of `NEAR_LIMIT`, in a
process that has the memory that was reserved for it and no more.
"""

from __future__ import annotations

import gc
import io
import json
import resource
import struct
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

ROOM_BYTES = 1 << 30
"""How much more memory than before decoding small ones may be asked for."""

SLACK_BYTES = 48 << 20
"""Of what a process asks for beside what was reserved for an image: arenas of threads and the like."""

SECONDS = 10.0
"""Of a core, for a small one."""

NEAR_LIMIT_SECONDS = 25.0
"""Of a core, for one that is as large as may be."""

SIDE = 12_200
"""Of a picture just below the default limit on pixels."""

LONG = 70_000_000
"""Of a picture of one line, for which the memory is just enough."""


FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000")


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


def jp2(width: int, height: int, tile: int, *, parts: int = 3) -> bytes:
    size = struct.pack(">HIIIIIIIIH", 0, width, height, 0, 0, tile, tile, 0, 0, parts) + b"\x07\x01\x01" * parts
    cod = b"\xff\x52\x00\x0c\x00\x00\x00\x01\x00\x05\x04\x04\x00\x01"
    qcd = b"\xff\x5c\x00\x13\x40" + b"\x40" * 16
    return b"\xff\x4f\xff\x51" + struct.pack(">H", len(size) + 2) + size + cod + qcd + b"\xff\xd9"


def webp(width: int, height: int) -> bytes:
    body = b"VP8L" + struct.pack("<I", 6) + b"\x2f" + struct.pack("<I", width - 1 | height - 1 << 14) + b"\0"
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def scans(number: int) -> bytes:
    photo = saved("JPEG", size=(1_024, 1_024), progressive=True)
    return photo[:-2] + photo[photo.rindex(b"\xff\xda") :][:200] * number + photo[-2:]


def plain(format: str, dtype: str, bands: int = 1, mode: str | None = None, side: int = SIDE, **how: object) -> bytes:
    held = io.BytesIO()
    pixels = np.zeros((side, side, bands) if bands > 1 else (side, side), dtype)
    Image.fromarray(pixels, mode).save(held, format, **how)
    return held.getvalue()


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[274] = 6
    return exif


NEAR_LIMIT: dict[str, Callable[[], bytes]] = {
    "grey PNG of 16 bits": lambda: png(SIDE, SIDE, zlib.compress(bytes(SIDE * (2 * SIDE + 1)), 9), depth=16, colour=0),
    "PNG of 4 x 16 bits": lambda: png(SIDE, SIDE, zlib.compress(bytes(SIDE * (8 * SIDE + 1)), 9), depth=16, colour=6),
    "TIFF of floats in one strip, turned": lambda: plain(
        "TIFF", "float32", compression="tiff_adobe_deflate", tiffinfo={278: SIDE}, exif=turned()
    ),
    "progressive JPEG, turned": lambda: plain("JPEG", "uint8", 3, progressive=True, subsampling=0, exif=turned()),
    "progressive JPEG of four colours": lambda: plain("JPEG", "uint8", 4, "CMYK", progressive=True),
    "JPEG2000 of three colours": lambda: plain("JPEG2000", "uint8", 3, side=11_200),
    "JPEG2000 of 16 bits": lambda: plain("JPEG2000", "uint16", side=6_000),
    "WebP": lambda: plain("WEBP", "uint8", 4, side=11_200, lossless=True, quality=0, method=0),
    "a single line": lambda: png(LONG, 1, zlib.compress(bytes(2 * LONG + 1), 9), depth=16, colour=0),
    "a single column": lambda: png(1, LONG, zlib.compress(bytes(3 * LONG), 9), depth=16, colour=0),
}
"""Files of little that are read as what they say, at the limits that a worker has if nobody changes them."""


def corpus() -> dict[str, bytes]:
    """The files by what is wrong with them."""
    good = {name: saved(name) for name in FORMATS}
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "A" * 60_000_000, zip=True)
    base = [(256, 4, 1, 64), (257, 4, 1, 48), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (277, 3, 1, 1)]
    found = {
        "bomb, 100,000 x 100,000 of nothing": png(100_000, 100_000, zlib.compress(b"\0" * 50_000_000, 9)),
        "bomb, pixels just above the limit": png(12_250, 12_250, zlib.compress(bytes(12_250 * (3 * 12_250 + 1)), 9)),
        "one line of as many pixels as there may be": png(150_000_000, 1),
        "one column of as many pixels as there may be": png(1, 150_000_000),
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
        "SVG of ten thousand million words": b'<!DOCTYPE s [<!ENTITY a "ha">'
        + b"".join(b'<!ENTITY %c "%s">' % (c, b"&%c;" % (c - 1) * 10) for c in range(ord("b"), ord("l")))
        + b"]><svg>&k;</svg>",
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
        "a floating PFM of more than there may be": b"Pf\n20000 20000\n-1.0\n" + b"\0" * 100,
        "a JPEG of a hundred thousand scans": scans(100_000),
        "a JPEG2000 of 65,535 tiles and no data": jp2(65_535, 2_000, 257),
        "a JPEG2000 of tiles of one pixel": jp2(12_000, 12_000, 1),
        "a JPEG2000 of 16,384 parts": jp2(64, 48, 64, parts=16_384),
        "a JPEG2000 of the largest size that can be written": jp2(2**32 - 1, 2**32 - 1, 2**32 - 1),
        "a JPEG2000 of more memory than may be": jp2(12_200, 12_200, 12_200, parts=4),
        "a WebP of more memory than may be": webp(16_383, 9_000),
        "a TIFF of one tile of 65,520 x 65,520": tiff([
            *base,
            (322, 4, 1, 65_520),
            (323, 4, 1, 65_520),
            (324, 4, 1, 8),
            (325, 4, 1, 8),
        ]),
        "a TIFF of 65,535 tags": tiff([*base, *((40_000 + number % 20_000, 2, 2**31, 8) for number in range(65_529))]),
        "a TIFF of strips of no rows": tiff([*base, (273, 4, 1, 8), (278, 4, 1, 0), (279, 4, 1, 8)]),
        "a TIFF of strips of which each is the whole file": tiff([
            *base[:1],
            (257, 4, 1, 2_000_000),
            *base[2:],
            (273, 4, 2_000_000, 8),
            (278, 4, 1, 1),
            (279, 4, 2_000_000, 8),
        ]),
        "a TIFF of a colour profile of 4 GB": tiff([*base, (273, 4, 1, 8), (279, 4, 1, 8), (34_675, 7, 2**32 - 1, 8)]),
        "a TIFF of bits beyond counting": tiff([
            *base[:2],
            (258, 3, 1, 65_535),
            *base[3:],
            (273, 4, 1, 8),
            (279, 4, 1, 8),
        ]),
        "a BigTIFF of 2^63 tags": b"II+\x00\x08\x00\x00\x00" + struct.pack("<QQ", 16, 2**63),
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


def allow(more_bytes: int) -> None:
    """Let this process have so much more memory than it has."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + more_bytes
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def main(names: list[str]) -> None:
    from workers.decoding import Decoder, memory_of
    from workers.errors import ImageRefused
    from workers.settings import Settings

    limits = Settings()
    decoder = Decoder(limits.image_pixels_limit, limits.image_memory_limit)
    decoder.decode(saved("PNG"))
    if names:
        files = {name: NEAR_LIMIT[name]() for name in names}
        Image.MAX_IMAGE_PIXELS = 2**40
        allow(max(memory_of(Image.open(io.BytesIO(content))) for content in files.values()) + SLACK_BYTES)
    else:
        files = corpus() | polyglots()
        allow(ROOM_BYTES)
    for name, content in files.items():
        began = time.process_time()
        try:
            outcome = "x".join(map(str, decoder.decode(content).shape))
        except ImageRefused as exc:
            outcome = f"refused: it {exc}"
        except BaseException as exc:
            outcome = f"broke: {type(exc).__name__} {exc}"
        print(json.dumps({"name": name, "outcome": outcome, "seconds": time.process_time() - began}), flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main(sys.argv[1:])
