"""Neural style transfer with VGG19: paint the content of one picture in the style of another.

    python script.py                                       the settings below
    python script.py --epochs 300 --learn-rate 0.02        some of them changed; --help lists all

The pixels of the generated image are the only variables. A cost compares VGG19's activations for the generated image
with those for the two pictures: the last convolution holds the content, the Gram matrices of five convolutions hold the
style. Adam walks the pixels down that cost.

Source: Gatys, Ecker and Bethge, "Image Style Transfer Using Convolutional Neural Networks", CVPR 2016.
Everywhere outside the encoding model a picture is RGB float32 in [0, 1] of shape (1, H, W, 3).
"""

import argparse
import contextlib
import datetime
import hashlib
import inspect
import io
import numbers
import os
import re
import signal
import socket
import sys
import tempfile
import threading
import time
import typing
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin


@contextlib.contextmanager
def silence_stderr():
    """Silence the process's stderr: TensorFlow writes to it while loading, before it reads any of its settings."""
    stderr = os.dup(2)
    with open(os.devnull, "w") as devnull:
        os.dup2(devnull.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


os.environ["KERAS_BACKEND"] = "tensorflow"  # whatever ~/.keras/keras.json says
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
with silence_stderr():
    import keras
    import tensorflow as tf
tf.get_logger().setLevel("ERROR")

# ------ Settings -----------------------------------------------------------------------------------------------------
# Each is also a flag of the command line, IMG_SIZE as --img-size, and a parameter of the functions it feeds.

# What to paint
CONTENT_IMG_PATH = "images/content.jpg"  # JPEG, PNG, WebP, BMP, TIFF or GIF
STYLE_IMG_PATH = "images/style.jpg"  # JPEG, PNG, WebP, BMP, TIFF or GIF
OUTPUT_PATH = "output_images/"  # folder for the images of a run, made if it is not there
IMG_SIZE = 400  # pixels, height and width, at least 32; time and memory grow with its square

# How it looks
CONTENT_WEIGHT = 10.0  # 0 to 1e6; more keeps more of the content's shapes
STYLE_WEIGHT = 40.0  # 0 to 1e6; more takes more of the style's strokes and colours
CONTENT_LAYER = ("block5_conv4", 1.0)  # an earlier block holds the content's details tighter
ENCODING_LAYERS = [  # name:weight of the style layers, then of the content layer; later blocks give larger strokes
    ("block1_conv1", 0.2),
    ("block2_conv1", 0.2),
    ("block3_conv1", 0.2),
    ("block4_conv1", 0.2),
    ("block5_conv1", 0.2),
    CONTENT_LAYER,
]
NOISE_MAGNITUDE = 0.2  # 0 to 1, uniform noise added to the content image to start from
SEED = 0  # 0 or more; another number gives other noise, and other filters where they are fitted

# How long
OPTIMIZER = "adam"  # 'adam', or 'lbfgs' for a better picture in a hundred epochs
EPOCHS = 25_000  # 1 or more steps
LEARN_RATE = 0.001  # above 0, up to 1, of Adam; 0.02 gets there in a few hundred epochs, with a little more grain
SAVE_EVERY = None  # epochs from one saved image to the next; by default a hundredth of EPOCHS
STOP_BELOW = None  # 0 to 1; ends the run when the cost fell by less than this fraction between two saved images

# With what network
VGG_MODE = "auto"  # 'auto', 'download', 'local' or 'fit'; see get_vgg_model()
VGG_NETWORK_PATH = "model/"  # a file with weights (.h5, .weights.h5, .keras) or a folder that holds one
PRECISION = "auto"  # 'float32', 'mixed_bfloat16' or 'auto' for the faster one here

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
VGG19_BLOCKS = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))  # channels and convolutions of each block
VGG19_LAYERS = [f"block{b}_conv{c}" for b, (_, n) in enumerate(VGG19_BLOCKS, 1) for c in range(1, n + 1)]
WEIGHTS_URL = (  # Keras' own address and MD5 of VGG19 without top
    "https://storage.googleapis.com/tensorflow/keras-applications/vgg19/vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5"
)
WEIGHTS_HASH = "253f8cb515780f3b799900260a226db6"
WEIGHTS_SUFFIXES = (".h5", ".hdf5", ".keras")


def is_number(value, low: float, high: float) -> bool:
    return isinstance(value, numbers.Real) and low <= value <= high


def is_whole(value, low: int, high: int = 2**31) -> bool:
    return isinstance(value, numbers.Integral) and low <= value <= high


def is_encoding(rows) -> bool:
    return len(rows) > 1 and all(name in VGG19_LAYERS and is_number(weight, 0, 1e6) for name, weight in rows)


def is_folder(path) -> bool:
    return all(p.is_dir() for p in (Path(path), *Path(path).parents) if os.path.lexists(p))


