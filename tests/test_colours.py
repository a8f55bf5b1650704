"""Colours that are told in other ways than by an ICC profile, and odd containers that viewers show."""

import io
import struct
import zlib

import numpy as np
import pytest
from make_images import PRIMARIES, insert_chunks, make_adobe_exif, make_bmp, make_ifd, make_png, make_profile, make_tiff
from PIL import Image, ImageFile, features

import script

STEPS = np.arange(0, 256, 51)
RGB = np.uint8(np.stack(np.meshgrid(STEPS, STEPS, STEPS), -1).reshape(12, 18, 3).repeat(4, 0).repeat(4, 1))
GREY = np.uint8(np.arange(2304).reshape(48, 48) // 9)
PROFILE = make_profile(PRIMARIES["Adobe RGB"], 2.2)
THREE_STEPS = 3 / 255


def load(path):
    """Read a picture at its own size."""
    with script.open_image(path, path.read_bytes()) as img:
        size = max(img.size)
    return script.load_image(path, size, keep_aspect_ratio=True)[0]


def save(tmp_path, data, name="a.png"):
    (tmp_path / name).write_bytes(data)
    return tmp_path / name


def check_warning(capsys, path, word):
    """Check that a picture is read, and that one line warns of the word of the file, or none if it is None."""
    load(path)
    warning = f"Warning: {path} is read as sRGB, but {word} says otherwise. Save it as sRGB\n"
    assert capsys.readouterr() == ("", warning if word else "")


def as_png(pixels, *chunks):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return insert_chunks(file.getvalue(), *chunks)


def as_profile(profile):
    return b"iCCP", b"name\0\0" + zlib.compress(profile)


def gamma(value):
    return b"gAMA", struct.pack(">I", round(value * 100_000))


def primaries(*values):
    return b"cHRM", struct.pack(">8I", *(round(value * 100_000) for value in values))


CICP_P3 = (b"cICP", bytes([12, 13, 0, 1]))
CHRM_P3 = primaries(0.3127, 0.329, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06)
SRGB_CHUNK = (b"sRGB", b"\0")


# ------ Colours ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("chunks", "word"), [
    pytest.param([CICP_P3], "cICP or nclx", id="cICP of Display P3"),
    pytest.param([CICP_P3, SRGB_CHUNK, gamma(0.45455)], "cICP or nclx", id="cICP before sRGB and gamma"),
    pytest.param([CICP_P3, as_profile(PROFILE)], None, id="a profile before cICP"),
    pytest.param([(b"cICP", bytes([9, 16, 0, 1]))], "cICP or nclx", id="PQ"),
    pytest.param([(b"cICP", bytes([9, 18, 0, 1]))], "cICP or nclx", id="HLG"),
    pytest.param([(b"cICP", bytes([1, 13, 0, 1])), gamma(1)], None, id="cICP of sRGB"),
    pytest.param([(b"cICP", bytes([2, 2, 0, 1]))], None, id="cICP that says nothing"),
    pytest.param([(b"tEXt", b"Comment\0what cICP is for")], None, id="a text about cICP"),
    pytest.param([gamma(1)], "gAMA or cHRM", id="a gamma of 1"),
    pytest.param([gamma(0.45455), CHRM_P3], "gAMA or cHRM", id="primaries of Display P3"),
    pytest.param([SRGB_CHUNK, gamma(1), CHRM_P3], None, id="sRGB before gamma and primaries"),
    pytest.param([as_profile(PROFILE), gamma(1), CHRM_P3], None, id="a profile before gamma and primaries"),
    pytest.param([gamma(0.45455)], None, id="the gamma that stands for sRGB"),
    pytest.param([gamma(0), primaries(*[0] * 8)], None, id="zeros"),
])  # fmt: skip
def test_colours_of_a_png_that_are_told_otherwise_are_warned_of(tmp_path, capsys, chunks, word):
    check_warning(capsys, save(tmp_path, as_png(RGB, *chunks)), word)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_nclx_of_an_avif_is_warned_of(tmp_path, capsys):
    path = tmp_path / "a.avif"
    Image.fromarray(RGB).save(path, quality=100)
    check_warning(capsys, path, None)
    data = path.read_bytes()
    assert b"colrnclx\0\1\0\r" in data
    path.write_bytes(data.replace(b"colrnclx\0\1\0\r", b"colrnclx\0\x0c\0\r"))
    check_warning(capsys, path, "cICP or nclx")


@pytest.mark.parametrize("name", ["a.jpg", "a.webp", "a.png"])
def test_adobe_rgb_of_exif_is_warned_of(tmp_path, capsys, name):
    path = tmp_path / name
    for exif, profile, word in (
        (make_adobe_exif(), None, "EXIF's Adobe RGB"), (make_adobe_exif(), PROFILE, None),
        (make_adobe_exif(index="R98"), None, None),
    ):  # fmt: skip
        Image.fromarray(RGB).save(path, exif=exif, icc_profile=profile)
        check_warning(capsys, path, word)


