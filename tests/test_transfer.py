"""Steps and runs: Adam against NumPy, which epochs are saved, one run independent of another. All in graph mode."""

import contextlib
import itertools
import re
import signal
import threading
import time
import types

import numpy as np
import pytest
import tensorflow as tf
from conftest import QUALITY, needs_quality
from PIL import Image

import script


def run(encoding_model, imgs, folder, **settings):
    """A short run; returns its history and the picture."""
    content, style = imgs
    generated = script.initialize_generated_image(content)
    settings = {"epochs": 3, "learn_rate": 0.02} | settings
    history = script.transfer_style_loop(generated, content, style, encoding_model, output_path=folder, **settings)
    return history, generated.numpy()


def cost_and_gradient(encoding_model, imgs, x):
    """J and dJ/dx as README writes them, apart from script.py's costs."""

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
            rows, columns = x[:, 1:] - x[:, :-1], x[:, :, 1:] - x[:, :, :-1]
            variation = tf.reduce_mean(rows**2) + tf.reduce_mean(columns**2)
            cost = 10 * content + 40 * style + 5 * variation
        return (cost, style, content), tape.gradient(cost, x)

    costs, gradient = compiled(tf.constant(x))
    return [float(c) for c in costs], np.float64(gradient)


def test_three_epochs_are_adams_in_numpy(encoding_model, imgs, tmp_path):
    history, picture = run(encoding_model, imgs, tmp_path, save_every=1)
    x = np.float64(script.initialize_generated_image(imgs[0]).numpy())
    m = v = 0
    for t in (1, 2, 3):
        costs, g = cost_and_gradient(encoding_model, imgs, np.float32(x))
        ours = [history[name][t - 1] for name in ("cost", "style_cost", "content_cost")]
        np.testing.assert_allclose(ours, costs, rtol=1e-3)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        x -= 0.02 * np.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (np.sqrt(v) + 1e-7)
        x = np.clip(x, 0, 1)
    assert np.abs(picture - x).max() < 0.02 and np.abs(picture - x).mean() < 1e-4
    assert picture.min() >= 0 and picture.max() <= 1


def test_the_cost_falls(encoding_model, imgs, tmp_path):
    history, _ = run(encoding_model, imgs, tmp_path, epochs=40, save_every=1, tv_weight=0)
    assert history["cost"][-1] < 0.5 * history["cost"][0]
    np.testing.assert_allclose(
        history["cost"], 10 * np.array(history["content_cost"]) + 40 * np.array(history["style_cost"]), rtol=1e-5
    )


