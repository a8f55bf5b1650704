"""Neural style transfer with VGG19: paint the content of one picture in the style of another.

    python script.py --optimizer lbfgs --epochs 100        the settings below, two of them changed; --help lists all

The pixels of the generated image are the only variables. A cost compares VGG19's activations for the generated image
with those for the two pictures: the last convolution holds the content, the Gram matrices of five convolutions hold the
style. An optimizer walks the pixels down that cost. Everywhere outside the encoding model a picture is RGB float32 in
[0, 1] of shape (1, H, W, 3).
Source: Gatys, Ecker and Bethge, "Image Style Transfer Using Convolutional Neural Networks", CVPR 2016.
"""

import argparse
import contextlib
import hashlib
import inspect
import io
import itertools
import json
import numbers
import os
import re
import signal
import socket
import sys
import tempfile
import time
import timeit
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin


def interrupt(signum: int, frame=None) -> None:
    raise KeyboardInterrupt("Stopped at once", signum)


def handle_signals(handler=interrupt) -> dict:
    """Let a handler take the signals that ask a program to end, but those set to be ignored, as nohup does."""
    ours = {s for s in signal.Signals if s.name in ("SIGINT", "SIGTERM", "SIGHUP")}
    return {s: signal.signal(s, handler) for s in ours if signal.getsignal(s) is not signal.SIG_IGN}


@contextlib.contextmanager
def silence():
    """Hold back what libraries say on stderr, from C too, and their warnings: faults come as exceptions."""
    stderr = os.dup(2) if sys.stderr else os.open(os.devnull, os.O_WRONLY)
    try:
        with warnings.catch_warnings(action="ignore"), open(os.devnull, "w") as devnull:
            os.dup2(devnull.fileno(), 2)
            yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


if __name__ == "__main__":  # nothing is lost while the libraries load
    handle_signals(lambda signum, frame: os._exit(128 + signum))
os.environ["KERAS_BACKEND"] = "tensorflow"  # whatever ~/.keras/keras.json says
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # by default on new processors alone, and twice as fast on others
with silence():  # TensorFlow writes to stderr before it reads any of its settings
    import keras
    import tensorflow as tf
tf.get_logger().setLevel("ERROR")

# ------ Settings -----------------------------------------------------------------------------------------------------
# Each is also a flag of the command line, IMG_SIZE as --img-size, and a parameter of the functions it feeds.

# What to paint
CONTENT_IMG_PATH = "images/content.jpg"  # JPEG, PNG, WebP, BMP, TIFF or GIF
STYLE_IMG_PATH = "images/style.jpg"  # likewise, or several, ["a.jpg", "a.jpg", "b.jpg"]; here a has twice b's weight
OUTPUT_PATH = "output_images/"  # folder for the images of a run, made if it is not there
IMG_SIZE = 400  # pixels, height and width, at least 32; time and memory grow with its square
KEEP_ASPECT_RATIO = False  # True keeps the shape of the pictures; IMG_SIZE is their long side

# How it looks
CONTENT_WEIGHT = 10.0  # 0 to 1e6; more keeps more of the content's shapes
STYLE_WEIGHT = 40.0  # 0 to 1e6; more takes more of the style's strokes and colours
TV_WEIGHT = 5.0  # 0 to 1e6; more makes it smoother, 0 leaves grain
CONTENT_LAYER = ("block5_conv4", 1.0)  # an earlier block holds the content's details tighter
ENCODING_LAYERS = [  # name:weight of the style layers, then of the content layer; later blocks give larger strokes
    ("block1_conv1", 0.2), ("block2_conv1", 0.2), ("block3_conv1", 0.2), ("block4_conv1", 0.2), ("block5_conv1", 0.2),
    CONTENT_LAYER,
]
STYLE_SCALE = 1.0  # 0.1 to 10; size of the style image over that of the painting, and so of its strokes
PRESERVE_COLORS = False  # True keeps the content's colours
COARSE_SIZE = None  # 32 or more, such as 400: larger paintings begin at half the size, or less, for larger strokes
NOISE_MAGNITUDE = 0.2  # 0 to 1, uniform noise added to the content image to start from
SEED = 0  # 0 or more; another number gives other noise, and other filters where they are fitted

# How long
OPTIMIZER = "adam"  # 'adam', or 'lbfgs' for a finished picture in a hundred epochs
EPOCHS = 25_000  # 1 or more steps
LEARN_RATE = 0.001  # above 0, up to 1, of Adam; 0.02 gets there in a few hundred epochs, with a little more grain
SAVE_EVERY = None  # epochs from one saved image to the next; by default a hundredth of EPOCHS
STOP_BELOW = None  # 0 to 1; ends a run when the cost fell by less than this fraction between two saved images

# With what network
VGG_MODE = "auto"  # 'auto', 'download', 'local' or 'fit'; see get_vgg_model()
VGG_NETWORK_PATH = "model/"  # a file with weights (.h5, .weights.h5, .keras) or a folder that holds one
PRECISION = "auto"  # 'float32', 'mixed_bfloat16' or 'auto' for the faster one here

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
MAX_PIXELS = 250_000_000  # of an image file; more than that, in a small file, is a decompression bomb
VGG19_BLOCKS = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))  # channels and convolutions of each block
VGG19_LAYERS = [f"block{b}_conv{c}" for b, (_, n) in enumerate(VGG19_BLOCKS, 1) for c in range(1, n + 1)]
WEIGHTS_NAME = "vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5"  # Keras' own file
WEIGHTS_URL = f"https://storage.googleapis.com/tensorflow/keras-applications/vgg19/{WEIGHTS_NAME}"
WEIGHTS_HASH = "253f8cb515780f3b799900260a226db6"  # MD5
WEIGHTS_SUFFIXES = (".h5", ".hdf5", ".keras")


