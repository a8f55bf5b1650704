"""Runs: the folder, the checkpoint, the screen and the loop. What needs a network takes two layers of it."""

import itertools
import json
import os
import sys
import threading
import types
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from conftest import LAYERS, ROOT, count_gradients, pixels, run, start_python, stop_at
from PIL import Image

import script

COSTS = {"cost": 4.0, "style_cost": 0.5, "content_cost": 0.25}


# The folder


def make_run(folder, epochs=9, **description):
    variables = [tf.Variable(tf.fill((1, 4, 4, 3), 0.5)), tf.Variable([1.0, 2.0])]
    fingerprints = {"LEARN_RATE": 0.1} | description
    return script.Run(script.find_folder(folder, fingerprints, epochs), variables, fingerprints)


def begin(a_run):
    """Do what the loop does before its epochs; returns the run."""
    a_run.folder.mkdir(parents=True, exist_ok=True)
    a_run.resume()
    a_run.save_checkpoint()
    if a_run.epoch == 0:
        a_run.save_epoch(a_run.variables[0])
    return a_run


def advance(a_run, epochs=1):
    """Do what the loop does in epochs that are saved; returns the run."""
    for _ in range(epochs):
        a_run.epoch += 1
        a_run.variables[0].assign_add(tf.fill((1, 4, 4, 3), 0.01))
        a_run.variables[1].assign_add([1.0, 0.5])
        a_run.save_epoch(a_run.variables[0], COSTS)
    a_run.save_checkpoint()
    return a_run


def test_a_run_goes_on_from_its_checkpoint(tmp_path):
    first = advance(begin(make_run(tmp_path)), 3)
    second = begin(make_run(tmp_path))
    assert second.epoch == 3 and second.history == first.history
    expected = {"epoch": [1, 2, 3], "cost": [4.0] * 3, "style_cost": [0.5] * 3, "content_cost": [0.25] * 3}
    assert second.history == expected
    for ours, theirs in zip(second.variables, first.variables, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name[0] != ".") == [
        "checkpoint.npz", *(f"image_0000{epoch}.png" for epoch in range(4)),
    ]  # fmt: skip


def read_files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("changed", "epochs", "named"), [
    pytest.param({"LEARN_RATE": 0.2}, 9, "LEARN_RATE", id="another value"),
    pytest.param({}, 2, "epochs", id="fewer epochs"),
])  # fmt: skip
def test_another_run_has_a_folder_of_its_own_and_each_goes_on(tmp_path, capsys, changed, epochs, named):
    history = advance(begin(make_run(tmp_path)), 3).history
    old = read_files(tmp_path)
    second = advance(begin(make_run(tmp_path, epochs, **changed)))
    reason = f"because {tmp_path} has a run with another value of {named}\n"
    assert f"Painting in {tmp_path}/run_2, {reason}" in capsys.readouterr().out
    assert second.folder == tmp_path / "run_2" and list(pixels(second.folder)) == [f"image_0000{n}.png" for n in (0, 1)]
    third = begin(make_run(tmp_path, SEED=5))
    assert third.folder == tmp_path / "run_3"
    assert f"because {tmp_path} has a run with another value of SEED\n" in capsys.readouterr().out  # the first run
    assert read_files(tmp_path).items() >= old.items()
    assert begin(make_run(tmp_path)).history == history
    assert begin(make_run(tmp_path, epochs, **changed)).history == second.history
    assert not (tmp_path / "run_4").exists() and "Painting in" not in capsys.readouterr().out


def test_a_run_goes_on_where_it_lies_though_a_folder_before_it_became_free(tmp_path):
    begin(make_run(tmp_path))
    second = advance(begin(make_run(tmp_path, SEED=2)))
    begin(make_run(tmp_path, SEED=3))
    for folder in (tmp_path, tmp_path / "run_2"):
        for name in ("checkpoint.npz", "image_00000.png"):
            (folder / name).rename(tmp_path.parent / name)
        if folder == tmp_path:
            assert begin(make_run(tmp_path, SEED=2)).history == second.history
    assert make_run(tmp_path, SEED=3).folder == tmp_path / "run_3"
    assert make_run(tmp_path, SEED=4).folder == tmp_path