@pytest.mark.parametrize("order", ["<", ">"])
def test_adobe_rgb_of_a_tiffs_exif_is_warned_of(tmp_path, capsys, order):
    exif_at = 2 + len(make_tiff(RGB, 8, 2, order=order, tags={34665: (4, [0])})) // 2 * 2
    interop_at = exif_at + 100
    plain = make_tiff(RGB, 8, 2, order=order, tags={34665: (4, [exif_at])}).ljust(exif_at, b"\0")
    exif = make_ifd({0xA001: (3, [0xFFFF]), 0xA005: (4, [interop_at])}, order, exif_at).ljust(100, b"\0")
    path = save(tmp_path, plain + exif + make_ifd({1: (2, b"R03\0")}, order, interop_at), "a.tif")
    check_warning(capsys, path, "EXIF's Adobe RGB")


# ------ Large JPEGs --------------------------------------------------------------------------------------------------


def test_a_jpeg_of_many_megapixels_is_read_smaller(tmp_path):
    Image.fromarray(RGB).resize((8000, 6000), Image.Resampling.BICUBIC).save(tmp_path / "48.jpg", quality=95)
    with Image.open(tmp_path / "48.jpg") as img:
        expected = np.float32(img.resize((64, 48), Image.Resampling.LANCZOS)) / 255
    np.testing.assert_allclose(script.load_image(tmp_path / "48.jpg", 64, True)[0], expected, rtol=0, atol=THREE_STEPS)
    size, whole = script.read_image(tmp_path / "48.jpg", size=64).size, script.read_image(tmp_path / "48.jpg").size
    assert size == (1000, 750) and whole == (8000, 6000)
    assert script.read_image(tmp_path / "48.jpg", size=1500).size == (4000, 3000)
    assert script.read_image(tmp_path / "48.jpg", size=1501).size == whole


@pytest.mark.parametrize("img_size", [64, 300])
def test_load_image_says_how_large_a_picture_it_needs(tmp_path, monkeypatch, img_size):
    sizes, read_image = [], script.read_image

    def record(path, **options):
        sizes.append(options.get("size"))
        return read_image(path, **options)

    monkeypatch.setattr(script, "read_image", record)
    script.load_image(save(tmp_path, as_png(RGB)), img_size)
    assert sizes == [img_size]


def test_a_jpeg_of_ordinary_size_keeps_its_pixels(tmp_path):
    Image.fromarray(RGB).resize((4000, 3000), Image.Resampling.NEAREST).save(tmp_path / "12.jpg")
    with Image.open(tmp_path / "12.jpg") as img:
        expected = np.float32(img.resize((64, 48), Image.Resampling.LANCZOS)) / 255
    np.testing.assert_array_equal(script.load_image(tmp_path / "12.jpg", 64, True)[0], expected)


# ------ Odd containers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("alpha", "expected"), [
    pytest.param(np.zeros_like(GREY), np.stack([GREY] * 3, -1), id="0 everywhere is opaque"),
    pytest.param(np.where(GREY > 127, 255, 0), np.where(GREY > 127, GREY, 255)[..., None], id="else it counts"),
])  # fmt: skip
def test_alpha_of_a_bmp(tmp_path, alpha, expected):
    pixels = np.uint8(np.dstack([GREY, GREY, GREY, alpha]))[::-1].tobytes()
    data = make_bmp(48, 48, 32, 3, pixels, masks=(0xFF0000, 0xFF00, 0xFF, 0xFF000000))
    img = load(save(tmp_path, data, "a.bmp"))
    np.testing.assert_allclose(img, np.broadcast_to(expected / 255, img.shape), rtol=0, atol=1e-6)


def test_alpha_of_0_everywhere_counts_in_png(tmp_path):
    np.testing.assert_array_equal(load(save(tmp_path, as_png(np.dstack([RGB, RGB[..., 0] * 0])))), 1)


