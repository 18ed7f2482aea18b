"""A cache in a few lines, for the terminal and for notebooks."""

from __future__ import annotations

from html import escape
from typing import Any

from .format.manifest import Manifest
from .text import plain

__all__ = ["describe", "describe_html"]


def describe(manifest: Manifest) -> dict[str, str]:
    """Return what a manifest says, name by name, in the words of `medal show`."""
    probe = manifest.probe.get("metrics", {})
    return {
        "dataset": f"{manifest.dataset.get('name')} ({manifest.task}, {len(manifest.classes)} classes)",
        "classes": ", ".join(manifest.classes),
        "domains": ", ".join(manifest.domains) or "none",
        "rows": ", ".join(f"{split} {count}" for split, count in manifest.rows.items()),
        "teacher": f"{manifest.teacher.get('name')}, {manifest.teacher.get('feature')}, "
        f"{manifest.teacher.get('precision_used')}",
        "images": f"{manifest.preprocessing.get('image_size')} px, {manifest.preprocessing.get('resize')}",
        **({"left out": f"{skipped} images that cannot be used"} if (skipped := manifest.skipped.images) else {}),
        **(
            {"contrast": ("almost none: the images are nearly one shade of grey")}
            if manifest.dataset.get("contrast")
            else {}
        ),
        **({"keys": "keyed with a lab's secret"} if manifest.key_check else {}),
        "features": "kept" if manifest.size.features_kept else "not kept",
        **{f"probe on {split}": _figures(probe[split]) for split in manifest.rows if split in probe},
        "cache_id": manifest.cache_id,
        "content_digest": manifest.content_digest,
    }


def describe_html(title: str, manifest: Manifest) -> str:
    """Return the same as a small table of HTML; names come from whoever made the cache and are escaped."""
    rows = "".join(
        f"<tr><th style='text-align:left'>{escape(plain(name))}</th>"
        f"<td style='text-align:left'>{escape(plain(value))}</td></tr>"
        for name, value in describe(manifest).items()
    )
    return f"<table><caption>{escape(plain(title))}</caption>{rows}</table>"


def _figures(figures: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:.4f}" for name in ("auroc", "accuracy") if isinstance(value := figures.get(name), float)
    )
