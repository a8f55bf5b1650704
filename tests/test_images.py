"""Images: what load_image() reads, where a run starts, what save_image() writes."""

import concurrent.futures
import errno
import itertools
import os
import signal
import struct
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from make_images import (
    PRIMARIES,
    convert_by_formula,
    encode_srgb,
    make_bad_images,
    make_exif,
    make_ifd,
    make_png,
    make_profile,
    make_tiff,
)
from PIL import Image, features

import script

X, Y = np.meshgrid(np.linspace(0, 1, 64), np.linspace(0, 1, 64))
RGB = np.uint8(np.round(255 * np.stack([X, Y, 1 - X * Y], -1)))  # smooth, so that JPEG keeps it
NOISE = np.random.default_rng(0).integers(0, 256, RGB.shape, np.uint8)
GREY, ALPHA = RGB[..., 2], np.uint8(np.round(255 * (X + Y) / 2))
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
}
ROUND = 0.501 / 255  # more than 8 bits come rounded


def load(path: Path, img_size: int = 64) -> np.ndarray:
    """load_image(), held to what it promises of every picture."""
    img = script.load_image(str(path), img_size)
    assert img.dtype == np.float32 and img.shape == (1, img_size, img_size, 3)
    assert img.min() >= 0 and img.max() <= 1
    return img[0]


