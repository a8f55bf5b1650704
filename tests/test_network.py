"""The network against Keras' own VGG19, weights from files, from a server on 127.0.0.1 and from fitting."""

import hashlib
import http.server
import pickle
import threading
import time
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

import script


def random_vgg19(seed=5):
    """VGG19 with biases too, so that a lost one shows."""
    vgg_model, rng = script.build_vgg19("float32", seed), np.random.default_rng(seed)
    weights = vgg_model.get_weights()
    vgg_model.set_weights([w if w.ndim > 1 else np.float32(rng.standard_normal(w.shape)) for w in weights])
    return vgg_model


def same_weights(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a.get_weights(), b.get_weights(), strict=True))


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
    gpus = [] if platform == "darwin" else ["a GPU"]
    x, conv = np.float32(np.random.default_rng(0).normal(size=(1, 9, 8, 5))), script.Conv2D(7, 3, padding="same")
    ours = conv(x)
    monkeypatch.setattr(script.tf, "custom_gradient", lambda *_: pytest.fail("it is not Keras' own"))
    monkeypatch.setattr(script.sys, "platform", platform)
    monkeypatch.setattr(script.tf.config, "list_physical_devices", lambda kind: gpus)
    np.testing.assert_allclose(conv(x), ours, atol=1e-5)
    assert np.min(ours) == 0


def test_preprocessing_is_keras_own(imgs):
    theirs = keras.applications.vgg19.preprocess_input(np.float64(imgs[0]) * 255, data_format="channels_last")
    np.testing.assert_allclose(script.preprocess(tf.constant(imgs[0])), theirs, atol=1e-4)


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
        roundings = script.VGG19_LAYERS.index(name) + 2  # of the picture and in each layer, by 2^-8 at most
        assert np.linalg.norm(a - b) < 2**-8 * roundings * np.linalg.norm(b)


@pytest.mark.parametrize("ratio, precision", [(0.5, "mixed_bfloat16"), (0.79, "mixed_bfloat16"), (0.81, "float32")])
def test_precision_auto_takes_what_is_faster(monkeypatch, ratio, precision):
    durations = [ratio] * 8 + [1.0] * 8  # before each reading of the clock, two of each of four steps, bfloat16 first
    clock, repeat = iter(np.cumsum(durations)).__next__, script.timeit.repeat
    monkeypatch.setattr(script.timeit, "repeat", lambda *args, **options: repeat(*args, timer=clock, **options))
    assert script.choose_precision() == precision


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


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The same weights in each format that is read."""
    folder, vgg_model = tmp_path_factory.mktemp("weights"), random_vgg19()
    save_legacy_h5(vgg_model, folder / "legacy.h5")
    vgg_model.save_weights(folder / "new.weights.h5")
    vgg_model.save(folder / "archive.keras")
    return folder


@pytest.mark.parametrize("name", ["legacy.h5", "new.weights.h5", "archive.keras"])
def test_weights_are_read_from_each_format(files, name):
    vgg_model = script.get_vgg_model("local", files / name, precision="float32")
    assert same_weights(vgg_model, random_vgg19()) and not vgg_model.trainable_weights
    assert name in vgg_model.name


@pytest.mark.parametrize("mode", ["local", "auto"])
def test_weights_are_found_in_the_folder(files, tmp_path, mode):
    (tmp_path / "README.md").write_text("not weights")
    (tmp_path / "mine.weights.h5").hardlink_to(files / "new.weights.h5")
    assert same_weights(script.get_vgg_model(mode, tmp_path, precision="float32"), random_vgg19())


def vgg16(path):
    keras.applications.VGG16(include_top=False, weights=None).save_weights(path)


def resnet(path):
    x = keras.Input((None, None, 3))
    keras.Model(x, keras.layers.Conv2D(64, 7, name="block1_conv1")(x)).save(path)


def nan_weights(path):
    vgg_model = script.build_vgg19()
    vgg_model.layers[2].kernel.assign(vgg_model.layers[2].kernel * np.nan)
    vgg_model.save_weights(path)


def infinite_weights(path):
    vgg_model = script.build_vgg19()
    vgg_model.layers[2].kernel.assign(vgg_model.layers[2].kernel / 0)
    vgg_model.save_weights(path)


def replace_first_array(path, replace):
    """Save VGG19's weights beside a path and, but for the first array, at the path."""
    save = save_legacy_h5 if path.name in ("link.h5", "external.h5") else keras.Model.save_weights
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


def external_data(path):
    def replace(file, name, secret, kernel):
        secret.write_bytes(kernel.tobytes())
        file.create_dataset(name, kernel.shape, "float32", external=[(str(secret), 0, kernel.nbytes)])

    replace_first_array(path, replace)


def lambda_layer(path):
    x = keras.Input((None, None, 3))
    code = keras.layers.Lambda(lambda x: Path(f"{__file__}.pwned").touch() or x, output_shape=(None, None, 3))
    keras.Model(x, code(x)).save(path)


