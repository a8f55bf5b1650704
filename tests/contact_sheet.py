"""Paint the sample pair with one setting varied, side by side: `python tests/contact_sheet.py`, about 5 minutes.

Writes images/style_weight.jpg and images/tv_weight.jpg, which README shows.
"""

import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import script  # noqa: E402

SIZE, EPOCHS = 256, 100
SHEETS = {"style_weight": (4.0, 40.0, 400.0), "tv_weight": (0.0, 5.0, 50.0)}


def main():
    content_img, style_img = script.load_images(ROOT / script.CONTENT_IMG_PATH, ROOT / script.STYLE_IMG_PATH, SIZE)
    encoding_model = script.get_vgg_encodings(script.get_vgg_model("fit", "model", style_img, content_img))
    for name, values in SHEETS.items():
        sheet = Image.new("RGB", (len(values) * (SIZE + 8) - 8, SIZE + 20), "white")
        for i, value in enumerate(values):
            generated_img = script.initialize_generated_image(content_img)
            with tempfile.TemporaryDirectory() as folder:
                script.transfer_style_loop(
                    generated_img, content_img, style_img, encoding_model, optimizer="lbfgs", epochs=EPOCHS,
                    save_every=EPOCHS, output_path=folder, **{name: value},
                )  # fmt: skip
                sheet.paste(Image.open(Path(folder, f"image_{EPOCHS:05}.png")), (i * (SIZE + 8), 20))
            ImageDraw.Draw(sheet).text((i * (SIZE + 8) + 4, 4), f"{name.upper()} = {value:g}", "black")
        sheet.save(ROOT / "images" / f"{name}.jpg", quality=92)


if __name__ == "__main__":
    main()