@pytest.mark.parametrize(("suffix", "mode", "options", "tolerance"), [
    *[("png", mode, {}, ROUND) for mode in ("1", "L", "P", "RGB")],
    *[("png", mode, {}, 2 * ROUND) for mode in ("LA", "RGBA")],
    *[(suffix, "P, 3 is transparent", {"transparency": 3}, ROUND) for suffix in ("png", "gif")],
    *[("jpg", mode, {"quality": 95}, 0.04) for mode in ("L", "RGB", "CMYK")],
    *[("webp", mode, {"lossless": True, "exact": True}, 2 * ROUND) for mode in ("RGB", "RGBA")],
    ("webp", "RGB", {"quality": 95}, 0.05),
    *[(suffix, mode, {}, ROUND) for suffix in ("bmp", "gif", "tif") for mode in ("1", "L", "P")],
    ("bmp", "RGB", {}, ROUND),
    *[("tif", mode, {}, 2 * ROUND) for mode in ("LA", "RGB", "RGBA", "CMYK")],
    ("tif", "RGB", {"compression": "tiff_lzw"}, 2 * ROUND),
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
    ("png", NOISE, ROUND), ("tif", NOISE, ROUND), ("webp", NOISE, ROUND), ("jpg", RGB, 0.04),
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
    content_img, style_imgs = script.load_images(*paths, 64)
    np.testing.assert_array_equal([content_img, *style_imgs], np.float32([[NOISE], [RGB]]) / 255)


@pytest.mark.parametrize("shape", [(300, 200), (200, 301), (64, 64), (1000, 33), (2000, 3)])
def test_aspect_ratio_is_kept_within_a_pixel(tmp_path, shape):
    Image.new("RGB", shape).save(path := tmp_path / "a.png")
    _, height, width, _ = script.load_image(path, 128, keep_aspect_ratio=True).shape
    assert max(width, height) == 128
    for side, wanted in ((width, 128 * shape[0] / max(shape)), (height, 128 * shape[1] / max(shape))):
        assert abs(side - max(32, wanted)) <= 0.5


@pytest.mark.parametrize(("img_size", "is_soft"), [(32, False), (50, False), (51, True), (100, True), (200, True)])
def test_a_soft_picture_lacks_the_finest_octave_where_it_is_larger_than_half_its_file(tmp_path, img_size, is_soft):
    rows, columns = np.mgrid[0:100, 0:100]
    checkered = np.uint8((rows + columns) % 2 * 200 + rows // 2)
    Image.fromarray(checkered).save(tmp_path / "a.png")
    plain = script.load_image(tmp_path / "a.png", img_size)
    soft = script.load_image(tmp_path / "a.png", img_size, soft=True)
    assert np.array_equal(soft, plain) != is_soft
    if is_soft:
        flat = np.broadcast_to(np.linspace(0, 49, img_size)[:, None, None] + 100, (img_size, img_size, 3)) / 255
        np.testing.assert_allclose(soft[0], flat, atol=0.02)


def test_style_scale_is_of_the_style_image_alone(tmp_path):
    for name in ("c.png", "s.png"):
        Image.new("RGB", (90, 60)).save(tmp_path / name)
    paths = tmp_path / "c.png", tmp_path / "s.png"
    content_img, [style_img] = script.load_images(*paths, img_size=80, style_scale=1.5)
    assert content_img.shape == (1, 80, 80, 3) and style_img.shape == (1, 120, 120, 3)
    content_img, [style_img] = script.load_images(*paths, 90, keep_aspect_ratio=True, style_scale=2)
    assert content_img.shape == (1, 60, 90, 3) and style_img.shape == (1, 120, 180, 3)


def statistics_of(img):
    pixels = np.float64(img).reshape(-1, 3)
    return pixels.mean(0), np.cov(pixels.T)


def test_matched_colors_have_the_targets_mean_and_covariance():
    rng = np.random.default_rng(0)
    img = rng.uniform(0, 1, (1, 40, 50, 3)) ** (1, 2, 3)
    target = 0.5 + 0.05 * rng.normal(size=(1, 30, 20, 3)) @ rng.normal(size=(3, 3))  # nothing to clip
    matched = script.match_colors(img, target)
    for ours, wanted in zip(statistics_of(matched), statistics_of(target), strict=True):
        np.testing.assert_allclose(ours, wanted, atol=2e-4)  # what keeps grey pictures from blotches is 1e-4
    np.testing.assert_allclose(script.match_colors(img, img), img, atol=1e-4)
    again = script.match_colors(matched, img)  # and back
    np.testing.assert_allclose(again, img, atol=0.03)


def test_colors_of_several_targets_are_those_of_all_their_pixels():
    rng = np.random.default_rng(4)
    img = rng.uniform(0, 1, (1, 20, 30, 3))
    targets = [rng.uniform(0.3, 0.4, (1, 20, 8, 3)), rng.uniform(0.5, 0.6, (1, 20, 24, 3))]
    together = script.match_colors(img, np.concatenate(targets, 2))
    np.testing.assert_allclose(script.match_colors(img, *targets), together, atol=1e-6)
    np.testing.assert_allclose(together.mean((0, 1, 2)), (8 * 0.35 + 24 * 0.55) / 32, atol=0.01)


@pytest.mark.parametrize("hues", [0.0, 0.001, 0.004])  # a photograph in grey has up to one level of 255 of them
def test_a_grey_picture_gets_no_coloured_blotches(hues):
    rng = np.random.default_rng(5)
    img = rng.uniform(0.2, 0.8, (1, 50, 50, 1)) + hues * rng.normal(size=(1, 50, 50, 3))
    matched = script.match_colors(img, rng.uniform(0, 1, (1, 50, 50, 3)))
    assert np.std(matched - matched.mean(3, keepdims=True)) < 30 * hues + 0.01 and np.std(matched.mean(3)) > 0.1


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
    np.testing.assert_allclose(flat, 0.3, atol=0.03)


def test_preserve_colors_matches_the_style_image_to_the_content_image(tmp_path):
    rng = np.random.default_rng(2)
    for name, low, high in (("c.png", 80, 120), ("s.png", 0, 256)):
        Image.fromarray(np.uint8(rng.integers(low, high, (64, 64, 3)))).save(tmp_path / name)
    paths = tmp_path / "c.png", tmp_path / "s.png"
    content_img, [style_img] = script.load_images(*paths, img_size=64, preserve_colors=True)
    for ours, wanted in zip(statistics_of(style_img), statistics_of(content_img), strict=True):
        np.testing.assert_allclose(ours, wanted, atol=2e-4)
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
    script.save_image(RGB[None] / 255, tmp_path / "ü.png", {"path": "ä.jpg"})
    assert Image.open(tmp_path / "ü.png").text == {"path": "ä.jpg"}


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch, error):
    def fail(*args):
        raise error

    script.save_image(RGB[None] / 255, tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    monkeypatch.setattr(script.os, "replace", fail)
    with pytest.raises(type(error)):
        script.save_image(NOISE[None] / 255, tmp_path / "a.png")
    assert [path.name for path in tmp_path.glob("*.png")] == ["a.png"]
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


def test_start_gets_the_colours_of_the_styles_but_not_where_the_mask_is_black():
    content_img = np.float32(RGB)[None] / 255
    style_imgs = [content_img[..., ::-1] * 0.5, content_img[:, :20] * 0.2]
    mask = np.ones((*content_img.shape[:3], 1), np.float32)
    mask[:, :10] = 0
    start = script.initialize_generated_image(content_img, 0, 3, mask, style_imgs).numpy()
    np.testing.assert_array_equal(start[:, :10], content_img[:, :10])
    np.testing.assert_array_equal(start[:, 10:], script.match_colors(content_img, *style_imgs)[:, 10:])
    noisy = script.initialize_generated_image(content_img, 0.2, 3, None, style_imgs).numpy()
    assert 0.15 < np.abs(noisy - script.match_colors(content_img, *style_imgs)).max() <= 0.2 + 1e-6


def make_files(folder, *names):
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 40), (number, 0, 0)).save(folder / name, "PNG")


def test_style_images_are_a_file_or_a_list_of_files(tmp_path, monkeypatch):
    odd = "[1] &/b.png" if os.name == "nt" else "[1] *?/b.png"  # Windows has no such names
    make_files(tmp_path, "a.png", odd, "~/c.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "~"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "~"))
    _, style_imgs = script.load_images("a.png", ["a.png", "a.png", odd, "~/c.png"], 32)
    assert [round(img[0, 0, 0, 0] * 255) for img in style_imgs] == [0, 0, 1, 2]
    assert len(script.load_images(Path("a.png"), Path("a.png"), 32)[1]) == 1


@pytest.mark.parametrize(("path", "named"), [
    ("empty", "'empty' is no file, seen from the folder"), (["a.png", "empty/"], "'empty/' is no file"),
    ("styles/*.jpg", "'styles/*.jpg' is no file, seen from the folder"),
    (["styles/?.png"], "'styles/?.png' is no file"),
    ("n" * 300, "n' is no file"),
])  # fmt: skip
def test_style_images_that_are_not_there(tmp_path, monkeypatch, path, named):
    make_files(tmp_path, "a.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/Thumbs.db").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError) as caught:
        script.load_images("a.png", path, 32)
    assert named in str(caught.value) and len(str(caught.value).splitlines()) == 1
    assert str(tmp_path) in str(caught.value)


def stable(path):
    """What a library must leave as it is."""
    info = os.fstat(2)
    return info.st_dev, info.st_ino, warnings.filters[:], Image.MAX_IMAGE_PIXELS, os.getcwd(), dict(os.environ)


def test_eight_threads_leave_their_process_as_it_was(tmp_path):
    PICTURES["RGBA"][0].save(tmp_path / "a.png")
    before = stable(tmp_path)
    wide = Image.MAX_IMAGE_PIXELS
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(load, tmp_path / "a.png") for _ in range(200)]
        seen = [stable(tmp_path) for _ in range(200) if not futures[-1].done()]
    assert all(np.array_equal(future.result(), futures[0].result()) for future in futures)
    assert stable(tmp_path) == before and all(s == before for s in seen) and wide == Image.MAX_IMAGE_PIXELS