class Pickle:
    def __reduce__(self):
        return open, (f"{__file__}.pwned", "w")


BAD_FILES = {  # name: how it is made
    "infinite.weights.h5": infinite_weights,
    "link.weights.h5": external_link,
    "link.h5": external_link,
    "external.weights.h5": external_data,
    "external.h5": external_data,
    "lambda.keras": lambda_layer,
    "pickle.h5": lambda path: path.write_bytes(pickle.dumps(Pickle())),
    script.WEIGHTS_NAME: lambda path: save_legacy_h5(script.build_vgg19(), path),  # of another hash
    "vgg16.weights.h5": vgg16,
    "other.keras": resnet,
    "nan.weights.h5": nan_weights,
    "text.h5": lambda path: path.write_text("weights"),
    "text.keras": lambda path: path.write_text("weights"),
    "empty.weights.h5": lambda path: path.touch(),
    "folder.h5": lambda path: path.mkdir(),
    "missing.h5": lambda path: None,
    "picture.png": lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n"),
}


@pytest.mark.parametrize("mode", ["local", "auto"])
@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_weights_are_refused_with_one_line(tmp_path, name, mode):
    BAD_FILES[name](tmp_path / name)
    with pytest.raises((OSError, ValueError)) as error:
        script.get_vgg_model(mode, tmp_path / name, style_img=np.ones((1, 32, 32, 3)), precision="float32")
    assert name in str(error.value) and "VGG_NETWORK_PATH" in str(error.value) and "\n" not in str(error.value)
    assert not Path(f"{__file__}.pwned").exists()
    assert ("Not allowed" in str(error.value)) == name.startswith(("link", "external"))


