"""Runs: the folder, the checkpoint, the screen and the loop. What needs a network takes two layers of it."""

import datetime
import itertools
import os
import signal
import socket
import sys
import threading
import types
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import LAYERS, ROOT, pixels, run, start_python
from PIL import Image
from test_network import count_gradients

import script

COSTS = (4.0, 0.5, 0.25)


# What decides a run


class Network:
    """What describe_run() asks of a network."""

    def __init__(self, kernel=1.0, precision="float32"):
        self.weights = [np.full(3, kernel, np.float32)]
        self.dtype_policy = keras.DTypePolicy(precision)

    def get_weights(self):
        return self.weights


@pytest.mark.parametrize(("changed", "named"), [
    ({"learn_rate": 0.03}, "LEARN_RATE"), ({"style_weight": 41.0}, "STYLE_WEIGHT"),
    ({"encoding_layers": [("block1_conv1", 0.3)]}, "ENCODING_LAYERS"),
    ({"generated_img": 0.4}, "the start image"), ({"content_img": 0.4}, "the content image"),
    ({"style_imgs": [0.4]}, "the style images"), ({"style_imgs": [0.3, 0.3]}, "the style images"),
    ({"mask": 0.4}, "the mask"),
    ({"encoding_model": Network(kernel=2.0)}, "the network's weights"),
    ({"encoding_model": Network(precision="mixed_bfloat16")}, "PRECISION"),
])  # fmt: skip
def test_whatever_decides_the_picture_changes_one_entry_by_its_name(changed, named):
    def describe(generated_img=0.3, content_img=0.3, style_imgs=(0.3,), mask=None, encoding_model=None, **settings):
        settings = {"learn_rate": 0.02, "style_weight": 40.0, "encoding_layers": [("block1_conv1", 0.2)]} | settings
        return script.describe_run(tf.Variable(generated_img), np.array(content_img), list(style_imgs), mask,
                                   encoding_model or Network(), **settings)  # fmt: skip

    before, after = describe(), describe(**changed)
    assert {name for name in before if before[name] != after[name]} == {named}


# The folder


def make_run(folder, value=0.5, epochs=9, **description):
    variables = [tf.Variable(np.full((1, 4, 4, 3), value, np.float32)), tf.Variable([1.0, 2.0])]
    return script.Run(folder, variables, {"LEARN_RATE": 0.1} | description, epochs, {"style": "Sternennacht"})


def advance(a_run, epochs=1):
    """What the loop does in an epoch that is saved."""
    for _ in range(epochs):
        a_run.epoch += 1
        a_run.variables[0].assign_add(tf.fill((1, 4, 4, 3), 0.01))
        a_run.variables[1].assign_add([1.0, 0.5])
        a_run.save_epoch(COSTS)
    a_run.save_checkpoint()


def test_a_run_goes_on_from_its_checkpoint(tmp_path):
    first = make_run(tmp_path)
    first.begin_or_resume()
    advance(first, 3)
    second = make_run(tmp_path)
    second.begin_or_resume()
    assert second.epoch == 3 and second.history == first.history
    expected = {"epoch": [1, 2, 3], "cost": [4.0] * 3, "style_cost": [0.5] * 3, "content_cost": [0.25] * 3}
    assert second.history == expected
    for ours, theirs in zip(second.variables, first.variables, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name[0] != ".") == [
        "checkpoint.npz", *(f"image_0000{epoch}.png" for epoch in range(4)),
    ]  # fmt: skip


@pytest.mark.parametrize(("changed", "named"), [
    ({"LEARN_RATE": 0.2}, "LEARN_RATE\n"), ({"epochs": 2}, "EPOCHS\n"), ({"new": 1}, "new\n"),
    ({"EPOCHS": 2, "epochs": 2}, "EPOCHS\n"),  # of one-cycle
])  # fmt: skip
def test_another_run_starts_anew_and_keeps_the_old_one(tmp_path, capsys, changed, named):
    first = make_run(tmp_path)
    first.begin_or_resume()
    advance(first, 3)
    old = pixels(tmp_path)
    second = make_run(tmp_path, **changed)
    second.begin_or_resume()
    out = capsys.readouterr().out
    assert f"another value of {named}" in out and "earlier_1" in out and second.epoch == 0
    assert pixels(tmp_path / "earlier_1") == old and (tmp_path / "earlier_1/checkpoint.npz").exists()
    assert list(pixels(tmp_path)) == ["image_00000.png"]
    third = make_run(tmp_path, LEARN_RATE=0.3)
    third.begin_or_resume()
    assert (tmp_path / "earlier_2").is_dir()


