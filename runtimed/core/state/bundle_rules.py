"""The rules for config bundles: section 5 of the v1 contract, in its order. Pure."""

import re
from collections.abc import Mapping

from runtimed.core.state.change import StoredBundle
from runtimed.errors import (
    ConfigBundleDigestMismatch,
    ConfigBundleMissing,
    InvalidProfileSelector,
    InvalidRequest,
    RuntimedError,
    UnsupportedConfigDeclaration,
)
from runtimed.model.bundle import (
    Availability,
    BundleMetadata,
    BundleProfile,
    ConfigBundle,
    ConfigBundleSummary,
    Declaration,
)
from runtimed.model.digest import bundle_digest
from runtimed.model.text import is_blank, trimmed
from runtimed.model.worker import BundleReference, ProfileSelector, RuntimeDefaultProfile

BUNDLE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}", re.ASCII)
DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
REFERENCE = re.compile(r"[A-Za-z0-9:_.@+-]+", re.ASCII)
MAX_BOUNDARY_TEXT = 2_048
HOST_LOCAL_STARTS = ("/", "~")
PRIVATE_MARKER = ".yoi"
"""No reference may contain this, in any case."""

HOST_LOCAL_DRIVE = ":\\"
HOST_LOCAL_MARKERS = (
    ".cache",
    ".yoi/sessions",
    "/sessions/",
    "/run/",
    ".sock",
    "/sock",
    "socket=",
    "session_path",
    "cache_path",
)
REFERENCE_PREFIXES = {
    "secret_ref": ("secret:", "secret-ref:", "vault:", "keyring:"),
    "mount_grant": ("mount:", "mount-grant:"),
    "network_policy": ("network:", "network-policy:"),
    "shell_policy": ("shell:", "shell-policy:"),
    "git_policy": ("git:", "git-policy:"),
    "capability_grant": ("capability:", "capability-grant:"),
}


def check_bundle(bundle: ConfigBundle) -> None:
    """Check a bundle. Raises a RuntimedError that names the first field that breaks a rule."""
    _check_metadata(bundle.metadata)
    _check_boundary_texts(bundle.metadata)
    if bundle.metadata.digest != bundle_digest(bundle):
        raise ConfigBundleDigestMismatch("metadata.digest: expected the SHA-256 digest of this bundle")
    for index, profile in enumerate(bundle.profiles):
        _check_profile(profile, f"profiles[{index}]")
    for index, declaration in enumerate(bundle.declarations):
        _check_declaration(declaration, f"declarations[{index}]")


def check_digest(digest: str, field: str) -> None:
    """Raise InvalidRequest unless `digest` is a digest; the message names the field."""
    if not DIGEST.fullmatch(digest):
        raise InvalidRequest(f"{field}: expected 64 lower-case hex digits")


def held(bundles: Mapping[str, ConfigBundle], reference: BundleReference) -> ConfigBundle:
    """Return the bundle that is referenced. Raises ConfigBundleMissing or ConfigBundleDigestMismatch."""
    bundle = bundles.get(reference.id)
    if bundle is None:
        raise ConfigBundleMissing
    if bundle.metadata.digest != reference.digest:
        raise ConfigBundleDigestMismatch("digest: the bundle with this id has another digest")
    return bundle


def summary(stored: StoredBundle) -> ConfigBundleSummary:
    """Return a bundle as a row of a list."""
    bundle, metadata = stored.bundle, stored.bundle.metadata
    return ConfigBundleSummary(
        id=metadata.id,
        digest=metadata.digest,
        digest_algorithm="sha256",
        revision=metadata.revision,
        workspace_id=metadata.workspace_id,
        created_at=metadata.created_at,
        provenance=metadata.provenance,
        profile_count=len(bundle.profiles),
        declaration_count=len(bundle.declarations),
        tenant=stored.tenant,
    )


def availability(stored: StoredBundle) -> Availability:
    """Return the availability of a bundle that is held."""
    metadata = stored.bundle.metadata
    return Availability(BundleReference(metadata.id, metadata.digest), summary(stored))


