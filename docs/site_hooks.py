"""Hooks of the documentation site: names in docstrings are shown as code, without the roles of Sphinx."""

import re
from typing import Any


def on_page_content(html: str, **context: Any) -> str:
    """``:func:`x``` as Markdown leaves it, to ``x`` in code."""
    return re.sub(r":(?:func|class|meth|mod|attr):(<code>)~?", r"\1", html)
