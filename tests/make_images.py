"""Make picture files byte by byte, of kinds that Pillow cannot write: depths, EXIF, profiles, damage."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image


def make_tiff(samples, bits=8, photometric=1, kind=1, order="<", planes=False, compress=False, alpha=(), reverse=False,
              tags=()):
    """Write a TIFF byte by byte, of kinds that Pillow cannot write; `kind` is 1 for unsigned, 2 signed, 3 float."""
    def pack(x):
        if bits >= 8 and bits != 12:
            return x.astype(f"{order}{' uif'[kind]}{bits // 8}").tobytes()
        rows = x.reshape(len(x), -1, 1) >> np.arange(bits - 1, -1, -1) & 1
        return np.packbits(rows.reshape(len(x), -1), axis=1).tobytes()

    samples = samples.reshape(*samples.shape[:2], -1)
    height, width, count = samples.shape
    strips = [pack(x) for x in (np.split(samples, count, 2) if planes else [samples])]
    if reverse:  # the bits of each byte
        strips = [np.packbits(np.unpackbits(np.frombuffer(s, np.uint8)).reshape(-1, 8)[:, ::-1]).tobytes()
                  for s in strips]  # fmt: skip
    strips = [zlib.compress(s) for s in strips] if compress else strips
    lengths = [len(s) for s in strips]
    entries = {
        256: (4, [width]), 257: (4, [height]), 258: (3, [bits] * count), 259: (3, [8 if compress else 1]),
        262: (3, [photometric]), 266: (3, [2 if reverse else 1]), 273: (4, list(8 + np.cumsum([0, *lengths])[:-1])),
        277: (3, [count]), 278: (4, [height]), 279: (4, lengths), 284: (3, [2 if planes else 1]),
        338: (3, alpha), 339: (3, [kind] * count), **dict(tags),
    }  # fmt: skip
    entries = {tag: entry for tag, entry in sorted(entries.items()) if len(entry[1])}
    start = 8 + sum(lengths) + sum(lengths) % 2
    data = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, start) + b"".join(strips)
    return data.ljust(start, b"\0") + make_ifd(entries, order, start)


def make_ifd(entries, order="<", start=8):
    """Write a directory of tags, {tag: (type, values or bytes)}, that begins at byte `start` of its file."""
    directory, outside = struct.pack(order + "H", len(entries)), b""
    for tag, (kind, values) in entries.items():
        size = {1: "B", 2: "B", 3: "H", 4: "I", 7: "B", 8: "h", 9: "i", 11: "f", 12: "d"}.get(kind, "II")
        raw = bytes(values) if size == "B" else struct.pack(f"{order}{len(values)}{size}" if len(size) == 1 else
                                                            f"{order}{len(values)}I", *values)  # fmt: skip
        count = len(values) // len(size)
        if len(raw) > 4:
            offset = start + 2 + 12 * len(entries) + 4 + len(outside)
            outside += raw + b"\0" * (len(raw) % 2)
            raw = struct.pack(order + "I", offset)
        directory += struct.pack(order + "HHI", tag, kind, count) + raw.ljust(4, b"\0")
    return directory + bytes(4) + outside


TURNED = {  # EXIF orientation: how the stored picture is to be seen
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.swapaxes(0, 1),
    6: lambda p: np.rot90(p, -1),
    7: lambda p: p[::-1, ::-1].swapaxes(0, 1),
    8: lambda p: np.rot90(p),
}
ODD_TAGS = {  # what cameras and programs write into EXIF, {tag: (type, values)}
    "a width of text": {0x0100: (2, b"wide\0")},
    "NaN": {0x011A: (12, [np.nan])},
    "0/0": {0x011A: (5, [0, 0]), 0x0128: (3, [2])},
    "no type": {0x9003: (99, [1, 2])},
    "an offset below 0": {0x8769: (9, [-4])},
    "GPS far away": {0x8825: (4, [2**31])},
}


def make_exif(orientation, odd=None, order="<"):
    """EXIF with an orientation and one more tag, {tag: (type, values)}."""
    entries = {0x0112: (3, [orientation]), **(odd or {})}
    head = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, 8)
    return b"Exif\0\0" + head + make_ifd(dict(sorted(entries.items())), order)


def make_chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def make_png(samples, bits, colour_type, *chunks):
    """Write a PNG of any depth with chunks, (name, data), before its pixels."""
    rows = samples.reshape(len(samples), -1)
    if bits == 16:
        rows = [row.astype(">u2").tobytes() for row in rows]
    else:
        rows = [np.packbits((row[:, None] >> np.arange(bits - 1, -1, -1) & 1).astype(np.uint8)).tobytes()
                for row in rows]  # fmt: skip
    head = struct.pack(">IIBBBBB", samples.shape[1], samples.shape[0], bits, colour_type, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = [(b"IHDR", head), *chunks, (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(make_chunk(*chunk) for chunk in chunks)


PRIMARIES = {  # columns: XYZ of red, green and blue under D50
    "sRGB": [[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169], [0.0139322, 0.0971045, 0.7141733]],
    "Display P3": [[0.5151, 0.2920, 0.1571], [0.2412, 0.6922, 0.0666], [-0.0011, 0.0419, 0.7841]],
    "Adobe RGB": [[0.6097559, 0.2052401, 0.149224], [0.3111242, 0.625656, 0.0632197], [0.0194811, 0.0608902, 0.744839]],
    "ProPhoto": [[0.7976749, 0.1351917, 0.0313534], [0.2880402, 0.7118741, 0.0000857], [0, 0, 0.82521]],
}

PROFILES = {  # primaries and gamma
    "Display P3": (PRIMARIES["Display P3"], 2.2),
    "Adobe RGB": (PRIMARIES["Adobe RGB"], 2.2),
    "ProPhoto": (PRIMARIES["ProPhoto"], 1.8),
    "linear sRGB": (PRIMARIES["sRGB"], 1.0),
}


def make_profile(primaries=None, gamma=1.8, space=b"RGB "):
    """Write an ICC profile: RGB with primaries and a gamma, GRAY with a gamma, or CMYK whose lightness is 1 - K."""
    def fixed(*values):
        return b"".join(struct.pack(">i", round(65536 * v)) for v in values)

    curve = b"para" + bytes(8) + fixed(gamma)
    tags = {b"wtpt": b"XYZ " + bytes(4) + fixed(0.9642, 1, 0.8249)}
    if space == b"RGB ":
        for i, name in enumerate((b"r", b"g", b"b")):
            tags |= {name + b"XYZ": b"XYZ " + bytes(4) + fixed(*np.array(primaries)[:, i]), name + b"TRC": curve}
    elif space == b"GRAY":
        tags[b"kTRC"] = curve
    else:
        ramp = bytes(range(256))
        corners = b"".join(bytes([0 if black else 255, 128, 128]) for _ in range(8) for black in (0, 1))
        tags[b"A2B0"] = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1) + 4 * ramp + \
            corners + 3 * ramp
    table, body = struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        table += name + struct.pack(">II", 132 + 12 * len(tags) + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    connection = b"XYZ " if space != b"CMYK" else b"Lab "
    head = bytes(4) + b"\2\x40\0\0" + (b"mntr" if space != b"CMYK" else b"prtr") + space + connection
    head = bytes(4) + head + bytes(12) + b"acsp" + bytes(28) + fixed(0.9642, 1, 0.8249) + bytes(48)
    profile = head + table + body
    return struct.pack(">I", len(profile)) + profile[4:]


UNUSABLE_PROFILES = {
    "empty": b"",
    "garbage": b"x" * 500,
    "cut": make_profile(*PROFILES["ProPhoto"])[:200],
    "for grey": make_profile(space=b"GRAY"),
    "for CMYK": make_profile(space=b"CMYK"),
    "without curves": make_profile(*PROFILES["ProPhoto"]).replace(b"TRC", b"XXX"),
}


def encode_srgb(linear):
    linear = np.clip(linear, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def convert_by_formula(rgb, primaries, gamma):
    """What a profile of make_profile() means: RGB in [0, 1] to sRGB in [0, 1]."""
    return encode_srgb(rgb**gamma @ np.array(primaries).T @ np.linalg.inv(PRIMARIES["sRGB"]).T)


BAD_IMAGES = {  # name: what the error says besides the name
    "folder": "is no file",
    "fifo.jpg": "is no file",
    "empty.jpg": "cannot identify image file",
    "page.jpg": "It begins with b'<!DOCTYPE ht'",
    "heic.jpg": "ftypheic",
    "program.jpg": "cannot identify image file",
    "raw.dng": "does not read a camera's raw file right",
    "bomb.png": "Image size (10000000000 pixels) exceeds limit",
    "cut.png": "",
    "cut.jpg": "",
    "cut.webp": "",
}


def make_bad_images(folder):
    """Make the files of BAD_IMAGES in a folder. Windows has no FIFO: it is then missing."""
    folder = Path(folder)
    rgb = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    for suffix in ("png", "jpg", "webp"):
        Image.fromarray(rgb).save(folder / f"cut.{suffix}")
        whole = (folder / f"cut.{suffix}").read_bytes()
        (folder / f"cut.{suffix}").write_bytes(whole[: len(whole) // 3])
    head = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    bomb = make_chunk(b"IHDR", head) + make_chunk(b"IDAT", zlib.compress(bytes(99)))
    files = {
        "empty.jpg": b"",
        "page.jpg": b"<!DOCTYPE html><title>404</title>",
        "heic.jpg": b"\0\0\0\x24ftypheic\0\0\0\0mif1heic" + bytes(40),
        # PostScript, a program, which Pillow hands to Ghostscript
        "program.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%touch pwned) (w) file\n",
        "raw.dng": make_tiff(rgb, 8, 2, tags={254: (4, [1]), 50706: (1, [1, 4, 0, 0])}),  # its first picture is small
        "bomb.png": b"\x89PNG\r\n\x1a\n" + bomb,
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / "folder").mkdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "fifo.jpg")


def insert_chunks(png, *chunks):
    """Put chunks, (name, data), behind the first one of a PNG."""
    data = b"".join(make_chunk(*chunk) for chunk in chunks)
    return png[:33] + data + png[33:]


def make_adobe_exif(color_space=0xFFFF, index="R03"):
    exif = Image.Exif()
    exif[0x8769] = {0xA001: color_space, 0xA005: {1: index}}
    return exif.tobytes()


def make_bmp(width, height, bits, compression, pixels, palette=b"", masks=()):
    """Write a BMP with a header of 40 bytes, or of 108 where it has masks of red, green, blue and alpha."""
    size = 108 if masks else 40
    start = 14 + size + len(palette)
    header = struct.pack("<IiiHHIIiiII", size, width, height, 1, bits, compression, len(pixels), 0, 0, 0, 0)
    header += struct.pack(f"<{len(masks)}I", *masks)
    return struct.pack("<2sIII", b"BM", start + len(pixels), 0, start) + header.ljust(size, b"\0") + palette + pixels
