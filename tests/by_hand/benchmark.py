"""Measure this program on this machine and print Markdown tables: `python tests/by_hand/benchmark.py [WEIGHTS_FILE]`,
some minutes. WEIGHTS_FILE holds VGG19's ImageNet weights; without it filters are fitted to the pictures.

Steps that are compared are interleaved in one run and their medians taken, since machines are shared and noisy. Each
size of the scaling table is a run in a process of its own, for its peak memory. With `--documented-run WEIGHTS_FILE`,
only the 25,000 epochs of the defaults are painted at 128 px, which takes more than an hour.
"""

import contextlib
import io
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

import script  # noqa: E402
from script import tf  # noqa: E402  as script.py sets it up

SIZE, SMALL_SIZE = script.IMG_SIZE, 128
SIZES = ((256, 1), (400, 1), (800, 1), (1600, 1), (256, 6))  # IMG_SIZE, STYLE_SCALE
COSINE = {"schedule": "cosine", "learn_rate": 0.05}
PAINTINGS = ({"epochs": 30}, {}, {"content_weight": 20})  # what differs from --quick
FIGURES = ("style", "content", "edges", "grain", "chroma")  # of the judge, see README
JUDGE = ROOT.parent / "shared" / "quality" / "judge.py"
PATHS = {"content_img_path": str(ROOT / script.CONTENT_IMG_PATH), "style_img_path": str(ROOT / script.STYLE_IMG_PATH)}


def table(title, header, rows):
    print(f"\n{title}\n\n| {' | '.join(header)} |\n|{'---|' * len(header)}")
    for row in rows:
        print(f"| {' | '.join(str(cell) for cell in row)} |", flush=True)


def load_sample_pair(size):
    return script.load_images(*PATHS.values(), size)


def make_step(vgg_model, imgs, compiled=True):
    """A step as transfer_style_loop() makes it."""
    content_img, style_imgs = imgs
    encoding_model = script.get_vgg_encodings(vgg_model)
    targets = script.get_targets(encoding_model, content_img, style_imgs)
    generated_img = script.initialize_generated_image(content_img)
    optimizer = script.make_optimizer(**COSINE, epochs=100)
    optimizer.build([generated_img])

    def step():
        return script.transfer_style_step(generated_img, encoding_model, *targets, optimizer)

    return tf.function(step) if compiled else step


def seconds(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def gigaflops_per_step(size):
    """Products of the convolutions and Gram matrices, forward and backward, two operations each."""
    products, channels = 0, 3
    for block, (filters, convolutions) in enumerate([(64, 2), (128, 2), (256, 4), (512, 4), (512, 4)]):
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
        "compiled, float32": ("float32", True),
        "compiled, mixed_bfloat16": ("mixed_bfloat16", True),
        "eager, float32": ("float32", False),
    }
    if rates["mixed_bfloat16"] < rates["float32"]:  # emulated, which takes minutes
        del kinds["compiled, mixed_bfloat16"]
    steps = {
        kind: make_step(script.build_vgg19(precision), imgs, compiled) for kind, (precision, compiled) in kinds.items()
    }
    times = {kind: [] for kind in kinds}
    for turn in range(rounds + 1):
        for kind, step in steps.items():
            duration = seconds(lambda step=step: step()["cost"].numpy())
            if turn:  # the first one traces
                times[kind].append(duration)
    medians = {kind: statistics.median(ts) for kind, ts in times.items()}
    base = medians["compiled, float32"]
    for kind, median in medians.items():
        share = gigaflops_per_step(imgs[0].shape[1]) / median / rates[kinds[kind][0]]
        yield kind, f"{median:.2f}", f"{median / base:.2f}", f"{share:.0%}"


def network(weights):
    return {"vgg_mode": "local", "vgg_network_path": weights} if weights else {"vgg_mode": "fit"}


def measure_size(size, style_scale, weights):
    """A run with its checkpoints, of few epochs, in this process."""
    settings = COSINE | network(weights) | {"epochs": 9 if size < 1000 else 4, "precision": "float32"}
    times = []

    class Clock(script.Progress):
        def show(self, epoch, costs, saved):
            float(costs["cost"])  # waits for the device
            times.append(time.monotonic())

    script.Progress = Clock
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        script.main(
            **PATHS, **settings, img_size=size, style_scale=style_scale, coarse_above=size, output_path=folder
        )
    median = statistics.median(after - before for before, after in zip(times, times[1:], strict=False))
    # Linux: the peak of this program alone. ru_maxrss also knows that of the process which started it.
    memory = int(re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())[1]) / 2**20
    img, style_img = np.zeros((1, size, size, 3)), np.zeros((1, size * style_scale, size * style_scale, 3))
    forecast = script.forecast_memory(img, [style_img], enlargement=1)
    return size, style_scale, f"{median:.2f}", f"{median / size**2 * 1e6:.2f}", f"{memory:.1f}", f"{forecast:.1f}"


def judge_painting(weights, is_quick, changed):
    """A run as a user makes it: its time and, where the judge is there, its figures."""
    settings = script.QUICK | changed if is_quick else changed
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        start = time.perf_counter()
        script.main(**PATHS, **network(weights), img_size=SMALL_SIZE, output_path=folder, **settings)
        duration = time.perf_counter() - start
        path = max(Path(folder).glob("image_*.png"))
        figures = dict.fromkeys(FIGURES, "")
        if JUDGE.exists():
            command = [sys.executable, JUDGE, path, *PATHS.values()]
            line = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
            figures |= dict(re.findall(r"([a-z]+) ([\d.]+)", line))
    flags = [f"--{name.replace('_', '-')} {value}" for name, value in changed.items()]
    return f"`{' '.join(['--quick'] * is_quick + flags)}`", f"{duration:.0f}", *figures.values()


def main(weights=None):
    network_name = "VGG19 with ImageNet's weights" if weights else "fitted filters"
    rates = {"float32": matmul_rate(tf.float32), "mixed_bfloat16": matmul_rate(tf.bfloat16)}
    table(
        "Machine",
        ("cores", "TensorFlow", "float32 matmul, GFLOP/s", "bfloat16 matmul, GFLOP/s", "PRECISION 'auto'"),
        [(os.cpu_count(), tf.__version__, *(f"{rate:.0f}" for rate in rates.values()), script.choose_precision())],
    )
    imgs = load_sample_pair(SIZE)
    table(f"An epoch at {SIZE} px", ("how", "seconds", "ratio", "share of matmul's rate"), measure_steps(imgs, rates))
    sizes = []
    for size, style_scale in SIZES:
        command = [sys.executable, __file__, "--size", str(size), str(style_scale), weights or ""]
        sizes.append(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    header = ("size", "style scale", "seconds per epoch", "seconds per megapixel", "peak memory, GiB", "forecast")
    table("Size, float32, with checkpoints", header, sizes)
    rows = [judge_painting(weights, True, changed) for changed in PAINTINGS]
    table(f"Sample pair, {SMALL_SIZE} px, {network_name}", ("settings", "seconds", *FIGURES), rows)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--size"]:
        print(*measure_size(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]))
    elif sys.argv[1:2] == ["--documented-run"]:
        row = judge_painting(sys.argv[2], False, {"epochs": script.EPOCHS})
        table(f"The documented run at {SMALL_SIZE} px", ("settings", "seconds", *FIGURES), [row])
    else:
        main(*sys.argv[1:])
