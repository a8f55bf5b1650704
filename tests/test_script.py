"""The script: settings, command line, errors, what a run prints and writes, README."""

import ast
import inspect
import json
import os
import re
import runpy
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

import script

ROOT = Path(script.__file__).parent
DEFAULTS = {name: parameter.default for name, parameter in inspect.signature(script.main).parameters.items()}
IMAGES = {f"{name}_img_path": str(ROOT / "images" / f"{name}.jpg") for name in ("content", "style")}
SMALL = IMAGES | {"output_path": "out", "img_size": 32, "epochs": 2, "vgg_mode": "fit", "precision": "float32"}


def start(cwd: Path, *words, settings: dict | None = None, **env) -> subprocess.Popen:
    """Start Python as a user would: without what importing script has put into this process's environment."""
    theirs = ("KERAS", "TF", "TPU", "HDF5", "ENABLE_RUNTIME")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(theirs)}
    flags = [word for name, value in (settings or {}).items() for word in ("--" + name.replace("_", "-"), value)]
    return subprocess.Popen(
        [sys.executable, *map(str, [*words, *flags])], cwd=cwd, env=clean | {"KERAS_HOME": f"{cwd}.keras"} | env,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8",
    )  # fmt: skip


def run(cwd: Path, *words, **options) -> tuple[int, str, str]:
    process = start(cwd, *words, **options)
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Settings that spare a run the fitting."""
    path = tmp_path_factory.mktemp("weights") / "he.weights.h5"
    script.build_vgg19().save_weights(path)
    return {"vgg_mode": "local", "vgg_network_path": str(path)}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A run with its output redirected: folder, exit code, stdout, stderr."""
    cwd = tmp_path_factory.mktemp("fitted")
    return cwd, *run(cwd, script.__file__, settings=SMALL)


# Settings and command line


@pytest.mark.parametrize("name", DEFAULTS)
def test_every_parameter_of_main_is_a_setting(name):
    assert getattr(script, name.upper()) == script.parse_settings([])[name] == DEFAULTS[name]


@pytest.mark.parametrize(("old", "new"), [
    ('STYLE_IMG_PATH = "images/style.jpg"', 'STYLE_IMG_PATH = ["a.jpg", "a.jpg", "b.jpg"]'),
    ("EPOCHS = 25_000  #", "EPOCHS = 300 #"), ("KEEP_ASPECT_RATIO = False", "KEEP_ASPECT_RATIO = True"),
])  # fmt: skip
def test_constants_can_be_edited(tmp_path, old, new):
    text = Path(script.__file__).read_text("utf-8")
    assert text.count(f"\n{old}") == 1
    (tmp_path / "script.py").write_text(text.replace(f"\n{old}", f"\n{new}"), "utf-8")
    code, out, err = run(tmp_path, "script.py", "--help")
    assert code == 0 and err == "" and re.search(r"--seed\s+0 or more", out)


def test_no_function_reads_a_setting():
    functions = [node for node in ast.walk(ast.parse(inspect.getsource(script))) if isinstance(node, ast.FunctionDef)]
    bodies, defaults = [f.body for f in functions], [f.args.defaults for f in functions]
    body_names, default_names = (
        {name.id for part in parts for node in part for name in ast.walk(node) if isinstance(name, ast.Name)}
        for parts in (bodies, defaults)
    )
    settings = {name.upper() for name in DEFAULTS}
    assert settings <= default_names and not settings & body_names


