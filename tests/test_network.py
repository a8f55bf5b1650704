"""The network against Keras' own VGG19, weights from files, from a server on 127.0.0.1 and from fitting."""

import gc
import hashlib
import http.server
import os
import pickle
import socket
import sys
import threading
import time
import timeit
import weakref
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

import script

SMALL = ((4, 2), (4, 2), (8, 4), (8, 4), (8, 4))  # VGG19_BLOCKS of a network whose files are kilobytes


@pytest.fixture
def small(monkeypatch, tmp_path):
    """VGG19 with few channels, an empty cache of Keras, and no server to download from."""
    monkeypatch.setattr(script, "VGG19_BLOCKS", SMALL)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))


def random_vgg19(seed=5):
    """VGG19 with biases too, so that a lost one shows."""
    vgg_model, rng = script.build_vgg19("float32", seed), np.random.default_rng(seed)
    weights = vgg_model.get_weights()
    vgg_model.set_weights([w if w.ndim > 1 else np.float32(rng.standard_normal(w.shape)) for w in weights])
    return vgg_model


def same_weights(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a.get_weights(), b.get_weights(), strict=True))


def is_read(path):
    """Whether `path` holds the weights of random_vgg19()."""
    return same_weights(script.get_vgg_model("local", path, precision="float32"), random_vgg19())


# The model


def test_vgg19_computes_what_keras_own_does():
    ours = random_vgg19()
    theirs = keras.applications.VGG19(include_top=False, weights=None, input_shape=(None, None, 3))
    assert [layer.name for layer in ours.layers[1:]] == [layer.name for layer in theirs.layers[1:]]
    theirs.set_weights(ours.get_weights())
    x = np.float32(np.random.default_rng(0).uniform(-120, 120, (1, 48, 41, 3)))
    np.testing.assert_allclose(ours(x), theirs(x), rtol=1e-4, atol=1e-3)
    assert not ours.trainable_weights
    gradients = []
    for vgg_model in (ours, theirs):
        with tf.GradientTape() as tape:
            tape.watch(tensor := tf.constant(x))
            y = tf.reduce_sum(vgg_model(tensor) ** 2)
        gradients.append(tape.gradient(y, tensor))
    np.testing.assert_allclose(*gradients, rtol=1e-3, atol=1e-4 * np.abs(gradients[1]).max())


@pytest.mark.parametrize("platform", ["darwin", "linux"])
def test_where_there_is_no_onednn_convolutions_are_keras_own(monkeypatch, platform):
    x, conv = np.float32(np.random.default_rng(0).normal(size=(1, 9, 8, 5))), script.Conv2D(7)
    ours = conv(x)
    monkeypatch.setattr(script, "convolve", lambda *_: pytest.fail("it is not Keras' own"))
    monkeypatch.setattr(script.sys, "platform", platform)
    gpus = [] if platform == "darwin" else ["a GPU"]
    monkeypatch.setattr(script.tf.config, "list_physical_devices", lambda kind: gpus)
    np.testing.assert_allclose(conv(x), ours, atol=1e-5)
    assert np.min(ours) == 0


@pytest.mark.parametrize("option", [{"strides": 2}, {"padding": "valid"}, {"activation": "tanh"}, {"dilation_rate": 2}])
def test_a_convolution_refuses_what_it_would_ignore(option):
    with pytest.raises(TypeError):
        script.Conv2D(4, **option)


def test_keras_data_format_does_not_matter():
    try:
        keras.config.set_image_data_format("channels_first")
        assert script.build_vgg19()(np.zeros((1, 32, 64, 3))).shape == (1, 1, 2, 512)
    finally:
        keras.config.set_image_data_format("channels_last")


def count_gradients():
    from tensorflow.python.framework import ops  # the registry that keeps a traced custom gradient, and its graph

    return len(ops.gradient_registry.list())


