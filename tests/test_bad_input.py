"""Bad input: exit code 2, one line that names the file or setting, nothing written."""

import os
from pathlib import Path

import pytest
from conftest import SMALL_RUN
from PIL import Image

import script

BAD = {  # what the user gives, what the line names
    "no content": ({"content_img_path": "missing.jpg"}, "'missing.jpg' is no file"),
    "no style": ({"style_img_path": "missing.jpg"}, "'missing.jpg' is no file"),
    "no mask": ({"mask_path": "missing.jpg"}, "'missing.jpg' is no file"),
    "no weights": ({"vgg_mode": "local", "vgg_network_path": "missing.h5"}, "missing.h5"),
    "no download": ({"vgg_mode": "download", "vgg_network_path": "folder/new"}, script.WEIGHTS_URL),
    "neither content nor style": ({"content_weight": "0", "style_weight": "0"}, "CONTENT_WEIGHT or STYLE_WEIGHT"),
    "home of nobody as content": ({"content_img_path": "~no_such_user/a.jpg"}, "'~no_such_user/a.jpg' is no file"),
    "file as output": ({"output_path": "file"}, "OUTPUT_PATH must be a folder"),
    "file as a folder of output": ({"output_path": "file/out"}, "set another OUTPUT_PATH"),
    "picture as output": ({"output_path": "result.png"}, "Pictures in it are called image_00100.png"),
    "nothing as output": ({"output_path": ""}, "OUTPUT_PATH must be a folder. Pictures in it are called"),
    "nothing as content": ({"content_img_path": ""}, "'' is no file"),
    "layer without its weight": ({"encoding_layers": ["block1_conv1", "block2_conv1:1"]}, "such as block1_conv1:0.2"),
    "layer with a word for a weight": ({"encoding_layers": ["block1_conv1:x", "block2_conv1:1"]}, "such as block1_c"),
    "layers in one word": ({"encoding_layers": "block1_conv1:1,block2_conv1:1"}, "such as block1_conv1:0.2"),
    "part of a pixel": ({"img_size": "400.0"}, "--img-size"),
    "word as a number": ({"learn_rate": "fast"}, "--learn-rate"),
    "unknown flag": ({"iterations": "3"}, "--iterations"),
    "one layer": ({"encoding_layers": "block1_conv1:1"}, "ENCODING_LAYERS"),
}  # fmt: skip
for name, values in {
    "img_size": ("31", "32769"), "epochs": ("0", "2147483649"), "learn_rate": ("0", "1.1"), "save_every": ("0",),
    "content_weight": ("-1", "nan"), "style_weight": ("-1", "1e30"), "tv_weight": ("-1", "inf"),
    "noise_magnitude": ("-0.1", "1.1"), "style_scale": ("0", "11"), "coarse_above": ("31",),
    "seed": ("-1", "2147483649"), "schedule": ("one-cycle",), "vgg_mode": ("fitted",), "precision": ("float16",),
}.items():  # fmt: skip
    BAD |= {f"{name} {value}": ({name: value}, f"{name.upper()} must be") for value in values}


def listing():
    return sorted((str(path), path.lstat().st_size) for path in Path().rglob("*"))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder, before = tmp_path_factory.mktemp("bad"), os.getcwd()
    os.chdir(folder)
    Path("folder").mkdir()
    Path("file").write_text("a file")
    Image.new("RGB", (40, 40), "gray").save("flat.png")
    yield listing()
    os.chdir(before)


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(files, capfd, run_here, program, name):
    settings, named = BAD[name]
    code = run_here(program, settings=SMALL_RUN | settings)
    out, err = capfd.readouterr()
    assert code == 2 and err.startswith(("Error: ", "script.py: error: ")), err  # the second is argparse's
    assert err.count("\n") == 1 and named in err, err
    assert "Traceback" not in out + err and len(err) < 600
    assert [row for row in listing() if row not in files and row[0] != "folder/new"] == []
