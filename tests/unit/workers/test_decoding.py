from __future__ import annotations

import gc
import io
import threading
import time

import numpy as np
import pytest
from PIL import Image

from tests.factories import make_png
from workers.decoding import SCANNED_PIXELS, Decoder, Room, memory_of
from workers.errors import ImageRefused, NoRoom

PNG = make_png()


def decode(content: bytes, pixels_limit: int, memory_limit: int = 1 << 31) -> np.ndarray:
    return Decoder(pixels_limit, memory_limit).decode(content)


def test_a_small_file_that_claims_to_be_huge_is_refused_before_it_is_decoded() -> None:
    bomb = make_png((3000, 3000), "1")
    assert len(bomb) < 10_000
    began = time.monotonic()
    with pytest.raises(ImageRefused, match="more than 1000000 pixels"):
        decode(bomb, 1_000_000)
    claims = bytearray(PNG)
    claims[16:24] = (60_000).to_bytes(4, "big") * 2
    with pytest.raises(ImageRefused):
        decode(bytes(claims), 1_000_000)
    assert time.monotonic() - began < 0.5


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP"])
def test_a_truncated_image_is_refused(format: str) -> None:
    whole = make_png((64, 64), format=format)
    with pytest.raises(ImageRefused):
        decode(whole[: len(whole) * 2 // 3], 10**6)


@pytest.mark.parametrize(
    ("mode", "format"), [("L", "PNG"), ("1", "PNG"), ("P", "PNG"), ("RGB", "TIFF"), ("CMYK", "TIFF")]
)
def test_every_colour_mode_becomes_rgb(mode: str, format: str) -> None:
    image = decode(make_png(mode=mode, format=format), 10**6)
    assert image.dtype == np.uint8
    assert (image[:3, :4] == 255).all()
    assert (image[3:] == 0).all()


def test_transparency_becomes_black() -> None:
    pixels = np.full((4, 4, 4), 255, np.uint8)
    pixels[0, 0, 3] = 0
    file = io.BytesIO()
    Image.fromarray(pixels, "RGBA").save(file, "PNG")
    image = decode(file.getvalue(), 100)
    assert (image[0, 0] == 0).all()
    assert (image[1:] == 255).all()


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_deep_images_are_stretched_over_what_is_in_them(dtype: type[np.generic]) -> None:
    pixels = np.linspace(1000, 3000, 10_000).reshape(100, 100).astype(dtype)
    pixels[0, 0] = 60_000
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "TIFF")
    image = decode(file.getvalue(), 10**6)
    assert image.shape == (100, 100, 3)
    assert image[1:, :, 0].min() == 0
    assert 120 < np.median(image) < 136
    assert image.max() == 255


def test_a_photo_is_turned_as_its_camera_was() -> None:
    exif = Image.Exif()
    exif[274] = 6  # turned clockwise by a quarter
    image = decode(make_png((6, 8), exif=exif), 100)
    assert image.shape == (8, 6, 3)
    assert (image[0, -1] == 255).all()


def test_what_would_take_too_much_memory_is_refused_before_it_is_decoded() -> None:
    deep = make_png((2_000, 2_000), "RGB")
    needs = memory_of(Image.open(io.BytesIO(deep)))
    assert decode(deep, 10**7, needs).shape == (2_000, 2_000, 3)
    with pytest.raises(
        ImageRefused, match=rf"more than {needs - 1} bytes of memory .* \(RSREFSEG_IMAGE_MEMORY_LIMIT\)"
    ):
        decode(deep, 10**7, needs - 1)


def test_a_jpeg_of_ever_more_scans_is_refused_before_it_is_decoded() -> None:
    photo = make_png((256, 256), format="JPEG", progressive=True)
    assert decode(photo, 10**6).shape == (256, 256, 3)
    scan = photo[photo.rindex(b"\xff\xda") : -2]
    with pytest.raises(ImageRefused, match="scans"):
        decode(photo[:-2] + scan * (SCANNED_PIXELS // 256**2) + photo[-2:], 10**6)


def test_images_are_decoded_at_the_same_time_while_there_is_room_for_them() -> None:
    room = Room(100)
    both = threading.Barrier(2, timeout=10)

    def work() -> None:
        with room.taken(50, if_room=True):
            both.wait()

    other = threading.Thread(target=work)
    other.start()
    work()
    other.join()
    assert not both.broken


def test_an_image_that_does_not_fit_beside_another_waits_until_that_is_decoded() -> None:
    room = Room(100)
    order: list[str] = []

    def work() -> None:
        with room.taken(60, if_room=False):
            order.append("second")

    other = threading.Thread(target=work)
    with room.taken(60, if_room=False):
        other.start()
        time.sleep(0.1)
        order.append("first")
    other.join(10)
    assert order == ["first", "second"]


def test_an_image_takes_room_for_as_long_as_somebody_holds_it() -> None:
    room = Room(1_000)
    image = np.zeros((10, 30, 3), np.uint8)
    room.keep(image)
    view = image[:1]
    del image
    with pytest.raises(NoRoom), room.taken(200, if_room=True):
        pass
    with room.taken(5_000, if_room=False):  # Whoever is waited for is decoded all the same.
        assert not room.is_full
    room.keep(more := np.zeros(100, np.uint8))
    assert room.is_full
    del view, more
    gc.collect()
    assert not room.is_full
    with room.taken(5_000, if_room=True):  # And the only one.
        pass