def test_the_saved_image_is_the_picture_rounded_with_its_text(tmp_path):
    a_run = make_run(tmp_path, value=0.7)
    with Image.open(a_run.save_epoch()) as img:
        np.testing.assert_array_equal(np.asarray(img), np.full((4, 4, 3), round(0.7 * 255)))
        assert img.text == {"style": "Sternennacht", "epoch": "0"}
    assert a_run.history["epoch"] == []


@pytest.mark.parametrize("name", ["gr\udcfcn.jpg", "\u661f\u6708\u591c.jpg"])
def test_a_file_name_that_is_no_utf_8_ends_no_run(small_encoding_model, imgs, tmp_path, capsys, name):
    for epochs in (1, 2):
        run(small_encoding_model, imgs, tmp_path, epochs=epochs, text={"content_img_path": name})
    assert "Going on after epoch 1" in capsys.readouterr().out
    with Image.open(tmp_path / "image_00002.png") as img:
        assert img.text["content_img_path"] == name.encode("utf-8", "replace").decode()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_picture_that_is_nan_is_neither_saved_nor_kept(tmp_path, value):
    a_run = make_run(tmp_path)
    a_run.begin_or_resume()
    advance(a_run, 2)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    a_run.epoch += 1
    a_run.variables[0][0, 1, 2, 0].assign(value)
    for save in (a_run.save_epoch, a_run.save_checkpoint):
        with pytest.raises(FloatingPointError, match=rf"after epoch 3.*LEARN_RATE.*{tmp_path} are from before"):
            save()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_checkpoint_holds_the_picture_and_adams_two_moments(small_encoding_model, imgs, tmp_path):
    """At most five times the picture's own floats, whatever the schedule."""
    floats = 1024 * 3 * 4  # bytes
    for schedule in ("constant", "one-cycle"):
        run(small_encoding_model, imgs, tmp_path / schedule, schedule=schedule)
        assert 3 * floats < (tmp_path / schedule / "checkpoint.npz").stat().st_size < 5 * floats


def test_checkpoints_are_written_by_the_clock(small_encoding_model, imgs, tmp_path, monkeypatch):
    clock, kept, save = [0.0], [], script.Run.save_checkpoint

    def step(*args, **settings):
        clock[0] += 10
        return (tf.constant(0.0),) * 3

    monkeypatch.setattr(script.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(script.Run, "save_checkpoint", lambda self: kept.append(self.epoch) or save(self))
    monkeypatch.setattr(script.tf, "function", lambda step: step)
    monkeypatch.setattr(script, "transfer_style_step", step)
    run(small_encoding_model, imgs, tmp_path, epochs=20)
    assert kept == [0, 7, 14, 20]


def damage(data, kind):
    middle = len(data) // 2
    return {
        "flipped": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :], "cut": data[:middle], "empty": b"",
        "text": b"a checkpoint", "pickle": b"cos\nsystem\n(S'touch pwned'\ntR.",
    }[kind]  # fmt: skip


@pytest.mark.parametrize("kind", ["flipped", "cut", "empty", "text", "pickle", "a list", "other arrays"])
def test_a_damaged_checkpoint_and_one_of_another_program_are_named_and_stay(tmp_path, kind):
    first = make_run(tmp_path)
    first.begin_or_resume()
    advance(first)
    old, checkpoint = pixels(tmp_path), first.checkpoint
    if kind == "a list":
        np.savez(checkpoint, "[1, 2]")
    elif kind == "other arrays":
        np.savez(checkpoint, np.ones(3))
    else:
        checkpoint.write_bytes(damage(checkpoint.read_bytes(), kind))
    before = checkpoint.read_bytes()
    with pytest.raises(ValueError, match=f"^OUTPUT_PATH must .*Move this one away.*{checkpoint}, [A-Z].*$"):
        make_run(tmp_path).begin_or_resume()
    assert checkpoint.read_bytes() == before and pixels(tmp_path) == old
    checkpoint.rename(tmp_path / "away.npz")
    make_run(tmp_path).begin_or_resume()
    assert pixels(tmp_path / "earlier_1") == old


