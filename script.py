"""Neural style transfer with VGG19: paint the content of one picture in the style of another.

    python script.py --quick    paints in minutes
    python script.py --help     lists all settings

The pixels of the generated image are the only variables. A cost compares VGG19's activations for the generated image
with those for the two pictures: the last convolution holds the content, the Gram matrices of five convolutions hold the
style. Adam walks the pixels down that cost. From load_image() to save_image() a picture is RGB float32 in [0, 1] of
shape (1, H, W, 3), but a finished one is returned as (H, W, 3).
Source: Gatys, Ecker and Bethge, "Image Style Transfer Using Convolutional Neural Networks", CVPR 2016.
"""

from __future__ import annotations  # makes them texts at once, in Python 3.14 too, for SETTINGS

import argparse
import builtins
import contextlib
import datetime
import gc
import hashlib
import io
import json
import math
import numbers
import os
import re
import shutil
import socket
import sqlite3
import statistics
import subprocess
import sys
import time
import timeit
import warnings
import zipfile
from pathlib import Path
from typing import Annotated, Literal, get_args, get_origin, get_type_hints

import h5py
import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageFile, ImageOps, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError

# ------ Settings -----------------------------------------------------------------------------------------------------
# Each line with a type is one setting: its name, legal values, default and effect. IMG_SIZE is also the flag --img-size
# and the keyword img_size of main() and transfer_style_loop(). These read the constants when they are called, so that
# `script.EPOCHS = 20` changes the next run. Defaults of other functions are the constants as they were at the import.

Pixels = Annotated[int, 32, 32_768]  # from, to
Count = Annotated[int, 1, 2_147_483_648]
Weight = Annotated[float, 0, 1_000_000]

# What to paint
CONTENT_IMG_PATH: str = "images/content.jpg"  # JPEG, PNG, WebP, BMP, TIFF, GIF or AVIF
STYLE_IMG_PATH: str | list = "images/style.jpg"  # one, or several as ["a.jpg", "b.jpg"]; the flag takes a.jpg b.jpg
MASK_PATH: str | None = None  # a picture, stretched to the content's size: white is painted, black stays
START_IMG_PATH: str | None = None  # a picture to start from, such as an earlier painting; None is the content image
OUTPUT_PATH: str = "output_images/"  # folder for the images of a run; it is made if missing
IMG_SIZE: Pixels = 400  # height and width; time and memory grow with its square
KEEP_ASPECT_RATIO: bool = False  # True keeps the shape of the pictures: IMG_SIZE is then their long side

# How it looks
CONTENT_WEIGHT: Weight = 10.0  # more keeps more of the content's shapes
STYLE_WEIGHT: Weight = 40.0  # more takes more of the style's strokes and colours
TV_WEIGHT: Weight = 20.0  # more makes it smoother, 0 leaves coloured speckle
CONTENT_LAYER = ("block5_conv4", 1.0)  # the last entry of the next setting; earlier blocks keep more details
ENCODING_LAYERS: list = [  # style layers, then the content layer; the flag takes block1_conv1:0.2 block5_conv4:1
    ("block1_conv1", 0.2),
    ("block2_conv1", 0.2),
    ("block3_conv1", 0.2),
    ("block4_conv1", 0.2),
    ("block5_conv1", 0.2),
    CONTENT_LAYER,
]
STYLE_SCALE: Annotated[float, 0.1, 10] = 1.0  # 2 takes the style image twice as large, for strokes twice as large
PRESERVE_COLORS: bool = False  # True keeps the content's colours
NOISE_MAGNITUDE: Annotated[float, 0, 1] = 0.2  # noise in [-this, this] is added to the start
SEED: Annotated[int, 0, 2_147_483_648] = 0  # another number gives other noise, and with VGG_MODE "fit" other filters

# How long
SCHEDULE: Literal["constant", "cosine"] = "constant"  # of the learning rate: "cosine" finishes in a hundred epochs
COARSE_ABOVE: Pixels = 400  # "cosine" halves what is larger than this, and paints 1200 px at 300, 600 and 1200 px
EPOCHS: Count = 25_000  # steps; where several sizes are painted, each later one takes 0.6 times as many
LEARN_RATE: Annotated[float, 1e-9, 1] = 0.001  # how far a pixel moves in a step; "cosine" rises to it, then falls to 0
SAVE_EVERY: Count | None = None  # epochs from one saved image to the next; None saves the start and at most 100

# With what network
VGG_MODE: Literal["auto", "local", "download", "fit"] = "auto"  # fit learns filters; auto is the first that works
VGG_NETWORK_PATH: str = "model/"  # a file with weights, or a folder that holds one
PRECISION: Literal["auto", "float32", "mixed_bfloat16"] = "auto"  # auto: as the run in OUTPUT_PATH, else the faster

SETTINGS = {  # {"content_img_path": str, ...}
    name.lower(): kind
    for name, kind in get_type_hints(sys.modules[__name__], include_extras=True).items()
    if name.isupper()  # other cells of a notebook may have names with types, too
}

# The defaults above take hours. These settings finish a picture in minutes. `python script.py --quick` starts from
# them, and so does main(**QUICK).
QUICK = {
    "schedule": "cosine",
    "epochs": 100,
    "learn_rate": 0.05,
    "content_weight": 5.0,
    "style_weight": 160.0,
    "tv_weight": 40.0,
    "keep_aspect_ratio": True,
}

# ------ Start-up -----------------------------------------------------------------------------------------------------

IN_IPYTHON = hasattr(builtins, "__IPYTHON__")
IS_PROGRAM = __name__ == "__main__" and not IN_IPYTHON


def say(text, file=None, end="\n"):
    """Print a line. If the stream is closed or cannot show the text, carry on without it."""
    with contextlib.suppress(OSError, ValueError):
        print(text, file=file, end=end, flush=True)


def is_interactive():
    """Tell whether somebody watches: a terminal or a notebook, where a progress bar can be drawn."""
    return IN_IPYTHON or (sys.stdout and sys.stdout.isatty())  # stdout is None under Windows' pythonw


if IS_PROGRAM:
    warnings.simplefilter("ignore")  # TensorFlow's and Pillow's are not for users
    if hasattr(sys.stdout, "reconfigure"):  # IDLE's has no such method
        sys.stdout.reconfigure(errors="replace")  # print ? for a letter that the terminal cannot show
# Pillow's limits are for small pictures. These are for the whole process, in a notebook too.
Image.MAX_IMAGE_PIXELS = 125_000_000  # Pillow refuses what is above twice this, 250 megapixels
PngImagePlugin.MAX_TEXT_CHUNK = 50_000_000  # bytes; Pillow's 1 MB is too little for what some programs write
os.environ["KERAS_BACKEND"] = "tensorflow"  # whatever ~/.keras/keras.json says
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # makes older processors twice as fast too
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # else TensorFlow takes all memory of a GPU at once

# Hold back what TensorFlow's import writes to stderr, whatever the log level is. A child process collects it. The child
# prints it only if this process dies in the import, as on a processor without AVX, and is killed when the import is
# done. Ctrl-C does not reach a child in a session of its own.
crash_printer = None
if IS_PROGRAM and sys.__stderr__:  # it is None if stderr was closed
    code = "import sys; sys.stderr.write(sys.stdin.read())"
    crash_printer = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, start_new_session=True)
    real_stderr = os.dup(2)
    os.dup2(crash_printer.stdin.fileno(), 2)
try:
    import keras
    import tensorflow as tf
except KeyboardInterrupt:
    if IS_PROGRAM:
        sys.exit(130)  # as the shell counts Ctrl-C
    raise
finally:
    if crash_printer:
        os.dup2(real_stderr, 2)
        crash_printer.kill()
        crash_printer.wait()
if keras.config.backend() != "tensorflow":
    raise ImportError(
        "script.py needs Keras with TensorFlow. Start a new process and import script before keras. "
        f"Received: Keras with {keras.config.backend()}"
    )

if IS_PROGRAM and not is_interactive():
    keras.utils.disable_interactive_logging()  # no bar of a download in a log file


# ------ Images -------------------------------------------------------------------------------------------------------
# Up to to_array(), `img` is an image of Pillow, after it an array. `rgb` is always Pillow's.

IMAGE_FORMATS = ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF"]
IMAGE_REMEDY = (
    f"Expected a whole picture as {', '.join(IMAGE_FORMATS)}, with 8 bits per colour. "
    "Save others, such as HEIC or a camera's raw file, as JPEG or PNG. Shrink one of more than 250 megapixels"
)
MIN_SIZE = 32  # pixels; VGG19's last block then sees 2 x 2 places


