"""How the pages of this folder become a site: Sphinx, with pages in Markdown; `make docs` builds it."""

from importlib.metadata import version as installed

project = "medal"
author = "The medal authors"
project_copyright = author
version = release = installed("medalmighty")

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx_click",
]
exclude_patterns = ["_build"]
nitpicky = True  # a reference that leads nowhere is a warning, and so an error
# The types of other libraries are names here: nobody's inventory is fetched while the site is built.
nitpick_ignore_regex = [("py:.*", r".*")]

# ── Markdown ─────────────────────────────────────────────────────────────────────────────────────────────────────
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3  # as GitHub gives them, so that a link to a heading holds in both places

# ── Docstrings ───────────────────────────────────────────────────────────────────────────────────────────────────
default_role = "code"
autodoc_typehints = "none"  # they stand in the signature
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

# ── The site ─────────────────────────────────────────────────────────────────────────────────────────────────────
html_theme = "furo"
html_title = f"medal {release}"
html_show_sourcelink = False
html_copy_source = False
