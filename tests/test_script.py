"""The script: settings, command line, notebook, main(), coarse to fine, README."""

import ast
import builtins
import inspect
import itertools
import json
import re
import runpy
import shutil
import sys
import types
from pathlib import Path
from typing import Literal
from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import IMAGES, LAYERS, ROOT, SMALL_RUN, build_few_channels, pixels, run, run_python, stop_at, to_flags
from PIL import Image

import script

SOURCE = inspect.getsource(script)
README = (ROOT / "README.md").read_text("utf-8")
DEFAULTS = {name: getattr(script, name.upper()) for name in script.SETTINGS}
OWN_VALUES = {  # of each setting, unlike its default and unlike all others
    "content_img_path": "a.jpg", "style_img_path": ["b.jpg", "c.jpg", "b.jpg"], "mask_path": "d.png",
    "start_img_path": "g.jpg", "output_path": "~/e", "img_size": 200, "keep_aspect_ratio": True,
    "content_weight": 1.5, "style_weight": 2.5,
    "tv_weight": 3.5, "encoding_layers": [("block1_conv2", 4.5), ("block4_conv2", 5.5)], "style_scale": 6.5,
    "preserve_colors": True, "coarse_above": 70, "noise_magnitude": 0.5, "seed": 8, "schedule": "cosine",
    "epochs": 100, "learn_rate": 0.25, "save_every": 9, "vgg_mode": "local", "vgg_network_path": "f.h5",
    "precision": "mixed_bfloat16",
}  # fmt: skip


def get_flag(name):
    return "--" + name.lower().replace("_", "-")


def load_edited(tmp_path, *edits):
    """What script.py defines after each (pattern of a line, new text) was replaced in it."""
    text = SOURCE
    for pattern, new in edits:
        text, count = re.subn(f"(?m)^{pattern}", lambda match, new=new: new, text)
        assert count == 1
    (tmp_path / "script.py").write_text(text, "utf-8")
    return runpy.run_path(str(tmp_path / "script.py"))


# Settings


def test_the_documented_defaults_stay():
    assert script.IMG_SIZE == 400 and script.EPOCHS == 25_000 and script.LEARN_RATE == 0.001
    assert script.SCHEDULE == "constant" and script.NOISE_MAGNITUDE == 0.2 and script.SAVE_EVERY is None
    assert (script.CONTENT_WEIGHT, script.STYLE_WEIGHT) == (10, 40)
    layers = [(f"block{block}_conv1", 0.2) for block in range(1, 6)]
    assert [*layers, ("block5_conv4", 1.0)] == script.ENCODING_LAYERS


def test_every_capital_name_of_the_settings_is_a_setting_or_a_kind():
    block = SOURCE.split("# ------ ")[1]
    assert block.startswith("Settings")
    names = set(re.findall(r"^([A-Z_]+)\b", block, re.MULTILINE)) - {"CONTENT_LAYER", "SETTINGS", "QUICK"}
    assert names == set(map(str.upper, script.SETTINGS))


def test_settings_are_found_where_annotations_are_texts():
    """Under Python 3.14 a module's annotations are there only as texts, as `from __future__` makes them everywhere."""
    for name in script.SETTINGS:
        assert isinstance(script.__annotations__[name.upper()], str)


def test_every_default_and_quick_are_legal():
    assert script.check_settings(**DEFAULTS) == DEFAULTS
    assert script.check_settings(**script.QUICK) == script.QUICK


