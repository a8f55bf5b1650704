"""Kill a run with SIGKILL at 20 random times, for each schedule, and compare with a run left alone:
`python tests/by_hand/kill.py`, about 10 minutes. Ends with an error at the first picture that is lost, cut or another.

Checkpoints, which are 5 seconds apart, are here written every five epochs, so that a run gets on between the kills."""

import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

import script  # noqa: E402

KILLS, EPOCHS = 20, 200
CLOCK = "time.monotonic() > run.time_of_checkpoint + 5"


def start(folder, weights, schedule):
    settings = {
        "content-img-path": ROOT / script.CONTENT_IMG_PATH, "style-img-path": ROOT / script.STYLE_IMG_PATH,
        "output-path": "out", "img-size": 64, "epochs": EPOCHS, "schedule": schedule, "learn-rate": 0.02,
        "vgg-mode": "local", "vgg-network-path": weights, "precision": "float32",
    }  # fmt: skip
    words = [str(word) for name, value in settings.items() for word in (f"--{name}", value)]
    folder.mkdir(exist_ok=True)
    source = (ROOT / "script.py").read_text("utf-8")
    assert CLOCK in source
    program = folder / "script.py"
    program.write_text(source.replace(CLOCK, "run.epoch % 5 == 0"), "utf-8")
    return subprocess.Popen([sys.executable, program, *words], cwd=folder, stdout=subprocess.PIPE, text=True)


def check(folder):
    """Look at all visible files; returns the epochs of the newest image and of the checkpoint."""
    images = sorted(folder.glob("out/image_*.png"))
    for path in images:
        with Image.open(path) as img:
            assert np.asarray(img).shape == (64, 64, 3), path
    checkpoint = folder / "out/checkpoint.npz"
    record, arrays = script.load_checkpoint(checkpoint)
    assert bool(arrays) == checkpoint.exists(), checkpoint  # a damaged one has none
    assert not list(folder.glob("out/run_*"))
    return int(images[-1].stem[6:]) if images else 0, record["epoch"]


def main():
    rng, interval = random.Random(0), max(1, EPOCHS // 100)
    print("| schedule | kills | of them during the epochs | most epochs to paint again | files | last image |")
    print("|---|---|---|---|---|---|")
    for schedule in ("constant", "cosine"):
        with tempfile.TemporaryDirectory() as name:
            folder, weights = Path(name), Path(name, "he.weights.h5")
            script.build_vgg19().save_weights(weights)
            alone = start(folder / "alone", weights, schedule)
            times = [time.monotonic() for line in alone.stdout if line.startswith("epoch")]
            alone.communicate()
            seconds = times[-1] - times[0]
            lost = during = 0
            for _ in range(KILLS):
                process = start(folder / "killed", weights, schedule)
                for line in process.stdout:
                    if line.startswith("epoch"):  # the first image of this start is there
                        break
                time.sleep(rng.uniform(0, 1.5) * seconds / KILLS)
                process.kill()
                process.communicate()
                image, epoch = check(folder / "killed")
                lost, during = max(lost, image - epoch), during + (0 < epoch < EPOCHS)
            process = start(folder / "killed", weights, schedule)
            process.communicate()
            assert process.returncode == 0
            check(folder / "killed")
            alone, killed = ({p.name: p.read_bytes() for p in (folder / f / "out").glob("*.png")}
                             for f in ("alone", "killed"))  # fmt: skip
            assert alone == killed, "the pictures differ"
            print(f"| {schedule} | {KILLS} | {during} | {lost}, an interval is {interval} | {len(killed)}, all whole "
                  "| the same bytes |", flush=True)


if __name__ == "__main__":
    main()