def test_help_lists_every_setting_with_its_default(capsys):
    with pytest.raises(SystemExit) as end:
        script.parse_settings(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert end.value.code == 0
    for name, value in DEFAULTS.items():
        flag = "--" + name.replace("_", "-")
        either = f"{flag}, --no-{flag[2:]}" if isinstance(value, bool) else flag
        comment, default = re.search(rf" {either} (?:\[ ...\] )?(\S.*?) \(default: (.*?)\)(?! \()", text).groups()
        assert len(comment) > 5 and "--" not in comment
        if value is None or isinstance(value, bool):
            assert default == str(value)
        else:
            assert script.parse_settings([flag, *default.split()])[name] in (value, [value])


@pytest.mark.parametrize(("words", "expected"), [
    ("--content-img-path a.png --style-img-path=b", {"content_img_path": "a.png", "style_img_path": ["b"]}),
    ("--style-img-path a.jpg a.jpg b.jpg --seed 1", {"style_img_path": ["a.jpg", "a.jpg", "b.jpg"], "seed": 1}),
    ("--epochs 300 --learn-rate 0.02 --img-size 256", {"epochs": 300, "learn_rate": 0.02, "img_size": 256}),
    ("--output-path c --content-weight 1 --style-weight 1e3",
     {"output_path": "c", "content_weight": 1.0, "style_weight": 1000.0}),
    ("--encoding-layers block1_conv1:0.5 block4_conv2:1",
     {"encoding_layers": [("block1_conv1", 0.5), ("block4_conv2", 1.0)]}),
    ("--noise-magnitude 0 --seed 7 --save-every 5", {"noise_magnitude": 0.0, "seed": 7, "save_every": 5}),
    ("--vgg-mode fit --vgg-network-path d --precision float32",
     {"vgg_mode": "fit", "vgg_network_path": "d", "precision": "float32"}),
    ("--keep-aspect-ratio --no-preserve-colors --coarse-size 400 --style-scale 2",
     {"keep_aspect_ratio": True, "preserve_colors": False, "coarse_size": 400, "style_scale": 2.0}),
])  # fmt: skip
def test_parsed(words, expected):
    parsed = script.parse_settings(words.split())
    assert parsed == DEFAULTS | expected
    assert [type(parsed[name]) for name in expected] == [type(value) for value in expected.values()]
    script.check_settings(**parsed)


@pytest.mark.parametrize("words", [
    "--epochz 3", "--epoch 3", "words", "--epochs", "--epochs 1.5", "--epochs many", "--learn-rate fast",
    "--encoding-layers", "--encoding-layers block1_conv1", "--encoding-layers a:1:1", "--encoding-layers a:0.5 b:x",
])  # fmt: skip
def test_not_parsed(words):
    with pytest.raises(ValueError) as caught:
        script.parse_settings(words.split())
    assert len(str(caught.value).splitlines()) == 1 and words.split()[0] in str(caught.value)


NAN, INF = float("nan"), float("inf")
BAD = {
    "content_img_path": ("missing.jpg", "folder", "file", "", None, 7),
    "style_img_path": (
        "missing.jpg", "folder", "file", "", [], None, ("a.jpg", "b.jpg"), [IMAGES["style_img_path"], "missing.jpg"],
    ),
    "output_path": ("file", "file/out", None),
    "img_size": (31, 0, -400, 400.0, "400"),
    "content_weight": (-1, INF, NAN, "10", 1e39),  # float32 ends at 3.4e38
    "style_weight": (-1, INF, NAN, "10", 1e39),
    "encoding_layers": (
        [], None, ["block1_conv1"] * 2, [("block1_conv1", 1.0)], [("block6_conv1", 1.0), ("block5_conv4", 1.0)],
        [("block1_pool", 1.0), ("block5_conv4", 1.0)], [("block1_conv1", -0.1), ("block5_conv4", 1.0)],
        [("block1_conv1", 1.0), ("block5_conv4", NAN)], [("block1_conv1", "1"), ("block5_conv4", 1.0)],
    ),
    "tv_weight": (-1, INF, NAN, "10", None),
    "optimizer": ("", "sgd", None, ["adam"]),
    "stop_below": (-0.1, 1.1, NAN, "0.1"),
    "keep_aspect_ratio": ("yes", 2, None),
    "preserve_colors": ("no", -1, None),
    "style_scale": (0, -1, 11, NAN, "1", None),
    "coarse_size": (31, 0, -400, 400.0, "400"),
    "noise_magnitude": (-0.1, 1.1, NAN, None),
    "seed": (-1, 0.5, None, 2**70),
    "epochs": (0, -1, 2.0, "2", None),
    "learn_rate": (0, -0.1, NAN, INF, "0.02", None),
    "save_every": (0, -1, 1.5, "5"),
    "vgg_mode": ("", "fitted", None, ["fit"]),
    "vgg_network_path": ("", None, 7),
    "precision": ("", "float16", "bfloat16", None),
}  # fmt: skip


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_bad_setting_is_an_error_before_any_work(tmp_path, monkeypatch, capfd, name, value):
    for work in ("build_vgg19", "download_weights", "load_weights", "fit_weights", "choose_precision", "save_image"):
        monkeypatch.setattr(script, work, lambda *args, work=work, **kwargs: pytest.fail(f"{work}() was called"))
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("text")
    Path("folder").mkdir()
    with pytest.raises((ValueError, OSError)) as caught:
        script.main(**(SMALL | {name: value}))
    text = str(caught.value)
    path = value[-1] if value and isinstance(value, list) else value
    is_path = name in IMAGES and path and isinstance(path, str)
    assert len(text.splitlines()) == 1 and (path if is_path else name.upper()) in text
    assert sorted(os.listdir()) == ["file", "folder"] and not os.listdir("folder")
    assert Path("file").read_text() == "text" and capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("command", "named"), [
    ("--epochs 0", "EPOCHS"), ("--epochz 3", "--epochz"), ("--encoding-layers block1_conv1", "block1_conv1"),
    ("--content-img-path missing.jpg", "missing.jpg"), ("--style-img-path file", "file"),
    ("--output-path file", "OUTPUT_PATH"),
])  # fmt: skip
def test_error_of_the_script_is_one_line(tmp_path, command, named):
    (tmp_path / "file").write_text("text")
    flag, value = command.split()
    settings = SMALL | {flag[2:].replace("-", "_"): value}
    code, out, err = run(tmp_path, script.__file__, settings=settings)
    assert (code, out, os.listdir(tmp_path)) == (2, "", ["file"])
    assert re.fullmatch(r"Error: .+\n", err) and named in err


