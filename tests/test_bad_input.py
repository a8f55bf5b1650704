"""Bad input: exit code 2, one line that names the file or setting, nothing written. `python tests/test_bad_input.py`
prints the table."""

import contextlib
import os
import pickle
import runpy
import socket
import struct
import sys
import zlib
from pathlib import Path

import conftest  # noqa: F401  puts script.py on the path
import h5py
import keras
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

import script

SMALL = {"img_size": 32, "epochs": 1, "vgg_mode": "fit", "precision": "float32", "output_path": "out"}
SAMPLES = Path(script.__file__).parent / "images"
IMAGES = {"content_img_path": str(SAMPLES / "content.jpg"), "style_img_path": str(SAMPLES / "style.jpg")}


def make_files():
    """Make the bad files in the current folder."""
    rgb = np.uint8(np.random.default_rng(0).integers(0, 256, (64, 64, 3)))
    for name in ("a.png", "a.jpg", "a.webp", "a.tif", "a.gif", "a.bmp"):
        Image.fromarray(rgb).save(name)
        whole = Path(name).read_bytes()
        Path(f"cut{name[1:]}").write_bytes(whole[: len(whole) // 3])
    Path("empty.jpg").touch()
    Path("text.jpg").write_text("not a picture")
    Path("eps.jpg").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%touch pwned) (w) file\n")
    Path("drawing.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    Path("page.pdf").write_text("%PDF-1.7")
    Path("page.jpg").write_text("<!DOCTYPE html><title>404</title>")
    Path("heic.jpg").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    Path("folder").mkdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo("fifo.jpg")
    with contextlib.suppress(OSError):  # Windows may not allow it
        Path("link.jpg").symlink_to("nowhere.jpg")
        Path("link").symlink_to("nowhere")
    chunks = {b"IHDR": struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0), b"IDAT": zlib.compress(bytes(1000))}
    bomb = (struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks.items())
    Path("bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(bomb))
    nan = np.full((40, 40), np.nan, np.float32)
    Image.fromarray(nan).save("nan.tif")
    Image.fromarray(np.full((40, 40, 3), 77, np.uint8)).save("flat.png")
    Image.new("L", (40, 40)).save("black.png")
    Path("text.h5").write_text("not weights")
    Path("empty.weights.h5").touch()
    Path("pickle.h5").write_bytes(pickle.dumps({"weights": 1}))
    Path("text.keras").write_text("not weights")
    Path("picture.npz").write_bytes(b"PK")
    with h5py.File("other.weights.h5", "w") as file:
        file["layers/dense/vars/0"] = np.ones(3)
    script.build_vgg19().save_weights("whole.weights.h5")
    with h5py.File("link.h5", "w") as file:
        file["block1_conv1"] = h5py.ExternalLink("/etc/passwd", "x")
    Path("file").write_text("a file")
    for name in ("image_00100.png", "coarse_40/image_00100.png"):  # of a run
        script.save_image(rgb[None] / 255, name, {"epoch": 100})
    for name in ("own/image_00500.png", "own_tiff/image_00500.png", "own_long/image_1234567.png"):  # not of a run
        Path(name).parent.mkdir()
        Image.fromarray(rgb).save(name, "TIFF" if "tiff" in name else "PNG")
    for name in ("own_arrays", "own_checkpoint"):
        Path(name).mkdir()
    np.savez("own_arrays/checkpoint.npz", weights=np.ones((3, 3)))
    Path("own_checkpoint/checkpoint.npz").write_text("a text")
    Path("own_text").mkdir()
    Path("own_text/image_00000.png").write_text("a text")
    Path("own_folder/image_00000.png").mkdir(parents=True)


def weights(path, mode="local"):
    return {"vgg_mode": mode, "vgg_network_path": path}


BAD = [  # what the user gives, what the line names
    *(({f"{kind}_img_path": name}, name) for kind in ("content", "style") for name in (
        "missing.jpg", "folder", "fifo.jpg", "empty.jpg", "text.jpg", "eps.jpg", "cut.png", "cut.jpg")),
    *(({"content_img_path": name}, name) for name in (
        "cut.webp", "cut.tif", "cut.gif", "cut.bmp", "drawing.svg", "page.pdf", "link.jpg", "nan.tif", "")),
    *(({"mask_path": name}, name) for name in (
        "missing.jpg", "folder", "empty.jpg", "text.jpg", "cut.png", "black.png")),
    *(({name: "~no_such_user/a"}, "~no_such_user/a") for name in (
        "content_img_path", "style_img_path", "mask_path")),
    (weights("~no_such_user/a.h5"), "~no_such_user/a.h5"),
    ({"style_img_path": "bomb.png"}, "bomb.png cannot be read: Image size (10000000000 pixels) exceeds limit"),
    ({"content_img_path": "flat.png", "style_img_path": "flat.png"}, "flat"),
    *((weights(name), name) for name in (
        "missing.h5", "text.h5", "empty.weights.h5", "pickle.h5", "text.keras", "picture.npz", "other.weights.h5",
        "link.h5", "a.png")),
    (weights("text.h5", "auto"), "text.h5"),
    (weights("folder"), "VGG_NETWORK_PATH"),
    (weights("folder/new"), "VGG_NETWORK_PATH"),
    (weights("folder/new", "download"), script.WEIGHTS_URL),
    (weights("text.h5", "download"), "text.h5"),
    *(({"output_path": path}, "OUTPUT_PATH") for path in (
        "file", "file/out", "a.png", os.devnull, f"{os.devnull}/out")),
    *(({name: path}, f"where ~name is the home folder of a user. Received: '{path}'") for name, path in (
        ("output_path", "gs://bucket/out"), ("output_path", "s3://b/out"), ("output_path", "hdfs:/h/out"),
        ("content_img_path", "gs://b/a.jpg"), ("style_img_path", "https://example.com/a.jpg"),
        ("mask_path", "file:///tmp/mask.png"))),
    *(({name: "~no_such_user/out"}, "Received: '~no_such_user/out'") for name in ("output_path", "vgg_network_path")
      if os.name != "nt"),  # Windows takes any name for a user's
    *(({"vgg_mode": mode, "vgg_network_path": "gs://bucket/model"}, "Received: 'gs://bucket/model'")
      for mode in ("auto", "download", "local")),
    ({"content_img_path": "heic.jpg"}, "ftypheic"), ({"style_img_path": "page.jpg"}, "<!DOCTYPE ht"),
    ({"content_img_path": "page.pdf"}, "%PDF-1.7"), ({"style_img_path": "styles/*.jpg"}, "'styles/*.jpg' is no file"),
    (weights("whole.weights.h5") | {"content_weight": "0", "style_weight": "0"}, "CONTENT_WEIGHT or STYLE_WEIGHT"),
    *(({"output_path": ".", name: "image_00100.png"}, "OUTPUT_PATH") for name in ("style_img_path", "mask_path")),
    ({"output_path": ".", "style_img_path": "a.png image_00100.png"}, "OUTPUT_PATH"),
    ({"output_path": ".", "content_img_path": "coarse_40/image_00100.png"}, "OUTPUT_PATH"),
    *(({"output_path": Path(name).parent}, name) for name in (
        "own/image_00500.png", "own_tiff/image_00500.png", "own_long/image_1234567.png", "own_text/image_00000.png",
        "own_folder/image_00000.png")),
    ({"output_path": "own", "content_img_path": "own/image_00500.png"}, "own/image_00500.png"),
    *(({"output_path": folder}, f"{folder}/checkpoint.npz") for folder in ("own_arrays", "own_checkpoint")),
    ({"output_path": "x" * 300}, "File name too long"),
    *(({"output_path": path}, "OUTPUT_PATH must be a folder") for path in ("link", "link/out") if os.name != "nt"),
    *(({"content_img_path": name, "output_path": path}, "OUTPUT_PATH") for name, path in (
        ("image_00100.png", "."), ("folder/../image_00100.png", ""), ("./image_00100.png", "./"))),
    *(({name: value}, name.upper()) for name, values in {
        "img_size": ("31", "0", "-400", "100000"), "epochs": ("0", "-5", "99999999999"),
        "learn_rate": ("0", "-0.1", "nan", "inf", "2"), "save_every": ("0", "-1"),
        "content_weight": ("-1", "nan", "inf", "1e30"), "style_weight": ("-1", "nan"), "tv_weight": ("-1", "inf"),
        "noise_magnitude": ("-0.1", "1.5", "nan"), "seed": ("-1", "99999999999"), "schedule": ("cosine", "ONE-CYCLE"),
        "vgg_mode": ("fitted", "LOCAL"), "precision": ("float16", "bfloat16"),
        "encoding_layers": ("block1_conv1:1", "block1_conv1:1 block9_conv1:1", "block1_conv1:-1 block5_conv4:1",
                            "block1_pool:1 block5_conv4:1", "block1_conv1:nan block5_conv4:1",
                            "block1_conv1:0 block5_conv4:1", "block1_conv1:1 block5_conv4:0"),
    }.items() for value in values),
    *(({name: value}, "--" + name.replace("_", "-")) for name, value in (
        ("img_size", "400.0"), ("img_size", "big"), ("epochs", "1e3"), ("learn_rate", "fast"), ("seed", "x"),
        ("encoding_layers", "block1_conv1"), ("iterations", "3"))),
]  # fmt: skip


def run_script(settings):
    """Run the script as __main__ in this process; returns its exit code."""
    flags = [word for name, value in (SMALL | IMAGES | settings).items()
             for word in ("--" + name.replace("_", "-"), *(str(value).split() or [""]))]
    argv, timeout, limit = sys.argv, socket.getdefaulttimeout(), Image.MAX_IMAGE_PIXELS
    text_limit = PngImagePlugin.MAX_TEXT_CHUNK
    sys.argv = ["script.py", *flags]
    try:
        runpy.run_path(script.__file__, run_name="__main__")
    except SystemExit as end:
        return end.code
    finally:
        sys.argv = argv
        socket.setdefaulttimeout(timeout)
        Image.MAX_IMAGE_PIXELS = limit
        PngImagePlugin.MAX_TEXT_CHUNK = text_limit
        keras.utils.enable_interactive_logging()
    return 0


def listing():
    return sorted((str(path), path.lstat().st_size) for path in Path().rglob("*"))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder, before = tmp_path_factory.mktemp("bad"), os.getcwd()
    os.chdir(folder)
    make_files()
    yield listing()
    os.chdir(before)


@pytest.mark.parametrize(("settings", "named"), BAD, ids=lambda value: str(value)[:60])
def test_bad_input_is_one_line(files, capfd, settings, named):
    code = run_script(settings)
    out, err = capfd.readouterr()
    assert code == 2 and err.startswith("Error: ") and err.count("\n") == 1 and named in err, err
    assert "Traceback" not in out + err and len(err) < 600
    written = [row for row in listing() if row not in files and row[0] != "folder/new"]
    assert not written and not Path("pwned").exists()


if __name__ == "__main__":
    import contextlib
    import io
    import tempfile

    os.chdir(tempfile.mkdtemp())
    make_files()
    before = listing()
    print("| input | exit | line | written |\n|---|---|---|---|")
    for settings, _ in BAD:
        with contextlib.redirect_stderr(io.StringIO()) as err, contextlib.redirect_stdout(io.StringIO()):
            code = run_script(settings)
        given = " ".join(f"`--{name.replace('_', '-')} {value}`" for name, value in settings.items())
        written = [row for row in listing() if row not in before and row[0] != "folder/new"]
        print(f"| {given} | {code} | {err.getvalue().strip()} | {written or 'nothing'} |")