def test_a_setting_that_is_added_to_the_block_is_checked_and_is_a_flag(tmp_path):
    lines = [
        "SPEED: Annotated[int, 1, 9] = 3  # how fast", 'MOOD: Literal["gay", "sad"] | None = None  # what for', "SEED:",
    ]  # fmt: skip
    added = load_edited(tmp_path, ("SEED:", "\n".join(lines)))
    assert added["parse_settings"](["--speed", "7", "--mood", "sad"])["speed"] == 7
    for name, value, words in (("speed", 10, "a whole number from 1 to 9"), ("mood", "blue", "'gay' or 'sad' or None")):
        with pytest.raises(ValueError, match=f"{name.upper()} must be {words}. Received: {value!r}"):
            added["check_settings"](**{name: value})


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(("kind", "words", "legal", "illegal"), [
    (script.Pixels, "a whole number from 32 to 32,768",
     [32, 400, np.int64(64), 32_768], [31, 32_769, 400.0, "400", None]),
    (script.Weight, "a number from 0 to 1,000,000",
     [0, 1.5, 1e6, np.float32(2)], [-1, NAN, INF, "10", None, 1e39]),
    (script.Count | None, "a whole number from 1 to 2,147,483,648 or None", [None, 1, 2**31], [0, 1.5, "5"]),
    (bool, "True or False", [True, False], [0, 1, "yes", None]),
    (Literal["a", "b"], "'a' or 'b'", ["a", "b"], ["", "c", None, ["a"], 1]),
    (str, "a text", ["a.jpg", Path("a.jpg")], [None, 7, ["a.jpg"]]),
    (str | list, "a text or a list that is not empty", ["a.jpg", ["a.jpg"], ("a.jpg", Path("b"))], [[], (), None]),
    (list, "a list that is not empty", [[("x", 1)], [["x", 0.5], ("y", 2)]], [[], None, "x"]),
], ids=["whole number", "number", "number or none", "switch", "choice", "path", "path or paths", "list"])  # fmt: skip
def test_an_annotation_decides_what_is_legal_and_is_said_in_words(kind, words, legal, illegal):
    for value in legal:
        assert script.match_kind(value, kind) == (True, words), value
    for value in illegal:
        assert script.match_kind(value, kind) == (False, words), value


def test_an_edited_constant_counts_and_an_unknown_keyword_does_not(monkeypatch):
    monkeypatch.setattr(script, "EPOCHS", 20)
    for name in ("epoch", "EPOCHS"):
        with pytest.raises(TypeError, match=f"{name!r}.*epochs"):
            script.main(**{name: 3})
    monkeypatch.setattr(script, "EPOCHS", 0)
    with pytest.raises(ValueError, match="EPOCHS"):
        script.main()


@pytest.mark.parametrize("word", [3, None, ("a.jpg",)])
def test_a_list_of_paths_with_something_else_in_it_is_a_file_that_is_not_there(word):
    with pytest.raises(OSError, match="is no file"):
        script.main(**IMAGES | {"style_img_path": [IMAGES["style_img_path"], word]})


# Command line


def get_help(parse_settings, capsys):
    """The text of --help, with single spaces."""
    with pytest.raises(SystemExit) as end:
        parse_settings(["--help"])
    out, err = capsys.readouterr()
    assert (end.value.code, err) == (0, "")
    return " ".join(out.split())


def test_help_lists_every_setting_with_its_comment_legal_values_and_default(capsys):
    text, quick = get_help(script.parse_settings, capsys).split(" --quick ")
    _, *entries = re.split(r"(?<!,) (?=--[a-z-]+(?:, --no-| [A-Z]))", text)
    for name, value in script.QUICK.items():
        assert f"{name!r}: {value!r}" in quick
    for (name, kind), entry in zip(script.SETTINGS.items(), entries, strict=True):
        flag, value = get_flag(name), DEFAULTS[name]
        heading = f"{flag}, --no-{flag[2:]} " if kind is bool else f"{flag} {name.upper()} "
        assert entry.startswith(heading)
        entry = entry.removeprefix(heading).removeprefix(f"[{name.upper()} ...] ")
        match = re.fullmatch(rf"([^;].*); {re.escape(script.match_kind(value, kind)[1])} \(default: (.*)\)", entry)
        assert match, f"{flag} lacks its comment, its legal values or its default: {entry}"
        default = match[2]
        if value is None or isinstance(value, (bool, list)):
            assert default == str(value)
        else:
            assert script.parse_settings([flag, *default.split()])[name] in (value, [value])


def test_every_setting_has_a_flag_that_reads_its_kind():
    layers = [f"{name}:{weight}" for name, weight in OWN_VALUES["encoding_layers"]]
    parsed = script.parse_settings(to_flags(OWN_VALUES | {"encoding_layers": layers}))
    assert parsed == OWN_VALUES
    for name, value in OWN_VALUES.items():
        assert type(parsed[name]) is type(value), name


def test_flags_win_over_quick_wherever_it_stands_even_where_they_give_a_default():
    flags = ["--epochs=7", "--schedule=constant", "--no-keep-aspect-ratio"]
    expected = script.QUICK | {"epochs": 7, "schedule": "constant", "keep_aspect_ratio": False}
    for place in (0, 1, 3):
        assert script.parse_settings([*flags[:place], "--quick", *flags[place:]]) == expected


