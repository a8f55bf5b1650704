"""The network against Keras' own VGG19, weights from files, from a server on 127.0.0.1 and from fitting."""

import gc
import hashlib
import http.server
import os
import socket
import threading
import time
import weakref
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import build_few_channels, count_gradients

import script


def build_with_biases(seed=5):
    """VGG19 with biases that are not 0, so that a lost one shows."""
    vgg_model, rng = script.build_vgg19("float32", seed), np.random.default_rng(seed)
    weights = vgg_model.get_weights()
    vgg_model.set_weights([w if w.ndim > 1 else np.float32(rng.standard_normal(w.shape)) for w in weights])
    return vgg_model


def same_weights(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a.get_weights(), b.get_weights(), strict=True))


@pytest.fixture(scope="module")
def few_vgg19():
    """A network of few channels with biases; tests save it and read it back."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(keras.applications, "VGG19", build_few_channels)
        return build_with_biases()


@pytest.fixture
def empty_home(few_channels, monkeypatch, tmp_path):
    """Networks of few channels, and a home folder in which Keras has no weights."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.delenv("KERAS_HOME", raising=False)


# The model


@pytest.fixture(scope="module")
def keras_vgg19():
    """Keras' own VGG19, and the arguments by which it would download its weights. Nothing is downloaded."""
    asked = []
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("keras.src.utils.file_utils.get_file", lambda *args, **kwargs: asked.append((args, kwargs)))
        monkeypatch.setattr(keras.Model, "load_weights", lambda model, path: None)
        return keras.applications.VGG19(include_top=False, input_shape=(None, None, 3)), asked


def test_vgg19_computes_what_keras_own_does(keras_vgg19):
    ours, (theirs, _) = build_with_biases(), keras_vgg19
    assert [layer.name for layer in ours.layers[1:]] == [layer.name for layer in theirs.layers[1:]]
    theirs.set_weights(ours.get_weights())
    x = np.float32(np.random.default_rng(0).uniform(-120, 120, (1, 64, 32, 3)))  # Keras drops what is above a multiple
    np.testing.assert_allclose(ours(x), theirs(x), rtol=1e-4, atol=1e-3)
    assert not ours.trainable_weights
    gradients = []
    for vgg_model in (ours, theirs):
        with tf.GradientTape() as tape:
            tape.watch(tensor := tf.constant(x))
            y = tf.reduce_sum(vgg_model(tensor) ** 2)
        gradients.append(tape.gradient(y, tensor))
    np.testing.assert_allclose(*gradients, rtol=1e-3, atol=1e-4 * np.abs(gradients[1]).max())


def test_the_weights_to_download_are_those_of_keras(keras_vgg19):
    [((name, url), options)] = keras_vgg19[1]
    assert name == script.WEIGHTS_NAME
    assert url == script.WEIGHTS_URL
    assert options["file_hash"] == script.WEIGHTS_HASH


def test_the_far_edges_of_a_picture_are_seen(few_channels):
    """Keras' own VGG19 drops up to 31 pixels there."""
    assert script.build_vgg19()(np.zeros((1, 33, 65, 3))).shape == (1, 2, 3, 8)


@pytest.mark.parametrize(("platform", "gpus"), [("darwin", []), ("linux", ["a GPU"])], ids=["a Mac", "a GPU"])
def test_where_there_is_no_onednn_convolutions_are_keras_own(monkeypatch, platform, gpus):
    x = np.float32(np.random.default_rng(0).normal(size=(1, 9, 8, 5)))
    conv = script.FrozenConv2D(7, 3, padding="same", activation="relu")
    ours = conv(x)
    monkeypatch.setattr(script, "convolve", lambda *_: pytest.fail("it is not Keras' own"))
    monkeypatch.setattr(script.sys, "platform", platform)
    monkeypatch.setattr(script.tf.config, "list_physical_devices", lambda kind: gpus)
    np.testing.assert_allclose(conv(x), ours, atol=1e-5)
    assert np.min(ours) == 0


