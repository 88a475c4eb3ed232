"""Sphinx configuration. The pages of the reference are made first; those of results are committed, and checked."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from docs import generate, pages
from transip.version import __version__

generate.main()
if stale := pages.stale_pages():
    sys.exit(f"stale in docs/results: {', '.join(stale)}; python -m docs.pages writes them")

project = "transip"
author = "The transip developers"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_gallery.gen_gallery"]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 4
exclude_patterns = ["_build", "gallery", "templates"]  # gallery/ has the scripts, auto_gallery/ their pages

sphinx_gallery_conf = {
    "examples_dirs": ["gallery", "../examples"],  # of the latter only the code is shown: tests/examples runs it
    "gallery_dirs": ["auto_gallery", "auto_examples"],
    "download_all_examples": False,
    "within_subsection_order": "FileNameSortKey",
    "show_memory": False,
    "show_signature": False,
    "write_computation_times": False,  # they say nothing about elsewhere
    "min_reported_time": 3600,
}

html_theme = "furo"
html_title = "transip"
html_show_copyright = False

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_class_signature = "separated"
add_module_names = False
