"""Send requests with the transport of the command line. Several threads may send at once."""

import time
from collections import deque
from typing import TypeVar

from runtimectl.client.address import Address
from runtimectl.client.http import Connection
from runtimectl.errors import ControlError, NotConnected, Unreachable, error_from_response
from runtimectl.library import calls
from runtimectl.library.arguments import check_times
from runtimectl.library.calls import Call
from runtimectl.library.daemon import Finder
from runtimectl.library.repeats import Repeats

MAX_IDLE_CONNECTIONS = 8

T = TypeVar("T")


class Transport:
    """Sends requests to one daemon. Each thread has a connection while it needs one; idle ones are kept.

    Args:
        find: Finds the daemon; called again whenever it cannot be reached.
        timeout: How long the daemon may be silent, in seconds.
        reconnect_for: How long a request is repeated if its answer was lost or the daemon is away, in seconds.

    Raises:
        UsageProblem: A time is out of range.
    """

    def __init__(self, find: Finder, timeout: float, reconnect_for: float) -> None:
        self._find = find
        self._timeout = timeout
        self.reconnect_for = reconnect_for
        self._runtime_id: str | None = None
        self._address: Address | None = None
        self._has_reached = False
        self._idle: deque[Connection] = deque(maxlen=MAX_IDLE_CONNECTIONS)
        check_times(timeout, reconnect_for)

    def send(self, call: Call[T]) -> T:
        """Send a request, again if its answer was lost and it is repeatable, and return the answer.

        Raises:
            ClientError: The daemon refused it, failed, or could not be reached.
        """
        repeats = Repeats(call, self.reconnect_for, has_reached=self._has_reached)
        while True:
            try:
                return self._attempt(call)
            except ControlError as error:
                time.sleep(repeats.next_delay(error))

    def find(self) -> Address:
        """Find the daemon anew, the same Runtime as before. Raises NotConnected if there is none."""
        try:
            self._address = self._find(self._runtime_id)
        except Unreachable as error:
            raise NotConnected(str(error)) from None
        return self._address

    def runtime_id(self) -> str:
        """Return the id of the Runtime, asking for it once. From then on, only a daemon of this Runtime is found."""
        if self._runtime_id is None:
            self._runtime_id = self.send(calls.runtime()).runtime_id
        return self._runtime_id

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().close()

    def _attempt(self, call: Call[T]) -> T:
        """Send a request once; if the daemon has moved, to where it is now."""
        address = self._address or self.find()
        try:
            return self._exchange(call, address)
        except NotConnected:
            found = self.find()
            if found == address:
                raise
        return self._exchange(call, found)

    def _exchange(self, call: Call[T], address: Address) -> T:
        connection = self._take(address)
        try:
            response = connection.request(
                call.method,
                call.path,
                call.body,
                headers=call.headers,
                timeout=max(self._timeout, call.least_timeout),
            )
        except BaseException:
            self._address = None
            connection.close()
            raise
        self._keep(connection)
        self._has_reached = True
        if response.status not in {200, 204}:
            raise error_from_response(response.status, response.body, address.searched)
        return call.read(response.body)

    def _take(self, address: Address) -> Connection:
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return Connection(address)
            if connection.address == address:
                return connection
            connection.close()

    def _keep(self, connection: Connection) -> None:
        if len(self._idle) < MAX_IDLE_CONNECTIONS:
            self._idle.append(connection)
        else:
            connection.close()
