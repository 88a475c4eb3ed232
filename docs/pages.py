"""The pages of results: docs/templates/*.md.jinja with numbers and tables from benchmarks/*/results.jsonl.

    python -m docs.pages            write docs/results/*.md and their figures
    python -m docs.pages --check    say which committed pages are not what would be written

Templates hold the prose; what they may call is in page_parts.py, page_models.py, page_pairs.py, page_speed.py and
page_study.py.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from docs import page_models, page_pairs, page_parts, page_speed, page_study
from docs.page_parts import FIGURES, TEMPLATES
from transip.files import atomic_path, write_text

PAGES = Path(__file__).parent / "results"
HEADER = "<!-- Written by `python -m docs.pages`: edit docs/templates/{} instead. -->\n\n"
ENVIRONMENT = Environment(
    loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True
)
for module in (page_parts, page_models, page_pairs, page_speed, page_study):
    ENVIRONMENT.globals |= module.FUNCTIONS


def render(page: str) -> str:
    """The text of a page."""
    template = f"{page}.md.jinja"
    blocks = ENVIRONMENT.get_template(template).render().strip().split("\n\n")
    return HEADER.format(template) + "\n\n".join(map(_wrapped, blocks)) + "\n"


def _wrapped(block: str) -> str:
    """Paragraphs are filled anew, since numbers are not as long as what stands for them in a template."""
    return textwrap.fill(block, 120, break_on_hyphens=False) if block[0].isalnum() or block[:2] == "**" else block


def page_names() -> list[str]:
    """Pages for which there is a template."""
    return sorted(path.name.removesuffix(".md.jinja") for path in TEMPLATES.glob("*.md.jinja"))


def stale_pages() -> list[str]:
    """Files of docs/results that are missing or not what would be written; figures are only asked to exist."""
    wrong = [f"{page}.md" for page in page_names() if _committed(page) != render(page)]
    return wrong + [f"{name}.png" for name in FIGURES if not (PAGES / f"{name}.png").exists()]


def _committed(page: str) -> str | None:
    path = PAGES / f"{page}.md"
    return path.read_text(encoding="utf-8") if path.exists() else None


def write() -> None:
    """Write all pages and figures."""
    for page in page_names():
        write_text(PAGES / f"{page}.md", render(page))
    for name, drawing in FIGURES.items():
        with atomic_path(PAGES / f"{name}.png") as partial:
            drawing.savefig(partial, format="png", dpi=100, metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a page is stale")
    if not parser.parse_args().check:
        write()
    elif stale := stale_pages():
        sys.exit(f"stale in docs/results: {', '.join(stale)}; python -m docs.pages writes them")


if __name__ == "__main__":
    main()
