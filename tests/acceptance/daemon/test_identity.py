"""Contract section 1: who a Runtime and a Worker are, and what is never said of them."""

from tests.acceptance.conftest import MakeBundle
from tests.acceptance.daemon.conftest import Daemon, Launch


def test_worker_ids_count_up_from_one_in_hex(launch: Launch, store: str) -> None:
    daemon = launch(store=store).ready()
    made = [daemon.create() for _ in range(17)]
    assert made == [f"worker-{number:08x}" for number in range(1, 18)]
    assert [one["worker_id"] for one in daemon.workers()] == made


def test_a_worker_id_is_never_used_again(launch: Launch, store: str) -> None:
    daemon = launch(store=store).ready()
    daemon.create()
    last = daemon.create()
    daemon.call("POST", f"/v1/workers/{last}/cancel").ok("ack")
    assert daemon.create() == "worker-00000003"


def test_a_refused_create_uses_up_no_id(launch: Launch, store: str) -> None:
    daemon = launch(store=store).ready()
    daemon.curl("POST", "/v1/workers", {"intent": {"kind": "task", "objective": " "}}).refused(400, "invalid_request")
    daemon.curl("POST", "/v1/workers", {"surprise": 1}).refused(400, "invalid_json")
    assert daemon.create() == "worker-00000001"


def test_the_operator_can_give_the_runtime_id_and_a_display_name(launch: Launch, store: str) -> None:
    daemon = launch("--runtime-id", "my.runtime:1", "--display-name", "Mine", store=store).ready()
    assert daemon.runtime_id == "my.runtime:1"
    runtime = daemon.runtime()
    assert (runtime["runtime_id"], runtime["display_name"]) == ("my.runtime:1", "Mine")
    worker = daemon.worker(daemon.create())
    assert worker["worker_ref"] == {"runtime_id": "my.runtime:1", "worker_id": "worker-00000001"}


def test_a_runtime_id_is_made_up_when_none_is_given(memory_daemon: Daemon, fs_daemon: Daemon) -> None:
    assert memory_daemon.runtime_id
    assert fs_daemon.runtime_id
    assert memory_daemon.runtime_id != fs_daemon.runtime_id


def test_every_ref_of_a_runtime_names_that_runtime(daemon: Daemon) -> None:
    worker_id = daemon.echo()
    ref = {"runtime_id": daemon.runtime_id, "worker_id": worker_id}
    assert daemon.input(worker_id, "hello")["worker_ref"] == ref
    daemon.idle(worker_id)
    assert [one["worker_ref"] for one in daemon.items(worker_id)] == [ref, ref]
    assert daemon.worker(worker_id)["worker_ref"] == ref
    assert daemon.call("POST", f"/v1/workers/{worker_id}/stop").ok("ack")["worker_ref"] == ref


def test_an_id_that_no_worker_can_have_is_not_found(daemon: Daemon) -> None:
    for wrong in (
        "worker-1",
        "worker-0000000G",
        "worker-0000000A",
        "worker-000000001",
        "1",
        "WORKER-00000001",
    ):
        for method, tail in (("GET", ""), ("POST", "/stop"), ("GET", "/transcript"), ("GET", "/events/ws")):
            answer = daemon.call(method, f"/v1/workers/{wrong}{tail}")
            assert wrong in answer.refused(404, "worker_not_found")


def test_a_worker_that_does_not_exist_is_not_found_on_every_route(daemon: Daemon) -> None:
    path = f"/v1/workers/{daemon.unknown_worker()}"
    with daemon.unchanged():
        daemon.curl("GET", path).refused(404, "worker_not_found")
        daemon.curl("POST", f"{path}/input", {"kind": "user", "content": "x"}).refused(404, "worker_not_found")
        daemon.curl("POST", f"{path}/stop").refused(404, "worker_not_found")
        daemon.curl("POST", f"{path}/cancel", {"reason": "x"}).refused(404, "worker_not_found")
        daemon.curl("GET", f"{path}/transcript").refused(404, "worker_not_found")


def test_no_answer_holds_a_path_a_token_or_a_process_id(daemon: Daemon, bundle: MakeBundle) -> None:
    worker_id = daemon.shell()
    daemon.run(worker_id, "true")
    made = bundle()
    answers = [
        daemon.call("POST", "/v1/config-bundles", {"bundle": made}),
        daemon.call("GET", "/v1/runtime"),
        daemon.call("GET", "/v1/workers"),
        daemon.call("GET", f"/v1/workers/{worker_id}"),
        daemon.call("GET", f"/v1/workers/{worker_id}/transcript"),
        daemon.call("GET", "/v1/config-bundles"),
        daemon.call("GET", "/nowhere"),
        daemon.call("POST", "/v1/workers", b"{"),
    ]
    with daemon.observe(worker_id, "wo_0000000000000000") as observer:
        frames = str(observer.up_to("run_end"))
    for text in [*(one.body.decode() for one in answers), frames]:
        assert str(daemon.home) not in text
        assert daemon.token not in text
        assert '"pid"' not in text
