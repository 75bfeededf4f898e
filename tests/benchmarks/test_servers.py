from pathlib import Path

import pytest

from benchmarks.servers import Daemon


def test_a_server_that_never_prints_its_address_is_stopped(tmp_path: Path) -> None:
    daemon = Daemon(["sh", "-c", "echo elsewhere; exec sleep 1000"], tmp_path / "daemon")

    with pytest.raises(StopIteration), daemon:
        pass

    assert not Path(f"/proc/{daemon.pid}").exists()