def is_host_local(text: str) -> bool:
    """Return whether the text looks like a path or a socket of this host."""
    seen = text.lower().replace("\\", "/")
    marked = any(marker in seen for marker in HOST_LOCAL_MARKERS)
    return marked or HOST_LOCAL_DRIVE in text or seen.startswith(HOST_LOCAL_STARTS)


def _check_metadata(metadata: BundleMetadata) -> None:
    if not BUNDLE_ID.fullmatch(metadata.id):
        raise InvalidRequest(
            "metadata.id: expected 1 to 128 characters of A-Z a-z 0-9 . _ : -, the first a letter or digit"
        )
    check_digest(metadata.digest, "metadata.digest")
    for name in ("revision", "workspace_id", "created_at"):
        _check_not_blank(getattr(metadata, name), f"metadata.{name}", InvalidRequest)
    _check_not_blank(metadata.provenance.source, "metadata.provenance.source", InvalidRequest)


def _check_boundary_texts(metadata: BundleMetadata) -> None:
    for name in ("id", "revision", "workspace_id", "created_at"):
        _check_boundary(getattr(metadata, name), f"metadata.{name}", InvalidRequest)
    _check_boundary(metadata.provenance.source, "metadata.provenance.source", InvalidRequest)
    _check_boundary(metadata.provenance.detail or "", "metadata.provenance.detail", InvalidRequest)


def check_selector(selector: ProfileSelector, path: str) -> None:
    """Raise InvalidProfileSelector if the value of a selector is blank or breaks the rules for boundary text."""
    if not isinstance(selector, RuntimeDefaultProfile):
        _check_not_blank(selector.value, f"{path}.value", InvalidProfileSelector)
        _check_boundary(selector.value, f"{path}.value", InvalidProfileSelector)


def _check_profile(profile: BundleProfile, path: str) -> None:
    check_selector(profile.selector, f"{path}.selector")
    _check_boundary(profile.label or "", f"{path}.label", InvalidRequest)


def _check_declaration(declaration: Declaration, path: str) -> None:
    _check_not_blank(declaration.name, f"{path}.name", InvalidRequest)
    _check_boundary(declaration.name, f"{path}.name", InvalidRequest)
    prefixes = REFERENCE_PREFIXES.get(declaration.kind)
    if prefixes is None:
        raise UnsupportedConfigDeclaration(f"{path}.kind: expected one of {', '.join(REFERENCE_PREFIXES)}")
    _check_reference(declaration.reference, f"{path}.reference", prefixes)


def _check_reference(reference: str, path: str, prefixes: tuple[str, ...]) -> None:
    _check_not_blank(reference, path, InvalidRequest)
    if not REFERENCE.fullmatch(reference):
        raise InvalidRequest(f"{path}: expected only A-Z a-z 0-9 : _ . @ + -")
    if is_host_local(reference) or PRIVATE_MARKER in reference.lower():
        raise InvalidRequest(f"{path}: expected a reference, not a path or a socket of this host")
    prefix = next((prefix for prefix in prefixes if reference.startswith(prefix)), None)
    if prefix is None or reference == prefix:
        raise UnsupportedConfigDeclaration(f"{path}: expected {' or '.join(prefixes)} followed by a name")


def _check_not_blank(text: str, path: str, error: type[RuntimedError]) -> None:
    if is_blank(text):
        raise error(f"{path}: expected text that is not blank")


def _check_boundary(text: str, path: str, error: type[RuntimedError]) -> None:
    text = trimmed(text)
    if len(text) > MAX_BOUNDARY_TEXT:
        raise error(f"{path}: expected at most {MAX_BOUNDARY_TEXT} characters")
    if any(ord(char) < 32 or 127 <= ord(char) < 160 for char in text):
        raise error(f"{path}: expected text without control characters")
    if is_host_local(text):
        raise error(f"{path}: expected no path or socket of this host")