@pytest.mark.parametrize("name", ["legacy.h5", "new.weights.h5", "archive.keras"])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
def test_truncated_weights_are_refused_with_one_line(files, tmp_path, name, share):
    whole = (files / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(OSError, match=name) as error:
        script.get_vgg_model("local", tmp_path / name, precision="float32")
    assert "\n" not in str(error.value)


def test_local_needs_a_file_and_download_a_folder(tmp_path, files):
    nothing = (("local", tmp_path), ("local", tmp_path / "no"), ("local", None), ("local", ""))
    for mode, path in (*nothing, ("download", files / "legacy.h5")):
        with pytest.raises(ValueError, match="VGG_NETWORK_PATH"):
            script.get_vgg_model(mode, path)


# Weights from a server


class Server(http.server.BaseHTTPRequestHandler):
    """Serves `body`; /cut.h5 breaks off half way, /stall.h5 halts; anything else than *.h5 is not there."""

    body, requests = b"", 0

    def do_GET(self):
        type(self).requests += 1
        if not self.path.endswith(".h5"):
            return self.send_error(404)
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body[: len(self.body) // 2] if self.path in ("/cut.h5", "/stall.h5") else self.body)
        if self.path == "/stall.h5":
            time.sleep(6)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(files):
    Server.body, Server.requests = (files / "legacy.h5").read_bytes(), 0
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}", hashlib.md5(Server.body).hexdigest()
        httpd.shutdown()


def test_download_keeps_the_file_for_the_next_run(server, tmp_path, capsys):
    url, md5 = server
    for _ in range(2):
        path = script.download_weights(tmp_path / "model", f"{url}/vgg19.h5", md5)
        assert path.read_bytes() == Server.body and Server.requests == 1
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["vgg19.h5"]
    assert capsys.readouterr().out == ""  # redirected: no progress bar, no control characters
    assert same_weights(script.get_vgg_model("auto", tmp_path / "model", precision="float32"), random_vgg19())


def test_download_replaces_a_file_with_a_wrong_hash(server, tmp_path):
    url, md5 = server
    (tmp_path / "vgg19.h5").write_bytes(Server.body[:-1])
    assert script.download_weights(tmp_path, f"{url}/vgg19.h5", md5).read_bytes() == Server.body


@pytest.mark.parametrize("name, flaw", [("vgg19.h5", "hash"), ("cut.h5", "cut"), ("vgg19.zip", "missing")])
def test_failed_download_leaves_nothing(server, tmp_path, name, flaw):
    url, md5 = server
    with pytest.raises(OSError, match=f"{url}/{name} cannot be downloaded.* into .*'fit'") as error:
        script.download_weights(tmp_path, f"{url}/{name}", "0" * 32 if flaw == "hash" else md5)
    assert "\n" not in str(error.value) and list(tmp_path.iterdir()) == []


def test_a_download_that_stalls_ends(server, tmp_path, monkeypatch):
    real, seconds = script.socket.setdefaulttimeout, []

    def shorter(timeout):
        seconds.append(timeout)
        real(timeout and timeout / 30)

    monkeypatch.setattr(script.socket, "setdefaulttimeout", shorter)
    start = time.monotonic()
    with pytest.raises(OSError, match="stall.h5 cannot be downloaded"):
        script.download_weights(tmp_path, f"{server[0]}/stall.h5", server[1])
    assert time.monotonic() - start < 5 and list(tmp_path.iterdir()) == []
    assert seconds == [30, None]  # within 35 s, and for this download alone


def test_two_downloads_at_once_do_not_disturb_each_other(server, tmp_path):
    url, md5 = server
    paths = []
    threads = [
        threading.Thread(target=lambda: paths.append(script.download_weights(tmp_path, f"{url}/vgg19.h5", md5)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert paths == [tmp_path / "vgg19.h5"] * 2 and list(tmp_path.iterdir()) == [tmp_path / "vgg19.h5"]
    assert paths[0].read_bytes() == Server.body


def test_no_network_is_an_error_for_download_and_one_warning_for_auto(tmp_path, imgs, capsys, monkeypatch):
    with pytest.raises(OSError, match=f"{script.WEIGHTS_URL} cannot be downloaded"):
        script.get_vgg_model("download", tmp_path)
    fits = []
    monkeypatch.setattr(script, "fit_weights", lambda *args: fits.append(args))
    vgg_model = script.get_vgg_model("auto", tmp_path, *imgs, "float32", seed=7)
    assert fits == [(vgg_model, [*imgs], 7)] and "fitted" in vgg_model.name
    warning = capsys.readouterr().err
    assert warning.startswith("Warning: ") and warning.count("\n") == 1 and script.WEIGHTS_URL in warning
    with pytest.raises(ValueError, match="style_img"):
        script.get_vgg_model("fit")


# Fitting


def fit(imgs, seed):
    vgg_model = script.build_vgg19(seed=seed)
    script.fit_weights(vgg_model, imgs, seed, patches=2000)
    return vgg_model


@pytest.fixture(scope="module")
def fitted(imgs):
    return {seed: fit(imgs, seed) for seed in (3, 4)}


def responses(vgg_model, imgs):
    """(layer, its responses before ReLU, as rows of all images) for each convolution."""
    xs = [np.float32(script.preprocess(tf.constant(img))) for img in imgs]
    for layer in vgg_model.layers[1:]:
        if "conv" in layer.name:
            rs = [tf.nn.conv2d(x, layer.kernel, 1, "SAME") + layer.bias for x in xs]
            yield layer, np.concatenate([np.reshape(r, (-1, layer.filters)) for r in rs])
        xs = [layer(x) for x in xs]


def test_fitted_responses_have_unit_variance_and_the_bias(fitted, imgs):
    untouched = [layer for layer in script.build_vgg19(seed=3).layers if "conv" in layer.name]
    for (layer, r), before in zip(responses(fitted[3], imgs), untouched, strict=True):
        if layer.name < "block4_conv2":
            np.testing.assert_allclose(r.mean(0), 2 if "block1" in layer.name else 0.5, atol=0.01)
            np.testing.assert_allclose(r.std(0), 1, atol=0.01)
        else:
            assert same_weights(layer, before)


def test_fitted_filters_are_those_of_zca_and_spherical_k_means(fitted, imgs):
    """Coates and Ng's recipe in float64, with ZCA by eigenvectors where fit_weights() takes Cholesky's factor."""
    rng = np.random.default_rng(4)
    x = [keras.applications.vgg19.preprocess_input(np.float64(img) * 255, data_format="channels_last") for img in imgs]
    patches = [np.lib.stride_tricks.sliding_window_view(a[0], (3, 3, 3))[:, :, 0] for a in x]
    corners = [tuple(rng.integers(side, size=1000) for side in p.shape[:2]) for p in patches]
    p = np.concatenate([p[corner].reshape(1000, 27) for p, corner in zip(patches, corners, strict=True)])
    p -= p.mean(0)
    eigenvalues, axes = np.linalg.eigh(p.T @ p / len(p))
    zca = axes / np.sqrt(eigenvalues + 0.03 * eigenvalues[-1]) @ axes.T
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


def test_fit_is_set_by_the_seed(fitted, imgs):
    assert same_weights(fit(imgs, 3), fitted[3]) and not same_weights(fitted[3], fitted[4])


def test_fit_takes_images_of_any_size_and_refuses_a_flat_colour():
    flat = np.full((1, 32, 32, 3), 0.3, np.float32)
    with pytest.raises(ValueError, match="flat colour"):
        script.fit_weights(script.build_vgg19(), [flat])
    vgg_model, noise = script.build_vgg19(), np.random.default_rng(0).uniform(0, 1, (1, 40, 61, 3))
    script.fit_weights(vgg_model, [noise, flat], patches=1000)
    assert all(np.isfinite(w).all() for w in vgg_model.get_weights())
