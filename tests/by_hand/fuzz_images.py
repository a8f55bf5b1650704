"""Read 20,000 random pictures, and a JPEG of 200 megapixels: `python tests/by_hand/fuzz_images.py [how many]`.

A third are whole pictures of random depth, layout, profile and EXIF: each is refused or has a reference's colours. A
third have random bytes in their EXIF or profile: none is refused. A third are damaged anywhere: none does harm.
"""

import io
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
import warnings
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image, features

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import conftest  # noqa: E402, F401  puts script.py on the path
import make_images as make  # noqa: E402

import script  # noqa: E402

MUTANTS = 20_000
SIZE = 32
PROFILES = {name: make.make_profile(*made) for name, made in make.PROFILES.items() if "linear" not in name}
PROFILES |= {"grey": make.make_profile(gamma=1.8, space=b"GRAY"), "CMYK": make.make_profile(space=b"CMYK")}
PROFILES |= {name: data for name, data in make.UNUSABLE_PROFILES.items() if name[:3] != "for"} | {"": b""}
TURNED = [lambda p: p, *[make.TURNED[i] for i in range(1, 9)], lambda p: p]  # 0 and 9 are none


def get_reference(samples, grey, alpha, profile, orientation):
    """What a picture means, from its samples in [0, 1]: the profile's formula, then alpha over white, then a turn."""
    if grey:
        colours = make.encode_srgb(samples**1.8) if profile == "grey" else samples
        colours = np.dstack([colours] * 3)
    else:
        known = make.PROFILES.get(profile)
        colours = make.convert_by_formula(samples, *known) if known else samples
    if alpha is not None:
        colours = colours * alpha + 1 - alpha
    return TURNED[orientation](colours)


def make_whole(rng):
    """A random whole picture: its suffix, its bytes, and its colours by the reference."""
    noise = np.random.default_rng(rng.randrange(2**32))
    rows, columns = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    waves = [0.55 + 0.4 * np.sin(noise.uniform(1, 9) * rows + noise.uniform(1, 9) * columns) for _ in range(4)]
    grey, has_alpha = rng.random() < 0.4, rng.random() < 0.3
    suffix, orientation = rng.choice(["png", "tif", "tif", "webp", "jpg"]), rng.randrange(10)
    order, profile = rng.choice("<>"), rng.choice([*PROFILES])
    exif = make.make_exif(orientation, rng.choice([{}, *make.ODD_TAGS.values()]), order)
    bits = rng.choice([1, 2, 4, 8, 12, 16, 32]) if suffix == "tif" else rng.choice([8, 16])
    if suffix == "png" and grey and not has_alpha:
        bits = rng.choice([1, 2, 4, 8, 16])
    if suffix == "png" and grey and has_alpha and profile:
        bits = 8  # Pillow reads 16-bit grey with alpha as RGBA, so that profiles of RGB fit, not of grey
    kind = rng.choice([1, 1, 2, 3]) if suffix == "tif" and bits in (8, 16, 32) and (bits != 8) else 1
    bits, has_alpha = (8, False) if suffix == "jpg" else (8 if suffix == "webp" else bits, has_alpha)
    grey = grey and suffix != "webp"  # which has colours alone
    top = 2**bits - 1
    values = np.dstack(waves[: 1 if grey else 3] + waves[3:] * has_alpha)
    if kind != 3:
        values = np.round(values * top) / top
    if grey and kind != 1 or bits == 32:  # scaled by its own range
        low, high = values[..., :1].min(), values[..., :1].max()
        shown = values if has_alpha or not grey else (values - low) / (high - low)
    else:
        shown = values
    whole = np.int64(np.round(values * top))
    if bits == 16 and (has_alpha or not grey):
        shown = (whole >> 8) / 255  # of these, Pillow keeps the high byte
    alpha = shown[..., -1:] if has_alpha else None
    expected = get_reference(shown[..., : 1 if grey else 3], grey, alpha, profile, orientation)
    if suffix == "png":
        chunks = [(b"iCCP", b"x\0\0" + zlib.compress(PROFILES[profile]))] if profile else []
        colour_type = (0 if grey else 2) + 4 * has_alpha
        return suffix, make.make_png(whole, bits, colour_type, *chunks, (b"eXIf", exif[6:])), expected
    if suffix == "tif":
        photometric = 2 if not grey else rng.choice([0, 1])
        stored = values if kind == 3 else whole - (kind == 2) * 2 ** (bits - 1)
        if photometric == 0:
            flipped = (1 if kind == 3 else top if kind == 1 else -1) - stored[..., :1]
            stored = np.dstack([flipped, stored[..., 1:]])
        tags = {0x0112: (3, [orientation])} | ({34675: (7, PROFILES[profile])} if profile else {})
        odd = rng.choice([{}, *make.ODD_TAGS.values()])
        tags |= {tag: entry for tag, entry in odd.items() if tag > 0x0112}
        planes, compress, reverse = (rng.random() < 0.3 for _ in range(3))
        extra = [2] if has_alpha else []
        data = make.make_tiff(stored, bits, photometric, kind, order, planes, compress, extra, reverse, tags)
        return suffix, data, expected
    data, pixels = io.BytesIO(), np.uint8(whole)
    options = {"lossless": True, "exact": True} if suffix == "webp" else {"quality": 97, "subsampling": 0}
    Image.fromarray(pixels[..., 0] if grey else pixels).save(
        data, {"jpg": "JPEG", "webp": "WEBP"}[suffix], exif=exif, icc_profile=PROFILES[profile], **options)
    if suffix == "jpg":  # what is lost is Pillow's matter
        lossy = np.atleast_3d(np.asarray(Image.open(data))) / 255
        expected = get_reference(lossy, grey, None, profile, orientation)
    return suffix, data.getvalue(), expected


