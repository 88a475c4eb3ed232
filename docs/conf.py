"""Sphinx configuration; the settings and command-line pages are generated from the code first."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
import generate  # noqa: E402

from transip.version import __version__  # noqa: E402

generate.main()

project = "transip"
author = "The transip developers"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_gallery.gen_gallery"]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 4
exclude_patterns = ["_build", "gallery"]  # gallery/ has the scripts, results/gallery their pages

sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "results/gallery",
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
