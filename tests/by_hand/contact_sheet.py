"""Paint this project's pictures with settings varied, side by side, as images/sheet_NAME.jpg, which README shows:
`python tests/by_hand/contact_sheet.py WEIGHTS_FILE [NAME ...]`, all of them in about two hours on two cores.
README shows those that were painted with the program as it is.
WEIGHTS_FILE holds VGG19's ImageNet weights, as VGG_NETWORK_PATH does.
"""

import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

import script  # noqa: E402

BASE = script.QUICK | {
    "content_weight": script.CONTENT_WEIGHT,
    "content_img_path": str(ROOT / script.CONTENT_IMG_PATH), "style_img_path": str(ROOT / script.STYLE_IMG_PATH),
    "img_size": 192, "vgg_mode": "local",
}  # fmt: skip
SHOWN = {"coarse": 600, "gallery": 400, "gallery2": 400, "mask": 400, "network": 300}  # pixels


def pair(content, style):
    """A cell of the gallery, with Quick start's settings."""
    names = {"content_img_path": f"images/{content}.jpg", "style_img_path": f"images/{style}.jpg"}
    settings = {name: str(ROOT / path) for name, path in names.items()}
    settings |= {"img_size": 400, "content_weight": script.QUICK["content_weight"]}
    return f"{content}.jpg, {style}.jpg", settings


def one_block(name):
    return {"encoding_layers": [(name, 1.0), script.CONTENT_LAYER]}


def content_in(layer):
    return {"encoding_layers": [*script.ENCODING_LAYERS[:-1], (layer, 1.0)]}


def constant(rate, epochs):
    return {"schedule": "constant", "learn_rate": rate, "epochs": epochs}


SHEETS = {  # rows of pictures: label, settings
    "weights": [
        [(f"content {content:g}, style {style:g}", {"content_weight": content, "style_weight": style})
         for style in (4.0, 40.0, 400.0)]
        for content in (1.0, 10.0, 100.0)
    ],
    "layers": [
        [(f"style: {name}", one_block(name)) for name, _ in script.ENCODING_LAYERS[:-1]],
        [(f"content: {name}", content_in(name))
         for name in ("block1_conv2", "block2_conv2", "block3_conv4", "block4_conv2", "block5_conv4")],
    ],
    "schedule": [
        [(f"cosine, {epochs} epochs", {"epochs": epochs}) for epochs in (15, 30, 60, 100)],
        [(f"constant {rate:g}, {epochs} epochs", constant(rate, epochs))
         for rate, epochs in ((0.001, 100), (0.005, 100), (0.02, 100), (0.02, 300))],
    ],
    "start": [
        [("noise 0", {"noise_magnitude": 0.0}), ("noise 0.2", {}), ("noise 1", {"noise_magnitude": 1.0}),
         ("another seed", {"seed": 1})],
    ],
    "tv": [[(f"TV_WEIGHT {weight:g}", {"tv_weight": weight}) for weight in (0.0, 5.0, 20.0, 100.0)]],
    "look": [
        [("STYLE_SCALE 0.5", {"style_scale": 0.5}), ("STYLE_SCALE 1", {}), ("STYLE_SCALE 2", {"style_scale": 2.0}),
         ("PRESERVE_COLORS", {"preserve_colors": True})],
    ],
    "network": [
        [("ImageNet's weights", {"img_size": 300}),
         ("filters fitted to the pictures", {"img_size": 300, "vgg_mode": "fit"})],
    ],
    "gallery": [[pair("portrait", "woodcut"), pair("content", "glass")]],
    "gallery2": [[pair("portrait", "style"), pair("content", "points")]],
    "mask": [[(f"sky.png, {style}.jpg", pair("content", style)[1] | {"mask_path": str(ROOT / "images" / "sky.png")})
              for style in ("style", "woodcut")]],
    "coarse": [[(label, pair("portrait", "style")[1] | {"img_size": 800, "coarse_above": size, "content_weight": 10})
                for label, size in (("800 px at once", 800), ("400 px, then 800 px", 400))]],
}  # fmt: skip


def paint(settings):
    with tempfile.TemporaryDirectory() as folder:
        settings = BASE | settings
        picture, _ = script.main(**settings | {"save_every": settings["epochs"]}, output_path=folder)
        return script.to_pillow(picture[None])


def make_sheet(rows, shown):
    cells = []
    for row in rows:
        for label, settings in row:
            img = paint(settings)
            img.thumbnail((shown, shown), Image.Resampling.LANCZOS)
            cells.append((label, img))
    width, height = (max(img.size[side] for _, img in cells) for side in (0, 1))
    columns = max(map(len, rows))
    sheet = Image.new("RGB", (columns * (width + 6) - 6, len(rows) * (height + 20)), "white")
    for y, row in enumerate(rows):
        for x in range(len(row)):
            label, img = cells.pop(0)
            place = x * (width + 6), y * (height + 20)
            ImageDraw.Draw(sheet).text((place[0] + 3, place[1] + 4), label, "black")
            sheet.paste(img, (place[0], place[1] + 20))
    return sheet


def main(weights, *names):
    BASE["vgg_network_path"] = weights
    for name in names or SHEETS:
        sheet = make_sheet(SHEETS[name], SHOWN.get(name, BASE["img_size"]))
        sheet.save(ROOT / "images" / f"sheet_{name}.jpg", quality=88)


if __name__ == "__main__":
    main(*sys.argv[1:])