def fail_at(monkeypatch, function, n, error):
    """Let the n-th call of a function of os raise an error."""
    real, calls = getattr(script.os, function), []

    def failing(*args):
        calls.append(1)
        if len(calls) == n:
            raise error
        return real(*args)

    monkeypatch.setattr(script.os, function, failing)
    return calls


def test_a_fault_at_any_write_leaves_what_was_there(tmp_path, monkeypatch):
    def whole(folder):
        a_run = make_run(folder)
        a_run.begin_or_resume()
        while a_run.epoch < 3:
            advance(a_run)

    whole(tmp_path / "whole")
    pictures, faults = pixels(tmp_path / "whole"), 0
    for n in itertools.count(1):  # of the writes, of images and checkpoints
        folder = tmp_path / str(n)
        with monkeypatch.context() as patch:
            calls = fail_at(patch, "replace", n, OSError(28, "No space left on device"))
            try:
                whole(folder)
            except OSError as error:
                assert "cannot be written: No space left on device" in str(error) and "OUTPUT_PATH" in str(error)
                assert "\n" not in str(error)
        before = pixels(folder) if folder.exists() else {}
        assert all(pictures[name] == picture for name, picture in before.items())
        if len(calls) < n:
            break
        faults += 1
        whole(folder)
        assert pixels(folder) == pictures and not list(folder.glob(".*.tmp"))
    assert faults == 8  # four images, four checkpoints


# The screen


def test_a_user_s_own_images_are_not_lost(tmp_path):
    """Only images that a run wrote are moved. One of such a name that is not of a run stops the run before work."""
    make_run(tmp_path).begin_or_resume()
    (tmp_path / "checkpoint.npz").unlink()
    for name in ("image_1.png", "image_final.png", "image_00000 copy.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    old = (tmp_path / "image_00000.png").read_bytes()
    make_run(tmp_path).begin_or_resume()
    assert [path.name for path in (tmp_path / "earlier_1").iterdir()] == ["image_00000.png"]
    assert (tmp_path / "earlier_1/image_00000.png").read_bytes() == old

    for name in ("image_00250.png", "IMAGE_00250.PNG"):  # the same name for Windows and a Mac
        Image.new("RGB", (4, 4), "red").save(tmp_path / name)
        before = {path: path.read_bytes() for path in tmp_path.glob("*.*")}
        for other in ({}, {"SEED": 5}):  # a run that goes on, and one that starts anew
            with pytest.raises(ValueError, match=rf"OUTPUT_PATH.*{name}"):
                make_run(tmp_path, **other).begin_or_resume()
        assert {path: path.read_bytes() for path in tmp_path.glob("*.*")} == before
        assert not (tmp_path / "earlier_2").exists()
        (tmp_path / name).unlink()
    make_run(tmp_path).begin_or_resume()


def test_an_image_held_for_a_moment_is_set_aside(tmp_path, monkeypatch):
    make_run(tmp_path).begin_or_resume()
    fail_at(monkeypatch, "replace", 1, PermissionError(13, "Access is denied"))
    script.set_aside(tmp_path)
    assert {path.name for path in (tmp_path / "earlier_1").iterdir()} == {"checkpoint.npz", "image_00000.png"}


HOLD = """
import sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import script
with script.hold_folder(Path(sys.argv[2])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_run_is_kept_out_of_a_folder_until_the_first_has_ended(tmp_path):
    with script.hold_folder(tmp_path / "a"):
        with (pytest.raises(OSError, match="is held by another run.*database is locked.*OUTPUT_PATH"),
              script.hold_folder(tmp_path / "a")):  # fmt: skip
            pytest.fail("two runs hold one folder")
        with script.hold_folder(tmp_path / "b"):
            pass
        with pytest.raises(OSError, match="/a is held by"), script.hold_folder(tmp_path / "a" / "coarse_300"):
            pytest.fail("a second run has the first sizes of the first one")
    with script.hold_folder(tmp_path / "a"):
        pass


def test_a_killed_run_lets_go_of_its_folder(small_encoding_model, imgs, tmp_path):
    process = start_python(tmp_path, "-c", HOLD, ROOT, tmp_path / "a")
    try:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(OSError, match="is held by another run.*database is locked"):
            run(small_encoding_model, imgs, tmp_path / "a")
        assert not list((tmp_path / "a").glob("[!.]*"))
    finally:
        process.kill()
        process.communicate()
    run(small_encoding_model, imgs, tmp_path / "a")
    assert len(pixels(tmp_path / "a")) == 4


class Clock:
    """Stands still until it is told to go on."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(script.time, "monotonic", lambda: self.now)


def test_what_a_killed_run_left_half_written_is_written_over(tmp_path):
    (tmp_path / ".image_00000.png.tmp").write_text("half")
    make_run(tmp_path).begin_or_resume()
    assert [path.name for path in tmp_path.glob("*image*")] == ["image_00000.png"]


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), MemoryError()])
def test_a_checkpoint_that_may_be_whole_is_left_in_place(tmp_path, monkeypatch, error):
    first = make_run(tmp_path)
    first.begin_or_resume()

    def fail(path):
        raise error

    monkeypatch.setattr(script.np, "load", fail)
    with pytest.raises(ValueError, match=type(error).__name__):
        make_run(tmp_path).begin_or_resume()
    assert first.checkpoint.exists()


