"""Routes of tokens: list, make and revoke them."""

from runtimed.core.runtime import Runtime
from runtimed.errors import InvalidRequest, RuntimeStopped, StoreFull, TokenExists, TokenNotFound
from runtimed.http.web.binding import Routes
from runtimed.model.principal import Principal
from runtimed.model.token import CreateTokenRequest
from runtimed.wire import routes as paths
from runtimed.wire.envelopes import NewTokenResponse, TokensResponse

routes = Routes("tokens")


@routes.get(paths.TOKENS, "tokens")
def list_tokens(runtime: Runtime, principal: Principal) -> TokensResponse:
    """List the tokens that grant no more than yours, the first one first, the others by name."""
    return TokensResponse(runtime.tokens(principal))


@routes.post(paths.TOKENS, "tokens", raises=(InvalidRequest, TokenExists, RuntimeStopped, StoreFull))
async def create_token(runtime: Runtime, principal: Principal, request: CreateTokenRequest) -> NewTokenResponse:
    """Make a token. Only this response has its secret."""
    made = await runtime.create_token(request, principal=principal)
    return NewTokenResponse(made.token, made.secret)


@routes.delete(paths.TOKEN, "tokens", raises=(InvalidRequest, TokenNotFound, RuntimeStopped, StoreFull))
async def revoke_token(runtime: Runtime, principal: Principal, name: str) -> None:
    """Revoke a token. Requests with it are refused from now on, and its feeds and waits end."""
    await runtime.revoke_token(name, principal=principal)
