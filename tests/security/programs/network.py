"""Try ways to servers, and print what each leads to.

    python3 network.py ATTEMPTS

ATTEMPTS is a JSON object: for each name a list of a way and where to, such as `["tunnel", "web.test:80"]`. The output
is one line: `PROBED` and a JSON object of the name of each attempt with the status and the body of a response, or
with `failed:` and why there is none.
"""

import base64
import json
import os
import socket
import struct
import sys
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

ATTEMPT_S = 20
CHUNK = 1 << 16
REFUSED = "192.0.2.1:1"


PROXY = urlsplit(os.environ.get("HTTP_PROXY", ""))


def proxy() -> socket.socket:
    """Return a connection to the proxy that the environment names."""
    if PROXY.hostname is None:
        raise OSError("there is no proxy")
    return socket.create_connection((PROXY.hostname, PROXY.port or 0), ATTEMPT_S)


def authorized(head: str) -> bytes:
    """Return a head with the password that the environment names, if it names one."""
    if PROXY.username is None:
        return head.encode("latin-1")
    credentials = base64.b64encode(f"{PROXY.username}:{PROXY.password}".encode()).decode()
    return head.replace("\r\n", f"\r\nProxy-Authorization: Basic {credentials}\r\n", 1).encode("latin-1")


def read_all(connection: socket.socket) -> bytes:
    found = b""
    while data := connection.recv(CHUNK):
        found += data
    return found


def summary(response: bytes) -> str:
    if not response:
        return "closed"
    head, _, body = response.partition(b"\r\n\r\n")
    return f"{head.split()[1].decode()} {body.decode().strip()}"


def get(connection: socket.socket, host: str) -> str:
    connection.sendall(f"GET /asked HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    return summary(read_all(connection))


def direct(destination: str) -> str:
    host, _, port = destination.rpartition(":")
    with socket.create_connection((host, int(port)), ATTEMPT_S) as connection:
        return get(connection, destination)


def tunnel(destination: str) -> str:
    with proxy() as connection:
        connection.sendall(authorized(f"CONNECT {destination} HTTP/1.1\r\nHost: {destination}\r\n\r\n"))
        head = b""
        while b"\r\n\r\n" not in head and (data := connection.recv(1)):
            head += data
        if head.split()[1] != b"200":
            return summary(head + read_all(connection))
        return get(connection, destination)


def fetch(url: str) -> str:
    with proxy() as connection:
        connection.sendall(authorized(f"GET {url} HTTP/1.1\r\nHost: ignored\r\n\r\n"))
        return summary(read_all(connection))


def raw(text: str) -> str:
    """Send these very bytes to the proxy, with its password."""
    with proxy() as connection:
        try:
            connection.sendall(authorized(text))
        except ConnectionError:
            return "closed"
        return summary(read_all(connection))


def look_up(server: str) -> str:
    """Ask a name server by UDP."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(ATTEMPT_S)
        query = struct.pack("!6H", 1, 0x100, 1, 0, 0, 0) + b"\3web\4test\0" + struct.pack("!2H", 1, 1)
        client.sendto(query, (server, 53))
        return f"answered {len(client.recv(512))}"


def many(count: str) -> str:
    """Hold that many connections, and return what further ones are told, and one after all are closed."""
    held = [proxy() for _ in range(int(count))]
    further = {tunnel(REFUSED) for _ in range(5)}
    for connection in held:
        connection.close()
    after = tunnel(REFUSED)
    while after.startswith("503 "):
        after = tunnel(REFUSED)
    return json.dumps([*further, after])


WAYS: Mapping[str, Callable[[str], str]] = {
    "direct": direct,
    "tunnel": tunnel,
    "fetch": fetch,
    "raw": raw,
    "look up": look_up,
    "many": many,
}


def outcome(way: str, argument: str) -> str:
    try:
        return WAYS[way](argument)
    except OSError as error:
        return f"failed: {error}"


attempts: dict[str, list[str]] = json.loads(sys.argv[1])
print("PROBED", json.dumps({name: outcome(*attempt) for name, attempt in attempts.items()}), flush=True)
