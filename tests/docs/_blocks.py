"""The programs in a page of docs/."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def python_blocks(page: str) -> dict[str, str]:
    """The blocks of Python in a page, by the names in their first lines: ``# name.py``.

    Raises:
        ValueError: a block has no name, or that of another.
    """
    text = (DOCS / page).read_text(encoding="utf-8")
    blocks: dict[str, str] = {}
    for found in re.finditer(r"^```python\n(.*?)^```$", text, re.M | re.S):
        code = found[1]
        line = text[: found.start()].count("\n") + 1
        name = re.match(r"# (\w+\.py)\b", code)
        if name is None or name[1] in blocks:
            raise ValueError(f"{page}:{line}: the block needs a name of its own: '# name.py'")
        blocks[name[1]] = code
    return blocks