# ------ Colours ------------------------------------------------------------------------------------------------------

PROFILES = {
    "Display P3": (PRIMARIES["Display P3"], 2.2), "Adobe RGB": (PRIMARIES["Adobe RGB"], 2.2),
    "ProPhoto": (PRIMARIES["ProPhoto"], 1.8), "sRGB, linear": (PRIMARIES["sRGB"], 1.0),
}  # fmt: skip


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize(("suffix", "options"), [
    ("png", {}), ("tif", {}), ("tif", {"compression": "tiff_lzw"}), ("webp", {"lossless": True}), ("jpg", {}),
    pytest.param("avif", {}, marks=pytest.mark.skipif(not features.check("avif"), reason="Pillow lacks AVIF")),
])  # fmt: skip
def test_profile_of_rgb(tmp_path, name, suffix, options):
    rgb = np.uint8(RGB * 0.7 + 40)
    Image.fromarray(rgb).save(tmp_path / f"a.{suffix}", icc_profile=make_profile(*PROFILES[name]), **options)
    expected = convert_by_formula(rgb / 255, *PROFILES[name])
    assert np.abs(expected - rgb / 255).max() > 0.05
    if suffix in ("jpg", "avif"):  # as Pillow decodes it, since a profile makes losses larger
        with Image.open(tmp_path / f"a.{suffix}") as img:
            expected = convert_by_formula(np.asarray(img) / 255, *PROFILES[name])
    np.testing.assert_allclose(load(tmp_path / f"a.{suffix}"), expected, rtol=0, atol=0.012)


@pytest.mark.parametrize("name", PROFILES)
def test_profile_of_styles(tmp_path, name):
    rgb = np.uint8(RGB * 0.7 + 40)
    Image.fromarray(rgb).save(path := tmp_path / "a.png", icc_profile=make_profile(*PROFILES[name]))
    for img in script.load_images(path, [path, path], 64)[1]:
        np.testing.assert_allclose(img[0], convert_by_formula(rgb / 255, *PROFILES[name]), rtol=0, atol=0.012)


def over_white(colours, alpha):
    alpha = alpha[..., None] / 255
    return colours * alpha + 1 - alpha


def test_profile_of_a_palette_of_transparency_and_of_turned_pixels(tmp_path):
    profile = make_profile(*PROFILES["ProPhoto"])
    expected = convert_by_formula(RGB / 255, *PROFILES["ProPhoto"])
    Image.fromarray(np.dstack([RGB, ALPHA])).save(tmp_path / "alpha.png", icc_profile=profile)
    np.testing.assert_allclose(load(tmp_path / "alpha.png"), over_white(expected, ALPHA), rtol=0, atol=0.02)
    for number, options in enumerate(({}, {"transparency": 3}, {"transparency": bytes([255, 255, 255, 0])})):
        colours = convert_by_formula(COLOURS / 255, *PROFILES["ProPhoto"])
        colours[3] = 1 if options else colours[3]
        PALETTE.save(tmp_path / f"{number}.png", icc_profile=profile, **options)
        np.testing.assert_allclose(load(tmp_path / f"{number}.png"), colours[QUADRANT], rtol=0, atol=0.02)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RGB).save(tmp_path / "turned.png", icc_profile=profile, exif=exif)
    np.testing.assert_allclose(load(tmp_path / "turned.png"), np.rot90(expected, -1), rtol=0, atol=0.02)


