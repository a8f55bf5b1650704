"""What all tests share: script.py on the path, no way to the network, small networks, small pictures and runs."""

import inspect
import os
import runpy
import signal
import socket
import subprocess
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
for name in ("http_proxy", "https_proxy"):  # a closed port: what is not on 127.0.0.1 is out of reach, at once
    os.environ[name] = os.environ[name.upper()] = "http://127.0.0.1:9"
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` has it ignored, by the runs started here too
os.environ["no_proxy"] = os.environ["NO_PROXY"] = "127.0.0.1"

import script  # noqa: E402, I001  before TensorFlow, because it sets its environment
import keras  # noqa: E402
import tensorflow as tf  # noqa: E402


def pytest_configure(config):
    config.addinivalue_line("filterwarnings", "ignore:__array__ implementation:DeprecationWarning")  # Keras' matter


IMAGES = {f"{name}_img_path": str(ROOT / "images" / f"{name}.jpg") for name in ("content", "style")}
SMALL_RUN = IMAGES | {"output_path": "out", "img_size": 32, "epochs": 2, "vgg_mode": "fit", "precision": "float32"}
QUALITY = ROOT.parent / "shared" / "quality"
needs_quality = pytest.mark.skipif(not QUALITY.is_dir(), reason="../shared/quality, with real pictures, is not there")
LAYERS = [("block1_conv1", 0.2), ("block1_conv2", 1.0)]  # for tests of runs: a twentieth of the time


def build_few_channels(include_top, weights):
    """Keras' VGG19 with 8 channels everywhere: a second where VGG19 takes ten. It obeys ~/.keras/keras.json, too."""
    is_last = keras.config.image_data_format() == "channels_last"
    x = inputs = keras.Input((None, None, 3) if is_last else (3, None, None))
    for block, convolutions in enumerate((2, 2, 4, 4, 4), 1):
        for conv in range(1, convolutions + 1):
            name = f"block{block}_conv{conv}"
            x = keras.layers.Conv2D(8, 3, padding="same", activation="relu", name=name)(x)
        x = keras.layers.MaxPooling2D(name=f"block{block}_pool")(x)
    return keras.Model(inputs, x)


@pytest.fixture
def few_channels(monkeypatch):
    """Networks with few channels."""
    monkeypatch.setattr(keras.applications, "VGG19", build_few_channels)


@pytest.fixture(scope="session")
def few_vgg_model():
    """He-initialised, because with Keras' default initialiser the gradient lies under Adam's epsilon."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(keras.applications, "VGG19", build_few_channels)
        return script.build_vgg19("float32", seed=1)


@pytest.fixture(scope="session")
def small_encoding_model(few_vgg_model):
    """The two LAYERS alone."""
    return script.get_vgg_encodings(few_vgg_model, LAYERS)


@pytest.fixture(scope="session")
def imgs():
    """A content and a style image, (1, 32, 32, 3) in [0, 1], with gradients, edges and noise in them."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[0:32, 0:32, 0:1][:2] / 32
    content = np.concatenate([rows, columns, rows * columns], -1) + (rows + columns > 1) * 0.3
    style = 0.5 + 0.4 * np.sin(40 * rows * columns + np.arange(3)) + 0.1 * rng.standard_normal((32, 32, 3))
    return tuple(np.float32(np.clip(img, 0, 1))[None] for img in (content, style))


def stop_at(monkeypatch, *names):
    """Let Ctrl-C come when images of these names are saved, one after the other."""
    save, to_come = script.save_image, [*names]

    def save_and_stop(img, path, metadata):
        save(img, path, metadata)
        if [path.name] == to_come[:1]:
            to_come.pop(0)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(script, "save_image", save_and_stop)


def get_process_state():
    """What a library must leave as it is."""
    stderr = os.fstat(2)
    streams = stderr.st_dev, stderr.st_ino, socket.getdefaulttimeout(), warnings.filters[:]
    return *streams, Image.MAX_IMAGE_PIXELS, os.getcwd(), dict(os.environ)


def run(encoding_model, imgs, folder, **settings):
    """A short run; returns its history and the picture."""
    before = get_process_state()
    content, style = imgs
    generated = script.initialize_generated_image(content)
    settings = {"epochs": 3, "learn_rate": 0.02} | settings
    if "encoding_layers" not in settings and len(encoding_model.outputs) == len(LAYERS):
        settings["encoding_layers"] = LAYERS
    picture, history = script.transfer_style_loop(
        generated, content, [style], encoding_model, output_path=folder, **settings
    )
    expected = script.apply_mask(generated, content, settings.get("mask"))
    np.testing.assert_array_equal(picture, expected[0])
    assert get_process_state() == before
    return history, picture[None]


def pixels(folder):
    """The numbers of a folder's images, by name; what is not a whole image raises."""
    return {path.name: np.asarray(Image.open(path)).tobytes() for path in sorted(folder.glob("*.png"))}


def make_files(folder, *names):
    """Small pictures, each of a colour of its own."""
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 40), (number, 0, 0)).save(folder / name, "PNG")


# Oracles


def compute_gradients(function, *xs):
    """The gradients of a scalar function, in graph mode, as a run takes them."""

    @tf.function
    def compiled(*xs):
        with tf.GradientTape() as tape:
            tape.watch(xs)
            y = function(*xs)
        return tape.gradient(y, xs)

    return [g.numpy() for g in compiled(*map(tf.constant, xs))]


def gram_oracle(encoding, mask=None):
    """The Gram matrix of an activation, (1, h, w, C), in float64; a place counts as much as the mask, (h, w), says."""
    _, h, w, c = encoding.shape
    mask = np.ones((h, w)) if mask is None else mask
    f = np.float64(encoding[0])
    return np.array([[np.sum(mask * f[..., i] * f[..., j]) / np.sum(mask) for j in range(c)] for i in range(c)])


def shrink_oracle(mask, height, width):
    """A mask, (1, H, W, 1), shrunk to (height, width): means under a triangle that covers two pixels of the result."""

    def means(old, new):
        distances = (np.arange(new)[:, None] + 0.5) * old / new - (np.arange(old) + 0.5)
        triangles = np.maximum(0, 1 - np.abs(distances) / (old / new))
        return triangles / triangles.sum(1, keepdims=True)

    return means(mask.shape[1], height) @ np.float64(mask[0, ..., 0]) @ means(mask.shape[2], width).T


def variation_oracle(img, chroma_weight=50):
    """README's variation cost of a picture, (1, H, W, 3), in float64."""
    red, green, blue = np.moveaxis(np.float64(img[0]), -1, 0)
    y = 0.299 * red + 0.587 * green + 0.114 * blue  # ITU-R BT.601
    u, v = 0.492111 * (blue - y), 0.877283 * (red - y)

    def squares(x):
        return np.mean((x[1:, :-1] - x[:-1, :-1]) ** 2 + (x[:-1, 1:] - x[:-1, :-1]) ** 2)

    return y.size / 400**2 * (squares(y) + chroma_weight * (squares(u) + squares(v)))


def encodings_oracle(vgg_model, img, names):
    """The layers' activations for a picture, (1, H, W, 3) in [0, 1], in float64."""
    x = np.float64(img)[..., ::-1] * 255 - [103.939, 116.779, 123.68]  # VGG's own input: BGR minus ImageNet's means
    encodings = {}
    for layer in vgg_model.layers[1:]:
        if "conv" in layer.name:
            kernel, bias = map(np.float64, layer.get_weights())
            x = tf.nn.relu(tf.nn.conv2d(x, kernel, 1, "SAME") + bias)
        else:
            x = tf.nn.max_pool2d(x, 2, 2, "SAME")
        encodings[layer.name] = x
    return [encodings[name].numpy() for name in names]


def error_oracle(x, target):
    """mean((x - target)^2) / mean(target^2) in float64."""
    x, target = np.float64(x), np.float64(target)
    return np.mean((x - target) ** 2) / np.mean(target**2)


def costs_oracle(vgg_model, img, content_img, style_imgs, layers, content_weight, style_weight, tv_weight, mask=None):
    """README's total, style, content and variation cost of an image under a mask, in float64.

    Style counts as much as the mask is white.
    """
    if mask is not None:
        img = mask * np.float64(img) + (1 - np.float64(mask)) * content_img
    names, weights = zip(*layers, strict=True)
    *style_encodings, content_encoding = encodings_oracle(vgg_model, img, names)
    targets = [encodings_oracle(vgg_model, style_img, names) for style_img in style_imgs]
    style_cost = 0
    for layer, encoding in enumerate(style_encodings):
        target = np.mean([gram_oracle(encodings[layer]) for encodings in targets], 0)
        places = None if mask is None else shrink_oracle(mask, *encoding.shape[1:3])
        style_cost += weights[layer] * error_oracle(gram_oracle(encoding, places), target)
    style_cost *= 1 if mask is None else np.mean(mask)
    content_target = encodings_oracle(vgg_model, content_img, names)[-1]
    content_cost = weights[-1] * error_oracle(content_encoding, content_target)
    tv_cost = variation_oracle(img)
    cost = content_weight * content_cost + style_weight * style_cost + tv_weight * tv_cost
    return cost, style_cost, content_cost, tv_cost


def make_step(vgg_model, layers, generated_img, content_img, style_imgs, learn_rate=0, **settings):
    """A compiled step of gradient descent, which returns the gradient and the costs. By itself it moves nothing."""
    encoding_model = script.get_vgg_encodings(vgg_model, layers)
    targets = script.get_targets(encoding_model, content_img, style_imgs)
    gradients = []

    def move(pairs):
        gradients.append(pairs[0][0])
        generated_img.assign_sub(learn_rate * pairs[0][0])

    settings |= {"optimizer": types.SimpleNamespace(apply_gradients=move), "encoding_layers": layers}
    settings |= {"content_img": content_img}

    @tf.function
    def step():
        costs = script.transfer_style_step(generated_img, encoding_model, *targets, **settings)
        return gradients[-1], costs

    return step


def check_step(vgg_model, imgs, mask=None):
    """Check a step's costs and gradient against float64, and that it moves the image by its optimizer, within [0, 1].

    The gradient is compared along random directions, because a wrong one is off there by the length of its error.
    """
    content_img, style_img = imgs
    style_imgs = [style_img, np.tile(style_img**2, (1, 1, 2, 1))]
    layers = [("block1_conv1", 0.4), ("block2_conv1", 0.2), ("block3_conv1", 0.6)]
    weights = {"content_weight": 1.5, "style_weight": 100.0, "tv_weight": 300.0}  # each has a third of the gradient
    rng = np.random.default_rng(1)
    start = np.float32(rng.uniform(0.1, 0.9, content_img.shape))
    generated_img = tf.Variable(start)
    gradient, costs = make_step(
        vgg_model, layers, generated_img, content_img, style_imgs, learn_rate=0.5, mask=mask, **weights
    )()

    def expected(img):
        return costs_oracle(vgg_model, img, content_img, style_imgs, layers, mask=mask, **weights)

    costs = [costs[name] for name in ("cost", "style_cost", "content_cost", "tv_cost")]
    np.testing.assert_allclose(costs, expected(start), rtol=1e-5)
    for _ in range(4):
        direction = rng.standard_normal(start.shape)
        forward, backward = (expected(start + sign * 1e-6 * direction)[0] for sign in (1, -1))
        numeric = (forward - backward) / 2e-6
        np.testing.assert_allclose(np.sum(gradient * direction), numeric, atol=1e-4 * np.linalg.norm(gradient))
    np.testing.assert_allclose(generated_img, np.clip(start - 0.5 * gradient, 0, 1), rtol=1e-6)


def count_gradients():
    """The length of the registry in which TensorFlow keeps each traced custom gradient, and its graph, for good."""
    from tensorflow.python.framework import ops

    return len(ops.gradient_registry.list())


# Processes


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """Settings that give weights to a network of few channels, for tests of what does not depend on what it sees."""
    path = tmp_path_factory.mktemp("weights") / "few.weights.h5"
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(keras.applications, "VGG19", build_few_channels)
        script.build_vgg19().save_weights(path)
    return {"vgg_mode": "local", "vgg_network_path": str(path)}


@pytest.fixture
def few_weights(weights, few_channels):
    """The same settings, and such networks in this process."""
    return weights


@pytest.fixture(scope="session")
def program(tmp_path_factory):
    """A copy of script.py with such networks, to be run as a process."""
    path = tmp_path_factory.mktemp("program") / "script.py"
    text = inspect.getsource(script)
    assert text.count("keras.applications.VGG19(") == 1 == text.count("def build_vgg19(")
    text = text.replace("keras.applications.VGG19(", "build_few_channels(")
    text = text.replace("def build_vgg19(", inspect.getsource(build_few_channels) + "\n\ndef build_vgg19(")
    path.write_text(text, "utf-8")
    return path


def to_flags(settings):
    """The words of a command line. A list gives a flag several, True none."""
    words = []
    for name, value in settings.items():
        values = value if isinstance(value, list) else [value]
        words += ["--" + name.replace("_", "-"), *(str(value) for value in values if value is not True)]
    return words


@pytest.fixture
def run_here(monkeypatch):
    """A function that runs a program in this process, in a tenth of the time of a new one, and returns its exit code.

    What the program's start changes of the process is as it was after the test.
    """
    timeout, filters = socket.getdefaulttimeout(), warnings.filters[:]
    pixels, text = Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK

    def run_program(path, *words, settings=()):
        monkeypatch.setattr(sys, "argv", [str(path), *words, *to_flags(dict(settings))])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(path), run_name="__main__")
        return end.value.code

    yield run_program
    socket.setdefaulttimeout(timeout)
    warnings.filters[:] = filters
    Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = pixels, text
    script.keras.utils.enable_interactive_logging()


def start_python(cwd: Path, *words, settings=(), stdout=subprocess.PIPE, **env) -> subprocess.Popen:
    """Start Python as a user would: without what importing script has put into this process's environment."""
    theirs = ("KERAS", "TF", "TPU", "HDF5", "ENABLE_RUNTIME")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(theirs)}
    return subprocess.Popen(
        [sys.executable, *map(str, words), *to_flags(dict(settings))], cwd=cwd,
        env=clean | {"KERAS_HOME": f"{cwd}.keras"} | env,
        stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.PIPE, encoding="utf-8",
    )  # fmt: skip


def run_python(cwd: Path, *words, **options) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    process = start_python(cwd, *words, **options)
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err
