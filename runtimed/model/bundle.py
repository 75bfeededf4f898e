"""Config bundles: declarations of profiles, references, grants and policies; never a secret's value."""

from typing import Literal

from runtimed.model.value import value
from runtimed.model.worker import BundleReference, ProfileSelector

DeclarationKind = Literal[
    "secret_ref",
    "mount_grant",
    "network_policy",
    "shell_policy",
    "git_policy",
    "capability_grant",
    "unsupported",
]
DigestAlgorithm = Literal["sha256"]


@value
class Provenance:
    """Where a bundle comes from."""

    source: str
    detail: str | None = None


@value
class BundleMetadata:
    """Identity and origin of a bundle; `digest` covers the whole bundle."""

    id: str
    digest: str
    revision: str
    workspace_id: str
    created_at: str
    provenance: Provenance


@value
class BundleProfile:
    """A profile that the bundle offers."""

    selector: ProfileSelector
    label: str | None = None


@value
class Declaration:
    """A reference to something that the host holds."""

    kind: DeclarationKind
    name: str
    reference: str


@value
class ConfigBundle:
    """A bundle as a client pushes it."""

    metadata: BundleMetadata
    profiles: tuple[BundleProfile, ...] = ()
    declarations: tuple[Declaration, ...] = ()


@value
class ConfigBundleSummary:
    """A bundle as a row of a list."""

    id: str
    digest: str
    digest_algorithm: DigestAlgorithm
    revision: str
    workspace_id: str
    created_at: str
    provenance: Provenance
    profile_count: int
    declaration_count: int


@value
class Availability:
    """The Runtime holds exactly this version of the bundle."""

    reference: BundleReference
    summary: ConfigBundleSummary
