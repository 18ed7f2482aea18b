"""Draw the pictures of the pages: plots that medal itself makes of a run on the phantom, with its baseline.

python docs/pictures/draw.py facebook/dinov2-small
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

import medal

HERE = Path(__file__).resolve().parent
STUDENT = {"student": "test_resnet", "image_size": 64, "epochs": 8, "seeds": 2, "baseline": True}


def draw(teacher: str) -> None:
    """Make cache and run in a folder that goes away, and keep the plots."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "phantom"
        made = medal.cache_teacher("phantom", Path(folder) / "phantom.zarr", teacher=teacher, image_size=112)
        medal.train_student(made.cache, "phantom", run, tell=print, **STUDENT)
        for name in ("roc.png", "curves.png", "reliability.png"):
            # A palette halves the file, and plots have few colours.
            Image.open(run / name).convert("RGB").quantize(64).save(HERE / name, optimize=True)
        # Names as a reader would type them, and no date, so that the same run gives the same file.
        compare = [sys.executable, "-m", "medal", "compare", "phantom/baseline", "phantom", "--out", "forest.svg"]
        subprocess.run(compare, check=True, cwd=folder, env={**os.environ, "SOURCE_DATE_EPOCH": "0"})
        shutil.copy(Path(folder) / "forest.svg", HERE)


if __name__ == "__main__":
    draw(sys.argv[1])
