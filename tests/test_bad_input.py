"""Bad input: exit code 2, one line that names the file or setting, nothing written. `python tests/test_bad_input.py`
prints the table."""

import contextlib
import io
import os
import runpy
import socket
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import SMALL_RUN
from make_images import make_bad_images
from PIL import Image

import script


def make_bad_files():
    """Make the bad files in the current folder."""
    make_bad_images(".")
    rgb = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(np.full((40, 40, 3), 77, np.uint8)).save("flat.png")
    Image.new("L", (40, 40)).save("black.png")
    Path("text.h5").write_text("not weights")
    script.build_vgg19().save_weights("whole.weights.h5")
    Path("file").write_text("a file")
    with contextlib.suppress(OSError):  # Windows may not allow it
        Path("link").symlink_to("nowhere")
    for name in ("image_00100.png", "coarse_40/image_00100.png"):  # of a run
        script.save_image(rgb[None] / 255, name, {"epoch": 100})
    for name in ("own", "own_folder/image_00000.png", "own_checkpoint"):  # not of a run
        Path(name).mkdir(parents=True)
    Image.fromarray(rgb).save("own/image_1234567.png")
    Path("own_checkpoint/checkpoint.npz").write_text("a text")


def weights(path, mode="local"):
    return {"vgg_mode": mode, "vgg_network_path": path}


BAD = {  # what the user gives, what the line names
    "no content": ({"content_img_path": "missing.jpg"}, "'missing.jpg' is no file"),
    "no style": ({"style_img_path": "missing.jpg"}, "'missing.jpg' is no file"),
    "no mask": ({"mask_path": "missing.jpg"}, "'missing.jpg' is no file"),
    "empty path": ({"content_img_path": ""}, "'' is no file"),
    "folder as content": ({"content_img_path": "folder"}, "'folder' is no file"),
    "FIFO as content": ({"content_img_path": "fifo.jpg"}, "'fifo.jpg' is no file"),
    "link to nothing as content": ({"content_img_path": "link.jpg"}, "'link.jpg' is no file"),
    "pattern as style": ({"style_img_path": "styles/*.jpg"}, "'styles/*.jpg' is no file"),
    "content cut short": ({"content_img_path": "cut.jpg"}, "cut.jpg cannot be read: image file is truncated"),
    "HEIC as content": ({"content_img_path": "heic.jpg"}, "ftypheic"),
    "program as style": ({"style_img_path": "program.jpg"}, "program.jpg"),
    "web page as style": ({"style_img_path": "page.jpg"}, "<!DOCTYPE ht"),
    "bomb as style": ({"style_img_path": "bomb.png"}, "bomb.png cannot be read: Image size (10000000000 pixels)"),
    "text as mask": ({"mask_path": "text.jpg"}, "text.jpg"),
    "black mask": ({"mask_path": "black.png"}, "black.png, all black"),
    "flat pictures": ({"content_img_path": "flat.png", "style_img_path": "flat.png"}, "flat"),
    "no weights": (weights("missing.h5"), "missing.h5"),
    "text as weights": (weights("text.h5"), "text.h5"),
    "text as weights for auto": (weights("text.h5", "auto"), "text.h5"),
    "folder without weights": (weights("folder"), "VGG_NETWORK_PATH"),
    "no download": (weights("folder/new", "download"), script.WEIGHTS_URL),
    "neither content nor style": (
        weights("whole.weights.h5") | {"content_weight": "0", "style_weight": "0"}, "CONTENT_WEIGHT or STYLE_WEIGHT"),
    "address as content": ({"content_img_path": "https://a.b/c.jpg"}, "'https://a.b/c.jpg' is no file"),
    "address as mask": ({"mask_path": "file:///tmp/mask.png"}, "'file:///tmp/mask.png' is no file"),
    "home of nobody as content": ({"content_img_path": "~no_such_user/a.jpg"}, "'~no_such_user/a.jpg' is no file"),
    "file as output": ({"output_path": "file"}, "OUTPUT_PATH must be a folder"),
    "file as a folder of output": ({"output_path": "file/out"}, "set another OUTPUT_PATH"),
    "device as output": ({"output_path": f"{os.devnull}/out"}, "set another OUTPUT_PATH"),
    "picture as output": ({"output_path": "result.png"}, "Pictures in it are called image_00100.png"),
    "nothing as output": ({"output_path": ""}, "OUTPUT_PATH must be a folder"),
    "layer without its weight": ({"encoding_layers": "block1_conv1"}, "such as block1_conv1:0.2"),
    "layer with a word as weight": ({"encoding_layers": "block1_conv1:a"}, "such as block1_conv1:0.2"),
    "too long output": ({"output_path": "x" * 300}, "File name too long"),
    "content in output": ({"output_path": ".", "content_img_path": "image_00100.png"}, "OUTPUT_PATH"),
    "content in output, spelled otherwise": (
        {"output_path": "./", "content_img_path": "folder/../image_00100.png"}, "OUTPUT_PATH"),
    "content in a smaller size's output": (
        {"output_path": ".", "content_img_path": "coarse_40/image_00100.png"}, "OUTPUT_PATH"),
    "second style in output": ({"output_path": ".", "style_img_path": "flat.png image_00100.png"}, "OUTPUT_PATH"),
    "mask in output": ({"output_path": ".", "mask_path": "image_00100.png"}, "OUTPUT_PATH"),
    "own image in output": ({"output_path": "own"}, str(Path("own/image_1234567.png"))),
    "own folder in output": ({"output_path": "own_folder"}, str(Path("own_folder/image_00000.png"))),
    "own checkpoint in output": ({"output_path": "own_checkpoint"}, str(Path("own_checkpoint/checkpoint.npz"))),
    "part of a pixel": ({"img_size": "400.0"}, "--img-size"),
    "word as a number": ({"learn_rate": "fast"}, "--learn-rate"),
    "unknown flag": ({"iterations": "3"}, "--iterations"),
    "one layer": ({"encoding_layers": "block1_conv1:1"}, "ENCODING_LAYERS"),
    "no such layer": ({"encoding_layers": "block1_conv1:1 block9_conv1:1"}, "ENCODING_LAYERS"),
}  # fmt: skip
if os.name != "nt":  # Windows makes links only for some
    BAD |= {
        "link to nothing as output": ({"output_path": "link"}, "set another OUTPUT_PATH"),
        "link to nothing as a folder of output": ({"output_path": "link/out"}, "set another OUTPUT_PATH"),
    }
