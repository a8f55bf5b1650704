"""Start-up: what an import leaves as it was; signals, streams and warnings of the program. Most cases are processes."""

import builtins
import os
import re
import runpy
import select
import signal
import socket
import sys
import time
import types
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import ROOT, SMALL, run_python, start_python
from PIL import Image, PngImagePlugin

import script

needs_signals = pytest.mark.skipif(os.name == "nt", reason="Windows sends no signals to processes")

IMPORT = """
import os, signal, socket, sys, threading, warnings
from PIL import Image, PngImagePlugin
sys.path.insert(0, sys.argv[1])
def state():
    return (threading.enumerate(), signal.getsignal(signal.SIGINT), os.getcwd(), sys.argv[:], os.fstat(2), sys.stderr,
            warnings.showwarning, Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK, socket.getdefaulttimeout())
env, before = dict(os.environ), state()
import script
assert state() == before
changed = {name for name in os.environ | env if os.environ.get(name) != env.get(name)}
ours = {"KERAS_BACKEND", "TF_CPP_MIN_LOG_LEVEL", "TF_ENABLE_ONEDNN_OPTS"}
theirs = {"TF2_BEHAVIOR", "TPU_ML_PLATFORM", "TPU_ML_PLATFORM_VERSION", "ENABLE_RUNTIME_UPTIME_TELEMETRY",  # TensorFlow
          "HDF5_PLUGIN_PATH"}  # Keras
assert ours <= changed <= ours | theirs, changed
"""


def test_importing_does_nothing_else(tmp_path):
    code, out, err = run_python(tmp_path, "-c", IMPORT, ROOT)
    assert (code, out) == (0, "") and "Error" not in err and os.listdir(tmp_path) == []


@pytest.mark.parametrize("backend", ["jax", "torch", "numpy"])
def test_another_backend_of_keras_is_one_line(monkeypatch, backend):
    monkeypatch.setattr("keras.config.backend", lambda: backend)
    with pytest.raises(ImportError, match=f"^script.py needs Keras with TensorFlow.*Received: Keras with {backend}$"):
        runpy.run_path(script.__file__, run_name="script")


def test_a_second_program_ends_with_2_and_touches_nothing(program, weights, tmp_path):
    (tmp_path / "out").mkdir()
    script.save_image(np.zeros((1, 32, 32, 3)), tmp_path / "out/image_00000.png", {"epoch": 0})
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("[!.]*")}
    with script.hold_folder(tmp_path / "out"):
        code, _, err = run_python(tmp_path, program, settings=SMALL | weights)
    assert code == 2 and err.startswith("Error: out is held by another run, ") and err.count("\n") == 1
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").glob("[!.]*")} == before


@needs_signals
def test_a_signal_ends_the_epoch_and_saves_it(program, weights, tmp_path):
    settings = SMALL | weights | {"epochs": 99_999, "save_every": 99_999}
    process = start_python(tmp_path, program, settings=settings)
    try:
        assert select.select([process.stdout], [], [], 120)[0] and "99999 epochs" in process.stdout.readline()
        end = time.monotonic() + 120
        while not (tmp_path / "out/image_00000.png").exists() and time.monotonic() < end:
            time.sleep(0.05)
        time.sleep(1)  # into the epochs
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=120)
    finally:
        process.kill()
    epoch, image = re.fullmatch(r"\nStopped after epoch (\d+): (\S+)\. The same .*\n", err).groups()
    assert process.returncode == 130 and image == f"out/image_{int(epoch):05}.png"
    assert sorted(path.name for path in (tmp_path / "out").glob("[!.]*")) == [
        "checkpoint.npz", "image_00000.png", Path(image).name,
    ]  # fmt: skip
    assert np.asarray(Image.open(tmp_path / image)).shape == (32, 32, 3)
    assert Image.open(tmp_path / image).text["epoch"] == epoch


@pytest.fixture
def restored():
    """What the program changes of its process, as it was."""
    timeout, limit, filters = socket.getdefaulttimeout(), Image.MAX_IMAGE_PIXELS, warnings.filters[:]
    text_limit = PngImagePlugin.MAX_TEXT_CHUNK
    yield
    socket.setdefaulttimeout(timeout)
    Image.MAX_IMAGE_PIXELS = limit
    PngImagePlugin.MAX_TEXT_CHUNK = text_limit
    warnings.filters[:] = filters
    keras.utils.enable_interactive_logging()


