"""What all values are made with."""

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from attrs import frozen as value
else:
    # Frozen for the type checker. Holding it at run time too makes a value of seven fields cost four times as much,
    # and each input and each event makes a dozen of them.
    value = attrs.define(unsafe_hash=True)

__all__ = ["value"]
