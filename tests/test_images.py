"""Images: what load_image() reads, where a run starts, what save_image() writes."""

import concurrent.futures
import errno
import itertools
import json
import os
import signal
import struct
import zlib
from pathlib import Path
from unittest import mock

import make_images as make
import numpy as np
import pytest
import tensorflow as tf
from conftest import get_process_state, make_files
from PIL import Image, features

import script

X, Y = np.meshgrid(np.linspace(0, 1, 64), np.linspace(0, 1, 64))
RGB = np.uint8(np.round(255 * np.stack([X, Y, 1 - X * Y], -1)))  # smooth, so that JPEG keeps it
IMG = np.float32(RGB)[None] / 255
NOISE = np.random.default_rng(0).integers(0, 256, RGB.shape, np.uint8)
GREY, ALPHA = RGB[..., 2], np.uint8(np.round(255 * (X + Y) / 2))
QUADRANT = np.uint8((Y > 0.5) * 2 + (X > 0.5))  # 0 to 3
COLOURS = np.uint8([(255, 0, 0), (0, 200, 0), (0, 0, 255), (90, 80, 70)])
PALETTE = Image.fromarray(QUADRANT)
PALETTE.putpalette(COLOURS.tobytes())
ROUND = 0.501 / 255  # more than 8 bits come rounded


def load(path: Path, img_size: int = 64) -> np.ndarray:
    """load_image(), held to what it promises of every picture."""
    img = script.load_image(str(path), img_size)
    assert img.dtype == np.float32 and img.shape == (1, img_size, img_size, 3)
    assert img.min() >= 0 and img.max() <= 1
    return img[0]


def check_pixels(path, expected, tolerance=ROUND):
    """Compare what is loaded with colours or, for an array of two axes, with greys in [0, 1]."""
    expected = np.dstack([expected] * 3) if expected.ndim == 2 else expected
    np.testing.assert_allclose(load(path), expected, rtol=0, atol=tolerance)


def over_white(colours, alpha):
    alpha = alpha[..., None] / 255
    return colours * alpha + 1 - alpha


# ------ Images -------------------------------------------------------------------------------------------------------

