"""Rules for tokens: who may make which, and what makes room for a new one. Pure."""

import re
from collections.abc import Mapping
from hashlib import sha256

from runtimed.core.state.labels import check_labels
from runtimed.errors import Forbidden, InvalidRequest, TokenExists, TokenNotFound
from runtimed.model.principal import ADMIN, ANYONE, Principal
from runtimed.model.token import CreateTokenRequest, Token

MAX_NAME = 63
NAME = re.compile(rf"(?=.{{1,{MAX_NAME}}}\Z)[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", re.ASCII)
NAME_RULE = f"1 to {MAX_NAME} characters of A-Z a-z 0-9 . _ -, letters or digits at both ends"
FIRST = Token(ADMIN.name, ADMIN.role)
"""The token that the daemon was started with."""

MAX_LIFE_S = 315_360_000
"""The longest life of a token that expires: ten years."""


def digest_of(secret: str) -> bytes:
    """Return the SHA-256 of a secret, or of any other text that a client sent instead of one."""
    return sha256(secret.encode("utf-8", "surrogateescape")).digest()


def is_visible(token: Token, principal: Principal) -> bool:
    """Return whether a client sees a token: it grants no more than the client's own."""
    return principal.sees(token.tenant, token.labels)


def held_by(principal: Principal, held: Mapping[str, Token], unix_ms: int) -> Token:
    """Return the token of a client that was admitted a while ago.

    Args:
        principal: The client.
        held: The tokens besides the first one, by name.
        unix_ms: Now, as Unix time in milliseconds.

    Raises:
        Forbidden: It is no longer valid.
    """
    token = FIRST if principal == ADMIN else held.get(principal.name)
    if token is None or token.principal != principal or token.is_expired(unix_ms):
        raise Forbidden("the token of this request was revoked or has expired")
    return token


def new_token(request: CreateTokenRequest, maker: Token, unix_ms: int) -> Token:
    """Return the token that a request asks for.

    Args:
        request: The request.
        maker: The token of the client that asks.
        unix_ms: Now, as Unix time in milliseconds.

    Raises:
        InvalidRequest: A field holds what it may not hold.
        Forbidden: The token would grant more than that of the client, or live longer.
    """
    _check_fields(request)
    expires_at_ms = None if request.expires_in_s is None else unix_ms + 1_000 * request.expires_in_s
    token = Token(
        request.name,
        request.role,
        unix_ms,
        request.tenant,
        dict(request.labels),
        expires_at_ms,
        maker.principal.actor,
    )
    _check_grant(token, maker.principal)
    _check_life(token, maker, unix_ms)
    return token


def find_displaced(token: Token, held: Mapping[str, Token], most: int, unix_ms: int) -> str | None:
    """Return the name of the token that goes when a new one is added, or None if there is room.

    Only expired tokens go: one with the same name, which is replaced, or else the one that expired first.

    Raises:
        TokenExists: A token that has not expired has the name.
        InvalidRequest: There are `most` tokens already.
    """
    namesake = held.get(token.name)
    if namesake is not None:
        if not namesake.is_expired(unix_ms):
            raise TokenExists(token.name)
        return None
    if len(held) < most:
        return None
    expired = [one for one in held.values() if one.is_expired(unix_ms)]
    if not expired:
        raise InvalidRequest(f"expected at most {most} tokens (max_tokens); revoke one that is not needed")
    return min(expired, key=lambda one: one.expires_at_ms or 0).name


def check_revocation(name: str, held: Mapping[str, Token], principal: Principal) -> None:
    """Check that a client may revoke the token with this name.

    Raises:
        TokenNotFound: There is no such token, or the client may not see it.
        InvalidRequest: It is the first token.
    """
    token = FIRST if name == FIRST.name else held.get(name)
    if token is None or not is_visible(token, principal):
        raise TokenNotFound(name)
    if token is FIRST:
        raise InvalidRequest(f"name: {name} is the first token, which is replaced where it is kept, not revoked")


def _check_fields(request: CreateTokenRequest) -> None:
    if not NAME.fullmatch(request.name):
        raise InvalidRequest(f"name: expected {NAME_RULE}")
    if request.name == FIRST.name:
        raise InvalidRequest(f"name: {FIRST.name} is the name of the first token; choose another one")
    if request.name == ANYONE.name:
        raise InvalidRequest(f"name: {ANYONE.name} is the name of clients without a token; choose another one")
    if request.tenant is not None and not NAME.fullmatch(request.tenant):
        raise InvalidRequest(f"tenant: expected {NAME_RULE}")
    check_labels(request.labels)
    if request.expires_in_s is not None and not 1 <= request.expires_in_s <= MAX_LIFE_S:
        raise InvalidRequest(f"expires_in_s: expected 1 to {MAX_LIFE_S}")
    if request.role == "node" and (request.tenant is not None or request.labels):
        raise InvalidRequest("role: a node serves all tenants; expected neither a tenant nor labels")


def _check_grant(token: Token, principal: Principal) -> None:
    if principal.tenant is not None and token.role == "node":
        raise Forbidden("role: a token of a tenant may make no token with the role node")
    if principal.tenant not in {None, token.tenant}:
        raise Forbidden(f"tenant: expected {principal.tenant}, the tenant of the token that makes this one")
    if not is_visible(token, principal):
        wanted = ", ".join(f"{key}={value}" for key, value in principal.labels)
        raise Forbidden(f"labels: expected {wanted}, the labels of the token that makes this one, among others")


def _check_life(token: Token, maker: Token, unix_ms: int) -> None:
    end_ms = maker.expires_at_ms
    if end_ms is not None and (token.expires_at_ms is None or token.expires_at_ms > end_ms):
        most = (end_ms - unix_ms) // 1_000
        raise Forbidden(f"expires_in_s: expected at most {most}: the token that makes this one expires then")