def show_epochs(clock, seconds, epochs, first=0, saved=(), hint="; try this", count=9):
    progress = script.Progress(first, epochs, hint, later_work=0)
    for epoch in range(first + 1, first + count + 1):
        clock.now += seconds if epoch > first + 1 else 60  # the first one compiles
        progress.show(epoch, COSTS, f"image_{epoch}.png" if epoch in saved else None)
    return progress


def test_redirected_a_run_says_early_how_long_it_takes_and_then_each_saved_image(monkeypatch, capsys):
    progress = show_epochs(Clock(monkeypatch), 2.0, 25, saved=(7,))
    early, line = capsys.readouterr().out.splitlines()
    assert early == "What is left will take about 0:00:40"
    assert line == "epoch 7/25: cost 4, style cost 0.5, content cost 0.25, 0:00:36 left, image_7.png"
    assert progress.time_left(9) == datetime.timedelta(seconds=32)


@pytest.mark.parametrize(("epochs", "hours", "hinted"), [(25_005, "6:56:40", True), (1_805, "0:30:00", False),
                                                         (1_806, "0:30:01", True)])  # fmt: skip
def test_hours_are_hours_and_more_than_half_an_hour_has_a_hint(monkeypatch, capsys, epochs, hours, hinted):
    show_epochs(Clock(monkeypatch), 1.0, epochs)
    assert capsys.readouterr().out == f"What is left will take about {hours}{'; try this' * hinted}\n"


def test_the_first_epoch_counts_while_it_is_the_only_one(monkeypatch, capsys):
    show_epochs(Clock(monkeypatch), 2.0, 3, saved=(1, 2), count=2)
    assert [line.split(", ")[3] for line in capsys.readouterr().out.splitlines()] == ["0:02:00 left", "0:00:02 left"]


@pytest.mark.parametrize("epochs", [4, 5])
def test_a_run_of_five_epochs_needs_no_forecast(monkeypatch, capsys, epochs):
    show_epochs(Clock(monkeypatch), 2.0, epochs, count=epochs)
    assert capsys.readouterr().out == ""


def test_the_larger_sizes_that_follow_count_as_their_work(monkeypatch, capsys):
    clock = Clock(monkeypatch)
    progress = script.Progress(0, 100, "", later_work=240 + 576)  # 60 epochs at twice the size, 36 at four times
    for epoch in range(1, 6):
        clock.now += 1.0
        progress.show(epoch, COSTS, None)
    assert capsys.readouterr().out == "What is left will take about 0:15:11\n"


def test_of_a_run_that_goes_on_only_the_rest_counts(monkeypatch, capsys):
    show_epochs(Clock(monkeypatch), 3.0, 40, first=20, saved=(27,))
    assert "What is left will take about 0:00:45" in capsys.readouterr().out


