"""The script: settings, command line, main(), coarse to fine, what 'auto' settles on, README."""

import inspect
import json
import re
import runpy
import shutil
import sys
import types
from pathlib import Path
from typing import Literal

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import IMAGES, ROOT, SMALL, run_python
from PIL import Image

import script

DEFAULTS = {name.lower(): getattr(script, name) for name in script.SETTINGS}
README = (ROOT / "README.md").read_text("utf-8")


# The line of a setting is the setting


def test_the_documented_defaults_stay():
    assert script.IMG_SIZE == 400 and script.EPOCHS == 25_000 and script.LEARN_RATE == 0.001
    assert script.SCHEDULE == "constant" and script.NOISE_MAGNITUDE == 0.2 and script.SAVE_EVERY is None
    assert (script.CONTENT_WEIGHT, script.STYLE_WEIGHT) == (10, 40)
    layers = [(f"block{block}_conv1", 0.2) for block in range(1, 6)]
    assert [*layers, ("block5_conv4", 1.0)] == script.ENCODING_LAYERS


def test_every_capital_name_of_the_settings_is_a_setting_or_a_kind():
    block = inspect.getsource(script).split("# ------ ")[1]
    assert block.startswith("Settings")
    names = set(re.findall(r"^([A-Z_]+)\b", block, re.MULTILINE)) - {"CONTENT_LAYER", "SETTINGS"}
    assert names == set(script.SETTINGS)


@pytest.mark.parametrize("name", script.SETTINGS)
def test_a_setting_is_legal_has_a_comment_is_a_flag_a_keyword_and_is_used(name):
    assert script.is_legal(DEFAULTS[name.lower()], script.SETTINGS[name])
    assert script.parse_settings([])[name.lower()] == DEFAULTS[name.lower()]
    assert inspect.signature(script.main).parameters[name.lower()].default == DEFAULTS[name.lower()]
    used = inspect.getsource(script.main) + inspect.getsource(script.choose_network)
    assert f"s.{name.lower()}" in used or f'"{name.lower()}"' in used


def test_a_setting_that_is_added_to_the_block_is_checked_and_is_a_flag(tmp_path):
    speed = "SPEED: Annotated[int, 1, 9] = 3  # how fast"
    mood = 'MOOD: Literal["gay", "sad"] | None = None  # what for'
    text = inspect.getsource(script).replace("\nSEED:", f"\n{speed}\n{mood}\nSEED:")
    (tmp_path / "script.py").write_text(text, "utf-8")
    added = runpy.run_path(str(tmp_path / "script.py"))
    assert added["parse_settings"](["--speed", "7", "--mood", "sad"])["speed"] == 7
    for name, value, words in (("speed", 10, "a whole number from 1 to 9"), ("mood", "blue", "'gay' or 'sad' or None")):
        with pytest.raises(ValueError, match=f"{name.upper()} must be {words}. Received: {value!r}"):
            added["main"](**{name: value})


A_PATH = "a.jpg"
NAN, INF = float("nan"), float("inf")
KINDS = [  # kind, legal values, illegal values
    (script.Pixels, (32, 400, np.int64(64), 32_768), (31, 32_769, 400.0, "400", None, True)),
    (script.Weight, (0, 1.5, 1e6, np.float32(2)), (-1, NAN, INF, "10", None, 1e39, True)),
    (script.Count | None, (None, 1, 2**31), (0, 1.5, "5", False)),
    (bool, (True, False), (0, 1, "yes", None)),
    (Literal["a", "b"], ("a", "b"), ("", "c", None, ["a"], 1)),
    (str, (A_PATH, Path(A_PATH)), (None, 7, [A_PATH])),
    (str | list, (A_PATH, [A_PATH], [A_PATH, Path("b")]), ([], None, (A_PATH,))),
    (list, ([("x", 1)], [["x", 0.5], ("y", 2)]), ([], None, "x")),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "value", "legal"), [
    *((kind, value, True) for kind, values, _ in KINDS for value in values),
    *((kind, value, False) for kind, _, values in KINDS for value in values),
])  # fmt: skip
def test_an_annotation_decides_what_is_legal(kind, value, legal):
    assert bool(script.is_legal(value, kind)) == legal


