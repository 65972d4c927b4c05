"""Replace the blocks of a document that scripts write: `<!-- name: source -->` … `<!-- end of name -->`."""

from __future__ import annotations

import re


def with_block(text: str, name: str, content: str) -> str:
    """Return `text` with `content` in block `name`."""
    pattern = rf"(<!-- {name}: [^\n]* -->\n).*?(<!-- end of {name} -->)"
    result, count = re.subn(pattern, lambda match: match.group(1) + content + match.group(2), text, flags=re.DOTALL)
    if count != 1:
        raise ValueError(f"the document has {count} blocks {name!r}; it needs exactly one")
    return result