def test_a_notebook_sees_one_picture_that_grows(monkeypatch):
    shown = []

    class Handle:
        def update(self, picture):
            shown.append(picture)

    def display(display_id):
        shown.append("display")
        return Handle()

    progress = script.Progress(0, 3, "", 0)
    progress.draw(np.zeros((1, 4, 6, 3)))  # nobody watches
    assert not shown
    modules = {"IPython.display": types.SimpleNamespace(display=display)}
    modules["IPython"] = types.SimpleNamespace(display=modules["IPython.display"])
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(script, "IN_NOTEBOOK", True)
    progress = script.Progress(0, 3, "", 0)
    for level in (0.0, 0.2, 1.0):
        progress.draw(tf.Variable(np.full((1, 4, 6, 3), level)))
    assert shown[0] == "display" and len(shown) == 4
    assert [picture.getpixel((5, 3)) for picture in shown[1:]] == [(0, 0, 0), (51, 51, 51), (255, 255, 255)]


def test_a_terminal_sees_a_bar_with_the_costs(monkeypatch, capsys):
    monkeypatch.setattr(script, "is_interactive", lambda: True)
    clock = Clock(monkeypatch)
    monkeypatch.setattr("time.time", lambda: clock.now)  # Keras' bar has its own clock
    show_epochs(clock, 1.0, 9, saved=(7,))
    bar = capsys.readouterr().out
    assert "\r" in bar and "9/9" in bar and "about 0:00:04" in bar and "image_7" not in bar
    assert all(f"{name}: {value:.4f}" in bar for name, value in zip(script.COSTS, COSTS, strict=True))


def test_costs_are_fetched_only_where_they_are_shown(monkeypatch):
    clock, fetched = Clock(monkeypatch), []

    class Cost:
        def __float__(self):
            fetched.append(1)
            return 1.0

    progress = script.Progress(0, 1000, "", 0)
    for epoch in range(1, 900):
        clock.now += 0.01
        progress.show(epoch, (Cost(),) * 3, None)
    assert len(fetched) == 2  # after the first epoch and for the forecast


@pytest.mark.parametrize("error", [OSError(), ValueError(), UnicodeEncodeError("ascii", "ü", 0, 1, "")])
def test_a_line_that_cannot_be_printed_does_not_silence_the_next(monkeypatch, capsys, error):
    def fail(*args, **kwargs):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("builtins.print", fail)
        script.say("lost")
    script.say("seen")
    assert capsys.readouterr().out == "seen\n"


# The loop


