"""How the daemon sets up its process."""

import platform
import subprocess
import sys

import pytest

COUNT_FAULTS = """
import resource

from runtimed.process_setup import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(100):
        pieces = [bytes(2**18) for _ in range(5)]
        del pieces
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

keep_freed_memory()
faults()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is another one")
def test_the_pieces_of_a_stream_are_stored_in_memory_that_earlier_ones_had() -> None:
    ran = subprocess.run([sys.executable, "-c", COUNT_FAULTS], capture_output=True, text=True, check=True)

    assert int(ran.stdout) < 100, "the system was asked for the memory of each piece again"
