"""Tokens across the ends of a daemon, and where their secrets are not."""

import json
from pathlib import Path
from typing import Any

from tests.acceptance.daemon.conftest import Daemon, Launch, Until

TOKENS = "/v1/tokens"


def make(daemon: Daemon, name: str, role: str, **fields: Any) -> str:
    """The secret of a new token."""
    answer = daemon.call("POST", TOKENS, {"name": name, "role": role, **fields})
    assert answer.status == 200, answer.body
    return str(json.loads(answer.body)["secret"])


def works(daemon: Daemon, secret: str) -> bool:
    """Whether a request with this token is answered."""
    answer = daemon.call("GET", "/v1/runtime", token=secret)
    if answer.status != 200:
        answer.refused(401, "unauthorized")
    return answer.status == 200


def test_an_acknowledged_token_outlives_a_kill_and_a_revoked_one_stays_revoked(
    launch: Launch, tmp_path: Path, until: Until
) -> None:
    store = f"fs:{tmp_path / 'store'}"
    daemon = launch(store=store).ready()
    revoked, short = make(daemon, "revoked", "admin"), make(daemon, "short", "observer", expires_in_s=1)
    assert daemon.call("DELETE", f"{TOKENS}/revoked").status == 204
    kept = make(daemon, "kept", "observer", tenant="acme", labels={"a": "b"})
    until(lambda: not works(daemon, short))
    daemon.kill()

    for end in (Daemon.kill, Daemon.stop):
        daemon = launch(store=store).ready()
        assert [works(daemon, secret) for secret in (kept, revoked, short, daemon.token)] == [
            True,
            False,
            False,
            True,
        ]
        names = [token["name"] for token in daemon.call("GET", TOKENS).ok("tokens")]
        assert names == ["default", "kept", "short"]
        end(daemon)


def test_a_secret_is_in_no_file_and_in_no_answer_but_the_first(launch: Launch, store: str, tmp_path: Path) -> None:
    daemon = launch("--log-level", "debug", store=store).ready()
    secret = make(daemon, "ci", "operator")
    worker_id = daemon.call("POST", "/v1/workers", {}, token=secret).ok("worker")["worker_id"]
    answers = [
        daemon.call(method, path, token=token)
        for method, path in (("GET", TOKENS), ("POST", TOKENS), ("GET", f"/v1/runtime?token={secret}"))
        for token in (secret, f"{secret}x", "")
    ]
    answers.append(daemon.call("GET", f"/v1/workers/{worker_id}", token=secret))

    assert not [answer for answer in answers if secret.encode() in answer.body]
    daemon.kill()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} >= {".err", ".out"}
    assert not [path for path in files if secret.encode() in path.read_bytes()]
    assert secret not in daemon.errors
