"""Execute README's notebook code in a Jupyter kernel, then ten runs, and print what memory each of them left taken:
`pip install nbclient ipykernel && python tests/by_hand/notebook.py`, some minutes.
"""

import re
import shutil
import tempfile
from pathlib import Path

import nbclient
import nbformat

ROOT = Path(__file__).resolve().parent.parent.parent
RUN = """
picture, history = script.main(img_size=32, epochs=3, vgg_mode="fit", precision="float32", seed={seed})
memory = open("/proc/self/status").read().split("VmRSS:")[1].split()[0]
print(f"run {seed}: {{picture.shape}}, {{int(memory) // 1024}} MB")
"""


def main():
    cells = re.findall("```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    cells += [RUN.format(seed=seed) for seed in range(1, 11)]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    with tempfile.TemporaryDirectory() as folder:
        for name in ("script.py", "images"):
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, Path(folder, name))
        nbclient.NotebookClient(notebook, resources={"metadata": {"path": folder}}).execute()
    memory = []
    for cell in notebook.cells:
        pictures = [output for output in cell.outputs if "image/png" in output.get("data", {})]
        texts = [output.text for output in cell.outputs if output.output_type == "stream"]
        last = "".join(texts).strip().splitlines()[-1]
        memory += re.findall(r"(\d+) MB", last)
        print(f"{last}, pictures shown: {len(pictures)}")
    assert int(memory[-1]) <= int(memory[2]) + 25 * 7, "runs leave memory taken"


if __name__ == "__main__":
    main()
