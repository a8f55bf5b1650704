"""Images: what load_image() reads, where a run starts, what save_image() writes."""

import os
import signal
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import script

X, Y = np.meshgrid(np.linspace(0, 1, 64), np.linspace(0, 1, 64))
RGB = np.uint8(np.round(255 * np.stack([X, Y, 1 - X * Y], -1)))  # smooth, so that JPEG keeps it
NOISE = np.random.default_rng(0).integers(0, 256, RGB.shape, np.uint8)
GREY, GREY16, ALPHA = RGB[..., 2], np.uint16(np.round(65535 * X * Y)), np.uint8(np.round(255 * (X + Y) / 2))
QUADRANT = np.uint8((Y > 0.5) * 2 + (X > 0.5))  # 0 to 3
COLOURS = np.uint8([(255, 0, 0), (0, 200, 0), (0, 0, 255), (90, 80, 70)])
PALETTE = Image.fromarray(QUADRANT)
PALETTE.putpalette(COLOURS.tobytes())
PICTURES = {  # mode: a picture as Pillow has it, and its colours in [0, 1], or its grey
    "1": (Image.fromarray(GREY > 127), GREY > 127),
    "L": (Image.fromarray(GREY), GREY / 255),
    "LA": (Image.fromarray(np.dstack([GREY, ALPHA])), GREY / 255 * ALPHA / 255 + 1 - ALPHA / 255),
    "P": (PALETTE, COLOURS[QUADRANT] / 255),
    "P, 3 is transparent": (PALETTE, np.where(QUADRANT[..., None] == 3, 1, COLOURS[QUADRANT] / 255)),
    "RGB": (Image.fromarray(RGB), RGB / 255),
    "RGBA": (Image.fromarray(np.dstack([RGB, ALPHA])), RGB / 255 * ALPHA[..., None] / 255 + 1 - ALPHA[..., None] / 255),
    "CMYK": (Image.fromarray(RGB).convert("CMYK"), RGB / 255),
    "I;16": (Image.fromarray(GREY16), GREY16 / 65535),
    "I;16, dark": (Image.fromarray(GREY16 // 4), GREY16 // 4 / 65535),  # not stretched
    "I;16B": (Image.fromarray(GREY16.astype(">u2")), GREY16 / 65535),
    "I": (Image.fromarray(np.int32(GREY16) * 1000 - 7), GREY16 / 65535),
    "F": (Image.fromarray(np.float32(X * Y * 3 - 2)), X * Y),
}
ROUND = 0.501 / 255  # more than 8 bits come rounded


def load(path: Path, img_size: int = 64) -> np.ndarray:
    """load_image(), held to what it promises of every picture."""
    img = script.load_image(str(path), img_size)
    assert img.dtype == np.float32 and img.shape == (1, img_size, img_size, 3)
    assert img.min() >= 0 and img.max() <= 1
    return img[0]


@pytest.mark.parametrize(("suffix", "mode", "options", "tolerance"), [
    *[("png", mode, {}, ROUND) for mode in ("1", "L", "P", "RGB", "I;16", "I;16, dark")],
    *[("png", mode, {}, 2 * ROUND) for mode in ("LA", "RGBA")],
    *[(suffix, "P, 3 is transparent", {"transparency": 3}, ROUND) for suffix in ("png", "gif")],
    *[("jpg", mode, {"quality": 95}, 0.04) for mode in ("L", "RGB", "CMYK")],
    *[("webp", mode, {"lossless": True, "exact": True}, 2 * ROUND) for mode in ("RGB", "RGBA")],
    ("webp", "RGB", {"quality": 95}, 0.05),
    *[(suffix, mode, {}, ROUND) for suffix in ("bmp", "gif", "tif") for mode in ("1", "L", "P")],
    ("bmp", "RGB", {}, ROUND),
    *[("tif", mode, {}, 2 * ROUND) for mode in ("LA", "RGB", "RGBA", "CMYK", "I;16", "I;16B", "I", "F")],
    *[("tif", mode, {"compression": "tiff_lzw"}, 2 * ROUND) for mode in ("RGB", "I;16", "F")],
])  # fmt: skip
def test_every_mode(tmp_path, suffix, mode, options, tolerance):
    picture, expected = PICTURES[mode]
    picture.save(tmp_path / f"a.{suffix}", **options)
    expected = np.broadcast_to(expected if expected.ndim == 3 else expected[..., None], RGB.shape)
    np.testing.assert_allclose(load(tmp_path / f"a.{suffix}"), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tif", "mpo.jpg"])  # cameras write MPO as .jpg
def test_first_of_many_frames(tmp_path, suffix):
    first, second = (Image.fromarray(np.full((64, 64, 3), colour)) for colour in COLOURS[:2])
    options = {"format": "MPO"} if suffix == "mpo.jpg" else {"lossless": True} if suffix == "webp" else {}
    first.save(tmp_path / f"a.{suffix}", save_all=True, append_images=[second], **options)
    np.testing.assert_allclose(load(tmp_path / f"a.{suffix}"), np.tile(COLOURS[0] / 255, (64, 64, 1)), atol=0.01)


TURNED = {  # EXIF orientation: how the stored picture is to be seen
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.swapaxes(0, 1),
    6: lambda p: np.rot90(p, -1),
    7: lambda p: p[::-1, ::-1].swapaxes(0, 1),
    8: lambda p: np.rot90(p),
}


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize(("suffix", "pixels", "tolerance"), [
    ("png", NOISE, ROUND), ("tif", NOISE, ROUND), ("webp", NOISE, ROUND), ("jpg", RGB, 0.04), ("tif", GREY16, ROUND),
])  # fmt: skip
def test_exif_orientation(tmp_path, orientation, suffix, pixels, tolerance):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / f"a.{suffix}", exif=exif, lossless=True, quality=95)
    expected = TURNED[orientation](pixels.reshape(64, 64, -1) / np.iinfo(pixels.dtype).max)
    expected = np.broadcast_to(expected, RGB.shape)
    np.testing.assert_allclose(load(tmp_path / f"a.{suffix}"), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("shape", "img_size"), [((90, 70), 48), ((40, 61), 100), ((1, 200), 32), ((33, 33), 33)])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1"])
def test_resized_as_pillow_does(tmp_path, shape, img_size, mode):
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8)).convert(mode)
    picture.save(tmp_path / "a.png")
    expected = picture.convert("RGB").resize((img_size, img_size), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(load(tmp_path / "a.png", img_size), np.float32(expected) / 255)


def test_load_images_reads_content_then_style(tmp_path):
    paths = [str(tmp_path / name) for name in ("content.png", "style.png")]
    for path, pixels in zip(paths, (NOISE, RGB), strict=True):
        Image.fromarray(pixels).save(path)
    np.testing.assert_array_equal(script.load_images(*paths, 64), np.float32([[NOISE], [RGB]]) / 255)


@pytest.mark.parametrize("shape", [(300, 200), (200, 301), (64, 64), (1000, 33), (2000, 3)])
def test_aspect_ratio_is_kept_within_a_pixel(tmp_path, shape):
    Image.new("RGB", shape).save(path := tmp_path / "a.png")
    _, height, width, _ = script.load_image(path, 128, keep_aspect_ratio=True).shape
    assert max(width, height) == 128
    for side, wanted in ((width, 128 * shape[0] / max(shape)), (height, 128 * shape[1] / max(shape))):
        assert abs(side - max(32, wanted)) <= 0.5


def test_style_scale_is_of_the_style_image_alone(tmp_path):
    for name in ("c.png", "s.png"):
        Image.new("RGB", (90, 60)).save(tmp_path / name)
    paths = tmp_path / "c.png", tmp_path / "s.png"
    shapes = [img.shape for img in script.load_images(*paths, img_size=80, style_scale=1.5)]
    assert shapes == [(1, 80, 80, 3), (1, 120, 120, 3)]
    shapes = [img.shape for img in script.load_images(*paths, 90, keep_aspect_ratio=True, style_scale=2)]
    assert shapes == [(1, 60, 90, 3), (1, 120, 180, 3)]


def statistics_of(img):
    pixels = np.float64(img).reshape(-1, 3)
    return pixels.mean(0), np.cov(pixels.T)


def test_matched_colors_have_the_targets_mean_and_covariance():
    rng = np.random.default_rng(0)
    img = rng.uniform(0, 1, (1, 40, 50, 3)) ** (1, 2, 3)
    target = 0.5 + 0.05 * rng.normal(size=(1, 30, 20, 3)) @ rng.normal(size=(3, 3))  # nothing to clip
    matched = script.match_colors(img, target)
    for ours, wanted in zip(statistics_of(matched), statistics_of(target), strict=True):
        np.testing.assert_allclose(ours, wanted, atol=1e-5)
    np.testing.assert_allclose(script.match_colors(img, img), img, atol=1e-4)
    again = script.match_colors(matched, img)  # and back
    np.testing.assert_allclose(again, img, atol=2e-3)


def test_matched_colors_of_a_large_picture_keep_its_mean():
    img = np.full((1, 1500, 1500, 3), 0.05, np.float32)  # whose sum in float32 is 3 % off
    img[:, :700] = 0.9
    rng = np.random.default_rng(3)
    matched = script.match_colors(np.float32(rng.uniform(0.4, 0.6, (1, 300, 300, 3))), img * 0.2 + 0.4)
    wanted = 0.4 + 0.2 * img.mean((0, 1, 2), np.float64)
    np.testing.assert_allclose(matched.mean((0, 1, 2), np.float64), wanted, atol=1e-4)


def test_matched_colors_stay_in_range_and_of_flat_ones_come_out_flat():
    rng = np.random.default_rng(1)
    matched = script.match_colors(rng.uniform(0.4, 0.6, (1, 9, 9, 3)), rng.integers(0, 2, (1, 9, 9, 3)))
    assert matched.dtype == np.float32 and matched.min() == 0 and matched.max() == 1
    flat = script.match_colors(rng.uniform(0, 1, (1, 9, 9, 3)), np.full((1, 9, 9, 3), 0.3))
    np.testing.assert_allclose(flat, 0.3, atol=1e-3)


def test_preserve_colors_matches_the_style_image_to_the_content_image(tmp_path):
    rng = np.random.default_rng(2)
    for name, low, high in (("c.png", 80, 120), ("s.png", 0, 256)):
        Image.fromarray(np.uint8(rng.integers(low, high, (64, 64, 3)))).save(tmp_path / name)
    paths = tmp_path / "c.png", tmp_path / "s.png"
    content_img, style_img = script.load_images(*paths, img_size=64, preserve_colors=True)
    for ours, wanted in zip(statistics_of(style_img), statistics_of(content_img), strict=True):
        np.testing.assert_allclose(ours, wanted, atol=1e-5)
    assert not np.allclose(style_img, content_img, atol=0.1)


def test_every_level_survives_saving_and_loading(tmp_path):
    levels = np.stack([np.random.default_rng(c).permutation(1024).reshape(32, 32) % 256 for c in range(3)], -1)
    script.save_image(np.float32(levels)[None] / 255, tmp_path / "a.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), levels)
    np.testing.assert_array_equal(load(tmp_path / "a.png", 32), np.float32(levels) / 255)


@pytest.mark.parametrize(("value", "level"), [(99.6, 100), (100.4, 100), (254.6, 255), (0.4, 0), (-9, 0), (300, 255)])
def test_saved_rounded_and_clipped(tmp_path, value, level):
    script.save_image(np.full((1, 5, 7, 3), value / 255, np.float32), tmp_path / "new" / "a.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "new" / "a.png")), np.full((5, 7, 3), level))


def test_saved_file_is_alone_and_holds_text(tmp_path):
    text = {"epoch": 7, "style": "Tübingen, 星月夜", "layers": [("a", 0.2)], "long": "x" * 3000, "none": None}
    script.save_image(RGB[None] / 255, str(tmp_path / "ü.png"), text)
    assert Image.open(tmp_path / "ü.png").text == {name: str(value) for name, value in text.items()}
    assert os.listdir(tmp_path) == ["ü.png"]


@pytest.mark.parametrize("count", [1, 5])
def test_animation_shows_the_saved_images_in_their_order(tmp_path, count):
    imgs = np.roll(RGB, 16, 1)[None] * np.linspace(0.2, 1, count)[:, None, None, None] / 255
    for i in reversed(range(count)):
        script.save_image(imgs[[i]], tmp_path / f"image_{250 * i:05}.png")
    script.save_animation(tmp_path)
    with Image.open(tmp_path / "painting.webp") as animation:
        assert getattr(animation, "n_frames", 1) == count
        for i in range(count):
            animation.seek(i)
            assert np.abs(np.asarray(animation.convert("RGB")) / 255 - imgs[i]).mean() < 0.02  # steps are 0.1


def test_animation_of_an_empty_folder(tmp_path):
    with pytest.raises(OSError, match="no images"):
        script.save_animation(tmp_path)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
@pytest.mark.parametrize("function", ["replace", "fsync"])
def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch, function, error):
    def fail(*args):
        raise error

    script.save_image(RGB[None] / 255, tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    monkeypatch.setattr(script.os, function, fail)
    with pytest.raises(type(error)):
        script.save_image(NOISE[None] / 255, tmp_path / "a.png")
    assert os.listdir(tmp_path) == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == before


@pytest.mark.parametrize("magnitude", [0.05, 0.2, 0.5])
def test_noise_is_uniform(magnitude):
    img = script.initialize_generated_image(np.full((1, 64, 64, 3), 0.5, np.float32), magnitude, 1)
    assert img.dtype == "float32" and img.shape == (1, 64, 64, 3)
    noise = (img.numpy() - 0.5) / magnitude  # uniform in [-1, 1]: mean 0, variance 1/3; bounds are 5 sigma
    assert abs(noise.mean()) < 5 * np.sqrt(1 / 3 / noise.size)
    assert abs(noise.var() - 1 / 3) < 5 * np.sqrt((1 / 5 - 1 / 9) / noise.size)
    assert 0.99 < np.abs(noise).max() <= 1 + 1e-5


def test_start_follows_seed_and_magnitude_and_stays_in_range():
    content_img = np.float32(RGB)[None] / 255
    start = [script.initialize_generated_image(content_img, 0.2, seed).numpy() for seed in (3, 3, 4)]
    np.testing.assert_array_equal(start[0], start[1])
    assert np.mean(start[0] != start[2]) > 0.8  # the rest is clipped
    assert np.min(start) == 0 and np.max(start) == 1
    np.testing.assert_array_equal(script.initialize_generated_image(content_img, 0, 3).numpy(), content_img)


def save_half(path):
    Image.fromarray(NOISE).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


IHDR = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
BAD = {
    "missing ü.png": lambda path: None,
    "empty.png": lambda path: path.touch(),
    **{f"half.{suffix}": save_half for suffix in ("jpg", "png", "webp", "bmp", "tif", "gif")},
    "text.jpg": lambda path: path.write_text("not a picture"),
    "eps.jpg": lambda path: Image.fromarray(RGB).save(path, "EPS"),
    "ppm.png": lambda path: Image.fromarray(RGB).save(path, "PPM"),
    "folder.png": lambda path: path.mkdir(),
    "fifo.png": lambda path: os.mkfifo(path),
    "dangling.png": lambda path: path.symlink_to("nowhere"),
    "bomb.png": lambda path: path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + IHDR + struct.pack(">I", zlib.crc32(IHDR))
    ),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", BAD)
def test_bad_file(tmp_path, monkeypatch, name):
    BAD[name](tmp_path / name)
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was started"))
    previous = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("load_image() blocks"))
    signal.alarm(20)
    try:
        with pytest.raises(OSError) as caught:
            script.load_image(str(tmp_path / name), 32)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
    assert len(str(caught.value).splitlines()) == 1 and str(tmp_path / name) in str(caught.value)