# What a run prints and writes


def test_redirected_output(fitted):
    cwd, code, out, err = fitted
    assert (code, err) == (0, "")
    first, *lines, last = out.splitlines()
    images = [f"out/image_{epoch:05}.png" for epoch in range(3)]
    assert all(word in first for word in ("VGG19 fitted", "float32", "32 x 32", "2 epochs"))
    assert [(line.split(":")[0], line.split(", ")[-1]) for line in lines] == [
        ("epoch 1/2", images[1]), ("epoch 2/2", images[2]),
    ]  # fmt: skip
    assert last.endswith(images[2]) and not re.search(r"[^\x20-\x7e\n]", out)  # nothing of a progress bar
    assert sorted(str(path.relative_to(cwd)) for path in cwd.rglob("*.*")) == ["out/checkpoint.npz", *images]


@pytest.mark.parametrize("epoch", range(3))
def test_image_holds_the_settings_and_the_epoch(fitted, epoch):
    expected = DEFAULTS | SMALL | {"epoch": epoch, "style_img_path": [SMALL["style_img_path"]]}
    with Image.open(fitted[0] / f"out/image_{epoch:05}.png") as img:
        assert (img.mode, img.size) == ("RGB", (32, 32))
        assert {name: img.text.get(name) for name in expected} == {name: str(v) for name, v in expected.items()}


def test_the_same_settings_give_the_same_bytes_whatever_keras_own_are(fitted, tmp_path):
    (tmp_path / "keras").mkdir()
    hostile = {"floatx": "float16", "epsilon": 1e-3, "image_data_format": "channels_first", "backend": "jax"}
    (tmp_path / "keras" / "keras.json").write_text(json.dumps(hostile))
    env = {"KERAS_HOME": str(tmp_path / "keras"), "KERAS_BACKEND": "jax"}
    code, _, err = run(tmp_path, script.__file__, settings=SMALL, **env)
    assert (code, err) == (0, "")
    for name in [f"out/image_{epoch:05}.png" for epoch in range(3)]:
        assert (tmp_path / name).read_bytes() == (fitted[0] / name).read_bytes()


def test_only_the_seed_decides(weights, tmp_path, monkeypatch):
    def paint(**settings):
        script.main(**(SMALL | weights | settings))
        return np.asarray(Image.open("out/image_00002.png"))

    monkeypatch.chdir(tmp_path)
    whole = {"learn_rate": 1, "noise_magnitude": 1, "content_weight": 2, "style_weight": 3}
    first = paint(**whole, seed=0)
    np.testing.assert_array_equal(paint(**{name: float(value) for name, value in whole.items()}, seed=0), first)
    assert np.mean(paint(**whole, seed=1) != first) > 0.5


def test_a_notebook_has_no_need_of_main(weights, tmp_path):
    def paint():
        content_img, style_img = script.load_images(*IMAGES.values(), 32)
        generated_img = script.initialize_generated_image(content_img)
        vgg_model = script.get_vgg_model("local", weights["vgg_network_path"], precision="float32")
        model = script.get_vgg_encodings(vgg_model)
        script.transfer_style_loop(generated_img, content_img, style_img, model, epochs=2, output_path=tmp_path)
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


IMPORT = """
import os, signal, sys, threading
sys.path.insert(0, sys.argv[1])
def state():
    return threading.enumerate(), signal.getsignal(signal.SIGINT), os.getcwd(), sys.argv[:]
env, before = dict(os.environ), state()
import script
assert state() == before
changed = {name for name in os.environ | env if os.environ.get(name) != env.get(name)}
ours = {"KERAS_BACKEND", "TF_CPP_MIN_LOG_LEVEL", "TF_ENABLE_ONEDNN_OPTS"}
theirs = {"TF2_BEHAVIOR", "TPU_ML_PLATFORM", "TPU_ML_PLATFORM_VERSION", "ENABLE_RUNTIME_UPTIME_TELEMETRY",  # TensorFlow
          "HDF5_PLUGIN_PATH"}  # Keras
assert ours <= changed <= ours | theirs, changed
"""


