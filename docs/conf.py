"""How the pages of this folder become a site: Sphinx, from Markdown. `make docs` builds it, warnings as errors."""

from importlib.metadata import version as installed

project = "medal"
author = "The medal authors"
project_copyright = author
version = release = installed("medalmighty")

extensions = ["myst_parser", "numpydoc", "sphinx.ext.autodoc", "sphinx_click", "sphinx_copybutton"]
copybutton_prompt_text = "$ "  # what is copied can be run
exclude_patterns = ["_build"]
smartquotes = False  # two hyphens before an option are two hyphens

# ── Markdown ─────────────────────────────────────────────────────────────────────────────────────────────────────
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


def setup(app):
    """Leave out of the page of commands what its every option would repeat: that a variable of its name counts, too."""
    app.connect("sphinx-click-process-envvars", lambda _app, _context, lines: lines.clear())
