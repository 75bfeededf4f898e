"""A model provider on loopback: OpenAI's chat completions and responses, Anthropic's messages, Google's Gemini."""

import itertools
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from script import Call, Tool, answer, as_json

Event = tuple[str | None, Any]
"""The name of a server-sent event, if it has one, and its data."""

KEY = "the-real-key-of-the-trial"
"""What a request must show. No agent has it."""

KEY_HEADERS = ("Authorization", "x-api-key", "x-goog-api-key")

_numbers = itertools.count(1)


def chat(request: dict[str, Any]) -> Iterator[Event]:
    """Yield the chunks of a chat completion."""
    tools = [Tool(one["function"]["name"], one["function"].get("parameters", {})) for one in request.get("tools", ())]
    said = _answer(request["messages"], tools)
    delta: dict[str, Any] = {"role": "assistant", "content": said}
    reason = "stop"
    if isinstance(said, Call):
        function = {"name": said.tool, "arguments": as_json(said)}
        call = {"index": 0, "id": f"call_{next(_numbers)}", "type": "function", "function": function}
        delta, reason = {"role": "assistant", "tool_calls": [call]}, "tool_calls"
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": request.get("model", "scripted")}
    yield None, {**chunk, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
    usage = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
    yield None, {**chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": reason}], "usage": usage}
    yield None, "[DONE]"


def responses(request: dict[str, Any]) -> Iterator[Event]:
    """Yield the events of a response."""
    tools = [Tool(one["name"], one.get("parameters", {})) for one in request.get("tools", ()) if "name" in one]
    given = request["input"]
    said = answer(given, tools) if isinstance(given, str) else _answer(given, tools)
    number = next(_numbers)
    item: dict[str, Any] = {
        "type": "message",
        "id": f"msg_{number}",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": said, "annotations": []}],
    }
    if isinstance(said, Call):
        item = {"type": "function_call", "id": f"fc_{number}", "call_id": f"call_{number}", "status": "completed"}
        item |= {"name": said.tool, "arguments": as_json(said)}
    usage = {"input_tokens": 11, "output_tokens": 7, "total_tokens": 18}
    response = {"id": f"resp_{number}", "object": "response", "model": request.get("model"), "output": []}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": {**response, "status": "in_progress"}},
        {"type": "response.output_item.added", "output_index": 0, "item": {**item, "status": "in_progress"}},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {
            "type": "response.completed",
            "response": {**response, "status": "completed", "output": [item], "usage": usage},
        },
    ]
    if isinstance(said, str):
        delta = {"type": "response.output_text.delta", "item_id": item["id"], "output_index": 0, "content_index": 0}
        events.insert(2, {**delta, "delta": said})
    yield from ((event["type"], event) for event in events)


def messages(request: dict[str, Any]) -> Iterator[Event]:
    """Yield the events of a message of Anthropic."""
    tools = [Tool(one["name"], one.get("input_schema", {})) for one in request.get("tools", ()) if "name" in one]
    said = _answer(request["messages"], tools)
    number = next(_numbers)
    message = {"id": f"msg_{number}", "type": "message", "role": "assistant", "model": request.get("model")}
    usage = {"input_tokens": 11, "output_tokens": 7}
    start = {**message, "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}
    block: dict[str, Any] = {"type": "text", "text": ""}
    delta: dict[str, Any] = {"type": "text_delta", "text": said}
    reason = "end_turn"
    if isinstance(said, Call):
        block = {"type": "tool_use", "id": f"toolu_{number}", "name": said.tool, "input": {}}
        delta, reason = {"type": "input_json_delta", "partial_json": as_json(said)}, "tool_use"
    for event in (
        {"type": "message_start", "message": start},
        {"type": "content_block_start", "index": 0, "content_block": block},
        {"type": "content_block_delta", "index": 0, "delta": delta},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": None}, "usage": usage},
        {"type": "message_stop"},
    ):
        yield str(event["type"]), event


def gemini(request: dict[str, Any]) -> Iterator[Event]:
    """Yield the one chunk of generated content."""
    declared = [one for tool in request.get("tools", ()) for one in tool.get("functionDeclarations", ())]
    tools = [Tool(one["name"], one.get("parametersJsonSchema") or one.get("parameters", {})) for one in declared]
    said = _answer(request["contents"], tools)
    part = {"functionCall": {"name": said.tool, "args": said.arguments}} if isinstance(said, Call) else {"text": said}
    usage = {"promptTokenCount": 11, "candidatesTokenCount": 7, "totalTokenCount": 18}
    candidate = {"content": {"role": "model", "parts": [part]}, "finishReason": "STOP", "index": 0}
    yield None, {"candidates": [candidate], "usageMetadata": usage}


def _answer(conversation: Sequence[dict[str, Any]], tools: Sequence[Tool]) -> str | Call:
    """Return what the model says after a conversation.

    What the user says now may be several messages, or stand beside the result of a tool that was interrupted.
    """
    blocks = [(_is_turn(message, block), _text(block)) for message in conversation for block in _blocks(message)]
    start = max((at for at, (is_turn, _) in enumerate(blocks, 1) if is_turn), default=0)
    earlier, said = ("\n".join(text for _, text in part) for part in (blocks[:start], blocks[start:]))
    return answer(said, tools, earlier)


def _blocks(message: dict[str, Any]) -> Sequence[dict[str, Any]]:
    """Return the parts of a message, in whatever form its content is."""
    content = message.get("parts", message.get("content"))
    if isinstance(content, list):
        return [block for block in content if isinstance(block, dict)] or [{}]
    return [{"text": content or ""}]


def _is_turn(message: dict[str, Any], block: dict[str, Any]) -> bool:
    """Return whether a block is of the model, or the result of a tool: the user says something new after it."""
    if message.get("role") in {"assistant", "model", "tool"} or message.get("type", "message") != "message":
        return True
    return block.get("type") == "tool_result" or "functionResponse" in block


def _text(block: dict[str, Any]) -> str:
    return str(block.get("text", ""))


DIALECTS: tuple[tuple[str, Callable[[dict[str, Any]], Iterator[Event]]], ...] = (
    ("/chat/completions", chat),
    ("/responses", responses),
    ("/messages", messages),
    (":streamGenerateContent", gemini),
    (":generateContent", gemini),
)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if not self._shows_key():
            self._send(b"{}", "application/json", HTTPStatus.UNAUTHORIZED)
            return
        self._send(b'{"object":"list","data":[{"id":"scripted","object":"model"}]}', "application/json")

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
        if not self._shows_key():
            self._send(b"{}", "application/json", HTTPStatus.UNAUTHORIZED)
            return
        path = self.path.partition("?")[0]
        speak = next((dialect for end, dialect in DIALECTS if path.endswith(end)), None)
        if speak is None:
            self._send(b'{"input_tokens":1,"totalTokens":1}', "application/json")
            return
        events = list(speak(request))
        if request.get("stream") or path.endswith(":streamGenerateContent"):
            self._send(b"".join(map(_encoded, events)), "text/event-stream")
        else:
            self._send(json.dumps(_whole(path, events)).encode(), "application/json")

    def _shows_key(self) -> bool:
        return KEY in {self.headers.get(name, "").removeprefix("Bearer ") for name in KEY_HEADERS}

    def _send(self, body: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


def _encoded(event: Event) -> bytes:
    name, data = event
    text = data if isinstance(data, str) else json.dumps(data)
    return (f"event: {name}\n" if name else "").encode() + f"data: {text}\n\n".encode()


def _whole(path: str, events: Sequence[Event]) -> Any:
    """Return an answer that is not streamed. Agents ask for those beside the conversation, for text."""
    if path.endswith("/messages"):
        start, delta = events[0][1]["message"], events[2][1]["delta"]
        return {**start, "content": [{"type": "text", "text": delta.get("text", "")}], "stop_reason": "end_turn"}
    if path.endswith("/chat/completions"):
        chunk = events[0][1]
        choice = {"index": 0, "message": chunk["choices"][0]["delta"], "finish_reason": "stop"}
        return {**chunk, "object": "chat.completion", "choices": [choice], "usage": events[1][1]["usage"]}
    return events[-1][1].get("response") or events[-1][1]


@contextmanager
def serving() -> Iterator[str]:
    """Serve all dialects while the block runs, and yield the URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
