"""How Sphinx makes the site (`make docs`). The pages are Markdown and readable without it.

The source folder is the repository's root, so that a link means the same here as in the
repository. The pages read are those of `include_patterns`.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

from dom2_fast._version import __version__  # noqa: E402

project = "dom2-fast"
author = "dom2_fast contributors"
project_copyright = author
version = release = __version__

root_doc = "docs/index"
include_patterns = ["*.md", "docs/*.md", "docs/*/*.md", "examples/*.md"]
exclude_patterns = [".*", "*.egg-info", "build", "dist", "runs", "datasets", "report", "shared"]

extensions = [
    "docstrings",
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
# Links to #headings in other pages, as code hosts make them.
myst_heading_anchors = 4

# `x` in a docstring is code, as in Markdown.
default_role = "code"
autodoc_default_options = {
    "members": True,
    "undoc-members": True,
    "member-order": "bysource",
    "show-inheritance": True,
}
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
# "Returns: agents" is no link to one of the attributes of that name.
suppress_warnings = ["ref.python"]

html_theme = "furo"
html_title = f"dom2-fast {release}"
html_show_sphinx = False
html_copy_source = False
templates_path = ["_templates"]
# The site's front door leads to docs/index.html.
html_additional_pages = {"index": "to_index.html"}
copybutton_exclude = ".linenos, .gp, .go"
