"""Real text that every Python has: the pages of its language reference."""

from __future__ import annotations

import re
from pydoc_data.topics import topics

PAGES = ("attribute-access", "compound", "debugger", "formatstrings", "string-methods", "types")
LENGTH = 48


def paragraphs() -> tuple[list[str], list[int]]:
    """Return paragraphs, and the numbers of the pages that they are from."""
    found = [
        (" ".join(text.split()), page)
        for page, name in enumerate(PAGES)
        for text in re.split(r"\n\s*\n", topics[name])
        if len(text) > 60
    ]
    texts, labels = zip(*found, strict=True)
    return list(texts), list(labels)


def tokens(text: str) -> list[int]:
    """Return the bytes of the beginning of a text, plus one: 0 is padding."""
    return [1 + byte for byte in text.encode()[:LENGTH]]
