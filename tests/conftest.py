"""What all tests share: script.py on the path, no way to the network, a small network and small pictures."""

import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
for name in ("http_proxy", "https_proxy"):  # a closed port: what is not on 127.0.0.1 is out of reach, at once
    os.environ[name] = os.environ[name.upper()] = "http://127.0.0.1:9"
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` has it ignored, by the runs started here too
os.environ["no_proxy"] = os.environ["NO_PROXY"] = "127.0.0.1"

import script  # noqa: E402

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
def imgs():
    """A content and a style image, (1, 32, 32, 3) in [0, 1], with gradients, edges and noise in them."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[0:32, 0:32, 0:1][:2] / 32
    content = np.concatenate([rows, columns, rows * columns], -1) + (rows + columns > 1) * 0.3
    style = 0.5 + 0.4 * np.sin(40 * rows * columns + np.arange(3)) + 0.1 * rng.standard_normal((32, 32, 3))
    return tuple(np.float32(np.clip(img, 0, 1))[None] for img in (content, style))
