"""The directory in which a Worker's programs start."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

from runtimed.core.ports import Spawn
from runtimed.execution.workspace import Home
from runtimed.model.identity import worker_id
from runtimed.model.worker import CreateWorkerRequest
from runtimed.store.data_dir import DataDir

ROUNDS, STARTS = 200, 4


def test_starts_that_make_the_home_of_a_worker_at_once_all_find_it(tmp_path: Path) -> None:
    folders, barrier = DataDir(tmp_path), Barrier(STARTS)

    def make(number: int) -> Path:
        home = Home(folders, Spawn(worker_id(number), CreateWorkerRequest()))
        barrier.wait()
        home.make()
        return home.path

    with ThreadPoolExecutor(STARTS) as starts:
        for number in range(1, ROUNDS):
            assert [path.is_dir() for path in starts.map(make, [number] * STARTS)] == [True] * STARTS
