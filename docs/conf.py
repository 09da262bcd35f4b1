"""How the documentation is built: `make docs` writes it into build/site.

Pages are Markdown, as they read on any code host. The references are made from what they describe:
commands from the command line itself, modules from their docstrings, files from their JSON Schemas.
"""

import sys
from importlib import import_module
from importlib.metadata import version as installed
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

# autodoc imports what is not imported yet as type checkers see it: pydantic's models cannot be
import_module("fl_client.audit")
import_module("fl_server.pool")
import_module("fl_server.runfolder")

project = "fedprint"
author = "The fedprint authors"
copyright = author
version = release = installed("fedprint")

extensions = [
    "myst_parser",
    "rendering.command_line",
    "rendering.json_schemas",
    "rendering.mathml",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
]
source_suffix = {".md": "markdown"}

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4  # links to headings work as on code hosts

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_type_aliases = {
    name: name
    for name in (
        "FloatArray",
        "Floats",
        "IntArray",
        "Ints",
        "Features",
        "Labels",
        "Pixels",
        "Rows",
        "Counts",
    )
}
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = False
napoleon_use_ivar = True

smartquotes = False
html_math_renderer = "mathml"

html_theme = "furo"
html_title = f"fedprint {release}"
html_copy_source = False
html_show_sphinx = False
html_static_path = ["static"]
html_css_files = ["tables.css"]
pygments_style = "friendly"
highlight_language = "none"