@pytest.mark.parametrize("size", [(20, 20), (24, 17)])
def test_networks_leave_nothing_in_tensorflows_registry(small, size):
    def take_step():
        encoding_model = script.get_vgg_encodings(script.build_vgg19("float32"))

        @tf.function
        def step(img):
            with tf.GradientTape() as tape:
                tape.watch(img)
                cost = tf.add_n([tf.reduce_sum(encoding) for encoding in encoding_model(img)])
            return tape.gradient(cost, img)

        return step(tf.random.uniform((1, *size, 3))).numpy()

    take_step()
    take_step()
    before = count_gradients()
    take_step()
    assert count_gradients() == before


@pytest.mark.parametrize("gpus", [[], ["a GPU"]])
def test_a_new_network_lets_go_of_earlier_ones(small, tmp_path, monkeypatch, gpus):
    """Python alone would keep them for long, since Keras' models refer to themselves."""
    monkeypatch.setattr(script.tf.config, "list_physical_devices", lambda kind: gpus)
    save_legacy_h5(random_vgg19(), tmp_path / "vgg19.h5")
    earlier = []
    gc.disable()
    try:
        for _ in range(3):
            vgg_model = script.get_vgg_model("local", tmp_path, precision="float32")
            tf.function(script.get_vgg_encodings(vgg_model))(tf.zeros((1, 16, 16, 3)))
            earlier.append(weakref.ref(vgg_model))
            assert [reference() for reference in earlier[:-2]] == [None] * len(earlier[:-2])
    finally:
        gc.enable()


@pytest.mark.parametrize("ratio, precision", [(0.5, "mixed_bfloat16"), (0.79, "mixed_bfloat16"), (0.81, "float32")])
def test_precision_auto_takes_what_is_faster(monkeypatch, ratio, precision):
    durations = iter([[9, ratio, 1.5], [2, 1.0, 5]])  # of bfloat16, then of float32; the shortest counts
    monkeypatch.setattr(script.timeit, "repeat", lambda run, **options: next(durations))
    monkeypatch.setattr(script.tf, "ones", lambda shape: tf.zeros((1, 4, 4, 128)))
    assert script.choose_precision("auto") == precision
    assert {script.choose_precision(asked) for asked in ("float32", "mixed_bfloat16")} == {"float32", "mixed_bfloat16"}


@pytest.fixture
def timed_once(monkeypatch):
    """Emulated bfloat16 is slow."""
    monkeypatch.setattr(script.timeit, "repeat", lambda function, number, repeat: [timeit.timeit(function, number=1)])


def test_choosing_a_precision_leaves_nothing_in_tensorflows_registry(timed_once):
    counts = [script.choose_precision("auto") and count_gradients() for _ in range(3)]
    assert counts[1] == counts[2]


def test_precision_auto_works_where_functions_run_eagerly(timed_once):
    tf.config.run_functions_eagerly(True)
    try:
        assert script.choose_precision("auto") in ("float32", "mixed_bfloat16")
    finally:
        tf.config.run_functions_eagerly(False)


BAD_LAYERS = [
    [], [("block5_conv4", 1)], [("block1_conv1", 1), ("block6_conv1", 1)], [("block1_conv1", 1), ("block5_pool", 1)],
    [("block1_conv1", -1), ("block5_conv4", 1)], [("block1_conv1", float("nan")), ("block5_conv4", 1)],
    [("block1_conv1", 1), ("block5_conv4", 2e6)], [("block1_conv1", "1"), ("block5_conv4", 1)],
    ["block1_conv1", "block5_conv4"], [("block1_conv1",), ("block5_conv4",)], None, 3, "block1_conv1:1",
    [(["block1_conv1"], 1), ("block5_conv4", 1)],
]


@pytest.mark.parametrize("layers", BAD_LAYERS)
def test_bad_layers_are_refused_with_one_line(small, layers):
    with pytest.raises(ValueError, match="ENCODING_LAYERS must be .*, then the content layer.* Received: ") as error:
        script.get_vgg_encodings(script.build_vgg19(), layers)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", [(32, 32), (45, 33)])