def make_odd_metadata(rng):
    """A picture with random bytes in its EXIF or in its profile, and all the ways it may be turned."""
    pixels = np.random.default_rng(1).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    exif = make.make_exif(rng.randrange(1, 9), rng.choice([*make.ODD_TAGS.values()]), rng.choice("<>"))[6:]
    profile = rng.choice([data for data in PROFILES.values() if data])
    broken_profile = rng.random() < 0.5
    if broken_profile:
        profile = mutate(profile, rng)
    else:
        exif, profile = mutate(exif, rng), None
    suffix, data = rng.choice(["png", "webp"]), io.BytesIO()
    if suffix == "png":
        chunks = [(b"iCCP", b"x\0\0" + zlib.compress(profile))] if profile else []
        data.write(make.make_png(pixels, 8, 2, *chunks, (b"eXIf", exif)))
    else:
        Image.fromarray(pixels).save(data, "WEBP", lossless=True, exif=b"Exif\0\0" + exif, icc_profile=profile)
    return suffix, data.getvalue(), None if broken_profile else [turn(pixels / 255) for turn in TURNED]


def make_valid():
    rows, columns = np.mgrid[0:48, 0:64]
    rgb = Image.fromarray(np.uint8(np.stack([rows * 5, columns * 4, (rows * columns) % 256], -1)))
    exif, profile = make.make_exif(6, make.ODD_TAGS["0/0"]), PROFILES["ProPhoto"]
    kinds = {
        "a.jpg": (rgb, {}), "cmyk.jpg": (rgb.convert("CMYK"), {"progressive": True, "icc_profile": PROFILES["CMYK"]}),
        "a.png": (rgb, {"exif": exif, "icc_profile": profile}), "a.webp": (rgb, {"icc_profile": profile}),
        "palette.png": (rgb.quantize(16), {"transparency": 3}), "exif.jpg": (rgb, {"exif": exif}),
        "a.tif": (rgb, {"compression": "tiff_lzw"}), "profile.tif": (rgb, {"icc_profile": profile}),
        "mpo.jpg": (rgb, {"format": "MPO", "save_all": True, "append_images": [rgb]}),
        "a.gif": (rgb, {"save_all": True, "append_images": [rgb.rotate(90)]}), "a.bmp": (rgb, {}),
    }  # fmt: skip
    if features.check("avif"):
        kinds["a.avif"] = (rgb, {"exif": exif, "icc_profile": profile})
    for name, (img, options) in kinds.items():
        data = io.BytesIO()
        img.save(data, **{"format": Image.registered_extensions()[Path(name).suffix]} | options)
        yield Path(name).suffix[1:], data.getvalue()
    png = io.BytesIO()
    rgb.save(png, "PNG")
    for chunk in (
        (b"cICP", bytes([12, 16, 0, 1])), (b"gAMA", (100_000).to_bytes(4, "big")), (b"cHRM", bytes(range(32))),
        (b"iTXt", b"XML:com.adobe.xmp" + bytes(5) + b"a" * 2_000_000),
    ):  # fmt: skip
        yield "png", make.insert_chunks(png.getvalue(), chunk)
    wrong = bytearray(make.insert_chunks(png.getvalue(), (b"pHYs", bytes(9))))
    wrong[wrong.index(b"pHYs") + 13] ^= 1  # of its CRC
    yield "png", bytes(wrong)
    palette, checks = (b"PLTE", bytes([200, 0, 0, 0, 0, 200])), (rows + columns) % 2
    yield "png", make.make_png(checks, 8, 3, palette, (b"tRNS", bytes(9)))
    yield "png", make.make_png(rows * 1000, 16, 0, (b"tRNS", bytes(2)))
    masks = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    yield "bmp", make.make_bmp(64, 48, 32, 3, bytes(range(256)) * 48, masks=masks)
    yield "bmp", make.make_bmp(64, 48, 4, 2, (bytes([64, 1]) + bytes(2)) * 48, bytes(range(64)))
    adobe = make.make_adobe_exif()
    for suffix, name in (("jpg", "JPEG"), ("tif", "TIFF")):
        data = io.BytesIO()
        rgb.save(data, name, exif=adobe)
        yield suffix, data.getvalue()
    for order in "<>":
        yield "tif", make.make_tiff(np.dstack([rows * 5, columns * 4]), 8, order=order, alpha=[1], tags={274: (1, [6])})
        yield "tif", make.make_tiff(rows * 85, 12, order=order)
        yield "tif", make.make_tiff(rows * 1000 + columns, 16, 0, order=order, compress=True)


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


