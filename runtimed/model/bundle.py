"""Config bundles: declarations of profiles, references, grants and policies, but never the value of a secret."""

from typing import Literal

from runtimed.model.profile import Sandbox
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
DeclarationOutcome = Literal["enforced", "unknown", "unenforceable"]
"""What a host would do with a declaration: enforce it, or reject the Worker because of it."""

DigestAlgorithm = Literal["sha256"]


@value
class Provenance:
    """The origin of a bundle."""

    source: str
    detail: str | None = None


@value
class BundleMetadata:
    """Identity and origin of a bundle.

    Attributes:
        digest: The SHA-256 digest of the whole bundle, in hex.
        created_at: The time of creation, as the client wrote it.
    """

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
    """A reference to something on the host, such as a secret or a mount."""

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
    """A bundle in a list of bundles.

    Attributes:
        tenant: The tenant that it belongs to, if any.
    """

    id: str
    digest: str
    digest_algorithm: DigestAlgorithm
    revision: str
    workspace_id: str
    created_at: str
    provenance: Provenance
    profile_count: int
    declaration_count: int
    tenant: str | None = None


@value
class DeclarationCheck:
    """What this host would do with a declaration.

    Attributes:
        detail: What enforces it, or why the Worker would be rejected.
    """

    kind: DeclarationKind
    name: str
    reference: str
    outcome: DeclarationOutcome
    detail: str


@value
class ProfileCheck:
    """What this host would do with the Workers of one profile of a bundle.

    Attributes:
        selector: The name of the profile in the configuration.
        sandbox: How its Workers would be confined.
        declarations: The declarations of the bundle, in their order.
        problem: Why no Worker can be created with the profile.
    """

    selector: str
    sandbox: Sandbox
    declarations: tuple[DeclarationCheck, ...]
    problem: str | None = None


@value
class HostCheck:
    """What this host would do with the Workers of a bundle.

    Attributes:
        accepted: Whether it offers a profile, and every profile and every declaration holds here.
        profiles: The profiles that the bundle offers, in their order.
    """

    reference: BundleReference
    accepted: bool
    profiles: tuple[ProfileCheck, ...]


@value
class Availability:
    """The answer that the Runtime holds exactly this version of a bundle."""

    reference: BundleReference
    summary: ConfigBundleSummary
