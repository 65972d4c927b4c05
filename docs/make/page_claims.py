"""Copy the claims that the page of `rmsprop page` names, with their verdicts: `python docs/make/page_claims.py`.

The page is written with NumPy alone, so it cannot ask `rmsprop.lab`.
"""

from __future__ import annotations

import json
import re

from rmsprop.files import write_atomically
from rmsprop.lab.claims.catalogue import CLAIMS
from rmsprop.lab.claims.stored import stored_results
from rmsprop.page.bundle import STATIC

COPIED = STATIC / "claims.json"


def named() -> list[str]:
    """Return the names of the claims in the parts of the page, in their order."""
    texts = [path.read_text(encoding="utf-8") for path in sorted((STATIC / "parts").glob("*.html"))]
    return list(
        dict.fromkeys(name for text in texts for name in " ".join(re.findall(r"{{claims (.*)}}", text)).split())
    )


def claims() -> dict[str, dict[str, str]]:
    """Return sentence and verdict of each."""
    results = stored_results()
    return {name: {"sentence": CLAIMS[name].sentence, "verdict": results[name].verdict} for name in named()}


def main() -> None:
    """Write the file."""
    write_atomically(COPIED, json.dumps(claims(), ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
