"""Start-up: what an import leaves as it was; streams, signals, errors and the terminal of the program."""

import contextlib
import io
import os
import re
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import time
import warnings
from pathlib import Path

import keras
import pytest
import tensorflow as tf
from conftest import ROOT, SMALL_RUN, run_python, start_python
from PIL import Image, PngImagePlugin

import script

needs_signals = pytest.mark.skipif(os.name == "nt", reason="Windows has neither such signals nor such a shell")


# An import


IMPORT = """
import os, signal, socket, sys, threading, warnings
from PIL import Image, PngImagePlugin
sys.path.insert(0, sys.argv[1])
def state():
    return (threading.enumerate(), signal.getsignal(signal.SIGINT), os.getcwd(), sys.argv[:], os.fstat(2), sys.stderr,
            warnings.showwarning, socket.getdefaulttimeout())
env, before = dict(os.environ), state()
import script
assert state() == before
assert (Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK) == (125_000_000, 50_000_000)
changed = {name for name in os.environ | env if os.environ.get(name) != env.get(name)}
ours = {"KERAS_BACKEND", "TF_CPP_MIN_LOG_LEVEL", "TF_ENABLE_ONEDNN_OPTS", "TF_FORCE_GPU_ALLOW_GROWTH"}
theirs = {"TF2_BEHAVIOR", "TPU_ML_PLATFORM", "TPU_ML_PLATFORM_VERSION", "ENABLE_RUNTIME_UPTIME_TELEMETRY",  # TensorFlow
          "HDF5_PLUGIN_PATH"}  # Keras
assert ours <= changed <= ours | theirs, changed
"""


def test_importing_sets_up_tensorflow_and_pillow_s_limits_and_does_nothing_else(tmp_path):
    code, out, err = run_python(tmp_path, "-c", IMPORT, ROOT)
    assert (code, out) == (0, "") and "Error" not in err and os.listdir(tmp_path) == []


def test_another_backend_of_keras_is_one_line(monkeypatch):
    monkeypatch.setattr("keras.config.backend", lambda: "jax")
    with pytest.raises(ImportError, match="^script.py needs Keras with TensorFlow.*Received: Keras with jax$"):
        runpy.run_path(script.__file__, run_name="script")


# What a program does to its process


def test_the_program_sets_limits_that_an_import_leaves(run_here):
    """The time-out of a download is that of download_weights()."""
    assert (socket.getdefaulttimeout(), keras.config.is_interactive_logging_enabled()) == (None, True)
    assert run_here(script.__file__, "--help") == 0
    assert (socket.getdefaulttimeout(), keras.config.is_interactive_logging_enabled()) == (None, False)
    with warnings.catch_warnings(record=True) as shown:
        warnings.warn("not for users", DeprecationWarning, stacklevel=1)
    assert shown == []


def test_a_png_may_carry_much_text(tmp_path):
    """Profiles and settings of other programs, above Pillow's limit of 1 MB a chunk."""
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", "ü" * 3_000_000, zip=True)
    Image.new("RGB", (40, 50)).save(tmp_path / "a.png", pnginfo=info, icc_profile=bytes(3_000_000))
    assert script.load_image(tmp_path / "a.png", 32).shape == (1, 32, 32, 3)


@needs_signals
@pytest.mark.parametrize(("fault", "code", "shown"), [
    pytest.param("os.abort()", -signal.SIGABRT, True, id="an abort"),
    pytest.param("raise ImportError('no TensorFlow')", 1, False, id="an exception"),
])  # fmt: skip
def test_an_import_that_dies_shows_what_it_wrote(tmp_path, fault, code, shown):
    """As TensorFlow does on a processor without AVX. Where Python goes on, that text is noise."""
    (tmp_path / "keras.py").write_text(f"import os\nos.write(2, b'a reason of C\\n')\n{fault}\n")
    run = subprocess.run([sys.executable, script.__file__], cwd=tmp_path, capture_output=True, text=True, check=False,
                         env=os.environ | {"PYTHONPATH": str(tmp_path)})  # fmt: skip
    assert run.returncode == code
    assert ("a reason of C" in run.stderr) == shown and ("no TensorFlow" in run.stderr) != shown


@pytest.mark.parametrize("is_program", [True, False])
def test_ctrl_c_during_the_import_ends_a_program_without_a_word(tmp_path, is_program):
    """An import into another program passes it on."""
    (tmp_path / "keras.py").write_text("raise KeyboardInterrupt\n")
    words = [script.__file__] if is_program else ["-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); import script"]
    run = subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, check=False,
                         env=os.environ | {"PYTHONPATH": str(tmp_path)})  # fmt: skip
    assert ("KeyboardInterrupt" in run.stderr) == (not is_program)
    assert not is_program or (run.returncode, run.stderr) == (130, "")


# Streams


def test_closed_streams_do_not_stop_a_run(program, weights, tmp_path):
    process = start_python(tmp_path, program, settings=SMALL_RUN | weights)
    process.stdout.close()
    process.stderr.close()
    assert process.wait(timeout=120) == 0
    assert (tmp_path / "out/image_00002.png").exists()


