"""The digest of a bundle."""

import attrs

from runtimed.model.bundle import BundleMetadata, BundleProfile, ConfigBundle, Declaration, Provenance
from runtimed.model.digest import bundle_digest
from runtimed.model.worker import BuiltinProfile, NamedProfile

BUNDLE = ConfigBundle(
    BundleMetadata("bundle-1", "", "rev-1", "workspace-1", "2026-06-26T00:00:00Z", Provenance("test")),
    (BundleProfile(BuiltinProfile("builtin:coder")),),
    (Declaration("secret_ref", "credential", "secret:github-token"),),
)


def test_a_bundle_has_the_digest_that_the_contract_states() -> None:
    assert bundle_digest(BUNDLE) == "f1faffb46524a985fff79a4a3e9165e776187d2e3a67773995806ac557f3320a"


def test_the_order_of_profiles_and_declarations_does_not_matter() -> None:
    more = attrs.evolve(
        BUNDLE, profiles=(BundleProfile(NamedProfile("b")), BundleProfile(NamedProfile("a"), "label"))
    )
    assert bundle_digest(more) == bundle_digest(attrs.evolve(more, profiles=more.profiles[::-1]))


def test_the_digest_does_not_cover_itself() -> None:
    metadata = attrs.evolve(BUNDLE.metadata, digest="0" * 64)
    assert bundle_digest(attrs.evolve(BUNDLE, metadata=metadata)) == bundle_digest(BUNDLE)


def test_a_line_that_is_a_prefix_of_another_is_sorted_before_it() -> None:
    """Lines are sorted without their line feeds: a NUL sorts before a line feed, and would change the order."""
    import hashlib

    bundle = attrs.evolve(BUNDLE, profiles=(BundleProfile(NamedProfile("a"), "b"), BundleProfile(NamedProfile("a"))))
    lines = sorted(
        b"\0".join(fields)
        for fields in (
            (b"id", b"bundle-1"),
            (b"revision", b"rev-1"),
            (b"workspace_id", b"workspace-1"),
            (b"created_at", b"2026-06-26T00:00:00Z"),
            (b"provenance.source", b"test"),
            (b"provenance.detail", b""),
            (b"profile", b"named", b"a", b"b"),
            (b"profile", b"named", b"a", b""),
            (b"declaration", b"secret_ref", b"credential", b"secret:github-token"),
        )
    )
    assert bundle_digest(bundle) == hashlib.sha256(b"".join(line + b"\n" for line in lines)).hexdigest()