def number(low: float, high: float, kind=numbers.Real) -> tuple:
    what = "a whole number" if kind is numbers.Integral else "a number"
    return lambda v: isinstance(v, kind) and low <= v <= high, f"{what} from {low:,} to {high:,}"


def is_folder(path) -> bool:
    there = next(p for p in (Path(path).absolute(), *Path(path).absolute().parents) if os.path.lexists(p))
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


LEGAL = {  # setting: (test, what was expected)
    **dict.fromkeys(["content_img_path", "vgg_network_path"], (lambda v: v and isinstance(v, (str, Path)), "a path")),
    "style_img_path": (lambda v: v and isinstance(v, (str, Path, list)), "a path, or a list of several"),
    "output_path": (is_folder, "a folder that can be written to, or a name for a new one"),
    **dict.fromkeys(["img_size", "coarse_size"], number(32, 2**15, numbers.Integral)),
    **dict.fromkeys(["keep_aspect_ratio", "preserve_colors"], ([True, False].__contains__, "True or False")),
    **dict.fromkeys(["content_weight", "style_weight", "tv_weight"], number(0, 1e6)), "style_scale": number(0.1, 10),
    "encoding_layers": (lambda v: len(v) > 1 and all(name in VGG19_LAYERS and 0 <= w <= 1e6 for name, w in v),
                        "style layers, then the content layer, with weights, such as block1_conv1:0.2 block5_conv4:1"),
    **dict.fromkeys(["noise_magnitude", "stop_below"], number(0, 1)), "seed": number(0, 2**31, numbers.Integral),
    "optimizer": (["adam", "lbfgs"].__contains__, "'adam' or 'lbfgs'"),
    **dict.fromkeys(["epochs", "save_every"], number(1, 2**31, numbers.Integral)), "learn_rate": number(1e-9, 1),
    "vgg_mode": (["auto", "download", "local", "fit"].__contains__, "'auto', 'download', 'local' or 'fit'"),
    "precision": (["auto", "float32", "mixed_bfloat16"].__contains__, "'auto', 'float32' or 'mixed_bfloat16'"),
}


def check_settings(**settings) -> None:
    """Raise ValueError for the first setting, given by its name in lower case, with a value that is not legal."""
    for name, value in settings.items():
        is_legal, expected = LEGAL.get(name, (lambda value: True, ""))
        with contextlib.suppress(TypeError, ValueError):  # of a type that the test cannot take
            if value is None and name in ("coarse_size", "save_every", "stop_below") or is_legal(value):
                continue
        raise ValueError(f"{name.upper()} must be {expected}. Received: {value!r}")


def say(text: str) -> None:
    """Print a line. Whether anybody reads it must not matter to a run."""
    try:
        print(text, flush=True)
    except (OSError, ValueError):  # closed, or of an encoding without these letters
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115


def is_interactive() -> bool:
    """Tell whether somebody watches: a terminal or a notebook, where a progress bar can be drawn."""
    return sys.stdout is not None and sys.stdout.isatty() or "ipykernel" in sys.modules


# ------ Images -------------------------------------------------------------------------------------------------------


def check_file(path: Path, remedy: str) -> None:
    """Raise OSError if there is no file at a path, or what is not one, such as a FIFO, which would block."""
    if not path.is_file():
        raise OSError(f"{path} is {'not a file' if os.path.lexists(path) else 'not there'}. {remedy}")


def load_image(path: str | Path, img_size: int = IMG_SIZE, keep_aspect_ratio: bool = KEEP_ASPECT_RATIO) -> np.ndarray:
    """Read a picture from a file as RGB float32 in [0, 1], shape (1, H, W, 3): the only way in.

    EXIF rotation is applied, transparency is laid over white, of an animation the first frame is taken, 16-bit grey is
    scaled by 65535 and 32-bit grey by its own range. Height and width become `img_size` pixels, or the long side alone,
    with the short one 32 or more. What is not a whole picture of these kinds raises OSError.
    """
    check_settings(img_size=img_size, keep_aspect_ratio=keep_aspect_ratio)
    remedy = f"Expected a whole picture as {', '.join(IMAGE_FORMATS)}; give another file"
    check_file(Path(path), remedy)
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, MAX_PIXELS // 2  # Pillow refuses twice that
    try:
        with silence(), Image.open(path, formats=IMAGE_FORMATS) as img:
            img.draft(None, (2 * img_size, 2 * img_size))  # a large JPEG need not be decoded in full
            img = ImageOps.exif_transpose(img)
            if img.mode[0] in "IF":  # grey with more than 8 bits, which Pillow would clip
                if not np.isfinite(grey := np.asarray(img, np.float64)).all():
                    raise ValueError("it has pixels that are NaN or infinite")
                low, high = (0, 65535) if img.mode.startswith("I;16") else (grey.min(), grey.max())
                img = Image.fromarray(np.uint8(np.round((grey - low) / max(high - low, 1e-12) * 255)))
            elif img.has_transparency_data:
                img = img.convert("RGBA")
                img = Image.alpha_composite(Image.new("RGBA", img.size, "white"), img)
            size = [max(32, round(img_size * (side / max(img.size)) ** keep_aspect_ratio)) for side in img.size]
            img = img.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    except Exception as error:  # Pillow raises many kinds for a damaged file
        raise OSError(f"{path} cannot be read: {error}. {remedy}") from error
    finally:
        Image.MAX_IMAGE_PIXELS = limit
    return np.asarray(img, np.float32)[None] / 255  # (1, H, W, 3)