@needs_signals
def test_without_a_stderr_it_starts(program):
    command = ["sh", "-c", 'exec "$0" "$1" --help 2>&-', sys.executable, program]
    assert "--img-size" in subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=120).stdout


def test_a_path_that_stdout_cannot_show_costs_no_other_line(run_here, program, weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "ascii"))
    assert run_here(program, settings=SMALL_RUN | weights | {"output_path": "Tübingen"}) == 0
    lines = sys.stdout.buffer.getvalue().decode("ascii").splitlines()
    assert len(lines) == 6 and lines[-1] == "Done: T?bingen/image_00002.png"
    assert Path("Tübingen/image_00002.png").exists()


def test_in_a_terminal_of_80_columns_the_epochs_take_one_row(program, weights, tmp_path):
    pty = pytest.importorskip("pty", reason="this system has no terminals of Unix")
    import fcntl
    import termios

    terminal, its_end = pty.openpty()
    fcntl.ioctl(its_end, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    settings = SMALL_RUN | weights | {"epochs": 8}
    process = start_python(tmp_path, program, settings=settings, stdout=its_end, COLUMNS="80")
    os.close(its_end)
    written = b""
    with contextlib.suppress(OSError):  # Linux tells the end so
        while part := os.read(terminal, 1 << 16):
            written += part
    os.close(terminal)
    _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    *_, size, epochs, done, after = written.decode().split("\r\n")
    assert (size, done, after) == ("32 x 32 pixels, 8 epochs", "Done: out/image_00008.png", "")
    before, *states = epochs.split("\r")
    assert before == "" and len(states) == 8
    for state in states:
        assert len(state) < 80 and state.isprintable()
    assert re.match(r"epoch 8/8: 0:00:00 left, cost \d.*style \d.*content \d.*tv \d", states[-1])


# Signals


STOPPED = "\nStopped. The same command goes on; at most 5 seconds and an epoch of work are lost\n"


@needs_signals
def test_ctrl_c_ends_a_run_in_one_line(program, weights, tmp_path):
    """test_runs.py shows that what it leaves goes on to the same picture."""
    settings = SMALL_RUN | weights | {"epochs": 99_999, "save_every": 99_999}
    process = start_python(tmp_path, program, settings=settings)
    try:
        assert select.select([process.stdout], [], [], 120)[0] and "VGG19: " in process.stdout.readline()
        end = time.monotonic() + 120
        while not (tmp_path / "out/checkpoint.npz").exists() and time.monotonic() < end:
            time.sleep(0.05)
        time.sleep(1)  # into the epochs
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert (process.returncode, err) == (130, STOPPED)
    assert sorted(path.name for path in (tmp_path / "out").glob("[!.]*")) == ["checkpoint.npz", "image_00000.png"]


def test_ctrl_c_before_the_first_epoch(monkeypatch, capfd, run_here):
    monkeypatch.setattr(Image, "open", lambda *args, **kwargs: signal.raise_signal(signal.SIGINT))
    assert run_here(script.__file__, settings=SMALL_RUN) == 130
    assert capfd.readouterr() == ("", STOPPED)


# How a program ends


ENDS = {  # what main() raises, the exit code, the line
    "NaN": (FloatingPointError("The picture is NaN after epoch 3"), 2, "Error: The picture is NaN after epoch 3"),
    "no memory": (MemoryError(), 2, "Error: out of memory; lower IMG_SIZE"),
    "no memory for TensorFlow": (
        tf.errors.ResourceExhaustedError(None, None, "OOM when allocating\n  a tensor"), 2,
        "Error: out of memory; lower IMG_SIZE",
    ),
    "Ctrl-C": (KeyboardInterrupt(), 130, STOPPED[:-1]),
}  # fmt: skip


@pytest.mark.parametrize(("error", "code", "line"), ENDS.values(), ids=ENDS)
def test_what_ends_a_run_is_a_line_and_an_exit_code(monkeypatch, capsys, error, code, line):
    def main(**settings):
        raise error

    monkeypatch.setattr(script, "main", main)
    monkeypatch.setattr(sys, "argv", ["script.py"])
    assert script.run_program() == code
    assert capsys.readouterr() == ("", f"{line}\n")


def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(script, "main", lambda **settings: {}["a fault"])
    monkeypatch.setattr(sys, "argv", ["script.py"])
    with pytest.raises(KeyError, match="a fault"):
        script.run_program()


def test_a_second_program_ends_with_2_and_touches_nothing(run_here, program, weights, tmp_path, monkeypatch, capfd):
    """test_runs.py has the lock between processes."""
    monkeypatch.chdir(tmp_path)
    assert run_here(program, settings=SMALL_RUN | weights) == 0
    with script.hold_folder(Path("out")):
        before = {path.name: path.read_bytes() for path in Path("out").glob("[!.]*")}
        assert before and run_here(program, settings=SMALL_RUN | weights) == 2
        assert {path.name: path.read_bytes() for path in Path("out").glob("[!.]*")} == before
    err = capfd.readouterr().err
    assert err.startswith("Error: out is held by another run, ") and err.count("\n") == 1
