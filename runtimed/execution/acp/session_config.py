"""Set the options of a session that the profile or the Worker asks for."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from runtimed.execution.acp.agent import METHOD_NOT_FOUND, Agent, AgentFailed, AgentRefused
from runtimed.execution.acp.tool_content import as_text

MODE = "mode"
MAX_SHOWN = 20
"""The most names or values that an error lists."""

MAX_SHOWN_LENGTH = 100
_FLAGS = {"true": True, "false": False}


async def configure(agent: Agent, session_id: str, wanted: Mapping[str, str]) -> None:
    """Set options of a session that was just opened.

    Args:
        agent: The agent; its answer to the opening lists the options that it offers, if any.
        session_id: The session.
        wanted: Values by the names of the options.

    Raises:
        AgentFailed: An option can't be set.
    """
    answer: Mapping[str, Any] = agent.session
    for name, value in wanted.items():
        options, modes = _options(answer), _modes(answer)
        if name in options:
            answer = {**answer, **await _set_option(agent, session_id, options[name], name, value)}
        elif name == MODE and modes is not None:
            await _set_mode(agent, session_id, value, modes)
        elif options or modes is not None:
            names = [*options, *([] if modes is None or MODE in options else [MODE])]
            raise AgentFailed("protocol", f"session_config.{name}: the agent offers only {_listed(names)}")
        else:
            await _try(agent, session_id, name, value)


async def _set_option(
    agent: Agent, session_id: str, option: Mapping[str, Any], name: str, value: str
) -> Mapping[str, Any]:
    if option.get("type") == "boolean":
        values = list(_FLAGS)
        given: Any = {"type": "boolean", "value": _FLAGS.get(value)}
    else:
        values = list(_values(option.get("options")))
        given = {"value": value}
    if values and value not in values:
        raise _unknown(name, value, values)
    if option.get("currentValue") == given["value"]:
        return {}
    params = {"sessionId": session_id, "configId": name, **given}
    return await _ask(agent, "session/set_config_option", params, name, value)


async def _set_mode(agent: Agent, session_id: str, value: str, modes: Mapping[str, Any]) -> None:
    given = modes.get("availableModes")
    found = (mode.get("id") for mode in given if isinstance(mode, Mapping)) if isinstance(given, list) else ()
    values = [one for one in found if isinstance(one, str)]
    if values and value not in values:
        raise _unknown(MODE, value, values)
    if modes.get("currentModeId") != value:
        await _ask(agent, "session/set_mode", {"sessionId": session_id, "modeId": value}, MODE, value)


async def _try(agent: Agent, session_id: str, name: str, value: str) -> None:
    """Set an option that the agent has not listed: an agent that resumes a session need not list its options."""
    try:
        await agent.configure(
            "session/set_config_option", {"sessionId": session_id, "configId": name, "value": value}
        )
    except AgentRefused as error:
        if error.code != METHOD_NOT_FOUND or name != MODE:
            raise _refused(name, value, error) from None
        await _ask(agent, "session/set_mode", {"sessionId": session_id, "modeId": value}, name, value)


async def _ask(agent: Agent, method: str, params: Mapping[str, Any], name: str, value: str) -> Mapping[str, Any]:
    try:
        return await agent.configure(method, params)
    except AgentRefused as error:
        raise _refused(name, value, error) from None


def _options(answer: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the offered options by their ids."""
    given = answer.get("configOptions")
    found = [option for option in given if isinstance(option, Mapping)] if isinstance(given, list) else []
    return {option["id"]: option for option in found if isinstance(option.get("id"), str)}


def _modes(answer: Mapping[str, Any]) -> Mapping[str, Any] | None:
    modes = answer.get("modes")
    return modes if isinstance(modes, Mapping) else None


def _values(given: object) -> Iterator[str]:
    """Yield the values of an option, in groups or not."""
    for choice in given if isinstance(given, list) else ():
        if not isinstance(choice, Mapping):
            continue
        inner = choice.get("options")
        for one in inner if isinstance(inner, list) else [choice]:
            if isinstance(one, Mapping) and isinstance(value := one.get("value"), str):
                yield value


def _unknown(name: str, value: str, values: Iterable[str]) -> AgentFailed:
    return AgentFailed("protocol", f"session_config.{name}: expected one of {_listed(values)}, got {_cut(value)!r}")


def _refused(name: str, value: str, error: AgentRefused) -> AgentFailed:
    words = as_text(str(error), "no reason was given")
    return AgentFailed("protocol", f"session_config.{name}: the agent refused {_cut(value)!r}: {words}")


def _listed(names: Iterable[str]) -> str:
    listed = [_cut(name) for name in names]
    more = ["…"] if len(listed) > MAX_SHOWN else []
    return ", ".join((*listed[:MAX_SHOWN], *more))


def _cut(text: str) -> str:
    return text if len(text) <= MAX_SHOWN_LENGTH else f"{text[:MAX_SHOWN_LENGTH]}…"