@pytest.mark.parametrize("options", [{}, {"transparency": 0}], ids=["opaque", "transparent"])
def test_gif_whose_first_frame_is_small(tmp_path, options):
    file = io.BytesIO()
    frame = np.uint8(np.arange(20 * 30).reshape(20, 30) % 4)
    img = Image.fromarray(frame, "P")
    img.putpalette([9, 9, 9, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    img.save(file, "GIF", optimize=False, **options)
    data = bytearray(file.getvalue())
    at = data.index(b",\0\0\0\0\x1e\0\x14\0")
    data[6:10] = struct.pack("<HH", 60, 40)
    data[11] = 3  # the background's colour, blue
    data[at + 1 : at + 5] = struct.pack("<HH", 10, 5)
    path = save(tmp_path, data, "a.gif")
    colors = np.array([[9, 9, 9], [255, 0, 0], [0, 255, 0], [0, 0, 255]])
    for background in ("white", "black"):
        expected = np.full((40, 60, 3), 255 if background == "white" else 0)
        if options:
            colors[0] = expected[0, 0]
        expected[5:25, 10:40] = colors[frame]
        np.testing.assert_array_equal(np.asarray(script.read_image(path, background)), expected)


@pytest.mark.parametrize("order", ["<", ">"])
def test_associated_alpha_of_grey(tmp_path, order):
    alpha = np.uint8(np.indices((48, 48))[1] * 5 + 20)
    samples = np.dstack([np.minimum(GREY, alpha), alpha])
    img = load(save(tmp_path, make_tiff(samples, order=order, alpha=[1]), "a.tif"))
    expected = samples[..., 0] / 255 + (1 - alpha / 255)
    np.testing.assert_allclose(img, np.dstack([expected] * 3), rtol=0, atol=THREE_STEPS)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("orientation", "turns"), [(3, 2), (6, -1), (8, 1)])
def test_orientation_of_a_tiff_as_byte(tmp_path, order, orientation, turns):
    expected = np.float32(np.rot90(RGB, turns)) / 255
    for kind in (1, 3):  # BYTE, SHORT
        data = make_tiff(RGB, 8, 2, order=order, tags={274: (kind, [orientation])})
        np.testing.assert_array_equal(load(save(tmp_path, data, "a.tif")), expected)


@pytest.mark.parametrize("bits", [2, 4, 16])
def test_a_transparent_colour_that_is_misread_is_refused_with_the_reason(tmp_path, bits):
    data = make_png(np.indices((32, 32)).sum(0) % 2, bits, 0, (b"tRNS", b"\0\0"))
    kind = "grey of 16 bits or more" if bits == 16 else "a transparent colour of 2, 4 or 16 bits"
    with pytest.raises(OSError, match=f"Pillow does not read {kind} right"):
        load(save(tmp_path, data))


# ------ Damaged or odd words -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [b"pHYs", b"tEXt", b"eXIf", b"gAMA"])
def test_a_png_with_a_damaged_word_that_no_pixel_needs_is_read(tmp_path, name):
    data = as_png(RGB, (name, bytes(9)))
    at = data.index(name) + 13  # of the CRC
    path = save(tmp_path, data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    np.testing.assert_array_equal(load(path), RGB / np.float32(255))
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.parametrize("length", [2, 5, 7, 8])
def test_a_jpeg_with_a_short_jfif_is_read(tmp_path, length):
    file = io.BytesIO()
    Image.fromarray(RGB).save(file, "JPEG")
    whole = file.getvalue()
    assert whole[2:6] == b"\xff\xe0\0\x10"  # JFIF, 16 bytes
    path = save(tmp_path, whole[:5] + bytes([length]) + whole[6 : 4 + length] + whole[20:], "a.jpg")
    np.testing.assert_array_equal(load(path), load(save(tmp_path, whole, "b.jpg")))


def test_a_png_that_is_cut_short_stays_refused_though_a_word_is_damaged_too(tmp_path):
    data = bytearray(as_png(RGB, (b"pHYs", bytes(9))))
    data[data.index(b"pHYs") + 13] ^= 1
    with pytest.raises(OSError, match="a.png cannot be read"):
        script.load_image(save(tmp_path, bytes(data[: 2 * len(data) // 3])), 48)


@pytest.mark.parametrize("extra", [0, 1, 5, 254])
def test_transparency_of_more_colours_than_a_palette_has_counts_as_none(tmp_path, extra):
    """As viewers do. Of as many it counts."""
    palette, checks = np.uint8([[200, 0, 0], [0, 0, 200]]), np.indices((48, 48)).sum(0) % 2
    chunks = (b"PLTE", palette.tobytes()), (b"tRNS", bytes(2 + extra))
    img = load(save(tmp_path, make_png(checks, 8, 3, *chunks)))
    np.testing.assert_allclose(img, palette[checks] / 255 if extra else np.ones((48, 48, 3)), atol=1e-6)


@pytest.mark.parametrize(("bits", "compression"), [(8, 1), (4, 2)])
def test_run_lengths_of_a_bmp_are_refused_because_pillow_shifts_rows_that_are_padded(tmp_path, bits, compression):
    palette = bytes(range(256)) * 4
    rows = (bytes([48, 1]) + bytes(2)) * 48 + bytes([0, 1])
    data = make_bmp(48, 48, bits, compression, rows, palette[: 4 * 2**bits])
    with pytest.raises(OSError, match="a.bmp cannot be read: Pillow does not read run lengths of a BMP right"):
        script.load_image(save(tmp_path, data, "a.bmp"), 48)
