"""Image files to pixels, within limits that hold before the work they limit is done.

A few hundred bytes may claim thousands of millions of pixels, and four files at once are four times as many. What
decoding will take is known from a file's head; it waits for room, and what is decoded keeps its room until nobody
holds it any more.
"""

from __future__ import annotations

import io
import struct
import threading
import warnings
import weakref
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from rsrefseg.pictures import to_rgb
from workers.errors import ImageRefused, NoRoom

FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF", "JPEG2000", "PPM")
"""What is decoded; Pillow's other formats are too rarely used for the trust they need."""

ROOM_BYTES = 1_000_000_000
"""Most memory for images that are decoded before somebody asks for them, in bytes."""

SCANNED_PIXELS = 3_000_000_000
"""Most pixels times scans of a JPEG, of which a few bytes ask for another pass over all of it; cameras write ten."""

_SCAN = b"\xff\xda"
_BYTES_A_PIXEL = {"JPEG": 13, "MPO": 13, "WEBP": 21}
_BYTES_OF_OTHERS = 9
_BYTES_A_LINE = 24
_BYTES_ANYWAY = 32 << 20
_MALFORMED = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    EOFError,
    struct.error,
    zlib.error,
)
"""What Pillow's decoders raise on hostile input."""

# A file of a megabyte can make Pillow warn forty thousand times, and it warns of bombs at half of its own limit; ours
# are below. For the whole process, since a filter for a while is one for all threads as well.
warnings.filterwarnings("ignore", module="PIL")


class Decoder:
    """Decodes image files, several at a time if there is room for them.

    Args:
        pixels_limit: Most pixels of an image.
        memory_limit: Most memory that decoding one may take, in bytes.
        room_bytes: Most memory that images take which are decoded before they are wanted, in bytes.
    """

    def __init__(self, pixels_limit: int, memory_limit: int, room_bytes: int = ROOM_BYTES) -> None:
        self._pixels_limit = pixels_limit
        self._memory_limit = memory_limit
        self.room = Room(room_bytes)

    def decode(self, content: bytes, *, if_room: bool = False) -> NDArray[np.uint8]:
        """Decode an image file as a browser would show it.

        EXIF orientation is applied. What is not RGB becomes so as `rsrefseg.pictures.to_rgb` says. Where there is no
        room, and `if_room` asks for it, this raises `NoRoom`.

        Args:
            content: The file.
            if_room: Whether it can wait until it is wanted; otherwise it waits for those alone that are being decoded.

        Returns:
            (h, w, 3) uint8 RGB.

        Raises:
            ImageRefused: If it is no image, a broken one, or too large; the reason completes a sentence.
            MemoryError: If the process has less memory than its limits promise.
        """
        try:
            picture = Image.open(io.BytesIO(content), formats=FORMATS)
            self._check(picture, content)
            with self.room.taken(memory_of(picture), if_room=if_room):
                ImageOps.exif_transpose(picture, in_place=True)
                image = to_rgb(picture)
                self.room.keep(image)
                return image
        except Image.DecompressionBombError as exc:  # Beyond even Pillow's limit.
            raise self._too_many_pixels() from exc
        except UnidentifiedImageError as exc:
            raise ImageRefused(f"is not an image that can be read ({', '.join(FORMATS)}).") from exc
        except _MALFORMED as exc:
            if "out of memory" in str(exc):
                raise MemoryError from exc
            raise ImageRefused("is a broken image file.") from exc

    def _check(self, picture: Image.Image, content: bytes) -> None:
        pixels = picture.width * picture.height
        if pixels > self._pixels_limit:
            raise self._too_many_pixels()
        if memory_of(picture) > self._memory_limit:
            raise ImageRefused(
                f"would take more than {self._memory_limit} bytes of memory to decode (RSREFSEG_IMAGE_MEMORY_LIMIT)."
            )
        if picture.format in ("JPEG", "MPO") and content.count(_SCAN) * pixels > SCANNED_PIXELS:
            raise ImageRefused("is a JPEG of so many scans that decoding it would take minutes.")

    def _too_many_pixels(self) -> ImageRefused:
        return ImageRefused(f"has more than {self._pixels_limit} pixels (RSREFSEG_IMAGE_PIXELS_LIMIT).")


class Room:
    """Memory that images share: those being decoded and those that somebody still holds.

    Args:
        limit: How much there is, in bytes.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._decoding = 0
        self._kept = 0
        self._changed = threading.Condition()

    @property
    def is_full(self) -> bool:
        """Whether those that somebody holds take all of it."""
        return self._kept >= self._limit

    @contextmanager
    def taken(self, size: int, *, if_room: bool) -> Iterator[None]:
        """Take room for as long as an image is being decoded; one alone may take more than there is.

        Args:
            size: How much, in bytes.
            if_room: Whether to give up where those that are held leave too little; nobody waits for them to be let go.

        Yields:
            When there is room.

        Raises:
            NoRoom: If there is none, and `if_room`.
        """
        with self._changed:
            while self._decoding and self._decoding + self._kept + size > self._limit:
                self._changed.wait()
            if if_room and self._kept and self._decoding + self._kept + size > self._limit:
                raise NoRoom
            self._decoding += size
        try:
            yield
        finally:
            self._change(decoding=-size)

    def keep(self, image: np.ndarray) -> None:
        """Count an image until nobody holds it.

        Args:
            image: The array that owns its memory.
        """
        self._change(kept=image.nbytes)
        weakref.finalize(image, self._change, kept=-image.nbytes).atexit = False

    def _change(self, decoding: int = 0, kept: int = 0) -> None:
        with self._changed:
            self._decoding += decoding
            self._kept += kept
            self._changed.notify_all()


def memory_of(picture: Image.Image) -> int:
    """Say how much memory it takes at most to decode an image, as its head describes it.

    Args:
        picture: Opened and not yet loaded.

    Returns:
        Bytes, for Pillow's picture, its decoder's own buffers and the result: measured, and held to by a test.
    """
    if picture.format == "JPEG2000":  # Computes in 32 bits, in a buffer for each band.
        a_pixel = 3 + 6 * len(picture.getbands())
    else:
        a_pixel = _BYTES_A_PIXEL.get(picture.format or "", _BYTES_OF_OTHERS)
    # Pillow keeps a pointer to each line, and some lines of their own.
    return picture.width * picture.height * a_pixel + (picture.width + picture.height) * _BYTES_A_LINE + _BYTES_ANYWAY