@pytest.mark.parametrize(("epochs", "save_every"), [
    *((epochs, None) for epochs in (1, 2, 7, 99, 101, 333)), (2, 3), (3, 3), (7, 3), (333, 3), (7, 1000), (2345, 1000),
])  # fmt: skip
def test_saved_are_the_start_every_save_every_th_and_the_last(
    small_encoding_model, imgs, tmp_path, monkeypatch, capsys, epochs, save_every
):
    saved, zero = [], tf.constant(0.0)
    monkeypatch.setattr(script, "save_image", lambda img, path, text: saved.append(path.name))
    monkeypatch.setattr(script, "transfer_style_step", lambda *args, **settings: (zero, zero, zero))
    history, _ = run(small_encoding_model, imgs, tmp_path, epochs=epochs, save_every=save_every)
    interval = save_every or max(1, epochs // 100)
    expected = sorted({*range(0, epochs + 1, interval), epochs})
    assert sorted(set(saved)) == [f"image_{epoch:05}.png" for epoch in expected] and history["epoch"] == expected[1:]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(expected) + (epochs > 5)  # an image but the start each, one early, one at the end


def test_a_second_run_is_independent_of_the_first(small_encoding_model, imgs, tmp_path):
    alone = run(small_encoding_model, imgs, tmp_path / "a", learn_rate=0.01)
    run(small_encoding_model, imgs, tmp_path / "b", learn_rate=0.05, style_weight=1.0)
    again = run(small_encoding_model, imgs, tmp_path / "c", learn_rate=0.01)
    assert alone[0] == again[0]
    np.testing.assert_array_equal(alone[1], again[1])
    assert pixels(tmp_path / "a") == pixels(tmp_path / "c") and len(pixels(tmp_path / "a")) == 4


@pytest.mark.parametrize("schedule", ["constant", "one-cycle"])
def test_a_run_leaves_no_gradient_in_tensorflows_registry(small_encoding_model, imgs, tmp_path, schedule):
    """It would hold the graph and the weights for good, and a notebook's loop would run out of memory."""
    counts = []
    for n in range(3):
        run(small_encoding_model, imgs, tmp_path / str(n), schedule=schedule)
        counts.append(count_gradients())
    assert counts[1] == counts[2]


@pytest.fixture(scope="module", params=["constant", "one-cycle"])
def whole_run(request, small_encoding_model, imgs, tmp_path_factory):
    """Settings of a run of 6 epochs, its pictures, its history."""
    settings = {"schedule": request.param, "epochs": 6, "save_every": 1}
    folder = tmp_path_factory.mktemp("whole")
    history, _ = run(small_encoding_model, imgs, folder, **settings)
    return settings, pixels(folder), history


def signal_after(monkeypatch, name, signum=signal.SIGTERM):
    """Let a signal come while the image of this name is saved for the first time."""
    save, come = script.save_image, []

    def interrupted_save(img, path, text):
        save(img, path, text)
        if path.name == name and not come:
            come.append(1)
            signal.raise_signal(signum)

    monkeypatch.setattr(script, "save_image", interrupted_save)


def test_a_run_that_was_stopped_goes_on_to_the_same_pictures(
    whole_run, small_encoding_model, imgs, tmp_path, monkeypatch
):
    settings, pictures, history = whole_run
    handler = signal.getsignal(signal.SIGTERM)
    for stop in ("image_00001.png", "image_00004.png"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt, match="goes on") as stopped:
            signal_after(patch, stop)
            run(small_encoding_model, imgs, tmp_path, **settings)
        assert stop in str(stopped.value)
        assert signal.getsignal(signal.SIGTERM) is handler
    assert set(pixels(tmp_path)) < set(pictures)
    again, _ = run(small_encoding_model, imgs, tmp_path, **settings)
    assert again == history and pixels(tmp_path) == pictures


def test_a_signal_between_saved_images_saves_one_and_does_not_change_where_a_run_ends(
    small_encoding_model, imgs, tmp_path, monkeypatch
):
    settings = {"epochs": 20, "save_every": 10}
    history, _ = run(small_encoding_model, imgs, tmp_path / "whole", **settings)
    show = script.Progress.show

    def interrupting_show(self, epoch, *args):
        show(self, epoch, *args)
        if epoch == 13:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt, match="epoch 13: .*image_00013.png"):
        patch.setattr(script.Progress, "show", interrupting_show)
        run(small_encoding_model, imgs, tmp_path / "stopped", **settings)
    assert sorted(pixels(tmp_path / "stopped")) == ["image_00000.png", "image_00010.png", "image_00013.png"]
    again, _ = run(small_encoding_model, imgs, tmp_path / "stopped", **settings)
    assert again == history


def test_a_run_leaves_its_process_as_it_was(small_encoding_model, imgs, tmp_path):
    def state():
        return os.fstat(2).st_ino, warnings.filters[:], Image.MAX_IMAGE_PIXELS, socket.getdefaulttimeout(), os.getcwd()

    before = state()
    run(small_encoding_model, imgs, tmp_path)
    assert state() == before


@pytest.mark.parametrize("schedule", ["constant", "one-cycle"])
def test_a_run_works_where_functions_run_eagerly(small_encoding_model, imgs, tmp_path, schedule):
    _, expected = run(small_encoding_model, imgs, tmp_path / "a", schedule=schedule)
    tf.config.run_functions_eagerly(True)
    try:
        _, picture = run(small_encoding_model, imgs, tmp_path / "b", schedule=schedule)
    finally:
        tf.config.run_functions_eagerly(False)
    assert np.abs(picture - expected).mean() < 1e-3


def test_a_loop_s_cell_run_again_names_the_start(small_encoding_model, imgs, tmp_path, capsys):
    generated = script.initialize_generated_image(imgs[0])
    for _ in range(2):
        script.transfer_style_loop(generated, imgs[0], [imgs[1]], small_encoding_model, LAYERS, epochs=1,
                                   output_path=tmp_path)  # fmt: skip
    assert "another value of the start image\n" in capsys.readouterr().out


def test_a_run_in_a_thread_leaves_signals_alone(whole_run, small_encoding_model, imgs, tmp_path):
    settings, pictures, _ = whole_run
    handler = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=run, args=(small_encoding_model, imgs, tmp_path), kwargs=settings)
    thread.start()
    thread.join()
    assert pixels(tmp_path) == pictures and signal.getsignal(signal.SIGINT) is handler