def read(path, data):
    """load_image(), held to what it promises; None if it refuses."""
    path.write_bytes(data)
    try:
        img = script.load_image(path, SIZE)
    except OSError as error:
        assert str(path) in str(error) and len(str(error).splitlines()) == 1, error
        return None
    assert img.shape == (1, SIZE, SIZE, 3) and np.isfinite(img).all() and 0 <= img.min() <= img.max() <= 1
    return img[0]


def read_memory(name):
    """Resident memory of this process now (VmRSS) or at its peak (VmHWM), in MiB."""
    return int(re.search(rf"{name}:\s*(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024


def main(count=MUTANTS):
    warnings.simplefilter("ignore")
    rng, slowest, counts, worst = random.Random(0), 0.0, Counter(), 0.0
    valid, before = list(make_valid()), resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as folder:
        for i in range(count):
            kind, expected = ("whole", "odd metadata", "damaged")[i % 3], None
            if kind == "damaged":
                suffix, data = rng.choice(valid)
                data = mutate(data, rng)
            else:
                suffix, data, expected = (make_whole if kind == "whole" else make_odd_metadata)(rng)
            path = Path(folder, f"a.{suffix}")
            start = time.perf_counter()
            img = read(path, data)
            slowest = max(slowest, time.perf_counter() - start)
            counts[f"{kind}, {'refused' if img is None else 'read'}"] += 1
            assert kind != "odd metadata" or img is not None, f"{i} is refused: {data}"
            if img is not None and expected is not None:
                errors = [np.abs(img - e).max() for e in (expected if kind == "odd metadata" else [expected])]
                worst = max(worst, min(errors))
                assert min(errors) < 2.5 / 255, f"{kind} {i} has other colours: {data}"
        assert resource.getrusage(resource.RUSAGE_CHILDREN) == before, "a child process ran"
        print(f"{count} pictures: {dict(counts)}")
        print(f"The slowest took {slowest:.2f} s. Colours are off by {worst * 255:.1f} levels of 255 or less")
        path = Path(folder, "large.jpg")
        # Made by another process, whose memory does not count.
        large = "Image.effect_noise((1000, 500), 90).resize((20_000, 10_000), Image.Resampling.NEAREST)"
        subprocess.run([sys.executable, "-c", f"from PIL import Image; {large}.save({str(path)!r})"], check=True)
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak of memory is counted anew
        before, start = read_memory("VmRSS"), time.perf_counter()
        script.load_image(path)
        print(f"A JPEG of 200 megapixels: {time.perf_counter() - start:.2f} s, {read_memory('VmHWM') - before:.0f} MiB")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