def test_encodings_are_the_layers_of_the_preprocessed_picture(vgg_model, size):
    layers = [("block3_conv2", 1), ("block1_conv1", 1), ("block5_conv4", 1)]
    img = np.float32(np.random.default_rng(0).uniform(0, 1, (1, *size, 3)))
    encodings = script.get_vgg_encodings(vgg_model, layers)(img)
    x = keras.applications.vgg19.preprocess_input(img * 255, data_format="channels_last")
    for (name, _), encoding in zip(layers, encodings, strict=True):
        oracle = keras.Model(vgg_model.inputs, vgg_model.get_layer(name).output)(x)
        np.testing.assert_allclose(encoding, oracle, rtol=1e-4, atol=1e-3)


def test_bfloat16_network_gives_float32_encodings_near_float32s(vgg_model, encoding_model, imgs):
    half = script.build_vgg19("mixed_bfloat16", seed=1)
    assert same_weights(half, vgg_model) and all(w.dtype == "float32" for w in half.weights)
    pairs = zip(script.get_vgg_encodings(half)(imgs[0]), encoding_model(imgs[0]), strict=True)
    for (name, _), (a, b) in zip(script.ENCODING_LAYERS, pairs, strict=True):
        assert a.dtype == "float32" and not np.array_equal(a, b)
        before = [layer.name for layer in vgg_model.layers if "conv" in layer.name]
        roundings = before.index(name) + 2  # of the picture and in each layer, by 2^-8 at most
        assert np.linalg.norm(a - b) < 2**-8 * roundings * np.linalg.norm(b)


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


def save_full_h5(vgg_model, path):
    """A whole model, as Keras 2 saved it: its arrays lie in `model_weights`, those of its optimizer beside them."""
    save_legacy_h5(vgg_model, path)
    with h5py.File(path, "r+") as file:
        weights = file.create_group("model_weights")
        for name in [name for name in file if name != "model_weights"]:
            file.move(name, f"model_weights/{name}")
        file["optimizer_weights/a_block1_conv1/kernel:0"] = weights["block1_conv1/block1_conv1_W_1:0"][()]


def add_top(vgg_model):
    x = keras.layers.GlobalAveragePooling2D()(vgg_model.output)
    x = keras.layers.Dense(6, name="fc1")(x)
    return keras.Model(vgg_model.inputs, keras.layers.Dense(5, name="predictions")(x))


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
    x = keras.Input((None, None, 3))
    layers = vgg_model.layers[1:]
    copies = [keras.layers.Conv2D(layer.filters, 3, padding="same") if "conv" in layer.name
              else keras.layers.MaxPooling2D() for layer in layers]
    model = keras.Sequential([x, *copies])
    model.set_weights(vgg_model.get_weights())
    model.export(path, verbose=False)


FORMATS = {
    "legacy.h5": save_legacy_h5,
    "CAPITALS.H5": save_legacy_h5,
    "full.h5": save_full_h5,
    "legacy-with-top.h5": lambda vgg_model, path: save_legacy_h5(add_top(vgg_model), path),
    "new.weights.h5": lambda vgg_model, path: vgg_model.save_weights(path),
    "new-with-top.weights.h5": lambda vgg_model, path: add_top(vgg_model).save_weights(path),
    "archive.keras": lambda vgg_model, path: vgg_model.save(path),
    "saved_model": save_saved_model,
    "exported": export,
}


@pytest.mark.parametrize("name", FORMATS)
def test_weights_are_read_from_each_format(small, tmp_path, name):
    FORMATS[name](random_vgg19(), tmp_path / name)
    assert is_read(tmp_path / name) and is_read(tmp_path)
    assert script.find_weights("auto", tmp_path) == tmp_path / name


def test_the_folder_itself_may_be_a_saved_model(small, tmp_path):
    save_saved_model(random_vgg19(), tmp_path / "model")
    assert is_read(tmp_path / "model") and script.find_weights("auto", tmp_path / "model") == tmp_path / "model"


