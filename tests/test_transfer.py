"""Targets, optimizers and steps, against float64 and each other. All in graph mode."""

import numpy as np
import pytest
import tensorflow as tf
from conftest import QUALITY, check_step, gram_oracle, make_step, needs_quality, run

import script

# Targets


def test_targets_are_the_mean_of_the_style_images_gram_matrices(small_encoding_model, imgs):
    content, style = imgs
    other = np.float32(np.random.default_rng(5).uniform(0, 1, (1, 40, 56, 3)))
    grams, encoding = script.get_targets(small_encoding_model, content, [style, style, other])
    np.testing.assert_array_equal(encoding, small_encoding_model(content)[-1])
    oracle = [gram_oracle(small_encoding_model(img)[0].numpy()) for img in (style, other)]
    np.testing.assert_allclose(grams[0], (2 * oracle[0] + oracle[1]) / 3, rtol=1e-4)
    assert len(grams) == 1


# The optimizer


@pytest.mark.parametrize(("schedule", "epochs"), [
    pytest.param("constant", 20, id="constant"), pytest.param("cosine", 20, id="cosine"),
    pytest.param("cosine", 1, id="cosine of one epoch"),
    pytest.param("cosine", 2, id="cosine without a fall"),
])  # fmt: skip
def test_adam_and_its_schedule_are_the_papers_in_numpy(schedule, epochs):
    gradients = np.random.default_rng(0).standard_normal((epochs, 9)).astype(np.float32)
    optimizer, x = script.make_optimizer(schedule, 0.05, epochs), tf.Variable(np.zeros(9, np.float32))
    optimizer.build([x])
    step = tf.function(lambda gradient: optimizer.apply_gradients([(gradient, x)]))
    rates, beta_1, beta_2 = np.full(epochs, 0.05), 0.9, 0.999
    if schedule == "cosine":
        warmup = max(1, round(0.3 * epochs))
        rising = 0.05 / 25 + np.arange(warmup) / warmup * 0.05 * 24 / 25
        falling = 0.025 * (1 + np.cos(np.pi * np.arange(epochs - warmup) / max(1, epochs - warmup)))
        rates, beta_1, beta_2 = np.append(rising, falling), 0.85, 0.8
    expected, m, v = np.zeros(9), 0, 0
    for t, (gradient, rate) in enumerate(zip(np.float64(gradients), rates, strict=True), 1):
        m, v = beta_1 * m + (1 - beta_1) * gradient, beta_2 * v + (1 - beta_2) * gradient**2
        expected -= rate * np.sqrt(1 - beta_2**t) / (1 - beta_1**t) * m / (np.sqrt(v) + 1e-7)
        step(tf.constant(gradients[t - 1]))
        np.testing.assert_allclose(x, expected, rtol=1e-4, atol=1e-6)


def test_an_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match="SCHEDULE must be 'constant' or 'cosine'. Received: 'linear'"):
        script.make_optimizer("linear")


def test_cosine_ends_far_below_the_documented_rate(small_encoding_model, imgs, tmp_path):
    constant, _ = run(small_encoding_model, imgs, tmp_path / "a", epochs=40, learn_rate=0.001)
    cycle, _ = run(small_encoding_model, imgs, tmp_path / "b", epochs=40, learn_rate=0.05, schedule="cosine")
    assert cycle["cost"][-1] < 0.75 * constant["cost"][-1]
    assert constant["cost"][-1] < constant["cost"][0]


# A step


def test_costs_gradient_and_move_of_a_step_in_float64(few_vgg_model, imgs):
    check_step(few_vgg_model, imgs)


def test_a_gradient_in_bfloat16_is_float32s_within_its_rounding(few_channels, few_vgg_model, imgs):
    """A number of bfloat16 is wrong by up to 2^-8, 0.4 %; what a few layers make of that is 3 % of the gradient."""
    content_img, style_img = imgs
    img = tf.Variable(np.float32(np.random.default_rng(1).uniform(0.1, 0.9, content_img.shape)))
    layers = [("block1_conv1", 0.2), ("block1_conv2", 0.2), ("block2_conv1", 1.0)]
    half = script.build_vgg19("mixed_bfloat16")
    half.set_weights(few_vgg_model.get_weights())
    expected, costs = make_step(few_vgg_model, layers, img, content_img, [style_img])()
    gradient, half_costs = make_step(half, layers, img, content_img, [style_img])()
    assert gradient.dtype == "float32"
    assert 0 < np.linalg.norm(gradient - expected) < 0.05 * np.linalg.norm(expected)
    np.testing.assert_allclose([*half_costs.values()], [*costs.values()], rtol=0.005)


