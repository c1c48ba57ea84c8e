"""The programs in a page of docs/."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page: str) -> list[tuple[int, str]]:
    """The blocks of Python in a page: the line each begins at, and its code."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return [
        (text[: found.start()].count("\n") + 1, found[1])
        for found in re.finditer(r"^```python\n(.*?)^```$", text, re.M | re.S)
    ]


def name_of(code: str) -> str | None:
    """What the first line of a block says it is: ``# name.py``."""
    found = re.match(r"# (\w+\.py)\b", code)
    return None if found is None else found[1]


def python_blocks(page: str) -> dict[str, str]:
    """The blocks of Python in a page, by their names.

    Raises:
        ValueError: a block has no name, or that of another.
    """
    named: dict[str, str] = {}
    for line, code in blocks(page):
        name = name_of(code)
        if name is None or name in named:
            raise ValueError(f"{page}:{line}: the block needs a name of its own: '# name.py'")
        named[name] = code
    return named
