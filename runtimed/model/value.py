"""The class decorator of all values."""

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from attrs import frozen as value
else:
    # Frozen for the type checker only: enforcing it at run time makes a value of seven fields four times as costly,
    # and each input and each event makes a dozen.
    value = attrs.define(unsafe_hash=True)

__all__ = ["value"]
