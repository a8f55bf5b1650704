"""Masks: what load_mask() reads, how the content shows through, and what is painted."""

import numpy as np
import pytest
import tensorflow as tf
from conftest import check_step, gram_oracle, run, shrink_oracle
from make_images import make_exif
from PIL import Image

import script

IMG = np.random.default_rng(0).random((1, 48, 64, 3), np.float32)


# Reading a mask


def save_mask(folder, grey):
    Image.fromarray(np.uint8(grey)).save(folder / "mask.png")
    return folder / "mask.png"


def test_a_mask_is_stretched_to_the_contents_size_by_means_under_a_triangle(tmp_path):
    grey = np.random.default_rng(3).integers(0, 256, (80, 100), np.uint8)
    mask = script.load_mask(save_mask(tmp_path, grey), np.zeros((1, 40, 32, 3)))
    assert mask.dtype == np.float32 and mask.shape == (1, 40, 32, 1)
    expected = shrink_oracle(grey[None, ..., None], 40, 32) / 255
    np.testing.assert_allclose(mask[0, ..., 0], expected, rtol=0, atol=1.01 / 255)  # rounded twice


def test_grey_is_its_level(tmp_path):
    levels = np.arange(48 * 64).reshape(48, 64) % 256
    mask = script.load_mask(save_mask(tmp_path, levels), IMG)
    np.testing.assert_array_equal(mask, np.float32(levels)[None, ..., None] / 255)


def test_colours_count_by_their_brightness_and_a_turned_mask_is_turned(tmp_path):
    half = Image.fromarray(np.repeat(np.uint8([[[0, 255, 0]], [[0, 0, 0]]]), 40, 1)).resize((40, 80), 0)
    half.save(tmp_path / "mask.tif", exif=make_exif(6)[6:])
    mask = script.load_mask(tmp_path / "mask.tif", np.zeros((1, 40, 80, 3)))
    np.testing.assert_allclose(mask[:, :, 45:], 0.587, atol=0.003)
    np.testing.assert_array_equal(mask[:, :, :35], 0)


def test_no_mask_is_none_and_a_black_one_and_one_that_is_not_there_are_refused(tmp_path):
    assert script.load_mask(None, IMG) is None
    with pytest.raises(ValueError, match="^MASK_PATH .*mask.png, all black$"):
        script.load_mask(save_mask(tmp_path, np.zeros((40, 80))), IMG)
    with pytest.raises(OSError, match="^'.*gone.png' is no file"):
        script.load_mask(tmp_path / "gone.png", IMG)


def test_a_spot_that_vanishes_at_a_small_size_is_no_black_mask(small_encoding_model, imgs, tmp_path):
    """A larger size may show it. At this one nothing is painted."""
    levels = np.zeros((2000, 2000))
    levels[5, 5] = 255
    mask = script.load_mask(save_mask(tmp_path, levels), imgs[0])
    assert mask.shape == (1, 32, 32, 1) and not mask.any()
    _, picture = run(small_encoding_model, imgs, tmp_path / "out", mask=mask)
    np.testing.assert_array_equal(picture, imgs[0])


def test_transparent_parts_are_black(tmp_path):
    """White on a transparent ground is how painting programs save a mask."""
    levels, alpha = np.full((48, 64), 200), np.arange(48 * 64).reshape(48, 64) % 256
    Image.fromarray(np.uint8(np.dstack([levels, alpha])), "LA").save(tmp_path / "mask.png")
    mask = script.load_mask(tmp_path / "mask.png", IMG)
    np.testing.assert_allclose(mask[0, ..., 0], levels / 255 * alpha / 255, rtol=0, atol=0.501 / 255)


@pytest.mark.parametrize("mask", [
    pytest.param(IMG, id="three channels"), pytest.param(IMG[0, ..., 0], id="H and W alone"),
])  # fmt: skip
def test_a_mask_that_is_none_is_refused_with_one_line(mask):
    with pytest.raises(ValueError, match=r"^mask must be .* \(1, H, W, 1\) with H and W of 32 or more.*$") as caught:
        script.check_image("mask", mask, channels=1)
    assert "pass np.reshape(img, (1, *img.shape[:2], 1)) / 255." in str(caught.value)


