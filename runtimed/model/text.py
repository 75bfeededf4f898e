"""White space in texts that clients send."""

WHITE_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
"""The characters with Unicode's property White_Space. `str.strip` would also remove the controls U+001C to U+001F."""


def trimmed(text: str) -> str:
    """Return the text without white space at its ends."""
    return text.strip(WHITE_SPACE)


def is_blank(text: str) -> bool:
    """Return whether a text is empty or only white space."""
    return text[:1] in WHITE_SPACE and not text.strip(WHITE_SPACE)
