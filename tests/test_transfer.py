"""Targets, optimizers and steps: Adam and its schedule against NumPy, the same bits. All in graph mode."""

import types

import numpy as np
import pytest
import tensorflow as tf
from conftest import LAYERS, QUALITY, needs_quality, run
from test_costs import gram_oracle

import script


def cost_and_gradient(encoding_model, imgs, x):
    """J without variation, and dJ/dx, as README writes them, apart from script.py's costs."""

    def gram(a):
        f = tf.reshape(a, (-1, a.shape[-1]))
        return tf.einsum("nc,nd->cd", f, f) / f.shape[0]

    def error(a, b):
        return tf.reduce_mean((a - b) ** 2) / tf.reduce_mean(b**2)

    targets = [encoding_model(img) for img in imgs]

    @tf.function
    def compiled(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            encodings = encoding_model(x)
            style = sum(0.2 * error(gram(encodings[i]), gram(targets[1][i])) for i in range(5))
            content = error(encodings[5], targets[0][5])
            cost = 10 * content + 40 * style
        return (cost, style, content), tape.gradient(cost, x)

    costs, gradient = compiled(tf.constant(x))
    return [float(c) for c in costs], np.float64(gradient)


@pytest.mark.parametrize("settings", [{}, {"schedule": "one-cycle", "learn_rate": 0.04}])
def test_three_epochs_are_adams_in_numpy(few_encoding_model, imgs, tmp_path, settings):
    history, picture = run(few_encoding_model, imgs, tmp_path, save_every=1, tv_weight=0, **settings)
    rates, beta_1, beta_2 = ([0.04 / 25, 0.04, 0.02], 0.85, 0.8) if settings else ([0.02] * 3, 0.9, 0.999)
    x = np.float64(script.initialize_generated_image(imgs[0]).numpy())
    m = v = 0
    for t, rate in enumerate(rates, 1):
        costs, g = cost_and_gradient(few_encoding_model, imgs, np.float32(x))
        ours = [history[name][t - 1] for name in script.COSTS]
        np.testing.assert_allclose(ours, costs, rtol=1e-3)
        m, v = beta_1 * m + (1 - beta_1) * g, beta_2 * v + (1 - beta_2) * g**2
        x -= rate * np.sqrt(1 - beta_2**t) / (1 - beta_1**t) * m / (np.sqrt(v) + 1e-7)
        x = np.clip(x, 0, 1)
    assert np.abs(picture - x).max() < 0.02 and np.abs(picture - x).mean() < 1e-4
    assert picture.min() >= 0 and picture.max() <= 1


@pytest.mark.parametrize("schedule", ["constant", "one-cycle"])
def test_black_pixels_stay_to_the_bit_and_a_white_mask_is_as_none(small_encoding_model, imgs, tmp_path, schedule):
    settings = {"schedule": schedule, "learn_rate": 0.05, "epochs": 4}
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
    assert 0 < moved[:, :, 12:16].max() <= 0.1 + 1e-6 and moved[:, :, 16:].max() > 0.2


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_a_mask_of_other_floats_is_the_same_mask(small_encoding_model, imgs, tmp_path, dtype):
    mask = np.zeros((1, 32, 32, 1), np.float32)
    mask[:, :, 12:16], mask[:, :, 16:] = 0.125, 1
    _, expected = run(small_encoding_model, imgs, tmp_path / "a", mask=mask)
    _, picture = run(small_encoding_model, imgs, tmp_path / "b", mask=mask.astype(dtype))
    np.testing.assert_allclose(picture, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", [tf.constant, tf.Variable])
def test_a_mask_may_be_a_tensor(small_encoding_model, imgs, tmp_path, kind):
    mask = np.zeros((1, 32, 32, 1), np.float32)
    mask[:, :, 16:] = 1
    _, expected = run(small_encoding_model, imgs, tmp_path / "a", mask=mask)
    _, picture = run(small_encoding_model, imgs, tmp_path / "b", mask=kind(mask))
    np.testing.assert_array_equal(picture, expected)


def test_style_is_judged_where_the_mask_is_white(encoding_model, imgs):
    """The gradient of a picture whose white half has the style's own Gram matrices is that of the content cost."""
    content_img, style_img = imgs
    half = np.concatenate([np.ones((1, 32, 32, 1)), np.zeros((1, 32, 32, 1))], 2).astype(np.float32)
    first = script.get_gram_matrix(encoding_model(style_img)[0])
    both = np.concatenate([style_img, content_img], 2)
    inside = np.ones((1, 64, 1, 1), np.float32)
    inside = half * (np.arange(64) < 30).reshape(1, 1, 64, 1)  # a convolution sees its neighbour's pixels
    masked = script.get_gram_matrix(encoding_model(both)[0], np.float32(inside))
    alone = script.get_gram_matrix(encoding_model(style_img)[0], np.float32(inside[:, :, :32]))
    np.testing.assert_allclose(masked, alone, rtol=1e-4, atol=1e-2)
    whole = script.get_gram_matrix(encoding_model(both)[0])
    assert np.abs(whole - first).max() > 10 * np.abs(masked - first).max()


def test_a_mask_keeps_the_balance_of_the_costs(small_encoding_model, imgs):
    """Style of a tenth of the picture counts a tenth, because content and variation are means over all of it."""
    mask = np.zeros((1, 32, 32, 1), np.float32)
    mask[:, :8, :13] = 1
    optimizer = types.SimpleNamespace(apply_gradients=lambda pairs: None)
    targets = script.get_targets(small_encoding_model, imgs[0], [imgs[1]])
    _, style_cost, _ = script.transfer_style_step(
        tf.Variable(imgs[0]), small_encoding_model, *targets, optimizer, LAYERS, mask=mask
    )
    encoding = small_encoding_model(imgs[0])[0]
    whole = script.get_style_cost(targets[0], [encoding], [LAYERS[0][1]], mask)
    np.testing.assert_allclose(style_cost, whole * 8 * 13 / 32**2, rtol=1e-5)


def rates_of(optimizer, epochs):
    """The learning rate of each epoch, asked in a graph as in a run."""
    x = tf.Variable([0.5])
    optimizer.build([x])

    @tf.function
    def step():
        rate = tf.convert_to_tensor(optimizer.learning_rate)
        optimizer.apply_gradients([(tf.constant([1.0]), x)])
        return rate

    return np.array([step().numpy() for _ in range(epochs)])


@pytest.mark.parametrize("epochs", [1, 2, 7, 100])
def test_one_cycle_rises_to_the_peak_and_falls_to_zero_as_a_cosine(epochs):
    rates = rates_of(script.make_optimizer("one-cycle", 0.05, epochs), epochs)
    warmup = max(1, round(0.3 * epochs))
    rising = 0.05 / 25 + np.arange(warmup) / warmup * 0.05 * 24 / 25
    falling = 0.025 * (1 + np.cos(np.pi * np.arange(epochs - warmup) / max(1, epochs - warmup)))
    np.testing.assert_allclose(rates, [*rising, *falling], rtol=1e-4, atol=1e-7)


def test_a_constant_rate_is_constant():
    np.testing.assert_allclose(rates_of(script.make_optimizer("constant", 0.001, 9), 20), 0.001, rtol=1e-6)


def test_one_cycle_ends_far_below_the_documented_rate(small_encoding_model, imgs, tmp_path):
    constant, _ = run(small_encoding_model, imgs, tmp_path / "a", epochs=60, learn_rate=0.001)
    cycle, picture = run(small_encoding_model, imgs, tmp_path / "b", epochs=60, learn_rate=0.05, schedule="one-cycle")
    assert cycle["cost"][-1] < 0.75 * constant["cost"][-1] and 0 <= picture.min() < picture.max() <= 1


def test_the_cost_falls(encoding_model, imgs, tmp_path):
    history, _ = run(encoding_model, imgs, tmp_path, epochs=40, save_every=1, tv_weight=0)
    assert history["cost"][-1] < 0.5 * history["cost"][0]
    np.testing.assert_allclose(
        history["cost"], 10 * np.array(history["content_cost"]) + 40 * np.array(history["style_cost"]), rtol=1e-5
    )


def test_targets_are_the_mean_of_the_style_images_gram_matrices(small_encoding_model, imgs):
    content, style = imgs
    other = np.float32(np.random.default_rng(5).uniform(0, 1, (1, 40, 56, 3)))
    grams, encoding = script.get_targets(small_encoding_model, content, [style, style, other])
    np.testing.assert_array_equal(encoding, small_encoding_model(content)[-1])
    oracle = [gram_oracle(small_encoding_model(img)[0].numpy()) for img in (style, other)]
    np.testing.assert_allclose(grams[0], (2 * oracle[0] + oracle[1]) / 3, rtol=1e-4)
    assert len(grams) == 1


@pytest.mark.parametrize("content_layer", ["block5_conv4", "block4_conv1"])  # the second is a style layer too
def test_steps_from_the_same_picture_are_the_same_to_the_bit(vgg_model, content_layer):
    """Large enough for threads to finish in another order, in which sums of more than two terms round otherwise."""
    encoding_layers = [*script.ENCODING_LAYERS[:-1], (content_layer, 1.0)]
    encoding_model = script.get_vgg_encodings(vgg_model, encoding_layers)
    content = np.random.default_rng(0).uniform(0, 1, (1, 192, 192, 3)).astype(np.float32)
    generated = script.initialize_generated_image(content)
    start = generated.numpy()
    targets = script.get_targets(encoding_model, content, [content[:, ::-1]])
    taken = []
    optimizer = types.SimpleNamespace(apply_gradients=lambda pairs: taken.append(pairs[0][0]))

    @tf.function
    def step():
        costs = script.transfer_style_step(generated, encoding_model, *targets, optimizer, encoding_layers)
        return taken[-1], *costs

    results = set()
    for _ in range(5):
        generated.assign(start)
        results.add(b"".join(value.numpy().tobytes() for value in step()))
    assert len(results) == 1


def test_a_step_needs_no_graph(small_encoding_model, imgs):
    from conftest import LAYERS

    pictures = []
    for compile_step in (lambda step: step, tf.function):
        generated = script.initialize_generated_image(imgs[0])
        targets = script.get_targets(small_encoding_model, imgs[0], [imgs[1]])
        optimizer = script.make_optimizer("constant", 0.01, 1)
        optimizer.build([generated])
        compile_step(script.transfer_style_step)(generated, small_encoding_model, *targets, optimizer, LAYERS)
        pictures.append(generated.numpy())
    assert np.abs(pictures[0] - pictures[1]).mean() < 1e-4


def test_a_run_leaves_weights_and_inputs_as_they_were_and_traces_once(
    vgg_model, encoding_model, imgs, tmp_path, monkeypatch
):
    weights, inputs = vgg_model.get_weights(), [img.copy() for img in imgs]
    traces, step = [], script.transfer_style_step
    monkeypatch.setattr(script, "transfer_style_step", lambda *a, **b: traces.append(1) or step(*a, **b))
    run(encoding_model, imgs, tmp_path)
    assert len(traces) == 1
    for before, after in zip(weights + inputs, vgg_model.get_weights() + list(imgs), strict=True):
        np.testing.assert_array_equal(before, after)


def test_layer_weights_are_honoured_the_content_rows_too(vgg_model, imgs, tmp_path):
    """Weights in ENCODING_LAYERS and weights of the costs are the same factor in two places."""
    layers = [("block1_conv1", 0.5), ("block2_conv1", 0.1), ("block3_conv2", 1.0)]
    scaled = [("block1_conv1", 1.0), ("block2_conv1", 0.2), ("block3_conv2", 4.0)]
    settings = {"content_weight": 8.0, "style_weight": 6.0}
    encoding_model = script.get_vgg_encodings(vgg_model, layers)
    a, _ = run(encoding_model, imgs, tmp_path, encoding_layers=layers, **settings)
    settings = {"content_weight": 2.0, "style_weight": 3.0}
    b, _ = run(encoding_model, imgs, tmp_path, encoding_layers=scaled, **settings)
    np.testing.assert_allclose(a["cost"], b["cost"], rtol=1e-4)
    np.testing.assert_allclose(np.array(a["content_cost"]) * 4, b["content_cost"], rtol=1e-4)


@needs_quality
def test_the_real_network_brings_the_style_cost_to_a_third_of_the_contents_own(tmp_path):
    vgg_model, weights = script.build_vgg19(), np.load(QUALITY / "vgg19.npz")
    for layer in vgg_model.layers:
        if f"{layer.name}/kernel" in weights:
            layer.set_weights([weights[f"{layer.name}/kernel"], weights[f"{layer.name}/bias"]])
    encoding_model = script.get_vgg_encodings(vgg_model)
    content, (style,) = script.load_images(QUALITY / "tubingen.jpg", QUALITY / "starry_night.jpg", 64)
    (_, own, _), _ = cost_and_gradient(encoding_model, (content, style), content)
    settings = {"epochs": 40, "schedule": "one-cycle", "learn_rate": 0.05}
    history, _ = run(encoding_model, (content, style), tmp_path, **settings)
    assert history["style_cost"][-1] < 0.33 * own
