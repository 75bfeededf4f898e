from pathlib import Path

import pytest

from benchmarks.servers import Daemon


def test_a_server_that_never_says_where_it_serves_is_ended(tmp_path: Path) -> None:
    daemon = Daemon(["sh", "-c", "echo elsewhere; exec sleep 1000"], tmp_path / "daemon")

    with pytest.raises(StopIteration), daemon:
        pass

    assert not Path(f"/proc/{daemon.pid}").exists()