for name, values in {
    "img_size": ("31", "32769"), "epochs": ("0", "2147483649"), "learn_rate": ("0", "1.1"), "save_every": ("0",),
    "content_weight": ("-1", "nan"), "style_weight": ("-1", "1e30"), "tv_weight": ("-1", "inf"),
    "noise_magnitude": ("-0.1", "1.1"), "style_scale": ("0", "11"), "coarse_above": ("31",),
    "seed": ("-1", "2147483649"), "schedule": ("one-cycle",), "vgg_mode": ("fitted",), "precision": ("float16",),
}.items():  # fmt: skip
    BAD |= {f"{name} {value}": ({name: value}, f"{name.upper()} must be") for value in values}


def run_script(settings):
    """Run the script as __main__ in this process; returns its exit code."""
    flags = [word for name, value in (SMALL_RUN | settings).items()
             for word in ("--" + name.replace("_", "-"), *(str(value).split() or [""]))]
    argv, timeout = sys.argv, socket.getdefaulttimeout()
    sys.argv = ["script.py", *flags]
    try:
        runpy.run_path(script.__file__, run_name="__main__")
    except SystemExit as end:
        return end.code
    finally:
        sys.argv = argv
        socket.setdefaulttimeout(timeout)
        keras.utils.enable_interactive_logging()
    return 0


def listing():
    return sorted((str(path), path.lstat().st_size) for path in Path().rglob("*"))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder, before = tmp_path_factory.mktemp("bad"), os.getcwd()
    os.chdir(folder)
    make_bad_files()
    yield listing()
    os.chdir(before)


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(files, capfd, name):
    settings, named = BAD[name]
    code = run_script(settings)
    out, err = capfd.readouterr()
    assert code == 2 and err.startswith(("Error: ", "script.py: error: ")), err  # the second is argparse's
    assert err.count("\n") == 1 and named in err, err
    assert "Traceback" not in out + err and len(err) < 600
    assert [row for row in listing() if row not in files and row[0] != "folder/new"] == []
    assert not Path("pwned").exists()


if __name__ == "__main__":
    os.chdir(tempfile.mkdtemp())
    make_bad_files()
    before = listing()
    print("| input | exit | line | written |\n|---|---|---|---|")
    for settings, _ in BAD.values():
        with contextlib.redirect_stderr(io.StringIO()) as err, contextlib.redirect_stdout(io.StringIO()):
            code = run_script(settings)
        given = " ".join(f"`--{name.replace('_', '-')} {value}`" for name, value in settings.items())
        written = [row for row in listing() if row not in before and row[0] != "folder/new"]
        print(f"| {given} | {code} | {err.getvalue().strip()} | {written or 'nothing'} |")
