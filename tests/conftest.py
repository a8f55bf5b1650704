"""What all tests share: script.py on the path, no way to the network, small networks, small pictures and runs."""

import inspect
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
for name in ("http_proxy", "https_proxy"):  # a closed port: what is not on 127.0.0.1 is out of reach, at once
    os.environ[name] = os.environ[name.upper()] = "http://127.0.0.1:9"
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` has it ignored, by the runs started here too
os.environ["no_proxy"] = os.environ["NO_PROXY"] = "127.0.0.1"

import script  # noqa: E402


def pytest_configure(config):
    config.addinivalue_line("filterwarnings", "ignore:__array__ implementation:DeprecationWarning")  # Keras' matter


IMAGES = {f"{name}_img_path": str(ROOT / "images" / f"{name}.jpg") for name in ("content", "style")}
SMALL = IMAGES | {"output_path": "out", "img_size": 32, "epochs": 2, "vgg_mode": "fit", "precision": "float32"}
QUALITY = ROOT.parent / "shared" / "quality"
needs_quality = pytest.mark.skipif(not QUALITY.is_dir(), reason="../shared/quality, with real pictures, is not there")


@pytest.fixture(scope="session")
def vgg_model():
    """VGG19, He-initialised: with Keras' default initialiser the gradient lies under Adam's epsilon."""
    return script.build_vgg19("float32", seed=1)


@pytest.fixture(scope="session")
def encoding_model(vgg_model):
    return script.get_vgg_encodings(vgg_model)


@pytest.fixture(scope="session")
def few_encoding_model():
    """All layers, with few channels: for what does not depend on their number."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(script, "VGG19_BLOCKS", FEW_CHANNELS)
        return script.get_vgg_encodings(script.build_vgg19("float32", seed=1))


FEW_CHANNELS = ((8, 2), (8, 2), (8, 4), (8, 4), (8, 4))  # a second where VGG19 takes ten
LAYERS = [("block1_conv1", 0.2), ("block1_conv2", 1.0)]  # for tests of runs: a twentieth of the time


@pytest.fixture(scope="session")
def small_encoding_model(vgg_model):
    return script.get_vgg_encodings(vgg_model, LAYERS)


@pytest.fixture(scope="session")
def imgs():
    """A content and a style image, (1, 32, 32, 3) in [0, 1], with gradients, edges and noise in them."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[0:32, 0:32, 0:1][:2] / 32
    content = np.concatenate([rows, columns, rows * columns], -1) + (rows + columns > 1) * 0.3
    style = 0.5 + 0.4 * np.sin(40 * rows * columns + np.arange(3)) + 0.1 * rng.standard_normal((32, 32, 3))
    return tuple(np.float32(np.clip(img, 0, 1))[None] for img in (content, style))


def run(encoding_model, imgs, folder, **settings):
    """A short run; returns its history and the picture."""
    content, style = imgs
    generated = script.initialize_generated_image(content)
    settings = {"epochs": 3, "learn_rate": 0.02} | settings
    if "encoding_layers" not in settings and len(encoding_model.outputs) == len(LAYERS):
        settings["encoding_layers"] = LAYERS
    picture, history = script.transfer_style_loop(
        generated, content, [style], encoding_model, output_path=folder, **settings
    )
    np.testing.assert_array_equal(picture, generated.numpy()[0])
    return history, picture[None]


def pixels(folder):
    """The numbers of a folder's images, by name; what is not a whole image raises."""
    return {path.name: np.asarray(Image.open(path)).tobytes() for path in sorted(folder.glob("*.png"))}


# Processes


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """Settings that give weights to a network of few channels, for tests of what does not depend on what it sees."""
    path = tmp_path_factory.mktemp("weights") / "few.weights.h5"
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(script, "VGG19_BLOCKS", FEW_CHANNELS)
        script.build_vgg19().save_weights(path)
    return {"vgg_mode": "local", "vgg_network_path": str(path)}


@pytest.fixture
def few_channels(weights, monkeypatch):
    """The same settings, and such networks in this process."""
    monkeypatch.setattr(script, "VGG19_BLOCKS", FEW_CHANNELS)
    return weights


@pytest.fixture(scope="session")
def program(tmp_path_factory):
    """A copy of script.py with such networks, to be run as a process."""
    path = tmp_path_factory.mktemp("program") / "script.py"
    text, count = re.subn(r"(?m)^VGG19_BLOCKS = .*?  #", f"VGG19_BLOCKS = {FEW_CHANNELS}  #", inspect.getsource(script))
    assert count == 1
    path.write_text(text, "utf-8")
    return path


def start_python(cwd: Path, *words, settings: dict | None = None, **env) -> subprocess.Popen:
    """Start Python as a user would: without what importing script has put into this process's environment."""
    theirs = ("KERAS", "TF", "TPU", "HDF5", "ENABLE_RUNTIME")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(theirs)}
    flags = [word for name, value in (settings or {}).items() for word in ("--" + name.replace("_", "-"), value)]
    return subprocess.Popen(
        [sys.executable, *map(str, [*words, *flags])], cwd=cwd, env=clean | {"KERAS_HOME": f"{cwd}.keras"} | env,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8",
    )  # fmt: skip


def run_python(cwd: Path, *words, **options) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    process = start_python(cwd, *words, **options)
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err