def check_readable(img):
    """Raise ValueError for a picture that Pillow would read wrong without an error."""
    tags = getattr(img, "tag_v2", {})  # of a TIFF; Pillow gives those that may have several values as tuples
    is_planar = tags.get(ExifTags.Base.PlanarConfiguration) == 2
    # The only planes that Pillow reads right.
    is_plain_rgb = tags.get(ExifTags.Base.BitsPerSample) == (8, 8, 8) and tags.get(ExifTags.Base.FillOrder) != 2
    has_transparent_color = "transparency" in img.info and img.mode != "P"
    misread = {
        "grey of 16 bits or more": img.mode[0] in "IF",  # I;16, I and F
        "signed samples": tags.get(TiffImagePlugin.SAMPLEFORMAT) == (2,),
        "planes, one for each colour": is_planar and not is_plain_rgb,
        "a palette of 8 bits": max(tags.get(TiffImagePlugin.COLORMAP, [256])) < 256,  # TIFF's have 16 bits
        "run lengths of a BMP": img.format == "BMP" and img.info.get("compression") in (1, 2),
        "a camera's raw file": tags.get(ExifTags.Base.NewSubfileType) == 1,  # its first image is a thumbnail
        "a transparent colour of 2, 4 or 16 bits": has_transparent_color and ";" in img.tile[0][3],  # such as "L;4"
    }
    for kind, is_so in misread.items():
        if is_so:
            raise ValueError(f"Pillow does not read {kind} right")


def find_ignored_colors(img, head):
    """Return the name of metadata that is ignored here although it says "not sRGB", or None.

    An ICC profile is not ignored, and counts more than all other metadata.

    Args:
        img: of Pillow.
        head: the first bytes of the file, because Pillow tells neither cICP nor AVIF's nclx.
    """
    info = img.info
    if info.get("icc_profile"):
        return None
    codes = re.search(rb"(?s)(?:\0\0\0\x04cICP|colrnclx)\0?(.)\0?(.)", head)  # two codes, in nclx of 16 bits
    if codes:
        # Codes of ITU-T H.273: primaries like sRGB's, and curves that viewers show as sRGB's, are left alone.
        primaries, curve = codes[1][0], codes[2][0]
        return None if primaries in (1, 2, 5, 6) and curve in (1, 2, 6, 13, 14, 15) else "cICP or nclx"
    if "srgb" in info:
        return None
    # Some programs write 0 for what they do not know.
    gamma = info.get("gamma") or 1 / 2.2
    srgb = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
    chromaticity = info.get("chromaticity", srgb)
    if abs(gamma - 1 / 2.2) > 0.01 or not (0 in chromaticity or np.allclose(chromaticity, srgb, atol=0.005)):
        return "gAMA or cHRM"
    with contextlib.suppress(Exception):  # of broken EXIF
        interop = img.getexif().get_ifd(ExifTags.IFD.Interop)
        if interop.get(ExifTags.Interop.InteropIndex) == "R03":  # cameras' mark of Adobe RGB
            return "EXIF's Adobe RGB"
    return None