@pytest.mark.parametrize("gamma", [1.0, 1.8])
def test_profile_of_grey(tmp_path, gamma):
    profile = make_profile(gamma=gamma, space=b"GRAY")
    grey = np.uint8(GREY // 2 + 120)
    Image.fromarray(grey).save(tmp_path / "a.png", icc_profile=profile)
    Image.fromarray(grey).save(tmp_path / "b.jpg", icc_profile=profile, quality=98)
    Image.fromarray(np.dstack([grey, ALPHA])).save(tmp_path / "d.png", icc_profile=profile)
    expected = np.dstack([encode_srgb((grey / 255) ** gamma)] * 3)
    for name in ("a.png", "b.jpg"):
        np.testing.assert_allclose(load(tmp_path / name), expected, rtol=0, atol=0.03 if name == "b.jpg" else 0.01)
    np.testing.assert_allclose(load(tmp_path / "d.png"), over_white(expected, ALPHA), rtol=0, atol=0.01)
    key = int(grey[5, 5])  # one grey is transparent
    Image.fromarray(grey).save(tmp_path / "e.png", icc_profile=profile, transparency=key)
    np.testing.assert_allclose(load(tmp_path / "e.png"), np.where((grey == key)[..., None], 1, expected), atol=0.01)


def get_lab(lightness, a, b):
    """CIE L*a*b* under D50 to sRGB."""
    y = (lightness + 16) / 116
    f = np.stack([y + a / 500, y, y - b / 200], -1)
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * (0.9642, 1, 0.8249)
    return encode_srgb(xyz @ np.linalg.inv(PRIMARIES["sRGB"]).T)


def test_profile_of_cmyk(tmp_path):
    profile = make_profile(space=b"CMYK")
    cmyk = np.dstack([NOISE, GREY])
    for name in ("a.tif", "b.jpg"):
        Image.fromarray(cmyk, "CMYK").save(tmp_path / name, icc_profile=profile, quality=100, subsampling=0)
        expected = get_lab(100 * (1 - GREY / 255), 0, 0)
        np.testing.assert_allclose(load(tmp_path / name), expected, rtol=0, atol=0.02)


def test_lab(tmp_path):
    lightness, a, b = 40 + 50 * X, 30 * (Y - 0.5), 30 * (X - Y)
    samples = np.int64(np.round(np.stack([lightness * 2.55, a, b], -1))) & 255
    (tmp_path / "a.tif").write_bytes(make_tiff(samples, 8, 8))
    np.testing.assert_allclose(load(tmp_path / "a.tif"), get_lab(lightness, a, b), rtol=0, atol=0.02)


UNUSABLE = {
    "empty": b"", "garbage": b"x" * 500, "cut": make_profile(*PROFILES["ProPhoto"])[:200],
    "for grey": make_profile(space=b"GRAY"), "for CMYK": make_profile(space=b"CMYK"),
    "without curves": make_profile(*PROFILES["ProPhoto"]).replace(b"TRC", b"XXX"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNUSABLE)
@pytest.mark.parametrize("suffix", ["png", "tif", "jpg"])
def test_an_unusable_profile_counts_as_none(tmp_path, name, suffix):
    for path, profile in (("with", UNUSABLE[name]), ("without", None)):
        Image.fromarray(RGB).save(tmp_path / f"{path}.{suffix}", icc_profile=profile)
    np.testing.assert_array_equal(load(tmp_path / f"with.{suffix}"), load(tmp_path / f"without.{suffix}"))


def test_a_profile_of_an_odd_type_or_for_another_mode_counts_as_none(tmp_path):
    grey = Image.fromarray(GREY)
    grey.save(tmp_path / "a.png", icc_profile=make_profile(*PROFILES["ProPhoto"]))
    np.testing.assert_allclose(load(tmp_path / "a.png"), np.dstack([GREY / 255] * 3), rtol=0, atol=1e-6)
    for number, odd in enumerate([(3, [1, 2, 3]), (2, b"text\0"), (5, [1, 0])]):
        (tmp_path / f"{number}.tif").write_bytes(make_tiff(RGB, 8, 2, tags={34675: odd}))
        np.testing.assert_array_equal(load(tmp_path / f"{number}.tif"), np.float32(RGB) / 255)


# ------ Depth --------------------------------------------------------------------------------------------------------

SCENES = {"grey": X * Y, "grey and alpha": np.dstack([X * Y, Y]), "RGB": np.stack([X, Y, 1 - X * Y], -1)}
SCENES |= {"RGBA": np.dstack([SCENES["RGB"], (X + Y) / 2]), "CMYK": np.dstack([SCENES["RGB"], (X + Y) / 4])}
TIFFS = [  # scene, photometric interpretation, bits, kind, alpha
    *[("grey", photometric, bits, 1, ()) for photometric in (0, 1) for bits in (1, 2, 4, 8, 12, 16, 32)],
    *[("grey", 1, bits, 2, ()) for bits in (8, 16, 32)], *[("grey", 1, bits, 3, ()) for bits in (16, 32, 64)],
    ("grey", 0, 32, 3, ()), *[("grey and alpha", 1, bits, 1, [2]) for bits in (8, 16)],
    *[("RGB", 2, bits, 1, ()) for bits in (8, 12, 16, 32)], ("RGB", 2, 32, 3, ()), ("RGB", 2, 16, 2, ()),
    *[("RGBA", 2, bits, 1, [kind]) for bits in (8, 16) for kind in (0, 2)],
    *[("CMYK", 5, bits, 1, ()) for bits in (8, 16)],
]  # fmt: skip
RIGHT = [  # must be read, not refused
    tiff for tiff in TIFFS if tiff[3] == 1 and tiff[4] in ((), [2])
    and tiff[:3] in [(*scene, bits) for bits in (8, 16) for scene in (
        ("grey", 1), ("RGB", 2), ("RGBA", 2), ("CMYK", 5)) if (scene[0], bits) != ("grey", 16)]
]  # fmt: skip


@pytest.mark.parametrize("tiff", TIFFS, ids=str)
def test_depth_of_tiff_is_read_right_or_refused(tmp_path, tiff):
    name, photometric, bits, kind, alpha = tiff
    scene, top = SCENES[name], 2**bits - 1
    expected = scene = np.float64(scene > 0.5) if bits == 1 else scene
    if name == "grey":
        expected = np.dstack([scene] * 3)
    elif alpha and alpha[0] == 2:
        expected = over_white(scene[..., :-1] + np.zeros(3), scene[..., -1] * 255)
    elif name == "RGBA":
        expected = scene[..., :3]
    elif name == "CMYK":
        expected = (1 - scene[..., :3]) * (1 - scene[..., 3:])
    stored = 1 - scene if photometric == 0 else scene
    samples = stored if kind == 3 else np.int64(np.round(stored * top)) - (kind == 2) * 2 ** (bits - 1)
    tolerance = 0.502 / top + (2.01 if bits > 8 or alpha else 1.01) / 255
    for order, planes, compress, reverse in itertools.product("<>", *[(False, True)] * 3):
        path = tmp_path / f"{order == '<'}{planes}{compress}{reverse}.tif"
        path.write_bytes(make_tiff(samples, bits, photometric, kind, order, planes, compress, alpha, reverse))
        try:
            img = load(path)
        except OSError as error:
            plain = not planes and not reverse and (order == "<" or bits not in (1, 12) and photometric)
            named = "does not read its kind right" in str(error) or "cannot identify image file" in str(error)
            assert named or planes or reverse, error
            assert not (plain and tiff in RIGHT) and len(str(error).splitlines()) == 1, error
        else:
            np.testing.assert_allclose(img, expected, rtol=0, atol=tolerance, err_msg=path.name)


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("order", "<>")
def test_plain_tiffs_are_read(tmp_path, order, compress):
    (tmp_path / "a.tif").write_bytes(make_tiff(RGB, 8, 2, 1, order, compress=compress))
    np.testing.assert_array_equal(load(tmp_path / "a.tif"), np.float32(RGB) / 255)


def test_planes_of_16_bits_are_refused_by_name(tmp_path):
    (tmp_path / "a.tif").write_bytes(make_tiff(np.int64(RGB) * 257, 16, 2, planes=True))
    with pytest.raises(OSError, match="a.tif cannot be read: Pillow does not read its kind right.* 8 bits per colour"):
        load(tmp_path / "a.tif")


@pytest.mark.parametrize(("bits", "photometric", "kind"), [
    (12, 1, 1), (16, 1, 1), (16, 0, 1), (16, 1, 2), (32, 1, 1), (32, 1, 3)])  # fmt: skip
def test_grey_of_more_than_8_bits_is_refused_by_name(tmp_path, bits, photometric, kind):
    (tmp_path / "a.tif").write_bytes(make_tiff(np.arange(33 * 64).reshape(33, 64), bits, photometric, kind))
    with pytest.raises(OSError, match="a.tif cannot be read: Pillow does not read its kind right.* 8 bits per colour"):
        load(tmp_path / "a.tif")


@pytest.mark.parametrize(("colour_type", "bits"), [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16)])
@pytest.mark.parametrize("transparent", [False, True])
def test_depth_of_png_is_read_right_or_refused(tmp_path, colour_type, bits, transparent):
    samples = np.int64(np.round((2**bits - 1) * (SCENES["RGB"] if colour_type else X * Y)))
    key = samples[40, 40]
    chunks = [(b"tRNS", struct.pack(">3H" if colour_type else ">H", *np.ravel(key)))] if transparent else []
    (tmp_path / "a.png").write_bytes(make_png(samples, bits, colour_type, *chunks))
    expected = samples.reshape(64, 64, -1) / (2**bits - 1)
    if transparent:
        expected = np.where((samples == key).reshape(64, 64, -1).all(-1, keepdims=True), 1, expected)
    try:
        img = load(tmp_path / "a.png")
    except OSError as error:
        assert (colour_type, bits) == (0, 16) or (transparent and bits not in (1, 8))
        assert "does not read its kind right" in str(error)
    else:
        np.testing.assert_allclose(img, np.broadcast_to(expected, img.shape), rtol=0, atol=1.01 / 255)


# ------ EXIF ---------------------------------------------------------------------------------------------------------

ODD = {
    "a negative width": {0x0100: (9, [-5])}, "a width of text": {0x0100: (2, b"wide\0")},
    "a short out of range": {0x0102: (9, [-70_000])},
    "NaN": {0x011A: (12, [np.nan])}, "infinity": {0x011A: (11, [np.inf])},
    "0/0": {0x011A: (5, [0, 0]), 0x0128: (3, [2])}, "1/0": {0x011A: (5, [1, 0])}, "no type": {0x9003: (99, [1, 2])},
    "offset of a directory": {0x8769: (9, [-4])}, "a directory of text": {0x8769: (2, b"nowhere\0")},
    "GPS far away": {0x8825: (4, [2**31])}, "bytes": {0xA000: (7, bytes(range(99)))}, "maker": {0x927C: (7, bytes(50))},
}  # fmt: skip


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("name", ODD)
def test_one_odd_tag_refuses_no_picture(tmp_path, name, order):
    exif = make_exif(6, ODD[name], order)
    Image.fromarray(RGB).save(tmp_path / "a.jpg", exif=exif, quality=95)
    Image.fromarray(RGB).save(tmp_path / "b.webp", exif=exif, lossless=True)
    (tmp_path / "c.png").write_bytes(make_png(RGB, 8, 2, (b"eXIf", exif[6:])))
    tags = {tag: entry for tag, entry in ODD[name].items() if tag > 0x0102 and entry != (9, [-4])}
    (tmp_path / "d.tif").write_bytes(make_tiff(RGB, 8, 2, order=order, tags={0x0112: (3, [6]), **tags}))
    for file in "a.jpg", "b.webp", "c.png", "d.tif":
        np.testing.assert_allclose(load(tmp_path / file), np.rot90(RGB, -1) / 255, rtol=0, atol=0.04)


BROKEN = {"empty": b"", "text": b"this is no EXIF", "cut": make_exif(6)[6:17], "zeros": bytes(40), "no start": b"II*\0"}
BROKEN |= {f"orientation {value}": make_exif(value)[6:] for value in (0, 9, 65535)}
BROKEN |= {f"orientation of type {kind}": b"II*\0\x08\0\0\0" + make_ifd({0x0112: (kind, values)})
           for kind, values in {2: b"6\0", 5: [0, 0], 10: [1, 0], 12: [np.nan], 7: b"\6"}.items()}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_exif_counts_as_none(tmp_path, name):
    (tmp_path / "a.png").write_bytes(make_png(RGB, 8, 2, (b"eXIf", BROKEN[name])))
    np.testing.assert_array_equal(load(tmp_path / "a.png"), np.float32(RGB) / 255)
    Image.fromarray(RGB).save(tmp_path / "b.jpg", exif=b"Exif\0\0" + BROKEN[name], quality=95)
    np.testing.assert_allclose(load(tmp_path / "b.jpg"), RGB / 255, rtol=0, atol=0.04)
    text = b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n  9\nno hex\n")
    (tmp_path / "c.png").write_bytes(make_png(RGB, 8, 2, (b"zTXt", text)))
    np.testing.assert_array_equal(load(tmp_path / "c.png"), np.float32(RGB) / 255)


# ------ Files --------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
@pytest.mark.parametrize("name", ["a.avif", "photo.jpg"])
def test_avif(tmp_path, name):
    Image.fromarray(RGB).save(tmp_path / name, "AVIF", quality=95)
    np.testing.assert_allclose(load(tmp_path / name), RGB / 255, rtol=0, atol=0.06)


@pytest.fixture(scope="module")
def bad_images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    return folder, make_bad_images(folder)


NAMES = ["missing.jpg", "folder", "empty.jpg", "text.jpg", "eps.jpg", "drawing.svg", "page.pdf", "psd.png",
         "heic.jpg", "mif1.jpg", "heix.heic", "raw.dng", "raw.NEF", "raw.tif",
         "video.jpg", "bomb.png", "nan.tif", "float_rgb.tif", "cmyk_alpha.tif", "fifo.jpg", "link.jpg",
         *[f"cut.{suffix}" for suffix in ("png", "jpg", "webp", "tif", "gif", "bmp")]]  # fmt: skip


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", NAMES)
def test_bad_image(bad_images, monkeypatch, name):
    folder, bad = bad_images
    if name not in bad:
        pytest.skip("this system has no such file")
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was started"))
    if hasattr(signal, "SIGALRM"):
        previous = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("load_image() blocks"))
        signal.alarm(20)
    try:
        with pytest.raises(OSError) as caught:
            script.load_image(str(folder / name), 32)
    finally:
        if hasattr(signal, "SIGALRM"):
            signal.alarm(0)
            signal.signal(signal.SIGALRM, previous)
    message = str(caught.value)
    assert len(message.splitlines()) == 1 and str(folder / name) in message and bad[name] in message, message
    assert "Expected a whole picture as JPEG, PNG" in message and "with 8 bits per colour" in message


