"""Hook of the site, for code blocks that name the framework which they require."""

import re


def on_page_markdown(markdown: str, **_: object) -> str:
    """Drop `requires=...` after the language of a block: MkDocs would show it as text."""
    return re.sub(r"^(```\w+) requires=\w+$", r"\1", markdown, flags=re.MULTILINE)
