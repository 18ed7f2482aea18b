"""Draw docs/pictures/evidence.svg from docs/evidence/fifth: student, baseline and teacher on each set.

python benchmarks/evidence/picture.py [OUT]
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from students import NAMES, ROOT, mean, read

# Share of labels and images seen: the fifth round, and the sixth, of which only this share is in.
PANELS = ((0.05, 1600), (0.2, 4800))
# The arm, its name in the legend, its marker. The student is drawn last, above the others.
MARKERS = (
    ("teacher", "teacher: frozen DINOv2 with a linear probe", {"marker": "|", "color": "tab:orange", "markersize": 13}),
    ("baseline", "baseline: the same network, labels alone", {"marker": "o", "color": "0.45", "fillstyle": "none"}),
    ("student", "student: labels and soft targets", {"marker": "o", "color": "tab:blue"}),
)


def draw(path: Path) -> None:
    """Draw a panel for each share of labels, with a line for each set and one for the mean over sets."""
    # No date and no random ids, so that the same lines give the same file.
    with mpl.rc_context({"svg.hashsalt": "medal", "svg.fonttype": "none", "font.size": 10}):
        figure = Figure(figsize=(9, 4.6), layout="constrained")
        for axes, (share, seen) in zip(figure.subplots(1, len(PANELS), sharey=True), PANELS, strict=True):
            lines = read("efficientnet", seen)
            mine = [line for line in lines if line["unit"]["label_fraction"] == share]
            sets = {name: [line for line in mine if line["unit"]["set"] == name] for name in NAMES}
            heights = [*range(len(sets)), len(sets) + 0.5]
            for height, (low, high) in zip(heights, spans(sets), strict=True):
                axes.plot([low, high], [height, height], color="0.8", linewidth=1, zorder=1)
            for arm, label, look in MARKERS:
                each = [mean(found, arm) for found in sets.values()]
                axes.plot([*each, np.mean(each)], heights, linestyle="", label=label, zorder=2, **look)
            axes.axhline(len(sets) - 0.25, color="0.6", linewidth=0.6)
            axes.set_yticks(heights, [*sets, f"mean of {len(sets)} sets"])
            axes.set_ylim(len(sets) + 1, -0.5)
            axes.set_xlim(0.45, 1.0)
            axes.set_xlabel("AUROC on test images")
            axes.set_title(f"labels for {100 * share:g} % of the training images; {seen:,} images seen", fontsize=10)
            axes.grid(axis="x", alpha=0.3)
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles[::-1], labels[::-1], loc="outside lower center", ncols=3, frameon=False, fontsize=9)
        figure.savefig(path, metadata={"Date": None})


def spans(sets: dict[str, list[dict[str, object]]]) -> list[tuple[float, float]]:
    """Return the lowest and highest figure of each set, and of the means over sets."""
    figures = np.array([[mean(found, arm) for arm, _, _ in MARKERS] for found in sets.values()])
    figures = np.vstack([figures, figures.mean(0)])
    return list(zip(figures.min(1), figures.max(1), strict=True))


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs/pictures/evidence.svg")