def test_layers_are_taken_by_the_numbers_in_their_names(small, tmp_path):
    """Of equal shape, block4's and block5's convolutions could be taken for one another."""
    vgg_model = random_vgg19()
    arrays = {f"conv2d_{n}": layer.get_weights() for n, layer in enumerate(vgg_model.layers[1:]) if layer.weights}
    with h5py.File(tmp_path / "mine.h5", "w") as file:
        for name, (kernel, bias) in arrays.items():
            file[f"{name}/kernel"], file[f"{name}/bias"] = kernel, bias
    assert is_read(tmp_path / "mine.h5")


def vgg16(path):
    x = inputs = keras.Input((None, None, 3))
    for channels, convolutions in ((4, 2), (4, 2), (8, 3), (8, 3), (8, 3)):
        for _ in range(convolutions):
            x = keras.layers.Conv2D(channels, 3, padding="same")(x)
    keras.Model(inputs, x).save_weights(path)


def resnet(path):
    x = keras.Input((None, None, 3))
    keras.Model(x, keras.layers.Conv2D(64, 7, name="block1_conv1")(x)).save(path)


def replace_first_array(path, replace):
    """Save VGG19's weights beside a path and, but for the first array, at the path."""
    save = keras.Model.save_weights if path.name.endswith(".weights.h5") else save_legacy_h5
    save(script.build_vgg19(), secret := path.with_name(f"secret.{path.name}"))
    save(script.build_vgg19(), path)
    with h5py.File(path, "r+") as file:
        arrays = []
        file.visititems(lambda name, item: arrays.append(name) if isinstance(item, h5py.Dataset) else None)
        kernel = file[arrays[0]][()]
        del file[arrays[0]]
        replace(file, arrays[0], secret, kernel)


def external_link(path):
    replace_first_array(path, lambda file, name, secret, _: file.update({name: h5py.ExternalLink(secret, name)}))


def lambda_layer(path):
    x = keras.Input((None, None, 3))
    code = keras.layers.Lambda(lambda x: Path(f"{__file__}.pwned").touch() or x, output_shape=(None, None, 3))
    keras.Model(x, code(x)).save(path)


class Pickle:
    def __reduce__(self):
        return open, (f"{__file__}.pwned", "w")


def terabytes(path):
    def replace(file, name, secret, kernel):
        file.create_dataset(name, (3, 3, 10**6, 10**6), "float32", chunks=(3, 3, 64, 64))

    replace_first_array(path, replace)