# Blending


def test_black_is_the_content_white_is_the_image_to_the_bit_and_grey_blends():
    img, mask = IMG[:, ::-1], np.zeros((1, 48, 64, 1), np.float32)
    mask[:, 10:20], mask[:, 20:] = 0.25, 1
    picture = np.asarray(script.apply_mask(img, IMG, mask))
    np.testing.assert_array_equal(picture[:, :10], IMG[:, :10])
    np.testing.assert_array_equal(picture[:, 20:], img[:, 20:])
    np.testing.assert_allclose(picture[:, 10:20], 0.25 * img[:, 10:20] + 0.75 * IMG[:, 10:20], rtol=1e-6)
    assert script.apply_mask(img, IMG, None) is img
    of_doubles = [np.float64(array) for array in (IMG, mask)]
    np.testing.assert_array_equal(script.apply_mask(tf.constant(img), *of_doubles), picture)


# Painting under a mask


@pytest.mark.parametrize("size", [
    pytest.param((8, 6), id="the layer's size"), pytest.param((17, 100), id="another shape"),
])  # fmt: skip
def test_gram_matrix_under_a_mask_is_the_formula_in_float64(size):
    rng = np.random.default_rng(2)
    a, mask = np.float32(rng.gamma(1.0, 50.0, (1, 8, 6, 4))), np.float32(rng.random((1, *size, 1)))
    expected = gram_oracle(a, shrink_oracle(mask, 8, 6))
    np.testing.assert_allclose(script.get_gram_matrix(tf.constant(a), mask), expected, rtol=1e-5)
    np.testing.assert_array_equal(script.get_gram_matrix(tf.constant(a), 0 * mask), np.zeros((4, 4)))


def test_costs_gradient_and_move_of_a_step_under_a_mask_in_float64(few_vgg_model, imgs):
    mask = np.float32(np.random.default_rng(4).uniform(0, 1, (1, 32, 32, 1)))
    mask[:, :, :12] = 0
    check_step(few_vgg_model, imgs, mask)


def test_black_pixels_stay_to_the_bit_and_a_white_mask_is_as_none(small_encoding_model, imgs, tmp_path):
    settings = {"schedule": "cosine", "learn_rate": 0.05, "epochs": 4}
    white = np.ones((1, 32, 32, 1), np.float32)
    _, free = run(small_encoding_model, imgs, tmp_path / "free", **settings)
    _, same = run(small_encoding_model, imgs, tmp_path / "white", mask=white, **settings)
    np.testing.assert_allclose(same, free, rtol=0, atol=1e-4)
    mask = white.copy()
    mask[:, :, :12] = 0
    mask[:, :, 12:16] = 0.1
    _, part = run(small_encoding_model, imgs, tmp_path / "part", mask=mask, **settings)
    np.testing.assert_array_equal(part[:, :, :12], imgs[0][:, :, :12])
    moved = np.abs(part - imgs[0])
    assert 0 < moved[:, :, 12:16].max() <= 0.1 + 1e-6
    assert moved[:, :, 16:].max() > 0.2


@pytest.mark.parametrize("kind", [np.float16, np.float64, tf.Variable])
def test_a_mask_may_be_of_other_floats_or_a_variable(small_encoding_model, imgs, tmp_path, kind):
    mask = np.zeros((1, 32, 32, 1), np.float32)
    mask[:, :, 12:16] = 0.125
    mask[:, :, 16:] = 1
    _, expected = run(small_encoding_model, imgs, tmp_path / "a", epochs=2, mask=mask)
    _, picture = run(small_encoding_model, imgs, tmp_path / "b", epochs=2, mask=kind(mask))
    np.testing.assert_allclose(picture, expected, rtol=0, atol=1e-4)