TRANSPARENT = np.where(QUADRANT[..., None] == 3, 1, COLOURS[QUADRANT] / 255)
RGBA = Image.fromarray(np.dstack([RGB, ALPHA])), over_white(RGB / 255, ALPHA)
KINDS = {  # format: a picture as Pillow has it, how it is seen, options, tolerance
    "PNG, black and white": (Image.fromarray(GREY > 127), np.float64(GREY > 127), {}, ROUND),
    "PNG, grey": (Image.fromarray(GREY), GREY / 255, {}, ROUND),
    "PNG, grey with alpha": (
        Image.fromarray(np.dstack([GREY, ALPHA])), over_white(np.dstack([GREY] * 3) / 255, ALPHA), {}, 2 * ROUND),
    "PNG, palette": (PALETTE, COLOURS[QUADRANT] / 255, {}, ROUND),
    "PNG, palette with a transparent colour": (PALETTE, TRANSPARENT, {"transparency": 3}, ROUND),
    "PNG, colour": (Image.fromarray(RGB), RGB / 255, {}, ROUND),
    "PNG, colour with alpha": (*RGBA, {}, 2 * ROUND),
    "JPEG, grey": (Image.fromarray(GREY), GREY / 255, {"quality": 95}, 0.04),
    "JPEG, colour": (Image.fromarray(RGB), RGB / 255, {"quality": 95}, 0.04),
    "JPEG, CMYK": (Image.fromarray(RGB).convert("CMYK"), RGB / 255, {"quality": 95}, 0.04),
    "WEBP, with alpha": (*RGBA, {"lossless": True, "exact": True}, 2 * ROUND),
    "BMP, colour": (Image.fromarray(RGB), RGB / 255, {}, ROUND),
    "GIF, with a transparent colour": (PALETTE, TRANSPARENT, {"transparency": 3}, ROUND),
    "TIFF, compressed": (Image.fromarray(RGB), RGB / 255, {"compression": "tiff_lzw"}, ROUND),
    "AVIF, colour": (Image.fromarray(RGB), RGB / 255, {"quality": 95}, 0.06),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_is_read_whatever_its_name(tmp_path, kind):
    picture, expected, options, tolerance = KINDS[kind]
    file_format = kind.split(",")[0]
    if file_format == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    picture.save(tmp_path / "photo.jpg", file_format, **options)
    check_pixels(tmp_path / "photo.jpg", expected, tolerance)


@pytest.mark.parametrize("file_format", ["GIF", "TIFF", "MPO"])  # MPO is a camera's JPEG with two pictures
def test_first_of_many_frames(tmp_path, file_format):
    first, second = (Image.fromarray(np.full((64, 64, 3), colour)) for colour in COLOURS[:2])
    first.save(tmp_path / "a", file_format, save_all=True, append_images=[second])
    check_pixels(tmp_path / "a", np.tile(COLOURS[0] / 255, (64, 64, 1)), 0.01)


@pytest.mark.parametrize("shape", [
    pytest.param((300, 200), id="wide"), pytest.param((200, 301), id="high"), pytest.param((2000, 3), id="too thin"),
])  # fmt: skip
def test_aspect_ratio_is_kept_within_a_pixel_and_no_side_is_below_32(tmp_path, shape):
    Image.new("RGB", shape).save(tmp_path / "a.png")
    _, height, width, _ = script.load_image(tmp_path / "a.png", 128, keep_aspect_ratio=True).shape
    assert max(width, height) == 128
    for side, wanted in ((width, 128 * shape[0] / max(shape)), (height, 128 * shape[1] / max(shape))):
        assert abs(side - max(32, wanted)) <= 0.5


@pytest.mark.parametrize(("img_size", "is_soft"), [
    pytest.param(50, False, id="half its file"), pytest.param(51, True, id="more than half"),
    pytest.param(200, True, id="larger than its file"),
])  # fmt: skip
def test_a_soft_picture_lacks_the_finest_octave_where_it_is_larger_than_half_its_file(tmp_path, img_size, is_soft):
    rows, columns = np.mgrid[0:100, 0:60]
    checkered = np.uint8((rows + columns) % 2 * 200 + rows // 2)
    Image.fromarray(checkered).save(tmp_path / "a.png")
    plain = script.load_image(tmp_path / "a.png", img_size)
    soft = script.load_image(tmp_path / "a.png", img_size, soft=True)
    assert np.array_equal(soft, plain) != is_soft
    if is_soft:
        flat = np.broadcast_to(np.linspace(0, 49, img_size)[:, None, None] + 100, (img_size, img_size, 3)) / 255
        np.testing.assert_allclose(soft[0], flat, atol=0.02)


def test_load_images_reads_the_content_and_each_style_as_load_image_does(tmp_path):
    paths = [tmp_path / f"{name}.png" for name in "abc"]
    for path, pixels in zip(paths, (NOISE // 4 + 80, RGB, GREY), strict=True):
        Image.fromarray(pixels[:50]).save(path)
    content_img, *style_imgs = (script.load_image(path, 64) for path in paths)
    content, styles = script.load_images(paths[0], paths[1:], 64)
    np.testing.assert_array_equal([content, *styles], [content_img, *style_imgs])
    content, styles = script.load_images(paths[0], paths[1:], 64, preserve_colors=True)
    np.testing.assert_array_equal(content, content_img)
    np.testing.assert_array_equal(styles, [script.match_colors(img, content_img) for img in style_imgs])
    content, [style] = script.load_images(*paths[:2], 60, keep_aspect_ratio=True, soft_styles=True)
    np.testing.assert_array_equal(content, script.load_image(paths[0], 60, True))
    np.testing.assert_array_equal(style, script.load_image(paths[1], 60, True, soft=True))


def test_style_scale_is_of_the_style_image_alone(tmp_path):
    Image.new("RGB", (90, 60)).save(tmp_path / "a.png")
    paths = [tmp_path / "a.png"] * 2
    for img_size, style_scale, style_size in ((80, 1.5, 120), (80, 0.1, 32)):
        content_img, [style_img] = script.load_images(*paths, img_size, style_scale=style_scale)
        assert content_img.shape == (1, 80, 80, 3) and style_img.shape == (1, style_size, style_size, 3)
    content_img, [style_img] = script.load_images(*paths, 90, keep_aspect_ratio=True, style_scale=2)
    assert content_img.shape == (1, 60, 90, 3) and style_img.shape == (1, 120, 180, 3)


def test_eight_threads_read_alike_and_leave_their_process_as_it_was(tmp_path):
    RGBA[0].save(tmp_path / "a.png")
    before = get_process_state()
    expected = load(tmp_path / "a.png")
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda path: (load(path), get_process_state()), [tmp_path / "a.png"] * 200))
    for img, state in [*results, (expected, get_process_state())]:
        np.testing.assert_array_equal(img, expected)
        assert state == before


# ------ Colours ------------------------------------------------------------------------------------------------------

DIM = np.uint8(RGB * 0.7 + 40)  # inside of every profile's colours
PROPHOTO = make.PROFILES["ProPhoto"]


@pytest.mark.parametrize(("file_format", "name"), [
    *[("PNG", name) for name in make.PROFILES], *[(name, "ProPhoto") for name in ("TIFF", "WEBP", "JPEG", "AVIF")],
])  # fmt: skip
def test_profile_of_rgb(tmp_path, file_format, name):
    if file_format == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    profile = make.make_profile(*make.PROFILES[name])
    Image.fromarray(DIM).save(tmp_path / "a", file_format, icc_profile=profile, lossless=True)
    assert np.abs(make.convert_by_formula(DIM / 255, *make.PROFILES[name]) - DIM / 255).max() > 0.05
    with Image.open(tmp_path / "a") as img:  # as Pillow decodes it, since a profile makes losses larger
        check_pixels(tmp_path / "a", make.convert_by_formula(np.asarray(img) / 255, *make.PROFILES[name]), 0.012)


def test_profile_of_transparent_and_of_turned_pixels(tmp_path):
    profile, expected = make.make_profile(*PROPHOTO), make.convert_by_formula(RGB / 255, *PROPHOTO)
    RGBA[0].save(tmp_path / "alpha.png", icc_profile=profile)
    check_pixels(tmp_path / "alpha.png", over_white(expected, ALPHA), 0.02)
    Image.fromarray(RGB).save(tmp_path / "turned.png", icc_profile=profile, exif=make.make_exif(6))
    check_pixels(tmp_path / "turned.png", np.rot90(expected, -1), 0.02)


@pytest.mark.parametrize("transparency", [None, 3, bytes([255, 255, 255, 0])], ids=["opaque", "a colour", "alphas"])
def test_profile_of_a_palette(tmp_path, transparency):
    colours = make.convert_by_formula(COLOURS / 255, *PROPHOTO)
    if transparency is not None:
        colours[3] = 1
    PALETTE.save(tmp_path / "a.png", icc_profile=make.make_profile(*PROPHOTO), transparency=transparency)
    check_pixels(tmp_path / "a.png", colours[QUADRANT], 0.02)


def test_profile_of_grey(tmp_path):
    profile = make.make_profile(gamma=1.8, space=b"GRAY")
    grey = np.uint8(GREY // 2 + 120)
    expected = np.dstack([make.encode_srgb((grey / 255) ** 1.8)] * 3)
    Image.fromarray(grey).save(tmp_path / "a.jpg", icc_profile=profile, quality=98)
    check_pixels(tmp_path / "a.jpg", expected, 0.03)
    Image.fromarray(np.dstack([grey, ALPHA])).save(tmp_path / "alpha.png", icc_profile=profile)
    check_pixels(tmp_path / "alpha.png", over_white(expected, ALPHA), 0.01)
    key = int(grey[5, 5])  # one grey is transparent
    Image.fromarray(grey).save(tmp_path / "key.png", icc_profile=profile, transparency=key)
    check_pixels(tmp_path / "key.png", np.where((grey == key)[..., None], 1, expected), 0.01)


def get_lab(lightness, a, b):
    """CIE L*a*b* under D50 to sRGB."""
    y = (lightness + 16) / 116
    f = np.stack([y + a / 500, y, y - b / 200], -1)
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * (0.9642, 1, 0.8249)
    return make.encode_srgb(xyz @ np.linalg.inv(make.PRIMARIES["sRGB"]).T)


def test_profile_of_cmyk(tmp_path):
    cmyk = Image.fromarray(np.dstack([NOISE, GREY]), "CMYK")
    cmyk.save(tmp_path / "a.jpg", icc_profile=make.make_profile(space=b"CMYK"), quality=100, subsampling=0)
    check_pixels(tmp_path / "a.jpg", get_lab(100 * (1 - GREY / 255), 0, 0), 0.02)


def test_lab(tmp_path):
    lightness, a, b = 40 + 50 * X, 30 * (Y - 0.5), 30 * (X - Y)
    samples = np.int64(np.round(np.stack([lightness * 2.55, a, b], -1))) & 255
    (tmp_path / "a.tif").write_bytes(make.make_tiff(samples, 8, 8))
    check_pixels(tmp_path / "a.tif", get_lab(lightness, a, b), 0.02)


@pytest.mark.parametrize("name", make.UNUSABLE_PROFILES)
def test_an_unusable_profile_counts_as_none(tmp_path, name):
    Image.fromarray(RGB).save(tmp_path / "a.png", icc_profile=make.UNUSABLE_PROFILES[name])
    check_pixels(tmp_path / "a.png", RGB / 255)


def test_a_profile_of_an_odd_type_or_for_another_mode_counts_as_none(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "a.png", icc_profile=make.make_profile(*PROPHOTO))
    check_pixels(tmp_path / "a.png", GREY / 255)
    for odd in [(3, [1, 2, 3]), (2, b"text\0"), (5, [1, 0])]:
        (tmp_path / "a.tif").write_bytes(make.make_tiff(RGB, 8, 2, tags={34675: odd}))
        check_pixels(tmp_path / "a.tif", RGB / 255)


def get_statistics(img):
    pixels = np.float64(img).reshape(-1, 3)
    return pixels.mean(0), np.cov(pixels.T)


def test_matched_colors_have_the_mean_and_covariance_of_all_the_targets_pixels():
    rng = np.random.default_rng(0)
    img = rng.uniform(0, 1, (1, 40, 50, 3)) ** (1, 2, 3)
    target = 0.5 + 0.05 * rng.normal(size=(1, 30, 20, 3)) @ rng.normal(size=(3, 3))  # nothing to clip
    matched = script.match_colors(img, target[:, :, :5], target[:, :, 5:])
    for ours, wanted in zip(get_statistics(matched), get_statistics(target), strict=True):
        np.testing.assert_allclose(ours, wanted, atol=2e-4)  # what keeps grey pictures from blotches is 1e-4
    np.testing.assert_allclose(script.match_colors(img, img), img, atol=1e-4)
    np.testing.assert_allclose(script.match_colors(matched, img), img, atol=0.03)  # and back


@pytest.mark.parametrize("hues", [0.0, 0.004])  # a photograph in grey has up to one level of 255 of them
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


# ------ Depth --------------------------------------------------------------------------------------------------------

SCENES = {"grey": X * Y, "grey and alpha": np.dstack([X * Y, Y]), "RGB": np.stack([X, Y, 1 - X * Y], -1)}
SCENES |= {"RGBA": np.dstack([SCENES["RGB"], (X + Y) / 2]), "CMYK": np.dstack([SCENES["RGB"], (X + Y) / 4])}
TIFFS = {  # scene, photometric interpretation, bits, kind, alpha; whether it must be read, not refused
    "grey of 8 bits": ("grey", 1, 8, 1, (), True),
    "RGB of 8 bits": ("RGB", 2, 8, 1, (), True),
    "RGB of 16 bits": ("RGB", 2, 16, 1, (), True),
    "RGBA of 8 bits": ("RGBA", 2, 8, 1, [2], True),
    "RGBA of 16 bits": ("RGBA", 2, 16, 1, [2], True),
    "CMYK of 8 bits": ("CMYK", 5, 8, 1, (), True),
    "CMYK of 16 bits": ("CMYK", 5, 16, 1, (), True),
    "grey of 1 bit": ("grey", 1, 1, 1, (), False),
    "grey of 8 bits, 0 is white": ("grey", 0, 8, 1, (), False),
    "grey of 12 bits": ("grey", 1, 12, 1, (), False),
    "grey of 16 bits": ("grey", 1, 16, 1, (), False),
    "grey of 32 bits": ("grey", 1, 32, 1, (), False),
    "grey of 16 bits, 0 is white": ("grey", 0, 16, 1, (), False),
    "signed grey of 8 bits": ("grey", 1, 8, 2, (), False),
    "signed RGB": ("RGB", 2, 16, 2, (), False),
    "float grey": ("grey", 1, 32, 3, (), False),
    "float RGB": ("RGB", 2, 32, 3, (), False),
    "grey with alpha": ("grey and alpha", 1, 8, 1, [2], False),
    "RGB with a fourth sample that is no alpha": ("RGBA", 2, 8, 1, [0], False),
}


@pytest.mark.parametrize("name", TIFFS)
def test_depth_of_tiff_is_read_right_or_refused(tmp_path, name):
    """In either byte order, in planes, compressed, and with the bits of each byte reversed."""
    scene, photometric, bits, kind, alpha, must_be_read = TIFFS[name]
    samples, top = SCENES[scene], 2**bits - 1
    expected = samples = np.float64(samples > 0.5) if bits == 1 else samples
    if scene == "grey":
        expected = np.dstack([samples] * 3)
    elif alpha == [2]:
        expected = over_white(samples[..., :-1] + np.zeros(3), samples[..., -1] * 255)
    elif scene == "RGBA":
        expected = samples[..., :3]
    elif scene == "CMYK":
        expected = (1 - samples[..., :3]) * (1 - samples[..., 3:])
    stored = 1 - samples if photometric == 0 else samples
    if kind != 3:
        stored = np.int64(np.round(stored * top)) - (kind == 2) * 2 ** (bits - 1)
    tolerance = 0.502 / top + (2.01 if bits > 8 or alpha else 1.01) / 255
    for order, planes, compress, reverse in itertools.product("<>", *[(False, True)] * 3):
        path = tmp_path / f"{order == '<'}{planes}{compress}{reverse}.tif"
        path.write_bytes(make.make_tiff(stored, bits, photometric, kind, order, planes, compress, alpha, reverse))
        try:
            img = load(path)
        except OSError as error:
            assert planes or reverse or not must_be_read, error
            assert len(str(error).splitlines()) == 1
        else:
            np.testing.assert_allclose(img, expected, rtol=0, atol=tolerance, err_msg=path.name)


def test_a_palette_of_8_bits_in_a_tiff_is_refused_and_one_of_16_is_right(tmp_path):
    """TIFF's palette has 16 bits for each sample. Some programs write 8, and Pillow reads it as black."""
    palette = np.uint8(np.linspace((0, 40, 255), (255, 200, 10), 256))
    img = Image.fromarray(np.uint8(np.add.outer(np.arange(64), np.arange(64))))
    img.putpalette(palette.tobytes())
    img.save(tmp_path / "a.tif")
    check_pixels(tmp_path / "a.tif", palette[np.asarray(img)] / 255)
    data, right = (tmp_path / "a.tif").read_bytes(), np.uint16(palette.T) * 256
    assert right.tobytes() in data
    (tmp_path / "a.tif").write_bytes(data.replace(right.tobytes(), np.uint16(palette.T).tobytes()))
    with pytest.raises(OSError, match="a.tif cannot be read: Pillow does not read a palette of 8 bits right"):
        load(tmp_path / "a.tif")


@pytest.mark.parametrize(("scene", "bits"), [
    ("grey", 1), ("grey", 4), ("grey", 8), ("grey", 16), ("RGB", 8), ("RGB", 16),
])  # fmt: skip
def test_depth_of_png_is_read_right_or_refused(tmp_path, scene, bits):
    """Grey of 16 bits, and a transparent colour of other than 1 or 8 bits, may be refused."""
    samples = np.int64(np.round((2**bits - 1) * np.atleast_3d(SCENES[scene])))
    key, colour_type = samples[40, 40], {"grey": 0, "RGB": 2}[scene]
    opaque = samples / (2**bits - 1) + np.zeros(3)
    transparent = np.where((samples == key).all(-1, keepdims=True), 1, opaque)
    for chunks, expected in (([], opaque), ([(b"tRNS", struct.pack(f">{len(key)}H", *key))], transparent)):
        (tmp_path / "a.png").write_bytes(make.make_png(samples, bits, colour_type, *chunks))
        try:
            img = load(tmp_path / "a.png")
        except OSError as error:
            assert (scene, bits) == ("grey", 16) or chunks and bits not in (1, 8)
            assert "Pillow does not read" in str(error)
        else:
            np.testing.assert_allclose(img, expected, rtol=0, atol=1.01 / 255)


# ------ EXIF ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("file_format", "orientation"), [
    *[("JPEG", orientation) for orientation in make.TURNED], ("PNG", 6), ("TIFF", 6), ("WEBP", 6),
])  # fmt: skip
def test_exif_orientation(tmp_path, file_format, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(RGB).save(tmp_path / "a", file_format, exif=exif, lossless=True, quality=95)
    check_pixels(tmp_path / "a", make.TURNED[orientation](RGB / 255), 0.04)


@pytest.mark.parametrize("name", make.ODD_TAGS)
def test_one_odd_tag_refuses_no_picture(tmp_path, name):
    for order in "<>":
        exif = make.make_exif(6, make.ODD_TAGS[name], order)
        Image.fromarray(RGB).save(tmp_path / "a.jpg", exif=exif, quality=95)
        (tmp_path / "a.png").write_bytes(make.make_png(RGB, 8, 2, (b"eXIf", exif[6:])))
        for file in ("a.jpg", "a.png"):
            check_pixels(tmp_path / file, np.rot90(RGB, -1) / 255, 0.04)


@pytest.mark.parametrize("name", ["NaN", "0/0", "GPS far away"])
def test_one_odd_tag_refuses_no_tiff(tmp_path, name):
    (tmp_path / "a.tif").write_bytes(make.make_tiff(RGB, 8, 2, tags={0x0112: (3, [6]), **make.ODD_TAGS[name]}))
    check_pixels(tmp_path / "a.tif", np.rot90(RGB, -1) / 255)


BROKEN = {"a text": b"this is no EXIF", "cut": make.make_exif(6)[6:17], "without a directory": b"II*\0"}
BROKEN |= {f"orientation {value}": make.make_exif(value)[6:] for value in (0, 9)}
BROKEN |= {
    f"orientation as {name}": b"II*\0\x08\0\0\0" + make.make_ifd({0x0112: (kind, values)})
    for name, kind, values in (("a text", 2, b"6\0"), ("0/0", 5, [0, 0]), ("bytes", 7, b"\6"))
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_exif_counts_as_none(tmp_path, name):
    for chunks in ([], [(b"sRGB", b"\0")]):  # where the colours are told, EXIF is read for the orientation alone
        (tmp_path / "a.png").write_bytes(make.make_png(RGB, 8, 2, *chunks, (b"eXIf", BROKEN[name])))
        check_pixels(tmp_path / "a.png", RGB / 255)
    Image.fromarray(RGB).save(tmp_path / "b.jpg", exif=b"Exif\0\0" + BROKEN[name], quality=95)
    check_pixels(tmp_path / "b.jpg", RGB / 255, 0.04)


def test_broken_exif_in_the_text_of_a_png_counts_as_none(tmp_path):
    text = b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n  9\nno hex\n")
    (tmp_path / "c.png").write_bytes(make.make_png(RGB, 8, 2, (b"zTXt", text)))
    check_pixels(tmp_path / "c.png", RGB / 255)


# ------ Files --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bad_images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    make.make_bad_images(folder)
    return folder


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", make.BAD_IMAGES)
def test_a_bad_image_is_refused_in_one_line_that_names_it(bad_images, monkeypatch, name):
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was started"))
    if hasattr(signal, "SIGALRM"):
        previous = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("load_image() blocks"))
        signal.alarm(20)
    try:
        with pytest.raises(OSError) as caught:
            script.load_image(str(bad_images / name), 32)
    finally:
        if hasattr(signal, "SIGALRM"):
            signal.alarm(0)
            signal.signal(signal.SIGALRM, previous)
    message = str(caught.value)
    assert len(message.splitlines()) == 1 and str(bad_images / name) in message and make.BAD_IMAGES[name] in message
    assert "Expected a whole picture as JPEG, PNG" in message and "with 8 bits per colour" in message


def test_a_whole_page_of_a_tiff_is_no_thumbnail(tmp_path):
    for kind in (0, 2):
        (tmp_path / "a.tif").write_bytes(make.make_tiff(RGB, 8, 2, tags={254: (4, [kind])}))
        check_pixels(tmp_path / "a.tif", RGB / 255)


def test_style_images_are_a_file_or_a_list_of_files(tmp_path, monkeypatch):
    odd = "[1] &/b.png" if os.name == "nt" else "[1] *?/b.png"  # Windows has no such names
    make_files(tmp_path, "a.png", odd, "~/c.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "~"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "~"))
    _, style_imgs = script.load_images("a.png", ["a.png", "a.png", odd, "~/c.png"], 32)
    assert [round(img[0, 0, 0, 0] * 255) for img in style_imgs] == [0, 0, 1, 2]
    for kind in (str, Path):
        assert len(script.load_images(kind("a.png"), kind("a.png"), 32)[1]) == 1


@pytest.mark.parametrize("path", [
    pytest.param("a" * 5000 + ".png", id="too long"), pytest.param("styles/*.png", id="a pattern"),
])  # fmt: skip
def test_a_path_without_a_file_is_named_with_the_folder_it_is_seen_from(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    make_files(tmp_path, "a.png", "styles/b.png")
    with pytest.raises(OSError) as caught:
        script.load_image(path, 32)
    message = str(caught.value)
    assert message.startswith(f"{path!r} is no file, seen from the folder {tmp_path}. Expected a whole picture")
    assert len(message.splitlines()) == 1


def test_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert script.expand("~") == tmp_path
    script.save_image(IMG, "~/new/a.png")
    np.testing.assert_array_equal(script.load_image(Path("~/new/a.png"), 64), IMG)


# ------ Start --------------------------------------------------------------------------------------------------------


def test_noise_of_the_start_is_uniform():
    img = script.initialize_generated_image(np.full((1, 64, 64, 3), 0.5, np.float32), 0.2, 1)
    assert isinstance(img, tf.Variable) and img.dtype == "float32" and img.shape == (1, 64, 64, 3)
    noise = (img.numpy() - 0.5) / 0.2  # uniform in [-1, 1]: mean 0, variance 1/3; bounds are 5 sigma
    assert abs(noise.mean()) < 5 * np.sqrt(1 / 3 / noise.size)
    assert abs(noise.var() - 1 / 3) < 5 * np.sqrt((1 / 5 - 1 / 9) / noise.size)
    assert 0.99 < np.abs(noise).max() <= 1 + 1e-5


def test_start_follows_seed_and_magnitude_and_stays_in_range():
    start = [script.initialize_generated_image(IMG, 0.2, seed).numpy() for seed in (3, 3, 4)]
    np.testing.assert_array_equal(start[0], start[1])
    assert np.mean(start[0] != start[2]) > 0.8  # the rest is clipped
    assert np.min(start) == 0 and np.max(start) == 1
    np.testing.assert_array_equal(script.initialize_generated_image(IMG, 0, 3).numpy(), IMG)


def test_start_gets_the_colours_of_the_styles():
    style_imgs = [IMG[..., ::-1] * 0.5, IMG[:, :20] * 0.2]
    matched = script.match_colors(IMG, *style_imgs)
    start = script.initialize_generated_image(IMG, 0, 3, style_imgs=style_imgs).numpy()
    np.testing.assert_array_equal(start, matched)
    noisy = script.initialize_generated_image(IMG, 0.2, 3, style_imgs=style_imgs).numpy()
    assert 0.15 < np.abs(noisy - matched).max() <= 0.2 + 1e-6


# ------ Arrays -------------------------------------------------------------------------------------------------------

ODD_ARRAYS = {  # what is given, and as what the error names it
    "above 1": (IMG + 0.1, "float32 of shape (1, 64, 64, 3)"),
    "below 0": (IMG - 0.1, "float32 of shape (1, 64, 64, 3)"),
    "NaN": (IMG * np.nan, "float32 of shape (1, 64, 64, 3)"),
    "whole numbers": (RGB[None], "uint8 of shape (1, 64, 64, 3)"),
    "zeros and ones alone": (RGB[None] // 128, "uint8 of shape (1, 64, 64, 3)"),
    "no batch axis": (IMG[0], "float32 of shape (64, 64, 3)"),
    "two pictures": (np.concatenate([IMG, IMG]), "float32 of shape (2, 64, 64, 3)"),
    "four channels": (np.ones((1, 40, 40, 4), np.float32), "float32 of shape (1, 40, 40, 4)"),
    "too low": (IMG[:, :31], "float32 of shape (1, 31, 64, 3)"),
    "too narrow": (IMG[:, :, :31], "float32 of shape (1, 64, 31, 3)"),
    "no rows": (IMG[:, :0], "float32 of shape (1, 0, 64, 3)"),
    "a path": ("a.jpg", "<U5 of shape ()"),
}


@pytest.mark.parametrize("name", ODD_ARRAYS)
def test_check_image_says_what_it_wants_what_to_do_and_what_it_got(name):
    img, received = ODD_ARRAYS[name]
    with pytest.raises(ValueError) as caught:
        script.check_image("content_img", img)
    wanted = "content_img must be an array of floats in [0, 1], of shape (1, H, W, 3) with H and W of 32 or more. "
    remedy = "For pixels from 0 to 255, without the first axis, pass np.reshape(img, (1, *img.shape[:2], 3)) / 255. "
    assert str(caught.value) == f"{wanted}{remedy}Received: {received}"


def test_the_start_is_made_of_a_picture_alone():
    with pytest.raises(ValueError, match="^content_img must be"):
        script.initialize_generated_image(RGB[None])


# ------ Writing ------------------------------------------------------------------------------------------------------


def test_every_level_survives_saving_and_loading(tmp_path):
    levels = np.stack([np.random.default_rng(c).permutation(1024).reshape(32, 32) % 256 for c in range(3)], -1)
    script.save_image(np.float32(levels)[None] / 255, tmp_path / "a.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), levels)
    np.testing.assert_array_equal(load(tmp_path / "a.png", 32), np.float32(levels) / 255)


def test_saved_rounded_and_clipped_in_a_folder_that_is_made(tmp_path):
    values, levels = (99.6, 100.4, 254.6, 0.4, -9, 300), (100, 100, 255, 0, 0, 255)
    img = np.tile(np.float32(values)[:, None], (5, 1, 3)) / 255
    script.save_image(img, tmp_path / "new" / "er" / "a.png")
    expected = np.tile(np.uint8(levels)[:, None], (5, 1, 3))
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "new" / "er" / "a.png")), expected)


def test_saved_file_is_alone_and_holds_text(tmp_path):
    text = {"style": "Tübingen, 星月夜", "layers": [["a", 0.2]], "long": "x" * 3000, "none": None}
    text |= {"path": Path("gr\udcfcn.jpg")}  # a file name that is no UTF-8
    script.save_image(IMG, str(tmp_path / "ü.png"), text)
    kept = json.loads(Image.open(tmp_path / "ü.png").text["settings"])
    assert kept == text | {"path": "gr\udcfcn.jpg"}
    assert os.listdir(tmp_path) == ["ü.png"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    script.save_image(IMG, tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    with mock.patch.object(script.os, "replace", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        script.save_image(1 - IMG, tmp_path / "a.png")
    assert [path.name for path in tmp_path.glob("*.png")] == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == before


def test_a_full_disk_is_named(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    (tmp_path / ".a.png.tmp").symlink_to("/dev/full")
    with pytest.raises(OSError, match="a.png cannot be written: No space left"):
        script.save_image(NOISE[None] / 255, tmp_path / "a.png")



def test_a_file_is_flushed_to_the_disk_and_stays_where_a_folder_refuses_that(tmp_path, monkeypatch):
    sizes = []

    def refuse(number):
        sizes.append(os.fstat(number).st_size)
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(script.os, "fsync", refuse)
    with script.open_to_write(tmp_path / "a.png") as file:
        file.write(b"whole")
    assert sizes == [5] and os.listdir(tmp_path) == ["a.png"] and (tmp_path / "a.png").read_bytes() == b"whole"


def test_only_png_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"writes PNG, so path must end in \.png\. Received: .*q\.jpg"):
        script.save_image(IMG, tmp_path / "new/q.jpg")
    script.save_image(IMG, tmp_path / "q.PNG")
    assert os.listdir(tmp_path) == ["q.PNG"]