def bomb(path):
    """Many zeros in few bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("model.weights.h5", "w") as file:
        for _ in range(32):
            file.write(bytes(2**20))


def cut_saved_model(path):
    save_saved_model(random_vgg19(), path)
    for file in (path / "variables").glob("*.data*"):
        file.write_bytes(file.read_bytes()[:9999])


BAD_FILES = {  # name: how it is made
    "link.weights.h5": external_link,
    "link.h5": external_link,
    "lambda.keras": lambda_layer,
    "pickle.h5": lambda path: path.write_bytes(pickle.dumps(Pickle())),
    "vgg16.weights.h5": vgg16,
    "other.keras": resnet,
    "text.h5": lambda path: path.write_text("weights"),
    "text.keras": lambda path: path.write_text("weights"),
    "empty.weights.h5": lambda path: path.touch(),
    "folder.h5": lambda path: path.mkdir(),
    "missing.h5": lambda path: None,
    "terabytes.h5": terabytes,
    "bomb.keras": bomb,
    "torch.pth": lambda path: zipfile.ZipFile(path, "w").close(),
    "cut_saved_model": cut_saved_model,
    "picture.png": lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_weights_are_refused_with_one_line(small, tmp_path, name):
    BAD_FILES[name](tmp_path / name)
    with pytest.raises(OSError) as error:
        script.get_vgg_model("local", tmp_path / name, precision="float32")
    assert name in str(error.value) and "VGG_NETWORK_PATH" in str(error.value) and "\n" not in str(error.value)
    assert not Path(f"{__file__}.pwned").exists()


@pytest.mark.parametrize("name", ["legacy.h5", "new.weights.h5", "archive.keras"])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
def test_truncated_weights_are_refused_with_one_line(small, tmp_path, name, share):
    FORMATS[name](random_vgg19(), tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(OSError, match=name) as error:
        script.find_weights("local", tmp_path / name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("path", ["", "no", "no.h5"])
def test_local_needs_weights(small, tmp_path, path):
    with pytest.raises(OSError, match="VGG_NETWORK_PATH must be a weights file") as error:
        script.find_weights("local", tmp_path / path)
    assert str(tmp_path / path) in str(error.value)


def test_download_needs_a_folder(small, tmp_path):
    (tmp_path / "name").touch()
    with pytest.raises(OSError, match="cannot be downloaded: .*File exists: .*/name"):
        script.find_weights("download", tmp_path / "name")


def test_fit_takes_no_file(small, tmp_path):
    save_legacy_h5(random_vgg19(), tmp_path / "vgg19.h5")
    assert script.find_weights("fit", tmp_path / "vgg19.h5") is None


def put_wrong_files(folder):
    """What people have beside the weights, all of it sorted before them."""
    vgg16(folder / "a_vgg16.weights.h5")
    (folder / "._vgg19.weights.h5").write_bytes(b"\0\5\x16\7of a Mac")
    (folder / "b_cut.h5").write_bytes(b"\x89HDF\r\n\x1a\n cut")
    (folder / "c_folder.h5").mkdir()
    (folder / "d_vgg19.pth").write_bytes(b"PK of torch")
    (folder / "e_vgg19.mat").write_text("MATLAB 5.0 MAT-file")
    (folder / "README.md").write_text("not weights")


@pytest.mark.parametrize("mode", ["local", "auto"])
@pytest.mark.parametrize("name", ["z.weights.h5", "z.H5", "z.keras", "z"])
def test_the_file_that_fits_is_found_beside_others(small, tmp_path, capsys, mode, name):
    put_wrong_files(tmp_path)
    {"z.weights.h5": FORMATS["new.weights.h5"], "z.H5": save_legacy_h5, "z.keras": FORMATS["archive.keras"],
     "z": save_saved_model}[name](random_vgg19(), tmp_path / name)
    assert script.find_weights(mode, tmp_path) == tmp_path / name and capsys.readouterr() == ("", "")


def test_of_two_that_fit_the_first_by_its_name_is_taken(small, tmp_path):
    for name in ("b.h5", "a.h5", script.WEIGHTS_NAME):
        save_legacy_h5(random_vgg19(), tmp_path / name)
    assert script.find_weights("local", tmp_path) == tmp_path / "a.h5"


def test_where_none_fits_a_line_names_them_all(small, tmp_path, monkeypatch, capsys):
    put_wrong_files(tmp_path)
    with pytest.raises(OSError) as error:
        script.find_weights("local", tmp_path)
    monkeypatch.setattr(script, "download_weights", lambda folder: folder / "downloaded")
    assert script.find_weights("auto", tmp_path) == tmp_path / "downloaded"
    warning = capsys.readouterr().err.strip()
    assert warning.startswith("Warning: No weights of VGG19 in ")
    for line in (str(error.value), warning):
        assert {name for name in os.listdir(tmp_path) if name not in line} == {"README.md", "._vgg19.weights.h5"}
        assert "\n" not in line


def test_auto_looks_into_keras_own_cache(small, tmp_path, monkeypatch, capsys):
    models, folder = tmp_path / "home/.keras/models", tmp_path / "model"
    for path in (models, folder):
        path.mkdir(parents=True)
    monkeypatch.setattr(script, "download_weights", lambda folder: "downloaded")
    vgg16(models / "vgg16.weights.h5")
    assert script.find_weights("auto", folder) == "downloaded" and capsys.readouterr() == ("", "")
    (models / script.WEIGHTS_NAME).write_bytes(b"damaged")
    assert script.find_weights("auto", folder) == "downloaded"
    assert str(models / script.WEIGHTS_NAME) in capsys.readouterr().err
    save_legacy_h5(random_vgg19(), models / script.WEIGHTS_NAME)
    save_full_h5(random_vgg19(), models / "vgg19_weights_tf_dim_ordering_tf_kernels.h5")
    assert script.find_weights("auto", folder) == models / script.WEIGHTS_NAME
    (models / script.WEIGHTS_NAME).unlink()
    assert script.find_weights("auto", folder) == models / "vgg19_weights_tf_dim_ordering_tf_kernels.h5"
    with pytest.raises(OSError, match="VGG_NETWORK_PATH"):
        script.find_weights("local", folder)
    assert script.find_weights("download", folder) == "downloaded"


@pytest.mark.parametrize("name", ["gone.h5", "gone.H5", "gone.Keras"])
def test_auto_makes_no_folder_of_a_file_that_is_not_there(small, tmp_path, name):
    with pytest.raises(OSError, match=name):
        script.find_weights("auto", tmp_path / name)
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("name", ["a.pt", "a.npz", "a.onnx", "a.safetensors", "a.PTH"])
def test_what_cannot_be_read_is_named(small, tmp_path, name):
    (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(OSError, match=name):
        script.find_weights("local", tmp_path)


def test_the_home_folder_may_be_a_tilde(small, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save_legacy_h5(random_vgg19(), tmp_path / "mine.h5")
    assert is_read("~/mine.h5") and script.find_weights("local", "~") == tmp_path / "mine.h5"


def test_a_broken_file_that_auto_was_given_by_name_is_an_error(small, tmp_path):
    vgg16(tmp_path / "vgg16.weights.h5")
    with pytest.raises(OSError, match="not those of VGG19"):
        script.find_weights("auto", tmp_path / "vgg16.weights.h5")


def test_reading_weights_changes_nothing_of_the_process(small, tmp_path, capfd):
    save_legacy_h5(random_vgg19(), tmp_path / "mine.h5")
    link_file = tmp_path / "link.weights.h5"
    external_link(link_file)
    before = (socket.getdefaulttimeout(), sys.stdout, sys.stderr, os.fstat(2))
    seen = []
    def read(path):
        try:
            script.find_weights("local", path)
        except OSError:
            seen.append((socket.getdefaulttimeout(), sys.stdout, sys.stderr, os.fstat(2)))
    threads = [threading.Thread(target=read, args=[path]) for path in (tmp_path / "mine.h5", link_file) * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [before] * 4 and capfd.readouterr() == ("", "")


# Weights from a server


class Server(http.server.BaseHTTPRequestHandler):
    """Serves `body`: a half of it at /cut/, slowly at /stall/, and at /no/ nothing."""

    body, requests = b"", 0

    def do_GET(self):
        type(self).requests += 1
        if self.path.startswith("/no/"):
            return self.send_error(404)
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        is_whole = not self.path.startswith(("/cut/", "/stall/"))
        self.wfile.write(self.body if is_whole else self.body[: len(self.body) // 2])
        if self.path.startswith("/stall/"):
            time.sleep(6)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(small, tmp_path_factory, monkeypatch):
    """A function that sets the part of the address before the file's name."""
    save_legacy_h5(random_vgg19(), path := tmp_path_factory.mktemp("server") / "served.h5")
    Server.body, Server.requests = path.read_bytes(), 0
    monkeypatch.setattr(script, "WEIGHTS_HASH", hashlib.md5(Server.body).hexdigest())
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()

        def serve(kind="whole"):
            url = f"http://127.0.0.1:{httpd.server_port}/{kind}/{script.WEIGHTS_NAME}"
            monkeypatch.setattr(script, "WEIGHTS_URL", url)
            return url

        serve()
        yield serve
        httpd.shutdown()