def test_flags_say_what_they_give_and_no_more():
    parsed = script.parse_settings(["--no-preserve-colors", "--style-weight", "1e3", "--style-img-path=my style.jpg"])
    assert parsed == {"preserve_colors": False, "style_weight": 1000.0, "style_img_path": ["my style.jpg"]}


def test_an_edited_file_shows_its_constants_and_percent_signs(tmp_path, capsys):
    edited = load_edited(
        tmp_path, (r"STYLE_IMG_PATH: str \| list = \S+", 'STYLE_IMG_PATH: str | list = ["a.jpg", "b.jpg"]'),
        ("OUTPUT_PATH: .*", 'OUTPUT_PATH: str = "50% grey/"  # 100 % mine'),
        ("KEEP_ASPECT_RATIO: bool = False", "KEEP_ASPECT_RATIO: bool = True"),
        ("EPOCHS: .*", "EPOCHS: Count = 300"), ("SEED: .*", "SEED: Count = 500 # one space"),
    )  # fmt: skip
    text = get_help(edited["parse_settings"], capsys)
    assert "100 % mine; a text (default: 50% grey/)" in text and "(default: ['a.jpg', 'b.jpg'])" in text
    assert "(default: 300)" in text and "one space" not in text and "(default: True)" in text


def get_texts_of_script():
    """The docstrings, messages and hints of script.py, without its comments."""
    nodes = [node for node in ast.walk(ast.parse(SOURCE)) if isinstance(node, ast.Constant)]
    return "\n".join(node.value for node in nodes if isinstance(node.value, str))


@pytest.mark.parametrize("text", [
    get_texts_of_script().replace("[--setting value ...]", ""),  # of the usage line
    re.sub(r"(?m)^ruff .*$|`python tests/.*?`", "", README),
], ids=["script.py", "README"])  # fmt: skip
def test_flags_that_are_named_exist_and_take_the_value_beside_them(text):
    kinds = {get_flag(name): kind for name, kind in script.SETTINGS.items()}
    named = re.findall(r"(?<![\w-])(--[a-z][a-z-]*)(?: (\w(?:[\w.-]*\w)?))?", text)
    assert len(named) > 5
    for flag, word in named:
        if flag in ("--help", "--quick"):
            continue
        assert flag.replace("--no-", "--") in kinds
        if word and kinds.get(flag) not in (bool, None):
            name = flag[2:].replace("-", "_")
            script.check_settings(**{name: script.parse_settings([flag, word])[name]})


def test_the_commands_in_readme_and_the_docstring_parse():
    commands = re.findall(r"python script\.py ((?:(?! {3})[^`\n&|])*)", README + script.__doc__)
    assert len(commands) > 3
    for command in commands:
        if command.strip() != "--help":
            words = re.sub(r"\\\n|\"[^\"]*\"", " x ", command).split()
            script.check_settings(**script.parse_settings(words))


# In a notebook


def make_notebook(monkeypatch, name):
    """The names of a notebook, which are those of a module."""
    monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    return vars(sys.modules[name])


def test_pasted_into_a_notebook_it_paints_with_the_constants(monkeypatch):
    """A cell has no __file__, and the flags are the kernel's."""
    monkeypatch.setattr("sys.argv", ["ipykernel_launcher.py", "-f", "kernel.json"])
    cell, called = make_notebook(monkeypatch, "a cell"), []
    exec("width: int = 3", cell)  # an earlier cell
    exec(compile(SOURCE, "a cell", "exec"), cell)
    exec("height: int = 3", cell)
    assert cell["SETTINGS"].keys() == script.SETTINGS.keys()
    cell["main"] = lambda **changed: called.append(changed)
    assert cell["run_program"]() == 0 and called == [{}]