def test_the_seed_gives_each_layer_values_of_its_own(few_channels):
    vgg_model = script.build_vgg19(seed=3)
    a, b = (vgg_model.get_layer(name).kernel.numpy() for name in ("block1_conv2", "block5_conv4"))
    assert a.shape == b.shape and not np.array_equal(a, b)
    assert same_weights(vgg_model, script.build_vgg19(seed=np.int64(3)))
    assert not same_weights(vgg_model, script.build_vgg19(seed=4))


def test_a_new_network_lets_go_of_earlier_ones(empty_home, few_vgg19, tmp_path):
    """Python alone would keep them for long, since Keras' models refer to themselves."""
    save_legacy_h5(few_vgg19, tmp_path / "vgg19.h5")
    earlier = []
    gc.disable()
    try:
        for _ in range(3):
            vgg_model = script.get_vgg_model("local", tmp_path, precision="float32")
            tf.function(script.get_vgg_encodings(vgg_model))(tf.zeros((1, 16, 16, 3)))
            earlier.append(weakref.ref(vgg_model))
        assert earlier[0]() is None
    finally:
        gc.enable()


# Precision


@pytest.mark.parametrize(("ratio", "precision"), [(0.79, "mixed_bfloat16"), (0.81, "float32")])
def test_precision_auto_takes_what_is_faster(monkeypatch, ratio, precision):
    disturbed = [9, 1, 9, 1, 0.01, 1, 0.01, 1]  # bfloat16 and float32 in turns
    durations = iter([*disturbed, *[ratio, 1] * 5])
    monkeypatch.setattr(script.timeit, "timeit", lambda run, number: next(durations))
    assert script.choose_precision("auto") == precision
    for asked_for in ("float32", "mixed_bfloat16"):
        assert script.choose_precision(asked_for) == asked_for  # nothing is measured


def test_choosing_a_precision_leaves_nothing_in_tensorflows_registry(monkeypatch):
    """On a small picture, because emulated bfloat16 is slow."""
    small = {(1, 128, 128, 128): (1, 8, 8, 128)}
    monkeypatch.setattr(script.tf, "ones", lambda shape, dtype: tf.zeros(small.get(shape, shape), dtype))
    assert script.choose_precision("auto") in ("float32", "mixed_bfloat16")
    before = count_gradients()
    script.choose_precision("auto")
    assert count_gradients() == before


def test_another_precision_is_refused_before_work(tmp_path):
    with pytest.raises(ValueError, match="PRECISION must be 'auto' or 'float32' or 'mixed_bfloat16'"):
        script.get_vgg_model("download", tmp_path / "new", precision="float16")
    assert not (tmp_path / "new").exists()


# Encodings


BAD_LAYERS = {
    "one layer": [("block5_conv4", 1)],
    "no such block": [("block1_conv1", 1), ("block6_conv1", 1)],
    "no such convolution": [("block1_conv3", 1), ("block5_conv4", 1)],
    "a longer name": [("block1_conv1", 1), ("block5_conv41", 1)],
    "a pool": [("block1_conv1", 1), ("block5_pool", 1)],
    "a weight of 0": [("block1_conv1", 0), ("block5_conv4", 1)],
    "a weight of NaN": [("block1_conv1", float("nan")), ("block5_conv4", 1)],
    "a weight above 1e6": [("block1_conv1", 1), ("block5_conv4", 2e6)],
    "a weight as text": [("block1_conv1", "1"), ("block5_conv4", 1)],
    "names alone": ["block1_conv1", "block5_conv4"],
}


@pytest.mark.parametrize("layers", BAD_LAYERS.values(), ids=BAD_LAYERS)
def test_bad_layers_are_refused_with_one_line(few_vgg19, layers):
    with pytest.raises(ValueError, match="ENCODING_LAYERS must be .*, then the content layer.* Received: ") as error:
        script.get_vgg_encodings(few_vgg19, layers)
    assert "\n" not in str(error.value)