@pytest.mark.parametrize("kind", [0, 2])
def test_a_whole_page_of_a_tiff_is_no_thumbnail(tmp_path, kind):
    (tmp_path / "a.tif").write_bytes(make_tiff(RGB, 8, 2, tags={254: (4, [kind])}))
    expected = np.float32(Image.fromarray(RGB).resize((40, 40), Image.Resampling.LANCZOS))
    assert np.abs(script.load_image(tmp_path / "a.tif", 40)[0] * 255 - expected).max() < 1e-3


@pytest.mark.parametrize("colours", [2, 16, 256])
def test_a_palette_of_8_bits_in_a_tiff_is_refused_and_one_of_16_is_right(tmp_path, colours):
    """TIFF's palette has 16 bits for each sample. Some programs write 8, and Pillow reads it as black."""
    palette = np.uint8(np.linspace((0, 40, 255), (255, 200, 10), 256))
    img = Image.fromarray(np.uint8(np.add.outer(np.arange(40), np.arange(48)) % colours), "L").copy()
    img.putpalette(palette.tobytes())
    img.save(tmp_path / "a.tif")
    expected = palette[np.asarray(img)][None] / np.float32(255)
    np.testing.assert_array_equal(script.load_image(tmp_path / "a.tif", 48, True), np.float32(expected))
    data, right = (tmp_path / "a.tif").read_bytes(), np.uint16(palette.T) * 256
    assert right.tobytes() in data
    (tmp_path / "a.tif").write_bytes(data.replace(right.tobytes(), np.uint16(palette.T).tobytes()))
    with pytest.raises(OSError, match="a.tif cannot be read: Pillow does not read its kind right"):
        script.load_image(tmp_path / "a.tif", 48, True)


