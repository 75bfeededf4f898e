"""What counts as white space in texts that clients send."""

WHITE_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
"""Unicode's property White_Space. Python's `strip` takes the separators U+001C to U+001F too, which are controls."""


def trimmed(text: str) -> str:
    """The text without white space at its ends."""
    return text.strip(WHITE_SPACE)


def is_blank(text: str) -> bool:
    """Whether there is nothing but white space in a text."""
    return text[:1] in WHITE_SPACE and not text.strip(WHITE_SPACE)
