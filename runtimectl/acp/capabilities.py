"""What both sides can do, as `initialize` says it."""

from typing import Any

import runtimed

PROTOCOL_VERSION = 1

CAPABILITIES = {
    "loadSession": True,
    "promptCapabilities": {"image": True, "audio": False, "embeddedContext": True},
    "mcpCapabilities": {"http": True, "sse": True},
    "sessionCapabilities": {"list": {}, "resume": {}, "close": {}, "delete": {}, "additionalDirectories": {}},
}
INITIALIZED = {
    "protocolVersion": PROTOCOL_VERSION,
    "agentCapabilities": CAPABILITIES,
    "agentInfo": {"name": "runtimectl", "title": "runtimed", "version": runtimed.__version__},
    "authMethods": [],
}


def takes_forms(initialize: dict[str, Any]) -> bool:
    """Return whether an editor shows forms, by the parameters of its `initialize`."""
    capabilities: Any = initialize.get("clientCapabilities")
    for name in ("elicitation", "form"):
        capabilities = capabilities.get(name) if isinstance(capabilities, dict) else None
    return isinstance(capabilities, dict)
