"""Paint the pictures that README shows, as images/sheet_NAME.jpg: `python tests/by_hand/contact_sheet.py WEIGHTS_FILE
[NAME ...]`, all of them in about an hour on two cores.

WEIGHTS_FILE holds VGG19's ImageNet weights, as VGG_NETWORK_PATH does. All pictures are painted with --quick, and a
label names what differs. Sheets of settings whose effect is small show the middle of the picture, pixel by pixel.
"""

import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

import script  # noqa: E402

IMAGES = ROOT / "images"
SHOWN = {"pair": 300, "gallery": 320, "regions": 320, "network": 320}  # pixels of the longer side
CROPPED = {"coarse": 380, "tv": 240, "look": 190}  # pixels of the middle that are shown
BEFORE = "the picture that was painted before"
weights = {}  # vgg_mode and vgg_network_path, from the command line


def pair(content, style, **settings):
    paths = {"content_img_path": str(IMAGES / content), "style_img_path": str(IMAGES / style)}
    label = ", ".join([content, style, *(f"{name} {value:g}" for name, value in settings.items())])
    return label, paths | settings


def one_block(name):
    return {"encoding_layers": [(name, 1.0), script.CONTENT_LAYER], "img_size": 192}


def content_in(layer):
    return {"encoding_layers": [*script.ENCODING_LAYERS[:-1], (layer, 1.0)], "img_size": 192}


SHEETS = {  # rows of pictures: label, settings. A path in place of settings is a picture as it is
    "pair": [[("content.jpg", IMAGES / "content.jpg"), ("style.jpg", IMAGES / "style.jpg"), ("painted", {})]],
    "gallery": [
        [pair("portrait.jpg", "woodcut.jpg", content_weight=20), pair("content.jpg", "glass.jpg")],
        [pair("portrait.jpg", "style.jpg", content_weight=20), pair("content.jpg", "points.jpg")],
    ],
    "regions": [[
        ("1: sky.png", {"mask_path": str(IMAGES / "sky.png")}),
        ("2: ground.png over 1", {
            "mask_path": str(IMAGES / "ground.png"), "style_img_path": str(IMAGES / "glass.jpg"),
            "content_img_path": BEFORE,
        }),
    ]],
    "coarse": [[(label, pair("portrait.jpg", "style.jpg")[1] | {"img_size": 512, "coarse_above": size})
                for label, size in (("512 px at once", 512), ("256 px, then 512 px", 256))]],
    "schedule": [[
        ("30 epochs", {"img_size": 256, "epochs": 30}), ("60 epochs", {"img_size": 256, "epochs": 60}),
        ("100 epochs", {"img_size": 256}),
        ("100 epochs, constant 0.001", {"img_size": 256, "schedule": "constant", "learn_rate": 0.001}),
    ]],
    "weights": [
        [(f"content {content:g}, style {style:g}",
          {"content_weight": content, "style_weight": style, "img_size": 256}) for style in (16.0, 160.0, 1600.0)]
        for content in (1.0, 5.0, 25.0)
    ],
    "layers": [
        [(f"style: {name}", one_block(name)) for name, _ in script.ENCODING_LAYERS[:-1]],
        [(f"content: {name}", content_in(name))
         for name in ("block1_conv2", "block2_conv2", "block3_conv4", "block4_conv2", "block5_conv4")],
    ],
    "tv": [[(f"TV_WEIGHT {weight:g}", {"tv_weight": weight}) for weight in (0.0, 40.0, 400.0)]],
    "look": [
        [("STYLE_SCALE 0.5", {"style_scale": 0.5}), ("STYLE_SCALE 1", {}), ("STYLE_SCALE 2", {"style_scale": 2.0}),
         ("PRESERVE_COLORS", {"preserve_colors": True})],
    ],
    "network": [[("ImageNet's weights", {}), ("filters fitted to the pictures", {"vgg_mode": "fit"})]],
}  # fmt: skip


def paint(settings, folder):
    """Paint with --quick; returns the picture's file."""
    settings = script.QUICK | weights | settings
    if settings.get("content_img_path") == BEFORE:
        settings["content_img_path"] = str(folder / "image_00100.png")
    with tempfile.TemporaryDirectory() as output:
        picture, _ = script.main(**settings | {"save_every": settings["epochs"]}, output_path=output)
    file = folder / "image_00100.png"
    script.save_image(picture, file, {"epoch": 100})
    return file


def make_sheet(name):
    """Put the pictures of a sheet in rows, under their labels. A column is as wide as its pictures."""
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for row in SHEETS[name]:
            cells = []
            for label, settings in row:
                img = Image.open(settings if isinstance(settings, Path) else paint(settings, Path(folder)))
                img = img.convert("RGB")
                size = CROPPED.get(name, max(img.size))
                left, top = ((side - min(size, side)) // 2 for side in img.size)
                img = img.crop((left, top, img.width - left, img.height - top))
                img.thumbnail((SHOWN.get(name, size), SHOWN.get(name, size)), Image.Resampling.LANCZOS)
                cells.append((label, img))
            rows.append(cells)
    widths = [max(img.width for _, img in column) for column in zip(*rows, strict=True)]
    heights = [max(img.height for _, img in cells) for cells in rows]
    sheet = Image.new("RGB", (sum(widths) + 6 * (len(widths) - 1), sum(heights) + 20 * len(rows)), "white")
    draw = ImageDraw.Draw(sheet)
    top = 0
    for cells, height in zip(rows, heights, strict=True):
        left = 0
        for (label, img), width in zip(cells, widths, strict=True):
            draw.text((left + 3, top + 4), label, "black")
            sheet.paste(img, (left, top + 20))
            left += width + 6
        top += height + 20
    return sheet


def main(weights_file, *names):
    weights.update(vgg_mode="local", vgg_network_path=weights_file)
    for name in names or SHEETS:
        make_sheet(name).save(IMAGES / f"sheet_{name}.jpg", quality=85)


if __name__ == "__main__":
    main(*sys.argv[1:])
