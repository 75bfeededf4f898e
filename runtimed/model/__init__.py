"""Frozen values of the v1 contract: what exists, and nothing of how it is stored, sent or run.

A field with a default is optional in the contract: on the wire it is left out while it has that default.
A field without one is always present, `None` included.
"""
