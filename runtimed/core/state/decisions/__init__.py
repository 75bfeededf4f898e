"""Decisions: pure functions of the state and a request. Each adds its part of a Change to a ChangeBuilder.

A decision checks first and records afterwards: if it raises, the ChangeBuilder is as it was before.
"""

from runtimed.core.state.decisions.creation import (
    check_initial_input,
    check_request,
    creation_diagnostics,
    new_worker,
)
from runtimed.core.state.decisions.inputs import (
    WAITING,
    accept_input,
    check_connected,
    check_content,
    check_running,
    offer_next_input,
    postpone_offer,
    queue_input,
    refuse_input,
    reject_queued_input,
    start_queued_input,
)
from runtimed.core.state.decisions.lifecycle import (
    attach,
    delete_worker,
    disconnected,
    do_nothing,
    end_worker,
    lose_execution,
    lose_program,
    trim,
)
from runtimed.core.state.decisions.output import record_output
from runtimed.core.state.decisions.permissions import request_permission, resolve_permission, rule_on_permission
from runtimed.core.state.decisions.run_end import END_OF_RUN, add_run_end

__all__ = [
    "END_OF_RUN",
    "WAITING",
    "accept_input",
    "add_run_end",
    "attach",
    "check_connected",
    "check_content",
    "check_initial_input",
    "check_request",
    "check_running",
    "creation_diagnostics",
    "delete_worker",
    "disconnected",
    "do_nothing",
    "end_worker",
    "lose_execution",
    "lose_program",
    "new_worker",
    "offer_next_input",
    "postpone_offer",
    "queue_input",
    "record_output",
    "refuse_input",
    "reject_queued_input",
    "request_permission",
    "resolve_permission",
    "rule_on_permission",
    "start_queued_input",
    "trim",
]