def test_encodings_are_the_layers_of_the_preprocessed_picture(few_vgg19):
    layers = [("block3_conv2", 1), ("block1_conv1", 1), ("block5_conv4", 1)]
    img = np.float32(np.random.default_rng(0).uniform(0, 1, (1, 45, 33, 3)))
    encodings = script.get_vgg_encodings(few_vgg19, layers)(img)
    x = keras.applications.vgg19.preprocess_input(img * 255, data_format="channels_last")
    for (name, _), encoding in zip(layers, encodings, strict=True):
        oracle = keras.Model(few_vgg19.input, few_vgg19.get_layer(name).output)(x)
        np.testing.assert_allclose(encoding, oracle, rtol=1e-4, atol=1e-3)


# Weights from files


def save_legacy_h5(vgg_model, path):
    """The layout of the file that Keras publishes."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.name.encode() for layer in vgg_model.layers]
        for layer in vgg_model.layers:
            group, weights = file.create_group(layer.name), dict(zip("Wb", layer.get_weights(), strict=False))
            group.attrs["weight_names"] = [f"{layer.name}_{kind}_1:0".encode() for kind in weights]
            for kind, weight in weights.items():
                group[f"{layer.name}_{kind}_1:0"] = weight


def copy_with_keras_layers(vgg_model):
    """In some files Keras names arrays by the class of their layer."""
    x = inputs = keras.Input((None, None, 3))
    for layer in vgg_model.layers[1:]:
        copy = keras.layers.MaxPooling2D()
        if "conv" in layer.name:
            copy = keras.layers.Conv2D(layer.filters, 3, padding="same", name=layer.name)
        x = copy(x)
    model = keras.Model(inputs, x)
    model.set_weights(vgg_model.get_weights())
    return model


def add_top(vgg_model):
    """What stands above the convolutions, with one more of them."""
    model = copy_with_keras_layers(vgg_model)
    x = keras.layers.Conv2D(7, 1, name="top_conv")(model.output)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(model.inputs, keras.layers.Dense(5, name="predictions")(x))


def save_saved_model(vgg_model, path):
    """A folder in the format of TensorFlow, with the names that Keras 2 gave, and a slot of its optimizer."""
    root = tf.train.Checkpoint()
    convolutions = [layer for layer in vgg_model.layers if "conv" in layer.name]
    for n, layer in enumerate(convolutions):
        kernel, bias = (tf.Variable(w) for w in layer.get_weights())
        setattr(root, f"layer_with_weights-{n}", tf.train.Checkpoint(kernel=kernel, bias=bias))
    top = tf.train.Checkpoint(kernel=tf.Variable(tf.ones((4, 5))), bias=tf.Variable(tf.ones(5)))
    setattr(root, "layer_with_weights-16", top)
    root.keras_api = tf.train.Checkpoint(optimizer=tf.train.Checkpoint(m=tf.Variable(tf.ones((3, 3, 3, 4)))))
    root.write(str(path / "variables" / "variables"))
    (path / "saved_model.pb").write_bytes(b"code that nobody runs")


def export(vgg_model, path):
    """As Keras 3 exports it."""
    copy_with_keras_layers(vgg_model).export(path, verbose=False)


def save_archive(vgg_model, path):
    vgg_model.save(path.with_suffix(".keras"))
    path.with_suffix(".keras").rename(path)


FORMATS = {
    "legacy.H5": save_legacy_h5,
    "new.weights.h5": lambda vgg_model, path: vgg_model.save_weights(path),
    "new-with-top.weights.h5": lambda vgg_model, path: add_top(vgg_model).save_weights(path),
    "archive.KERAS": save_archive,
    "saved_model": save_saved_model,
    "exported": export,
}


def save_vgg16(path):
    with h5py.File(path, "w") as file:
        for n in range(13):
            file[f"conv2d_{n}/kernel"], file[f"conv2d_{n}/bias"] = np.zeros((3, 3, 8 if n else 3, 8)), np.zeros(8)


def find_file(mode, path):
    file, _ = script.find_weights(mode, path)
    return file


def put_wrong_files(folder):
    """What people have beside the weights, all of it sorted before them."""
    save_vgg16(folder / "a_vgg16.weights.h5")
    (folder / "._vgg19.weights.h5").write_bytes(b"\0\5\x16\7of a Mac")
    (folder / "b_cut.h5").write_bytes(b"\x89HDF\r\n\x1a\n cut")
    (folder / "c_folder.h5").mkdir()
    for suffix in (".pth", ".PT", ".mat", ".npz", ".onnx", ".safetensors"):
        (folder / f"d_vgg19{suffix}").write_bytes(b"of another library")
    (folder / "README.md").write_text("not weights")


@pytest.mark.parametrize("name", FORMATS)
def test_weights_of_each_format_are_found_beside_others_and_read(empty_home, few_vgg19, tmp_path, capsys, name):
    put_wrong_files(tmp_path)
    path = tmp_path / f"z-{name}"
    FORMATS[name](few_vgg19, path)
    for mode in ("local", "auto"):
        assert find_file(mode, tmp_path) == path
        assert find_file(mode, path) == path
    assert capsys.readouterr() == ("", "")
    for ours, theirs in zip(script.read_weights(path), few_vgg19.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_network_gets_the_weights_of_a_file_that_is_named_from_the_home_folder(empty_home, few_vgg19, tmp_path):
    """Its sixteen layers have numbers in their names there. As texts, conv2d_10 comes before conv2d_2."""
    (tmp_path / "home").mkdir()
    copy_with_keras_layers(few_vgg19).save_weights(tmp_path / "home/mine.weights.h5")
    assert same_weights(script.get_vgg_model("local", "~/mine.weights.h5", precision="float32"), few_vgg19)


def test_of_two_that_fit_the_first_by_its_name_is_taken(empty_home, few_vgg19, tmp_path):
    for name in ("b.h5", "a.h5", script.WEIGHTS_NAME):
        save_legacy_h5(few_vgg19, tmp_path / name)
    assert find_file("local", tmp_path) == tmp_path / "a.h5"


def test_fit_takes_no_file(empty_home, few_vgg19, tmp_path):
    save_legacy_h5(few_vgg19, tmp_path / "vgg19.h5")
    assert script.find_weights("fit", tmp_path / "vgg19.h5") == (None, None)


# Weights from files that do not fit


def replace_first_array(path, replace):
    """Save VGG19's weights beside a path and, but for the first array, at the path."""
    script.build_vgg19().save_weights(secret := path.with_name(f"secret.{path.name}"))
    path.write_bytes(secret.read_bytes())
    with h5py.File(path, "r+") as file:
        names = []
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        del file[names[0]]
        replace(file, names[0], secret)


