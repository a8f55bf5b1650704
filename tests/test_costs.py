"""Costs against NumPy float64 written from the formulas, and against their laws."""

import numpy as np
import pytest
import tensorflow as tf

import script

SHAPES = [(1, 8, 6, 4), (1, 5, 5, 16), (1, 1, 1, 3)]


def random_encoding(shape, seed=0):
    return np.float32(np.random.default_rng(seed).gamma(1.0, 50.0, shape))  # like ReLU's: not negative, long-tailed


def gram_oracle(a):
    _, h, w, c = a.shape
    f = np.float64(a).reshape(h * w, c)
    return np.array([[f[:, i] @ f[:, j] / (h * w) for j in range(c)] for i in range(c)])


def error_oracle(x, target):
    x, target = np.float64(x), np.float64(target)
    return np.mean((x - target) ** 2) / np.mean(target**2)


def style_oracle(style, generated, weights):
    pairs = zip(style, generated, weights, strict=True)
    return sum(w * error_oracle(gram_oracle(b), gram_oracle(a)) for a, b, w in pairs)


def grams(encodings):
    return [script.get_gram_matrix(tf.constant(a)) for a in encodings]


def gradient(function, *xs):
    """Gradients in graph mode, as a run takes them."""

    @tf.function
    def compiled(*xs):
        with tf.GradientTape() as tape:
            tape.watch(xs)
            y = function(*xs)
        return tape.gradient(y, xs)

    return [g.numpy() for g in compiled(*map(tf.constant, xs))]


@pytest.mark.parametrize("shape", SHAPES)
def test_gram_matrix_is_the_formula_in_float64(shape):
    a = random_encoding(shape)
    np.testing.assert_allclose(script.get_gram_matrix(tf.constant(a)), gram_oracle(a), rtol=1e-5)


def test_gram_matrix_is_symmetric_positive_semidefinite_and_quadratic():
    a = random_encoding((1, 8, 6, 4))
    gram = script.get_gram_matrix(tf.constant(a)).numpy()
    np.testing.assert_array_equal(gram, gram.T)
    assert np.linalg.eigvalsh(np.float64(gram)).min() > -1e-3
    np.testing.assert_allclose(script.get_gram_matrix(tf.constant(3 * a)), 9 * gram, rtol=1e-5)


