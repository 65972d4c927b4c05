"""docs/claims.md and docs/theory.md: pictures, stored comparisons and links are those of the claims."""

from __future__ import annotations

import re

import claims as page

from rmsprop.lab.claims import CLAIMS, Claim, stored
from rmsprop.lab.report.claims import draw_picture


def test_the_stored_comparisons_are_those_of_the_pages() -> None:
    dated = {"date": ""}
    now = {key: each | dated for key, each in page.comparisons().items()}
    assert now == {key: each | dated for key, each in stored.stored()["comparisons"].items()}


def test_the_page_has_the_pictures_of_the_claims() -> None:
    for name in stored.stored()["captions"]:
        assert (page.PICTURES / f"{name}.svg").exists()
    for name in ("decay-threshold", "small-first-steps"):
        claim = CLAIMS[name]
        assert isinstance(claim, Claim)
        assert claim.picture is not None
        assert (page.PICTURES / f"{name}.svg").read_text() == draw_picture(claim.picture(claim.rule))


def test_the_page_of_the_theory_links_to_every_claim() -> None:
    text = (page.DOCS / "theory.md").read_text()
    assert set(re.findall(r"\]\(claims\.md#([\w-]+)\)", text)) - {
        "exact-thresholds-of-β",
        "the-edge-of-stability",
    } == set(CLAIMS)
    assert set(re.findall(r'<a id="([\w-]+)">', page.PAGE.read_text())) == set(CLAIMS)