@pytest.mark.parametrize(("kind", "words"), [
    (script.Pixels, "a whole number from 32 to 32,768"), (script.Weight | None, "a number from 0 to 1,000,000 or None"),
    (Literal["a", "b"], "'a' or 'b'"), (bool, "True or False"), (str | list, "a text or a list"),
])  # fmt: skip
def test_an_annotation_is_said_in_words(kind, words):
    assert script.describe_kind(kind) == words


def test_check_settings_names_the_setting_and_gives_the_legal_ones_back():
    assert script.check_settings(epochs=3, save_every=None) == {"epochs": 3, "save_every": None}
    with pytest.raises(ValueError, match=r"IMG_SIZE must be a whole number from 32 to 32,768\. Received: 31"):
        script.check_settings(epochs=3, img_size=31)


def test_an_edited_constant_counts_and_an_unknown_keyword_does_not(monkeypatch):
    monkeypatch.setattr(script, "EPOCHS", 20)
    assert script.get_settings(seed=3)["epochs"] == 20 and script.get_settings(epochs=5)["epochs"] == 5
    monkeypatch.setattr(script, "EPOCHS", 0)
    with pytest.raises(ValueError, match="EPOCHS"):
        script.main()
    with pytest.raises(TypeError, match="'epoch'.*epochs"):
        script.main(epoch=3)


# Command line


def test_help_lists_every_setting_with_its_legal_values_and_default(capsys):
    with pytest.raises(SystemExit) as end:
        script.parse_settings(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert end.value.code == 0
    for name, kind in script.SETTINGS.items():
        flag, value = "--" + name.lower().replace("_", "-"), DEFAULTS[name.lower()]
        flag = f"{flag}, --no-{flag[2:]}" if kind is bool else flag
        comment, default = re.search(rf" {flag} (?:\[ ...\] )?(\S.*?) \(default: (.*?)\)(?= --|$)", text).groups()
        assert " ".join(script.describe_kind(kind).split()) in comment and len(comment) > 5
        if value is None or isinstance(value, (bool, list)):
            assert default == str(value)
        else:
            assert script.parse_settings([flag, *default.split()])[name.lower()] in (value, [value])


@pytest.mark.parametrize(("words", "expected"), [
    ("--content-img-path a.png --style-img-path=b", {"content_img_path": "a.png", "style_img_path": ["b"]}),
    ("--style-img-path a.jpg a.jpg b.jpg --seed 1", {"style_img_path": ["a.jpg", "a.jpg", "b.jpg"], "seed": 1}),
    ("--epochs 300 --learn-rate 0.02 --img-size 256", {"epochs": 300, "learn_rate": 0.02, "img_size": 256}),
    ("--output-path c --content-weight 1 --style-weight 1e3",
     {"output_path": "c", "content_weight": 1.0, "style_weight": 1000.0}),
    ("--encoding-layers block1_conv1:0.5 block4_conv2:1",
     {"encoding_layers": [("block1_conv1", 0.5), ("block4_conv2", 1.0)]}),
    ("--noise-magnitude 0 --seed 7 --save-every 5", {"noise_magnitude": 0.0, "seed": 7, "save_every": 5}),
    ("--vgg-mode fit --vgg-network-path d --precision float32 --schedule one-cycle",
     {"vgg_mode": "fit", "vgg_network_path": "d", "precision": "float32", "schedule": "one-cycle"}),
    ("--keep-aspect-ratio --no-preserve-colors --coarse-size 400 --style-scale 2",
     {"keep_aspect_ratio": True, "preserve_colors": False, "coarse_size": 400, "style_scale": 2.0}),
])  # fmt: skip
def test_parsed(words, expected):
    parsed = script.parse_settings(words.split())
    assert parsed == DEFAULTS | expected
    assert [type(parsed[name]) for name in expected] == [type(value) for value in expected.values()]
    script.check_settings(**parsed)


@pytest.mark.parametrize("words", [
    "--epochz 3", "words", "--epochs", "--epochs 1.5", "--epochs many", "--learn-rate fast",
    "--encoding-layers", "--encoding-layers block1_conv1", "--encoding-layers a:1:1", "--encoding-layers a:0.5 b:x",
])  # fmt: skip
def test_not_parsed(words):
    with pytest.raises(ValueError) as caught:
        script.parse_settings(words.split())
    assert len(str(caught.value).splitlines()) == 1 and words.split()[0] in str(caught.value)


def test_help_shows_percent_signs_of_an_edited_file(tmp_path, capsys):
    line = 'OUTPUT_PATH: str = "50% grey/"  # 100 % mine'
    text, count = re.subn(r"(?m)^OUTPUT_PATH: .*$", line, inspect.getsource(script))
    assert count == 1
    (tmp_path / "script.py").write_text(text, "utf-8")
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(tmp_path / "script.py"))["parse_settings"](["--help"])
    help_text = " ".join(capsys.readouterr().out.split())
    assert end.value.code == 0 and "100 % mine; a text (default: 50% grey/)" in help_text