def test_ctrl_c_before_the_first_epoch(monkeypatch, capfd, restored):
    monkeypatch.setattr(Image, "open", lambda *args, **kwargs: signal.raise_signal(signal.SIGINT))
    monkeypatch.setattr(sys, "argv", ["script.py", "--content-img-path", SMALL["content_img_path"]])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(script.__file__, run_name="__main__")
    assert end.value.code == 130 and capfd.readouterr() == ("", "\nStopped at once\n")


@pytest.mark.parametrize(("modules", "run_name", "error"), [
    ([], "__main__", SystemExit), (["IPython"], "__main__", KeyboardInterrupt), ([], "script", KeyboardInterrupt),
])  # fmt: skip
def test_an_interrupt_while_keras_loads_ends_a_program_but_no_kernel(monkeypatch, restored, modules, run_name, error):
    real, before = builtins.__import__, os.fstat(2).st_ino

    def interrupted(name, *rest):
        if name == "keras":
            raise KeyboardInterrupt
        return real(name, *rest)

    for name in modules:
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setattr(builtins, "__import__", interrupted)
    with pytest.raises(error):
        runpy.run_path(script.__file__, run_name=run_name)
    assert os.fstat(2).st_ino == before


@needs_signals
@pytest.mark.parametrize(("signum", "delay"), [(signal.SIGINT, 1), (signal.SIGINT, 3), (signal.SIGTERM, 1)])
def test_a_signal_while_the_libraries_load(program, tmp_path, signum, delay):
    process = start_python(tmp_path, program, settings=SMALL)
    time.sleep(delay)
    process.send_signal(signum)
    out, err = process.communicate(timeout=60)
    assert process.returncode == (130 if signum == signal.SIGINT else -signal.SIGTERM)
    assert "Traceback" not in err and not list(tmp_path.glob("out/image_00001*"))


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")
def test_an_ignored_signal_stays_ignored_and_the_others_come_back():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        handlers = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
        with script.catch_signals() as caught:
            signal.raise_signal(signal.SIGHUP)
            assert caught == []
            signal.raise_signal(signal.SIGINT)
            assert caught == [signal.SIGINT]
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGTERM)
        assert handlers == {s: signal.getsignal(s) for s in handlers}
    finally:
        signal.signal(signal.SIGHUP, before)


def test_closed_streams_do_not_stop_a_run(program, weights, tmp_path):
    process = start_python(tmp_path, program, settings=SMALL | weights)
    process.stdout.close()
    process.stderr.close()
    assert process.wait(timeout=120) == 0
    assert (tmp_path / "out/image_00002.png").exists()


def test_a_png_may_carry_much_text(program, weights, tmp_path):
    """Profiles and settings of other programs, above Pillow's limit of 1 MB a chunk."""
    names = ("zTXt.png", "iTXt.png", "iCCP.png")
    for name in names:
        info = PngImagePlugin.PngInfo()
        if name == "zTXt.png":
            info.add_text("Raw profile type 8bim", "a" * 3_000_000, zip=True)
        if name == "iTXt.png":
            info.add_itxt("XML:com.adobe.xmp", "ü" * 3_000_000, zip=True)
        profile = bytes(3_000_000) if name == "iCCP.png" else None
        rgb = np.random.default_rng(0).integers(0, 256, (40, 50, 3))
        Image.fromarray(np.uint8(rgb)).save(tmp_path / name, pnginfo=info, icc_profile=profile)
        with pytest.raises(OSError, match="too large"):  # as Pillow has it, which the program alone changes
            script.load_image(tmp_path / name, 32)
    for name in names:
        settings = SMALL | weights | {"content_img_path": name, "output_path": name[:4]}
        code, _, err = run_python(tmp_path, program, settings=settings)
        assert (code, err) == (0, ""), name


def test_a_path_that_stdout_cannot_show_costs_no_other_line(program, weights, tmp_path):
    settings = SMALL | weights | {"output_path": "Tübingen"}
    code, out, err = run_python(tmp_path, program, settings=settings, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert (code, err) == (0, "") and len(out.splitlines()) == 4 and "image_00002.png" in out
