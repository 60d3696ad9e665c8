"""Hooks of the documentation site.

The API reference lists the names of ``mmvicreg/__init__.pyi``, by the folder that defines them. Names in docstrings are
shown as code, without the roles of Sphinx. Pages that the navigation of mkdocs.yml does not name yet stand at its
end, so that none is out of reach.
"""

import re
from pathlib import Path
from typing import Any

STUB = Path(__file__).parents[1] / "mmvicreg/__init__.pyi"
TITLES = {
    "training": "Training",
    "interop": "Runs and models",
    "runs": "Configuration and runs",
    "modalities": "Modalities",
    "branches": "Branches",
    "objectives": "Objectives",
    "solvers": "Closed-form solvers",
    "evaluation": "Evaluation",
    "stream": "Stream",
    "plan": "Plan",
    "shards": "Shards",
}
"""Heading of each folder's names, in the order of the page; other folders follow under their own name."""


def on_page_markdown(markdown: str, page: Any, **context: Any) -> str:
    """The API page with an entry for every public name."""
    if page.file.src_uri != "api.md":
        return markdown
    found = re.findall(
        r"^from \.([\w.]+) import (\w+) as", STUB.read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    folders: dict[str, list[str]] = {folder: [] for folder in TITLES}
    for module, name in found:
        folders.setdefault(module.split(".")[0], []).append(f"::: mmvicreg.{module}.{name}")
    parts = [markdown]
    for folder, entries in folders.items():
        if entries:
            parts += [f"## {TITLES.get(folder, folder.replace('_', ' ').capitalize())}", *entries]
    return "\n\n".join(parts)


def on_config(config: Any) -> Any:
    """Add the pages that the navigation does not name."""
    folder = Path(config.docs_dir)
    pages = sorted(str(page.relative_to(folder)) for page in folder.rglob("*.md"))
    named = set(re.findall(r"'([\w./-]+\.md)'", str(config.nav)))
    rest = [page for page in pages if page not in named]
    if rest:
        config.nav.append({"More": rest})
    return config


def on_page_content(html: str, **context: Any) -> str:
    """``:func:`x``` as Markdown leaves it, to ``x`` in code."""
    return re.sub(r":(?:func|class|meth|mod|attr):(<code>)~?", r"\1", html)


def on_post_page(output: str, **context: Any) -> str:
    """The theme's search dialog with a name, which a screen reader says."""
    return output.replace('role="dialog">', 'role="dialog" aria-label="Search">')