@pytest.mark.parametrize(("epochs", "save_every"), [
    *((epochs, None) for epochs in (1, 2, 7, 99, 100, 101, 250, 333, 25_000)),
    (2, 3), (3, 3), (7, 3), (333, 3), (7, 1000), (1000, 1000), (2345, 1000),
])  # fmt: skip
def test_saved_are_the_start_every_save_every_th_and_the_last(
    encoding_model, imgs, tmp_path, monkeypatch, capsys, epochs, save_every
):
    saved, zero = [], tf.constant(0.0)
    monkeypatch.setattr(script, "save_image", lambda img, path, text: saved.append(path.name))
    monkeypatch.setattr(script, "transfer_style_step", lambda *args: (zero, zero, zero))
    history, _ = run(encoding_model, imgs, tmp_path, epochs=epochs, save_every=save_every)
    interval = save_every or max(1, epochs // 100)
    expected = sorted({*range(0, epochs + 1, interval), epochs})
    assert saved == [f"image_{epoch:05}.png" for epoch in expected] and history["epoch"] == expected[1:]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(expected)  # one for each image but the start, and one at the end


def test_names_sort_in_a_run_of_a_million_epochs(encoding_model, imgs, tmp_path, monkeypatch):
    def stop(img, path, text):
        raise OSError(path.name)

    monkeypatch.setattr(script, "save_image", stop)
    with pytest.raises(OSError, match="image_0000000.png"):
        run(encoding_model, imgs, tmp_path, epochs=1_000_000)


def test_a_second_run_is_independent_of_the_first(encoding_model, imgs, tmp_path):
    alone = run(encoding_model, imgs, tmp_path / "a", learn_rate=0.01)
    run(encoding_model, imgs, tmp_path / "b", learn_rate=0.05, style_weight=1.0)
    again = run(encoding_model, imgs, tmp_path / "c", learn_rate=0.01)
    assert alone[0] == again[0]
    np.testing.assert_array_equal(alone[1], again[1])
    for folder in "ac":
        assert len(list((tmp_path / folder).glob("image_*.png"))) == 4
    assert (tmp_path / "a" / "image_00003.png").read_bytes() == (tmp_path / "c" / "image_00003.png").read_bytes()


def test_steps_from_the_same_picture_are_the_same_to_the_bit(encoding_model):
    """Large enough for threads to finish in another order, in which sums of more than two terms round otherwise."""
    content = np.random.default_rng(0).uniform(0, 1, (1, 192, 192, 3)).astype(np.float32)
    generated = script.initialize_generated_image(content)
    start = generated.numpy()
    *style, encoding = encoding_model(content[:, ::-1])
    grams, taken = [script.get_gram_matrix(a) for a in style], []

    @tf.function
    def step():
        optimizer = types.SimpleNamespace(apply_gradients=lambda pairs: taken.append(pairs[0][0]))
        costs = script.transfer_style_step(generated, encoding_model, grams, encoding, optimizer)
        return taken[-1], *costs

    results = set()
    for _ in range(20):
        generated.assign(start)
        results.add(b"".join(value.numpy().tobytes() for value in step()))
    assert len(results) == 1


def test_a_run_leaves_weights_and_inputs_as_they_were_and_traces_once(
    vgg_model, encoding_model, imgs, tmp_path, monkeypatch
):
    weights, inputs = vgg_model.get_weights(), [img.copy() for img in imgs]
    traces, step = [], script.transfer_style_step
    monkeypatch.setattr(script, "transfer_style_step", lambda *args: traces.append(1) or step(*args))
    run(encoding_model, imgs, tmp_path)
    assert len(traces) == 1
    for before, after in zip(weights + inputs, vgg_model.get_weights() + list(imgs), strict=True):
        np.testing.assert_array_equal(before, after)


def test_the_saved_image_is_the_picture_rounded(encoding_model, imgs, tmp_path):
    _, picture = run(encoding_model, imgs, tmp_path, text={"style_img_path": "sternennacht.jpg"})
    with Image.open(tmp_path / "image_00003.png") as img:
        np.testing.assert_array_equal(np.asarray(img), np.round(picture[0] * 255))
        assert img.text == {"style_img_path": "sternennacht.jpg", "epoch": "3"}


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


def test_ctrl_c_ends_the_epoch_saves_its_image_and_restores_the_handler(encoding_model, imgs, tmp_path, monkeypatch):
    clock, handler, calls = script.time.monotonic, signal.getsignal(signal.SIGINT), []

    def interrupting_clock():  # read at the start and then once in each epoch that is not saved
        calls.append(1)
        if len(calls) == 22:
            signal.raise_signal(signal.SIGINT)
        return clock()

    monkeypatch.setattr(script.time, "monotonic", interrupting_clock)
    monkeypatch.setattr(script, "is_interactive", lambda: True)
    with pytest.raises(KeyboardInterrupt, match=r"epoch \d+ of 5000, .*image_(\d+).png") as stopped:
        run(encoding_model, imgs, tmp_path, epochs=5000, save_every=5000)
    epoch, number = map(int, re.search(r"epoch (\d+) of .*image_(\d+).png", str(stopped.value)).groups())
    assert epoch == number < 30
    assert {path.name for path in tmp_path.glob("*.png")} == {"image_00000.png", f"image_{number:05}.png"}
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_terminal_sees_a_bar_with_the_costs(encoding_model, imgs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(script, "is_interactive", lambda: True)
    history, _ = run(encoding_model, imgs, tmp_path)
    bar = capsys.readouterr().out
    assert "\r" in bar and "3/3" in bar
    for name in ("cost", "style_cost", "content_cost"):
        value = history[name][-1]
        assert f"{name}: {value:.4f}" in bar or f"{name}: {value:.4e}" in bar


# L-BFGS


def minimize(matrix, b, x, steps, bounds=(-9.0, 9.0), **options):
    """Minimise x^T A x / 2 - b^T x in graph mode; returns each x on the way."""
    x, matrix, b = tf.Variable(x, dtype=tf.float32), tf.constant(matrix, tf.float32), tf.constant(b, tf.float32)
    optimizer = script.LBFGS(bounds=bounds, **options)
    optimizer.build([x])

    @tf.function
    def step():
        optimizer.apply_gradients([(tf.linalg.matvec(matrix, x) - b, x)])
        x.assign(tf.clip_by_value(x, *bounds))

    return [(step(), x.numpy())[1] for _ in range(steps)]


def quadratic(condition, n=30):
    """A rotated positive definite matrix."""
    rng = np.random.default_rng(0)
    axes, _ = np.linalg.qr(rng.standard_normal((n, n)))
    return axes @ np.diag(np.geomspace(1, condition, n)) @ axes.T, rng


def lbfgs_oracle(gradient, x, steps, history, max_step):
    """Algorithm 7.4 of Nocedal and Wright in float64, with their names; unbounded."""
    pairs, way, old = [], [], None
    for _ in range(steps):
        g = gradient(x)
        if old is not None and (x - old[0]) @ (g - old[1]) > 0:
            pairs = [*pairs, (x - old[0], g - old[1])][-history:]
        q, alphas = g.copy(), []
        for s, y in pairs[::-1]:
            alphas.insert(0, s @ q / (y @ s))
            q -= alphas[0] * y
        r = q * (pairs[-1][0] @ pairs[-1][1] / (pairs[-1][1] @ pairs[-1][1])) if pairs else q * 1e9
        for (s, y), alpha in zip(pairs, alphas, strict=True):
            r += s * (alpha - y @ r / (y @ s))
        old, x = (x, g), x - r * min(1, max_step / np.sqrt(np.mean(r**2)))
        way.append(x)
    return way


@pytest.mark.parametrize("history", [3, 20])
def test_lbfgs_is_the_two_loop_recursion(history):
    matrix, rng = quadratic(10)
    b, x = rng.standard_normal(30), rng.standard_normal(30)
    ours = minimize(matrix, b, x, 12, pairs=history, max_step=0.1)
    oracle = lbfgs_oracle(lambda x: matrix @ x - b, x, 12, history, 0.1)
    np.testing.assert_allclose(ours, oracle, atol=1e-3)
    np.testing.assert_allclose(ours[:5], oracle[:5], atol=1e-5)


def test_lbfgs_skips_a_pair_of_negative_curvature():
    matrix, rng = quadratic(10)
    matrix -= 3 * np.eye(30)  # saddle: some moves have negative curvature
    b, x = rng.standard_normal(30), rng.standard_normal(30)
    oracle = lbfgs_oracle(lambda x: matrix @ x - b, x, 10, 20, 0.1)
    np.testing.assert_allclose(minimize(matrix, b, x, 10, max_step=0.1), oracle, atol=1e-3)


@pytest.mark.parametrize(("condition", "steps"), [(1, 20), (10, 60), (1000, 250)])
def test_lbfgs_solves_a_rotated_quadratic(condition, steps):
    matrix, rng = quadratic(condition)
    solution = rng.standard_normal(30)
    ways = minimize(matrix, matrix @ solution, np.zeros(30), steps, max_step=0.1)
    np.testing.assert_allclose(ways[-1], solution, atol=1e-4)
    moves = np.diff([np.zeros(30), *ways], axis=0)
    assert np.sqrt(np.mean(moves**2, 1)).max() < 0.1 * 1.001


def test_lbfgs_finds_a_solution_on_its_bounds():
    matrix, rng = quadratic(1000)
    b = matrix @ rng.uniform(-0.5, 1.5, 30)
    x = minimize(matrix, b, np.full(30, 0.5), 400, bounds=(0.0, 1.0))[-1]
    gradient, held = matrix @ np.float64(x) - b, (x == 0) | (x == 1)
    assert 5 < held.sum() < 25 and x.min() >= 0 and x.max() <= 1
    np.testing.assert_allclose(gradient[~held], 0, atol=1e-3)  # Karush, Kuhn and Tucker
    assert (gradient[x == 0] > 0).all() and (gradient[x == 1] < 0).all()


def test_lbfgs_stays_where_the_gradient_is_zero():
    assert np.array_equal(minimize(np.eye(4), np.full(4, 0.5), np.full(4, 0.5), 3), np.full((3, 4), 0.5))


def test_lbfgs_needs_fewer_epochs_than_adam(encoding_model, imgs, tmp_path):
    adam, _ = run(encoding_model, imgs, tmp_path / "adam", epochs=60)
    lbfgs, picture = run(encoding_model, imgs, tmp_path / "lbfgs", epochs=30, optimizer="lbfgs")
    assert lbfgs["cost"][-1] < adam["cost"][-1] and 0 <= picture.min() < picture.max() <= 1


def test_a_run_stops_when_the_cost_hardly_falls(encoding_model, imgs, tmp_path, monkeypatch, capsys):
    costs = iter([8.0, 4.0, 2.0, 1.9, 1.0, 0.1])
    cost = tf.function(lambda: tf.ensure_shape(tf.py_function(lambda: next(costs), [], "float32"), ()))
    monkeypatch.setattr(script, "transfer_style_step", lambda *args: (cost(), 1.0, 1.0))
    history, _ = run(encoding_model, imgs, tmp_path, epochs=6, save_every=1, stop_below=0.1)
    assert history["epoch"] == [1, 2, 3, 4] and (tmp_path / "image_00004.png").exists()
    assert "5.00%" in capsys.readouterr().out


def test_of_several_style_images_the_gram_matrices_are_averaged(encoding_model, imgs, tmp_path, monkeypatch):
    step, seen = script.transfer_style_step, []
    monkeypatch.setattr(script, "transfer_style_step", lambda *args: seen.append(args[2]) or step(*args))
    content, style = imgs
    other = np.float32(np.random.default_rng(5).uniform(0, 1, (1, 40, 56, 3)))
    for styles in (style, other, [style, style, other], [style], [style, other], [other, style]):
        run(encoding_model, (content, styles), tmp_path / str(len(seen)), epochs=1)
    for first, second, blend, alone, half, turned in zip(*seen, strict=True):
        np.testing.assert_allclose(blend, (2 * first + second) / 3, rtol=1e-5)
        np.testing.assert_array_equal(alone, first)
        np.testing.assert_array_equal(half, turned)
        np.testing.assert_allclose(half, (first + second) / 2, rtol=1e-5)


# Checkpoints


def pixels(folder):
    """The numbers of a folder's images, by name; what is not a whole image raises."""
    return {path.name: np.asarray(Image.open(path)).tobytes() for path in sorted(folder.glob("*.png"))}


def fail_at(monkeypatch, function, n, error):
    """Let the n-th call of a function of os raise an error."""
    real, calls = getattr(script.os, function), []

    def failing(*args):
        calls.append(1)
        if len(calls) == n:
            raise error
        return real(*args)

    monkeypatch.setattr(script.os, function, failing)
    return calls


@pytest.fixture(scope="module", params=["adam", "lbfgs"])
def whole_run(request, encoding_model, imgs, tmp_path_factory):
    """Settings of a run of 6 epochs, its pictures, its history."""
    settings = {"optimizer": request.param, "epochs": 6, "save_every": 1}
    folder = tmp_path_factory.mktemp("whole")
    history, _ = run(encoding_model, imgs, folder, **settings)
    return settings, pixels(folder), history


def test_a_run_that_was_stopped_goes_on_to_the_same_pictures(whole_run, encoding_model, imgs, tmp_path, monkeypatch):
    settings, pictures, history = whole_run
    save = script.save_image
    for stop in ("image_00001.png", "image_00004.png"):  # during which a signal comes

        def interrupted_save(img, path, text, stop=stop):
            save(img, path, text)
            if path.name == stop:
                signal.raise_signal(signal.SIGTERM)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt) as stopped:
            patch.setattr(script, "save_image", interrupted_save)
            run(encoding_model, imgs, tmp_path, **settings)
        assert stopped.value.args[1] == signal.SIGTERM and "goes on" in stopped.value.args[0]
    assert set(pixels(tmp_path)) < set(pictures)
    again, _ = run(encoding_model, imgs, tmp_path, **settings)
    assert again == history and pixels(tmp_path) == pictures


def test_a_signal_between_saved_images_neither_ends_a_run_nor_changes_where_it_ends(
    encoding_model, imgs, tmp_path, monkeypatch
):
    settings = {"epochs": 60, "save_every": 10, "stop_below": 0.2}
    history, _ = run(encoding_model, imgs, tmp_path / "whole", **settings)
    last = history["epoch"][-1]
    assert 20 < last < 60
    calls = []

    def monotonic():  # is called once before the epochs and once in each
        calls.append(1)
        if len(calls) == last - 8:
            signal.raise_signal(signal.SIGINT)
        return time.monotonic()

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt, match=f"epoch {last - 9} of 60"):
        patch.setattr(script, "time", types.SimpleNamespace(monotonic=monotonic))
        run(encoding_model, imgs, tmp_path / "stopped", **settings)
    again, _ = run(encoding_model, imgs, tmp_path / "stopped", **settings)
    assert again == history


