"""Frozen values of the v1 contract. How they are stored, sent or run is not their concern.

A field with a default is optional in the contract. JSON leaves it out while it has that default. A field without a
default is always present, even if it is null.
"""
