"""How `runtimectl workers` shows Workers and acknowledgements."""

from runtimectl.output.tables import Column, Object, View, at
from runtimectl.output.times import age, local

MAX_INTENT = 60
MAX_NAME = 32


def _profile(worker: Object) -> object:
    profile = worker.get("profile") or {}
    return profile.get("value", "default")


def _intent(worker: Object) -> object:
    intent = worker.get("intent") or {}
    texts = (intent.get(name) for name in ("role", "objective", "purpose"))
    return ": ".join([str(intent.get("kind")), *(str(text) for text in texts if text)])


def _labels(worker: Object) -> object:
    return ", ".join(f"{key}={value}" for key, value in worker.get("labels", {}).items()) or None


def _capabilities(worker: Object) -> object:
    return ", ".join(request["name"] for request in worker.get("requested_capabilities", ())) or None


def _commands(worker: Object) -> object:
    return ", ".join(f"/{command['name']}" for command in worker.get("commands", ())) or None


def _age(worker: Object) -> object:
    return age(worker.get("created_at_ms"))


def _created(worker: Object) -> object:
    return local(worker.get("created_at_ms"))


WORKER_ID = at("worker_id")
NAME = Column("NAME", at("name"), MAX_NAME)
ROW = (
    Column("WORKER", WORKER_ID),
    Column("STATUS", at("status")),
    Column("RUN", at("execution.run_state")),
    Column("PROFILE", _profile),
    Column("INTENT", _intent, MAX_INTENT),
    Column("ENTRIES", at("transcript_len")),
)
AGE = Column("AGE", _age)
LIST = View("workers", WORKER_ID, (*ROW, AGE))
LIST_WITH_NAMES = View("workers", WORKER_ID, (ROW[0], NAME, *ROW[1:], AGE))
WORKER_ROW = View("worker", WORKER_ID, ROW)
WORKER_DETAIL = View(
    "worker",
    WORKER_ID,
    (
        ROW[0],
        NAME,
        Column("TITLE", at("title")),
        *ROW[1:],
        Column("LABELS", _labels),
        Column("QUEUED", at("queued_inputs")),
        Column("CREATED", _created),
        Column("LAST EVENT", at("last_cursor")),
        Column("KEPT BEHIND", at("oldest_cursor")),
        Column("BACKEND", at("execution.backend")),
        Column("LAST RESULT", at("execution.last_result.outcome")),
        Column("MESSAGE", at("execution.last_result.message")),
        Column("SANDBOX", at("execution.sandbox.mechanism")),
        Column("NETWORK", at("execution.sandbox.network")),
        Column("BUNDLE", at("config_bundle.id")),
        Column("CAPABILITIES", _capabilities),
        Column("COMMANDS", _commands),
        Column("RUNTIME", at("runtime_id")),
    ),
    is_upright=True,
)
ACK = View(
    "ack",
    at("worker_ref.worker_id"),
    (
        Column("WORKER", at("worker_ref.worker_id")),
        Column("STATUS", at("status")),
        Column("ENTRY", at("transcript_sequence")),
        Column("EVENT", at("cursor")),
    ),
)
DELETED = View("deleted", WORKER_ID, (Column("DELETED", WORKER_ID),))
ACK_WITHOUT_ENTRY = View("ack", ACK.name, tuple(column for column in ACK.columns if column.title != "ENTRY"))
