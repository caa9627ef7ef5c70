"""Tasks: what is trained, and the four that come with the package."""
