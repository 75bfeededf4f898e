"""Files that the daemon reads while the soak rewrites them."""

from pathlib import Path


def replace(file: Path, text: str) -> None:
    """Replace a file as a whole by one that only its owner can read."""
    fresh = file.with_name(f"{file.name}.new")
    fresh.touch(mode=0o600)
    fresh.write_text(text)
    fresh.replace(file)
