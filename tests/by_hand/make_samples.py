"""Make the sample pictures of this project, from nothing but arithmetic.  Not part of the reading: script.py is.

    python tests/by_hand/make_samples.py

writes into images/ two pictures to be painted over, `content.jpg` (an old lakeside town; `sky.png` is white where
it shows sky and hills) and `portrait.jpg`, and four manners to paint them in: `style.jpg` (an abstract "oil
painting"), `woodcut.jpg`, `points.jpg` (a riverside in dabs of pure colour) and `glass.jpg` (leaded glass).  Needs
NumPy and Pillow; seeded, so every run on one machine draws the same pictures; about two minutes on one core.  A name
as an argument makes only that one.

The town is a small 3-D scene: flat patches (walls, roofs) and little ellipses (leaves, grass, limbs) go into a depth
buffer, are lit by the sun through a shadow map and by the sky, and are drawn once more mirrored for the lake.  The
head is a field of distances to its surface, melted together from lumps, and looked at along rays.  The painting is a
few thousand brush strokes following a flow field; they leave colour and paint thickness on the canvas, and the
thickness is lit from one side.  The woodcut is thousands of gouge marks following the forms of a design.
"""

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

SIZE = 960  # of the finished pictures
W = 2 * SIZE  # everything is drawn at twice that and scaled down at the end


# ---------------------------------------------------------------------------------------------------- shared helpers


def vec(*numbers):
    return np.array(numbers, np.float32)


def unit(v):
    v = np.asarray(v, np.float32)
    return v / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-9)