def test_a_checkpoint_that_changes_after_the_folder_was_found_is_not_written_over(tmp_path):
    advance(begin(make_run(tmp_path)))
    again, other = make_run(tmp_path), make_run(tmp_path / "other", SEED=2)
    os.replace(begin(other).checkpoint, again.checkpoint)
    before = read_files(tmp_path)
    with pytest.raises(OSError, match=r"checkpoint.npz has changed .* Run the same command again"):
        begin(again)
    assert read_files(tmp_path) == before


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_picture_that_is_nan_is_neither_saved_nor_kept(tmp_path, value):
    a_run = advance(begin(make_run(tmp_path)), 2)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    a_run.epoch += 1
    a_run.variables[0][0, 1, 2, 0].assign(value)
    for save in (lambda: a_run.save_epoch(a_run.variables[0]), a_run.save_checkpoint):
        with pytest.raises(FloatingPointError, match=rf"after epoch 3.*LEARN_RATE.*{tmp_path} are from before"):
            save()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_checkpoint_holds_the_picture_and_adams_two_moments(small_encoding_model, imgs, tmp_path):
    """At most five times the picture's own floats, whatever the schedule."""
    floats = 1024 * 3 * 4  # bytes
    for schedule in ("constant", "cosine"):
        run(small_encoding_model, imgs, tmp_path / schedule, schedule=schedule)
        assert 3 * floats < (tmp_path / schedule / "checkpoint.npz").stat().st_size < 5 * floats


