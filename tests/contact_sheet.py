"""Paint the sample pair with settings varied, side by side, as images/sheet_NAME.jpg, which README shows:
`python tests/contact_sheet.py [NAME ...]`, all of them about an hour.
"""

import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import script  # noqa: E402

BASE = {
    "content_img_path": str(ROOT / script.CONTENT_IMG_PATH), "style_img_path": str(ROOT / script.STYLE_IMG_PATH),
    "img_size": 192, "optimizer": "lbfgs", "epochs": 100, "save_every": 100, "vgg_mode": "local",
}  # fmt: skip
LARGE = {"img_size": 1200, "epochs": 25}
GLASS = {"style_img_path": str(ROOT / "images/glass.jpg"), "img_size": 400, "epochs": 60, "vgg_mode": "fit"}
SHOWN = {"coarse": 600, "gallery": 300}  # pixels of a picture in the sheet


def one_block(name):
    return {"encoding_layers": [(name, 1.0), script.CONTENT_LAYER]}


def content_in(layer):
    return {"encoding_layers": [*script.ENCODING_LAYERS[:-1], (layer, 1.0)]}


SHEETS = {  # rows of pictures: label, settings
    "weights": [
        [(f"content {content:g}, style {style:g}", {"content_weight": content, "style_weight": style})
         for style in (4.0, 12.0, 40.0, 120.0, 400.0)]
        for content in (1.0, 10.0, 100.0, 1000.0)
    ],
    "layers": [
        [(f"style: {name}", one_block(name)) for name, _ in script.ENCODING_LAYERS[:-1]],
        [(f"content: {name}", content_in(name))
         for name in ("block1_conv2", "block2_conv2", "block3_conv4", "block4_conv2", "block5_conv4")],
    ],
    "optimizer": [
        [(f"L-BFGS, {epochs} epochs", {"epochs": epochs}) for epochs in (10, 25, 50, 100, 300)],
        [(f"Adam {rate:g}, {epochs} epochs", {"optimizer": "adam", "learn_rate": rate, "epochs": epochs})
         for rate, epochs in ((0.001, 300), (0.005, 300), (0.02, 100), (0.02, 300), (0.05, 300))],
    ],
    "start": [
        [("noise 0", {"noise_magnitude": 0.0}), ("noise 0.2", {}), ("noise 1", {"noise_magnitude": 1.0}),
         ("another seed", {"seed": 1}),
         ("mixed_bfloat16, 25 epochs", {"precision": "mixed_bfloat16", "epochs": 25})],  # slow where emulated
    ],
    "tv": [[(f"TV_WEIGHT {weight:g}", {"tv_weight": weight}) for weight in (0.0, 1.0, 5.0, 20.0, 100.0)]],
    "look": [
        [("STYLE_SCALE 0.5", {"style_scale": 0.5}), ("STYLE_SCALE 1", {}), ("STYLE_SCALE 2", {"style_scale": 2.0}),
         ("PRESERVE_COLORS", {"preserve_colors": True}),
         ("PRESERVE_COLORS, STYLE_SCALE 2", {"preserve_colors": True, "style_scale": 2.0})],
    ],
    "gallery": [
        [("glass.jpg", GLASS), ("glass.jpg, STYLE_SCALE 2", GLASS | {"style_scale": 2.0}),
         ("glass.jpg, PRESERVE_COLORS", GLASS | {"preserve_colors": True}),
         ("style.jpg and glass.jpg", GLASS | {"style_img_path": [BASE["style_img_path"], GLASS["style_img_path"]]})],
    ],
    "coarse": [[("1200 px", LARGE), ("1200 px, COARSE_SIZE 400", LARGE | {"coarse_size": 400})]],
}  # fmt: skip


def paint(settings):
    with tempfile.TemporaryDirectory() as folder:
        script.main(**BASE | {"save_every": settings.get("epochs", 100)} | settings, output_path=folder)
        return Image.open(sorted(Path(folder).glob("image_*.png"))[-1]).convert("RGB")


def make_sheet(rows, shown):
    sheet = Image.new("RGB", (len(rows[0]) * (shown + 6) - 6, len(rows) * (shown + 20)), "white")
    for y, row in enumerate(rows):
        for x, (label, settings) in enumerate(row):
            place = x * (shown + 6), y * (shown + 20)
            img = paint(settings)
            img.thumbnail((shown, shown), Image.Resampling.LANCZOS)
            ImageDraw.Draw(sheet).text((place[0] + 3, place[1] + 4), label, "black")
            sheet.paste(img, (place[0], place[1] + 20))
    return sheet


def main(names):
    with tempfile.TemporaryDirectory() as folder:
        content_img, style_img = script.load_images(BASE["content_img_path"], BASE["style_img_path"])
        BASE["vgg_network_path"] = str(Path(folder, "fitted.weights.h5"))
        vgg_model = script.get_vgg_model("fit", style_img=style_img, content_img=content_img)
        vgg_model.save_weights(BASE["vgg_network_path"])
        for name in names or SHEETS:
            sheet = make_sheet(SHEETS[name], SHOWN.get(name, BASE["img_size"]))
            sheet.save(ROOT / "images" / f"sheet_{name}.jpg", quality=88)


if __name__ == "__main__":
    main(sys.argv[1:])