def test_download_keeps_the_file_for_the_next_run(server, tmp_path):
    for _ in range(2):
        path = script.download_weights(tmp_path / "model")
        assert path.read_bytes() == Server.body and Server.requests == 1
    assert [path.name for path in (tmp_path / "model").iterdir()] == [script.WEIGHTS_NAME]
    assert is_read(tmp_path / "model")


def test_download_replaces_a_file_with_a_wrong_hash(server, tmp_path):
    """As a download leaves it whose process was killed."""
    (tmp_path / script.WEIGHTS_NAME).write_bytes(Server.body[:-1])
    assert script.find_weights("auto", tmp_path).read_bytes() == Server.body


@pytest.mark.parametrize("kind", ["cut", "no"])
def test_failed_download_leaves_nothing(server, tmp_path, kind):
    url = server(kind)
    with pytest.raises(OSError, match=f"{url} cannot be downloaded.* into .*--vgg-mode fit") as error:
        script.download_weights(tmp_path)
    assert "\n" not in str(error.value) and list(tmp_path.iterdir()) == []


def test_another_file_than_keras_own_is_no_download(server, tmp_path, monkeypatch):
    """As the page is with which a hotel answers."""
    monkeypatch.setattr(Server, "body", b"<html>Please log in</html>")
    for _ in range(2):
        with pytest.raises(OSError, match="cannot be downloaded.*Incomplete or corrupted"):
            script.download_weights(tmp_path)