def test_checkpoints_are_written_by_the_clock(small_encoding_model, imgs, tmp_path, monkeypatch):
    clock, kept, save = [0.0], [], script.Run.save_checkpoint

    def step(*args, **settings):
        clock[0] += 2
        return {"cost": tf.constant(0.0)}

    monkeypatch.setattr(script.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(script.Run, "save_checkpoint", lambda self: kept.append(self.epoch) or save(self))
    monkeypatch.setattr(script, "compile_step", lambda *args, **settings: step)
    run(small_encoding_model, imgs, tmp_path, epochs=20)
    assert kept == [0, 3, 6, 9, 12, 15, 18, 20]


@pytest.mark.parametrize("kind", ["a flipped bit", "cut short", "a pickle", "a list", "a number"])
def test_a_damaged_checkpoint_and_one_of_another_program_stay_as_they_are(tmp_path, capsys, kind):
    checkpoint = advance(begin(make_run(tmp_path))).checkpoint
    data = bytearray(checkpoint.read_bytes())
    data[data.index(b"NUMPY") + 150] ^= 1
    if kind == "a flipped bit":
        checkpoint.write_bytes(data)
    elif kind == "cut short":
        checkpoint.write_bytes(data[: len(data) // 2])
    elif kind == "a pickle":
        checkpoint.write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    else:
        np.savez(checkpoint, {"a list": "[[1, 2]]", "a number": 5}[kind])
    before = read_files(tmp_path)
    second = begin(make_run(tmp_path))
    reason = f"because {tmp_path} has images of another program or a checkpoint that cannot be read\n"
    assert f"Painting in {tmp_path}/run_2, {reason}" in capsys.readouterr().out
    assert second.epoch == 0 and read_files(tmp_path).items() >= before.items()


def test_a_checkpoint_that_cannot_be_read_now_is_gone_on_from_later(tmp_path):
    old = advance(begin(make_run(tmp_path))).history
    with mock.patch.object(script.np, "load", side_effect=PermissionError(13, "Permission denied")):
        assert advance(begin(make_run(tmp_path)), 2).folder == tmp_path / "run_2"
    assert begin(make_run(tmp_path)).history == old


def test_a_fault_at_any_write_leaves_what_was_there(tmp_path):
    def whole(folder):
        a_run = begin(make_run(folder))
        while a_run.epoch < 3:
            advance(a_run)

    whole(tmp_path / "whole")
    pictures, faults = pixels(tmp_path / "whole"), 0
    for n in itertools.count(1):  # of the writes, of images and checkpoints
        folder = tmp_path / str(n)
        with mock.patch.object(script.os, "replace", wraps=script.os.replace) as replace:
            replace.side_effect = [*[mock.DEFAULT] * (n - 1), OSError(28, "No space left on device")]
            try:
                whole(folder)
            except OSError as error:
                assert "cannot be written: No space left on device" in str(error) and "OUTPUT_PATH" in str(error)
                assert "\n" not in str(error)
        before = pixels(folder) if folder.exists() else {}
        for name, picture in before.items():
            assert pictures[name] == picture
        if replace.call_count < n:
            break
        faults += 1
        whole(folder)
        assert pixels(folder) == pictures and not list(folder.glob(".*.tmp"))
    assert faults == 8  # four images, four checkpoints


USERS_OWN = {  # what a run could write over, and how it is made
    "a picture": ("image_00250.png", lambda path: Image.new("RGB", (4, 4), "red").save(path)),
    "a picture with the same name for Windows and a Mac": ("IMAGE_100000.PNG", lambda path: path.touch()),
    "a checkpoint": ("checkpoint.npz", lambda path: path.touch()),
    "a folder": ("image_00250.png", lambda path: path.mkdir()),
    "a pipe": ("image_00250.png", lambda path: os.mkfifo(path)),
    "a link to nowhere": ("image_00250.png", lambda path: path.symlink_to("nowhere")),
}


@pytest.mark.parametrize(("name", "make"), USERS_OWN.values(), ids=USERS_OWN)
def test_what_a_run_could_write_over_stays_as_it_is(tmp_path, name, make):
    make(tmp_path / name)
    before = (tmp_path / name).lstat()
    assert begin(make_run(tmp_path)).folder == tmp_path / "run_2"
    assert sorted(path.name for path in tmp_path.iterdir()) == [name, "run_2"]
    after = (tmp_path / name).lstat()
    assert (after.st_ino, after.st_size, after.st_mtime) == (before.st_ino, before.st_size, before.st_mtime)


def test_files_of_other_names_are_no_hindrance(tmp_path):
    for name in ("image_1.png", "image_final.png", "image_00000 copy.png", "image_00000.png.bak", "README.md"):
        (tmp_path / name).touch()
    assert begin(make_run(tmp_path)).folder == tmp_path


HOLD = """
import sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import script
with script.hold_folder(Path(sys.argv[2])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_another_run_paints_while_its_neighbour_is_held(small_encoding_model, imgs, tmp_path):
    run(small_encoding_model, imgs, tmp_path)
    old = read_files(tmp_path)
    with script.hold_folder(tmp_path):
        with pytest.raises(OSError, match="is held by another run"):
            run(small_encoding_model, imgs, tmp_path)
        run(small_encoding_model, imgs, tmp_path, learn_rate=0.03)
    assert read_files(tmp_path).items() >= old.items() and len(pixels(tmp_path / "run_2")) == 4


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


# The screen


class Clock:
    """Stands still until it is told to go on."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(script.time, "monotonic", lambda: self.now)


def show_epochs(clock, seconds, epochs, done=0, later_epochs=0, saved=()):
    """Nine epochs."""
    progress = script.Progress(done, epochs, later_epochs)
    for epoch in range(done + 1, done + 10):
        clock.now += seconds if epoch > done + 1 else 60  # the first one compiles
        progress.show(epoch, COSTS, f"image_{epoch}.png" if epoch in saved else None)


def test_redirected_a_run_has_a_line_for_each_saved_image_and_the_first_one_tells_no_time(monkeypatch, capsys):
    show_epochs(Clock(monkeypatch), 2.0, 25, saved=(1, 2, 7))
    assert capsys.readouterr().out.splitlines() == [
        "epoch 1/25: cost 4, style 0.5, content 0.25, image_1.png",
        "epoch 2/25: 0:00:46 left, cost 4, style 0.5, content 0.25, image_2.png",
        "epoch 7/25: 0:00:36 left, cost 4, style 0.5, content 0.25, image_7.png",
    ]  # fmt: skip


@pytest.mark.parametrize(("settings", "shown"), [
    pytest.param({"seconds": 1.0, "epochs": 25_005}, "epoch 5/25005: 6:56:40 left, ", id="hours"),
    pytest.param({"seconds": 3.0, "epochs": 40, "done": 20}, "epoch 25/40: 0:00:45 left, ", id="a run that goes on"),
    # 60 epochs at twice the size, 36 at four times
    pytest.param({"seconds": 1.0, "epochs": 100, "later_epochs": 240 + 576}, "epoch 5/100: 0:15:11 left, ",
                 id="larger sizes that follow"),
])  # fmt: skip
def test_the_time_left_is_that_of_the_epochs_to_come(monkeypatch, capsys, settings, shown):
    show_epochs(Clock(monkeypatch), **settings, saved=(5, 25))
    assert capsys.readouterr().out.startswith(shown)


def test_a_notebook_sees_one_picture_that_grows(monkeypatch):
    shown = []
    handle = types.SimpleNamespace(update=shown.append)
    progress = script.Progress(0, 3)
    progress.draw(np.zeros((1, 4, 6, 3)))  # nobody watches
    assert not shown
    display = types.SimpleNamespace(display=lambda display_id: shown.append("display") or handle)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(display=display))
    monkeypatch.setattr(script, "IN_IPYTHON", True)
    progress = script.Progress(0, 3)
    for level in (0.0, 0.2, 1.0):
        progress.draw(tf.Variable(np.full((1, 4, 6, 3), level)))
    assert shown[0] == "display" and len(shown) == 4
    assert [picture.getpixel((5, 3)) for picture in shown[1:]] == [(0, 0, 0), (51, 51, 51), (255, 255, 255)]


@pytest.mark.parametrize("width", [80, 50])
def test_a_terminal_sees_one_row_that_fits(monkeypatch, capsys, width):
    monkeypatch.setattr(script, "is_interactive", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))
    show_epochs(Clock(monkeypatch), 1.0, 9, saved=(7,))
    before, *rows = capsys.readouterr().out.split("\r")
    assert before == "" and len(rows) == 9
    for epoch, row in enumerate(rows, 1):
        assert row.startswith(f"epoch {epoch}/9: ") and "cost 4, style 0.5" in row
        assert len(row.removesuffix("\n")) == width - 1
        assert row.endswith("\n") == (epoch == 9)


def test_a_line_that_cannot_be_printed_does_not_silence_the_next(capsys):
    for error in (OSError("a full disk"), ValueError("a closed stream")):
        with mock.patch("builtins.print", side_effect=error):
            script.say("lost")
    script.say("seen")
    assert capsys.readouterr().out == "seen\n"


# The loop


@pytest.fixture
def without_steps(monkeypatch):
    """Epochs take no time and leave the picture as it is."""

    def step(*args, **settings):
        return {"cost": tf.constant(0.0)}

    monkeypatch.setattr(script, "transfer_style_step", step)


@pytest.mark.parametrize(("epochs", "save_every", "expected"), [
    pytest.param(1, None, [0, 1], id="one epoch"), pytest.param(7, 3, [0, 3, 6, 7], id="each third"),
    pytest.param(7, 1000, [0, 7], id="more than all"), pytest.param(100, None, range(101), id="all of a hundred"),
    pytest.param(101, None, [*range(0, 101, 2), 101], id="at most a hundred"),
])  # fmt: skip
def test_saved_are_the_start_every_save_every_th_and_the_last(
        small_encoding_model, imgs, tmp_path, monkeypatch, capsys, without_steps, epochs, save_every, expected):
    saved = []
    monkeypatch.setattr(script, "save_image", lambda img, path, metadata: saved.append(path.name))
    history, _ = run(small_encoding_model, imgs, tmp_path, epochs=epochs, save_every=save_every)
    assert sorted(set(saved)) == [f"image_{epoch:05}.png" for epoch in expected]
    assert history["epoch"] == [*expected][1:]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(expected)  # for each image but the start, and one at the end
    assert lines[-1] == f"Done: {tmp_path}/image_{epochs:05}.png"


def test_the_loop_tells_the_screen_where_it_is_and_each_image_its_text(
        small_encoding_model, imgs, tmp_path, monkeypatch, without_steps):
    shown, drawn = [], []

    def show(self, epoch, costs, saved):
        shown.append((epoch, self.first, self.epochs, self.later_epochs, saved and saved.name))

    monkeypatch.setattr(script.Progress, "show", show)
    monkeypatch.setattr(script.Progress, "draw", lambda self, img: drawn.append(np.shape(img)))
    metadata = {"style": "Sternennacht"}
    run(small_encoding_model, imgs, tmp_path, epochs=3, save_every=2, later_epochs=7, metadata=metadata)
    assert shown == [(1, 1, 3, 7, None), (2, 1, 3, 7, "image_00002.png"), (3, 1, 3, 7, "image_00003.png")]
    assert drawn == [(1, 32, 32, 3)] * 3  # the start and each saved image
    for epoch in (0, 2, 3):
        with Image.open(tmp_path / f"image_{epoch:05}.png") as img:
            assert json.loads(img.text["settings"]) == metadata | {"epoch": epoch}


DECISIVE = [  # what is changed, and how it is named
    ({"learn_rate": 0.03}, "learn_rate"), ({"tv_weight": 41.0}, "tv_weight"),
    ({"content_weight": 1.0}, "content_weight"), ({"style_weight": 1.0}, "style_weight"),
    ({"schedule": "cosine"}, "schedule, epochs"),
    ({"encoding_layers": [("block1_conv1", 0.3), ("block1_conv2", 1.0)]}, "encoding_layers"),
    ({"mask": np.full((1, 64, 64, 1), 0.5)}, "mask"), ({"start": 0.5}, "start"),
    ({"content": 0.5}, "content_img"), ({"styles": [0.5]}, "style_imgs"), ({"styles": [0.3, 0.3]}, "style_imgs"),
    ({"network": "another"}, "network"), ({"network": "in bfloat16"}, "precision"),
]  # fmt: skip


@pytest.fixture
def paint(few_channels, few_vgg_model, tmp_path, without_steps):
    """A run of an epoch; one pixel in the middle of each picture is of the given value."""
    networks = {"the same": few_vgg_model, "another": script.build_vgg19("float32", seed=2)}
    networks["in bfloat16"] = script.build_vgg19("mixed_bfloat16", seed=1)

    def make_picture(value):
        img = np.full((1, 64, 64, 3), 0.7, np.float32)
        img[0, 32, 32] = value
        return img

    def paint(start=0.3, content=0.3, styles=(0.3,), network="the same", encoding_layers=LAYERS, **settings):
        start, content, *styles = map(make_picture, (start, content, *styles))
        encoding_model = script.get_vgg_encodings(networks[network], encoding_layers)
        script.transfer_style_loop(tf.Variable(start), content, styles, encoding_model, encoding_layers=encoding_layers,
                                   epochs=1, output_path=tmp_path, **settings)  # fmt: skip

    return paint


@pytest.mark.parametrize(("changed", "named"), DECISIVE, ids=[named for _, named in DECISIVE])
def test_another_value_of_what_decides_the_picture_starts_anew_and_is_named(paint, capsys, changed, named):
    paint()
    paint(**changed)
    assert f"another value of {named}\n" in capsys.readouterr().out


@pytest.mark.parametrize("settings", [
    pytest.param({"content_weight": int(script.CONTENT_WEIGHT)}, id="a whole number"),
    pytest.param({"style_weight": np.float32(script.STYLE_WEIGHT)}, id="a number of NumPy"),
    pytest.param({"encoding_layers": [list(layer) for layer in LAYERS]}, id="a list for a tuple"),
    pytest.param({"tv_weight": script.TV_WEIGHT}, id="a default that is given"),
])  # fmt: skip
def test_the_same_value_in_another_form_goes_on(paint, capsys, settings):
    paint()
    paint(**settings)
    assert "Going on after epoch 1" in capsys.readouterr().out


def test_the_loop_takes_any_setting_and_else_the_constants_as_they_are_now(
        small_encoding_model, imgs, tmp_path, monkeypatch, without_steps):
    monkeypatch.setattr(script, "EPOCHS", 7)
    monkeypatch.setattr(script, "SAVE_EVERY", 3)
    generated = script.initialize_generated_image(imgs[0])
    settings = {"encoding_layers": LAYERS, "output_path": tmp_path}
    script.transfer_style_loop(generated, imgs[0], [imgs[1]], small_encoding_model, **settings)
    assert [*pixels(tmp_path)] == [f"image_0000{epoch}.png" for epoch in (0, 3, 6, 7)]
    script.transfer_style_loop(generated, imgs[0], [imgs[1]], small_encoding_model, **settings | script.QUICK)
    assert len(pixels(tmp_path / "run_2")) == 35
    with pytest.raises(TypeError, match="no setting 'epoch'"):
        script.transfer_style_loop(generated, imgs[0], [imgs[1]], small_encoding_model, epoch=7)


def test_the_step_and_the_optimizer_have_the_values_of_the_settings(small_encoding_model, imgs, tmp_path, monkeypatch):
    given = {}

    def step(*args, **settings):
        given.update(settings)
        return {"cost": tf.constant(0.0)}

    def make_optimizer(**settings):
        given.update(settings)
        return script.keras.optimizers.Adam()

    monkeypatch.setattr(script, "transfer_style_step", step)
    monkeypatch.setattr(script, "make_optimizer", make_optimizer)
    settings = {
        "encoding_layers": LAYERS, "content_weight": 1.5, "style_weight": 2.5, "tv_weight": 3.5, "schedule": "cosine",
        "learn_rate": 0.25, "epochs": 2,
    }  # fmt: skip
    mask = np.full((1, 32, 32, 1), 0.5, np.float32)
    run(small_encoding_model, imgs, tmp_path, mask=mask, **settings)
    np.testing.assert_equal(given, settings | {"content_img": imgs[0], "mask": mask})


def test_an_optimizer_of_other_variables_starts_anew(paint, monkeypatch, capsys):
    """Another Keras may have one. The arrays of the checkpoint would fit none of them."""
    paint()
    monkeypatch.setattr(script, "make_optimizer", lambda **settings: script.keras.optimizers.Adam(0.1, amsgrad=True))
    paint()
    assert "another value of variables of the optimizer\n" in capsys.readouterr().out


def test_a_second_run_is_independent_of_the_first(small_encoding_model, imgs, tmp_path):
    alone = run(small_encoding_model, imgs, tmp_path / "a", learn_rate=0.01)
    run(small_encoding_model, imgs, tmp_path / "b", learn_rate=0.05, style_weight=1.0)
    again = run(small_encoding_model, imgs, tmp_path / "c", learn_rate=0.01)
    assert alone[0] == again[0]
    np.testing.assert_array_equal(alone[1], again[1])
    assert pixels(tmp_path / "a") == pixels(tmp_path / "c") and len(pixels(tmp_path / "a")) == 4


def test_runs_of_new_networks_leave_no_gradient_in_tensorflows_registry(few_channels, imgs, tmp_path):
    """It would hold the graph and the weights for good, and a notebook's loop would run out of memory."""
    counts = []
    for n in range(3):
        run(script.get_vgg_encodings(script.build_vgg19(), LAYERS), imgs, tmp_path / str(n))
        counts.append(count_gradients())
    assert counts[1] == counts[2]


@pytest.fixture(scope="module", params=["constant", "cosine"])
def whole_run(request, small_encoding_model, imgs, tmp_path_factory):
    """Settings of a run of 6 epochs, its pictures, its history."""
    settings = {"schedule": request.param, "epochs": 6, "save_every": 1}
    folder = tmp_path_factory.mktemp("whole")
    history, _ = run(small_encoding_model, imgs, folder, **settings)
    return settings, pixels(folder), history


def test_a_run_that_was_stopped_goes_on_to_the_same_pictures(
        whole_run, small_encoding_model, imgs, tmp_path, monkeypatch):
    """Ctrl-C comes when an image is saved: the start, then long after the last checkpoint, then long before."""
    settings, pictures, history = whole_run
    stop_at(monkeypatch, "image_00000.png", "image_00001.png", "image_00004.png")
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(small_encoding_model, imgs, tmp_path, **settings)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(script.time, "monotonic", itertools.count(0, 100).__next__)  # a checkpoint after each epoch
        run(small_encoding_model, imgs, tmp_path, **settings)
    record, _ = script.load_checkpoint(tmp_path / "checkpoint.npz")
    assert record["epoch"] == 3
    again, _ = run(small_encoding_model, imgs, tmp_path, **settings)
    assert again == history and pixels(tmp_path) == pictures


def test_a_run_works_where_functions_run_eagerly(small_encoding_model, imgs, tmp_path):
    _, expected = run(small_encoding_model, imgs, tmp_path / "a")
    tf.config.run_functions_eagerly(True)
    try:
        _, picture = run(small_encoding_model, imgs, tmp_path / "b")
    finally:
        tf.config.run_functions_eagerly(False)
    assert np.abs(picture - expected).mean() < 1e-3


@pytest.mark.parametrize("whole_run", ["cosine"], indirect=True)
def test_a_run_paints_in_a_thread(whole_run, small_encoding_model, imgs, tmp_path):
    settings, pictures, _ = whole_run
    thread = threading.Thread(target=run, args=(small_encoding_model, imgs, tmp_path), kwargs=settings)
    thread.start()
    thread.join()
    assert pixels(tmp_path) == pictures


@pytest.mark.parametrize("whole_run", ["cosine"], indirect=True)
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
    if settings["schedule"] == "constant":
        assert "Going on after epoch 4" in out and pixels(tmp_path) == pictures
    else:
        assert "another value of epochs\n" in out and pixels(tmp_path / "run_2") == pictures


@pytest.mark.parametrize(("changed", "named"), [
    pytest.param({"epochs": 0}, "EPOCHS", id="no epochs"), pytest.param({"save_every": 0}, "SAVE_EVERY", id="no image"),
    pytest.param({"tv_weight": np.nan}, "TV_WEIGHT", id="a weight of NaN"),
    pytest.param({"content_weight": 0, "style_weight": 0}, "CONTENT_WEIGHT or STYLE_WEIGHT", id="no weights"),
    pytest.param({"encoding_layers": [("block1_pool", 1.0), ("block1_conv2", 1.0)]}, "ENCODING_LAYERS", id="no layer"),
    pytest.param({"content_img": np.ones((32, 32, 3))}, r"^content_img must .* / 255", id="no batch axis"),
    pytest.param({"style_imgs": np.ones((1, 32, 32, 3))}, r"^each of style_imgs must .*\(32, 32, 3\)", id="no list"),
    pytest.param({"style_imgs": []}, "style_imgs must be a list of one or more", id="an empty list"),
    pytest.param({"generated_img": tf.Variable(tf.fill((1, 32, 32, 3), np.nan))}, "generated_img", id="a start of NaN"),
    pytest.param({"output_path": "a.png"}, "OUTPUT_PATH must be a folder", id="a picture as output"),
    pytest.param({"mask": np.ones((1, 48, 32, 1))}, "mask must have the H and W of content_img", id="a mask's size"),
    pytest.param({"content_img": np.ones((1, 32, 33, 3))}, "generated_img must have the H and W", id="a start's size"),
    pytest.param({"mask": np.ones((1, 32, 32, 3))}, r"mask must .*\(1, H, W, 1\)", id="a mask in colours"),
])  # fmt: skip
def test_the_loop_refuses_what_cannot_be_painted_before_it_writes(
        small_encoding_model, imgs, tmp_path, monkeypatch, changed, named):
    monkeypatch.chdir(tmp_path)
    given = {"generated_img": tf.Variable(imgs[0]), "content_img": imgs[0], "style_imgs": [imgs[1]]}
    given |= {"encoding_layers": LAYERS, "output_path": tmp_path / "out"}
    with pytest.raises(ValueError, match=named) as caught:
        script.transfer_style_loop(encoding_model=small_encoding_model, **given | changed)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_picture_that_becomes_nan_ends_the_run(small_encoding_model, imgs, tmp_path, monkeypatch):
    """In graph mode, where convolutions turn NaN into 0 and the cost may stay finite."""
    step = script.transfer_style_step

    def poisoned(generated_img, encoding_model, grams, content, optimizer, **settings):
        late, update = optimizer.iterations >= 2, optimizer.update_step
        optimizer.update_step = lambda gradient, *rest: update(tf.where(late, np.nan, gradient), *rest)
        return step(generated_img, encoding_model, grams, content, optimizer, **settings)

    monkeypatch.setattr(script, "transfer_style_step", poisoned)
    with pytest.raises(FloatingPointError, match=rf"after epoch 3.*LEARN_RATE.*{tmp_path} are from before"):
        run(small_encoding_model, imgs, tmp_path, epochs=6, save_every=1)
    assert set(pixels(tmp_path)) == {f"image_{epoch:05}.png" for epoch in range(3)}
    record, arrays = script.load_checkpoint(tmp_path / "checkpoint.npz")
    assert record["epoch"] <= 2
    for array in arrays:
        assert np.isfinite(array).all()
