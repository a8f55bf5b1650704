"""Measure this program on this machine and print Markdown tables: `python tests/benchmark.py [SIZE] [EPOCHS]`.

SIZE is the images' height and width, 400 unless given; EPOCHS are those of the painting at the end, 300 unless given.
Steps are interleaved and their medians compared in one run, since machines are shared and noisy.
"""

import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import keras  # noqa: E402
import tensorflow as tf  # noqa: E402

import script  # noqa: E402

ROUNDS = 7


def table(title, header, rows):
    print(f"\n{title}\n\n| {' | '.join(header)} |\n|{'---|' * len(header)}")
    for row in rows:
        print(f"| {' | '.join(str(cell) for cell in row)} |", flush=True)


def make_step(imgs, precision, compiled):
    """A step as transfer_style_loop() makes it."""
    encoding_model = script.get_vgg_encodings(script.build_vgg19(precision))
    *style, _ = encoding_model(imgs[1])
    *_, content_encoding = encoding_model(imgs[0])
    grams = [script.get_gram_matrix(a) for a in style]
    generated_img = script.initialize_generated_image(imgs[0])
    optimizer = keras.optimizers.Adam(0.02)
    optimizer.build([generated_img])

    def step():
        return script.transfer_style_step(generated_img, encoding_model, grams, content_encoding, optimizer)

    return tf.function(step) if compiled else step


def seconds(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measure_steps(imgs):
    kinds = {
        "compiled, float32": ("float32", True),
        "compiled, mixed_bfloat16": ("mixed_bfloat16", True),
        "eager, float32": ("float32", False),
    }
    steps = {kind: make_step(imgs, *how) for kind, how in kinds.items()}
    times = {kind: [] for kind in kinds}
    for turn in range(ROUNDS + 1):
        for kind, step in steps.items():
            duration = seconds(lambda step=step: step()[0].numpy())
            if turn:  # the first one traces
                times[kind].append(duration)
    medians = {kind: statistics.median(ts) for kind, ts in times.items()}
    base = medians["compiled, float32"]
    return [(kind, f"{median:.2f}", f"{median / base:.2f}") for kind, median in medians.items()]


def matmul_rate(dtype, n=4096):
    a = tf.cast(tf.random.normal((n, n), seed=0), dtype)
    return 2 * n**3 / min(seconds(lambda: tf.matmul(a, a).numpy()) for _ in range(4)) / 1e9


def style_cost_of(encoding_model, img, style_img):
    *style, _ = encoding_model(style_img)
    *generated, _ = encoding_model(img)
    weights = [weight for _, weight in script.ENCODING_LAYERS[:-1]]
    return float(script.get_style_cost([script.get_gram_matrix(a) for a in style], generated, weights))


def measure_painting(imgs, epochs, **network):
    content_img, style_img = imgs
    start = time.perf_counter()
    vgg_model = script.get_vgg_model(style_img=style_img, content_img=content_img, **network)
    network_seconds = time.perf_counter() - start
    encoding_model = script.get_vgg_encodings(vgg_model)
    generated_img = script.initialize_generated_image(content_img)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        script.transfer_style_loop(
            generated_img, content_img, style_img, encoding_model, epochs=epochs, learn_rate=0.02, output_path=folder
        )
        paint_seconds = time.perf_counter() - start
    own = style_cost_of(encoding_model, content_img, style_img)
    share = style_cost_of(encoding_model, generated_img, style_img) / own
    return vgg_model.name, f"{network_seconds:.0f}", f"{paint_seconds:.0f}", f"{share:.1%}"


def main(size=400, epochs=300):
    imgs = script.load_images(ROOT / script.CONTENT_IMG_PATH, ROOT / script.STYLE_IMG_PATH, size)
    rates = [f"{matmul_rate(dtype):.0f}" for dtype in (tf.float32, tf.bfloat16)]
    table(
        "Machine",
        ("cores", "TensorFlow", "float32 matmul, GFLOP/s", "bfloat16 matmul, GFLOP/s", "PRECISION 'auto'"),
        [(os.cpu_count(), tf.__version__, *rates, script.choose_precision())],
    )
    table(f"An epoch at {size} px", ("how", "seconds", "ratio"), measure_steps(imgs))
    table(
        f"Sample pair, {size} px, {epochs} epochs, learning rate 0.02",
        ("network", "seconds for the network", "seconds for the epochs", "style cost, of the content picture's own"),
        [measure_painting(imgs, epochs, mode="fit")],
    )
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"\nPeak memory of all this: {memory:.1f} GiB")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