@pytest.mark.parametrize("line", ["EPOCHS: Count = 500", "EPOCHS: Count = 500 # steps"])
def test_a_setting_without_its_comment_is_still_a_flag(tmp_path, line):
    text, count = re.subn(r"^EPOCHS: .*$", line, inspect.getsource(script), flags=re.MULTILINE)
    assert count == 1
    (tmp_path / "script.py").write_text(text, "utf-8")
    assert runpy.run_path(str(tmp_path / "script.py"))["parse_settings"]([])["epochs"] == 500


def test_pasted_into_a_notebook_it_paints_with_the_constants(monkeypatch):
    """A cell has no __file__, and the flags are the kernel's."""
    monkeypatch.setattr("sys.argv", ["ipykernel_launcher.py", "-f", "kernel.json"])
    cell, called = {"__name__": "a cell"}, []
    exec("width: int = 3\nEPOCHS_SO_FAR: int", cell)  # an earlier cell
    exec(compile(inspect.getsource(script), "a cell", "exec"), cell)
    exec("height: int = 3", cell)
    assert cell["SETTINGS"].keys() == script.SETTINGS.keys()
    cell["main"] = lambda **changed: called.append(changed)
    assert cell["run_program"]() == 0 and called == [{}]


@pytest.mark.parametrize("way", ["pasted", "%run"])
def test_in_a_notebook_it_ends_no_kernel(tmp_path, monkeypatch, capsys, way):
    """There __name__ is __main__ too. Here is no images/, so main() ends at once."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    words = ["ipykernel_launcher.py", "-f", "kernel.json"] if way == "pasted" else ["script.py"]
    monkeypatch.setattr("sys.argv", words)
    if way == "pasted":
        cell = {"__name__": "__main__"}
        exec(compile(inspect.getsource(script), "a cell", "exec"), cell)
    else:
        cell = runpy.run_path(script.__file__, run_name="__main__")
    assert cell["exit_code"] == 2 and "is no file" in capsys.readouterr().err


def test_an_edited_file_runs_with_its_constants(tmp_path, capsys):
    text = Path(script.__file__).read_text("utf-8")
    edits = {
        'STYLE_IMG_PATH: str | list = "images/style.jpg"': 'STYLE_IMG_PATH: str | list = ["a.jpg", "b.jpg"]',
        "EPOCHS: Count = 25_000": "EPOCHS: Count = 300",
        "KEEP_ASPECT_RATIO: bool = False": "KEEP_ASPECT_RATIO: bool = True",
    }  # fmt: skip
    for old, new in edits.items():
        assert text.count(f"\n{old}") == 1
        text = text.replace(f"\n{old}", f"\n{new}")
    (tmp_path / "script.py").write_text(text, "utf-8")
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(tmp_path / "script.py"))["parse_settings"](["--help"])
    out, err = capsys.readouterr()
    assert (end.value.code, err) == (0, "")
    assert "(default: 300)" in out and "(default: True)" in out and "b.jpg" in out


# What a run prints and writes


@pytest.fixture(scope="module")
def small_run(program, weights, tmp_path_factory):
    """A run with its output redirected: folder, exit code, stdout, stderr."""
    cwd = tmp_path_factory.mktemp("small")
    return cwd, *run_python(cwd, program, settings=SMALL | weights)


def test_redirected_output(small_run):
    cwd, code, out, err = small_run
    assert (code, err) == (0, "")
    first, *lines, last = out.splitlines()
    images = [f"out/image_{epoch:05}.png" for epoch in range(3)]
    for word in ("VGG19 /", "few.weights.h5", "float32", "processor cores", "32 x 32", "2 epochs"):
        assert word in first
    assert [(line.split(":")[0], line.split(", ")[-1]) for line in lines] == [
        ("epoch 1/2", images[1]), ("epoch 2/2", images[2]),
    ]  # fmt: skip
    assert last.endswith(images[2]) and not re.search(r"[^\x20-\x7e\n]", out)  # nothing of a progress bar
    assert sorted(str(path.relative_to(cwd)) for path in cwd.rglob("[!.]*.*")) == ["out/checkpoint.npz", *images]


def test_an_image_holds_the_settings_what_auto_became_and_the_epoch(small_run, weights):
    expected = DEFAULTS | SMALL | weights | {"style_img_path": [SMALL["style_img_path"]]}
    expected["network"] = {"mode": "local", "path": weights["vgg_network_path"], "precision": "float32"}
    for epoch in range(3):
        with Image.open(small_run[0] / f"out/image_{epoch:05}.png") as img:
            assert (img.mode, img.size) == ("RGB", (32, 32))
            assert img.text == {name: str(value) for name, value in (expected | {"epoch": epoch}).items()}


def test_the_same_settings_give_the_same_bytes_whatever_keras_own_are(small_run, program, weights, tmp_path):
    (tmp_path / "keras").mkdir()
    hostile = {"floatx": "float16", "epsilon": 1e-3, "image_data_format": "channels_first", "backend": "jax"}
    (tmp_path / "keras" / "keras.json").write_text(json.dumps(hostile))
    env = {"KERAS_HOME": str(tmp_path / "keras"), "KERAS_BACKEND": "jax"}
    code, _, err = run_python(tmp_path, program, settings=SMALL | weights, **env)
    assert (code, err) == (0, "")
    for name in [f"out/image_{epoch:05}.png" for epoch in range(3)]:
        assert (tmp_path / name).read_bytes() == (small_run[0] / name).read_bytes()


def test_only_the_seed_decides(few_channels, tmp_path, monkeypatch):
    def paint(**settings):
        script.main(**(SMALL | few_channels | settings))
        return np.asarray(Image.open("out/image_00002.png"))

    monkeypatch.chdir(tmp_path)
    whole = {"learn_rate": 1, "noise_magnitude": 1, "content_weight": 2, "style_weight": 3}
    first = paint(**whole, seed=0)
    np.testing.assert_array_equal(paint(**{name: float(value) for name, value in whole.items()}, seed=0), first)
    assert np.mean(paint(**whole, seed=1) != first) > 0.5


def test_only_one_cycle_starts_with_the_colours_of_the_styles(few_channels, tmp_path):
    for name, colour in (("a", (250, 0, 0)), ("b", (0, 0, 150))):
        Image.new("RGB", (40, 40), colour).save(tmp_path / f"{name}.png")
    styles = [str(tmp_path / f"{name}.png") for name in "ab"]
    means = {}
    for schedule in ("constant", "one-cycle"):
        folder = tmp_path / schedule
        script.main(**SMALL | few_channels | {
            "output_path": str(folder), "schedule": schedule, "style_img_path": styles, "noise_magnitude": 0.0,
        })  # fmt: skip
        means[schedule] = np.asarray(Image.open(folder / "image_00000.png")).mean((0, 1))
    content_img = script.load_image(SMALL["content_img_path"], 32)
    np.testing.assert_allclose(means["constant"], 255 * content_img.mean((0, 1, 2)), atol=0.5)
    np.testing.assert_allclose(means["one-cycle"], (125, 0, 75), atol=20)  # clipped


@pytest.mark.parametrize("schedule", ["constant", "one-cycle"])
def test_a_notebook_has_no_need_of_main(few_channels, tmp_path, schedule):
    def paint():
        content_img, style_imgs = script.load_images(*IMAGES.values(), 32)
        generated_img = script.initialize_generated_image(content_img)
        vgg_model = script.get_vgg_model("local", few_channels["vgg_network_path"], precision="float32")
        model = script.get_vgg_encodings(vgg_model)
        settings = {"schedule": schedule, "learn_rate": 0.02, "epochs": 2, "output_path": tmp_path}
        script.transfer_style_loop(generated_img, content_img, style_imgs, model, **settings)
        return generated_img.numpy()

    keras.config.set_floatx("float32")
    expected = paint()
    keras.config.set_floatx("float16")
    keras.config.set_image_data_format("channels_first")
    try:
        np.testing.assert_array_equal(paint(), expected)
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_image_data_format("channels_last")


def test_output_path_may_begin_with_a_tilde(few_channels, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    script.main(**SMALL | few_channels | {"output_path": "~/out"})
    assert (tmp_path / "home/out/image_00002.png").exists() and not Path("~").exists()


# What 'auto' settles on


@pytest.fixture
def auto(monkeypatch, tmp_path):
    """Settings for choose_network(), what it would choose now, and what it was asked."""
    choices = {"precision": "float32", "weights": None}
    asked = []

    def choose(precision):
        asked.append(precision)
        return choices["precision"] if precision == "auto" else precision

    monkeypatch.setattr(script, "choose_precision", choose)
    monkeypatch.setattr(script, "find_weights", lambda *args: asked.append("weights") or choices["weights"])
    return DEFAULTS | {"epochs": 9, "output_path": str(tmp_path)}, choices, asked


FITTED = {"mode": "fit", "path": "fitted to the images", "precision": "float32"}
EARLIER = FITTED | {"precision": "mixed_bfloat16"}


def keep(folder, settings, epoch, network):
    a_run = script.Run(folder, [], {}, 9, settings | {"network": network})
    a_run.check_finite = lambda: None
    a_run.epoch = epoch
    folder.mkdir(exist_ok=True)
    a_run.save_checkpoint()


def test_a_run_that_goes_on_keeps_precision_and_weights(auto, tmp_path):
    settings, choices, asked = auto
    assert script.choose_network(tmp_path, settings) == FITTED
    keep(tmp_path, settings, 5, EARLIER)
    choices["weights"] = tmp_path / "downloaded.h5"
    asked.clear()
    assert script.choose_network(tmp_path, settings) == EARLIER and asked == []
    assert script.choose_network(tmp_path, settings | {"epochs": 12}) == EARLIER
    found = {"mode": "local", "path": str(choices["weights"]), "precision": "float32"}
    assert script.choose_network(tmp_path, settings | {"seed": 1}) == found


@pytest.mark.parametrize("change", [{"epochs": 12}, {"save_every": 3}, {"output_path": "out/"}])
def test_a_finished_run_and_one_that_is_prolonged_keep_them_too(auto, tmp_path, change):
    settings, choices, asked = auto
    keep(tmp_path, settings, 9, EARLIER)
    choices["weights"] = tmp_path / "downloaded.h5"
    assert script.choose_network(tmp_path, settings | change) == EARLIER and asked == []


def test_a_checkpoint_of_a_notebook_s_run_decides_nothing(auto, tmp_path):
    settings, _, asked = auto
    a_run = script.Run(tmp_path, [tf.Variable([0.5])], {}, 9, None)
    a_run.save_checkpoint()
    assert script.choose_network(tmp_path, settings) == FITTED and asked == ["auto", "weights"]


def test_what_was_asked_for_is_not_chosen(auto, tmp_path):
    settings, _, asked = auto
    assert script.choose_network(tmp_path, settings | {"precision": "mixed_bfloat16"}) == EARLIER
    assert asked == ["mixed_bfloat16", "weights"]


# Coarse to fine


@pytest.mark.parametrize(("settings", "plan"), [
    ((400, 400, "one-cycle", 100), [(400, 100)]), ((401, 400, "one-cycle", 100), [(200, 100), (401, 60)]),
    ((1200, 400, "one-cycle", 100), [(300, 100), (600, 60), (1200, 36)]), ((1200, 400, "constant", 100), [(1200, 100)]),
    ((130, 40, "one-cycle", 1), [(32, 1), (65, 1), (130, 1)]), ((50, 32, "one-cycle", 9), [(32, 9), (50, 5)]),
])  # fmt: skip
def test_the_plan_of_sizes(settings, plan):
    assert script.plan_sizes(*settings) == plan


def test_coarse_to_fine_ends_at_the_size_that_was_asked_for(few_channels, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settings = few_channels | {
        "img_size": 130, "coarse_size": 40, "keep_aspect_ratio": True, "epochs": 4, "save_every": 1,
        "schedule": "one-cycle", "learn_rate": 0.02, "precision": "float32",
    }  # fmt: skip
    paths = {}
    for name, shape in (("content", (120, 90)), ("style", (70, 100))):
        rng = np.random.default_rng(shape[0])
        Image.fromarray(np.uint8(rng.integers(0, 256, (*shape[::-1], 3)))).save(f"{name}.png")
        paths[f"{name}_img_path"] = f"{name}.png"
    script.main(**paths, **settings, output_path="out")
    last = {"out/coarse_32": "image_00004.png", "out/coarse_65": "image_00002.png", "out": "image_00001.png"}
    imgs = {folder: Image.open(f"{folder}/{name}") for folder, name in last.items()}
    sizes = {folder: img.size for folder, img in imgs.items()}
    assert sizes == {"out/coarse_32": (32, 32), "out/coarse_65": (65, 49), "out": (130, 98)}
    for before, after in (("out/coarse_32", "out/coarse_65"), ("out/coarse_65", "out")):
        enlarged = imgs[before].resize(sizes[after], Image.Resampling.BICUBIC)
        start = np.float64(Image.open(f"{after}/image_00000.png"))
        assert np.abs(start - enlarged).mean() < 8  # of 255, for two ways to enlarge
    old = {path: path.read_bytes() for path in Path("out").rglob("*.png")}
    capsys.readouterr()
    script.main(**paths, **settings, output_path="out")
    assert capsys.readouterr().out.count("Going on after epoch") == 3
    assert {path: path.read_bytes() for path in Path("out").rglob("*.png")} == old


def test_an_image_of_an_earlier_run_can_be_painted_on(few_channels, monkeypatch, tmp_path):
    """One in earlier_1 stays where it is. One in the folder itself would be moved away and is refused."""
    monkeypatch.chdir(tmp_path)
    settings = SMALL | few_channels | {"output_path": "out"}
    for seed in (0, 1):
        script.main(**settings, seed=seed)
    earlier = Path("out/earlier_1/image_00002.png")
    old = earlier.read_bytes()
    for _ in range(2):
        picture, _ = script.main(**settings | {"content_img_path": str(earlier)})
        assert earlier.read_bytes() == old
    script.save_image(picture, "a.png")
    assert Path("a.png").exists() and Image.open("a.png").tobytes() == Image.open("out/image_00002.png").tobytes()
    with pytest.raises(ValueError, match="OUTPUT_PATH must be another folder"):
        script.main(**settings | {"style_img_path": ["out/image_00001.png", "out/image_00002.png"]})


# README


def test_readme_code_runs(program, tmp_path):
    blocks = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    shutil.copy(program, tmp_path)
    shutil.copytree(ROOT / "images", tmp_path / "images")
    (tmp_path / "readme.py").write_text("\n".join(blocks), "utf-8")
    code, _, err = run_python(tmp_path, "readme.py")
    assert code == 0, err
    assert list(tmp_path.rglob("image_*.png"))


@pytest.mark.parametrize("other", [None, "image_1.png", "image_final.png"])
def test_readme_s_animation(tmp_path, monkeypatch, other):
    blocks = re.findall(r"^```py\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Path("output_images").mkdir()
    for n in range(3):
        Image.new("RGB", (40, 30), (80 * n, 0, 0)).save(f"output_images/image_{n:05}.png")
    if other:
        Image.new("RGB", (9, 9)).save(f"output_images/{other}")
    exec(next(block for block in blocks if "save_all" in block), {})
    assert Image.open("painting.webp").n_frames == 3


def test_readme_and_requirements_say_on_what_it_runs():
    for text in (README, (ROOT / "requirements.txt").read_text("utf-8")):
        assert "3.11 to 3.13" in text and "Intel" in text


def test_flags_in_readme_exist_and_its_commands_parse():
    known = {"--" + name.lower().replace("_", "-") for name in script.SETTINGS} | {"--help"}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", re.sub(r"(?m)^ruff .*$|`python tests/.*?`", "", README)))
    assert named - {f"--no-{flag[2:]}" for flag in known} <= known
    commands = re.findall(r"python script\.py ([^`\n&|]*)", README)
    assert commands
    for command in set(commands) - {"--help"}:
        words = re.sub(r"\\\n|\"\$photo\"|\"[^\"]*\"", " x ", command).split()
        script.check_settings(**script.parse_settings(words))


@pytest.mark.parametrize("name", re.findall(r"`([a-z_]+)\(\)`", README))
def test_functions_in_readme_exist(name):
    assert callable(getattr(script, name, None))