LEGAL = {  # setting: (test, what was expected)
    "output_path": (is_folder, "a folder, or a name for a new one"),
    "img_size": (lambda v: is_whole(v, 32), "a whole number of pixels, at least 32"),
    "content_weight": (lambda v: is_number(v, 0, 1e6), "a number from 0 to 1e6"),
    "style_weight": (lambda v: is_number(v, 0, 1e6), "a number from 0 to 1e6"),
    "encoding_layers": (is_encoding, "style layers, then the content layer, each of block1_conv1 to block5_conv4 with "
                                     "a weight from 0 to 1e6, such as block1_conv1:0.2 block5_conv4:1"),
    "noise_magnitude": (lambda v: is_number(v, 0, 1), "a number from 0 to 1"),
    "seed": (lambda v: is_whole(v, 0), "a whole number from 0 to 2**31"),
    "epochs": (lambda v: is_whole(v, 1), "a whole number, 1 or more"),
    "learn_rate": (lambda v: is_number(v, 0, 1) and v > 0, "a number above 0 and up to 1, such as 0.02"),
    "save_every": (lambda v: v is None or is_whole(v, 1), "a whole number, 1 or more"),
    "optimizer": (lambda v: v in ("adam", "lbfgs"), "'adam' or 'lbfgs'"),
    "stop_below": (lambda v: v is None or is_number(v, 0, 1), "a number from 0 to 1, such as 0.01"),
    "vgg_mode": (lambda v: v in ("auto", "download", "local", "fit"), "'auto', 'download', 'local' or 'fit'"),
    "vgg_network_path": (bool, "a weights file, or a folder for one"),
    "precision": (lambda v: v in ("auto", "float32", "mixed_bfloat16"), "'auto', 'float32' or 'mixed_bfloat16'"),
}


def check_settings(**settings) -> None:
    """Check settings, given by their names in lower case, before any work is done with them.

    Raises:
        ValueError: for the first one with a value that is not legal.
    """
    for name, value in settings.items():
        is_legal, expected = LEGAL.get(name, (lambda value: True, ""))
        try:
            legal = is_legal(value)
        except (TypeError, ValueError):  # of a type that the test cannot take
            legal = False
        if not legal:
            raise ValueError(f"{name.upper()} must be {expected}. Received: {value!r}")


def is_interactive() -> bool:
    """Tell whether somebody watches: a terminal or a notebook, where a progress bar can be drawn."""
    return sys.stdout is not None and sys.stdout.isatty() or "ipykernel" in sys.modules


# ------ Images -------------------------------------------------------------------------------------------------------


def load_image(path: str, img_size: int = IMG_SIZE) -> np.ndarray:
    """Read a picture from a file: the only way in.

    EXIF rotation is applied, transparency is laid over white, of an animation the first frame is taken, 16-bit grey is
    scaled by 65535 and 32-bit grey by its own range.

    Args:
        path: a JPEG, PNG, WebP, BMP, TIFF or GIF file.
        img_size: height and width to resize to, in pixels.

    Returns:
        RGB float32 in [0, 1], shape (1, img_size, img_size, 3).

    Raises:
        OSError: if there is no such file or it is not a whole picture of these kinds.
    """
    check_settings(img_size=img_size)
    remedy = f"Expected a whole picture as {', '.join(IMAGE_FORMATS)}; give another file"
    if not Path(path).is_file():  # a folder, or a FIFO that would block
        raise OSError(f"{path} is {'not a file' if os.path.lexists(path) else 'not there'}. {remedy}")
    try:
        with warnings.catch_warnings(), Image.open(path, formats=IMAGE_FORMATS) as img:
            warnings.simplefilter("ignore")
            img = ImageOps.exif_transpose(img)
            if img.mode[0] in "IF":  # grey with more than 8 bits, which Pillow would clip
                grey = np.asarray(img, np.float64)
                if not np.isfinite(grey).all():
                    raise ValueError("it has pixels that are NaN or infinite")
                low, high = (0, 65535) if img.mode.startswith("I;16") else (grey.min(), grey.max())
                img = Image.fromarray(np.uint8(np.round((grey - low) / max(high - low, 1e-12) * 255)))
            elif img.has_transparency_data:
                img = img.convert("RGBA")
                img = Image.alpha_composite(Image.new("RGBA", img.size, "white"), img)
            img = img.convert("RGB").resize((img_size, img_size), Image.Resampling.LANCZOS)
    except Exception as error:  # Pillow raises many kinds for a damaged file
        raise OSError(f"{path} cannot be read: {error}. {remedy}") from error
    return np.asarray(img, np.float32)[None] / 255  # (1, H, W, 3)