def test_a_download_that_stalls_ends(server, tmp_path):
    server("stall")
    start = time.monotonic()
    socket.setdefaulttimeout(0.5)  # the program sets 30 seconds
    try:
        with pytest.raises(OSError, match="cannot be downloaded"):
            script.download_weights(tmp_path)
    finally:
        socket.setdefaulttimeout(None)
    assert time.monotonic() - start < 4 and list(tmp_path.iterdir()) == []


def test_no_network_is_an_error_for_download_and_one_warning_for_auto(small, tmp_path, imgs, capsys, monkeypatch):
    with pytest.raises(OSError, match=f"{script.WEIGHTS_URL} cannot be downloaded"):
        script.get_vgg_model("download", tmp_path)
    fits = []
    monkeypatch.setattr(script, "fit_weights", lambda *args: fits.append(args))
    capsys.readouterr()
    vgg_model = script.get_vgg_model("auto", tmp_path, [*imgs], "float32", seed=7)
    warning = capsys.readouterr().err
    assert fits == [(vgg_model, [*imgs], 7)]
    assert warning.startswith("Warning: Filters are fitted to the images, which paint a plainer picture: http")
    assert script.WEIGHTS_URL in warning and warning.count("\n") == 1
    with pytest.raises(ValueError, match="imgs"):
        script.get_vgg_model("fit")


@pytest.mark.parametrize("precision", ["float16", "mixed_float16", "bfloat16", None, "Auto"])
def test_another_precision_is_refused_before_work(tmp_path, precision):
    with pytest.raises(ValueError, match="PRECISION must be 'auto' or 'float32' or 'mixed_bfloat16'. Received: "):
        script.get_vgg_model("download", tmp_path / "new", precision=precision)
    assert not (tmp_path / "new").exists()


# Fitting


def fit(imgs, seed):
    vgg_model = script.build_vgg19(seed=seed)
    script.fit_weights(vgg_model, imgs, seed)
    return vgg_model


FITTED = ((64, 2), (8, 2), (8, 4), (8, 4), (8, 4))  # VGG19_BLOCKS of a network that is fitted in a second


@pytest.fixture(scope="module")
def fitted(imgs):
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(script, "VGG19_BLOCKS", FITTED)
        return {seed: fit(imgs, seed) for seed in (3, 4)}


@pytest.fixture
def few_channels(monkeypatch):
    monkeypatch.setattr(script, "VGG19_BLOCKS", FITTED)