def match_colors(img: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Give a picture the mean and covariance of a target's colours, x -> (x - mean) A + mean_target, within [0, 1].

    A = S^(-1/2) S_target^(1/2). Source: Gatys et al., "Preserving Color in Neural Artistic Style Transfer", 2016.
    """
    def power(img, exponent):
        values, axes = np.linalg.eigh(np.cov(np.float64(img).reshape(-1, 3).T) + 1e-8 * np.eye(3))
        return axes * values**exponent @ axes.T
    mean, target_mean = (np.mean(x, (0, 1, 2), np.float64) for x in (img, target))
    return np.float32(np.clip((img - mean) @ power(img, -0.5) @ power(target, 0.5) + target_mean, 0, 1))


def load_images(content_img_path: str = CONTENT_IMG_PATH, style_img_path: str | list = STYLE_IMG_PATH,
                img_size: int = IMG_SIZE, keep_aspect_ratio: bool = KEEP_ASPECT_RATIO,
                style_scale: float = STYLE_SCALE, preserve_colors: bool = PRESERVE_COLORS) -> tuple:
    """Read the content image and, `style_scale` times as large, the style image, or the list of several."""
    check_settings(style_img_path=style_img_path, style_scale=style_scale, preserve_colors=preserve_colors)
    content_img = load_image(content_img_path, img_size, keep_aspect_ratio)
    paths = style_img_path if isinstance(style_img_path, list) else [style_img_path]
    style_imgs = [load_image(path, max(32, round(img_size * style_scale)), keep_aspect_ratio) for path in paths]
    style_imgs = [match_colors(img, content_img) if preserve_colors else img for img in style_imgs]
    return content_img, style_imgs if isinstance(style_img_path, list) else style_imgs[0]


def initialize_generated_image(content_img: np.ndarray, noise_magnitude: float = NOISE_MAGNITUDE,
                               seed: int = SEED) -> tf.Variable:
    """Make the variable that becomes the picture: content + noise in [-noise_magnitude, noise_magnitude], clipped."""
    check_settings(noise_magnitude=noise_magnitude, seed=seed)
    noise = np.random.default_rng(seed).uniform(-noise_magnitude, noise_magnitude, np.shape(content_img))
    return tf.Variable(np.clip(content_img + noise, 0, 1), dtype=tf.float32, name="generated_img")


@contextlib.contextmanager
def open_to_write(path: Path):
    """Open a file that takes its name, from an older one too, only when it is whole on the disk: the only way out."""
    temporary = path.with_name(f".{path.name}.tmp")  # which the next run writes anew if this one is killed
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(f"{path} cannot be written: {error.strerror or error}. Mend that, or set another OUTPUT_PATH; "
                      "what was saved before is whole, and the same command goes on from there") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def save_image(img: np.ndarray, path: str | Path, text: dict | None = None) -> None:
    """Write a picture, RGB in [0, 1], shape (1, H, W, 3), as PNG: rounded, not truncated, with `text` in its text."""
    info, png = PngImagePlugin.PngInfo(), io.BytesIO()
    for name, value in (text or {}).items():
        info.add_text(name, str(value).encode(errors="replace").decode())
    Image.fromarray(np.uint8(np.round(np.clip(img[0], 0, 1) * 255))).save(png, "PNG", pnginfo=info)
    with open_to_write(Path(path)) as file:
        file.write(png.getvalue())


def save_animation(output_path: str | Path = OUTPUT_PATH) -> None:
    """Write the images of a run as an animation, `painting.webp` in their folder; OSError if there are none."""
    path, webp = Path(output_path, "painting.webp"), io.BytesIO()
    imgs = [Image.open(image).convert("RGB") for image in sorted(path.parent.glob("image_*.png"))]
    if not imgs:
        raise OSError(f"{output_path} holds no images of a run. Give the OUTPUT_PATH of one")
    imgs[0].save(webp, "WEBP", save_all=True, append_images=imgs[1:], duration=[80] * (len(imgs) - 1) + [2000])  # ms
    with open_to_write(path) as file:
        file.write(webp.getvalue())


# ------ Network ------------------------------------------------------------------------------------------------------


def preprocess(img):
    """Turn RGB in [0, 1] into VGG's own input: BGR in [0, 255] minus the means of ImageNet."""
    return keras.applications.vgg19.preprocess_input(img * 255, data_format="channels_last")


class Conv2D(keras.layers.Conv2D):
    """A frozen 3x3 convolution with bias and ReLU, both ways as the gradient of one with its kernel turned round.

    On CPU, oneDNN lays out weights for gradients alone: up to 1.7 times as fast. Weights files know it by this name.
    """

    def call(self, x):
        if sys.platform == "darwin" or tf.config.list_physical_devices("GPU"):  # without oneDNN
            return tf.nn.relu(super().call(x))
        with tf.init_scope():  # when a step is traced, not in each one
            kernel = tf.cast(tf.convert_to_tensor(self.kernel), self.compute_dtype)  # (3, 3, C, filters)
            turned = tf.transpose(kernel[::-1, ::-1], (0, 1, 3, 2))  # (3, 3, filters, C)
        def apply(x, kernel):
            return tf.nn.conv2d_transpose(x, kernel, tf.concat([tf.shape(x)[:3], kernel.shape[2:3]], 0), 1)
        convolve = tf.custom_gradient(lambda x: (apply(x, turned), lambda dy: apply(dy, kernel)))
        return tf.nn.relu(tf.nn.bias_add(convolve(x), self.bias))


def choose_precision() -> str:
    """Time a convolution in both: no flag tells whether bfloat16 halves the time or, emulated, multiplies it."""
    def measure(precision):
        conv, x = Conv2D(128, 3, dtype=precision), tf.ones((1, 64, 64, 128))
        conv.build(x.shape)
        step = tf.function(lambda: tf.gradients(conv(x), x)[0])
        return min(timeit.repeat(lambda: step().numpy(), lambda: step().numpy(), number=1, repeat=4))
    return "mixed_bfloat16" if measure("mixed_bfloat16") < 0.8 * measure("float32") else "float32"


def build_vgg19(precision: str = "float32", seed: int = SEED) -> keras.Model:
    """Build VGG19 without its top, He-initialised, for images of any size; layers are named as in Keras.

    Source: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", 2015, table 1.
    """
    config = {"data_format": "channels_last", "dtype": precision}
    x = inputs = keras.Input((None, None, 3), dtype="float32")
    for block, (channels, convolutions) in enumerate(VGG19_BLOCKS, 1):
        for conv in range(1, convolutions + 1):
            he = keras.initializers.HeNormal(seed=10_000 * seed + 100 * block + conv)
            x = Conv2D(channels, 3, padding="same", kernel_initializer=he, name=f"block{block}_conv{conv}", **config)(x)
        x = keras.layers.MaxPooling2D(name=f"block{block}_pool", **config)(x)
    return keras.Model(inputs, x, name="vgg19", trainable=False)


def load_weights(vgg_model: keras.Model, path: str | Path) -> None:
    """Read weights, and only these, from Keras' legacy `.h5`, `.weights.h5` or `.keras`, or raise OSError."""
    remedy = "Expected the weights of VGG19 without top, as .h5, .weights.h5 or .keras; set VGG_NETWORK_PATH"
    check_file(path := Path(path), remedy)
    try:
        if path.name == WEIGHTS_NAME and hashlib.md5(path.read_bytes()).hexdigest() != WEIGHTS_HASH:
            raise ValueError("it is not Keras' file of this name, whose hash is another")
        with silence():  # Keras warns of a file before it refuses it, as it does one with links to other files
            vgg_model.load_weights(str(path))
        if not all(np.isfinite(w).all() for w in vgg_model.get_weights()):
            raise ValueError("it has weights that are NaN or infinite")
    except Exception as error:  # h5py, zipfile and Keras each raise their own kinds
        raise OSError(f"{path} cannot be loaded: {' '.join(str(error).split())[:200]}. {remedy}") from error


def download_weights(folder: str | Path, url: str = WEIGHTS_URL, file_hash: str = WEIGHTS_HASH) -> Path:
    """Download weights into a folder, unless they are there with this hash, and return the file's path, or OSError."""
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
        raise OSError(f"{url} cannot be downloaded: {str(error).split(' -- ')[-1]}. Put that file into {folder}, or "
                      "set VGG_MODE to 'fit', which needs none") from error
    finally:
        socket.setdefaulttimeout(timeout)
    return path


def fit_weights(vgg_model: keras.Model, imgs: list, seed: int = SEED, patches: int = 10_000, rounds: int = 10) -> None:
    """Learn the filters up to block4_conv1 from images: k-means on whitened patches. The later ones stay random.

    Source: Coates and Ng, "Learning Feature Representations with K-means", 2012. Learning from the content image too
    keeps its shapes, as does the bias. Images are (1, H, W, 3) in [0, 1], of more than one colour, else ValueError.
    """
    def sample(x, n):  # (1, H, W, C) -> (n, 9*C)
        windows = np.lib.stride_tricks.sliding_window_view(x[0], (3, 3, x.shape[-1]))[:, :, 0]  # (H-2, W-2, 3, 3, C)
        return windows[tuple(rng.integers(side, size=n) for side in windows.shape[:2])].reshape(n, -1)
    rng = np.random.default_rng(seed)
    xs = [preprocess(tf.constant(img, tf.float32)) for img in imgs]
    for layer in itertools.takewhile(lambda layer: layer.name < "block4_conv2", vgg_model.layers[1:]):
        if layer.name.endswith("pool"):
            xs = [tf.nn.max_pool2d(x, 2, 2, "VALID") for x in xs]
            continue
        p = np.concatenate([sample(x.numpy(), patches // len(xs)) for x in xs])
        p -= p.mean(0)  # (patches, 9*C)
        if not np.ptp(p, axis=0).any():
            raise ValueError("VGG_MODE 'fit' learns filters from the images. Give others, these are of one flat colour")
        covariance = np.float64(p.T @ p) / len(p)
        vector = np.ones(len(covariance))
        for _ in range(30):  # power iteration: its length becomes the largest eigenvalue
            vector = covariance @ (vector / np.linalg.norm(vector))
        regularized = covariance + 0.03 * np.linalg.norm(vector) * np.eye(len(covariance))
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
        bias = (2.0 if layer.name < "block2" else 0.5) - mean * scale  # fewer zeros; in block 1 they tint edges
        layer.set_weights([kernel * scale, bias])
        xs = [tf.nn.relu(r * scale + bias) for r in responses]


def get_vgg_model(mode: str = VGG_MODE, path: str | Path | None = VGG_NETWORK_PATH,
                  style_img: np.ndarray | list | None = None, content_img: np.ndarray | None = None,
                  precision: str = PRECISION, seed: int = SEED) -> keras.Model:
    """Build VGG19 without top, frozen, for VGG's own input (see `preprocess()`), and give it weights.

    Mode 'download' takes Keras' ImageNet weights and keeps them in the folder `path`; 'local' takes the weights file
    `path`, or the one in the folder `path`; 'fit' learns filters from the images; 'auto' takes a weights file at `path`
    if there is one, else downloads it, else warns and fits. ValueError is raised for an illegal setting or no image to
    fit to, OSError for weights that cannot be had.
    """
    check_settings(vgg_mode=mode, vgg_network_path=path, precision=precision, seed=seed)
    path = Path(path)
    is_file = path.is_file() or path.suffix in WEIGHTS_SUFFIXES
    found = [path] if is_file else sorted(file for file in path.glob("*") if file.suffix in WEIGHTS_SUFFIXES)
    file = found[0] if found and mode in ("auto", "local") else None
    if mode == "local" and not file or mode == "download" and is_file:
        raise ValueError("VGG_NETWORK_PATH must be a weights file, or a folder that holds one, for VGG_MODE 'local', a "
                         f"folder for 'download'. Received: {str(path)!r}")
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
        style_imgs = style_img if isinstance(style_img, list) else [style_img]
        fit_weights(vgg_model, style_imgs if content_img is None else [*style_imgs, content_img], seed)
    vgg_model.name = f"VGG19 from {file}" if file else "VGG19 fitted to the images"
    return vgg_model


def get_vgg_encodings(vgg_model: keras.Model, encoding_layers: list = ENCODING_LAYERS) -> keras.Model:
    """Make the model from a picture, (1, H, W, 3) in [0, 1], to its layers' activations, float32 (1, h, w, C).

    It is the one place that knows VGG's own input, and is named after the precision that it computes in.
    """
    check_settings(encoding_layers=encoding_layers)
    img = keras.Input((None, None, 3), dtype="float32")
    encoder = keras.Model(vgg_model.inputs, [vgg_model.get_layer(name).output for name, _ in encoding_layers])
    encodings = [keras.ops.cast(a, "float32") for a in encoder(preprocess(img))]
    return keras.Model(img, encodings, trainable=False, name=vgg_model.layers[1].dtype_policy.name)


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

    Of each layer: the style image's Gram matrix, (C, C), the generated image's activation, (1, h, w, C), and weight.
    """
    layers = zip(style_grams, generated_encodings, weights, strict=True)
    return tf.add_n([weight * get_relative_error(get_gram_matrix(a), gram) for gram, a, weight in layers])


@tf.custom_gradient
def get_variation_cost(img: tf.Tensor) -> tf.Tensor:
    """J_tv = mean((x - x_below)^2) + mean((x - x_right)^2), a scalar: total variation, squared, of (1, H, W, 3)."""
    below, right = tf.image.image_gradients(tf.convert_to_tensor(img))  # 0 in the last row, in the last column
    a, b = (1 / tf.cast(tf.size(pixels), img.dtype) for pixels in (img[:, 1:], img[:, :, 1:]))  # for the means
    def gradient(dy):  # as one term: more than two, with the network's, are added in an order that varies by the run
        return 2 * dy * (a * (tf.roll(below, 1, 1) - below) + b * (tf.roll(right, 1, 2) - right))
    return a * tf.reduce_sum(tf.square(below)) + b * tf.reduce_sum(tf.square(right)), gradient


def get_total_cost(content_cost: tf.Tensor, style_cost: tf.Tensor, variation_cost: tf.Tensor = 0.0,
                   content_weight: float = CONTENT_WEIGHT, style_weight: float = STYLE_WEIGHT,
                   tv_weight: float = TV_WEIGHT) -> tf.Tensor:
    """J = content_weight * J_content + style_weight * J_style + tv_weight * J_tv, a scalar."""
    return content_weight * content_cost + style_weight * style_cost + tv_weight * variation_cost


# ------ Style transfer -----------------------------------------------------------------------------------------------


class LBFGS(keras.optimizers.Optimizer):
    """Limited-memory BFGS for one variable in bounds: a quasi-Newton step from each gradient, without a line search.

    A step is cut to a root mean square of `max_step`. Of the moves as they were made, clipping included, and the
    changes of the gradient with them, the last `pairs` are kept; one without positive curvature counts as none. What a
    bound holds takes no part. Source: Nocedal and Wright, "Numerical Optimization", 2nd edition, algorithm 7.4.
    """

    def __init__(self, learning_rate=1.0, pairs: int = 20, max_step: float = 0.02, bounds: tuple = (0.0, 1.0)):
        super().__init__(learning_rate, name="lbfgs")
        self.pairs, self.max_step, self.bounds = pairs, max_step, bounds

    def build(self, variables):
        super().build(variables)
        size = int(np.prod(variables[0].shape))
        def add(size):
            return self.add_variable((size,), dtype="float32", name="state")
        self.x, self.g, self.scale = add(size), add(size), add(1)
        self.s, self.y, self.rho = ([add(n) for _ in range(self.pairs)] for n in (size, size, 1))  # the oldest first

    def limit(self, d):
        return tf.math.divide_no_nan(self.max_step, tf.sqrt(tf.reduce_mean(tf.square(d))))

    def update_step(self, gradient, variable, learning_rate):
        x, g = tf.reshape(variable, [-1]), tf.reshape(gradient, [-1])
        is_held = (x <= self.bounds[0]) & (g > 0) | (x >= self.bounds[1]) & (g < 0)
        free = tf.where(is_held, 0.0, 1.0)
        s, y = free * (x - self.x), free * (g - self.g)
        curvature = tf.tensordot(s, y, 1)
        is_pair = (self.iterations > 0) & (curvature > 0)
        self.scale.assign(tf.where(is_pair, curvature / tf.tensordot(y, y, 1), self.scale))
        rho = tf.where(is_pair, 1 / curvature, [0.0])
        for kept, new in ([self.x], x), ([self.g], g), (self.s, s), (self.y, y), (self.rho, rho):
            for older, newer in zip(kept, [*kept[1:], new], strict=True):
                older.assign(newer)  # moves no numbers, only the buffer that holds them
        d, pairs, alphas = free * g, list(zip(self.s, self.y, self.rho, strict=True)), []
        for s, y, rho in reversed(pairs):
            alphas.append(rho * tf.tensordot(s, d, 1))
            d -= alphas[-1] * y
        d *= tf.where(self.scale > 0, self.scale, self.limit(d))
        for (s, y, rho), alpha in zip(pairs, reversed(alphas), strict=True):
            d += (alpha - rho * tf.tensordot(y, d, 1)) * s
        d *= learning_rate * free
        variable.assign_sub(tf.reshape(d * tf.minimum(1.0, self.limit(d)), variable.shape))


def transfer_style_step(generated_img: tf.Variable, encoding_model: keras.Model, style_grams: list,
                        content_encoding: tf.Tensor, optimizer: keras.optimizers.Optimizer,
                        encoding_layers: list = ENCODING_LAYERS, content_weight: float = CONTENT_WEIGHT,
                        style_weight: float = STYLE_WEIGHT, tv_weight: float = TV_WEIGHT) -> tuple:
    """Move the generated image, in place, one step down the cost, within [0, 1], with an optimizer built for it.

    The targets are a Gram matrix for each style layer, (C, C), and the content layer's activation, (1, h, w, C).
    Returned are total, style and content cost before the step, scalars.
    """
    *style_weights, content_layer_weight = [weight for _, weight in encoding_layers]
    with tf.GradientTape() as tape:
        *style, content = encoding_model(generated_img)
        style_cost = get_style_cost(style_grams, style, style_weights)
        content_cost = get_content_cost(content_encoding, content, content_layer_weight)
        cost = get_total_cost(content_cost, style_cost, get_variation_cost(generated_img), content_weight,
                              style_weight, tv_weight)
    gradient = tape.gradient(cost, generated_img)
    optimizer.apply_gradients([(gradient, generated_img)])
    generated_img.assign(tf.clip_by_value(generated_img, 0.0, 1.0))
    return cost, style_cost, content_cost


@contextlib.contextmanager
def catch_signals():
    """Yield a list that the first signal to end goes into, so that an epoch can end; a second one ends at once."""
    caught, previous = [], {}
    def catch(signum, frame):
        interrupt(signum) if caught else caught.append(signum)
    with contextlib.suppress(ValueError):  # in a thread, which may not handle signals
        previous = handle_signals(catch)
    try:
        yield caught
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)


def get_digest(*arrays: np.ndarray) -> str:
    """SHA-256 over arrays, their types and shapes."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


def load_checkpoint(path: Path) -> tuple[dict, list]:
    """Read a run's record and the arrays of its state; `({}, [])` if there is none. A damaged one is set aside."""
    try:
        with np.load(path) as file:
            meta, *arrays = (file[f"arr_{i}"] for i in range(len(file.files) - 1))
            if file["digest"] != get_digest(meta, *arrays):
                raise ValueError("its hash is wrong")
        return json.loads(meta.tobytes()), arrays
    except Exception as error:  # zipfile and NumPy raise many kinds
        if path.exists():
            aside = path.replace(path.with_name(f"damaged_{path.name}"))
            print(f"Warning: {path} is damaged ({error}). It is now {aside}, and the run starts anew.", file=sys.stderr)
        return {}, []


def set_aside(folder: Path) -> None:
    """Move the images and the checkpoint of an earlier run into a subfolder."""
    files = [file for name in ("image_*.png", "checkpoint.npz", "painting.webp") for file in sorted(folder.glob(name))]
    if files:
        aside = next(path for n in itertools.count(1) if not (path := folder / f"earlier_{n}").exists())
        aside.mkdir()
        for file in files:
            file.replace(aside / file.name)
        say(f"What an earlier run left in {folder} is now in {aside}")


def transfer_style_loop(generated_img: tf.Variable, content_img: np.ndarray, style_img: np.ndarray | list,
                        encoding_model: keras.Model, encoding_layers: list = ENCODING_LAYERS,
                        content_weight: float = CONTENT_WEIGHT, style_weight: float = STYLE_WEIGHT,
                        tv_weight: float = TV_WEIGHT, optimizer: str = OPTIMIZER, epochs: int = EPOCHS,
                        learn_rate: float = LEARN_RATE, save_every: int | None = SAVE_EVERY,
                        stop_below: float | None = STOP_BELOW, output_path: str | Path = OUTPUT_PATH,
                        text: dict | None = None) -> dict[str, list]:
    """Run the epochs and save images of the way: the start as epoch 0, every `save_every`-th and always the last.

    A checkpoint, written with each image and every minute, keeps the run: the same call goes on where it stopped, to
    the same picture. With another setting or input it starts anew; more `epochs` alone prolong a run. What an earlier
    run left in the folder is moved to a subfolder. SIGINT (Ctrl-C), SIGTERM and SIGHUP end an epoch and save its image.
    The image of epoch 250 is `image_00250.png` in `output_path`, with `text` in its text. Of several style images the
    Gram matrices are averaged. Returned is the history: lists under 'epoch', 'cost' (of the start of that step),
    'style_cost' and 'content_cost', with an entry for each saved image but the start.
    Raises ValueError, OSError, FloatingPointError for an illegal setting, a file that cannot be written, a NaN picture,
    and KeyboardInterrupt, with a text and the signal's number, after a signal.
    """
    check_settings(**(settings := dict(locals())))
    style_imgs = style_img if isinstance(style_img, list) else [style_img]
    decisive = ("encoding_layers", "content_weight", "style_weight", "tv_weight", "optimizer", "learn_rate")
    run = json.loads(json.dumps({name.upper(): settings[name] for name in decisive}, default=float)) | {
        "the content image": get_digest(np.asarray(content_img)), "PRECISION": encoding_model.name,
        "the style image": get_digest(*map(np.asarray, style_imgs)),
        "the start (NOISE_MAGNITUDE, SEED)": get_digest(generated_img.numpy()),
        "the network's weights": get_digest(*encoding_model.get_weights()),
        "versions": f"TensorFlow {tf.__version__}, Keras {keras.__version__}",
    }
    save_every, interactive = save_every or max(1, epochs // 100), is_interactive()
    folder, checkpoint = Path(output_path), Path(output_path, "checkpoint.npz")
    grams = [[get_gram_matrix(a) for a in encoding_model(img)[:-1]] for img in style_imgs]
    style_grams = [tf.add_n(layer) / len(layer) for layer in zip(*grams, strict=True)]
    content_encoding = encoding_model(content_img)[-1]
    optimizer = LBFGS() if optimizer == "lbfgs" else keras.optimizers.Adam(lambda: learn_rate)  # not in Keras' floatx
    optimizer.build([generated_img])
    state = [generated_img, *optimizer.variables]
    @tf.function  # of this run: at the module's level, a second run would meet the optimizer of the first
    def step():
        return transfer_style_step(generated_img, encoding_model, style_grams, content_encoding, optimizer,
                                   encoding_layers, content_weight, style_weight, tv_weight)
    def path_of(epoch):
        return folder / f"image_{epoch:0{max(5, len(str(epochs)))}}.png"
    def keep(epoch):
        record = {"run": run, "epoch": epoch, "done": done and [epochs, stop_below], "history": history}
        meta = np.frombuffer(json.dumps(record, default=float).encode(), np.uint8)
        arrays = [variable.numpy() for variable in state]
        with open_to_write(checkpoint) as file:
            np.savez(file, meta, *arrays, digest=get_digest(meta, *arrays))

    history, first, done = {"epoch": [], "cost": [], "style_cost": [], "content_cost": []}, 0, False
    record, arrays = load_checkpoint(checkpoint)
    changed = [name for name, value in run.items() if record and record["run"].get(name) != value]
    changed += ["EPOCHS"] if record and epochs < record["epoch"] else []
    if record and not changed:
        for variable, array in zip(state, arrays, strict=True):
            variable.assign(array)
        history, first, arrays = record["history"], record["epoch"], []  # which L-BFGS has many of
        if first == epochs or record["done"] == [epochs, stop_below]:
            save_image(generated_img.numpy(), path_of(first), (text or {}) | {"epoch": first})
            say(f"This run is done, its picture is {path_of(first)}")
            return history
        say(f"Going on after epoch {first}, from {checkpoint}")
    else:
        if changed:
            say(f"Starting anew, as {checkpoint} is of a run with another value of {', '.join(changed)}")
        set_aside(folder)
        save_image(generated_img.numpy(), path_of(0), (text or {}) | {"epoch": 0})
        keep(0)
    progress = keras.utils.Progbar(epochs - first, stateful_metrics=[*history], unit_name="epoch")
    start = shown = kept = time.monotonic()
    with catch_signals() as signals:
        for epoch in range(first + 1, epochs + 1):
            costs = step()
            now = time.monotonic()
            due, stopping = epoch == epochs or epoch % save_every == 0, bool(signals)
            saving, late = due or stopping, now > kept + 60
            if not (saving or late or interactive and now > shown + 0.2):
                continue  # without waiting for the device
            costs, shown = [float(cost) for cost in costs], now
            if interactive:
                with contextlib.suppress(OSError, ValueError):
                    progress.update(epoch - first, zip([*history][1:], costs, strict=True))
            # The costs would not tell: on CPU, compiled convolutions turn NaN into 0.
            if (saving or late) and not tf.reduce_all(tf.math.is_finite(generated_img)):
                raise FloatingPointError(f"The picture is NaN after epoch {epoch}. Lower LEARN_RATE or the weights of "
                                         f"the costs; the last good image is {path_of(max([0, *history['epoch']]))}")
            if saving:
                save_image(generated_img.numpy(), path_of(epoch), (text or {}) | {"epoch": epoch})
                for name, value in zip(history, (epoch, *costs), strict=True):
                    history[name] += [value] if due else []  # so that it is that of a run left alone
                if not interactive:
                    line = "cost {:.4g}, style cost {:.4g}, content cost {:.4g}".format(*costs)
                    left = round((now - start) / (epoch - first) * (epochs - epoch))
                    say(f"epoch {epoch}/{epochs}: {line}, {left // 60}:{left % 60:02} left, {path_of(epoch)}")
                fallen = 1 - costs[0] / (history["cost"][-2] or 1) if len(history["cost"]) > 1 else np.inf
                done = epoch == epochs or due and stop_below is not None and fallen < stop_below
            if saving or late:
                keep(epoch)
                kept = now
            if done or stopping:
                break
    report = f"epoch {epoch} of {epochs}, {(time.monotonic() - start) / (epoch - first):.3g} s each: {path_of(epoch)}"
    if signals:
        raise KeyboardInterrupt(f"Stopped after {report}. The same command goes on from there", signals[0])
    say(f"Done after {report}" + (f". The cost fell by {fallen:.2%} since the image before" if epoch < epochs else ""))
    return history


# ------ Script -------------------------------------------------------------------------------------------------------


def main(content_img_path: str = CONTENT_IMG_PATH, style_img_path: str | list = STYLE_IMG_PATH,
         output_path: str = OUTPUT_PATH, img_size: int = IMG_SIZE, keep_aspect_ratio: bool = KEEP_ASPECT_RATIO,
         content_weight: float = CONTENT_WEIGHT, style_weight: float = STYLE_WEIGHT, tv_weight: float = TV_WEIGHT,
         encoding_layers: list = ENCODING_LAYERS, style_scale: float = STYLE_SCALE,
         preserve_colors: bool = PRESERVE_COLORS, coarse_size: int | None = COARSE_SIZE,
         noise_magnitude: float = NOISE_MAGNITUDE, seed: int = SEED, optimizer: str = OPTIMIZER, epochs: int = EPOCHS,
         learn_rate: float = LEARN_RATE, save_every: int | None = SAVE_EVERY, stop_below: float | None = STOP_BELOW,
         vgg_mode: str = VGG_MODE, vgg_network_path: str = VGG_NETWORK_PATH,
         precision: str = PRECISION) -> dict[str, list]:
    """Paint the content image in the style of the style image, and return the history of the costs."""
    check_settings(**(settings := dict(locals())))
    sizes = [img_size]
    while coarse_size and sizes[0] > coarse_size:
        sizes.insert(0, max(32, sizes[0] // 2))
    for size in sizes:
        content_img, style_img = load_images(content_img_path, style_img_path, size, keep_aspect_ratio, style_scale,
                                             preserve_colors)
        _, height, width, _ = content_img.shape
        if size == sizes[0]:
            generated_img = initialize_generated_image(content_img, noise_magnitude, seed)
            vgg_model = get_vgg_model(vgg_mode, vgg_network_path, style_img, content_img, precision, seed)
            encoding_model = get_vgg_encodings(vgg_model, encoding_layers)
        else:
            generated_img = initialize_generated_image(tf.image.resize(generated_img, (height, width), "bicubic"), 0.0)
        say(f"{vgg_model.name}, {encoding_model.name}, {width} x {height} pixels, {epochs} epochs")
        folder = output_path if size == img_size else Path(output_path, f"size_{size}")
        history = transfer_style_loop(generated_img, content_img, style_img, encoding_model, encoding_layers,
                                      content_weight, style_weight, tv_weight, optimizer, epochs, learn_rate,
                                      save_every, stop_below, folder, settings | {"precision": encoding_model.name})
    return history


def parse_settings(argv: list[str] | None = None) -> dict:
    """Make the command line from `main()`'s signature and the comments beside the settings; parse it or ValueError."""
    def fail(message):
        raise ValueError(f"{message}; python script.py --help lists the settings")
    def name_and_weight(word):
        name, weight = word.split(":")
        return name, float(weight)
    comments = dict(re.findall(r"^([A-Z_]+) = .*?  # (.+)$", Path(__file__).read_text("utf-8"), re.MULTILINE))
    parser = argparse.ArgumentParser(usage="python script.py [--setting value ...]", allow_abbrev=False)
    parser.error = fail
    for name, parameter in inspect.signature(main).parameters.items():
        default, kinds = parameter.default, getattr(parameter.annotation, "__args__", [parameter.annotation])
        options = {"type": name_and_weight if kinds[0] is list else kinds[0], "nargs": "+" if list in kinds else None}
        options = {"action": argparse.BooleanOptionalAction} if bool in kinds else options | {"metavar": ""}
        shown = " ".join(f"{n}:{w}" for n, w in default) if name == "encoding_layers" else "%(default)s"
        help_text = comments.get(name.upper(), "").replace("%", "%%") + f" (default: {shown})"
        parser.add_argument("--" + name.replace("_", "-"), default=default, help=help_text, **options)
    return vars(parser.parse_args(argv))


if __name__ == "__main__":
    handle_signals()
    try:
        main(**parse_settings())
    except KeyboardInterrupt as stop:
        print(f"\n{stop.args[0]}", file=sys.stderr)
        sys.exit(128 + stop.args[1])
    except (ValueError, OSError, ArithmeticError, MemoryError, tf.errors.ResourceExhaustedError) as error:
        print("Error:", " ".join(str(error).split()) or "out of memory; lower IMG_SIZE", file=sys.stderr)
        sys.exit(2)
