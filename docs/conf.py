"""The documentation site: ``python -m sphinx -W --keep-going -b html docs site``.

Sphinx with Markdown pages (MyST), because the docstrings are written with its roles and it is
maintained. The theme loads nothing from other hosts.
"""

import os
import sys
from importlib import metadata
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).with_name("_extensions")))

project = "vitsd"
author = "the vitsd authors"
copyright = "the vitsd authors, Apache-2.0"
release = version = metadata.version("vitsd-runtime")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "command_help",
    "option_fields",
]
exclude_patterns = ["models/*/notes.md"]  # the beginning of the model card beside it
source_suffix = {".md": "markdown"}
highlight_language = "none"

myst_heading_anchors = 3  # links to headings, as on a code forge

autodoc_typehints = "none"  # the docstrings say more: shapes, dtypes, units
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
add_module_names = False
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = f"vitsd {release}"
html_copy_source = False
html_show_sphinx = False
