"""Costs against NumPy float64 written from the formulas. A step's tests see their gradients."""

import numpy as np
import pytest
import tensorflow as tf
from conftest import compute_gradients, error_oracle, gram_oracle, variation_oracle

import script

SHAPES = [(1, 8, 6, 4), (1, 5, 5, 16), (1, 1, 1, 3)]


def random_encoding(shape, seed=0):
    return np.float32(np.random.default_rng(seed).gamma(1.0, 50.0, shape))  # like ReLU's: not negative, long-tailed


def test_content_cost_is_the_formula_in_float64():
    target, a = random_encoding((1, 8, 6, 4)), random_encoding((1, 8, 6, 4), 1)
    target, a, error = tf.constant(target), tf.constant(a), error_oracle(a, target)
    np.testing.assert_allclose(script.get_content_cost(target, a), error, rtol=1e-5)
    np.testing.assert_allclose(script.get_content_cost(target, a, 0.7), 0.7 * error, rtol=1e-5)
    assert script.get_content_cost(target, target) == 0


def test_style_cost_is_the_formula_in_float64():
    grams = [script.get_gram_matrix(tf.constant(random_encoding(shape, seed))) for seed, shape in enumerate(SHAPES)]
    generated = [random_encoding((1, 4, 7, shape[-1]), seed + 9) for seed, shape in enumerate(SHAPES)]  # another size
    weights = [0.2, 0.5, 1.0]
    pairs = zip(weights, grams, generated, strict=True)
    expected = sum(weight * error_oracle(gram_oracle(a), gram) for weight, gram, a in pairs)
    cost = script.get_style_cost(grams, list(map(tf.constant, generated)), weights)
    np.testing.assert_allclose(cost, expected, rtol=1e-5)


def test_style_cost_refuses_layers_that_do_not_pair_up():
    a = tf.constant(random_encoding((1, 8, 6, 4)))
    with pytest.raises(ValueError):
        script.get_style_cost([script.get_gram_matrix(a)], [a, a], [1.0])


def test_a_target_of_zeros_costs_nothing():
    """A layer that is dead at the target, such as a black picture's, must not kill the picture."""
    a = random_encoding((1, 8, 6, 4))
    for cost in (
        lambda x: script.get_content_cost(tf.zeros_like(x), x),
        lambda x: script.get_style_cost([tf.zeros((4, 4))], [x], [1.0]),
    ):
        assert cost(tf.constant(a)) == 0
        assert not compute_gradients(cost, a)[0].any()


@pytest.mark.parametrize("shape", [(1, 5, 8, 3), (1, 2, 2, 3)], ids=["a picture", "the smallest one"])
def test_variation_cost_and_each_entry_of_its_gradient_in_float64(shape):
    img = np.random.default_rng(0).uniform(0, 1, shape).astype(np.float32)
    of_any_size = tf.function(script.get_variation_cost, input_signature=[tf.TensorSpec((1, None, None, 3))])
    for value in (script.get_variation_cost(img), of_any_size(img)):
        np.testing.assert_allclose(value, variation_oracle(img), rtol=1e-5)
    step = 1e-5
    directions = step * np.eye(img.size).reshape(-1, *shape)
    differences = [variation_oracle(img + d, 9) - variation_oracle(img - d, 9) for d in directions]
    numeric = np.array(differences).reshape(shape) / (2 * step)
    (analytic,) = compute_gradients(lambda img: script.get_variation_cost(img, chroma_weight=9.0), img)
    np.testing.assert_allclose(analytic, numeric, rtol=1e-3, atol=1e-5 * np.abs(numeric).max())


def test_total_cost_is_the_sum_of_the_costs_each_by_its_weight():
    costs = {"content": 3.0, "style": 5.0, "variation": 7.0}
    assert script.get_total_cost(costs, {"style": 13.0, "variation": 17.0, "content": 11.0}) == 217