def smooth(low, high, x):
    """0 below `low`, 1 above `high`, an S curve between."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def mix(a, b, t):
    return a + (b - a) * t


def fractal(rng, shape, slope):
    """Seamlessly tiling noise with amplitude ~ frequency**-slope; mean 0, deviation 1."""
    freq = np.sqrt(sum(np.square(f) for f in np.meshgrid(*[np.fft.fftfreq(n) for n in shape], indexing="ij")))
    freq.flat[0] = np.inf
    noise = np.fft.ifftn(np.fft.fftn(rng.standard_normal(shape)) * freq**-slope).real
    return (noise / noise.std()).astype(np.float32)


def lookup(grid, *coords):
    """Linear interpolation in a wrapping grid (2-D or 3-D), coordinates in cells."""
    low = [np.floor(c).astype(np.int32) for c in coords]
    frac = [(c - i).astype(np.float32) for c, i in zip(coords, low, strict=True)]
    out = 0
    for corner in np.ndindex(*(2,) * len(coords)):
        weight = 1
        for bit, f in zip(corner, frac, strict=True):
            weight = weight * (f if bit else 1 - f)
        out = out + weight * grid[tuple((i + b) % n for i, b, n in zip(low, corner, grid.shape, strict=True))]
    return out


def blur(plane, radius):
    if plane.ndim == 3:
        return np.stack([blur(plane[..., i], radius) for i in range(plane.shape[2])], -1)
    image = Image.fromarray(plane.astype(np.float32))
    # Pillow does not filter float images, but it does resize them: down and up again is a blur
    small = image.resize([max(1, int(s / radius)) for s in image.size], Image.BOX)
    return np.asarray(small.resize(image.size, Image.BICUBIC))


def develop(light):
    """The response of film: light of any strength to gamma-encoded colours in 0..1."""
    return np.clip(light * (2.51 * light + 0.03) / (light * (2.43 * light + 0.59) + 0.14), 0, 1) ** (1 / 2.2)


def save(colour, path, quality=92, size=(SIZE, SIZE)):
    """Write gamma-encoded colours in 0..1."""
    image = Image.fromarray((np.clip(colour, 0, 1) * 255 + 0.5).astype(np.uint8))
    image = image.resize(size, Image.LANCZOS).filter(ImageFilter.UnsharpMask(0.8, 40, 2))
    image.save(path, quality=quality, optimize=True)
    return image


# ------------------------------------------------------------------------------------------------ content: the scene
# Metres; x to the right, y up from the water, z away from the viewer, who stands at x = z = 0, EYE above the lake.

EYE, FOCAL, HORIZON = 4.0, 1.2, 0.62  # focal length and height of the horizon in picture sizes
SUN = unit([-0.66, 0.52, -0.55])
SUNLIGHT = vec(3.3, 2.85, 2.2)
SKYLIGHT = vec(0.55, 0.72, 1.05)
EXPOSURE = 0.95
HAZE = vec(0.62, 0.76, 0.92)
NOISE = fractal(np.random.default_rng(1), (1024, 1024), 1.25)  # the grain of every surface
FINE = fractal(np.random.default_rng(5), (1024, 1024), 0.8)
SHADOW_RES, SHADOW_SPAN, SHADOW_CENTRE = 3072, 130.0, vec(0, 0, 62)


class Patch(NamedTuple):
    """A flat rectangle origin + a*u + b*v (u and v perpendicular); above the share `eaves` of v it narrows to a point:
    1 is a rectangle, 0 a triangle, between them the front of a gabled house.  `paint` gives colours for metres."""

    origin: np.ndarray
    u: np.ndarray
    v: np.ndarray
    eaves: float
    paint: object


def grain(u, v, per_metre):
    return lookup(NOISE, u * per_metre + 311.7, v * per_metre + 97.3)


def dice(a, b, salt=0):
    """A repeatable random number in 0..1 for each pair of whole numbers."""
    h = np.sin(np.floor(a) * 127.1 + np.floor(b) * 311.7 + salt * 74.7) * 43758.5453
    return (h - np.floor(h)).astype(np.float32)


def stones(base, row=0.45, length=0.9):
    """Masonry: rows of unequal blocks with dark joints."""

    def paint(u, v):
        k = np.floor(v / row)
        a, b = u / length + dice(k, 0) * 7, v / row
        edge = np.minimum(np.minimum(a % 1, 1 - a % 1) * length, np.minimum(b % 1, 1 - b % 1) * row)
        tone = 0.72 + 0.45 * dice(a, k, 3) + 0.12 * grain(u, v, 40) + 0.10 * grain(u, v, 4)
        tint = 1 + 0.10 * (dice(a, k, 5)[:, None] - 0.5) * vec(1, 0.2, -1)
        return base * tint * (tone * mix(0.45, 1, smooth(0.0, 0.06, edge)))[:, None]

    return paint


def tiles(base):
    """Roof tiles in staggered rows, each its own shade, each row shading the one under it."""

    def paint(u, v):
        k = np.floor(v / 0.36)
        a, b = u / 0.30 + 0.5 * (k % 2), v / 0.36 % 1
        tone = 0.70 + 0.5 * dice(a, k, 1) ** 2 + 0.16 * grain(u, v, 6) + 0.08 * grain(u, v, 50)
        tone = tone * mix(0.5, 1, smooth(0.0, 0.3, b)) * mix(0.72, 1, smooth(0.0, 0.25, 0.5 - abs(a % 1 - 0.5)))
        moss = smooth(0.9, 2.2, grain(u, v, 9))[:, None]
        return mix(base * tone[:, None], vec(0.13, 0.14, 0.06), 0.6 * moss)

    return paint


def plain(base, per_metre=8, depth=0.15):
    return lambda u, v: base * (1 + depth * grain(u, v, per_metre) + depth * grain(u, v, per_metre * 6))[:, None]


def facade(width, eaves, ridge, wall, shutter, timber, salt):
    """Stucco or half-timbered wall with rows of shuttered windows and a door."""
    columns = max(1, round(width / 2.3))
    cell = width / columns

    def paint(u, v):
        tone = 1 + 0.11 * grain(u, v, 5) + 0.07 * grain(u, v, 45) - 0.3 * (1 - smooth(0, 1.6, v + 0.3 * grain(u, v, 8)))
        tone = tone - 0.3 * smooth(0.5, 1.8, lookup(NOISE, u * 30, v * 2.5 + salt * 900))  # streaks left by the rain
        out = wall * tone[:, None]
        column, storey = np.floor(u / cell), np.floor((v - 0.2) / 2.9)
        a, b = u - (column + 0.5) * cell, (v - 0.2) - storey * 2.9 - 0.85
        if timber:
            beam = (abs(b + 0.72) < 0.13) | (abs(abs(a) - cell / 2) < 0.11)
            beam |= abs(abs(a) - cell / 2 + 0.12 - 0.30 * (b + 0.7)) < 0.10
            beam &= v > 3.0
            out = np.where(beam[:, None], vec(0.10, 0.06, 0.035) * (1 + 0.3 * grain(u, v, 30))[:, None], out)
        # a window needs its whole height and width under the roof line
        reach = abs((column + 0.5) * cell / width * 2 - 1) + 0.9 / width
        fits = (storey + 1) * 2.9 < eaves + (ridge - eaves) * np.maximum(1 - reach, 0) + 0.3
        door = (storey == 0) & (column == int(salt * 10) % columns)
        low = np.where(door, -0.85, 0.0)
        half = np.where(door, 0.55, 0.46)
        across, up = abs(a), b - low
        tall = 1.5 - low
        fits &= (storey >= 0) & (up > -0.3) & (up < tall + 0.2)
        surround = fits & (across < half + 0.13) & (up > -0.12) & (up < tall + 0.13)
        glass = fits & (across < half) & (up > 0) & (up < tall)
        leaf = fits & ~door & (across > half + 0.06) & (across < half + 0.50) & (up > -0.03) & (up < tall + 0.05)
        under = fits & (across < half + 0.2) & (up > -0.3) & (up <= -0.12)
        out = np.where(under[:, None], out * 0.62, out)
        out = np.where(surround[:, None], vec(0.60, 0.56, 0.48), out)
        slats = mix(0.7, 1.1, (up * 9) % 1)
        out = np.where(leaf[:, None], shutter * slats[:, None], out)
        pane = vec(0.05, 0.065, 0.085) + (0.22 * dice(column, storey, salt) ** 3 * up / tall)[:, None]
        pane = np.where(door[:, None], shutter * 0.5 + 0.02, pane)
        bars = glass & ~door & ((across < 0.045) | (abs(up - 0.95) < 0.045) | (across > half - 0.06))
        pane = np.where(bars[:, None], vec(0.62, 0.6, 0.55), pane)
        recess = mix(0.35, 1, smooth(0.0, 0.16, np.minimum(a + half, tall - up)))  # the sun is left and above
        return np.where(glass[:, None], pane * recess[:, None], out)

    return paint


def block(patches, origin, across, back, height, paint, roof=None, roof_height=0.0, overhang=0.35):
    """A box standing on `origin` (its near left corner); with `roof` a saddle roof, its gable to the front."""
    up = vec(0, 1, 0)
    total = height + roof_height
    front, side = paint if isinstance(paint, tuple) else (paint, paint)
    share = height / total if roof else 1
    patches.append(Patch(origin, across, up * total, share, front))
    patches.append(Patch(origin + back, across, up * total, share, front))
    patches.append(Patch(origin + back, -back, up * height, 1, side))
    patches.append(Patch(origin + across, back, up * height, 1, side))
    if not roof:
        patches.append(Patch(origin + up * height, across, back, 1, side))
        return
    forward, ridge = unit(back) * overhang, origin + across / 2 + up * total
    for foot in (origin, origin + across):
        slope = (ridge - foot - up * height) * (1 + overhang / np.linalg.norm(across / 2))
        start = ridge - slope - forward + up * 0.12
        patches.append(Patch(start, back + 2 * forward, slope, 1, roof))
        # the thickness of the roof, seen as a bargeboard along the gable
        lip = unit(np.cross(back, slope)) * 0.22
        patches.append(Patch(start, slope, lip * (1 if lip[1] < 0 else -1), 1, plain(vec(0.20, 0.15, 0.11))))


def house(patches, rng, corner, across, back, wall, shutter, roof, eaves, rise, timber, gable):
    width, depth = np.linalg.norm(across), np.linalg.norm(back)
    salt = rng.random()
    if gable:
        front = facade(width, eaves, eaves + rise, wall, shutter, timber, salt)
        side = facade(depth, eaves, eaves, wall, shutter, False, salt)
        block(patches, corner, across, back, eaves, (front, side), roof=tiles(roof), roof_height=rise)
    else:  # the long side to the water: the same house turned by a quarter
        front = facade(width, eaves, eaves, wall, shutter, timber, salt)
        side = facade(depth, eaves, eaves + rise, wall, shutter, False, salt)
        block(patches, corner + across, back, -across, eaves, (side, front), roof=tiles(roof), roof_height=rise)
    spot = corner + across * rng.uniform(0.25, 0.4) + back * rng.uniform(0.3, 0.6) + vec(0, eaves + rise * 0.35, 0)
    brick = stones(vec(0.42, 0.24, 0.17), 0.2, 0.35)
    block(patches, spot, unit(across) * 0.9, unit(back) * 0.8, rise * 0.65 + 0.8, brick)


def town(rng):
    """All the flat patches: quay, three rows of houses climbing the slope, the church."""
    patches = []
    right = unit([1, 0, -0.16])  # the quay runs a little towards the viewer, so that things have two sides
    back = unit([0.16, 0, 1])
    up = vec(0, 1, 0)
    shore = vec(-62, 0, 72)
    quay = 1.5
    patches.append(Patch(shore - up * 0.5, right * 130, up * (quay + 0.5), 1, stones(vec(0.25, 0.225, 0.18), 0.4, 0.8)))
    patches.append(Patch(shore + up * quay, right * 130, back * 7, 1, stones(vec(0.45, 0.42, 0.36), 0.5, 0.6)))
    slope = back * 120 + up * 16
    patches.append(Patch(shore + up * quay + back * 7, right * 140, slope, 1, plain(vec(0.12, 0.17, 0.05))))
    walls = np.array([[0.66, 0.48, 0.22], [0.70, 0.60, 0.44], [0.56, 0.24, 0.13], [0.66, 0.46, 0.30],
                      [0.40, 0.47, 0.48], [0.74, 0.66, 0.52], [0.64, 0.38, 0.13], [0.62, 0.36, 0.28]])
    shutters = np.array([[0.10, 0.20, 0.12], [0.12, 0.22, 0.34], [0.34, 0.09, 0.06], [0.22, 0.14, 0.08]])
    roofs = np.array([[0.46, 0.17, 0.09], [0.40, 0.15, 0.09], [0.50, 0.22, 0.12], [0.34, 0.14, 0.10]])
    for row in range(3):
        along, n = rng.uniform(0, 4), int(rng.integers(8))
        while along < 124:
            width, tall = rng.uniform(6.5, 9.5), rng.uniform(6.6, 9.8)
            gable = rng.random() < 0.68
            corner = shore + right * along + back * (5 + 15 * row + rng.uniform(0, 0.8)) + up * (quay + 2.4 * row - 0.2)
            house(patches, rng, corner, right * width, back * 10, walls[n % 8], shutters[n * 3 % 4], roofs[n * 5 % 4],
                  tall, width * rng.uniform(0.5, 0.72) if gable else rng.uniform(3.2, 4.2), n % 4 == 1, gable)
            along += width + (rng.uniform(1.5, 4) if rng.random() < 0.25 + 0.2 * row else 0.05)
            n += 1
    # the church: nave, tower with belfry and clock, pyramid of slate
    masonry = stones(vec(0.47, 0.40, 0.31), 0.5, 1.0)
    foot, wide, high = shore + right * 47.5 + back * 30 + up * 4.5, 6.4, 25.0

    def belfry(u, v):
        out, a = masonry(u, v), abs(u - wide / 2)
        bow = np.sqrt(np.maximum(0.36 - (a - 0.95) ** 2, 0))
        arch = (abs(a - 0.95) < 0.6) & (v > high - 5.2) & (v < high - 2.4 + bow)
        slit = (a < 0.35) & (abs(v - 11.5) < 1.2)
        out = np.where((arch | slit)[:, None], vec(0.035, 0.03, 0.03), out)
        out = np.where(((abs(v - high + 6.2) < 0.22) | (v > high - 0.5))[:, None], vec(0.66, 0.60, 0.50), out)
        r, angle = np.hypot(u - wide / 2, v - high + 8.6), np.arctan2(u - wide / 2, v - high + 8.6)
        marks = (r > 1.0) & (np.cos(angle * 12) > 0.6) | (r < 0.9) & (abs(np.sin(angle - 0.6)) * r < 0.1)
        dial = np.where(marks[:, None], vec(0.05, 0.05, 0.06), vec(0.85, 0.82, 0.72))
        out = np.where((r < 1.45)[:, None], vec(0.25, 0.16, 0.05), out)
        return np.where((r < 1.28)[:, None], dial, out)

    block(patches, foot, right * wide, back * wide, high, belfry)
    slate = tiles(vec(0.13, 0.19, 0.20))
    eave = foot + up * high - (right + back) * 0.4
    size, apex = wide + 0.8, foot + up * (high + 11.5) + (right + back) * wide / 2
    far = eave + (right + back) * size
    for start, edge in ((eave, right), (eave + right * size, back), (far, -right), (eave + back * size, -back)):
        patches.append(Patch(start, edge * size, apex - start - edge * size / 2, 0, slate))
    patches.append(Patch(apex - right * 0.09 - up, right * 0.18, up * 3.2, 1, plain(vec(0.5, 0.36, 0.1))))
    patches.append(Patch(apex - right * 0.6 + up * 1.2, right * 1.2, up * 0.2, 1, plain(vec(0.5, 0.36, 0.1))))
    red = tiles(vec(0.42, 0.16, 0.09))
    block(patches, foot + right * wide, right * 11, back * 22, 9.5, masonry, roof=red, roof_height=8.0)
    # the near bank, on the right: a slope that comes up out of the water
    along = unit([0.62, 0, 0.78])
    inland = unit([0.78, 0.24, -0.62])
    patches.append(Patch(vec(-6.0, -0.35, 5.0), along * 34, inland * 30, 1, plain(vec(0.10, 0.11, 0.03), 20, 0.3)))
    return patches, (vec(-6.0, -0.35, 5.0), along, inland)


# ------------------------------------------------------------------------------------------------ content: vegetation
# Ellipses: centre, long half axis (a vector), half width, normal, colour, and `leaf`: 1 lets light through, 0 is wood.


def grow(rng, foot, height, spread):
    """A broad-leaved tree as two sets of ellipses: its limbs and its leaves."""
    limbs, tips = [], []

    def branch(start, heading, length, radius, level):
        steps = max(3, int(length / (radius * 0.7)))
        for i in range(steps):
            heading = unit(heading + rng.normal(0, 0.07, 3) * (1 + level * 0.3) + vec(0, 0.012 * level, 0))
            thick = radius * (1 - 0.45 * i / steps) * (1 + (0.6 * np.exp(-i * 0.35) if level == 0 else 0))
            limbs.append((start, heading * max(length / steps, thick) * 1.2, thick))
            start = start + heading * length / steps
            if level >= 2 and i > steps * 0.4 and rng.random() < 2.0 / steps:
                tips.append(start)
        if level == 5 or radius < 0.012:
            tips.append(start)
            return
        count = 4 if level == 0 else int(rng.integers(2, 4))
        turn = rng.uniform(0, 2 * np.pi)
        for k in range(count):
            side = vec(np.cos(turn + k * 2 * np.pi / count), 0, np.sin(turn + k * 2 * np.pi / count))
            lean = rng.uniform(0.45, 0.95) * spread
            branch(start, unit(heading + side * lean + vec(0, 0.1, 0)), length * rng.uniform(0.66, 0.86),
                   radius * rng.uniform(0.52, 0.66), level + 1)

    branch(np.asarray(foot, np.float32), vec(-0.05, 1, 0), height * 0.27, height * 0.034, 0)
    pos, axis, thick = (np.array(x, np.float32) for x in zip(*limbs, strict=True))
    bark = np.broadcast_to(vec(0.13, 0.10, 0.07), pos.shape)
    wood = (pos, axis, thick, np.zeros_like(pos), bark, 0.0)
    return wood, np.array(tips, np.float32)


def foliage(rng, tips, per_tip, puff, leaf, tint):
    """Leaves in clusters round the tips; normals lean outwards so that each cluster has a lit and a dark side."""
    clump = np.repeat(tips, per_tip, 0)
    offset = rng.normal(0, 1, clump.shape) * vec(1, 0.7, 1) * puff
    pos = clump + offset
    outward = unit(pos - tips.mean(0) + vec(0, 1, 0))
    normal = unit(unit(offset + vec(0, 0.4 * puff, 0)) + 0.8 * outward + 0.55 * rng.normal(0, 1, pos.shape))
    axis = unit(np.cross(normal, rng.normal(0, 1, pos.shape))) * leaf * rng.uniform(0.7, 1.3, (len(pos), 1))
    shade = np.repeat(rng.normal(1, 0.10, len(tips)), per_tip)[:, None] * rng.normal(1, 0.16, (len(pos), 1))
    warm = np.repeat(rng.normal(0, 0.10, len(tips)), per_tip)[:, None] + rng.normal(0, 0.08, (len(pos), 1))
    colour = np.asarray(tint) * np.clip(shade, 0.4, 1.6) * (1 + warm * vec(1.2, 0.2, -0.6))
    return pos, axis, np.full(len(pos), leaf * 0.55), normal, colour, 1.0


def meadow(rng, bank, count):
    """Grass on the near bank: each blade three ellipses, bending over."""
    origin, along, inland = bank
    a, b = rng.uniform(0, 34, count), rng.uniform(1.0, 26, count)
    root = origin + along * a[:, None] + inland * b[:, None]
    tall = rng.uniform(0.10, 0.34, count) * (1 + 0.5 * grain(a, b, 25)) + 0.45 * (rng.random(count) < 0.6) * (b < 2.0)
    lean = rng.normal(0, 0.35, (count, 3)) * vec(1, 0, 1) + vec(0.22, 0, 0)
    tone = (0.9 + 0.25 * grain(a, b, 10) + rng.normal(0, 0.18, count))[:, None]
    dry = smooth(-0.3, 2.0, grain(a, b, 18) + rng.normal(0, 0.5, count))[:, None]
    colour = mix(vec(0.085, 0.15, 0.03), vec(0.27, 0.23, 0.085), dry) * np.clip(tone, 0.4, 1.6)
    parts = []
    for k in range(3):
        heading = unit(vec(0, 1, 0) + lean * (0.4 + k))
        axis = heading * (tall / 5)[:, None]
        width, normal = np.full(count, 0.011 - 0.003 * k), unit(lean + vec(0, 0.9, -0.5))
        parts.append((root + axis, axis, width, normal, colour * (0.55 + 0.25 * k)))
        root = root + axis * 1.8
    return (*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)), 0.8)


# ------------------------------------------------------------------------------------------------- content: rendering


def camera(flip=1):
    """Projection and rays of the viewer; flip=-1 is the viewer mirrored in the lake, picture upright."""

    def project(p):
        z = np.maximum(p[..., 2], 0.5)
        return W * (0.5 + FOCAL * p[..., 0] / z), W * (HORIZON - (flip * p[..., 1] - EYE) * FOCAL / z), z, FOCAL * W / z

    def ray(x, y):
        d = np.stack([(x / W - 0.5) / FOCAL, flip * (HORIZON - y / W) / FOCAL, np.ones_like(x)], -1)
        return vec(0, flip * EYE, 0), d.astype(np.float32)

    return project, ray


def sun_camera():
    """The scene as the sun sees it, without perspective: what it does not see is in shadow."""
    right = unit(np.cross([0, 1, 0], SUN))
    up = np.cross(SUN, right)
    scale = SHADOW_RES / SHADOW_SPAN

    def project(p):
        q = p - SHADOW_CENTRE
        x, y = q @ right * scale + SHADOW_RES / 2, q @ up * scale + SHADOW_RES / 2
        return x, y, 200 - q @ SUN, np.full(q.shape[:-1], scale)

    def ray(x, y):
        a, b = (x - SHADOW_RES / 2) / scale, (y - SHADOW_RES / 2) / scale
        return SHADOW_CENTRE + SUN * 200 + a[..., None] * right + b[..., None] * up, -SUN

    return project, ray


def new_buffer(size):
    return {"depth": np.full((size, size), np.inf, np.float32), "colour": np.zeros((size, size, 3), np.float32),
            "normal": np.zeros((size, size, 3), np.float32), "leaf": np.zeros((size, size), np.float32)}


def draw_patch(buffer, view, patch):
    project, ray = view
    size = len(buffer["depth"])
    corners = patch.origin + np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) @ np.stack([patch.u, patch.v])
    x, y, near, _ = project(corners)
    if near.max() < 1:
        return
    x0, x1 = np.clip([x.min(), x.max() + 1], 0, size).astype(int)
    y0, y1 = np.clip([y.min(), y.max() + 1], 0, size).astype(int)
    if near.min() <= 0.5:  # reaches behind the viewer: its corners say nothing about where it is
        x0, x1, y0, y1 = 0, size, int(HORIZON * size), size
    if x0 >= x1 or y0 >= y1:
        return
    gy, gx = np.mgrid[y0:y1, x0:x1].astype(np.float32)
    start, d = ray(gx, gy)
    normal = unit(np.cross(patch.u, patch.v)).astype(np.float32)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = ((patch.origin - start) @ normal) / (d @ normal)
        p = start + t[..., None] * d - patch.origin
        u, v = p @ patch.u / (patch.u @ patch.u), p @ patch.v / (patch.v @ patch.v)
        tip = 1 if patch.eaves == 1 else patch.eaves + (1 - patch.eaves) * (1 - abs(2 * u - 1))
        depth = buffer["depth"][y0:y1, x0:x1]
        inside = (u >= 0) & (u <= 1) & (v >= 0) & (v <= tip) & (t > 0.5) & (t < depth)
    depth[inside] = t[inside]
    if "colour" in buffer:
        paint = patch.paint(u[inside] * np.linalg.norm(patch.u), v[inside] * np.linalg.norm(patch.v))
        buffer["colour"][y0:y1, x0:x1][inside] = paint
        facing = normal if (d[inside][:1] @ normal <= 0).all() else -normal
        buffer["normal"][y0:y1, x0:x1][inside] = facing
        buffer["leaf"][y0:y1, x0:x1][inside] = 0


def draw_ellipses(buffer, view, ellipses):
    project, _ = view
    size = len(buffer["depth"])
    pos, axis, width, normal, colour, leaf = ellipses
    x, y, depth, scale = project(pos)
    ex, ey, _, _ = project(pos + axis)
    long, across = np.maximum(np.hypot(ex - x, ey - y), 0.9), np.maximum(width * scale, 0.9)
    long = np.maximum(long, across * 0.7)
    dx, dy = unit(np.stack([ex - x, ey - y + 1e-6], -1)).T
    reach = np.ceil(np.maximum(long, across)).astype(int)
    seen = (depth > 0.6) & (x > -reach) & (x < size + reach) & (y > -reach) & (y < size + reach)
    radius = 1
    while (seen & (reach > radius // 2)).any():
        # far ones first, so that nearer ones, later in the same assignment, overwrite them
        chosen = np.flatnonzero(seen & (reach <= radius) & (reach > radius // 2))
        chosen = chosen[np.argsort(-depth[chosen])]
        oy, ox = (o.ravel() for o in np.mgrid[-radius : radius + 1, -radius : radius + 1])
        batch = max(1, 2_000_000 // len(ox))
        for part in (chosen[i : i + batch, None] for i in range(0, len(chosen), batch)):
            px, py = np.rint(x[part]).astype(int) + ox, np.rint(y[part]).astype(int) + oy
            fx, fy = px - x[part], py - y[part]
            s, c = (fx * dx[part] + fy * dy[part]) / long[part], (fy * dx[part] - fx * dy[part]) / across[part]
            edge = 1 - s * s if leaf else np.sqrt(np.maximum(1 - s * s, 0))  # leaves are pointed, pieces of limb round
            ok = (abs(c) < edge) & (px >= 0) & (px < size) & (py >= 0) & (py < size)
            who, _ = np.nonzero(ok)
            who, px, py, s, c = part[who, 0], px[ok], py[ok], s[ok], c[ok]
            near = depth[who] if leaf else depth[who] - width[who] * np.sqrt(1 - c * c)
            ok = near < buffer["depth"][py, px]
            who, px, py, s, c = who[ok], px[ok], py[ok], s[ok], c[ok]
            buffer["depth"][py, px] = near[ok]
            if "colour" not in buffer:
                continue
            n, bark = normal[who], 1
            if leaf == 0:  # limbs are round: the normal turns from one side to the other
                side = np.stack([-dy[who], -dx[who], 0 * c], -1) * c[:, None]
                n = unit(side + vec(0, 0, -1) * np.sqrt(np.maximum(1 - c * c, 0.02))[:, None])
                around, lengthwise = np.arcsin(c) * width[who], pos[who, 1] + s * axis[who, 1]
                bark = np.clip(1 + 0.5 * lookup(NOISE, around * 130, lengthwise * 20), 0.25, 2)[:, None]
            buffer["normal"][py, px] = n
            buffer["colour"][py, px] = colour[who] * bark
            buffer["leaf"][py, px] = leaf
        radius *= 2


def shade(buffer, view, shadow, background):
    """Light what is in the buffer: sun through the shadow map, sky from above, a little light off the ground."""
    out = background.copy()
    iy, ix = np.nonzero(np.isfinite(buffer["depth"]))
    t = buffer["depth"][iy, ix]
    start, d = view[1](ix.astype(np.float32), iy.astype(np.float32))
    n, leaf = buffer["normal"][iy, ix], buffer["leaf"][iy, ix]
    p = start + d * t[:, None]
    x, y, depth, _ = sun_camera()[0](p + n * 0.06)
    lit = 0
    for ox, oy in ((-1.2, -0.4), (0.4, -1.2), (1.2, 0.4), (-0.4, 1.2), (0, 0)):
        inside_x, inside_y = (np.clip(c, 0, SHADOW_RES - 1).astype(int) for c in (x + ox, y + oy))
        lit = lit + (depth - 0.06 - 0.14 * leaf < shadow[inside_y, inside_x]) / 5
    facing = n @ SUN
    sun = mix(np.maximum(facing, 0), 0.62 * np.maximum(facing, 0) + 0.26 + 0.1 * facing, leaf) * lit
    # corners and hollows see less sky: compare the depth with its surroundings
    around = np.where(np.isfinite(buffer["depth"]), buffer["depth"], 140)
    hollow = sum(np.clip((around - blur(around, r)) / 3, 0, 1) for r in (8, 30, 90))[iy, ix]
    sky = (0.55 + 0.45 * n[:, 1]) * (1 - 0.22 * hollow) * mix(1, 0.85, leaf)
    bounce = 0.22 * (0.6 - 0.4 * n[:, 1])
    light = sun[:, None] * SUNLIGHT + sky[:, None] * SKYLIGHT + bounce[:, None] * vec(1.0, 0.85, 0.6)
    through = 1 + (leaf * np.maximum(-facing, 0) * lit)[:, None] * vec(0.5, 0.4, -0.2)  # leaves glow against the sun
    colour = buffer["colour"][iy, ix] * light * through * 0.62
    out[iy, ix] = mix(HAZE * 0.9, colour, np.exp(-np.maximum(t - 15, 0) / 900)[:, None])
    return out


def sky_and_hills(rng):
    """The background: a march through a volume of cloud, then ridges of woods and meadows fading into haze."""
    width, rows = SIZE, int(SIZE * HORIZON) + 2
    ny, nx = np.mgrid[0:rows, 0:width].astype(np.float32) / SIZE
    dx, dy = (nx - 0.5) / FOCAL, np.maximum(HORIZON - ny, 0.004) / FOCAL
    blue = mix(vec(0.60, 0.74, 0.90), vec(0.065, 0.20, 0.56), smooth(-0.05, 0.55, dy)[..., None] ** 0.8)
    base, top, cell = 800.0, 1650.0, 26.0
    shape = (40, 160, 160)  # height, x, z
    detail = fractal(rng, (64, 64, 64), 2.0)
    heaps = fractal(rng, shape[1:], 2.1)
    level = (np.arange(shape[0], dtype=np.float32) / shape[0])[:, None, None]
    body = 0.75 * heaps + 0.5 * fractal(rng, shape, 2.1) - 0.62 - 1.9 * level**1.5
    volume = np.clip(body * 2.6, -0.5, 1) * smooth(0, 0.06, level)
    # how much cloud is between each cell and the sun: add up copies shifted towards it
    thick, sun = np.zeros_like(volume), SUN / abs(SUN[0])
    for k in range(1, 14):
        up = round(k * sun[1] * cell / ((top - base) / shape[0]))
        moved = np.roll(np.maximum(volume, 0), (-round(k * sun[0]), -round(k * sun[2])), (1, 2))
        thick[: shape[0] - up] += moved[up:]
    glow = np.exp(-0.75 * thick) * 0.85 + np.exp(-0.12 * thick) * 0.15
    through, light, far = np.ones_like(dx), np.zeros(dx.shape, np.float32), np.zeros(dx.shape, np.float32)
    steps = 96
    for k in range(steps):
        h = base + (top - base) * (k + 0.5) / steps
        t = h / dy
        ok = np.flatnonzero((through > 0.03).ravel() & (t < 26000).ravel())
        t = t.ravel()[ok]
        cx, cz = t * dx.ravel()[ok] / cell + 20.0, t / cell
        cy = np.full(len(t), min((k + 0.5) / steps * shape[0] - 0.5, shape[0] - 2))
        d = lookup(volume, cy, cx, cz)
        some = d > -0.25
        ok, t, cx, cy, cz, d = ok[some], t[some], cx[some], cy[some], cz[some], d[some]
        curls = 0.20 * lookup(detail, cy * 2.1, cx * 2.3, cz * 2.3) + 0.10 * lookup(detail, cy * 7, cx * 7.3, cz * 7.3)
        d = np.clip(2 * (d - 0.20 - curls), 0, 1)
        stretch = np.minimum((top - base) / steps / dy.ravel()[ok], 260) / 26
        alpha = 1 - np.exp(-d * stretch * 0.9)
        weight = alpha * through.flat[ok]
        light.flat[ok] += weight * (lookup(glow, cy, cx, cz) * (1.05 - 0.35 * d) + 0.25 * cy / shape[0])
        far.flat[ok] += weight * t
        through.flat[ok] *= 1 - alpha
    cover = 1 - through
    white = mix(vec(0.25, 0.33, 0.46), vec(1.75, 1.62, 1.45), np.clip(light / np.maximum(cover, 1e-3), 0, 1)[..., None])
    haze = np.exp(-far / np.maximum(cover, 1e-3) / 24000)[..., None]
    sky = mix(blue, mix(HAZE, white, haze), cover[..., None])
    sky = np.stack([np.asarray(Image.fromarray(c.astype(np.float32)).resize((W, 2 * rows), Image.BICUBIC))
                    for c in np.moveaxis(sky, 2, 0)], -1)
    out = np.zeros((W, W, 3), np.float32)
    out[: len(sky)] = sky[:W]
    # the hills: for each distance the height on screen; a pixel shows the first distance that reaches up to it
    z = np.geomspace(170, 5200, 700)[:, None]
    x = z * (np.arange(W) / W - 0.5)[None] / FOCAL
    big = fractal(rng, (512, 512), 2.4)
    rise = 420 * smooth(250, 1700, z) + 1500 * smooth(1700, 5000, z)
    ridge = lookup(big, x / 14 + 60, z / 14 + 33) * 0.9 + 0.5 * lookup(big, x / 45 + 300, z / 45)
    ground = rise * (0.42 + 0.26 * ridge)
    wood = smooth(-0.1, 0.25, lookup(NOISE, x / 9 + 500, z / 9 + 200) + 0.3)
    crowns = lookup(NOISE, x * 0.35, z * 0.35)
    height = ground + wood * (7 + 3.5 * crowns)
    slope_x = np.gradient(height, axis=1) / np.gradient(x, axis=1)
    slope_z = np.gradient(height, axis=0) / np.gradient(z, axis=0)
    sunlit = np.maximum(unit(np.stack([-slope_x, np.ones_like(x), -slope_z], -1)) @ SUN, 0)
    field = np.where(lookup(NOISE, x / 30, z / 20 + 40) > 0.2, 1, 0)[..., None]
    colour = mix(mix(vec(0.20, 0.27, 0.08), vec(0.42, 0.38, 0.15), field),
                 vec(0.055, 0.11, 0.035) * (1 + 0.3 * crowns[..., None]), wood[..., None])
    colour = colour * (sunlit[..., None] * SUNLIGHT + 0.75 * SKYLIGHT) * 0.62
    colour = mix(HAZE * vec(0.50, 0.68, 0.92), colour, np.exp(-z / 6500)[..., None])
    screen = np.minimum.accumulate(W * (HORIZON - FOCAL * (height - EYE) / z), 0)
    columns = np.arange(W)
    for row in range(int(screen.min()), int(W * HORIZON) + 2):
        first = (screen > row).sum(0)
        hit = first < len(z)
        out[row, hit] = colour[first[hit], columns[hit]]
    # under the horizon, for the reflections, the same upside down
    middle = int(W * HORIZON)
    out[middle:] = out[middle - (W - middle) : middle][::-1]
    return out


def water(rng, picture, mirrored, depth):
    """Ripples tilt the surface, which shifts what it mirrors; seen steeply, more of the lake itself shows."""
    iy, ix = np.mgrid[int(W * HORIZON) + 3 : W, 0:W]
    z = FOCAL * EYE / (iy / W - HORIZON)
    wet = z < depth[iy, ix]
    iy, ix, z = iy[wet], ix[wet], z[wet]
    x = z * (ix / W - 0.5) / FOCAL
    tilt, sway = 0, 0
    waves = fractal(rng, (1024, 1024), 1.3)
    waves = waves - blur(waves, 40)  # no long swell on a lake
    for scale, strength in ((9, 0.8), (24, 0.8), (60, 0.6)):
        fade = 1 / (1 + (z * scale / 2200) ** 2)  # ripples finer than a pixel would only sparkle
        tilt = tilt + strength * fade * lookup(waves, x * scale * 0.35, z * scale + 7)
        sway = sway + strength * fade * lookup(waves, x * scale * 0.45 + 400, z * scale + 211)
    wind = smooth(-0.4, 1.4, lookup(NOISE, x * 2 + 90, z * 7))
    strength = W * FOCAL * mix(0.006, 0.017, wind)
    sx = np.clip(ix + 0.4 * strength * sway, 0, W - 2)
    mirror = 0
    for k in (-1.2, -0.4, 0.4, 1.2):  # ripples too small to be seen one by one smear the picture upright
        sy = iy + strength * (1.6 * tilt + k * smooth(8, 70, z))
        sy = np.maximum(np.where(sy > W - 2, 2 * (W - 2) - sy, sy), W * HORIZON + 2)
        mirror = mirror + np.stack([lookup(mirrored[..., c], sy, sx) for c in range(3)], -1) / 4
    steep = np.clip(EYE / np.hypot(z, EYE) + 0.012 * tilt, 0, 1)
    fresnel = np.clip(0.06 + 0.94 * (1 - steep) ** 3.2, 0, 1)[:, None]
    deep = vec(0.035, 0.085, 0.085) * (1 + 0.25 * tilt[:, None])
    picture[iy, ix] = mirror * fresnel * vec(0.84, 0.88, 0.90) + deep * (1 - fresnel)


def make_content(path):
    rng = np.random.default_rng(7)
    patches, bank = town(rng)
    wood, tips = grow(rng, (5.0, 0.75, 16.5), 11.5, 1.0)
    plants = [wood, foliage(rng, tips, 170, 0.30, 0.052, (0.085, 0.145, 0.028))]
    for x, z, tall in ((-27, 71.5, 5.0), (3.5, 65.5, 4.4), (-8, 68.0, 3.6), (16, 64.0, 5.0)):
        limbs, ends = grow(rng, (x, 1.4, z), tall * 1.3, 0.9)
        plants += [limbs, foliage(rng, ends[:: max(1, len(ends) // 90)], 60, 0.42, 0.12, (0.075, 0.13, 0.03))]
    grass = meadow(rng, bank, 90000)
    shadow = {"depth": np.full((SHADOW_RES, SHADOW_RES), np.inf, np.float32)}
    background = sky_and_hills(np.random.default_rng(1))
    for patch in patches:
        draw_patch(shadow, sun_camera(), patch)
    for ellipses in plants:
        draw_ellipses(shadow, sun_camera(), ellipses)
    views = []
    for flip in (1, -1):
        buffer, view = new_buffer(W), camera(flip)
        for patch in patches if flip == 1 else patches[:-1]:
            draw_patch(buffer, view, patch)
        for ellipses in [*plants, grass] if flip == 1 else plants[2:]:
            draw_ellipses(buffer, view, ellipses)
        views.append(shade(buffer, view, shadow["depth"], background))
        if flip == 1:
            depth = buffer["depth"]
    sky = np.isinf(depth)  # and hills: nothing was drawn there
    sky[int(W * HORIZON) :] = False
    mask = Image.fromarray(np.uint8(255 * sky)).resize((SIZE // 2, SIZE // 2), Image.BOX)
    mask.save(path.with_name("sky.png"))
    ImageChops.invert(mask).save(path.with_name("ground.png"))
    picture, mirrored = views
    water(rng, picture, mirrored, depth)
    # a photograph's finish: a little bloom round the lights, a shoulder for the highlights, darker corners
    bright = np.maximum(picture - 0.8, 0)
    picture = picture + 0.10 * blur(bright, 40) + 0.10 * blur(bright, 12)
    yy, xx = np.mgrid[0:W, 0:W] / W - 0.5
    picture = picture * (1 - 0.28 * (xx**2 + yy**2))[..., None] * EXPOSURE
    return save(develop(picture), path)


# ------------------------------------------------------------------------------------------------- content: a portrait
# A head as a field of distances to its surface, negative inside, which rays step along until they touch it.  Half a
# head is about 1; x to the right, y up from the eyes, z towards the viewer.  Points are (3, n).
# The lumps: how softly each melts into the rest (negative: carved out of it), then either centre and half axes of an
# ellipsoid, or both ends of a rod and its thickness there.  Those of the face are mirrored.

FACE = (
    (0.25, (0, 0.36, -0.16), (0.76, 0.80, 0.96)), (0.25, (0, -0.16, 0.24), (0.60, 0.86, 0.60)),  # skull
    (0.22, (0, -0.68, 0.34), (0.45, 0.38, 0.42)), (0.20, (0, -1.00, 0.60), (0.17, 0.13, 0.14)),  # jaw, chin
    (0.25, (0.40, -0.26, 0.50), (0.20, 0.15, 0.20)),  # cheek
    (0.16, (0.10, 0.19, 0.76), (0.48, 0.23, 0.56), 0.07, 0.05),  # brow
    (-0.14, (0.32, 0.01, 0.93), (0.20, 0.12, 0.16)), (0.18, (0, -0.70, 0.66), (0.27, 0.22, 0.20)),  # socket, teeth
    (0.05, (0.315, 0, 0.655), (0.215, 0.215, 0.215)),  # lids, and the crease above them
    (-0.05, (0.17, 0.075, 0.90), (0.45, 0.085, 0.83), 0.012, 0.012),
    (0.13, (0, 0.16, 0.76), (0, -0.34, 0.985), 0.046, 0.066), (0.07, (0, -0.365, 1.0), (0.074, 0.070, 0.078)),  # nose
    (0.09, (0.02, -0.10, 0.84), (0.07, -0.36, 0.87), 0.02, 0.045),
    (0.09, (0.085, -0.395, 0.90), (0.050, 0.054, 0.080)), (-0.03, (0.05, -0.447, 0.93), (0.026, 0.022, 0.042)),
    (-0.07, (0, -0.50, 0.95), (0, -0.58, 0.94), 0.02, 0.025),  # lips, what parts them, the dimples above and below
    (0.06, (0.03, -0.660, 0.838), (0.235, -0.690, 0.705), 0.046, 0.014),
    (0.05, (0, -0.772, 0.825), (0.19, -0.716, 0.725), 0.056, 0.018),
    (-0.03, (0, -0.712, 0.852), (0.26, -0.684, 0.71), 0.010, 0.008),
    (-0.10, (0, -0.88, 0.86), (0.10, -0.87, 0.84), 0.03, 0.02),
)  # fmt: skip
BODY = (
    (0.50, (0.03, -0.70, -0.14), (0, -1.75, -0.24), 0.41, 0.45), (0.50, (0, -2.30, -0.28), (1.28, 0.62, 0.58)),
    (0.20, (0.12, -1.75, 0.20), (0.85, -1.70, -0.18), 0.035, 0.03),  # collarbone, and the muscle of the neck
    (0.15, (0.44, -0.80, -0.25), (0.15, -1.72, 0.12), 0.03, 0.02),
)  # fmt: skip
HAIR = ((0.22, (0, 0.38, -0.20), (0.855, 0.875, 1.015)), (0.22, (0.62, -0.20, 0), (0.26, 0.72, 0.42)))
EYE_AT, BALL, BROOCH, NAPE = vec(0.315, 0, 0.655)[:, None], 0.20, vec(0, -2.0, 0.47)[:, None], (-0.95, -0.35)
LAMP = unit([-0.80, 0.52, 0.62])[:, None]
SKIN, EYEBALL, LOCKS, DRESS, LINEN, JEWEL = range(6)


def turned(yaw, pitch, roll):
    (a, b, c), (d, e, f) = np.cos([yaw, pitch, roll]), np.sin([yaw, pitch, roll])
    around = np.array([[a, 0, d], [0, 1, 0], [-d, 0, a]])
    return np.float32(np.array([[1, 0, 0], [0, b, -e], [0, e, b]]) @ [[c, -f, 0], [f, c, 0], [0, 0, 1]] @ around)


TURN = turned(0.43, -0.04, 0.06)  # from the room to the head


def norm(p):
    return np.sqrt(np.einsum("ij,ij->j", p, p))


def melt(a, b, soft):
    """The nearer of two surfaces, rounded where they meet."""
    return np.minimum(a, b) - np.square(np.maximum(soft - abs(a - b), 0)) / (4 * soft)


def carve(a, b, soft):
    return -melt(-a, b, soft)


def ellipsoid(p, centre, radii):
    q = (p - vec(*centre)[:, None]) / vec(*radii)[:, None]
    length = norm(q)
    return length * (length - 1) / np.maximum(norm(q / vec(*radii)[:, None]), 1e-6)


def sculpt(p, lumps):
    out = np.float32(9)
    for soft, a, b, *thick in lumps:
        if thick:
            along = vec(*b)[:, None] - vec(*a)[:, None]
            q = p - vec(*a)[:, None]
            share = np.clip((q * along).sum(0) / np.square(along).sum(), 0, 1)
            lump = norm(q - share * along) - mix(*thick, share)
        else:
            lump = ellipsoid(p, a, b)
        out = melt(out, lump, soft) if soft > 0 else carve(out, lump, -soft)
    return out


def mirrored(p, soft=0.0):
    return np.stack([np.sqrt(p[0] ** 2 + soft), p[1], p[2]])


def slit(q):
    """Distance to the opening of the lids, an almond, seen from in front."""
    x, y = q[0] - EYE_AT[0], q[1] - 0.10 * (q[0] - EYE_AT[0]) - 0.005
    return np.maximum(np.hypot(x, y + 0.205) - 0.268, np.hypot(x, y - 0.235) - 0.288)


def combed(p):
    """Which strand: they fan out from the parting and meet at the nape."""
    return np.arctan2(p[1] - NAPE[0], p[2] - NAPE[1]) + 0.02 * np.sin(9 * abs(p[0]) + 3 * p[1])


def hair(p):
    q, strand = mirrored(p), combed(p)
    waves = 0.012 * np.sin(23 * strand + 3 * np.sin(7 * strand) + 4 * q[0]) + 0.035 * np.exp(-np.square(p[0] / 0.05))
    waves = waves + 0.006 * np.sin(61 * strand + 5 * np.sin(9 * strand + 3 * q[0]))
    waves = waves * smooth(0, 1, np.hypot(p[1] - NAPE[0], p[2] - NAPE[1]))  # flatter where they meet
    face = np.maximum(ellipsoid(q, (0, -0.22, 0.60), (0.60, 0.86, 1.2)), 0.05 - q[2])
    return melt(carve(sculpt(q, HAIR) + waves, face, 0.10), ellipsoid(p, (0, -0.45, -0.95), (0.46, 0.46, 0.40)), 0.10)


def surfaces(w):
    """Distances to each of the materials."""
    p = TURN @ w
    q = mirrored(p)
    head = carve(sculpt(q, FACE), np.maximum(slit(q), 0.6 - q[2]), 0.022)
    body = sculpt(mirrored(w, 0.004), BODY)
    edge = -0.85 * (w[1] + 2.02 + 0.36 * w[2] - 0.36 * np.sqrt(w[0] ** 2 + 0.03))  # of the neckline
    dress = melt(body - 0.07, ellipsoid(mirrored(w), (1.12, -2.62, -0.25), (0.50, 0.95, 0.55)), 0.30)
    fold = np.sin(7 * w[0] - 5 * w[1] * np.tanh(9 * w[0]) + 1.3 * np.sin(3.1 * w[1] + 2 * w[0]))
    dress = dress + 0.035 * (np.sqrt(fold**2 + 0.02) - 0.5) * smooth(-1.70, -2.15, w[1])
    around = np.arctan2(w[0], w[2] + 0.25)
    frill = 0.024 * np.sin(30 * around + 1.5 * np.sin(11 * around)) * smooth(0.04, 0.13, body)
    ring = abs(np.hypot(norm(w[:2] - BROOCH[:2]) - 0.080, w[2] - 0.46)) - 0.019
    return np.stack([melt(head, body, 0.14), norm(q - EYE_AT) - BALL, hair(p), carve(dress, edge, 0.04),
                     carve(abs(edge + frill + 0.01) - 0.020, 0.135 - body, 0.03),
                     melt(norm(w - BROOCH - vec(0, 0, 0.015)[:, None]) - 0.064, ring, 0.01)])


def scene(w):
    return surfaces(w).min(0)


def skin(p, q, strands):
    """Redder cheeks and nose, darker lids, lips, eyebrows, lashes."""
    out = vec(0.58, 0.385, 0.275) * (1 + 0.05 * lookup(FINE, p[0] * 160 + 300, p[1] * 160 + p[2] * 120 + 300)
                                     + 0.03 * lookup(FINE, p[0] * 700 + 300, p[1] * 700 + p[2] * 500 + 300))[:, None]
    front = q[2] > 0.3
    for share, place, reach, tint in ((0.42, (0.42, -0.30, 0.60), (0.24, 0.20, 0.3), (0.60, 0.24, 0.17)),
                                      (0.30, (0, -0.38, 1.08), (0.14, 0.12, 0.14), (0.60, 0.26, 0.18)),
                                      (0.35, (0.30, -0.02, 0.85), (0.24, 0.14, 0.2), (0.42, 0.22, 0.16))):
        there = np.exp(-np.square((q - vec(*place)[:, None]) / vec(*reach)[:, None]).sum(0))
        out = mix(out, vec(*tint), share * there[:, None])
    a = q[0] / 0.25  # across the lips
    middle = -0.710 + 0.026 * a**2
    upper = middle + 0.080 * np.clip(1 - a**1.6, 0, None) - 0.022 * np.exp(-np.square(q[0] / 0.035))
    lower = middle - 0.115 * np.sqrt(np.clip(1 - a**2, 0, None))
    lips = smooth(0.016, -0.010, np.maximum(q[1] - upper, lower - q[1])) * (a < 1) * front
    red = vec(0.43, 0.115, 0.10) * (1 + 0.1 * lookup(FINE, p[0] * 900, p[1] * 120))[:, None]
    out = mix(out, red, 0.85 * lips[:, None])
    out = out * (1 - 0.6 * np.exp(-np.square((q[1] - middle) / 0.012)) * (a < 1.03) * front)[:, None]
    a = np.clip((q[0] - 0.12) / 0.44, 0, 1)  # along the eyebrow
    off = abs(q[1] - 0.185 - 0.10 * np.sin(2.3 * a) + 0.03 * a) / (0.048 * (1 - 0.6 * a))
    brow = smooth(1.2, 0.2, off) * smooth(0.09, 0.16, q[0]) * smooth(0.58, 0.47, q[0]) * front
    brow = brow * np.clip(0.9 + 0.35 * lookup(FINE, (q[0] - 0.8 * q[1]) * 900, (q[1] + 0.5 * q[0]) * 160), 0, 1)
    out = mix(out, vec(0.075, 0.045, 0.028), 0.95 * brow[:, None])
    lashes = smooth(0.034, 0.010, abs(slit(q) - 0.007)) * np.where(q[1] > 0.10 * (q[0] - EYE_AT[0]), 1, 0.2)
    out = mix(out, vec(0.05, 0.03, 0.022), (0.9 * lashes * front * (abs(q[0] - EYE_AT[0]) < 0.22))[:, None])
    near = smooth(0.045, 0, hair(p) + 0.014 * strands) * (p[2] > 0) * (p[1] > -0.5)  # the finest hairs at its edge
    return mix(out, vec(0.085, 0.042, 0.020), 0.8 * near[:, None]), lips


def eyeball(p, q):
    gaze = TURN @ vec(0.03, 0, 1)[:, None] * 0.68 + vec(0, 0, 0.32)[:, None]
    on = (p - EYE_AT * np.stack([np.sign(p[0]), 0 * p[0], 0 * p[0] + 1])) / BALL
    r = norm(on - gaze / norm(gaze))
    iris = 0.75 + 0.25 * lookup(FINE, np.arctan2(on[1], on[0]) * 60, r * 40) + 0.9 * smooth(0.15, 0.42, r)
    out = mix(vec(0.060, 0.036, 0.018) * iris[:, None], vec(0.50, 0.46, 0.42), smooth(0.47, 0.52, r)[:, None])
    out = out * (1 - 0.65 * np.exp(-np.square((r - 0.48) / 0.05)))[:, None]
    out = mix(vec(0.008, 0.007, 0.006), out, smooth(0.19, 0.23, r)[:, None])
    return out * mix(0.35, 1, smooth(0, 0.075, -slit(q)))[:, None]  # the lids cast a shadow


def exposed(w, n):
    """How much of the lamp is seen from the surface, with a soft edge, and how much of the room."""
    lit, t = np.float32(1), np.full(w.shape[1], 0.05, np.float32)
    for _ in range(26):
        gap = scene(w + n * 0.02 + LAMP * t)
        lit = np.minimum(lit, 0.5 + 3.5 * gap / t)
        t += np.clip(gap, 0.03, 0.22)
    near = sum(share * np.maximum(1 - scene(w + n * reach) / reach, 0)
               for share, reach in ((0.45, 0.04), (0.35, 0.12), (0.25, 0.3), (0.20, 0.6)))
    return smooth(0, 1, lit), np.clip(1 - near, 0.08, 1)


def portray(w, d):
    """The light that comes back from the points `w` of the surface along the rays `d`."""
    p = TURN @ w
    q, what = mirrored(p), surfaces(w).argmin(0)
    corners = vec((1, -1, -1), (-1, -1, 1), (-1, 1, -1), (1, 1, 1))[..., None]
    n = unit(sum(corner * scene(w + 0.0022 * corner) for corner in corners).T).T
    lit, ambient = exposed(w, n)
    # what it is painted with
    strand, side = combed(p), np.sign(p[0]) * 200 + 300
    fine, broad = lookup(FINE, strand * 500, q[0] * 14 - p[1] * 9 + side), lookup(NOISE, strand * 130, q[0] * 7 + side)
    colour, lips = skin(p, q, fine)
    weave = 1 + 0.12 * lookup(FINE, w[0] * 300, w[1] * 300) + 0.1 * lookup(NOISE, w[0] * 80, w[1] * 80)
    stone = (norm(w[:2] - BROOCH[:2]) < 0.066)[:, None]
    paints = {EYEBALL: eyeball(p, q),
              LOCKS: vec(0.085, 0.042, 0.020) * np.clip(1 + 0.30 * fine + 0.25 * broad, 0.2, 2.2)[:, None],
              DRESS: vec(0.030, 0.062, 0.058) * weave[:, None],
              LINEN: vec(0.66, 0.62, 0.54) * (1 + 0.06 * lookup(FINE, w[0] * 500, w[1] * 500))[:, None],
              JEWEL: np.where(stone, vec(0.33, 0.02, 0.02), vec(0.5, 0.3, 0.08))}
    for material, paint in paints.items():
        colour = np.where((what == material)[:, None], paint, colour)
    # light seeps through skin, red furthest, so that its shadows have soft warm edges
    pores = np.stack([lookup(FINE, w[0] * 600 + a, w[1] * 600 + a) for a in (0, 300, 600)])
    n = unit((n + np.select([what == SKIN, what == DRESS], [0.012, 0.03], 0) * pores).T).T
    flesh, facing = (what == SKIN)[:, None], (n * LAMP).sum(0)
    seep, soften = np.where(flesh, vec(0.30, 0.19, 0.14), 0.05), np.where(flesh, vec(0.75, 1, 1.1), 1)
    key = np.clip((facing[:, None] + seep) / (1 + seep), 0, 1) * lit[:, None] ** soften
    room = (0.5 + 0.5 * n[1])[:, None] * vec(0.30, 0.33, 0.38) + vec(0.10, 0.085, 0.075)
    room = room + np.clip(0.8 * n[0] - 0.25 * n[2], 0, 1)[:, None] * vec(0.26, 0.19, 0.13)
    colour = colour * (key * vec(1.70, 1.45, 1.13) + room * ambient[:, None] ** soften)
    # what shines: skin and lips, eyes, the brooch; velvet at its edges; hair across its strands, not along them
    half = unit((LAMP - d).T).T
    shine = np.clip((n * half).sum(0), 0, 1)
    oily = 0.7 * shine**16 + 0.3 * shine**50 * (1 + 2 * lips)
    gloss = np.select([what == SKIN, what == EYEBALL, what == JEWEL], [oily, 14 * shine**350, 8 * shine**60],
                      0.15 * shine**8)
    gloss = gloss * (0.04 + 0.96 * (1 + (half * d).sum(0)) ** 5) * lit * np.clip(3 * facing, 0, 1) * 4.2
    rim = np.clip(1 + (n * d).sum(0), 0, 1)
    velvet = np.where(what == DRESS, rim**2.5 * (0.10 + 0.5 * np.clip(facing, 0, 1) * lit), 0)
    across = TURN.T @ np.stack([0 * strand, p[2] - NAPE[1], NAPE[0] - p[1]])
    along = unit(unit(np.cross(n.T, across.T)) + n.T * (0.10 * fine + 0.06 * broad)[:, None]).T
    sheen = np.sqrt(np.clip(1 - np.square((along * half).sum(0)), 0, 1))
    sheen = (0.36 * sheen**80 + 0.12 * sheen**20) * lit * np.clip(facing + 0.35, 0, 1) * np.clip(1 + 0.5 * fine, 0.1, 3)
    for amount, tint in ((gloss, vec(1, 0.93, 0.82)), (np.where(what == LOCKS, sheen, 0), vec(0.55, 0.36, 0.20)),
                         (0.35 * rim**4 * np.clip(n[0], 0, 1) * ambient + velvet, vec(0.5, 0.42, 0.33))):
        colour = colour + amount[:, None] * tint
    return colour


def look(start, d):
    """The light along the rays `d`: step by the distance to the surface until it is reached, or the wall behind."""
    x, y = d[:2] / 0.22
    glow = np.exp(-(np.square(x - 0.55) + np.square(y + 0.1)) / 0.7)[:, None]
    plaster = 1 + 0.06 * lookup(NOISE, 300 + x * 60, 200 + y * 60) + 0.03 * lookup(NOISE, x * 300, y * 300)
    out = (vec(0.020, 0.018, 0.016) + glow * vec(0.070, 0.060, 0.044)) * plaster[:, None]
    t, live = np.full(d.shape[1], 7, np.float32), np.arange(d.shape[1])
    for _ in range(70):
        step = scene(start + d[:, live] * t[live])
        t[live] += 0.9 * step
        live = live[(abs(step) > 0.0006) & (t[live] < 12)]
    hit = np.flatnonzero(t < 11.9)
    if hit.size:
        out[hit] = portray(start + d[:, hit] * t[hit], d[:, hit])
    return out


def make_portrait(path):
    wide, tall = SIZE * 6 // 5, SIZE * 3 // 2  # half as much again as is kept
    y, x = (g.ravel() + 0.5 for g in np.mgrid[0:tall, 0:wide].astype(np.float32))
    rays = unit(np.stack([(x - wide / 2) / tall / 2.4, (tall / 2 - y) / tall / 2.4, -np.ones_like(x)], -1)).T
    start = vec(0.06, -0.42, 9.5)[:, None]
    picture = np.concatenate([look(start, some) for some in np.array_split(rays, tall // 30, axis=1)])
    film_grain = 0.004 * np.random.default_rng(5).standard_normal((tall, wide, 1))
    picture = 0.9 * picture.reshape(tall, wide, 3) + film_grain
    return save(develop(picture), path, size=(SIZE * 4 // 5, SIZE))


# --------------------------------------------------------------------------------------------------- style: a painting
# Coordinates in canvas widths, y down.  The eddies: x, y, length, breadth, turned by, strength (positive ones are warm,
# negative ones dark).

EDDIES = np.array([
    [0.60, 0.30, 0.34, 0.13, -0.60, 1.00], [0.12, 0.20, 0.16, 0.10, 0.9, -0.80], [0.26, 0.60, 0.24, 0.10, 0.55, -0.75],
    [0.24, 0.92, 0.22, 0.10, -0.35, 0.80], [0.80, 0.66, 0.25, 0.11, -0.75, -1.00], [0.97, 0.28, 0.10, 0.07, 0.8, -0.5],
    [0.66, 0.96, 0.14, 0.08, 0.3, 0.55], [0.40, 0.02, 0.16, 0.07, 0.2, -0.5], [0.98, 0.95, 0.12, 0.08, -0.5, 0.5],
])
PIGMENTS = np.array([  # from the dark cold to the warm end of the canvas
    [10, 14, 32], [16, 28, 74], [22, 44, 120], [28, 72, 158], [36, 116, 172], [62, 164, 170], [150, 200, 176],
    [244, 232, 190], [250, 212, 86], [244, 176, 34], [226, 128, 28], [206, 74, 30], [150, 36, 26],
]) / 255


def current(x, y):
    """Stream function and its gradient: paint flows along the level lines, and they part the colours as well."""
    psi = 0.20 * np.sin(5.2 * x + 3.1 * y + 0.6) + 0.12 * np.sin(7.0 * y - 3.3 * x + 1.0)
    gx = 0.20 * 5.2 * np.cos(5.2 * x + 3.1 * y + 0.6) - 0.12 * 3.3 * np.cos(7.0 * y - 3.3 * x + 1.0)
    gy = 0.20 * 3.1 * np.cos(5.2 * x + 3.1 * y + 0.6) + 0.12 * 7.0 * np.cos(7.0 * y - 3.3 * x + 1.0)
    for cx, cy, length, breadth, turn, strength in EDDIES:
        c, s = np.cos(turn), np.sin(turn)
        a, b = (c * (x - cx) + s * (y - cy)) / length, (c * (y - cy) - s * (x - cx)) / breadth
        bump = strength * np.exp(-(a * a + b * b) / 2)
        psi = psi + bump
        gx, gy = gx - bump * (a * c / length - b * s / breadth), gy - bump * (a * s / length + b * c / breadth)
    return psi, gx, gy


def stroke_paths(x, y, length, turn, steps=28):
    """Follow the current, `turn` radians off it, both ways from the given points; (stroke, step, xy)."""
    halves = []
    for sign in (-1, 1):
        px, py, path = x.copy(), y.copy(), []
        for _ in range(steps // 2):
            path.append(np.stack([px, py], -1))
            _, gx, gy = current(px, py)
            # along the level line, but no hand keeps to it exactly: spirals and crossings, not closed rings
            dx, dy = gy + np.tan(turn) * gx, -gx + np.tan(turn) * gy
            norm = np.hypot(dx, dy) + 1e-6
            px, py = px + sign * dx / norm * length / steps, py + sign * dy / norm * length / steps
        halves.append(path)
    return np.stack(halves[0][:0:-1] + halves[1], 1)


def draw_stroke(canvas, relief, bristles, rng, path, width, first, second, dry):
    """One stroke, as a ribbon of samples dense enough to leave no holes when rounded to pixels."""
    step = np.hypot(*np.diff(path, axis=0).T)
    run = np.concatenate([[0], np.cumsum(step)])
    s = np.linspace(0, 1, max(8, int(run[-1] * 1.7)), dtype=np.float32)
    x, y = (np.interp(s * run[-1], run, path[:, i]) for i in (0, 1))
    tx, ty = unit(np.stack([np.gradient(x), np.gradient(y)], -1)).T
    t = np.linspace(-1, 1, max(6, int(width * 1.8)), dtype=np.float32)
    swell = np.sqrt(smooth(0, 0.10, s)) * (1 - 0.75 * smooth(0.55, 1.0, s)) * 0.5 * width
    ox, oy = rng.integers(0, 1024, 2)
    # hairs run along the stroke: noise stretched so that it hardly changes lengthwise
    hair = lookup(bristles, np.broadcast_to(ox + s[:, None] * run[-1] * 0.022, (len(s), len(t))),
                  np.broadcast_to(oy + t * width * 0.22, (len(s), len(t))))
    px = np.rint(x[:, None] - ty[:, None] * t * swell[:, None]).astype(int)
    py = np.rint(y[:, None] + tx[:, None] * t * swell[:, None]).astype(int)
    # towards the end the brush runs dry, and single hairs let go; the start and the sides are ragged a little too
    ends = dry * 2.6 * smooth(0.5, 1.0, s) + 1.5 * (1 - smooth(0, 0.06, s))
    keep = hair + 2.4 > ends[:, None] + 1.2 * smooth(0.75, 1.0, abs(t))
    keep &= (px >= 0) & (px < W) & (py >= 0) & (py < W)
    px, py = px[keep], py[keep]
    blend = smooth(-1.0, 1.4, hair)[keep][:, None]
    canvas[py, px] = mix(first, second, blend) * (1 + 0.05 * hair[keep][:, None])
    load = mix(1.0, 0.45, s)[:, None] * (1 - t**6) * (0.75 + 0.28 * hair + 0.35 * smooth(0.5, 0.85, abs(t)))
    relief[py, px] = 0.45 * relief[py, px] + load[keep] * (0.6 + width / 50)


def make_style(path):
    rng = np.random.default_rng(11)
    bristles = fractal(rng, (1024, 1024), 1.0)
    canvas, relief = np.zeros((W, W, 3), np.float32), np.zeros((W, W), np.float32)
    canvas[:] = PIGMENTS[1]
    wobble = fractal(rng, (256, 256), 1.9)
    ranks = np.sort(current(*np.random.default_rng(0).random((2, 20000)))[0])

    def tone(x, y, jitter, stir=1):
        psi = current(x, y)[0] + 0.05 * stir * lookup(wobble, y * 90, x * 90)
        level = np.searchsorted(ranks, psi) / len(ranks)  # every pigment gets its share of the canvas
        bands = stir * (0.085 * np.sin(psi * 21) + 0.03 * np.sin(psi * 47 + 1))
        return np.clip(level + bands + jitter, 0, 0.999) * (len(PIGMENTS) - 1)

    # from broad to fine: how many, width and length in finished pixels, colour jitter, share of contrasting strokes;
    # the last but one draws near-black contours between the regions of colour
    layers = ((1500, (24, 34), (150, 240), 0.03, 0.0), (2300, (15, 24), (110, 210), 0.05, 0.10),
              (2300, (11, 18), (90, 190), 0.06, 0.16), (8000, (6, 10), (110, 210), 0.02, 0.0),
              (1000, (8, 13), (60, 140), 0.06, 0.25))
    for number, (count, widths, lengths, spread, contrast) in enumerate(layers):
        side = int(np.sqrt(count))
        x, y = ((g.ravel() + rng.random(side * side)) / side * 1.1 - 0.05 for g in np.mgrid[0:side, 0:side])
        outline = number == 3
        if outline:
            level = tone(x, y, 0, 0) / 12
            edge = np.minimum.reduce([abs(level - k) for k in (0.22, 0.47, 0.66, 0.86)])
            chosen = (edge < 0.010) & (lookup(wobble, x * 200 + 60, y * 200) > -0.2)
            x, y = x[chosen], y[chosen]
        turn = rng.normal(0.10, 0.04 if outline else 0.13, len(x))
        paths = stroke_paths(x, y, rng.uniform(*lengths, len(x)) / SIZE, turn) * W
        width = rng.uniform(*widths, len(x)) * W / SIZE
        pigment = tone(x, y, rng.normal(0, spread, len(x)))
        # contrasting strokes come in flocks
        lively = rng.random(len(x)) < contrast * 2.2 * smooth(-0.3, 1.3, lookup(wobble, y * 230 + 31, x * 230 + 77))
        pigment = np.where(lively, (pigment + 6) % 12, pigment)
        leaning = lookup(wobble, x * 110 + 128, y * 110 + 40)  # greener here, more violet there
        for i in rng.permutation(len(x)):
            first, second = (PIGMENTS[int(np.clip(pigment[i] + d, 0, 12))] for d in (0, rng.choice([-1.6, -1, 1, 1.6])))
            if outline:
                first, second = PIGMENTS[0], mix(PIGMENTS[0], PIGMENTS[1], 0.8)
            value = rng.normal(1, 0.09) * (1 + leaning[i] * vec(-0.10, 0.06, -0.08))
            way, dry = paths[i] if number % 2 else paths[i][::-1], rng.uniform(0.3, 1)
            draw_stroke(canvas, relief, bristles, rng, way, width[i], first * value, second * value, dry)
    # light from the upper left over the ridges of the paint
    relief = 0.6 * relief + 0.4 * blur(relief, 3)
    sy, sx = np.gradient(relief)
    slope = -(sx * 0.7 + sy * 0.7)
    lit = 1 + np.clip(slope * -1.6, -0.45, 0.45)
    gloss = 0.20 * smooth(0.10, 0.45, -slope)
    return save(canvas * lit[..., None] + gloss[..., None], path)


# ------------------------------------------------------------------------------------------------------- the woodcut
INK, PAPER, RED, OCHRE = vec(0.08, 0.07, 0.08), vec(0.94, 0.88, 0.75), vec(0.80, 0.17, 0.09), vec(0.93, 0.68, 0.24)


def woodcut_design(rough):
    """For each place how much is cut away (0 leaves all black), which way the gouge goes, and what is printed below."""
    y, x = np.mgrid[0:W, 0:W].astype(np.float32) / W
    wobble = lookup(rough, y * 60, x * 60)
    # the sky: beams from a low sun, and clouds
    sx, sy = 0.645, 0.335
    radius, angle = np.hypot(x - sx, y - sy) + 1e-6, np.arctan2(y - sy, x - sx)
    cut = 0.58 + 0.34 * np.sin(angle * 15 + 0.25 * wobble) - 0.42 * smooth(0.30, 0.85, radius)
    cut = np.where(radius < 0.150, 0.06, cut)
    gx, gy = (x - sx) / radius, (y - sy) / radius
    sun = radius < 0.14
    cut = np.where(sun, 0.42 + 0.5 * smooth(0.16, -0.14, y - sy), cut)
    gx, gy = np.where(sun, 1, gx), np.where(sun, 0.1, gy)
    red, bare = sun.copy(), np.zeros_like(sun)
    for cx, cy, wide, tall in ((0.20, 0.12, 0.27, 0.055), (0.34, 0.26, 0.22, 0.04), (0.88, 0.15, 0.22, 0.035),
                               (0.04, 0.36, 0.20, 0.04), (0.60, 0.04, 0.18, 0.025), (0.97, 0.36, 0.15, 0.03)):
        a = (x - cx) / wide
        b = (y - cy + 0.02 * np.sin(9 * a)) / tall
        cloud = a * a + b * b < 1
        cut = np.where(cloud, 0.85 - 0.6 * smooth(-0.3, 1, b), cut)
        gx, gy = np.where(cloud, 1, gx), np.where(cloud, -0.25 * np.cos(9 * a), gy)
        red, bare = red & ~cloud, bare | cloud
    # three ranges of hills, the side towards the sun cut lighter
    ranges = ((0.53, 0.15, 5.0, 0.5), (0.63, 0.12, 7.3, 2.3), (0.72, 0.11, 6.0, 4.3))
    for k, (base, tall, often, start) in enumerate(ranges):
        rise = abs(np.sin(often * x + start)) ** 1.2 + 0.25 * np.sin(2.7 * often * x)
        depth = y - (base - tall * rise - 0.010 * lookup(rough, x * 110 + 60 * k, 0 * x))
        # ridges come down from the peaks in a zigzag
        crest = np.sin(2 * (often * (x + 0.035 * np.sin(depth * 42 + k) + 0.25 * depth * (k - 1)) + start))
        lit = smooth(-0.12, 0.12, crest)
        hill = depth > 0
        tone = mix(0.34, 0.92, lit) - 1.6 * depth + 0.12 * np.sin(depth * 80 + 2 * wobble)
        cut = np.where(hill, np.where(depth < 0.005, 0, np.clip(tone, 0, 1)), cut)
        gx, gy = np.where(hill, mix(-0.75, 0.85, lit), gx), np.where(hill, 1.0 - 1.5 * depth, gy)
        red = np.where(hill, (lit < 0.5) & (k == 1) | (lit > 0.5) & (k == 2) & (depth < 0.09), red)
        bare = np.where(hill, (k == 0) & (depth < 0.06 + 0.02 * wobble) & (lit > 0.5), bare)
    # the sea, with the sun's path on it
    depth = (y - 0.735) / 0.265
    wave = np.sin(46 * np.maximum(depth, 0.001) ** 0.6 + 2.2 * np.sin(6 * x + 9 * depth) + 0.9 * wobble)
    path = np.exp(-np.square((x - sx - 0.02 * wave) / (0.07 + 0.10 * depth)))
    sea = depth > 0
    cut = np.where(sea, np.where(depth < 0.02, 0, np.clip(0.36 + 0.46 * wave + 0.45 * path, 0, 0.95)), cut)
    gx, gy = np.where(sea, 1, gx), np.where(sea, -0.30 * np.cos(6 * x + 9 * depth), gy)
    return cut, np.stack([gx, gy], -1), np.where(sea, path > 0.4, red), bare & ~sea


def trace_cuts(cut, way, start, length, steps=9):
    """Follow the gouge both ways from the starts, until it would leave its form; (cut, step, xy)."""
    halves = []
    for sign in (-1, 1):
        place, half, before = start, [], None
        for _ in range(steps):
            half.append(place)
            i, j = np.clip(np.int64(place.T), 0, W - 1)
            heading = unit(way[j, i]) * sign
            if before is not None:
                heading = heading * np.sign((heading * before).sum(-1, keepdims=True))
                turned = (heading * before).sum(-1) < 0.8
                heading[turned] = before[turned]
            ahead = place + heading * length[:, None] / (2 * steps)
            i, j = np.clip(np.int64(ahead.T), 0, W - 1)
            inside = cut[j, i] > 0.10
            place, before = np.where(inside[:, None], ahead, place), heading
        halves.append(half)
    return np.stack(halves[0][:0:-1] + halves[1], 1)


def make_woodcut(path):
    rng = np.random.default_rng(4)
    rough = fractal(rng, (512, 512), 1.8)
    cut, way, red, bare = woodcut_design(rough)
    start = rng.random((60000, 2)) * W
    share = cut[tuple(np.int64(start.T[::-1]))]
    start, share = start[share > 0.12], share[share > 0.12]
    paths = trace_cuts(cut, way, start, rng.uniform(50, 140, len(start)) * (0.5 + 0.7 * share))
    half = (1.2 + 4.4 * share) * rng.uniform(0.8, 1.15, len(start))
    t = np.linspace(0, 1, paths.shape[1])
    blade = np.minimum(np.sqrt(3 * t), np.minimum((1.9 * (1 - t)) ** 0.8, 1))  # in steeply, out slowly
    along = np.gradient(paths, axis=1)
    across = unit(np.stack([-along[..., 1], along[..., 0]], -1))
    block = Image.new("L", (W, W))
    draw = ImageDraw.Draw(block)
    taken = np.zeros((W, W), bool)
    for line, side, wide in zip(paths, across, half, strict=True):
        near = line[:, None] + side[:, None] * (np.arange(-wide - 3, wide + 4, 2)[:, None])
        i, j = np.clip(np.int64(near), 0, W - 2).reshape(-1, 2).T
        middle = np.clip(np.int64(line), 0, W - 1)
        if np.hypot(*(line[-1] - line[0])) < 12 or taken[middle[:, 1], middle[:, 0]].mean() > 0.12:
            continue
        edge = side * (wide * blade)[:, None]
        draw.polygon(np.concatenate([line + edge, (line - edge)[::-1]]).ravel().tolist(), fill=255)
        for a, b in ((0, 0), (0, 1), (1, 0), (1, 1)):
            taken[j + b, i + a] = True
    # the print: ink that misses the grain of the block, two tints not quite in register, the tooth of the paper
    y, x = np.mgrid[0:W, 0:W]
    tooth, grain = lookup(FINE, y * 0.5, x * 0.5), lookup(FINE, y * 0.28, x * 0.014)
    black = (1 - np.asarray(block, np.float32) / 255) * (0.97 - 0.75 * smooth(1.1, 2.6, grain + 0.6 * tooth))
    first = np.where(np.roll(bare, (-5, 3), (0, 1)), 0.06, 1 - 0.5 * y / W)
    first = first * (0.9 - 0.25 * smooth(0.2, 2.2, tooth + grain))
    second = smooth(0.4, 0.6, blur(np.roll(red, (-7, -4), (0, 1)), 3) + 0.05 * tooth)
    second = second * (0.95 - 0.3 * smooth(0.5, 2.2, tooth))
    out = PAPER * (1 + 0.02 * tooth)[..., None]
    for tint, share in ((PAPER * OCHRE * 1.05, first), (RED, second), (INK, black)):
        out = mix(out, tint, share[..., None])
    return save(out, path, 82)


# -------------------------------------------------------------------------------------------------------- the points
DABS = np.array([
    [0.98, 0.95, 0.82], [0.99, 0.87, 0.50], [0.96, 0.70, 0.40], [0.95, 0.62, 0.62], [0.88, 0.38, 0.44],
    [0.80, 0.62, 0.82], [0.55, 0.42, 0.72], [0.33, 0.27, 0.58], [0.20, 0.36, 0.68], [0.42, 0.64, 0.86],
    [0.66, 0.86, 0.88], [0.28, 0.62, 0.60], [0.14, 0.42, 0.40], [0.36, 0.62, 0.28], [0.68, 0.80, 0.34],
    [0.16, 0.16, 0.34],
])  # fmt: skip


def riverside(rough, fine):
    """Cypresses on the far bank of a river at sunrise, a meadow in flower on the near one: colours, and directions."""

    def over(below, above, share):
        return mix(below, vec(*above) if isinstance(above, tuple) else above, np.float32(share)[..., None])

    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32) / SIZE
    bank, shore = 0.56, 0.80 + 0.05 * np.sin(4 * x + 0.5) - 0.10 * x
    river = y > bank
    mirror = np.where(river, 2 * bank - y, y)  # the river shows what is above the bank, upside down
    u = x + river * 0.012 * np.sin(y * 260 + 5 * np.sin(9 * x))
    n = lookup(rough, mirror * 90, u * 90)
    out = over(vec(1.0, 0.84, 0.44), (0.94, 0.60, 0.62), smooth(0.47, 0.26, mirror + 0.02 * n))
    out = over(out, (0.26, 0.52, 0.84), smooth(0.31, 0.03, mirror + 0.03 * n))
    out = over(out, (1.0, 0.90, 0.50), 0.8 * np.exp(-np.square((u - 0.30) / 0.20) - np.square((mirror - 0.42) / 0.12)))
    cloud = smooth(0.1, 0.9, lookup(fine, mirror * 70 + 40, u * 16 + 90)) * smooth(0.42, 0.2, mirror)
    out = over(out, (1.0, 0.86, 0.78), 0.8 * cloud)
    out = over(out, (1.0, 0.98, 0.84), smooth(0.045, 0.037, np.hypot(u - 0.295, mirror - 0.375)))
    far = mirror > bank - 0.09 - 0.03 * np.sin(5 * u + 1) - 0.012 * n
    out = over(out, over(vec(0.62, 0.56, 0.80), (0.50, 0.68, 0.66), smooth(0.47, 0.56, mirror)), far)
    for place, tall, wide in ((0.06, 0.47, 0.036), (0.15, 0.40, 0.030), (0.45, 0.26, 0.022), (0.525, 0.32, 0.027),
                              (0.615, 0.39, 0.033), (0.725, 0.47, 0.040), (0.86, 0.545, 0.050)):
        up = (bank - mirror) / tall
        leaf = lookup(fine, mirror * 160 + 500 * place, u * 200)
        taper = np.sqrt(np.maximum(np.sin(np.pi * np.clip(up * 0.95 + 0.05, 0, 1) ** 0.9), 0))
        a = (u - place - 0.008 * np.sin(up * 5)) / np.maximum(wide * taper * (1 + 0.1 * n + 0.16 * leaf), 1e-4)
        leaves = over(vec(0.13, 0.22, 0.42), (0.60, 0.72, 0.24), smooth(0.25, -0.75, a + 0.35 * leaf))
        out = over(out, leaves, (abs(a) < 1) & (up > 0.06) & (up < 1))
    out = over(out, (0.42, 0.52, 0.28), mirror > bank - 0.018 - 0.006 * n)
    out = over(out, (0.36, 0.58, 0.78), 0.22 * river)
    grass = over(vec(0.30, 0.52, 0.30), (0.74, 0.78, 0.34), smooth(-0.8, 0.9, lookup(fine, y * 110, x * 40 + 20)))
    grass = over(grass, (0.24, 0.26, 0.52), 0.8 * smooth(0.3, 1.0, lookup(fine, y * 120 + 77, x * 30)))
    bloom = over(vec(0.97, 0.80, 0.86), (0.92, 0.34, 0.40), lookup(fine, y * 200, x * 60 + 9) > -0.3)
    flowers = smooth(0.2, 0.5, lookup(fine, y * 260 + 11, x * 90) + 0.3 * n) * smooth(0, 0.06, y - shore)
    near = y > shore + 0.012 * n
    out = over(out, over(grass, bloom, flowers), near)
    return out, np.select([near, river, far], [1.4 + 0.4 * n, 0, 1.3], 0.3 + 0.6 * n)


def make_points(path):
    rng = np.random.default_rng(9)
    colour, turn = riverside(fractal(rng, (512, 512), 1.8), fractal(rng, (512, 512), 1.0))
    canvas = Image.new("RGB", (W, W), (226, 208, 190))
    draw = ImageDraw.Draw(canvas)
    circle = np.linspace(0, 2 * np.pi, 11)[:-1]
    for count, size, stray in ((26000, 17, 0.08), (34000, 12, 0.10), (34000, 9, 0.12), (18000, 6.5, 0.15)):
        x, y = rng.random((2, count))
        i, j = np.int64(y * SIZE), np.int64(x * SIZE)
        # the nearest pigment to a colour that strays: side by side they mix in the eye
        wander = rng.normal(0, stray, (count, 3))
        wanted = colour[i, j] + wander - 0.6 * wander.mean(1, keepdims=True)
        chosen = np.square(wanted[:, None] - DABS).sum(-1).argmin(1)
        angle = turn[i, j] + rng.normal(0, 0.35, count)
        long, wide = size * rng.uniform(0.8, 1.5, count), size * rng.uniform(0.55, 0.8, count)
        a, b = long[:, None] * np.cos(circle), wide[:, None] * np.sin(circle)
        b = b * (1 + 0.15 * rng.normal(size=b.shape))
        c, s = np.cos(angle)[:, None], np.sin(angle)[:, None]
        shape = np.stack([a * c - b * s, a * s + b * c], -1)
        middle = np.stack([x, y], -1)[:, None] * W
        tint = DABS[chosen] * rng.normal(1, 0.06, (count, 1))
        # every dab is a little relief: its shadow, itself, and the light on its upper left
        for k in range(count):
            for shift, scale, value in ((0.13, 1.0, 0.62), (0, 1.0, 1.0), (-0.15, 0.55, 1.13)):
                outline = middle[k] + shape[k] * scale + size * shift
                fill = tuple(np.int64(np.clip(tint[k] * value, 0, 1) * 255).tolist())
                draw.polygon(outline.ravel().tolist(), fill=fill)
    return save(np.asarray(canvas, np.float32) / 255, path, 85)

# ----------------------------------------------------------------------------------------------------------- the glass

GLASS = np.array([  # deep red to gold to green to blue
    [0.45, 0.03, 0.06], [0.78, 0.10, 0.08], [0.93, 0.36, 0.07], [0.97, 0.70, 0.16], [0.98, 0.90, 0.62],
    [0.55, 0.72, 0.30], [0.10, 0.48, 0.33], [0.06, 0.36, 0.46], [0.10, 0.16, 0.42],
])  # fmt: skip


def make_glass(path, cells=30):
    """A leaded window: the cells nearest to scattered points, in colours that drift over the pane."""
    rng = np.random.default_rng(7)
    grid = (cells + 4, cells + 4)  # two more on each side
    points = np.moveaxis(np.indices(grid), 0, -1) - 2 + rng.random((*grid, 2))
    drift, tint = fractal(rng, (512, 512), 1.6), rng.normal(0, 0.9, grid)
    y, x = np.mgrid[0:W, 0:W] * (cells / W)
    row, column = np.int64(y) + 2, np.int64(x) + 2
    first, second = np.full((2, W, W), 9.0)
    cell = np.zeros((W, W, 2), np.int64)
    for dy in range(-2, 3):
        for dx in range(-2, 3):
            near = points[row + dy, column + dx]
            distance = np.hypot(near[..., 0] - y, near[..., 1] - x)
            closer = distance < first
            second = np.where(closer, first, np.minimum(second, distance))
            first = np.where(closer, distance, first)
            cell[closer] = np.stack([row + dy, column + dx], -1)[closer]
    place = points[cell[..., 0], cell[..., 1]]
    tone = 4 + 2.2 * lookup(drift, place[..., 0] * 9, place[..., 1] * 9) + tint[cell[..., 0], cell[..., 1]]
    colour = GLASS[np.int64(np.clip(np.round(tone), 0, len(GLASS) - 1))]
    streaks = lookup(drift, y * 40 + 3 * x, x * 6)  # thicker and thinner glass
    light = 1.05 - 0.28 * first + 0.10 * streaks
    lead = smooth(0.05, 0.13, second - first)
    return save(mix(vec(0.05, 0.04, 0.05), colour * light[..., None], lead[..., None]), path, 80)


if __name__ == "__main__":
    images = Path(__file__).resolve().parent.parent.parent / "images"
    samples = {"content": make_content, "portrait": make_portrait, "style": make_style, "woodcut": make_woodcut,
               "points": make_points, "glass": make_glass}
    for name, make in samples.items():
        if name in sys.argv[1:] or len(sys.argv) == 1:
            make(images / f"{name}.jpg")
            print(images / f"{name}.jpg")