def test_all_bad_images_are_tested(bad_images):
    assert bad_images[1].keys() <= {*NAMES}


@pytest.mark.parametrize("path", ["no/a.png", "a" * 5000 + ".png", "a.png/b.png", "", "./~a.png", "a:/b.png"])
def test_a_path_without_a_file(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    make_files(tmp_path, "a.png")
    with pytest.raises(OSError) as caught:
        script.load_image(path, 32)
    message = str(caught.value)
    assert len(message.splitlines()) == 1 and "\0" not in message and "Errno" not in message
    assert "is no file" in message and str(tmp_path) in message


@pytest.mark.parametrize("path", [
    "a\0.png", "gs://bucket/a.png", "gs:/bucket/a.png", "https://host/a.png", "file:///a.png", "s3://a/b",
    "hdfs:\\host\\a.png", "git+ssh://host/a.png", *(["~nobody_here", "~nobody_here/a.png"] if os.name != "nt" else []),
])  # fmt: skip
def test_what_is_no_path_of_this_computer_makes_no_folder(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    for function in (
        script.load_image, lambda path: script.save_image(IMG, path), lambda path: script.Run(path, [], {}, 1, None),
        lambda path: script.find_weights("download", path),
    ):  # fmt: skip
        with pytest.raises(OSError, match="^Expected the path of .* on this computer.* Received: ") as caught:
            function(path)
        assert repr(str(path)) in str(caught.value) and len(str(caught.value).splitlines()) == 1
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("path", [
    "a", "./~out", "./ab:/out", "a:/b", Path("~out"), Path("ab:/c"), "~", "a b/~c", "C:\\a",
])  # fmt: skip
def test_other_names_are_paths(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    expected = Path.home() if path == "~" else Path(path)
    assert script.expand(path) == script.expand(script.expand(path)) == expected


def test_without_a_home_folder_a_tilde_is_a_name(monkeypatch):
    monkeypatch.setattr(os.path, "expanduser", lambda path: os.fspath(path))
    assert script.expand("~/.keras/models") == Path("~/.keras/models")


def test_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    script.save_image(RGB[None] / 255, "~/new/a.png")
    np.testing.assert_array_equal(script.load_image(Path("~/new/a.png"), 64)[0], np.float32(RGB) / 255)


# ------ Mask ---------------------------------------------------------------------------------------------------------


def save_mask(folder, grey):
    Image.fromarray(np.uint8(grey)).save(folder / "mask.png")
    return folder / "mask.png"


@pytest.mark.parametrize("size", [(64, 64), (48, 64), (47, 64), (300, 400), (32, 500)])
def test_mask_is_the_brightness_of_a_picture_stretched_to_the_contents_size(tmp_path, size):
    grey = np.zeros((96, 128))
    grey[:, 64:] = 255
    height, width = size
    mask = script.load_mask(save_mask(tmp_path, grey), np.zeros((1, height, width, 3)))
    assert mask.dtype == np.float32 and mask.shape == (1, height, width, 1)
    edge = 1 + width // 64  # pixels
    assert (mask[:, :, : width // 2 - edge] == 0).all() and (mask[:, :, width // 2 + edge :] == 1).all()
    assert script.load_mask(None, np.zeros((1, height, width, 3))) is None


def test_colours_count_by_their_brightness_and_a_turned_mask_is_turned(tmp_path):
    half = Image.fromarray(np.repeat(np.uint8([[[0, 255, 0]], [[0, 0, 0]]]), 40, 1)).resize((40, 80), 0)
    half.save(tmp_path / "mask.tif", exif=make_exif(6)[6:])
    mask = script.load_mask(tmp_path / "mask.tif", np.zeros((1, 40, 80, 3)))
    np.testing.assert_allclose(mask[:, :, 45:], 0.587, atol=0.003)
    assert (mask[:, :, :35] == 0).all()


@pytest.mark.parametrize("level", [1, 51, 128, 254, 255])
def test_grey_is_its_level(tmp_path, level):
    mask = script.load_mask(save_mask(tmp_path, np.full((70, 70), level)), np.zeros((1, 64, 64, 3)))
    np.testing.assert_array_equal(mask, np.full((1, 64, 64, 1), np.float32(level) / 255))


def test_a_black_mask_and_one_that_is_not_there_are_refused(tmp_path):
    with pytest.raises(ValueError, match="^MASK_PATH .*mask.png, all black$"):
        script.load_mask(save_mask(tmp_path, np.zeros((40, 80))), np.zeros((1, 32, 64, 3)))
    with pytest.raises(OSError, match="gone.png"):
        script.load_mask(tmp_path / "gone.png", np.zeros((1, 32, 64, 3)))


def test_bounds_and_start_keep_black_pixels_free_white_ones_and_hold_grey_ones_near(monkeypatch):
    content_img = np.random.default_rng(0).random((1, 32, 32, 3), np.float32)
    mask = np.zeros((1, 32, 32, 1), np.float32)
    mask[:, 10:20], mask[:, 20:] = 0.125, 1
    low, high = script.get_bounds(content_img, mask)
    start = script.initialize_generated_image(content_img, 0.2, 1, mask).numpy()
    np.testing.assert_array_equal(start[:, :10], content_img[:, :10])
    np.testing.assert_array_equal(low[:, :10], high[:, :10])
    assert (low[:, 20:] == 0).all() and (high[:, 20:] == 1).all()
    near = np.abs(start - content_img)[:, 10:20]
    assert 0.12 < near.max() <= 0.125 + 1e-6
    np.testing.assert_array_equal(
        start[:, 20:], script.initialize_generated_image(content_img, 0.2, 1).numpy()[:, 20:]
    )
    assert script.get_bounds(content_img, None) == (0, 1)


# ------ Arrays -------------------------------------------------------------------------------------------------------

IMG = np.float32(RGB)[None] / 255
ODD_ARRAYS = {
    "0 to 255": (IMG * 255, "/ 255"), "uint8": (RGB[None], "/ 255"), "int": (IMG.astype(int), "/ 255"),
    "bool": (IMG > 0.5, "/ 255"), "below 0": (IMG - 0.1, "in [0, 1]"), "NaN": (IMG * np.nan, "in [0, 1]"),
    "infinite": (np.where(IMG > 0.5, np.inf, IMG), "in [0, 1]"), "no batch axis": (IMG[0], "[None]"),
    "grey": (IMG[..., 0], "[None]"), "two": (np.concatenate([IMG, IMG]), "(1, H, W, 3)"),
    "RGBA": (np.ones((1, 40, 40, 4), np.float32), "(1, H, W, 3)"), "small": (IMG[:, :31], "32 or more"),
    "channels first": (IMG.transpose(0, 3, 1, 2), "(1, H, W, 3)"), "empty": (IMG[:, :0], "32 or more"),
    "a list": ([IMG], "(1, 1, 64, 64, 3)"), "a path": ("a.jpg", "<U5"), "None": (None, "object"),
    "a tensor of 0 to 255": (tf.constant(RGB[None]), "/ 255"), "a Pillow image": (Image.fromarray(RGB), "uint8"),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD_ARRAYS)
def test_check_image_says_what_to_do(name):
    img, named = ODD_ARRAYS[name]
    for function in (script.check_image, lambda name, img: script.initialize_generated_image(img)):
        with pytest.raises(ValueError) as caught:
            function("content_img", img)
        message = str(caught.value)
        assert message.startswith("content_img must be") and named in message and len(message.splitlines()) == 1


@pytest.mark.parametrize("make", [np.asarray, np.float64, np.float16, tf.constant, tf.Variable, lambda x: x[:, :32]])
def test_check_image_passes_pictures(make):
    assert script.check_image("content_img", make(IMG)) is None


MASK = IMG[..., :1]
ODD_MASKS = {
    "0 to 255": MASK * 255, "uint8": np.uint8(MASK), "bool": MASK > 0.5, "NaN": MASK * np.nan, "RGB": IMG,
    "no batch axis": MASK[0], "no channel axis": MASK[..., 0], "H and W alone": MASK[0, ..., 0],
    "another size": MASK[:, :40], "turned": MASK[:, :, :40].transpose(0, 2, 1, 3), "a path": "mask.png",
}  # fmt: skip


@pytest.mark.parametrize("name", ODD_MASKS)
def test_a_mask_that_is_none_is_refused_with_one_line(name):
    with pytest.raises(ValueError, match=r"^mask must be .* \(1, H, W, 1\) with H and W of \(64, 64\).*$"):
        script.get_bounds(IMG, ODD_MASKS[name])


# ------ Writing ------------------------------------------------------------------------------------------------------


def fail_first(monkeypatch, name, times, error):
    """Let the first calls of a function of os fail; returns a list that grows with each call."""
    real, calls = getattr(os, name), []

    def function(*args):
        calls.append(args)
        if len(calls) <= times:
            raise error
        return real(*args)

    monkeypatch.setattr(script.os, name, function)
    return calls


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_a_folder_without_fsync_is_written_to(tmp_path, monkeypatch, number):
    fail_first(monkeypatch, "fsync", 99, OSError(number, os.strerror(number)))
    script.save_image(IMG, tmp_path / "a.png")
    np.testing.assert_array_equal(load(tmp_path / "a.png"), IMG[0])
    assert os.listdir(tmp_path) == ["a.png"]


@pytest.mark.parametrize("times", [1, 3, 19])
def test_a_file_held_for_a_moment_is_renamed_again(tmp_path, monkeypatch, times):
    calls = fail_first(monkeypatch, "replace", times, PermissionError(13, "Access is denied"))
    script.save_image(IMG, tmp_path / "a.png")
    assert os.listdir(tmp_path) == ["a.png"] and len(calls) == times + 1


def test_a_file_held_for_good_is_told_after_a_second(tmp_path, monkeypatch):
    fail_first(monkeypatch, "replace", 99, PermissionError(13, "Access is denied"))
    start = time.perf_counter()
    with pytest.raises(OSError, match="a.png cannot be written: Access is denied"):
        script.save_image(IMG, tmp_path / "a.png")
    assert 0.9 < time.perf_counter() - start < 5 and not list(tmp_path.glob("*.png"))


def test_other_faults_of_a_rename_are_told_at_once(tmp_path, monkeypatch):
    calls = fail_first(monkeypatch, "replace", 99, OSError(errno.EXDEV, "Invalid cross-device link"))
    with pytest.raises(OSError, match="cross-device"):
        script.save_image(IMG, tmp_path / "a.png")
    assert len(calls) == 1


def test_a_file_that_is_being_written_is_no_image(tmp_path):
    for content in (b"old", b"new"):
        with script.open_to_write(tmp_path / "image_00001.png") as file:
            file.write(content)
            assert [path.read_bytes() for path in tmp_path.glob("image_*.png")] == [b"old"] * (content == b"new")
    assert os.listdir(tmp_path) == ["image_00001.png"] and (tmp_path / "image_00001.png").read_bytes() == b"new"


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    (tmp_path / ".a.png.tmp").symlink_to("/dev/full")
    with pytest.raises(OSError, match="a.png cannot be written: No space left"):
        script.save_image(NOISE[None] / 255, tmp_path / "a.png")
