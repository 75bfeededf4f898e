"""The digest of a config bundle: SHA-256 over its content, independent of the order of its parts."""

import hashlib
from collections.abc import Iterator

from runtimed.model.bundle import ConfigBundle
from runtimed.model.worker import ProfileSelector, RuntimeDefaultProfile


def bundle_digest(bundle: ConfigBundle) -> str:
    """Return the digest of a bundle as 64 lower-case hex digits (contract, section 5)."""
    lines = sorted("\0".join(fields).encode() for fields in _lines(bundle))
    return hashlib.sha256(b"".join(line + b"\n" for line in lines)).hexdigest()


def _lines(bundle: ConfigBundle) -> Iterator[tuple[str, ...]]:
    metadata = bundle.metadata
    yield ("id", metadata.id)
    yield ("revision", metadata.revision)
    yield ("workspace_id", metadata.workspace_id)
    yield ("created_at", metadata.created_at)
    yield ("provenance.source", metadata.provenance.source)
    yield ("provenance.detail", metadata.provenance.detail or "")
    for profile in bundle.profiles:
        yield ("profile", *_key(profile.selector), profile.label or "")
    for declaration in bundle.declarations:
        yield ("declaration", declaration.kind, declaration.name, declaration.reference)


def _key(selector: ProfileSelector) -> tuple[str, ...]:
    if isinstance(selector, RuntimeDefaultProfile):
        return (selector.kind,)
    return (selector.kind, selector.value)