def test_a_run_in_a_thread_leaves_signals_alone(whole_run, encoding_model, imgs, tmp_path):
    settings, pictures, _ = whole_run
    handler = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=run, args=(encoding_model, imgs, tmp_path), kwargs=settings)
    thread.start()
    thread.join()
    assert pixels(tmp_path) == pictures and signal.getsignal(signal.SIGINT) is handler


def test_more_epochs_prolong_a_run(whole_run, encoding_model, imgs, tmp_path, capsys):
    settings, pictures, _ = whole_run
    run(encoding_model, imgs, tmp_path, **settings | {"epochs": 4})
    run(encoding_model, imgs, tmp_path, **settings)
    assert pixels(tmp_path) == pictures and "Going on after epoch 4" in capsys.readouterr().out
    (tmp_path / "image_00006.png").unlink()
    history, picture = run(encoding_model, imgs, tmp_path, **settings)  # nothing is left to do
    assert "is done" in capsys.readouterr().out and history["epoch"] == [1, 2, 3, 4, 5, 6]
    assert pixels(tmp_path) == pictures
    assert np.uint8(np.round(picture * 255)).tobytes() == pictures["image_00006.png"]


def test_without_the_optimizers_state_the_picture_is_another(whole_run, encoding_model, imgs, tmp_path, monkeypatch):
    """The control: what resumes from the image alone is found out."""
    settings, pictures, _ = whole_run
    run(encoding_model, imgs, tmp_path, **settings | {"epochs": 4})
    load = script.load_checkpoint

    def forget(path):
        record, (img, *state) = load(path)
        return record, [img, *(np.zeros_like(array) for array in state)]

    monkeypatch.setattr(script, "load_checkpoint", forget)
    run(encoding_model, imgs, tmp_path, **settings)
    assert pixels(tmp_path)["image_00006.png"] != pictures["image_00006.png"]