@pytest.mark.parametrize("content_layer", ["block5_conv4", "block4_conv1"], ids=["its own", "a style layer's too"])
def test_steps_from_the_same_picture_are_the_same_to_the_bit(few_vgg_model, content_layer):
    """Large enough for threads to finish in another order, in which sums of more than two terms round otherwise."""
    layers = [*script.ENCODING_LAYERS[:-1], (content_layer, 1.0)]
    content = np.random.default_rng(0).uniform(0, 1, (1, 192, 192, 3)).astype(np.float32)
    start = script.initialize_generated_image(content)
    step = make_step(few_vgg_model, layers, start, content, [content[:, ::-1]])
    results = set()
    for _ in range(5):
        gradient, costs = step()
        results.add(b"".join(value.numpy().tobytes() for value in (gradient, *costs.values())))
    assert len(results) == 1


# Steps of a run


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_the_loop_takes_the_steps_that_its_settings_say(small_encoding_model, imgs, tmp_path, schedule):
    content_img, style_img = imgs
    mask = np.float32(np.random.default_rng(3).uniform(0, 0.1, (1, 32, 32, 1)))
    weights = {"content_weight": 3.0, "style_weight": 7.0, "tv_weight": 500.0}
    layers = [("block1_conv1", 0.4), ("block1_conv2", 0.7)]
    history, picture = run(small_encoding_model, imgs, tmp_path, epochs=4, schedule=schedule, learn_rate=0.05,
                           save_every=1, mask=mask, encoding_layers=layers, **weights)  # fmt: skip

    generated_img = script.initialize_generated_image(content_img)
    style_grams, content_encoding = script.get_targets(small_encoding_model, content_img, [style_img])
    optimizer = script.make_optimizer(schedule, 0.05, 4)
    optimizer.build([generated_img])

    @tf.function
    def step():
        return script.transfer_style_step(
            generated_img, small_encoding_model, style_grams, content_encoding, optimizer, encoding_layers=layers,
            content_img=content_img, mask=mask, **weights
        )  # fmt: skip

    costs = [step() for _ in range(4)]
    assert history.keys() == {"epoch", *costs[0]}
    for name in costs[0]:
        np.testing.assert_allclose(history[name], [float(of_epoch[name]) for of_epoch in costs], rtol=1e-5)
    np.testing.assert_allclose(picture, script.apply_mask(generated_img, content_img, mask), rtol=0, atol=1e-5)
    assert history["epoch"] == [1, 2, 3, 4]


def test_a_run_leaves_weights_and_inputs_as_they_were_and_traces_once(
        few_vgg_model, small_encoding_model, imgs, tmp_path, monkeypatch):
    weights, inputs = few_vgg_model.get_weights(), [img.copy() for img in imgs]
    traces, step = [], script.transfer_style_step

    def traced_step(*args, **settings):
        traces.append(1)
        return step(*args, **settings)

    monkeypatch.setattr(script, "transfer_style_step", traced_step)
    run(small_encoding_model, imgs, tmp_path)
    assert len(traces) == 1
    for before, after in zip(weights + inputs, few_vgg_model.get_weights() + list(imgs), strict=True):
        np.testing.assert_array_equal(before, after)


@needs_quality
def test_the_real_network_brings_the_style_cost_to_a_third_of_the_contents_own(tmp_path):
    vgg_model, weights = script.build_vgg19(), np.load(QUALITY / "vgg19.npz")
    for layer in vgg_model.layers:
        if f"{layer.name}/kernel" in weights:
            layer.set_weights([weights[f"{layer.name}/kernel"], weights[f"{layer.name}/bias"]])
    encoding_model = script.get_vgg_encodings(vgg_model)
    content, (style,) = script.load_images(QUALITY / "tubingen.jpg", QUALITY / "starry_night.jpg", 64)
    style_grams, _ = script.get_targets(encoding_model, content, [style])
    own = script.get_style_cost(style_grams, encoding_model(content)[:-1], [0.2] * 5)
    settings = {"epochs": 40, "schedule": "cosine", "learn_rate": 0.05}
    history, _ = run(encoding_model, (content, style), tmp_path, **settings)
    assert history["style_cost"][-1] < 0.33 * own