def test_coarse_to_fine_ends_at_the_size_that_was_asked_for(weights, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settings = weights | {"img_size": 130, "coarse_size": 40, "keep_aspect_ratio": True, "epochs": 2, "save_every": 1,
                          "learn_rate": 0.02, "precision": "float32"}  # fmt: skip
    paths = {}
    for name, shape in (("content", (120, 90)), ("style", (70, 100))):
        rng = np.random.default_rng(shape[0])
        Image.fromarray(np.uint8(rng.integers(0, 256, (*shape[::-1], 3)))).save(f"{name}.png")
        paths[f"{name}_img_path"] = f"{name}.png"
    script.main(**paths, **settings, output_path="out")
    sizes = {folder: Image.open(f"{folder}/image_00002.png").size for folder in ("out/size_32", "out/size_65", "out")}
    assert sizes == {"out/size_32": (32, 32), "out/size_65": (65, 49), "out": (130, 98)}
    for before, after in (("out/size_32", "out/size_65"), ("out/size_65", "out")):
        enlarged = Image.open(f"{before}/image_00002.png").resize(sizes[after], Image.Resampling.BICUBIC)
        start = np.float64(Image.open(f"{after}/image_00000.png"))
        assert np.abs(start - enlarged).mean() < 8  # of 255, for two ways to enlarge
    old = {path: path.read_bytes() for path in Path("out").rglob("*.png")}
    capsys.readouterr()
    script.main(**paths, **settings, output_path="out")
    assert capsys.readouterr().out.count("This run is done") == 3
    assert {path: path.read_bytes() for path in Path("out").rglob("*.png")} == old


def test_importing_does_nothing_else(tmp_path):
    assert run(tmp_path, "-c", IMPORT, ROOT) == (0, "", "") and os.listdir(tmp_path) == []


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_epoch_and_saves_it(weights, tmp_path, signum):
    settings = SMALL | weights | {"epochs": 99_999, "save_every": 99_999}
    process = start(tmp_path, script.__file__, settings=settings)
    try:
        assert select.select([process.stdout], [], [], 120)[0] and "99999 epochs" in process.stdout.readline()
        end = time.monotonic() + 120
        while not (tmp_path / "out/image_00000.png").exists() and time.monotonic() < end:
            time.sleep(0.05)
        time.sleep(1)  # into the epochs
        process.send_signal(signum)
        _, err = process.communicate(timeout=120)
    finally:
        process.kill()
    epoch, image = re.fullmatch(r"\nStopped after epoch (\d+) of 99999, .* each: (\S+)\. The same .*\n", err).groups()
    assert process.returncode == 128 + signum and image == f"out/image_{int(epoch):05}.png"
    assert sorted(os.listdir(tmp_path / "out")) == ["checkpoint.npz", "image_00000.png", Path(image).name]
    assert np.asarray(Image.open(tmp_path / image)).shape == (32, 32, 3)
    assert Image.open(tmp_path / image).text["epoch"] == epoch


def test_a_signal_before_the_first_epoch(monkeypatch, capfd):
    monkeypatch.setattr(Image, "open", lambda *args, **kwargs: signal.raise_signal(signal.SIGTERM))
    monkeypatch.setattr(sys, "argv", ["script.py", "--content-img-path", SMALL["content_img_path"]])
    handlers = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        with pytest.raises(SystemExit) as end:
            runpy.run_path(script.__file__, run_name="__main__")
    finally:
        for signum, handler in handlers.items():
            signal.signal(signum, handler)
    assert end.value.code == 143 and capfd.readouterr() == ("", "\nStopped at once\n")


@pytest.mark.parametrize("delay", [0.5, 1, 2, 3])
def test_a_signal_while_the_libraries_load(tmp_path, delay):
    process = start(tmp_path, script.__file__, settings=SMALL)
    time.sleep(delay)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 143 and "Traceback" not in err and not list(tmp_path.glob("out/image_00001*"))


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_a_closed_stream_does_not_stop_a_run(weights, tmp_path, closed):
    process = start(tmp_path, script.__file__, settings=SMALL | weights)
    getattr(process, closed).close()
    assert process.wait(timeout=120) == 0
    assert (tmp_path / "out/image_00002.png").exists()
    for stream in (process.stdout, process.stderr):
        stream.close()


# README


def test_readme_lists_every_setting_with_its_default():
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| (.*?) \|", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE))
    for name, value in DEFAULTS.items():
        default = rows[name.upper()]
        if name == "encoding_layers":  # as a literal too long for a table
            named = re.findall(r"(block\d_conv\d)\W+(\d+(?:\.\d+)?)", default)
            assert {(layer, float(weight)) for layer, weight in named} <= set(value)
        else:
            assert ast.literal_eval(re.search("`(.+?)`", default)[1]) == value, name


def test_readme_code_runs(tmp_path):
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)
    shutil.copy(script.__file__, tmp_path)
    shutil.copytree(ROOT / "images", tmp_path / "images")
    (tmp_path / "readme.py").write_text("\n".join(blocks), "utf-8")
    code, _, err = run(tmp_path, "readme.py")
    assert code == 0, err
    assert list(tmp_path.rglob("image_*.png"))