@pytest.mark.parametrize(("name", "changed"), [
    ("LEARN_RATE", {"learn_rate": 0.03}), ("STYLE_WEIGHT", {"style_weight": 41.0}),
    ("OPTIMIZER", {"optimizer": "lbfgs"}),
    ("EPOCHS", {"epochs": 1}), ("the content image", {"content_img": 0.9}), ("the start", {"generated_img": 0.9}),
    ("the style image", {"style_img": 0.9}),
])  # fmt: skip
def test_another_setting_or_input_starts_anew_and_keeps_the_old(encoding_model, imgs, tmp_path, capsys, name, changed):
    parts = {"generated_img": imgs[0], "content_img": imgs[0], "style_img": imgs[1]}
    settings = {"epochs": 2, "learn_rate": 0.02, "output_path": tmp_path, "encoding_model": encoding_model}

    def paint(**changed):
        given = parts | {part: parts[part] * changed.pop(part) for part in parts if part in changed}
        given["generated_img"] = tf.Variable(given["generated_img"])
        script.transfer_style_loop(**given, **settings | changed)

    paint()
    old = pixels(tmp_path)
    script.save_animation(tmp_path)
    paint(**changed)
    out = capsys.readouterr().out
    assert f"another value of {name}" in out and "earlier_1" in out
    assert pixels(tmp_path / "earlier_1") == old and (tmp_path / "earlier_1/checkpoint.npz").exists()
    assert (tmp_path / "earlier_1/painting.webp").exists() and not (tmp_path / "painting.webp").exists()
    paint()
    assert pixels(tmp_path) == old
    assert (tmp_path / "earlier_2").is_dir() == (name != "EPOCHS")  # fewer are prolonged