def save_link(path):
    replace_first_array(path, lambda file, name, secret: file.update({name: h5py.ExternalLink(secret, name)}))


def save_other_kernel(path):
    """The first kernel is of 7x7."""
    replace_first_array(path, lambda file, name, secret: file.update({name: np.zeros((7, 7, 3, 8))}))


def save_lambda_layer(path):
    x = keras.Input((None, None, 3))
    code = keras.layers.Lambda(lambda x: Path(f"{__file__}.pwned").touch() or x, output_shape=(None, None, 3))
    keras.Model(x, code(x)).save(path)


def save_cut(path):
    """All but the last thousandth of a file."""
    FORMATS[path.name.removeprefix("cut-")](script.build_vgg19(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(0.999 * len(whole))])


def save_cut_saved_model(path):
    save_saved_model(script.build_vgg19(), path)
    for file in (path / "variables").glob("*.data*"):
        file.write_bytes(file.read_bytes()[:9999])


BAD_FILES = {  # name: how it is made
    "link.weights.h5": save_link,
    "kernel_of_7.weights.h5": save_other_kernel,
    "lambda.keras": save_lambda_layer,
    "text.keras": lambda path: path.write_text("weights"),
    "cut-legacy.H5": save_cut,
    "cut-archive.KERAS": save_cut,
    "cut_saved_model": save_cut_saved_model,
    "empty_folder": lambda path: path.mkdir(),
    "missing.h5": lambda path: None,
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_weights_are_refused_with_one_line(empty_home, tmp_path, capfd, name):
    path = tmp_path / name
    BAD_FILES[name](path)
    capfd.readouterr()
    with pytest.raises(OSError, match="VGG_NETWORK_PATH must be a weights file") as error:
        script.find_weights("local", path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert not Path(f"{__file__}.pwned").exists()
    assert capfd.readouterr() == ("", "")  # HDF5 prints nothing either


@pytest.mark.parametrize("name", ["vgg16.weights.h5", "missing.Keras", "vgg19.pth"])
def test_a_file_that_auto_was_given_by_name_must_fit(empty_home, tmp_path, name):
    save_vgg16(tmp_path / "vgg16.weights.h5")
    (tmp_path / "vgg19.pth").write_bytes(b"of another library")
    with pytest.raises(OSError, match=f"{name}.* VGG_NETWORK_PATH must be a weights file"):
        script.find_weights("auto", tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ["vgg16.weights.h5", "vgg19.pth"]


def test_where_none_fits_a_line_names_them_all(empty_home, few_vgg19, tmp_path, monkeypatch, capsys):
    folder, downloaded = tmp_path / "model", tmp_path / "downloaded.h5"
    folder.mkdir()
    put_wrong_files(folder)
    with pytest.raises(OSError) as error:
        script.find_weights("local", folder)
    save_legacy_h5(few_vgg19, downloaded)
    monkeypatch.setattr(script, "download_weights", lambda folder: downloaded)
    assert find_file("auto", folder) == downloaded
    warning = capsys.readouterr().err.strip()
    assert warning.startswith("Warning: No weights of VGG19 in ")
    for line in (str(error.value), warning):
        named = {name for name in os.listdir(folder) if name in line}
        assert named == {"a_vgg16.weights.h5", "b_cut.h5", "c_folder.h5"}
        assert "\n" not in line


def test_an_error_of_many_lines_is_told_in_one(tmp_path, monkeypatch):
    def fail(path):
        raise OSError("an error\n  of many lines")

    monkeypatch.setattr(h5py, "File", fail)
    with pytest.raises(OSError, match="an error of many lines"):
        script.find_weights("local", tmp_path / "a.h5")


# Weights in Keras' cache and from a server


def test_auto_looks_into_keras_own_cache(empty_home, few_vgg19, tmp_path, monkeypatch, capsys):
    cache, folder = tmp_path / "home/.keras/models", tmp_path / "model"
    cache.mkdir(parents=True)
    folder.mkdir()
    without_top, with_top = cache / script.WEIGHTS_NAME, cache / script.WEIGHTS_NAME.replace("_notop", "")
    downloaded = tmp_path / "downloaded.h5"
    save_legacy_h5(few_vgg19, downloaded)
    monkeypatch.setattr(script, "download_weights", lambda folder: downloaded)
    save_legacy_h5(few_vgg19, cache / "other.h5")  # of no model of Keras
    assert find_file("auto", folder) == downloaded and capsys.readouterr() == ("", "")
    without_top.write_bytes(b"damaged")
    assert find_file("auto", folder) == downloaded
    assert str(without_top) in capsys.readouterr().err
    save_legacy_h5(few_vgg19, with_top)
    assert find_file("auto", folder) == with_top
    save_legacy_h5(few_vgg19, without_top)
    assert find_file("auto", folder) == without_top
    with pytest.raises(OSError, match="VGG_NETWORK_PATH"):
        script.find_weights("local", folder)
    assert find_file("download", folder) == downloaded
    elsewhere = tmp_path / "elsewhere/models" / script.WEIGHTS_NAME
    elsewhere.parent.mkdir(parents=True)
    without_top.rename(elsewhere)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "elsewhere"))
    assert find_file("auto", folder) == elsewhere


class Handler(http.server.BaseHTTPRequestHandler):
    """Sends what the server holds as the test wants it: "whole", "cut" to a half, "stall" after a half, or "no"."""

    def do_GET(self):
        server = self.server
        server.requests += 1
        if server.answer == "no":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(server.body)))
        self.end_headers()
        half = server.body[: len(server.body) // 2]
        self.wfile.write(server.body if server.answer == "whole" else half)
        if server.answer == "stall":
            server.test_has_ended.wait(10)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(empty_home, few_vgg19, tmp_path_factory, monkeypatch):
    """A server of a file that fits, in place of the one of Keras. Its `answer` and `body` may be changed."""
    save_legacy_h5(few_vgg19, path := tmp_path_factory.mktemp("server") / "served.h5")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.body, server.answer, server.requests = path.read_bytes(), "whole", 0
        server.test_has_ended = threading.Event()
        monkeypatch.setattr(script, "WEIGHTS_HASH", hashlib.md5(server.body).hexdigest())
        monkeypatch.setattr(script, "WEIGHTS_URL", f"http://127.0.0.1:{server.server_port}/{script.WEIGHTS_NAME}")
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        yield server
        server.test_has_ended.set()
        server.shutdown()


def test_download_keeps_the_file_for_the_next_run(server, tmp_path):
    for _ in range(2):
        path = script.download_weights(tmp_path / "new" / "model")
        assert path.read_bytes() == server.body and server.requests == 1
    assert list((tmp_path / "new" / "model").iterdir()) == [path]
    assert path.name == script.WEIGHTS_NAME


def test_download_replaces_a_file_with_a_wrong_hash(server, tmp_path):
    """As a download leaves it whose process was killed."""
    (tmp_path / script.WEIGHTS_NAME).write_bytes(server.body[:-1])
    assert find_file("auto", tmp_path).read_bytes() == server.body


@pytest.mark.parametrize("answer", ["cut", "no"])
def test_failed_download_leaves_nothing(server, tmp_path, answer):
    server.answer = answer
    with pytest.raises(OSError, match=f"{script.WEIGHTS_URL} cannot be downloaded.* into .*--vgg-mode fit") as error:
        script.download_weights(tmp_path)
    assert "\n" not in str(error.value) and list(tmp_path.iterdir()) == []


def test_another_file_than_keras_own_is_no_download(server, tmp_path):
    """As the page is with which a hotel answers."""
    server.body = b"<html>Please log in</html>"
    for _ in range(2):
        with pytest.raises(OSError, match="cannot be downloaded.*Incomplete or corrupted"):
            script.download_weights(tmp_path)


def test_a_download_that_stalls_ends(server, tmp_path, monkeypatch):
    """It waits for 30 seconds, here for half a second. Afterwards the process has the time-out that it had."""
    real, asked = socket.setdefaulttimeout, []

    def set_shorter(seconds):
        asked.append(seconds)
        real(0.5 if seconds == 30 else seconds)

    monkeypatch.setattr(socket, "setdefaulttimeout", set_shorter)
    server.answer = "stall"
    start = time.monotonic()
    with pytest.raises(OSError, match="cannot be downloaded"):
        script.download_weights(tmp_path / "model")
    assert time.monotonic() - start < 4 and os.listdir(tmp_path / "model") == []
    assert asked == [30, None] and socket.getdefaulttimeout() is None


def test_download_needs_a_folder(empty_home, tmp_path):
    (tmp_path / "name").touch()
    with pytest.raises(OSError, match="cannot be downloaded: .*File exists: .*/name"):
        script.find_weights("download", tmp_path / "name")


def test_no_network_is_an_error_for_download_and_one_warning_for_auto(empty_home, tmp_path, imgs, capsys, monkeypatch):
    with pytest.raises(OSError, match=f"{script.WEIGHTS_URL} cannot be downloaded"):
        script.get_vgg_model("download", tmp_path)
    fits = []
    monkeypatch.setattr(script, "fit_weights", lambda *args: fits.append(args))
    capsys.readouterr()
    vgg_model = script.get_vgg_model("auto", tmp_path, [*imgs], "mixed_bfloat16", seed=7)
    warning = capsys.readouterr().err
    assert fits == [(vgg_model, [*imgs], 7)]
    assert warning.startswith("Warning: Filters are fitted to the images, which paint a plainer picture: http")
    assert script.WEIGHTS_URL in warning and warning.count("\n") == 1
    assert vgg_model.layers[1].compute_dtype == "bfloat16" and same_weights(vgg_model, script.build_vgg19(seed=7))


# Fitting


def fit(imgs, seed):
    vgg_model = script.build_vgg19(seed=seed)
    script.fit_weights(vgg_model, imgs, seed)
    return vgg_model


@pytest.fixture(scope="module")
def pictures(imgs):
    """Two pictures of 48 x 32 pixels, mirrored below, so that a row taken for a column shows."""
    return [np.concatenate([img, img[:, ::-1][:, :16]], 1) for img in imgs]


@pytest.fixture(scope="module")
def fitted(pictures):
    """Networks that were fitted with two seeds."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(keras.applications, "VGG19", build_few_channels)
        return {seed: fit(pictures, seed) for seed in (3, 4)}


def responses(vgg_model, imgs):
    """(layer, its responses before ReLU to each inner 3x3 patch, as rows of all images) for each convolution."""
    xs = [np.float32(script.preprocess(tf.constant(img))) for img in imgs]
    for layer in vgg_model.layers[1:]:
        if "conv" in layer.name:
            rs = [tf.nn.conv2d(x, layer.kernel, 1, "VALID") + layer.bias for x in xs]
            yield layer, np.concatenate([np.reshape(r, (-1, layer.filters)) for r in rs])
        xs = [layer(x) for x in xs]


def test_fitted_responses_have_unit_variance_and_the_bias(few_channels, fitted, pictures):
    """But for what 10,000 random patches tell of a layer."""
    untouched = [layer for layer in script.build_vgg19(seed=3).layers if "conv" in layer.name]
    for (layer, r), before in zip(responses(fitted[3], pictures), untouched, strict=True):
        if layer.name < "block4_conv2":
            np.testing.assert_allclose(r.mean(0), 2 if "block1" in layer.name else 0.5, atol=0.06)
            np.testing.assert_allclose(r.std(0), 1, atol=0.06)
        else:
            assert same_weights(layer, before)


def test_fitted_filters_are_those_of_zca_and_spherical_k_means(fitted, pictures):
    """Coates and Ng's recipe in float64, with ZCA by eigenvectors where fit_weights() takes Cholesky's factor."""
    rng = np.random.default_rng(4)
    patches = []
    for img in pictures:
        x = keras.applications.vgg19.preprocess_input(np.float64(img) * 255, data_format="channels_last")
        patches.append(np.lib.stride_tricks.sliding_window_view(x[0], (3, 3, 3))[:, :, 0])
    corners = [tuple(rng.integers(p.shape[:2], size=(5000, 2)).T) for p in patches]
    p = np.concatenate([p[corner].reshape(5000, 27) for p, corner in zip(patches, corners, strict=True)])
    p -= p.mean(0)
    eigenvalues, axes = np.linalg.eigh(p.T @ p / len(p))
    zca = axes / np.sqrt(eigenvalues + 0.02 * np.sqrt(np.sum(eigenvalues**2))) @ axes.T
    p = p @ zca
    p /= np.linalg.norm(p, axis=1, keepdims=True)
    centroids = p[rng.choice(len(p), 8, replace=False)]
    for _ in range(10):
        nearest = np.argmax(p @ centroids.T, 1)
        centroids = np.array([p[nearest == k].sum(0) + 1e-6 * centroids[k] for k in range(8)])
        centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    filters = centroids @ zca
    ours = fitted[4].get_layer("block1_conv1").kernel.numpy().reshape(27, 8).T
    cosine = np.sum(filters * ours, 1) / np.linalg.norm(filters, axis=1) / np.linalg.norm(ours, axis=1)
    assert np.sort(cosine)[3:].min() > 0.99  # float32 may send a patch on a border to the other side


def test_fit_is_set_by_the_seed(few_channels, fitted, pictures):
    assert same_weights(fit(pictures, 3), fitted[3]) and not same_weights(fitted[3], fitted[4])


def test_fit_takes_images_of_any_size(few_channels):
    flat = np.full((1, 32, 32, 3), 0.3, np.float32)
    noise = np.random.default_rng(0).uniform(0, 1, (1, 40, 61, 3))
    for imgs in ([noise, flat], [flat, flat]):
        for w in fit(imgs, 0).get_weights():
            assert np.isfinite(w).all()


def test_patches_of_one_flat_colour_have_a_whitening(few_channels):
    assert np.isfinite(script.get_whitening(np.zeros((20, 27), np.float32))).all()


def test_fit_needs_images(few_channels):
    with pytest.raises(ValueError, match="imgs"):
        script.get_vgg_model("fit")
