"""Hooks of the documentation site.

Names in docstrings are shown as code, without the roles of Sphinx; pages that the navigation of mkdocs.yml does not
name yet stand at its end, so that none is out of reach.
"""

import re
from pathlib import Path
from typing import Any


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