def test_other_weights_start_anew(encoding_model, imgs, tmp_path, capsys):
    run(encoding_model, imgs, tmp_path, epochs=1)
    other = script.get_vgg_encodings(script.build_vgg19("float32", seed=2))
    run(other, imgs, tmp_path, epochs=1)
    assert "another value of the network's weights" in capsys.readouterr().out


def damage(data, kind):
    middle = len(data) // 2
    return {
        "flipped": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :], "cut": data[:middle], "empty": b"",
        "text": b"a checkpoint", "pickle": b"cos\nsystem\n(S'touch pwned'\ntR.",
    }[kind]  # fmt: skip


@pytest.mark.parametrize("kind", ["flipped", "cut", "empty", "text", "pickle"])
def test_a_damaged_checkpoint_is_named_and_set_aside(encoding_model, imgs, tmp_path, capsys, kind):
    settings = {"epochs": 2, "save_every": 1}
    run(encoding_model, imgs, tmp_path, **settings)
    old, checkpoint = pixels(tmp_path), tmp_path / "checkpoint.npz"
    checkpoint.write_bytes(damage(checkpoint.read_bytes(), kind))
    run(encoding_model, imgs, tmp_path, **settings)
    warning = capsys.readouterr().err
    assert f"{checkpoint} is damaged" in warning and warning.count("\n") == 1
    assert (tmp_path / "damaged_checkpoint.npz").exists() and pixels(tmp_path / "earlier_1") == pixels(tmp_path) == old