@pytest.mark.parametrize("way", ["pasted", "%run"])
def test_in_a_notebook_it_ends_no_kernel(tmp_path, monkeypatch, capsys, way):
    """There __name__ is __main__ too. Here is no images/, so main() ends at once."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setattr(builtins, "__IPYTHON__", True, raising=False)
    words = ["ipykernel_launcher.py", "-f", "kernel.json"] if way == "pasted" else ["script.py"]
    monkeypatch.setattr("sys.argv", words)
    if way == "pasted":
        cell = make_notebook(monkeypatch, "__main__")
        exec(compile(SOURCE, "a cell", "exec"), cell)
    else:
        cell = runpy.run_path(script.__file__, run_name="__main__")
    assert cell["exit_code"] == 2 and "is no file" in capsys.readouterr().err


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_a_notebook_may_change_keras_own_settings(few_channels, imgs, tmp_path, schedule):
    def paint(folder):
        encoding_model = script.get_vgg_encodings(script.build_vgg19(), LAYERS)
        return run(encoding_model, imgs, tmp_path / folder, schedule=schedule)

    keras.config.set_floatx("float32")
    expected = paint("a")
    keras.config.set_floatx("float16")
    keras.config.set_image_data_format("channels_first")
    try:
        np.testing.assert_equal(paint("b"), expected)
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_image_data_format("channels_last")


# main() passes on what it was given


def record_calls(monkeypatch, answers):
    """Replace functions of script, {name: what makes the answer of the arguments, a dict by name}, by recorders.

    Each call adds (name, arguments) to the list that is returned. Defaults are among the arguments.
    """
    calls = []

    def replace(function, answer):
        signature = inspect.signature(getattr(script, function))

        def recorder(*args, **kwargs):
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            arguments = bound.arguments
            for parameter in signature.parameters.values():
                if parameter.kind is parameter.VAR_KEYWORD:
                    arguments |= arguments.pop(parameter.name)
            calls.append((function, arguments))
            return answer(arguments)

        monkeypatch.setattr(script, function, recorder)

    for function, answer in answers.items():
        replace(function, answer)
    return calls


def make_content(size):
    return np.full((1, size, size, 3), size / 1000, np.float32)


def make_styles(size):
    return [make_content(size + 1), make_content(size + 2)]


START = np.full((1, 33, 34, 3), 0.5, np.float32)


def make_mask(size):
    return np.full((1, size, size, 1), (size + 3) / 1000, np.float32)


OF_THE_LOOP = {  # those of the settings that it is given which count there
    "encoding_layers", "content_weight", "style_weight", "tv_weight", "schedule", "learn_rate", "epochs", "save_every",
    "output_path",
}  # fmt: skip
OTHER_NAMES = {"vgg_mode": "mode", "vgg_network_path": "path"}  # of settings, in get_vgg_model() and find_weights()


@pytest.mark.parametrize(("schedule", "switch", "plan"), [
    # size: epochs; the work of the later sizes, in epochs of this one. Twice the size is four times the work.
    ("cosine", "keep_aspect_ratio", {50: (100, 60 * 4 + 36 * 16), 100: (60, 36 * 4), 200: (36, 0)}),
    ("constant", "preserve_colors", {200: (100, 0)}),
], ids=["coarse to fine", "at one size"])  # fmt: skip
def test_each_argument_that_is_named_like_a_setting_has_its_value(monkeypatch, tmp_path, schedule, switch, plan):
    """Of the two switches one is on in each case, because True has no value of its own."""
    assert OWN_VALUES.keys() == DEFAULTS.keys()
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    plan_sizes = script.plan_sizes
    calls = record_calls(monkeypatch, {
        "plan_sizes": lambda given: plan_sizes(**given),
        "load_images": lambda given: (make_content(given["img_size"]), make_styles(given["img_size"])),
        "load_mask": lambda given: make_mask(len(given["content_img"][0])),
        "load_start": lambda given: START,
        "initialize_generated_image": lambda given: tf.Variable(given["content_img"]),
        "forecast_memory": lambda given: 0.0,
        "find_weights": lambda given: Path(given["path"]),
        "get_vgg_model": lambda given: "the network",
        "get_vgg_encodings": lambda given: "the encoder",
        "transfer_style_loop": lambda given: ("the picture", len(given["content_img"][0])),
    })  # fmt: skip
    settings = OWN_VALUES | {"schedule": schedule, "keep_aspect_ratio": False, "preserve_colors": False, switch: True}
    assert script.main(**settings) == ("the picture", 200)

    expected = {None: settings}  # before a picture is loaded; then by size
    for size, (epochs, later_epochs) in plan.items():
        expected[size] = settings | {
            "img_size": size, "epochs": epochs, "later_epochs": later_epochs, "soft_styles": size > min(plan),
            "output_path": tmp_path / "e" if size == 200 else tmp_path / f"e/coarse_{size}",
            "content_img": make_content(size), "style_imgs": make_styles(size), "mask": make_mask(size),
            "imgs": [*make_styles(size), make_content(size)], "vgg_model": "the network",
            "encoding_model": "the encoder", **{other: settings[name] for name, other in OTHER_NAMES.items()},
        }  # fmt: skip
    seen = set()
    size = None
    for function, arguments in calls:
        if function == "load_images":
            size = arguments["img_size"]
        wanted = dict(expected[size])
        if function == "initialize_generated_image" and schedule == "constant":
            wanted["style_imgs"] = []  # only cosine starts with the styles' colours
        if function == "initialize_generated_image":
            wanted["content_img"] = START
        if function == "forecast_memory":
            wanted |= {"enlargement": 200 / size}
        if function == "transfer_style_loop":
            wanted = {name: value for name, value in wanted.items() if name in OF_THE_LOOP or name not in settings}
        for name in arguments.keys() & wanted.keys():
            np.testing.assert_equal(arguments[name], wanted[name], f"{name} of {function}() at size {size}")
            seen.add(name)
    for function in ("load_images", "load_mask", "transfer_style_loop"):
        assert [called for called, _ in calls].count(function) == len(plan), function
    not_passed_on = {OTHER_NAMES.get(name, name) for name in settings} - seen
    assert not not_passed_on


# The start and the memory


def test_a_start_is_a_picture_stretched_to_the_contents_size(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (40, 90, 3), np.uint8)
    Image.fromarray(rgb).save(tmp_path / "a.png")
    content_img = make_content(64)[:, :48]
    start_img = script.load_start(tmp_path / "a.png", content_img)
    expected = np.asarray(Image.fromarray(rgb).resize((64, 48), Image.Resampling.LANCZOS), np.float32) / 255
    np.testing.assert_array_equal(start_img, expected[None])
    assert script.load_start(None, content_img) is content_img


def test_a_run_starts_from_another_picture(few_weights, tmp_path):
    settings = SMALL_RUN | few_weights | {"start_img_path": IMAGES["style_img_path"], "noise_magnitude": 0.0}
    script.main(**settings | {"output_path": tmp_path})
    start = script.load_image(IMAGES["style_img_path"], 32) * 255
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "image_00000.png")), np.uint8(np.round(start[0])))


@pytest.mark.parametrize(("module", "function", "read"), [
    pytest.param(script.Image, "open", script.load_image, id="a picture"),
    pytest.param(script.h5py, "File", script.read_weights, id="weights"),
])  # fmt: skip
def test_a_file_that_memory_does_not_hold_is_not_called_damaged(monkeypatch, module, function, read):
    monkeypatch.setattr(module, function, mock.Mock(side_effect=MemoryError))
    with pytest.raises(MemoryError):
        read(Path(IMAGES["content_img_path"]))


@pytest.mark.parametrize("pages", [2**18, 2**19, None], ids=["1 GiB", "2 GiB", "a system that does not tell"])
def test_a_run_that_needs_more_memory_than_there_is_warns(monkeypatch, capsys, pages):
    """400 x 500 pixels take 1.42 GiB, as do styles of half as many again."""
    def sysconf(name):
        if pages is None:
            raise ValueError("unrecognized configuration name")
        return {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": pages}[name]

    monkeypatch.setattr(script.os, "sysconf", sysconf, raising=False)
    small, large = np.zeros((1, 200, 250, 3)), np.zeros((1, 300, 250, 3))
    warning = "Warning: a run of this size takes about 1.4 GiB of memory, and this machine has 1.0. Lower IMG_SIZE\n"
    for imgs in ((small, [small]), (large[:, :50], [small, large])):
        assert script.forecast_memory(*imgs, enlargement=2) == pytest.approx(1.42)
        assert capsys.readouterr().err == (warning if pages == 2**18 else "")


# What a run prints and writes


@pytest.fixture(scope="module")
def small_run(program, weights, tmp_path_factory):
    """A run with its output redirected: folder, exit code, stdout, stderr."""
    cwd = tmp_path_factory.mktemp("small")
    return cwd, *run_python(cwd, program, settings=SMALL_RUN | weights)


def test_redirected_output(small_run):
    cwd, code, out, err = small_run
    assert (code, err) == (0, "")
    network, way, size, *lines, last = out.splitlines()
    images = [f"out/image_{epoch:05}.png" for epoch in range(3)]
    assert network.startswith("VGG19: /") and network.endswith("few.weights.h5")
    assert way == "float32, 0 GPU, about 1.0 GiB of memory; --quick needs few epochs and takes minutes"
    assert size == "32 x 32 pixels, 2 epochs"
    assert [(line.split(":")[0], line.split(", ")[-1]) for line in lines] == [
        ("epoch 1/2", images[1]), ("epoch 2/2", images[2]),
    ]  # fmt: skip
    assert last.endswith(images[2]) and not re.search(r"[^\x20-\x7e\n]", out)  # nothing of a progress bar
    assert sorted(str(path.relative_to(cwd)) for path in cwd.rglob("[!.]*.*")) == ["out/checkpoint.npz", *images]


def test_an_image_holds_the_settings_and_what_auto_became(small_run, weights):
    expected = DEFAULTS | SMALL_RUN | weights | {"style_img_path": [SMALL_RUN["style_img_path"]]}
    for epoch in range(3):
        with Image.open(small_run[0] / f"out/image_{epoch:05}.png") as img:
            assert (img.mode, img.size) == ("RGB", (32, 32))
            assert json.loads(img.text["settings"]) == json.loads(json.dumps(expected | {"epoch": epoch}))


def test_the_same_settings_give_the_same_bytes_whatever_keras_own_are(small_run, program, weights, tmp_path):
    (tmp_path / "keras").mkdir()
    hostile = {"floatx": "float16", "epsilon": 1e-3, "image_data_format": "channels_first", "backend": "jax"}
    (tmp_path / "keras" / "keras.json").write_text(json.dumps(hostile))
    env = {"KERAS_HOME": str(tmp_path / "keras"), "KERAS_BACKEND": "jax"}
    code, _, err = run_python(tmp_path, program, settings=SMALL_RUN | weights, **env)
    assert (code, err) == (0, "")
    for name in [f"out/image_{epoch:05}.png" for epoch in range(3)]:
        assert (tmp_path / name).read_bytes() == (small_run[0] / name).read_bytes()


def test_whole_numbers_paint_what_the_same_floats_paint(few_weights, tmp_path):
    whole = {"learn_rate": 1, "noise_magnitude": 1, "content_weight": 2, "style_weight": 3, "tv_weight": 4}
    settings = SMALL_RUN | few_weights | {"encoding_layers": LAYERS}
    painted = []
    for kind in (int, float):
        numbers = {name: kind(value) for name, value in whole.items()}
        picture, _ = script.main(**settings | numbers | {"output_path": tmp_path / kind.__name__})
        painted.append(picture)
    np.testing.assert_array_equal(*painted)


@pytest.mark.parametrize("name", ["content_img_path", "style_img_path", "start_img_path", "mask_path"])
def test_an_image_of_an_earlier_run_can_be_an_input(few_weights, monkeypatch, tmp_path, name):
    """It stays where it is. The picture that main() returns is the last image."""
    monkeypatch.chdir(tmp_path)
    settings = SMALL_RUN | few_weights | {"encoding_layers": LAYERS}
    script.main(**settings)
    before = pixels(Path("out"))
    picture, _ = script.main(**settings | {name: "out/image_00002.png"})
    assert pixels(Path("out")) == before
    script.save_image(picture, "a.png")
    assert pixels(Path())["a.png"] == pixels(Path("out/run_2"))["image_00002.png"] != before["image_00002.png"]


def test_a_run_goes_on_with_the_precision_that_it_chose_and_other_weights_begin_another(
        few_weights, tmp_path, monkeypatch, capsys):
    fastest = ["float32"]
    monkeypatch.setattr(script, "choose_precision", lambda precision: fastest[0] if precision == "auto" else precision)
    file = shutil.copy(few_weights["vgg_network_path"], tmp_path)
    settings = SMALL_RUN | few_weights | {"output_path": tmp_path, "encoding_layers": LAYERS}
    settings |= {"precision": "auto", "vgg_network_path": file}

    def paint(**changed):
        script.main(**settings | changed)
        return capsys.readouterr().out

    out = paint()
    assert "float32" in out and "Going on" not in out
    with Image.open(tmp_path / "image_00002.png") as img:
        assert json.loads(img.text["settings"])["precision"] == "float32"
    fastest[0] = "mixed_bfloat16"
    out = paint(epochs=3)
    assert "float32" in out and "Going on after epoch 2" in out
    script.build_vgg19(seed=1).save_weights(file)
    out = paint(epochs=3)
    assert "Going on" not in out and re.search(r"run_2, .* another value of network\n", out)
    out = paint(epochs=3, precision="mixed_bfloat16")
    assert "mixed_bfloat16, " in out and re.search(r"run_3, .* another value of network, precision\n", out)


ANOTHER = OWN_VALUES | {  # value of each setting, for the run below
    "content_img_path": IMAGES["content_img_path"], "style_img_path": [IMAGES["style_img_path"]] * 2,
    "mask_path": str(ROOT / "images/sky.png"), "start_img_path": IMAGES["style_img_path"], "output_path": "another",
    "img_size": 48, "style_scale": 2.0, "coarse_above": 40, "schedule": "constant", "vgg_mode": "fit",
    "vgg_network_path": "another.weights.h5",
}  # fmt: skip
UNDECISIVE = {"output_path", "save_every"}  # where and how often


def test_another_value_of_any_setting_begins_another_run_but_for_those_that_are_named(
        few_weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    script.build_vgg19(seed=7).save_weights("another.weights.h5")
    base = SMALL_RUN | few_weights | {
        "content_img_path": str(ROOT / "images/portrait.jpg"), "style_img_path": [IMAGES["style_img_path"]],
        "img_size": 64, "schedule": "cosine", "encoding_layers": LAYERS,
    }  # fmt: skip

    first_run = mock.Mock(side_effect=KeyboardInterrupt)  # ends main() where a run would begin
    monkeypatch.setattr(script, "Run", first_run)

    def describe(**changed):
        with pytest.raises(KeyboardInterrupt):
            script.main(**base | changed)
        _, _, fingerprints, *_ = first_run.call_args.args
        return fingerprints

    expected = describe()
    assert describe() == expected
    assert ANOTHER.keys() == DEFAULTS.keys()
    for name, value in ANOTHER.items():
        assert (describe(**{name: value}) == expected) == (name in UNDECISIVE), name
    assert describe(schedule="constant", epochs=3) == describe(schedule="constant")  # more epochs prolong such a run


# Coarse to fine


@pytest.mark.parametrize(("settings", "plan"), [
    ((1200, 400, "cosine", 100), [(300, 100), (600, 60), (1200, 36)]),
    ((400, 400, "cosine", 100), [(400, 100)]),
    ((1200, 400, "constant", 100), [(1200, 100)]),
    ((50, 32, "cosine", 9), [(32, 9), (50, 5)]),
    ((126, 32, "cosine", 1), [(32, 1), (63, 1), (126, 1)]),
], ids=["thrice the coarse size", "the coarse size", "a constant rate", "rounded epochs", "the least of each"])
def test_the_plan_of_sizes(settings, plan):
    assert script.plan_sizes(*settings) == plan


COARSE_EPOCHS = {"coarse_32": 4, ".": 2}  # at each size of the run below, by its folder


@pytest.fixture(scope="module")
def coarse_run(weights, tmp_path_factory):
    """The settings of a run: 64 x 48 pixels after 32 x 32, under a mask that is black on the left half."""
    folder = tmp_path_factory.mktemp("coarse")
    rng = np.random.default_rng(0)
    for name in ("content", "style"):
        Image.fromarray(np.uint8(rng.integers(0, 256, (48, 64, 3)))).save(folder / f"{name}.png")
    Image.fromarray(np.uint8(255 * (np.mgrid[:48, :64][1] >= 32))).save(folder / "mask.png")
    settings = weights | {
        "content_img_path": folder / "content.png", "style_img_path": folder / "style.png",
        "mask_path": folder / "mask.png", "output_path": folder / "out", "img_size": 64, "keep_aspect_ratio": True,
        "coarse_above": 40, "schedule": "cosine", "epochs": 4, "learn_rate": 0.05, "save_every": 1,
        "precision": "float32", "encoding_layers": LAYERS,
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(keras.applications, "VGG19", build_few_channels)
        script.main(**settings)
    return settings


def test_the_larger_size_starts_with_the_enlarged_smaller_picture(coarse_run):
    out = coarse_run["output_path"]
    for folder, epochs in COARSE_EPOCHS.items():
        assert list(pixels(out / folder)) == [f"image_{epoch:05}.png" for epoch in range(epochs + 1)]
    small = Image.open(out / "coarse_32/image_00004.png")
    start = Image.open(out / "image_00000.png")
    assert (small.size, start.size) == ((32, 32), (64, 48))
    enlarged = np.float64(small.resize((64, 48), Image.Resampling.BICUBIC))
    assert np.abs(start - enlarged)[:, 40:].mean() < 8  # of 255, for two ways to enlarge; the left is the content's


def test_where_the_mask_is_black_each_image_of_each_size_is_the_content_to_the_bit(coarse_run):
    content = Image.open(coarse_run["content_img_path"])
    for folder, epochs in COARSE_EPOCHS.items():
        for epoch in range(epochs + 1):
            painted = Image.open(coarse_run["output_path"] / folder / f"image_{epoch:05}.png")
            resized = np.asarray(content.resize(painted.size, Image.Resampling.LANCZOS))
            differs = (np.asarray(painted) != resized).any(2)
            edge = painted.width // 2
            assert not differs[:, : edge - 2].any()  # at 32 x 32 the mask's edge is grey
            assert differs[:, edge + 2 :].mean() > 0.9


def test_a_run_that_was_stopped_at_a_smaller_size_goes_on_to_the_same_pixels(
        coarse_run, few_channels, tmp_path, monkeypatch, capsys):
    """A third call paints nothing anew."""
    monkeypatch.setattr(script.time, "monotonic", itertools.count(0, 100).__next__)  # a checkpoint after each epoch
    settings = coarse_run | {"output_path": tmp_path}
    stop_at(monkeypatch, "image_00002.png")
    with pytest.raises(KeyboardInterrupt):
        script.main(**settings)
    assert list(pixels(tmp_path / "coarse_32")) == [f"image_{epoch:05}.png" for epoch in range(3)]
    assert not pixels(tmp_path)
    capsys.readouterr()
    for times in (1, 2):
        script.main(**settings)
        out = capsys.readouterr().out
        assert re.findall("Done: .*", out) == [f"Done: {tmp_path}/image_00002.png"]
        epochs = re.findall(r"Going on after epoch (\d+)", out)
        assert epochs == (["1"] if times == 1 else ["4", "2"])
        for folder in COARSE_EPOCHS:
            assert pixels(tmp_path / folder) == pixels(coarse_run["output_path"] / folder)


# README


def test_readme_code_runs(program, tmp_path):
    blocks = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    shutil.copy(program, tmp_path)
    shutil.copytree(ROOT / "images", tmp_path / "images")
    (tmp_path / "readme.py").write_text("\n".join(blocks), "utf-8")
    code, _, err = run_python(tmp_path, "readme.py")
    assert code == 0, err
    assert list(tmp_path.rglob("image_*.png"))


def test_readme_s_animation_has_the_images_of_the_run_alone(tmp_path, monkeypatch):
    blocks = re.findall(r"^```py\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Path("output_images").mkdir()
    for n, name in enumerate(["00000", "00001", "00002", "1", "final"]):
        Image.new("RGB", (40, 30), (50 * n, 0, 0)).save(f"output_images/image_{name}.png")
    exec(next(block for block in blocks if "save_all" in block), {})
    assert Image.open("painting.webp").n_frames == 3


def test_readme_and_requirements_say_on_what_it_runs():
    for text in (README, (ROOT / "requirements.txt").read_text("utf-8")):
        assert "3.11 to 3.13" in text and "Intel" in text


def test_values_of_quick_in_readme_are_those_of_quick():
    """It writes --content-weight 20, then "5 is `--quick`'s"."""
    marked = list(re.finditer(r"([\d.]+) is `--quick`'s", README))
    assert len(marked) == 3
    for match in marked:
        *_, flag = re.findall(r"--([a-z-]+)", README[: match.start()])
        assert float(match[1]) == script.QUICK[flag.replace("-", "_")], match[0]


def test_numbers_of_the_default_run_in_readme_are_the_constants():
    for name, pattern in (("IMG_SIZE", r"([\d,]+) pixels wide"), ("EPOCHS", r"(\d+,\d{3}) (?:epochs|times)")):
        numbers = {int(number.replace(",", "")) for number in re.findall(pattern, README)}
        assert numbers == {getattr(script, name)}, name


def test_functions_in_readme_exist():
    names = re.findall(r"`([a-z_]+)\(\)`", README)
    assert names
    for name in names:
        assert callable(getattr(script, name, None)), name
