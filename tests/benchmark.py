"""Measure this program on this machine and print Markdown tables: `python tests/benchmark.py`, about half an hour.

Steps that are compared are interleaved in one run and their medians taken, since machines are shared and noisy. Each
size of the scaling table is measured in a process of its own, `python tests/benchmark.py SIZE`, for its peak memory.
"""

import contextlib
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import script  # noqa: E402
from script import keras, tf  # noqa: E402  as script.py sets them up

SIZE, CURVE_SIZE = script.IMG_SIZE, 128
SIZES = (256, 400, 800, 1600, 2048)
CURVE_EPOCHS = (25, 50, 100, 200, 300)
PAINTINGS = (
    {"optimizer": "lbfgs", "epochs": 100, "save_every": 10},
    {"optimizer": "lbfgs", "epochs": 50, "save_every": 10, "coarse_size": SIZE // 2},
    {"epochs": 300, "learn_rate": 0.02},
)
OPTIMIZERS = {
    "Adam, 0.001": lambda: keras.optimizers.Adam(0.001),
    "Adam, 0.02": lambda: keras.optimizers.Adam(0.02),
    "L-BFGS": script.LBFGS,
}


def table(title, header, rows):
    print(f"\n{title}\n\n| {' | '.join(header)} |\n|{'---|' * len(header)}")
    for row in rows:
        print(f"| {' | '.join(str(cell) for cell in row)} |", flush=True)


def load_sample_pair(size):
    return script.load_images(ROOT / script.CONTENT_IMG_PATH, ROOT / script.STYLE_IMG_PATH, size)


def make_step(vgg_model, imgs, optimizer, compiled=True):
    """A step as transfer_style_loop() makes it."""
    encoding_model = script.get_vgg_encodings(vgg_model)
    *style, _ = encoding_model(imgs[1])
    grams = [script.get_gram_matrix(a) for a in style]
    *_, content_encoding = encoding_model(imgs[0])
    generated_img = script.initialize_generated_image(imgs[0])
    optimizer.build([generated_img])

    def step():
        return script.transfer_style_step(generated_img, encoding_model, grams, content_encoding, optimizer)

    return tf.function(step) if compiled else step


def seconds(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def gigaflops_per_step(size):
    """Products of the convolutions and Gram matrices, forward and backward, two operations each."""
    products, channels = 0, 3
    for block, (filters, convolutions) in enumerate(script.VGG19_BLOCKS):
        pixels = (size // 2**block) ** 2
        for _ in range(convolutions):
            products += pixels * 9 * channels * filters
            channels = filters
        products += pixels * filters**2
    return 4 * products / 1e9


def matmul_rate(dtype, n=4096):
    a = tf.cast(tf.random.normal((n, n), seed=0), dtype)
    return 2 * n**3 / min(seconds(lambda: tf.matmul(a, a).numpy()) for _ in range(4)) / 1e9


def measure_steps(imgs, rates, rounds=7):
    kinds = {
        "compiled, float32": ("float32", OPTIMIZERS["Adam, 0.02"], True),
        "compiled, float32, L-BFGS": ("float32", OPTIMIZERS["L-BFGS"], True),
        "compiled, mixed_bfloat16": ("mixed_bfloat16", OPTIMIZERS["Adam, 0.02"], True),
        "eager, float32": ("float32", OPTIMIZERS["Adam, 0.02"], False),
    }
    steps = {
        kind: make_step(script.build_vgg19(precision), imgs, optimizer(), compiled)
        for kind, (precision, optimizer, compiled) in kinds.items()
    }
    times = {kind: [] for kind in kinds}
    for turn in range(rounds + 1):
        for kind, step in steps.items():
            duration = seconds(lambda step=step: step()[0].numpy())
            if turn:  # the first one traces
                times[kind].append(duration)
    medians = {kind: statistics.median(ts) for kind, ts in times.items()}
    base = medians["compiled, float32"]
    for kind, median in medians.items():
        share = gigaflops_per_step(imgs[0].shape[1]) / median / rates[kinds[kind][0]]
        yield kind, f"{median:.2f}", f"{median / base:.2f}", f"{share:.0%}"


def measure_size(size):
    step = make_step(script.build_vgg19(), load_sample_pair(size), script.LBFGS())
    step()[0].numpy()
    median = statistics.median(seconds(lambda: step()[0].numpy()) for _ in range(3 if size > 1000 else 9))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return size, f"{median:.2f}", f"{median / size**2 * 1e6:.2f}", f"{memory:.1f}"


def measure_curve(vgg_model, imgs, optimizer):
    """'cost (seconds)' at each of CURVE_EPOCHS."""
    step, start = make_step(vgg_model, imgs, optimizer), None
    for epoch in range(1, max(CURVE_EPOCHS) + 1):
        cost = step()[0]
        start = start or time.perf_counter()  # without the time to trace
        if epoch in CURVE_EPOCHS:
            yield f"{float(cost):.3f} ({time.perf_counter() - start:.0f} s)"


def style_cost_of(encoding_model, img, style_img):
    *style, _ = encoding_model(style_img)
    *generated, _ = encoding_model(img)
    weights = [weight for _, weight in script.ENCODING_LAYERS[:-1]]
    return float(script.get_style_cost([script.get_gram_matrix(a) for a in style], generated, weights))


def measure_painting(encoding_model, imgs, **settings):
    """A run as a user makes it, filters fitted anew; its style cost in one network for all runs."""
    paths = {"content_img_path": ROOT / script.CONTENT_IMG_PATH, "style_img_path": ROOT / script.STYLE_IMG_PATH}
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        duration = seconds(lambda: script.main(**paths, vgg_mode="fit", output_path=folder, **settings))
        img = script.load_image(max(Path(folder).glob("image_*.png")), SIZE)
    share = style_cost_of(encoding_model, img, imgs[1]) / style_cost_of(encoding_model, imgs[0], imgs[1])
    flags = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in settings.items())
    return f"`{flags}`", f"{duration:.0f}", f"{share:.1%}"


def main():
    rates = {"float32": matmul_rate(tf.float32), "mixed_bfloat16": matmul_rate(tf.bfloat16)}
    table(
        "Machine",
        ("cores", "TensorFlow", "float32 matmul, GFLOP/s", "bfloat16 matmul, GFLOP/s", "PRECISION 'auto'"),
        [(os.cpu_count(), tf.__version__, *(f"{rate:.0f}" for rate in rates.values()), script.choose_precision())],
    )
    imgs = load_sample_pair(SIZE)
    table(f"An epoch at {SIZE} px", ("how", "seconds", "ratio", "share of matmul's rate"), measure_steps(imgs, rates))
    sizes = []
    for size in SIZES:
        command = [sys.executable, __file__, str(size)]
        sizes.append(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    header = ("size", "seconds per epoch", "seconds per megapixel", "peak memory, GiB")
    table("Size, float32, L-BFGS", header, sizes)
    encoding_model = script.get_vgg_encodings(
        script.get_vgg_model("fit", style_img=imgs[1], content_img=imgs[0], precision="float32")
    )
    table(
        f"Sample pair, {SIZE} px, fitted network",
        ("settings", "seconds, with those to fit", "style cost, of the content image's own"),
        [measure_painting(encoding_model, imgs, **settings) for settings in PAINTINGS],
    )
    imgs = load_sample_pair(CURVE_SIZE)
    vgg_model = script.get_vgg_model("fit", style_img=imgs[1], content_img=imgs[0])
    table(
        f"Cost after n epochs (seconds), sample pair, {CURVE_SIZE} px, fitted network",
        ("optimizer", *map(str, CURVE_EPOCHS)),
        [(name, *measure_curve(vgg_model, imgs, make())) for name, make in OPTIMIZERS.items()],
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(*measure_size(int(sys.argv[1])))
    else:
        main()
