"""The modules of medal, as files: what the package is made of, by pyproject.toml."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_PACKAGES = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
MODULES = [path for name in _PACKAGES for path in sorted(ROOT.joinpath(*name.split(".")[1:]).glob("*.py"))]