def test_gram_matrix_does_not_see_where_pixels_are_or_how_many():
    a = random_encoding((1, 8, 6, 4))
    shuffled = np.random.default_rng(1).permutation(a.reshape(48, 4)).reshape(a.shape)
    gram = script.get_gram_matrix(tf.constant(a))
    np.testing.assert_allclose(script.get_gram_matrix(tf.constant(shuffled)), gram, rtol=1e-5)
    np.testing.assert_allclose(script.get_gram_matrix(tf.constant(np.tile(a, (1, 2, 3, 1)))), gram, rtol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_masked_gram_matrix_is_the_formula_in_float64(shape):
    a = random_encoding(shape)
    mask = np.float32(np.random.default_rng(2).random((*shape[:3], 1)))
    f, m = np.float64(a).reshape(-1, shape[3]), np.float64(mask).ravel()
    expected = f.T @ np.diag(m) @ f / m.sum()
    np.testing.assert_allclose(script.get_gram_matrix(tf.constant(a), mask), expected, rtol=1e-5)


def test_masked_gram_matrix_sees_only_what_is_white():
    a, mask = random_encoding((1, 8, 6, 4)), np.zeros((1, 8, 6, 1), np.float32)
    mask[:, 2:5, 1:4] = 1
    gram = script.get_gram_matrix(tf.constant(a), mask)
    np.testing.assert_allclose(gram, gram_oracle(a[:, 2:5, 1:4]), rtol=1e-5)
    np.testing.assert_array_equal(script.get_gram_matrix(tf.constant(a * mask + 9 * (1 - mask)), mask), gram)
    np.testing.assert_array_equal(script.get_gram_matrix(tf.constant(a), 0 * mask), np.zeros((4, 4)))


@pytest.mark.parametrize("size", [(8, 6), (17, 100), (33, 33), (400, 267)])
def test_a_white_mask_of_any_size_changes_neither_gram_matrix_nor_gradient(size):
    a, white = random_encoding((1, 8, 6, 4)), np.ones((1, *size, 1), np.float32)

    def cost(x, mask=None):
        return tf.reduce_sum(tf.sqrt(script.get_gram_matrix(x, mask)))

    x = tf.constant(a)
    np.testing.assert_allclose(script.get_gram_matrix(x, white), script.get_gram_matrix(x), rtol=1e-5)
    np.testing.assert_allclose(gradient(lambda x: cost(x, white), a)[0], gradient(cost, a)[0], rtol=1e-5)


@pytest.mark.parametrize("place", [(9, 23), (201, 207), (0, 2)])
def test_a_small_white_part_counts_in_every_layer(place):
    mask = np.zeros((1, 400, 400, 1), np.float32)
    mask[:, slice(*place), slice(*place)] = 1
    gram = script.get_gram_matrix(tf.ones((1, 25, 25, 3)), mask)
    np.testing.assert_allclose(gram, np.ones((3, 3)), rtol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_content_cost_is_the_formula_in_float64(shape):
    target, a = random_encoding(shape), random_encoding(shape, 1)
    cost = script.get_content_cost(tf.constant(target), tf.constant(a), 0.7)
    np.testing.assert_allclose(cost, 0.7 * error_oracle(a, target), rtol=1e-5)


def test_style_cost_is_the_formula_in_float64():
    style = [random_encoding(shape, seed) for seed, shape in enumerate(SHAPES)]
    generated = [random_encoding((1, 4, 7, shape[-1]), seed + 9) for seed, shape in enumerate(SHAPES)]  # another size
    weights = [0.2, 0.5, 1.0]
    cost = script.get_style_cost(grams(style), list(map(tf.constant, generated)), weights)
    np.testing.assert_allclose(cost, style_oracle(style, generated, weights), rtol=1e-5)


def test_costs_are_zero_at_the_target():
    a = tf.constant(random_encoding((1, 8, 6, 4)))
    assert float(script.get_content_cost(a, a)) == 0
    assert float(script.get_style_cost([script.get_gram_matrix(a)], [a], [1.0])) == 0


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_costs_are_relative(scale):
    target, a = random_encoding((1, 8, 6, 4)), random_encoding((1, 8, 6, 4), 1)
    for cost in (
        script.get_content_cost,
        lambda target, a: script.get_style_cost([script.get_gram_matrix(target)], [a], [1.0]),
    ):
        plain = cost(tf.constant(target), tf.constant(a))
        np.testing.assert_allclose(cost(tf.constant(target * scale), tf.constant(a * scale)), plain, rtol=1e-4)


def test_costs_are_linear_in_each_weight():
    style = [random_encoding(shape, seed) for seed, shape in enumerate(SHAPES)]
    generated = [tf.constant(random_encoding(shape, seed + 9)) for seed, shape in enumerate(SHAPES)]
    alone = [script.get_style_cost(grams(style), generated, list(np.eye(3)[i])) for i in range(3)]
    weights = [0.3, 2.0, 5.0]
    np.testing.assert_allclose(
        script.get_style_cost(grams(style), generated, weights), np.dot(weights, alone), rtol=1e-5
    )
    content = [script.get_content_cost(tf.constant(style[0]), generated[0], weight) for weight in (1.0, 4.0)]
    np.testing.assert_allclose(content[1], 4 * content[0], rtol=1e-6)
    assert script.get_total_cost(3.0, 5.0, content_weight=7.0, style_weight=11.0) == 7 * 3 + 11 * 5


def test_style_cost_refuses_layers_that_do_not_pair_up():
    a = tf.constant(random_encoding((1, 8, 6, 4)))
    with pytest.raises(ValueError):
        script.get_style_cost([script.get_gram_matrix(a)], [a, a], [1.0])


def test_gradients_by_finite_difference():
    style, generated = random_encoding((1, 8, 6, 4)), random_encoding((1, 8, 6, 4), 1)
    direction = np.random.default_rng(2).standard_normal(generated.shape)
    step = 1e-3
    for cost, oracle in (
        (lambda a: script.get_content_cost(tf.constant(style), a), lambda a: error_oracle(a, style)),
        (
            lambda a: script.get_style_cost(grams([style]), [a], [1.0]),
            lambda a: style_oracle([style], [a], [1.0]),
        ),
    ):
        numeric = (oracle(generated + step * direction) - oracle(generated - step * direction)) / (2 * step)
        (analytic,) = gradient(cost, generated)
        np.testing.assert_allclose(np.sum(analytic * direction), numeric, rtol=1e-4)


def variation_oracle(img, chroma_weight):
    red, green, blue = np.moveaxis(np.float64(img[0]), -1, 0)
    y = 0.299 * red + 0.587 * green + 0.114 * blue  # ITU-R BT.601
    u, v = 0.492111 * (blue - y), 0.877283 * (red - y)

    def squares(x):
        return np.mean((x[1:, :-1] - x[:-1, :-1]) ** 2 + (x[:-1, 1:] - x[:-1, :-1]) ** 2)

    return y.size / 400**2 * (squares(y) + chroma_weight * (squares(u) + squares(v)))


@pytest.mark.parametrize("shape", [(1, 5, 8, 3), (1, 2, 2, 3)])
def test_variation_cost_and_each_entry_of_its_gradient_in_float64(shape):
    img = np.random.default_rng(0).uniform(0, 1, shape).astype(np.float32)
    of_any_size = tf.function(script.get_variation_cost, input_signature=[tf.TensorSpec((1, None, None, 3))])
    for value in (script.get_variation_cost(img), of_any_size(img)):
        np.testing.assert_allclose(value, variation_oracle(img, 50), rtol=1e-5)
    step = 1e-5
    directions = step * np.eye(img.size).reshape(-1, *shape)
    differences = [variation_oracle(img + d, 9) - variation_oracle(img - d, 9) for d in directions]
    numeric = np.array(differences).reshape(shape) / (2 * step)
    (analytic,) = gradient(lambda img: script.get_variation_cost(img, chroma_weight=9.0), img)
    np.testing.assert_allclose(analytic, numeric, rtol=1e-3, atol=1e-5 * np.abs(numeric).max())


def test_variation_cost_is_that_of_the_enlarged_picture():
    """A picture of twice the size has differences half as large, and four times as many."""
    ramp = np.linspace(0.2, 0.8, 64, dtype=np.float32)
    small, large = (np.tile(ramp[: 32 * n, None, None], (1, 32 * n, 3))[None] / n for n in (1, 2))
    ratio = script.get_variation_cost(large) / script.get_variation_cost(small)
    np.testing.assert_allclose(ratio, 1, rtol=0.01)


def test_grey_pictures_have_no_variation_of_colour():
    img = np.repeat(np.random.default_rng(0).uniform(0, 1, (1, 9, 9, 1)), 3, -1).astype(np.float32)
    plain = script.get_variation_cost(img, chroma_weight=0.0)
    np.testing.assert_allclose(script.get_variation_cost(img, chroma_weight=1000.0), plain, rtol=1e-5)


def test_a_target_of_zeros_costs_nothing():
    """A layer that is dead at the target, such as a black picture's, must not kill the picture."""
    a = random_encoding((1, 8, 6, 4))
    assert float(script.get_content_cost(tf.zeros_like(a), tf.constant(a))) == 0
    assert not gradient(lambda x: script.get_content_cost(tf.zeros_like(x), x), a)[0].any()
