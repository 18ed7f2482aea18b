"""Results as HTML pages: one style, and every name escaped.

It is in `cache`, because stage one and stage two both have pages and may not import each other's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["render"]


def render(template: Path, **values: Any) -> str:
    """Return a page from a template that extends ``page.html``; everything not marked as safe is escaped.

    Parameters
    ----------
    template : file of Jinja2; those beside it can be included
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader([template.parent, Path(__file__).parent])
    made = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=loader)
    return made.get_template(template.name).render(values)
