import numpy as np
import pytest
from PIL import Image

from rsrefseg.errors import BadImage
from rsrefseg.pictures import BLOCK_PIXELS, STRETCH_PERCENT, read_image, to_rgb


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK"])
def test_files_of_every_mode_become_rgb(tmp_path, mode):
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.new("RGB", (4, 3), "white").convert(mode).save(path)
    image = read_image(path)
    assert image.shape == (3, 4, 3)
    assert image.dtype == np.uint8
    assert (image == 255).all()


def test_transparency_becomes_black(tmp_path):
    Image.new("RGBA", (4, 3), (255, 255, 255, 0)).save(tmp_path / "a.png")
    assert not read_image(tmp_path / "a.png").any()


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_deep_files_are_stretched_over_what_is_in_them(tmp_path, dtype):
    pixels = np.linspace(1000, 3000, 10_000).reshape(100, 100).astype(dtype)
    if dtype == np.float32:
        pixels[0, :5] = np.nan
    Image.fromarray(pixels).save(tmp_path / "a.tif")
    image = read_image(tmp_path / "a.tif")
    assert (image[:, :, 0] == image[:, :, 2]).all()
    assert image[0].min() == 0
    assert image[-1].max() == 255
    assert 120 < np.median(image) < 136


def test_one_grey_level_is_no_division_by_nought(tmp_path):
    Image.fromarray(np.full((5, 6), 4000, np.uint16)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").shape == (5, 6, 3)


@pytest.mark.parametrize("content", [b"", b"words"])
def test_what_is_no_image_is_named(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(BadImage, match=r"a\.png cannot be read as an image"):
        read_image(tmp_path / "a.png")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(BadImage, match=r"a\.png does not exist"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "I;16", "F"])
@pytest.mark.parametrize("size", [(BLOCK_PIXELS + 5, 2), (700, 3_001), (1, 5)])
def test_a_picture_of_many_blocks_is_the_same_picture(mode, size):
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), np.uint8)
    if mode in ("I;16", "F"):
        levels = noise.view(np.uint32)[:, :, 0].astype(np.uint16 if mode == "I;16" else np.float32)
        picture = Image.fromarray(levels)
        low, high = np.percentile(levels.astype(np.float32), STRETCH_PERCENT)
        wanted = np.clip(np.rint((levels - low) * (255 / (high - low))), 0, 255).astype(np.uint8)
        wanted = np.repeat(wanted[:, :, None], 3, axis=2)
    else:
        picture = Image.fromarray(noise).convert("RGB" if mode == "P" else mode).convert(mode)
        wanted = np.array(picture.convert("RGB"))
        if mode == "RGBA":
            wanted = np.array(Image.alpha_composite(Image.new("RGBA", size, "black"), picture).convert("RGB"))
    assert np.array_equal(to_rgb(picture), wanted)