def test_arrays_exchanged_in_a_checkpoint_do_not_pass_its_hash(encoding_model, imgs, tmp_path):
    run(encoding_model, imgs, tmp_path, epochs=1)
    path = tmp_path / "checkpoint.npz"
    with np.load(path) as file:
        arrays = dict(file)
    arrays["arr_1"] = arrays["arr_1"] * np.float32(0.5)
    np.savez(path, **arrays)  # with CRCs that are right
    assert script.load_checkpoint(path) == ({}, []) and not path.exists()


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_fault_at_any_write_leaves_what_was_there(encoding_model, imgs, tmp_path, monkeypatch, function):
    settings, faults = {"epochs": 3, "save_every": 1}, 0
    run(encoding_model, imgs, tmp_path / "whole", **settings)
    pictures = pixels(tmp_path / "whole")
    for n in itertools.count(1):  # of the writes, of images and checkpoints
        folder = tmp_path / str(n)
        with monkeypatch.context() as patch, contextlib.suppress(OSError):
            calls = fail_at(patch, function, n, OSError(28, "No space left on device"))
            run(encoding_model, imgs, folder, **settings)
        before = pixels(folder) if folder.exists() else {}
        assert all(pictures[name] == picture for name, picture in before.items())
        assert not list(folder.glob(".*"))  # no temporary file
        assert not (folder / "checkpoint.npz").exists() or script.load_checkpoint(folder / "checkpoint.npz")[0]
        if len(calls) < n:
            break
        faults += 1
        run(encoding_model, imgs, folder, **settings)
        assert pixels(folder) == pictures
    assert faults >= 6  # four images, the first and the last checkpoint