def test_a_finished_run_is_not_painted_again(whole_run, small_encoding_model, imgs, tmp_path, capsys):
    settings, pictures, history = whole_run
    run(small_encoding_model, imgs, tmp_path, **settings)
    (tmp_path / "image_00006.png").unlink()
    capsys.readouterr()
    again, picture = run(small_encoding_model, imgs, tmp_path, **settings)
    assert "Going on after epoch 6" in capsys.readouterr().out and again == history and pixels(tmp_path) == pictures
    assert np.uint8(np.round(picture * 255)).tobytes() == pictures["image_00006.png"]


def test_more_epochs_prolong_a_run_of_constant_rate_alone(whole_run, small_encoding_model, imgs, tmp_path, capsys):
    settings, pictures, _ = whole_run
    run(small_encoding_model, imgs, tmp_path, **settings | {"epochs": 4})
    run(small_encoding_model, imgs, tmp_path, **settings)
    out = capsys.readouterr().out
    assert pixels(tmp_path) == pictures
    assert ("Going on after epoch 4" in out) == (settings["schedule"] == "constant")
    assert ("another value of EPOCHS" in out) == (settings["schedule"] == "one-cycle")


def test_without_the_optimizers_state_the_picture_is_another(
    whole_run, small_encoding_model, imgs, tmp_path, monkeypatch
):
    """The control: what resumes from the image alone is found out."""
    settings, pictures, _ = whole_run
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        signal_after(patch, "image_00004.png")
        run(small_encoding_model, imgs, tmp_path, **settings)
    load = script.load_checkpoint

    def forget(path):
        record, (img, *state) = load(path)
        return record, [img, *(np.zeros_like(array) for array in state)]

    monkeypatch.setattr(script, "load_checkpoint", forget)
    run(small_encoding_model, imgs, tmp_path, **settings)
    assert pixels(tmp_path)["image_00006.png"] != pictures["image_00006.png"]


@pytest.mark.parametrize(("changed", "named"), [
    ({"learn_rate": 0.03}, "LEARN_RATE"), ({"tv_weight": 41.0}, "TV_WEIGHT"),
    ({"content_weight": 1.0}, "CONTENT_WEIGHT"),
    ({"style_weight": 1.0}, "STYLE_WEIGHT"), ({"schedule": "one-cycle"}, "SCHEDULE, EPOCHS"),
    ({"encoding_layers": [("block1_conv1", 0.3), ("block1_conv2", 1.0)]}, "ENCODING_LAYERS"),
])  # fmt: skip
def test_the_loop_names_the_setting_that_changed(small_encoding_model, imgs, tmp_path, capsys, changed, named):
    run(small_encoding_model, imgs, tmp_path, epochs=1)
    run(small_encoding_model, imgs, tmp_path, epochs=1, **changed)
    assert f"another value of {named}\n" in capsys.readouterr().out