def load_images(content_img_path: str = CONTENT_IMG_PATH, style_img_path: str = STYLE_IMG_PATH,
                img_size: int = IMG_SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Read the content image and the style image, both as `load_image()` gives them."""
    return load_image(content_img_path, img_size), load_image(style_img_path, img_size)


def initialize_generated_image(content_img: np.ndarray, noise_magnitude: float = NOISE_MAGNITUDE,
                               seed: int = SEED) -> tf.Variable:
    """Make the variable that becomes the picture: content + noise in [-noise_magnitude, noise_magnitude], clipped."""
    check_settings(noise_magnitude=noise_magnitude, seed=seed)
    noise = np.random.default_rng(seed).uniform(-noise_magnitude, noise_magnitude, np.shape(content_img))
    return tf.Variable(np.clip(content_img + noise, 0, 1), dtype=tf.float32, name="generated_img")


def save_image(img: np.ndarray, path: str | Path, text: dict | None = None) -> None:
    """Write a picture as PNG: the only way out. The file appears under its name only when it is whole.

    Args:
        img: RGB in [0, 1], shape (1, H, W, 3); rounded, not truncated, to 0..255.
        path: name of the file; its folder is made if it is not there.
        text: names and values to store in the PNG's text.
    """
    path, info, png = Path(path), PngImagePlugin.PngInfo(), io.BytesIO()
    for name, value in (text or {}).items():
        info.add_text(name, str(value))
    Image.fromarray(np.uint8(np.round(np.clip(img[0], 0, 1) * 255))).save(png, "PNG", pnginfo=info)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(png.getvalue())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


# ------ Network ------------------------------------------------------------------------------------------------------


def preprocess(img):
    """Turn RGB in [0, 1] into VGG's own input: BGR in [0, 255] minus the means of ImageNet."""
    return keras.applications.vgg19.preprocess_input(img * 255, data_format="channels_last")


class Conv2D(keras.layers.Conv2D):
    """A frozen 3x3 convolution with bias and ReLU, both ways as the backward pass of a convolution.

    A convolution is the gradient of one with its kernel turned round. On CPU, oneDNN lays out weights for the latter
    alone: it is up to 1.7 times as fast in wide layers. The name is Keras' own, by which weights files know a layer.
    """

    def call(self, x):
        with tf.init_scope():  # when a step is traced, not in each one
            kernel = tf.cast(tf.convert_to_tensor(self.kernel), self.compute_dtype)  # (3, 3, C, filters)
            turned = tf.transpose(kernel[::-1, ::-1], (0, 1, 3, 2))  # (3, 3, filters, C)

        def apply(x, kernel):
            return tf.nn.conv2d_transpose(x, kernel, tf.concat([tf.shape(x)[:3], kernel.shape[2:3]], 0), 1)

        convolve = tf.custom_gradient(lambda x: (apply(x, turned), lambda dy: apply(dy, kernel)))
        return tf.nn.relu(tf.nn.bias_add(convolve(x), self.bias))


def choose_precision() -> str:
    """Time a convolution of VGG's kind in both precisions and return the one to compute in.

    Timed, because no processor flag tells it on every system, library and accelerator. Where bfloat16 is in hardware it
    takes about half the time, where it is emulated several times as long, so a noisy machine does not tip the balance.
    """
    seconds = {}
    for precision in ("float32", "mixed_bfloat16"):
        conv = Conv2D(128, 3, dtype=precision)
        x = tf.Variable(tf.ones((1, 64, 64, 128)))
        conv.build(x.shape)

        @tf.function
        def step(conv=conv, x=x):
            with tf.GradientTape() as tape:
                y = tf.reduce_sum(conv(x))
            return tape.gradient(y, x)

        times = []
        for _ in range(4):
            start = time.perf_counter()
            step().numpy()
            times.append(time.perf_counter() - start)
        seconds[precision] = min(times)
    return "mixed_bfloat16" if seconds["mixed_bfloat16"] < 0.8 * seconds["float32"] else "float32"


def build_vgg19(precision: str = "float32", seed: int = SEED) -> keras.Model:
    """Build VGG19 without its top, He-initialised, for images of any size.

    Source: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", 2015,
    configuration E; layers named as in Keras.
    """
    options = {"data_format": "channels_last", "dtype": precision}
    x = inputs = keras.Input((None, None, 3), dtype="float32")
    for block, (channels, convolutions) in enumerate(VGG19_BLOCKS, 1):
        for conv in range(1, convolutions + 1):
            he = keras.initializers.HeNormal(seed=10_000 * seed + 100 * block + conv)
            name = f"block{block}_conv{conv}"
            x = Conv2D(channels, 3, padding="same", kernel_initializer=he, name=name, **options)(x)
        x = keras.layers.MaxPooling2D(name=f"block{block}_pool", **options)(x)
    return keras.Model(inputs, x, name="vgg19", trainable=False)


def load_weights(vgg_model: keras.Model, path: str | Path) -> None:
    """Read weights into VGG19 from a file. Only arrays are read: a model in the file is never deserialised.

    Args:
        vgg_model: a model from `build_vgg19()`, changed in place.
        path: Keras' legacy `.h5`, `.weights.h5` or `.keras`.

    Raises:
        OSError: if there is no such file, or it does not hold finite weights of VGG19 without top.
    """
    remedy = "Expected the weights of VGG19 without top, as .h5, .weights.h5 or .keras; set VGG_NETWORK_PATH"
    if not Path(path).is_file():
        raise OSError(f"{path} is {'not a file' if os.path.lexists(path) else 'not there'}. {remedy}")
    try:
        vgg_model.load_weights(str(path))
        if not all(np.isfinite(w).all() for w in vgg_model.get_weights()):
            raise ValueError("it has weights that are NaN or infinite")
    except Exception as error:  # h5py, zipfile and Keras each raise their own kinds
        raise OSError(f"{path} cannot be loaded: {' '.join(str(error).split())[:200]}. {remedy}") from error


def download_weights(folder: str | Path, url: str = WEIGHTS_URL, file_hash: str = WEIGHTS_HASH) -> Path:
    """Download weights into a folder, unless they are there with this hash, and return the path of the file.

    Raises:
        OSError: if the file cannot be had, or is not what its hash says.
    """
    path = Path(folder, Path(url).name)
    if path.is_file() and hashlib.md5(path.read_bytes()).hexdigest() == file_hash:
        return path
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(30)  # seconds without a byte
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Into a folder of its own, so that what a cut or killed download leaves is never taken for the whole file.
        with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as temporary:
            with contextlib.nullcontext() if is_interactive() else contextlib.redirect_stdout(io.StringIO()):
                file = keras.utils.get_file(path.name, url, file_hash=file_hash, cache_dir=temporary, cache_subdir=".")
            os.replace(file, path)
    except Exception as error:  # get_file raises bare ones
        reason = " ".join(str(error).split(" -- ")[-1].split())
        raise OSError(
            f"{url} cannot be downloaded: {reason}. Put that file into {folder}, or set VGG_MODE to 'fit', "
            "which needs none"
        ) from error
    finally:
        socket.setdefaulttimeout(timeout)
    return path


def sample_patches(x: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Draw n random 3x3 patches of an array (H, W, C), as rows of 9*C."""
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3, x.shape[-1]))[:, :, 0]  # (H-2, W-2, 3, 3, C)
    rows, columns = rng.integers(windows.shape[0], size=n), rng.integers(windows.shape[1], size=n)
    return windows[rows, columns].reshape(n, -1)


def fit_weights(vgg_model: keras.Model, imgs: list, seed: int = SEED, patches: int = 10_000, rounds: int = 10) -> None:
    """Learn the filters of blocks 1 to 3 from images: k-means on whitened patches. Blocks 4 and 5 stay random.

    Source: Coates and Ng, "Learning Feature Representations with K-means", 2012. Learning from the content image too
    keeps its shapes, and the bias of half a standard deviation keeps more of them than the mean response as threshold.

    Args:
        vgg_model: a model from `build_vgg19()`, changed in place.
        imgs: images to learn from, each of shape (1, H, W, 3), in [0, 1].
        seed: chooses the patches and the first centroids.
        patches: how many 3x3 patches of each layer's input to learn from.
        rounds: rounds of k-means.

    Raises:
        ValueError: if the images are of one flat colour.
    """
    rng = np.random.default_rng(seed)
    xs = [preprocess(tf.constant(img, tf.float32)) for img in imgs]
    for layer in vgg_model.layers[1:]:
        if layer.name == "block4_conv1":
            break
        if layer.name.endswith("pool"):
            xs = [tf.nn.max_pool2d(x, 2, 2, "VALID") for x in xs]
            continue
        p = np.concatenate([sample_patches(x[0].numpy(), patches // len(xs), rng) for x in xs])
        p -= p.mean(0)  # (patches, 9*C)
        if not np.ptp(p, axis=0).any():
            raise ValueError("VGG_MODE 'fit' learns filters from the images, and these are of one flat colour")
        covariance = np.float64(p.T @ p) / len(p)
        vector = np.ones(len(covariance))
        for _ in range(30):  # power iteration: its length becomes the largest eigenvalue
            vector = covariance @ (vector / np.linalg.norm(vector))
        regularized = covariance + 0.02 * np.linalg.norm(vector) * np.eye(len(covariance))
        # k-means does not mind a rotation, so Cholesky's factor gives ZCA's filters in a tenth of the time.
        whitening = np.float32(np.linalg.cholesky(np.linalg.inv(regularized)))  # (9*C, 9*C)
        p = tf.math.l2_normalize(tf.matmul(p, whitening), axis=1)
        centroids = tf.gather(p, rng.choice(len(p), layer.filters, replace=False))  # (filters, 9*C)
        for _ in range(rounds):
            nearest = tf.argmax(tf.matmul(p, centroids, transpose_b=True), axis=1)
            sums = tf.math.unsorted_segment_sum(p, nearest, layer.filters)
            centroids = tf.math.l2_normalize(sums + 1e-6 * centroids, axis=1)  # one without patches stays
        kernel = tf.reshape(tf.matmul(whitening, centroids, transpose_b=True), layer.kernel.shape)
        responses = [tf.nn.conv2d(x, kernel, 1, "SAME") for x in xs]
        mean, variance = tf.nn.moments(tf.concat([tf.reshape(r, (-1, layer.filters)) for r in responses], 0), 0)
        scale = tf.math.rsqrt(variance + 1e-12)
        bias = 0.5 - mean * scale
        layer.set_weights([kernel * scale, bias])
        xs = [tf.nn.relu(r * scale + bias) for r in responses]


def get_vgg_model(mode: str = VGG_MODE, path: str | Path | None = VGG_NETWORK_PATH, style_img: np.ndarray | None = None,
                  content_img: np.ndarray | None = None, precision: str = PRECISION, seed: int = SEED) -> keras.Model:
    """Build VGG19 without top, frozen, and give it weights.

    Args:
        mode: 'download' takes Keras' ImageNet weights and keeps them in the folder `path`; 'local' takes the weights
            file `path`, or the one in the folder `path`; 'fit' learns filters from the images; 'auto' takes a weights
            file at `path` if there is one, else downloads it, else warns and fits.
        path: a weights file or a folder.
        style_img: shape (1, H, W, 3), in [0, 1]; needed where filters are fitted.
        content_img: likewise, of any size; without it filters are fitted to the style image alone.
        precision: 'float32', 'mixed_bfloat16', or 'auto' for the faster one here.
        seed: for the filters that are fitted or random.

    Returns:
        A model that takes VGG's own input (see `preprocess()`), with a name that says where its weights are from.

    Raises:
        ValueError: if a setting is not legal, or images to fit to are missing.
        OSError: if weights that were asked for cannot be had.
    """
    check_settings(vgg_mode=mode, vgg_network_path=path, precision=precision, seed=seed)
    path = Path(path)
    is_file = path.is_file() or path.suffix in WEIGHTS_SUFFIXES
    found = [path] if is_file else sorted(file for file in path.glob("*") if file.suffix in WEIGHTS_SUFFIXES)
    file = found[0] if found and mode in ("auto", "local") else None
    if mode == "local" and not file or mode == "download" and is_file:
        expected = "a weights file, or a folder that holds one" if mode == "local" else "a folder"
        raise ValueError(f"VGG_NETWORK_PATH must be {expected} for VGG_MODE {mode!r}. Received: {str(path)!r}")
    if mode == "download" or mode == "auto" and not file:
        try:
            file = download_weights(path)
        except OSError as error:
            if mode == "download":
                raise
            print(f"Warning: filters are fitted to the images, because {error}.", file=sys.stderr, flush=True)
    vgg_model = build_vgg19(choose_precision() if precision == "auto" else precision, seed)
    if file:
        load_weights(vgg_model, file)
    elif style_img is None:
        raise ValueError("VGG_MODE 'fit' needs style_img, an image to fit filters to")
    else:
        fit_weights(vgg_model, [style_img] if content_img is None else [style_img, content_img], seed)
    vgg_model.name = f"VGG19 from {file}" if file else "VGG19 fitted to the images"
    return vgg_model


def get_vgg_encodings(vgg_model: keras.Model, encoding_layers: list = ENCODING_LAYERS) -> keras.Model:
    """Make the model that encodes a picture: the one place that knows VGG's own input.

    Args:
        vgg_model: from `get_vgg_model()`.
        encoding_layers: (name, weight) of the style layers, then of the content layer.

    Returns:
        A model from a picture, (1, H, W, 3) in [0, 1], to the list of these layers' activations, float32 (1, h, w, C).
    """
    check_settings(encoding_layers=encoding_layers)
    img = keras.Input((None, None, 3), dtype="float32")
    encoder = keras.Model(vgg_model.inputs, [vgg_model.get_layer(name).output for name, _ in encoding_layers])
    return keras.Model(img, [keras.ops.cast(a, "float32") for a in encoder(preprocess(img))], trainable=False)


# ------ Costs --------------------------------------------------------------------------------------------------------
# Each is a relative error, so that a weight means the same at every layer, image size, precision and network.
# The paper's are absolute: there block1 makes less than 0.1 % of the style cost, and the palette is not transferred.


def get_relative_error(x: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    """mean((x - target)^2) / mean(target^2), a scalar; 0 where the target is all zeros and so says nothing."""
    return tf.math.divide_no_nan(tf.reduce_mean(tf.square(x - target)), tf.reduce_mean(tf.square(target)))


@tf.custom_gradient
def get_gram_matrix(encoding: tf.Tensor) -> tf.Tensor:
    """G = F^T F / (h w), shape (C, C), of an activation of shape (1, h, w, C) as F of shape (h w, C)."""
    f = tf.reshape(encoding, (-1, encoding.shape[-1]))  # (h*w, C)
    n = tf.cast(tf.shape(f)[0], f.dtype)

    def gradient(dg):  # F (dG + dG^T) / (h w): one product where TensorFlow's own gradient takes two
        return tf.reshape(tf.matmul(f, (dg + tf.transpose(dg)) / n), tf.shape(encoding))

    return tf.matmul(f, f, transpose_a=True) / n, gradient


def get_content_cost(content_encoding: tf.Tensor, generated_encoding: tf.Tensor, weight: float = 1.0) -> tf.Tensor:
    """J_content = weight * mean((a - a_content)^2) / mean(a_content^2), a scalar, 0 at the content image."""
    return weight * get_relative_error(generated_encoding, content_encoding)


def get_style_cost(style_grams: list, generated_encodings: list, weights: list) -> tf.Tensor:
    """J_style = sum of weight * mean((G - G_style)^2) / mean(G_style^2) over the style layers, a scalar.

    Args:
        style_grams: the style image's Gram matrix of each style layer, (C, C).
        generated_encodings: the generated image's activation of each style layer, (1, h, w, C).
        weights: of each style layer.
    """
    layers = zip(style_grams, generated_encodings, weights, strict=True)
    return tf.add_n([weight * get_relative_error(get_gram_matrix(a), gram) for gram, a, weight in layers])


def get_total_cost(content_cost: tf.Tensor, style_cost: tf.Tensor, content_weight: float = CONTENT_WEIGHT,
                   style_weight: float = STYLE_WEIGHT) -> tf.Tensor:
    """J = content_weight * J_content + style_weight * J_style, a scalar."""
    return content_weight * content_cost + style_weight * style_cost


# ------ Style transfer -----------------------------------------------------------------------------------------------


class LBFGS(keras.optimizers.Optimizer):
    """Limited-memory BFGS for one variable in bounds: a quasi-Newton step from each gradient, without a line search.

    A step is cut to a root mean square of `max_step`. A pair is the move that was made, clipping included, and the
    change of the gradient with it; without positive curvature it counts as none. What a bound holds takes no part.

    Source: Nocedal and Wright, "Numerical Optimization", 2nd edition, algorithm 7.4.

    Args:
        learning_rate: factor of the steps; 1 takes them as the curvature says.
        pairs: how many to keep.
        max_step: in the variable's units.
        bounds: to which the caller clips the variable.
    """

    def __init__(self, learning_rate=1.0, pairs: int = 20, max_step: float = 0.02, bounds: tuple = (0.0, 1.0)):
        super().__init__(learning_rate, name="lbfgs")
        self.pairs, self.max_step, self.bounds = pairs, max_step, bounds

    def build(self, variables):
        super().build(variables)

        def add(n, size):
            return [self.add_variable((size,), dtype="float32", name="state") for _ in range(n)]

        size = int(np.prod(variables[0].shape))
        (self.x, self.g), (self.scale,) = add(2, size), add(1, 1)
        self.s, self.y, self.rho = add(self.pairs, size), add(self.pairs, size), add(self.pairs, 1)  # the oldest first

    def update_step(self, gradient, variable, learning_rate):
        def dot(a, b):
            return tf.tensordot(a, b, 1)

        def limit(d):
            return tf.math.divide_no_nan(self.max_step, tf.sqrt(tf.reduce_mean(tf.square(d))))

        x, g = tf.reshape(variable, [-1]), tf.reshape(gradient, [-1])
        is_held = (x <= self.bounds[0]) & (g > 0) | (x >= self.bounds[1]) & (g < 0)
        free = tf.where(is_held, 0.0, 1.0)
        s, y = free * (x - self.x), free * (g - self.g)
        curvature = dot(s, y)
        is_pair = (self.iterations > 0) & (curvature > 0)
        self.scale.assign(tf.where(is_pair, curvature / dot(y, y), self.scale))
        for kept, new in (self.s, s), (self.y, y), (self.rho, tf.where(is_pair, 1 / curvature, [0.0])):
            for older, newer in zip(kept, [*kept[1:], new], strict=True):
                older.assign(newer)  # moves no numbers, only the buffer that holds them
        self.x.assign(x)
        self.g.assign(g)

        d, pairs, alphas = free * g, list(zip(self.s, self.y, self.rho, strict=True)), []
        for s, y, rho in reversed(pairs):
            alphas.append(rho * dot(s, d))
            d -= alphas[-1] * y
        d *= tf.where(self.scale > 0, self.scale, limit(d))
        for (s, y, rho), alpha in zip(pairs, reversed(alphas), strict=True):
            d += (alpha - rho * dot(y, d)) * s
        d *= learning_rate * free
        variable.assign_sub(tf.reshape(d * tf.minimum(1.0, limit(d)), variable.shape))


def transfer_style_step(generated_img: tf.Variable, encoding_model: keras.Model, style_grams: list,
                        content_encoding: tf.Tensor, optimizer: keras.optimizers.Optimizer,
                        encoding_layers: list = ENCODING_LAYERS, content_weight: float = CONTENT_WEIGHT,
                        style_weight: float = STYLE_WEIGHT) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Move the generated image, in place, one step down the cost, and keep it in [0, 1].

    Args:
        encoding_model: from `get_vgg_encodings()`, for the same `encoding_layers`.
        style_grams: the targets of the style layers, (C, C) each.
        content_encoding: the target of the content layer, (1, h, w, C).
        optimizer: built for `generated_img`.

    Returns:
        Total, style and content cost before the step, each a scalar.
    """
    *style_weights, content_layer_weight = [weight for _, weight in encoding_layers]
    with tf.GradientTape() as tape:
        *style, content = encoding_model(generated_img)
        style_cost = get_style_cost(style_grams, style, style_weights)
        content_cost = get_content_cost(content_encoding, content, content_layer_weight)
        cost = get_total_cost(content_cost, style_cost, content_weight, style_weight)
    gradient = tape.gradient(cost, generated_img)
    optimizer.apply_gradients([(gradient, generated_img)])
    generated_img.assign(tf.clip_by_value(generated_img, 0.0, 1.0))
    return cost, style_cost, content_cost


@contextlib.contextmanager
def catch_interrupt():
    """Yield a list that is filled by Ctrl-C, so that an epoch can end; a second Ctrl-C ends at once."""
    caught = []

    def catch(signum, frame):
        caught.append(signum)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    is_main = threading.current_thread() is threading.main_thread()  # the only one that may handle signals
    previous = signal.signal(signal.SIGINT, catch) if is_main else None
    try:
        yield caught
    finally:
        if is_main:
            signal.signal(signal.SIGINT, previous)


def transfer_style_loop(generated_img: tf.Variable, content_img: np.ndarray, style_img: np.ndarray,
                        encoding_model: keras.Model, encoding_layers: list = ENCODING_LAYERS,
                        content_weight: float = CONTENT_WEIGHT, style_weight: float = STYLE_WEIGHT,
                        optimizer: str = OPTIMIZER, epochs: int = EPOCHS, learn_rate: float = LEARN_RATE,
                        save_every: int | None = SAVE_EVERY, stop_below: float | None = STOP_BELOW,
                        output_path: str | Path = OUTPUT_PATH, text: dict | None = None) -> dict[str, list]:
    """Run the epochs and save images of the way: the start as epoch 0, every `save_every`-th and always the last.

    Ctrl-C ends the current epoch and saves its image.

    Args:
        content_img: shape (1, H, W, 3), in [0, 1], of the generated image's size.
        style_img: shape (1, H, W, 3), in [0, 1], of any size.
        learn_rate: of Adam; about what a pixel, in [0, 1], moves in a step.
        save_every: epochs from one saved image to the next; None for a hundredth of the epochs, at least 1.
        stop_below: ends the run when the cost fell by less than this fraction of it from one saved image to the next.
        output_path: folder of the images; that of epoch 250 is `image_00250.png`.
        text: names and values to store in each image's text.

    Returns:
        The history of the costs: lists under 'epoch', 'cost', 'style_cost' and 'content_cost', with an entry for each
        saved image but the start. The costs of an epoch are those that its step started from.

    Raises:
        ValueError: if a setting is not legal.
        OSError: if an image cannot be saved.
        KeyboardInterrupt: after Ctrl-C.
    """
    check_settings(encoding_layers=encoding_layers, content_weight=content_weight, style_weight=style_weight,
                   optimizer=optimizer, epochs=epochs, learn_rate=learn_rate, save_every=save_every,
                   stop_below=stop_below, output_path=output_path)
    save_every = save_every or max(1, epochs // 100)
    digits = max(5, len(str(epochs)))
    interactive = is_interactive()

    *style, _ = encoding_model(style_img)
    *_, content_encoding = encoding_model(content_img)
    style_grams = [get_gram_matrix(a) for a in style]
    # A learning rate as a number would be kept in Keras' configured floatx.
    optimizer = LBFGS() if optimizer == "lbfgs" else keras.optimizers.Adam(lambda: learn_rate)
    optimizer.build([generated_img])

    @tf.function  # of this run: at the module's level, a second run would meet the optimizer of the first
    def step():
        return transfer_style_step(generated_img, encoding_model, style_grams, content_encoding, optimizer,
                                   encoding_layers, content_weight, style_weight)

    def save(epoch):
        path = Path(output_path, f"image_{epoch:0{digits}}.png")
        save_image(generated_img.numpy(), path, (text or {}) | {"epoch": epoch})
        return path

    save(0)
    names = ("cost", "style_cost", "content_cost")
    history = {name: [] for name in ("epoch", *names)}
    progress = keras.utils.Progbar(epochs, stateful_metrics=names, unit_name="epoch") if interactive else None
    start = shown = time.monotonic()
    with catch_interrupt() as interrupts:
        for epoch in range(1, epochs + 1):
            costs = step()
            saving = epoch % save_every == 0 or epoch == epochs or bool(interrupts)
            if not saving and not (interactive and time.monotonic() > shown + 0.2):
                continue  # without waiting for the device
            costs = [float(cost) for cost in costs]
            shown = time.monotonic()
            if interactive:
                progress.update(epoch, zip(names, costs, strict=True))
            if not saving:
                continue
            path = save(epoch)
            for name, value in zip(history, (epoch, *costs), strict=True):
                history[name].append(value)
            if not interactive:
                left = datetime.timedelta(seconds=round((shown - start) / epoch * (epochs - epoch)))
                line = "cost {:.4g}, style cost {:.4g}, content cost {:.4g}".format(*costs)
                print(f"epoch {epoch}/{epochs}: {line}, {left} left, {path}", flush=True)
            if interrupts:
                raise KeyboardInterrupt(f"Stopped after epoch {epoch} of {epochs}, its image is {path}")
            fallen = 1 - costs[0] / history["cost"][-2] if len(history["cost"]) > 1 else 1
            if stop_below is not None and fallen < stop_below and epoch < epochs:
                print(f"Done before epoch {epochs}: the cost fell by {fallen:.2%} since the image before, and "
                      f"STOP_BELOW is {stop_below:.2%}")
                break
    print(f"{epoch} epochs in {shown - start:.0f} s, {(shown - start) / epoch:.3g} s each. The picture is {path}")
    return history


# ------ Script -------------------------------------------------------------------------------------------------------


def main(content_img_path: str = CONTENT_IMG_PATH, style_img_path: str = STYLE_IMG_PATH,
         output_path: str = OUTPUT_PATH, img_size: int = IMG_SIZE, content_weight: float = CONTENT_WEIGHT,
         style_weight: float = STYLE_WEIGHT, encoding_layers: list = ENCODING_LAYERS,
         noise_magnitude: float = NOISE_MAGNITUDE, seed: int = SEED, optimizer: str = OPTIMIZER, epochs: int = EPOCHS,
         learn_rate: float = LEARN_RATE, save_every: int | None = SAVE_EVERY, stop_below: float | None = STOP_BELOW,
         vgg_mode: str = VGG_MODE, vgg_network_path: str = VGG_NETWORK_PATH,
         precision: str = PRECISION) -> dict[str, list]:
    """Paint the content image in the style of the style image, and return the history of the costs."""
    settings = dict(locals())
    check_settings(**settings)
    content_img, style_img = load_images(content_img_path, style_img_path, img_size)
    generated_img = initialize_generated_image(content_img, noise_magnitude, seed)
    vgg_model = get_vgg_model(vgg_mode, vgg_network_path, style_img, content_img, precision, seed)
    encoding_model = get_vgg_encodings(vgg_model, encoding_layers)
    settings["precision"] = vgg_model.layers[1].dtype_policy.name  # what 'auto' came to
    print(f"{vgg_model.name}, {settings['precision']}, {img_size} x {img_size} pixels, {epochs} epochs", flush=True)
    return transfer_style_loop(generated_img, content_img, style_img, encoding_model, encoding_layers, content_weight,
                               style_weight, optimizer, epochs, learn_rate, save_every, stop_below, output_path,
                               settings)


def parse_layer(word: str) -> tuple[str, float]:
    """'block1_conv1:0.2' -> ('block1_conv1', 0.2)."""
    try:
        name, weight = word.split(":")
        return name, float(weight)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected name:weight, received {word!r}") from None


def parse_settings(argv: list[str] | None = None) -> dict:
    """Make the command line from `main()`'s signature, with help from the comments beside the settings, and parse it.

    Raises:
        ValueError: for a flag that is not known or a value of the wrong type.
    """

    def fail(message):
        raise ValueError(f"{message}; python script.py --help lists the settings")

    comments = dict(re.findall(r"^([A-Z_]+) = .*?  # (.+)$", Path(__file__).read_text("utf-8"), re.MULTILINE))
    usage = "python script.py [--setting value ...]"
    parser = argparse.ArgumentParser(usage=usage, description=main.__doc__, allow_abbrev=False)
    parser.error = fail
    for name, parameter in inspect.signature(main).parameters.items():
        kind, default, many = parameter.annotation, parameter.default, {}
        if kind is list:
            kind, default, many = parse_layer, " ".join(f"{n}:{w}" for n, w in default), {"nargs": "+"}
        kind = (typing.get_args(kind) or [kind])[0]  # int | None -> int
        help_text = f"{comments[name.upper()]} (default: {default})".replace("%", "%%")
        flag = "--" + name.replace("_", "-")
        parser.add_argument(flag, type=kind, default=parameter.default, metavar="", help=help_text, **many)
    return vars(parser.parse_args(argv))


if __name__ == "__main__":
    try:
        main(**parse_settings())
    except KeyboardInterrupt as interrupt:
        print(f"\n{str(interrupt) or 'Stopped before the first epoch'}", file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError) as error:
        print("Error:", " ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)