def convert_to_srgb(img, background):
    """Convert a picture of any mode to sRGB, by its ICC profile where that can be used, and lay it over a colour."""
    if img.mode == "La":  # grey with associated alpha; Pillow converts it only to LA
        img = img.convert("LA")
    if img.format == "BMP" and img.mode == "RGBA" and not img.getchannel("A").getbbox():
        img = img.convert("RGB")  # zeros everywhere: the program that wrote it meant no alpha
    transparency = img.info.get("transparency")  # bytes where each colour of a palette has its own
    if isinstance(transparency, bytes) and len(transparency) > len(img.palette.palette) / 3:
        del img.info["transparency"]  # viewers ignore a table that is longer than the palette
    # Profiles fit only grey, RGB and CMYK.
    opaque = img if img.mode == "CMYK" else img.convert("L" if img.mode in ("1", "L", "LA") else "RGB")
    try:  # fails without a profile, and with a broken one or one for other colours
        profile = ImageCms.ImageCmsProfile(io.BytesIO(img.info.get("icc_profile")))
        rgb = ImageCms.profileToProfile(opaque, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (OSError, TypeError, ImageCms.PyCMSError):
        rgb = opaque.convert("RGB")
    if img.has_transparency_data:
        rgb.putalpha(img.convert("RGBA").getchannel("A"))
    box = getattr(img, "dispose_extent", (0, 0, *img.size))  # a GIF's first frame may fill only this of its canvas
    frame = rgb.crop(box)
    canvas = Image.new("RGB", img.size, background)
    canvas.paste(frame, box, frame if frame.mode == "RGBA" else None)
    return canvas


def expand(path):
    """Return a Path, with the home folder in place of `~`."""
    return Path(os.path.expanduser(str(path)))


def open_image(file, head):
    """Open a picture, in spite of a JFIF segment that is too short or a damaged chunk of a PNG that no pixel needs.

    Args:
        head: the first bytes of the file.
    """
    short_jfif = re.match(rb"\xff\xd8\xff\xe0\0([\x02-\x08])", head)  # SOI, APP0, its length
    if short_jfif:
        end = 4 + short_jfif[1][0]
        file = io.BytesIO(b"\xff\xd8" + file.read_bytes()[end:])
    try:
        return Image.open(file, formats=IMAGE_FORMATS)  # no others: for EPS, Pillow would start Ghostscript
    except UnidentifiedImageError:
        before = ImageFile.LOAD_TRUNCATED_IMAGES
        try:
            ImageFile.LOAD_TRUNCATED_IMAGES = True  # skips the chunk. When pixels are read this is False again
            return Image.open(file, formats=IMAGE_FORMATS)
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = before


def read_image(path, background="white", size=None):
    """Read a picture from a file, upright, in sRGB and laid over a background, as an image of Pillow.

    An ICC profile is applied where Pillow can use it. Where other metadata says that colours are not sRGB's, there is a
    warning. A JPEG of more than 40 megapixels is read smaller, to save memory, but no side is below twice the `size` in
    pixels.

    Raises:
        OSError: if the file is not a whole picture of `IMAGE_FORMATS`.
    """
    file = expand(path)
    if not os.path.isfile(file):  # opening a FIFO would hang
        raise OSError(f"{str(path)!r} is no file, seen from the folder {Path.cwd()}. {IMAGE_REMEDY}")
    with open(file, "rb") as stream:
        head = stream.read(100_000)
    try:
        with open_image(file, head) as img:
            check_readable(img)
            ignored = find_ignored_colors(img, head)
            if ignored:
                say(f"Warning: {path} is read as sRGB, but {ignored} says otherwise. Save it as sRGB", sys.stderr)
            if size and img.width * img.height > 40_000_000:
                img.draft(None, (2 * size, 2 * size))  # of other formats this does nothing
            img.load()
            rgb = convert_to_srgb(img, background)
            # Copy the orientation alone, for exif_transpose(), because other EXIF may be broken.
            with contextlib.suppress(Exception):
                orientation = img.getexif().get(ExifTags.Base.Orientation)
                if img.format == "TIFF" and isinstance(orientation, bytes):  # some programs write a BYTE
                    orientation = orientation[0]
                rgb.getexif()[ExifTags.Base.Orientation] = orientation
        return ImageOps.exif_transpose(rgb)
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises many kinds for a damaged file
        # The first bytes tell what it is: HEIC has "ftypheic" there, a web page "<!DOCTYPE".
        raise OSError(f"{path} cannot be read: {error}. It begins with {head[:12]}. "
                      f"{IMAGE_REMEDY}") from error


def to_array(img, size, resampling=Image.Resampling.LANCZOS):
    """Resize an image of Pillow to (width, height), and turn it into float32 in [0, 1], (1, H, W, 3) or (1, H, W)."""
    return np.asarray(img.resize(size, resampling), np.float32)[None] / 255


def load_image(path, img_size=IMG_SIZE, keep_aspect_ratio=KEEP_ASPECT_RATIO, soft=False):
    """Read a content or style image from a file.

    EXIF orientation and an embedded colour profile are applied, transparency is laid over white, and of an animation
    the first frame is taken.

    Args:
        path: JPEG, PNG, WebP, BMP, TIFF, GIF or, where Pillow can read it, AVIF. `~` is the home folder.
        img_size: Height and width in pixels.
        keep_aspect_ratio: If True, `img_size` is the long side and the short one at least 32 pixels.
        soft: If True, a picture whose long side is less than twice `img_size` is halved first. So it loses its finest
            detail, such as the noise of JPEG, which would become grain. A larger one loses that anyway.

    Returns:
        sRGB in [0, 1], float32, shape (1, H, W, 3).

    Raises:
        OSError: if the file is not a whole picture of these formats.
    """
    rgb = read_image(path, size=img_size)
    if soft and max(rgb.size) < 2 * img_size:
        rgb = rgb.reduce(2)
    size = (img_size, img_size)
    if keep_aspect_ratio:
        size = [max(MIN_SIZE, round(img_size * (side / max(rgb.size)))) for side in rgb.size]
    return to_array(rgb, size)


def match_colors(img, *targets):
    """Give a picture the mean and covariance of the targets' colours: x -> (x - mean) A + target_mean, within [0, 1].

    Here x is a row of red, green and blue, S is a covariance, and A = S^(-1/2) S_target^(1/2).
    Source: Gatys et al., "Preserving Color in Neural Artistic Style Transfer", 2016.
    """
    def get_statistics(*imgs):
        pixels = np.vstack([np.float64(img).reshape(-1, 3) for img in imgs])
        floor = 0.01**2  # keeps the faint hues of a grey picture from becoming bright blotches
        variances, axes = np.linalg.eigh(np.cov(pixels.T) + floor * np.eye(3))
        return pixels.mean(0), (axes * np.sqrt(variances)) @ axes.T

    mean, root = get_statistics(img)
    target_mean, target_root = get_statistics(*targets)
    matched = (img - mean) @ np.linalg.inv(root) @ target_root + target_mean
    return np.float32(np.clip(matched, 0, 1))


def load_images(content_img_path=CONTENT_IMG_PATH, style_img_path=STYLE_IMG_PATH, img_size=IMG_SIZE,
                keep_aspect_ratio=KEEP_ASPECT_RATIO, style_scale=STYLE_SCALE, preserve_colors=PRESERVE_COLORS,
                soft_styles=False):
    """Read the content image and the style images.

    Args:
        content_img_path: A file.
        style_img_path: A file, or a list of files.
        img_size: Height and width of the content image in pixels.
        keep_aspect_ratio: If True, the pictures keep their shape; see `load_image()`.
        style_scale: Size of the style images over that of the content image.
        preserve_colors: If True, the style images get the content image's colours.
        soft_styles: If True, style images are `soft`; see `load_image()`.

    Returns:
        The content image and the list of style images, each (1, H, W, 3) in [0, 1].

    Raises:
        OSError: if a file is not a picture.
    """
    content_img = load_image(content_img_path, img_size, keep_aspect_ratio)
    style_size = max(MIN_SIZE, round(img_size * style_scale))
    paths = [style_img_path] if isinstance(style_img_path, (str, Path)) else style_img_path
    style_imgs = [load_image(path, style_size, keep_aspect_ratio, soft_styles) for path in paths]
    if preserve_colors:
        style_imgs = [match_colors(img, content_img) for img in style_imgs]
    return content_img, style_imgs


def load_start(start_img_path, content_img):
    """Read the picture that a run starts from, stretched to the content image's size.

    Args:
        start_img_path: a file, or None for the content image itself.
        content_img: (1, H, W, 3).

    Returns:
        sRGB in [0, 1], float32, shape (1, H, W, 3).

    Raises:
        OSError: if the file is not a picture.
    """
    if start_img_path is None:
        return content_img
    height, width = content_img.shape[1:3]
    return to_array(read_image(start_img_path), (width, height))


def load_mask(mask_path, content_img):
    """Read the picture that says where to paint, stretched to the content image's size.

    Args:
        mask_path: A file, or None.
        content_img: (1, H, W, 3).

    Returns:
        Brightness in [0, 1], float32, shape (1, H, W, 1), or None, for everywhere, if `mask_path` is None. Transparent
        parts are black.

    Raises:
        OSError: if the file is not a picture.
        ValueError: if it is all black.
    """
    if mask_path is None:
        return None
    height, width = content_img.shape[1:3]
    grey = read_image(mask_path, background="black").convert("L")
    if not grey.getbbox():
        raise ValueError(f"MASK_PATH must be a picture that is white where to paint. Received: {mask_path}, all black")
    # Lanczos would lighten the black beside an edge.
    return to_array(grey, (width, height), Image.Resampling.BILINEAR)[..., None]


def apply_mask(img, content_img, mask):
    """Return mask * img + (1 - mask) * content_img: black keeps the content to the bit, grey blends, None paints all.

    Args:
        img: The picture that is painted, (1, H, W, 3).
        content_img: (1, H, W, 3).
        mask: (1, H, W, 1) in [0, 1], or None.
    """
    if mask is None:
        return img
    return mask * img + (1 - mask) * content_img


def check_image(name, img, channels=3, content_img=None):
    """Raise ValueError, with what to do, unless `img` is float in [0, 1] of shape (1, H, W, channels).

    If `content_img` is given, H and W must be its.
    """
    img = np.asarray(img)
    has_axes = img.ndim == 4 and (img.shape[0], img.shape[3]) == (1, channels)
    is_large = has_axes and min(img.shape[1:3]) >= MIN_SIZE
    if is_large and content_img is not None and img.shape[1:3] != np.shape(content_img)[1:3]:
        raise ValueError(f"{name} must have the H and W of content_img. Received: {img.shape}, {np.shape(content_img)}")
    if is_large and img.dtype.kind == "f" and 0 <= img.min() <= img.max() <= 1:  # no NaN either
        return
    raise ValueError(
        f"{name} must be an array of floats in [0, 1], of shape (1, H, W, {channels}) with H and W of 32 or more. For "
        f"pixels from 0 to 255, without the first axis, pass np.reshape(img, (1, *img.shape[:2], {channels})) / 255. "
        f"Received: {img.dtype} of shape {img.shape}"
    )


def initialize_generated_image(content_img, noise_magnitude=NOISE_MAGNITUDE, seed=SEED, style_imgs=()):
    """Make the variable that becomes the picture: content + noise in [-noise_magnitude, noise_magnitude], clipped.

    Args:
        content_img: RGB in [0, 1], shape (1, H, W, 3), or another picture to start from.
        noise_magnitude: 0 to 1. The noise is uniform.
        seed: Another number gives other noise.
        style_imgs: A list of such images. If given, the start gets their colours, which saves epochs.

    Returns:
        A float32 variable of the same shape.

    Raises:
        ValueError: `content_img` is no such picture.
    """
    check_image("content_img", content_img)
    start = match_colors(content_img, *style_imgs) if style_imgs else content_img
    noise = np.random.default_rng(seed).uniform(-noise_magnitude, noise_magnitude, np.shape(content_img))
    return tf.Variable(np.clip(start + noise, 0, 1), dtype=tf.float32)


@contextlib.contextmanager
def open_to_write(path):
    """Write an image or a checkpoint atomically: write `.name.tmp`, flush it to the disk, then rename it.

    Raises:
        OSError: if the file cannot be written. An older file of this name is then as it was.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            with contextlib.suppress(OSError):  # a network folder may refuse; closing the file tells of a full disk too
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(f"{path} cannot be written: {error.strerror or error}. Fix this and run the same command to "
                      "go on, because files saved before are whole. Another OUTPUT_PATH starts anew") from error


def to_pillow(img):
    """Round a picture, (1, H, W, 3) or (H, W, 3) in [0, 1], to 8 bits. What lies outside is clipped."""
    img = np.reshape(img, np.shape(img)[-3:])
    return Image.fromarray(np.uint8(np.round(np.clip(img, 0, 1) * 255)))


def save_image(img, path, metadata=None):
    """Write a picture as PNG, rounded to 8 bits.

    Args:
        img: RGB, shape (1, H, W, 3) or (H, W, 3). Values outside [0, 1] are clipped.
        path: File to write, with the suffix .png; its folder is made if it is not there.
        metadata: a dict, such as all settings, that the PNG keeps as JSON under "settings".

    Raises:
        OSError: if the file cannot be written.
        ValueError: it has another suffix.
    """
    path = expand(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"save_image() writes PNG, so path must end in .png. Received: {str(path)!r}")
    info = PngImagePlugin.PngInfo()
    if metadata:
        info.add_text("settings", json.dumps(metadata, default=str))
    with open_to_write(path) as file:
        to_pillow(img).save(file, "PNG", pnginfo=info)


# ------ Network ------------------------------------------------------------------------------------------------------

WEIGHTS_NAME = "vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5"  # Keras' own file
WEIGHTS_URL = f"https://storage.googleapis.com/tensorflow/keras-applications/vgg19/{WEIGHTS_NAME}"
WEIGHTS_HASH = "253f8cb515780f3b799900260a226db6"  # MD5
WEIGHTS_SUFFIXES = (".h5", ".hdf5", ".keras")


def preprocess(img):
    """Turn RGB in [0, 1] into VGG's own input: BGR in [0, 255] minus the means of ImageNet."""
    return keras.applications.vgg19.preprocess_input(img * 255, data_format="channels_last")


def convolve_transposed(x, kernel):
    """Transposed convolution of stride 1: (1, H, W, in) with a kernel of shape (3, 3, out, in) gives (1, H, W, out)."""
    shape = tf.concat([tf.shape(x)[:3], tf.shape(kernel)[2:3]], 0)  # keras.ops.conv_transpose() wants a known shape
    return tf.nn.conv2d_transpose(x, kernel, shape, strides=1)


@tf.function(reduce_retracing=True)  # one trace for many layers, because TensorFlow never frees a custom gradient
@tf.custom_gradient
def convolve(x, kernel, rotated_kernel):
    """Convolve with a frozen kernel, forward and backward by transposed convolutions: (1, H, W, in) -> (1, H, W, out).

    On CPU these are up to 1.7 times faster, because oneDNN packs weights only for transposed convolutions.

    Args:
        kernel: (3, 3, in, out).
        rotated_kernel: (3, 3, out, in), `kernel` turned by 180 degrees, with its channel axes swapped.
    """
    # The gradient of a convolution is a transposed convolution with its kernel.
    def gradient(dy):
        return convolve_transposed(dy, kernel), None, None  # the kernels are frozen

    # The convolution itself is one, too, with the rotated kernel.
    return convolve_transposed(x, rotated_kernel), gradient


class FrozenConv2D(keras.layers.Conv2D):
    """Keras' convolution, but on CPU by `convolve()`. A step keeps the weights that the layer had when it was traced.

    It is made for the layers of VGG19: frozen, with a 3x3 kernel, a bias, stride 1, padding "same" and ReLU.
    """

    def call(self, x):
        if sys.platform == "darwin" or tf.config.list_physical_devices("GPU"):  # without oneDNN
            return super().call(x)
        with tf.init_scope():  # outside the graph of a compiled step, so it is done once, when that is traced
            kernel = tf.cast(tf.convert_to_tensor(self.kernel), self.compute_dtype)  # (3, 3, in, out)
            rotated_kernel = tf.transpose(kernel[::-1, ::-1], (0, 1, 3, 2))  # (3, 3, out, in)
            bias = tf.cast(tf.convert_to_tensor(self.bias), self.compute_dtype)
        return tf.nn.relu(tf.nn.bias_add(convolve(x, kernel, rotated_kernel), bias))


def choose_precision(precision=PRECISION):
    """Return the precision or, for 'auto', bfloat16's policy if it saves a fifth of a convolution's time.

    The processor's flags do not tell: bfloat16 may be emulated, and slow.
    """
    if precision != "auto":
        return precision

    def measure(dtype):
        x = tf.ones((1, 128, 128, 128), dtype)
        kernel = tf.ones((3, 3, 128, 128), dtype)
        return timeit.timeit(lambda: convolve_transposed(x, kernel).numpy(), number=1)

    # In turns, and the median, because other programs slow some of them.
    ratios = [measure("bfloat16") / measure("float32") for _ in range(9)]
    return "mixed_bfloat16" if statistics.median(ratios) < 0.8 else "float32"


def build_vgg19(precision="float32", seed=SEED):
    """Build Keras' VGG19 without its top, frozen, He-initialised, for images of any size.

    Source: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", 2015, table 1.
    """
    # A generator, because a mere number would give each layer the same values.
    he = keras.initializers.HeNormal(keras.random.SeedGenerator(int(seed)))

    def copy_layer(layer):
        # "same", because else a pool drops the last row or column of an odd size, and costs hardly see the far edges.
        config = layer.get_config() | {"padding": "same", "data_format": "channels_last", "dtype": precision}
        if isinstance(layer, keras.layers.Conv2D):
            return FrozenConv2D.from_config(config | {"kernel_initializer": he, "trainable": False})
        return keras.layers.MaxPooling2D.from_config(config)

    inputs = keras.Input((None, None, 3), dtype="float32")
    original = keras.applications.VGG19(include_top=False, weights=None)
    return keras.models.clone_model(original, inputs, clone_function=copy_layer)


def read_arrays(path):
    """Read the arrays in a weights file or SavedModel folder that may be kernels or biases of VGG19, by their names.

    No model is deserialised, and no code runs.
    """
    if path.is_dir():
        checkpoint = tf.train.load_checkpoint(str(path / "variables" / "variables"))
        shapes = checkpoint.get_variable_to_shape_map()
        return {name: checkpoint.get_tensor(name) for name, shape in shapes.items() if len(shape) in (1, 4)}

    arrays = {}

    def collect(name, item):
        if isinstance(item, h5py.Dataset) and item.ndim in (1, 4):
            arrays[name] = item[()]

    is_archive = path.suffix.lower() == ".keras"
    source = zipfile.Path(path, "model.weights.h5").open("rb") if is_archive else path
    with h5py.File(source) as file:
        file.visititems(collect)
    return arrays


def read_weights(path):
    """Read VGG19's kernels and biases, in the order of `set_weights()`. A top is left out.

    Raises:
        OSError: the file cannot be read, or does not hold VGG19's convolutions.
    """
    expected = [weight.shape for weight in build_vgg19().weights]
    try:
        arrays = read_arrays(path)
        # Keras' export() lists each variable again as _all_variables. An optimizer's moments are no weights.
        names = [name for name in arrays if not re.search("optimizer|_all_variables", name, re.IGNORECASE)]
        names.sort(key=lambda name: re.sub(r"\d+", lambda digits: digits[0].zfill(9), name))  # conv_2 before conv_10
        kernels = [name for name in names if arrays[name].ndim == 4][:16]  # a top may have convolutions too
        biases = [name for name in names if arrays[name].ndim == 1]
        pairs = zip(kernels, biases, strict=False)  # a top's biases are spare, and come last in all formats
        weights = [np.float32(arrays[name]) for pair in pairs for name in pair]
        if [array.shape for array in weights] != expected:
            raise ValueError("its convolutions are not those of VGG19")
    except MemoryError:
        raise
    except Exception as error:  # h5py, zipfile and TensorFlow each raise their own kinds
        raise OSError(f"{path} cannot be loaded: {' '.join(str(error).split())[:200]}") from error
    return weights


def download_weights(folder):
    """Download Keras' weights, unless the folder has them with this hash, and return the file's path.

    Keras keeps the file in the folder or, if that is read-only, in a temporary one. Meanwhile, any connection of this
    process ends when it is silent for 30 seconds.

    Raises:
        OSError: the file cannot be downloaded or written, or its hash is wrong.
    """
    previous = socket.getdefaulttimeout()
    try:
        socket.setdefaulttimeout(30)  # seconds, because get_file() has no time-out of its own
        folder.mkdir(parents=True, exist_ok=True)
        return Path(keras.utils.get_file(origin=WEIGHTS_URL, file_hash=WEIGHTS_HASH, cache_dir=folder, cache_subdir=""))
    except Exception as error:  # Keras raises many kinds
        raise OSError(f"{WEIGHTS_URL} cannot be downloaded: {error}. Put that file into {folder} and run "
                      "the same command again, or add --vgg-mode fit, which needs no file") from error
    finally:
        socket.setdefaulttimeout(previous)


def find_weights(mode=VGG_MODE, path=VGG_NETWORK_PATH):
    """Find the weights that a mode uses, and download them where it asks for that.

    Args:
        mode: 'local' takes what is at `path`. 'download' takes Keras' ImageNet weights and keeps them in the folder
            `path`. 'fit' takes none. 'auto' takes what is at `path`, else VGG19 from Keras' own cache, else downloads
            it, else warns and takes none. If `path` names a file, 'auto' takes that file or raises.
        path: a weights file (.h5, .weights.h5, .keras), a SavedModel folder, or a folder that holds either; for
            'download', a folder.

    Returns:
        A weights file or SavedModel folder, and the arrays from it; or None, None: filters are to be fitted.

    Raises:
        ValueError: a setting is illegal.
        OSError: no weights fit VGG19, or they cannot be downloaded.
    """
    check_settings(vgg_mode=mode)
    path = expand(path)
    if mode == "fit":
        return None, None
    if mode == "download":
        file = download_weights(path)
        return file, read_weights(file)
    if path.is_file() or path.suffix.lower() in WEIGHTS_SUFFIXES:
        mode = "local"
    places = [*sorted(path.glob("[!.]*")), path]  # a Mac's ._name is hidden
    files = [
        place for place in places
        if place.suffix.lower() in WEIGHTS_SUFFIXES or (place / "saved_model.pb").exists()
    ]
    if mode == "auto":
        cached = expand(os.environ.get("KERAS_HOME", "~/.keras")).joinpath("models").glob("vgg19_*.h5")
        files += sorted(cached, reverse=True)  # of Keras' files, first the one without a top, because it is smaller
    errors = []
    for file in files:
        try:
            return file, read_weights(file)
        except OSError as error:
            errors.append(str(error))
    report = f"No weights of VGG19 in {path.absolute()} ({'; '.join(errors) or 'none there'})"
    if mode == "local":
        raise OSError(f"{report}. VGG_NETWORK_PATH must be a weights file (.h5, .weights.h5, .keras), a SavedModel "
                      "folder, or a folder that holds either")
    if errors:
        say(f"Warning: {report}", sys.stderr)
    try:
        return find_weights("download", path)
    except OSError as error:
        say(f"Warning: Filters are fitted to the images, which paint a plainer picture: {error}", sys.stderr)
        return None, None


def sample_patches(x, count, rng):
    """Cut 3x3 patches at random places, (1, H, W, C) -> (count, 9*C)."""
    windows = np.lib.stride_tricks.sliding_window_view(x[0], (3, 3, x.shape[-1]))  # (H-2, W-2, 1, 3, 3, C)
    rows, columns = rng.integers(windows.shape[:2], size=(count, 2)).T
    return windows[rows, columns].reshape(count, -1)


def get_whitening(patches):
    """Return a matrix, (d, d), that whitens patches of mean 0, (n, d): patches @ matrix has uncorrelated components."""
    covariance = np.float64(patches.T @ patches) / len(patches)
    # Of flat colours the covariance is 0, and has no inverse.
    regularized = covariance + max(1e-9, 0.02 * np.linalg.norm(covariance)) * np.eye(len(covariance))
    # Cholesky's factor takes a tenth of the time of ZCA, the usual whitening. k-means finds the same filters with both,
    # because they differ by a rotation.
    return np.float32(np.linalg.cholesky(np.linalg.inv(regularized)))


def find_centroids(points, centroids):
    """Improve centroids, (k, d), by spherical k-means: points, (n, d), and centroids have length 1."""
    for _ in range(10):
        nearest = tf.argmax(tf.matmul(points, centroids, transpose_b=True), axis=1)
        sums = tf.math.unsorted_segment_sum(points, nearest, len(centroids))
        centroids = tf.math.l2_normalize(sums + 1e-6 * centroids, axis=1)  # a centroid without points stays
    return centroids


def fit_weights(vgg_model, imgs, seed=SEED):
    """Learn the filters up to block4_conv1 from images: k-means on whitened patches. The later ones stay random.

    Each filter's responses to the patches get variance 1 and a mean above 0.
    Source: Coates and Ng, "Learning Feature Representations with K-means", 2012.

    Args:
        imgs: pictures, (1, H, W, 3) in [0, 1]. Learning from the content image too keeps its shapes.
    """
    rng = np.random.default_rng(seed)
    xs = [np.float32(preprocess(img)) for img in imgs]
    for layer in vgg_model.layers[1:]:
        if layer.name == "block4_conv2":
            break
        if isinstance(layer, FrozenConv2D):
            count = 10_000 // len(xs)  # of each image
            p = np.concatenate([sample_patches(x, count, rng) for x in xs])  # (patches, 9*C)
            centered = p - p.mean(0)
            whitening = get_whitening(centered)
            points = tf.math.l2_normalize(tf.matmul(centered, whitening), axis=1)
            chosen = rng.choice(len(p), layer.filters, replace=False)
            centroids = find_centroids(points, tf.gather(points, chosen))  # (filters, 9*C)
            filters = tf.matmul(whitening, centroids, transpose_b=True)  # (9*C, filters)
            mean, variance = tf.nn.moments(tf.matmul(p, filters), 0)  # of the responses to the patches
            scale = tf.math.rsqrt(variance + 1e-12)
            # ReLU loses responses below 0, so a higher mean keeps more of them. It is higher in block 1, because what
            # is lost there shows as coloured edges in the painting.
            target_mean = 2.0 if layer.name.startswith("block1") else 0.5
            kernel = tf.reshape(filters * scale, layer.kernel.shape)
            bias = target_mean - mean * scale
            layer.set_weights([kernel, bias])
        xs = [np.float32(layer(x)) for x in xs]


def get_vgg_model(mode=VGG_MODE, path=VGG_NETWORK_PATH, imgs=(), precision=PRECISION, seed=SEED):
    """Build VGG19 without top, frozen, for VGG's own input (see `preprocess()`), give it weights and say which.

    Args:
        mode: 'auto', 'download', 'local' or 'fit', see `find_weights()`.
        path: where weights are looked for or kept, see `find_weights()`.
        imgs: a list of pictures, (1, H, W, 3) in [0, 1], to fit filters to. Only the modes 'fit' and 'auto' need them.
        precision: 'float32', 'mixed_bfloat16' or 'auto' for the faster one here.
        seed: of fitted filters.

    Raises:
        ValueError: a setting is illegal, or there is no image to fit to.
        OSError: the weights do not fit VGG19, or cannot be downloaded.
    """
    check_settings(precision=precision)
    file, weights = find_weights(mode, path)
    if file is None and not imgs:
        raise ValueError("VGG_MODE 'fit' needs imgs, a list of pictures to fit filters to")
    gc.collect()  # frees the models of earlier runs, which are reference cycles
    vgg_model = build_vgg19(choose_precision(precision), seed)
    if file:
        vgg_model.set_weights(weights)
    else:
        fit_weights(vgg_model, imgs, seed)
    say(f"VGG19: {file or 'filters fitted to the images'}")
    return vgg_model


def check_encoding_layers(encoding_layers):
    """Raise ValueError unless these are style layers, then the content layer, with their weights."""
    try:
        are_legal = len(encoding_layers) > 1
        for name, weight in encoding_layers:
            is_conv = re.fullmatch("block[12]_conv[12]|block[345]_conv[1234]", name)
            are_legal = are_legal and is_conv and 0 < weight <= 1e6
    except (TypeError, ValueError):  # not pairs, or not numbers
        are_legal = False
    if not are_legal:
        raise ValueError("ENCODING_LAYERS must be style layers, then the content layer, each the name of a "
                         "convolution of VGG19 with a weight above 0, up to 1e6, such as block1_conv1:0.2 "
                         "block5_conv4:1. Leave out a style layer that shall not count. For no content or no style, "
                         f"set CONTENT_WEIGHT or STYLE_WEIGHT to 0. Received: {encoding_layers!r}")


def get_vgg_encodings(vgg_model, encoding_layers=ENCODING_LAYERS):
    """Make a model that maps a picture, (1, H, W, 3) in [0, 1], to the layers' activations, float32 (1, h, w, C).

    It turns the picture into VGG's own input first.

    Raises:
        ValueError: `encoding_layers` are not legal; see `check_encoding_layers()`.
    """
    check_encoding_layers(encoding_layers)
    img = keras.Input((None, None, 3), dtype="float32")
    activations = [vgg_model.get_layer(name).output for name, _ in encoding_layers]
    encoder = keras.Model(vgg_model.inputs, activations, name="vgg19")  # transfer_style_loop() finds it by its name
    return keras.Model(img, [keras.ops.cast(a, "float32") for a in encoder(preprocess(img))])


# ------ Costs --------------------------------------------------------------------------------------------------------
# Content and style cost are relative errors, so that a weight means the same at every layer, image size, precision and
# network. The paper's are absolute: there block1, which holds the palette, makes less than 0.1 % of the style cost.


def get_relative_error(x, target):
    """mean((x - target)^2) / mean(target^2), a scalar; 0 where the target is all zeros."""
    error = tf.reduce_mean(tf.square(x - target))
    return tf.math.divide_no_nan(error, tf.reduce_mean(tf.square(target)))


def get_gram_matrix(encoding, mask=None):
    """G = F^T F / (h w), shape (C, C): which features occur together, of an activation of shape (1, h, w, C).

    With a mask, (1, H, W, 1) in [0, 1], each place counts as much as it says: G = F^T M F / sum(M).
    """
    f = tf.reshape(encoding, (-1, encoding.shape[-1]))  # (h*w, C)
    places = tf.cast(tf.shape(f)[0], f.dtype)
    if mask is not None:
        m = tf.image.resize(mask, tf.shape(encoding)[1:3], antialias=True)
        m = tf.reshape(m, (-1, 1))  # (h*w, 1)
        f *= tf.sqrt(m)
        places = tf.reduce_sum(m)
    return tf.math.divide_no_nan(tf.matmul(f, f, transpose_a=True), places)


def get_content_cost(content_encoding, generated_encoding, weight=1.0):
    """J_content = weight * mean((a - a_content)^2) / mean(a_content^2), a scalar, 0 at the content image."""
    return weight * get_relative_error(generated_encoding, content_encoding)


def get_style_cost(style_grams, generated_encodings, weights, mask=None):
    """J_style = sum of weight * mean((G - G_style)^2) / mean(G_style^2) over the style layers, a scalar.

    With a mask, this is multiplied by mean(mask), because the other costs are means over the whole picture. So style
    weighs as much against them in the painted part as it does without a mask.

    Args:
        style_grams: the style image's Gram matrix of each layer, (C, C).
        generated_encodings: the generated image's activation of each layer, (1, h, w, C).
        weights: a number for each layer.
        mask: where the style is judged, see `get_gram_matrix()`.
    """
    layer_costs = []
    for style_gram, encoding, weight in zip(style_grams, generated_encodings, weights, strict=True):
        gram = get_gram_matrix(encoding, mask)
        layer_costs.append(weight * get_relative_error(gram, style_gram))
    cost = tf.add_n(layer_costs)
    return cost if mask is None else cost * tf.reduce_mean(tf.cast(mask, "float32"))


def get_variation_cost(img, chroma_weight=50.0):
    """J_tv = h w / 400^2 * mean(|dY|^2 + chroma_weight * (|dU|^2 + |dV|^2)), a scalar: squared total variation.

    dY holds two differences in luminance: of the pixel below and of the pixel to the right. dU and dV hold those of
    the two colour differences. They weigh more, because VGG19 hardly sees coloured speckle and the eye does. The first
    factor, 1 at 400 x 400 pixels, makes an enlarged picture cost what it did: its differences are smaller, but more.

    Args:
        img: RGB in [0, 1], (1, h, w, 3).
        chroma_weight: of colour over brightness.
    """
    yuv = tf.image.rgb_to_yuv(img)
    below_and_right = np.zeros((2, 2, 3, 2), np.float32)  # a filter for each channel and direction
    below_and_right[0, 0] = -1
    below_and_right[1, 0, :, 0] = 1
    below_and_right[0, 1, :, 1] = 1
    # One convolution, because each slice would give a gradient. TensorFlow sums three or more gradients of one tensor
    # in no fixed order, and a run would not repeat.
    differences = tf.nn.depthwise_conv2d(yuv, below_and_right, (1, 1, 1, 1), "VALID")  # (1, h-1, w-1, 6)
    y, u, v = tf.split(tf.reduce_mean(tf.square(differences), (0, 1, 2)), 3)  # (2,) each: below, right
    area = tf.cast(tf.size(img), img.dtype) / (3 * 400**2)  # of three channels
    return area * tf.reduce_sum(y + chroma_weight * (u + v))


def get_total_cost(costs, weights):
    """J = sum of weight * cost, a scalar, of two dicts that have the same names."""
    return tf.add_n([weights[name] * cost for name, cost in costs.items()])


# ------ Style transfer -----------------------------------------------------------------------------------------------


def get_targets(encoding_model, content_img, style_imgs):
    """Compute what the generated image is compared with.

    Args:
        content_img: RGB in [0, 1], (1, H, W, 3).
        style_imgs: a list of one or more, likewise, of any sizes.

    Returns:
        A Gram matrix for each style layer, (C, C), averaged over the style images; the content layer's activation,
        (1, h, w, C).

    Raises:
        ValueError: one is no such picture, or there is no style image.
    """
    check_image("content_img", content_img)
    if len(style_imgs) == 0:
        raise ValueError("style_imgs must be a list of one or more pictures. Received: an empty one")
    grams_of_imgs = []
    for style_img in style_imgs:
        check_image("each of style_imgs", style_img)
        *style_encodings, _ = encoding_model(style_img)
        grams_of_imgs.append([get_gram_matrix(encoding) for encoding in style_encodings])
    style_grams = [tf.add_n(grams) / len(grams) for grams in zip(*grams_of_imgs, strict=True)]
    *_, content_encoding = encoding_model(content_img)
    return style_grams, content_encoding


def make_optimizer(schedule=SCHEDULE, learn_rate=LEARN_RATE, epochs=EPOCHS):
    """Make Adam with a "constant" rate, or a "cosine": from a 25th of `learn_rate` up to it, then down to 0.

    The second finishes a picture in about a hundred epochs. Its betas are below Keras' own, because the picture moves
    fast and old gradients mislead.
    Source: Smith and Topin, "Super-Convergence", 2018.

    Raises:
        ValueError: for another schedule.
    """
    rate = np.float32(learn_rate)
    if schedule == "constant":
        return keras.optimizers.Adam(lambda: rate)  # Keras would make a number a variable, in the dtype of keras.json
    if schedule == "cosine":
        warmup_epochs = max(1, round(0.3 * epochs))
        cosine = keras.optimizers.schedules.CosineDecay(
            rate / 25, max(1, epochs - warmup_epochs), warmup_target=rate, warmup_steps=warmup_epochs
        )
        return keras.optimizers.Adam(cosine, beta_1=0.85, beta_2=0.8)
    raise ValueError(f"SCHEDULE must be 'constant' or 'cosine'. Received: {schedule!r}")


def transfer_style_step(generated_img, encoding_model, style_grams, content_encoding, optimizer, *, content_img=None,
                        mask=None, encoding_layers=ENCODING_LAYERS, content_weight=CONTENT_WEIGHT,
                        style_weight=STYLE_WEIGHT, tv_weight=TV_WEIGHT):
    """Move the generated image, in place, one step down the cost. It stays within [0, 1].

    Args:
        generated_img: a float32 variable, RGB in [0, 1], (1, H, W, 3).
        style_grams, content_encoding: the targets, from `get_targets()`.
        optimizer: one that is built for `generated_img`.
        content_img, mask: what shows through where the mask is black, see `apply_mask()`.

    Returns:
        The costs before the step, scalars by name: the total "cost", then its terms without their weights.
    """
    *style_weights, content_layer_weight = [weight for _, weight in encoding_layers]
    cost_weights = {"style_cost": style_weight, "content_cost": content_weight, "tv_cost": tv_weight}
    with tf.GradientTape() as tape:
        picture = apply_mask(generated_img, content_img, mask)
        *style_encodings, generated_content_encoding = encoding_model(picture)
        costs = {
            "style_cost": get_style_cost(style_grams, style_encodings, style_weights, mask),
            "content_cost": get_content_cost(content_encoding, generated_content_encoding, content_layer_weight),
            "tv_cost": get_variation_cost(picture),
        }
        cost = get_total_cost(costs, cost_weights)
    gradient = tape.gradient(cost, generated_img)
    optimizer.apply_gradients([(gradient, generated_img)])
    generated_img.assign(tf.clip_by_value(generated_img, 0, 1))
    return {"cost": cost} | costs


# ------ Runs ---------------------------------------------------------------------------------------------------------

def get_fingerprint(value):
    """Turn what decides a picture into a text: an array into its digest, a network into those of its weights."""
    if isinstance(value, keras.Model):
        value = value.get_weights()
    if isinstance(value, (list, tuple)):
        return str([get_fingerprint(item) for item in value])
    if isinstance(value, numbers.Real):
        return str(float(value))  # 5 is 5.0
    if hasattr(value, "shape"):
        array = np.asarray(value)
        return hashlib.sha256(str(array.shape).encode() + array.tobytes()).hexdigest()
    return str(value)


def load_checkpoint(path):
    """Read a run's record and the arrays of its variables.

    The record holds the fingerprints of a `Run`, its epoch and its history. Without a checkpoint that can be read there
    are no fingerprints, no epochs and no arrays.
    """
    record = {"fingerprints": {}, "epoch": 0, "history": {"epoch": []}}
    with contextlib.suppress(Exception), np.load(path) as file:  # a damaged file raises many kinds
        text, *arrays = file.values()
        theirs = json.loads(str(text))
        if set(theirs) == set(record):  # else it is another program's
            return theirs, arrays
    return record, []


def find_folder(output_path, fingerprints, epochs):
    """Find the folder of the run that has these fingerprints and is not beyond `epochs`, else a free one for it.

    Searched are `output_path` and its subfolders run_2, run_3 and so on. One is free if nothing in it has the name of
    an image or a checkpoint. So a run writes over no file but its own, and any earlier run can go on.
    """
    difference = None  # from the first run
    for folder in [output_path, *sorted(output_path.glob("run_*"))]:
        record, _ = load_checkpoint(folder / "checkpoint.npz")
        theirs = record["fingerprints"]
        if theirs == fingerprints and record["epoch"] <= epochs:
            return folder
        if theirs and not difference:
            changed = [name for name, value in fingerprints.items() if theirs.get(name) != value]
            changed = changed or ["epochs"]  # fewer than that run has done
            difference = f"{folder} has a run with another value of {', '.join(changed)}"
    number = 1
    folder = output_path
    while any(re.fullmatch(r"(?i)image_\d{5,}\.png|checkpoint\.npz", file.name) for file in folder.glob("*")):
        number += 1
        folder = output_path / f"run_{number}"
    if number > 1:
        unknown = f"{output_path} has images of another program or a checkpoint that cannot be read"
        say(f"Painting in {folder}, because {difference or unknown}")
    return folder


@contextlib.contextmanager
def hold_folder(folder):
    """Make a folder and keep a second run out of it. The lock ends with the process, even by SIGKILL.

    Raises:
        OSError: if it cannot be made or written to, or if a run holds it already.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A lock is a transaction in an empty database, because SQLite locks files on every system.
        lock = sqlite3.connect(folder / ".lock", timeout=0)
        lock.execute("BEGIN EXCLUSIVE")
    except (OSError, sqlite3.Error) as error:
        raise OSError(f"{folder} is held by another run, cannot be written to, or its disk has no locks: {error}. Wait "
                      "for that run's end or set another OUTPUT_PATH") from error
    with contextlib.closing(lock):
        yield


class Run:
    """The folder of a run: its images and the checkpoint from which it goes on.

    Args:
        folder: a Path, from `find_folder()`.
        variables: the generated image, then the optimizer's variables. A checkpoint holds their values.
        fingerprints: texts by name, of all that decides the picture; see `get_fingerprint()`.
        metadata: what each PNG keeps beside its epoch, see `save_image()`.

    Attributes:
        epoch: the number of epochs that are done.
        time_of_checkpoint: when this object wrote the last one, by time.monotonic().
        history: lists under 'epoch' and each cost's name, with an entry for each epoch that was saved with its costs.
    """

    def __init__(self, folder, variables, fingerprints, metadata=None):
        self.folder = folder
        self.checkpoint = self.folder / "checkpoint.npz"
        self.variables = variables
        self.fingerprints = fingerprints
        self.metadata = metadata or {}
        self.epoch = 0
        self.history = {"epoch": []}
        self.time_of_checkpoint = -math.inf

    def resume(self):
        """Go on from the checkpoint, if there is one.

        Raises:
            OSError: it is not of this run.
        """
        if not self.checkpoint.exists():
            return
        record, arrays = load_checkpoint(self.checkpoint)
        if record["fingerprints"] != self.fingerprints:
            raise OSError(f"{self.checkpoint} has changed meanwhile or cannot be read. Run the same command again")
        for variable, array in zip(self.variables, arrays, strict=True):
            variable.assign(array)
        self.epoch = record["epoch"]
        self.history = record["history"]
        say(f"Going on after epoch {self.epoch}, from {self.checkpoint}")

    def save_epoch(self, picture, costs=None):
        """Save the picture and, where `costs` are given, add them to the history.

        Returns:
            The path of the image.

        Raises:
            FloatingPointError: if the picture is NaN.
        """
        self.check_finite()
        path = self.folder / f"image_{self.epoch:05}.png"
        save_image(picture, path, self.metadata | {"epoch": self.epoch})
        if costs:
            self.history["epoch"].append(self.epoch)
            for name, cost in costs.items():
                self.history.setdefault(name, []).append(float(cost))
        return path

    def save_checkpoint(self):
        self.check_finite()
        record = {"fingerprints": self.fingerprints, "epoch": self.epoch, "history": self.history}
        with open_to_write(self.checkpoint) as file:
            np.savez(file, json.dumps(record), *self.variables)
        self.time_of_checkpoint = time.monotonic()

    def check_finite(self):
        # The costs would not tell: on CPU, compiled convolutions turn NaN into 0.
        if not tf.reduce_all(tf.math.is_finite(self.variables[0])):
            raise FloatingPointError(
                f"The picture is NaN after epoch {self.epoch}. Lower LEARN_RATE or the weights of the costs. "
                f"The images in {self.folder} are from before"
            )


class Progress:
    """What the screen shows of a run: one row that changes where somebody watches, else a line for each saved image.

    Args:
        done: the number of epochs that were done before this start.
        epochs: of the whole run.
        later_epochs: the work of the runs that follow, counted in epochs of this one.
    """

    def __init__(self, done, epochs, later_epochs=0):
        self.first = done + 1
        self.epochs = epochs
        self.later_epochs = later_epochs
        self.start = None
        self.display = None
        if IN_IPYTHON:
            import IPython.display

            self.display = IPython.display.display(display_id=True)  # an empty output, to be updated

    def show(self, epoch, costs, saved):
        """Show the state after an epoch.

        Args:
            costs: scalars by name.
            saved: the path of this epoch's image, or None.
        """
        words = [f"{name.removesuffix('_cost')} {float(cost):.3g}" for name, cost in costs.items()]
        if epoch == self.first:
            self.start = time.monotonic()  # after the first epoch, because that compiles the step
        else:
            seconds_per_epoch = (time.monotonic() - self.start) / (epoch - self.first)
            seconds_left = seconds_per_epoch * (self.epochs - epoch + self.later_epochs)
            words.insert(0, f"{datetime.timedelta(seconds=round(seconds_left))} left")
        row = f"epoch {epoch}/{self.epochs}: {', '.join(words)}"
        if is_interactive():
            width = shutil.get_terminal_size().columns - 1  # a full row would begin another one
            say(f"\r{row:{width}.{width}}", end="\n" if epoch == self.epochs else "")
        elif saved:
            say(f"{row}, {saved}")

    def draw(self, img):
        """Show the picture in a notebook, in place of the one before. The row of figures is under it."""
        if self.display:
            self.display.update(to_pillow(img))


def compile_step(*arguments, **settings):
    """Compile `transfer_style_step()` with these arguments into a function without any, for one run.

    A compiled step keeps the optimizer that it was traced with, so each run needs its own.
    """
    def step(_strategy):  # which merge_call() passes
        return transfer_style_step(*arguments, **settings)

    # merge_call() only keeps Keras' optimizer from summing gradients over devices, which it does even on one, through a
    # custom gradient that TensorFlow never frees: 160 MB a run.
    return tf.function(lambda: tf.distribute.get_replica_context().merge_call(step))


def transfer_style_loop(generated_img, content_img, style_imgs, encoding_model, mask=None, metadata=None,
                        later_epochs=0, **changed):
    """Run the epochs, save images on the way, and keep the run so that the same call goes on where it stopped.

    Saved are the start as epoch 0, every `save_every`-th epoch and the last one; `image_00250.png` is epoch 250.
    `checkpoint.npz` is written at the start, each 5 seconds and at the end. The same call goes on from it, to the same
    picture; more `epochs` prolong a run of constant rate. If anything else that decides the picture is changed, it is
    another run, with a folder of its own; see `find_folder()`. The start decides, too: before another call make
    `generated_img` anew, because this one paints in it.

    Args:
        generated_img: the start, a variable. The run paints in it.
        content_img: RGB in [0, 1], (1, H, W, 3).
        style_imgs: a list of such images, of any sizes.
        encoding_model: from `get_vgg_encodings()`, with the same `encoding_layers`.
        mask: where to paint, from `load_mask()`; None is everywhere. The picture is then that of `apply_mask()`.
        metadata: what each PNG keeps, such as all settings; see `save_image()`.
        later_epochs: runs that follow, as a number of this one's epochs, for the line that says how long it all takes.
        **changed: settings that shall differ from the constants as they are now, as for `main()`. What counts here are
            `epochs`, `save_every`, `output_path` and the settings of `transfer_style_step()` and `make_optimizer()`.

    Returns:
        The picture, RGB in [0, 1] of shape (H, W, 3), and the history: lists under 'epoch', 'cost' and the other costs
        of the step, with an entry for each saved image but the start. The costs are those before the step.

    Raises:
        ValueError: if a setting or an image is not legal.
        OSError: if a file cannot be written, or another process paints the same run.
        FloatingPointError: if the picture becomes NaN.
    """
    s = get_settings(changed)
    save_every = s.save_every or math.ceil(s.epochs / 100)
    style_grams, content_encoding = get_targets(encoding_model, content_img, style_imgs)
    check_image("generated_img", generated_img, content_img=content_img)
    if mask is not None:
        check_image("mask", mask, channels=1, content_img=content_img)
    optimizer_settings = {"schedule": s.schedule, "learn_rate": s.learn_rate, "epochs": s.epochs}
    optimizer = make_optimizer(**optimizer_settings)
    optimizer.build([generated_img])
    step_settings = {
        "content_img": content_img, "mask": mask, "encoding_layers": s.encoding_layers,
        "content_weight": s.content_weight, "style_weight": s.style_weight, "tv_weight": s.tv_weight,
    }
    step = compile_step(generated_img, encoding_model, style_grams, content_encoding, optimizer, **step_settings)
    # All that decides the picture, as it is before a checkpoint is loaded. A run goes on only where this is the same.
    decisive = step_settings | optimizer_settings | {
        "start": generated_img, "style_imgs": style_imgs, "network": encoding_model,
        "precision": encoding_model.get_layer("vgg19").layers[1].dtype_policy.name,  # of the first convolution
        "variables of the optimizer": len(optimizer.variables),  # another Keras may have others
    }
    if s.schedule == "constant":
        del decisive["epochs"]  # more of them prolong a run
    fingerprints = {name: get_fingerprint(value) for name, value in decisive.items()}

    def get_picture():
        return apply_mask(generated_img, content_img, mask)

    folder = find_folder(expand(s.output_path), fingerprints, s.epochs)
    run = Run(folder, [generated_img, *optimizer.variables], fingerprints, metadata)
    with hold_folder(folder):
        run.resume()
        run.save_checkpoint()  # first, because find_folder() takes an image without one for another program's
        if run.epoch in (0, s.epochs):  # the start, or the end of a run whose last image may be gone
            saved = run.save_epoch(get_picture())
        progress = Progress(run.epoch, s.epochs, later_epochs)
        progress.draw(get_picture())
        while run.epoch < s.epochs:
            costs = step()
            saved = None
            run.epoch += 1
            if run.epoch % save_every == 0 or run.epoch == s.epochs:
                saved = run.save_epoch(get_picture(), costs)
                progress.draw(get_picture())
            if time.monotonic() > run.time_of_checkpoint + 5:  # seconds
                run.save_checkpoint()
            progress.show(run.epoch, costs, saved)
        run.save_checkpoint()
    if not later_epochs:
        say(f"Done: {saved}")
    return np.asarray(get_picture())[0], run.history


# ------ Script -------------------------------------------------------------------------------------------------------


def match_kind(value, kind):
    """Return whether the annotation of a setting allows a value, and in words what it allows."""
    args = get_args(kind)
    if get_origin(kind) is Annotated:
        number, low, high = args
        words = f"{'a whole number' if number is int else 'a number'} from {low:,} to {high:,}"
        accepted = numbers.Integral if number is int else numbers.Real
        return isinstance(value, accepted) and low <= value <= high, words
    if get_origin(kind) is Literal:
        return value in args, " or ".join(map(repr, args))
    if args:
        matches = [match_kind(value, arg) for arg in args]
        return any(fits for fits, _ in matches), " or ".join(words for _, words in matches)
    types, words = {
        bool: (bool, "True or False"),
        str: ((str, Path), "a text"),
        list: ((list, tuple), "a list that is not empty"),
        type(None): (type(None), "None"),
    }[kind]
    return isinstance(value, types) and value not in ([], ()), words


def check_settings(**settings):
    """Return the settings. Raise ValueError for an illegal one, TypeError for an unknown name."""
    for name, value in settings.items():
        if name not in SETTINGS:
            raise TypeError(f"There is no setting {name!r}. Expected one of {', '.join(SETTINGS)}")
        is_legal, legal_values = match_kind(value, SETTINGS[name])
        if not is_legal:
            raise ValueError(f"{name.upper()} must be {legal_values}. Received: {value!r}")
        if name == "encoding_layers":
            check_encoding_layers(value)
        if name == "output_path":
            check_output_path(value)
    if settings.get("content_weight") == settings.get("style_weight") == 0:
        raise ValueError("CONTENT_WEIGHT or STYLE_WEIGHT must be above 0")
    return settings


def get_settings(changed):
    """Return all settings as attributes in lower case: the constants as they are now, but for those in `changed`."""
    constants = {name: globals()[name.upper()] for name in SETTINGS}
    return argparse.Namespace(**check_settings(**constants | changed))


def check_output_path(path):
    """Raise ValueError for a file, or for a name that ends like a picture's."""
    folder = expand(path)
    if not str(path) or folder.is_file() or folder.suffix.lower() in Image.registered_extensions():
        raise ValueError("OUTPUT_PATH must be a folder. Pictures in it are called image_00100.png and so on. Received: "
                         f"{str(path)!r}")


def choose_run_precision(folder, precision):
    """Return the precision. For 'auto' it is that of the run in this very folder, if any, else the faster one."""
    if precision == "auto":
        record, _ = load_checkpoint(folder / "checkpoint.npz")
        precision = record["fingerprints"].get("precision", "auto")  # a text is its own fingerprint
    return choose_precision(precision)


def plan_sizes(img_size, coarse_above, schedule, epochs):
    """Plan the sizes that a picture is painted at, one after the other, and the epochs at each.

    Large strokes are painted in a small picture. Each later size has four times the pixels and gets 0.6 of the epochs:
    1200 px with `coarse_above` 400, in 100 epochs, gives [(300, 100), (600, 60), (1200, 36)]. A constant rate has one
    size.
    """
    sizes = [img_size]
    while schedule == "cosine" and sizes[0] > coarse_above:
        sizes.insert(0, max(MIN_SIZE, sizes[0] // 2))
    return [(size, max(1, round(epochs * 0.6**stage))) for stage, size in enumerate(sizes)]


def forecast_memory(content_img, style_imgs, enlargement):
    """Return about how many GiB a run takes, and warn where the machine has less: the system would kill the run.

    Args:
        content_img, style_imgs: as from `load_images()`, at the first size.
        enlargement: of their sides, to the last size.
    """
    content_pixels, *style_pixels = [math.prod(img.shape[1:3]) for img in (content_img, *style_imgs)]
    # GiB for a pixel, measured by tests/by_hand/benchmark.py: of the content in an epoch, and of a style when its Gram
    # matrices are computed, which is before the epochs.
    memory = 1 + enlargement**2 * max(2.1e-6 * content_pixels, 1.4e-6 * max(style_pixels))
    with contextlib.suppress(AttributeError, ValueError, OSError):  # not every system tells
        has = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        if has < memory:
            say(f"Warning: a run of this size takes about {memory:.1f} GiB of memory, and this machine has {has:.1f}. "
                "Lower IMG_SIZE", sys.stderr)
    return memory


def main(**changed):
    """Paint the content image in the style of the style image.

    Args:
        **changed: settings, by their names in lower case, that shall differ from the constants as they are now.

    Returns:
        The picture, RGB in [0, 1] of shape (H, W, 3), and the history of the costs; see `transfer_style_loop()`.
    """
    s = get_settings(changed)
    plan = plan_sizes(s.img_size, s.coarse_above, s.schedule, s.epochs)
    for stage, (size, epochs) in enumerate(plan):
        content_img, style_imgs = load_images(
            s.content_img_path, s.style_img_path, size, keep_aspect_ratio=s.keep_aspect_ratio,
            style_scale=s.style_scale, preserve_colors=s.preserve_colors,
            soft_styles=stage > 0  # grain comes only with the larger sizes
        )
        mask = load_mask(s.mask_path, content_img)
        folder = expand(s.output_path)
        if size < s.img_size:
            folder /= f"coarse_{size}"
        if stage == 0:
            start_img = load_start(s.start_img_path, content_img)
            colors = style_imgs if s.schedule == "cosine" else []  # with few epochs, the start needs their colours
            generated_img = initialize_generated_image(start_img, s.noise_magnitude, s.seed, colors)
            precision = choose_run_precision(folder, s.precision)
            imgs = [*style_imgs, content_img]
            vgg_model = get_vgg_model(s.vgg_mode, s.vgg_network_path, imgs, precision, s.seed)
            encoding_model = get_vgg_encodings(vgg_model, s.encoding_layers)
            gpus = len(tf.config.list_physical_devices("GPU"))
            memory = forecast_memory(content_img, style_imgs, enlargement=s.img_size / size)
            hint = "; --quick needs few epochs and takes minutes" if s.schedule == "constant" else ""
            say(f"{precision}, {gpus} GPU, about {memory:.1f} GiB of memory{hint}")
        else:
            enlarged = tf.image.resize(generated_img, content_img.shape[1:3], "bicubic")
            generated_img = tf.Variable(tf.clip_by_value(enlarged, 0, 1))
        height, width = content_img.shape[1:3]
        say(f"{width} x {height} pixels, {epochs} epochs")
        picture, history = transfer_style_loop(
            generated_img, content_img, style_imgs, encoding_model, mask=mask,
            metadata=vars(s) | {"precision": precision},
            later_epochs=sum(n * (later_size / size) ** 2 for later_size, n in plan[stage + 1 :]),
            **vars(s) | {"epochs": epochs, "output_path": folder}
        )
    return picture, history


def layer_and_weight(word):
    """Split "block1_conv1:0.2". A weight that is no number stays a text, which `check_encoding_layers()` refuses."""
    name, _, weight = word.partition(":")
    with contextlib.suppress(ValueError):
        weight = float(weight)
    return name, weight


def get_word_type(kind):
    """Return what reads a word of the command line: int for `Count | None`, str for a Literal."""
    if kind is list:
        return layer_and_weight
    while get_args(kind):
        kind = get_args(kind)[0]
    return kind if isinstance(kind, type) else str  # of a Literal its first value is left, a text


def parse_settings(argv=None):
    """Return the settings that the command line gives; all other flags win over --quick.

    A flag's legal values come from the annotation of its setting, its help from the comment beside it.
    """
    source = Path(__file__).read_text("utf-8")
    comments = dict(re.findall(r"(?m)^([A-Z_]+): .*?  # (.+)$", source))
    # No usage, so that an error is one line.
    parser = argparse.ArgumentParser(usage=argparse.SUPPRESS, description=__doc__.splitlines()[0])
    for name, kind in SETTINGS.items():
        default = globals()[name.upper()]
        _, legal_values = match_kind(default, kind)
        help_text = f"{comments.get(name.upper(), '')}; {legal_values} (default: {default})".replace("%", "%%")
        options = {"default": argparse.SUPPRESS, "help": help_text}
        if kind is bool:
            options["action"] = argparse.BooleanOptionalAction
        else:
            options["type"] = get_word_type(kind)
        if list in (kind, *get_args(kind)):
            options["nargs"] = "+"
        parser.add_argument("--" + name.replace("_", "-"), **options)
    help_text = f"paint in minutes; other defaults: {QUICK}"
    parser.add_argument("--quick", action="store_const", const=QUICK, default={}, help=help_text)
    settings = vars(parser.parse_args(argv))
    quick = settings.pop("quick")
    return quick | settings


def run_program():
    """Run main() with the flags of the command line; returns the exit code."""
    new_row = "\n" if is_interactive() else ""  # ends the row of an epoch
    try:
        # Pasted into a notebook, there is no file, and the flags are the kernel's.
        settings = parse_settings() if "__file__" in globals() else {}
        main(**settings)
    except KeyboardInterrupt:
        say("\nStopped. The same command goes on; at most 5 seconds and an epoch of work are lost", sys.stderr)
        return 130
    except (MemoryError, tf.errors.ResourceExhaustedError):
        say(f"{new_row}Error: out of memory; lower IMG_SIZE", sys.stderr)
        return 2
    except (ValueError, OSError, ArithmeticError) as error:
        say(f"{new_row}Error: {' '.join(str(error).split())}", sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    exit_code = run_program()
    if IS_PROGRAM:
        sys.exit(exit_code)  # a notebook would show it as an error
