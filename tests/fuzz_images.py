"""Read 20,000 random mutants of eight valid pictures, and a JPEG of 200 megapixels: `python tests/fuzz_images.py`."""

import io
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import script  # noqa: E402

MUTANTS = 20_000


def make_valid():
    rows, columns = np.mgrid[0:48, 0:64]
    rgb = Image.fromarray(np.uint8(np.stack([rows * 5, columns * 4, (rows * columns) % 256], -1)))
    kinds = {
        "a.jpg": (rgb, {}), "cmyk.jpg": (rgb.convert("CMYK"), {"progressive": True}), "a.png": (rgb, {}),
        "palette.png": (rgb.quantize(16), {"transparency": 3}), "a.webp": (rgb, {}),
        "a.tif": (rgb, {"compression": "tiff_lzw"}),
        "a.gif": (rgb, {"save_all": True, "append_images": [rgb.rotate(90)]}), "a.bmp": (rgb, {}),
    }  # fmt: skip
    for name, (img, options) in kinds.items():
        data = io.BytesIO()
        img.save(data, Image.registered_extensions()[Path(name).suffix], **options)
        yield name, data.getvalue()


def mutate(data, rng):
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        place = rng.randrange(min(len(data), rng.choice((64, 1 << 20)))) if data else 0
        kind = rng.randrange(4)
        if kind == 0 and data:
            data[place] = rng.randrange(256)
        elif kind == 1:
            del data[place : place + rng.randrange(1, 50)]
        elif kind == 2:
            data[place:place] = rng.randbytes(rng.randrange(1, 50))
        elif rng.random() < 0.2:
            del data[place:]
    return bytes(data)


def read_memory(name):
    """Resident memory of this process now (VmRSS) or at its peak (VmHWM), in MiB."""
    return int(re.search(rf"{name}:\s*(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024


def main():
    rng, read, refused, slowest = random.Random(0), 0, 0, 0.0
    valid, before = list(make_valid()), resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as folder:
        for i in range(MUTANTS):
            name, data = valid[i % len(valid)]
            path = Path(folder, name)
            path.write_bytes(mutate(data, rng))
            start = time.perf_counter()
            try:
                img = script.load_image(path, 32)
                assert img.shape == (1, 32, 32, 3) and np.isfinite(img).all() and 0 <= img.min() <= img.max() <= 1
                read += 1
            except OSError as error:
                assert name in str(error), error
                refused += 1
            slowest = max(slowest, time.perf_counter() - start)
        assert resource.getrusage(resource.RUSAGE_CHILDREN) == before, "a child process ran"
        print(f"{MUTANTS} mutants: {read} read, {refused} refused with OSError; the slowest took {slowest:.2f} s")
        path = Path(folder, "large.jpg")
        # Made by another process, whose memory does not count.
        large = "Image.effect_noise((1000, 500), 90).resize((20_000, 10_000), Image.Resampling.NEAREST)"
        subprocess.run([sys.executable, "-c", f"from PIL import Image; {large}.save({str(path)!r})"], check=True)
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak of memory is counted anew
        before, start = read_memory("VmRSS"), time.perf_counter()
        script.load_image(path)
        print(f"A JPEG of 200 megapixels: {time.perf_counter() - start:.2f} s, {read_memory('VmHWM') - before:.0f} MiB")


if __name__ == "__main__":
    main()