def responses(vgg_model, imgs):
    """(layer, its responses before ReLU to each inner 3x3 patch, as rows of all images) for each convolution."""
    xs = [np.float32(script.preprocess(tf.constant(img))) for img in imgs]
    for layer in vgg_model.layers[1:]:
        if "conv" in layer.name:
            rs = [tf.nn.conv2d(x, layer.kernel, 1, "VALID") + layer.bias for x in xs]
            yield layer, np.concatenate([np.reshape(r, (-1, layer.filters)) for r in rs])
        xs = [layer(x) for x in xs]


def test_fitted_responses_have_unit_variance_and_the_bias(few_channels, fitted, imgs):
    """But for what 10,000 random patches tell of a layer."""
    untouched = [layer for layer in script.build_vgg19(seed=3).layers if "conv" in layer.name]
    for (layer, r), before in zip(responses(fitted[3], imgs), untouched, strict=True):
        if layer.name < "block4_conv2":
            np.testing.assert_allclose(r.mean(0), 2 if "block1" in layer.name else 0.5, atol=0.06)
            np.testing.assert_allclose(r.std(0), 1, atol=0.06)
        else:
            assert same_weights(layer, before)


def test_fitted_filters_are_those_of_zca_and_spherical_k_means(fitted, imgs):
    """Coates and Ng's recipe in float64, with ZCA by eigenvectors where fit_weights() takes Cholesky's factor."""
    rng = np.random.default_rng(4)
    x = [keras.applications.vgg19.preprocess_input(np.float64(img) * 255, data_format="channels_last") for img in imgs]
    patches = [np.lib.stride_tricks.sliding_window_view(a[0], (3, 3, 3))[:, :, 0] for a in x]
    corners = [tuple(rng.integers(p.shape[:2], size=(5000, 2)).T) for p in patches]
    p = np.concatenate([p[corner].reshape(5000, 27) for p, corner in zip(patches, corners, strict=True)])
    p -= p.mean(0)
    eigenvalues, axes = np.linalg.eigh(p.T @ p / len(p))
    zca = axes / np.sqrt(eigenvalues + 0.02 * np.sqrt(np.sum(eigenvalues**2))) @ axes.T
    p = p @ zca
    p /= np.linalg.norm(p, axis=1, keepdims=True)
    centroids = p[rng.choice(len(p), 64, replace=False)]
    for _ in range(10):
        nearest = np.argmax(p @ centroids.T, 1)
        centroids = np.array([p[nearest == k].sum(0) + 1e-6 * centroids[k] for k in range(64)])
        centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    filters = centroids @ zca
    ours = fitted[4].get_layer("block1_conv1").kernel.numpy().reshape(27, 64).T
    cosine = np.sum(filters * ours, 1) / np.linalg.norm(filters, axis=1) / np.linalg.norm(ours, axis=1)
    assert np.sort(cosine)[6:].min() > 0.99  # float32 may send a patch on a border to the other side


def test_a_seed_of_numpy_is_the_same_seed(few_channels):
    a, b = (script.build_vgg19(seed=seed).get_weights() for seed in (3, np.int64(3)))
    assert all((x == y).all() for x, y in zip(a, b, strict=True))


def test_fit_is_set_by_the_seed(few_channels, fitted, imgs):
    assert same_weights(fit(imgs, 3), fitted[3]) and not same_weights(fitted[3], fitted[4])


def test_fit_takes_images_of_any_size_and_refuses_a_flat_colour(few_channels):
    flat = np.full((1, 32, 32, 3), 0.3, np.float32)
    with pytest.raises(ValueError, match="flat colours"):
        script.fit_weights(script.build_vgg19(), [flat])
    vgg_model, noise = script.build_vgg19(), np.random.default_rng(0).uniform(0, 1, (1, 40, 61, 3))
    script.fit_weights(vgg_model, [noise, flat])
    assert all(np.isfinite(w).all() for w in vgg_model.get_weights())