def test_a_write_fault_is_one_line(encoding_model, imgs, tmp_path, monkeypatch):
    fail_at(monkeypatch, "fsync", 3, OSError(28, "No space left on device"))
    with pytest.raises(OSError, match="image_00001.png cannot be written: No space left on device") as error:
        run(encoding_model, imgs, tmp_path, epochs=3, save_every=1)
    assert "\n" not in str(error.value) and "OUTPUT_PATH" in str(error.value)


@pytest.mark.parametrize("where", ["image", "gradient", "learning rate"])
@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_a_picture_that_is_nan_is_not_saved(encoding_model, imgs, tmp_path, monkeypatch, where, optimizer):
    """In graph mode, where convolutions turn NaN into 0 and the cost may stay finite."""
    step, nan = script.transfer_style_step, tf.constant(np.nan)

    def poisoned(generated_img, encoding_model, grams, content, optimizer, *args):
        late = optimizer.iterations >= 2
        if where == "learning rate":
            optimizer._learning_rate = lambda: tf.where(late, nan, 0.02)
        if where == "gradient":
            update = optimizer.update_step
            optimizer.update_step = lambda g, *rest: update(tf.where(late, nan, g), *rest)
        costs = step(generated_img, encoding_model, grams, content, optimizer, *args)
        if where == "image":
            pixel = tf.one_hot([17], 32 * 32 * 3, on_value=tf.where(late, nan, 0.0))
            generated_img.assign_add(tf.reshape(pixel, generated_img.shape))
        return costs

    monkeypatch.setattr(script, "transfer_style_step", poisoned)
    with pytest.raises(FloatingPointError, match=r"after epoch 3.*LEARN_RATE.*image_00002.png"):
        run(encoding_model, imgs, tmp_path, epochs=6, save_every=1, optimizer=optimizer)
    assert set(pixels(tmp_path)) == {f"image_{epoch:05}.png" for epoch in range(3)}
    record, arrays = script.load_checkpoint(tmp_path / "checkpoint.npz")
    assert record["epoch"] <= 2 and all(np.isfinite(array).all() for array in arrays)


def test_checkpoints_are_at_most_a_minute_apart(encoding_model, imgs, tmp_path, monkeypatch):
    minutes = iter(range(1000))
    monkeypatch.setattr(script.time, "monotonic", lambda: 61.0 * next(minutes))
    kept = []
    real = script.np.savez
    monkeypatch.setattr(script.np, "savez", lambda *args, **kwargs: kept.append(1) or real(*args, **kwargs))
    run(encoding_model, imgs, tmp_path, epochs=5, save_every=5)
    assert len(kept) == 6  # the start's and one each epoch


@needs_quality
def test_real_filters_paint_the_style_within_5_percent_of_the_contents_own(tmp_path):
    vgg_model, weights = script.build_vgg19(), np.load(QUALITY / "vgg19_blocks1-3.npz")
    for layer in vgg_model.layers:
        if f"{layer.name}/kernel" in weights:
            layer.set_weights([weights[f"{layer.name}/kernel"], weights[f"{layer.name}/bias"]])
    encoding_model = script.get_vgg_encodings(vgg_model)
    imgs = script.load_images(QUALITY / "tubingen.jpg", QUALITY / "starry_night.jpg", 96)
    (_, own, _), _ = cost_and_gradient(encoding_model, imgs, imgs[0])
    history, _ = run(encoding_model, imgs, tmp_path, epochs=150, save_every=150)
    assert history["style_cost"][-1] < 0.05 * own