@pytest.mark.parametrize(("changed", "named"), [
    ({"content_weight": 0, "style_weight": 0}, "CONTENT_WEIGHT or STYLE_WEIGHT"),
    ({"content_weight": 0.0, "style_weight": -0.0}, "CONTENT_WEIGHT or STYLE_WEIGHT"),
    ({"encoding_layers": [("block1_conv1", 1.0), ("block1_conv2", 0.0)]}, "For no content .* CONTENT_WEIGHT"),
    ({"encoding_layers": [("block1_conv1", 0), ("block1_conv2", 1)]}, "Leave out a style layer"),
    ({"content_img": np.ones((32, 32, 3), np.float32)}, r"content_img must .*\[None\] / 255"),
    ({"style_imgs": np.ones((1, 32, 32, 3), np.float32)}, r"each of style_imgs must .*shape \(32, 32, 3\)"),
    ({"style_imgs": [np.full((1, 32, 32, 3), 200.0)]}, "style_imgs must .*/ 255"),
    ({"content_img": np.ones((1, 40, 32, 3), np.float32)}, r"generated_img must .*\(40, 32\).*\(1, 32, 32, 3\)"),
    ({"mask": np.full((1, 32, 32, 1), 255.0)}, "mask must .*/ 255"), ({"mask": np.ones((32, 32))}, "mask must"),
    ({"mask": np.ones((1, 16, 32, 1))}, r"mask must .*\(32, 32\)"),
    ({"epochs": 0}, "EPOCHS"), ({"schedule": "cosine"}, "SCHEDULE"), ({"tv_weight": np.nan}, "TV_WEIGHT"),
    *(({"encoding_layers": layers}, "ENCODING_LAYERS") for layers in (
        ["block1_conv1", "block1_conv2"], [("block1_conv1", 1.0)], [("block1_pool", 1.0), ("block1_conv2", 1.0)],
        [("block1_conv1", "1"), ("block1_conv2", 1.0)], [("block1_conv1", np.nan), ("block1_conv2", 1.0)])),
])  # fmt: skip
def test_the_loop_refuses_what_cannot_be_painted_before_it_writes(small_encoding_model, imgs, tmp_path, changed, named):
    given = {"content_img": imgs[0], "style_imgs": [imgs[1]], "encoding_layers": LAYERS, "output_path": tmp_path}
    with pytest.raises(ValueError, match=named) as caught:
        script.transfer_style_loop(tf.Variable(imgs[0]), encoding_model=small_encoding_model, **given | changed)
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("start", [
    tf.fill((1, 32, 32, 3), 200.0), tf.fill((1, 32, 32, 3), np.nan), tf.zeros((32, 32, 3)), tf.zeros((1, 32, 40, 3)),
])  # fmt: skip
def test_the_loop_refuses_a_start_that_is_no_picture(small_encoding_model, imgs, tmp_path, start):
    with pytest.raises(ValueError, match="generated_img must"):
        script.transfer_style_loop(tf.Variable(start), imgs[0], [imgs[1]], small_encoding_model, LAYERS, epochs=1,
                                   output_path=tmp_path)  # fmt: skip


@pytest.mark.parametrize("kind", [np.asarray, tf.constant])
def test_the_loop_refuses_a_start_that_cannot_become_the_picture(small_encoding_model, imgs, tmp_path, kind):
    with pytest.raises(ValueError, match="^generated_img must be a tf.Variable.*$"):
        script.transfer_style_loop(kind(imgs[0]), imgs[0], [imgs[1]], small_encoding_model, LAYERS, epochs=1,
                                   output_path=tmp_path / "out")  # fmt: skip
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("where", ["image", "gradient", "learning rate"])
def test_a_picture_that_becomes_nan_ends_the_run(small_encoding_model, imgs, tmp_path, monkeypatch, where):
    """In graph mode, where convolutions turn NaN into 0 and the cost may stay finite."""
    step, nan = script.transfer_style_step, tf.constant(np.nan)

    def poisoned(generated_img, encoding_model, grams, content, optimizer, *settings):
        late = optimizer.iterations >= 2
        if where == "learning rate":
            optimizer._learning_rate = lambda: tf.where(late, nan, 0.02)
        if where == "gradient":
            update = optimizer.update_step
            optimizer.update_step = lambda g, *rest: update(tf.where(late, nan, g), *rest)
        costs = step(generated_img, encoding_model, grams, content, optimizer, *settings)
        if where == "image":
            pixel = tf.one_hot([17], 32 * 32 * 3, on_value=tf.where(late, nan, 0.0))
            generated_img.assign_add(tf.reshape(pixel, generated_img.shape))
        return costs

    monkeypatch.setattr(script, "transfer_style_step", poisoned)
    with pytest.raises(FloatingPointError, match=rf"after epoch 3.*LEARN_RATE.*{tmp_path} are from before"):
        run(small_encoding_model, imgs, tmp_path, epochs=6, save_every=1)
    assert set(pixels(tmp_path)) == {f"image_{epoch:05}.png" for epoch in range(3)}
    record, arrays = script.load_checkpoint(tmp_path / "checkpoint.npz")
    assert record["epoch"] <= 2 and all(np.isfinite(array).all() for array in arrays)


def test_the_last_line_names_the_picture(small_encoding_model, imgs, tmp_path, capsys):
    run(small_encoding_model, imgs, tmp_path, epochs=3)
    assert capsys.readouterr().out.splitlines()[-1] == f"Done: {tmp_path}/image_00003.png"
