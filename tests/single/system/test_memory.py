"""What is freed stays with the process: counted in the kernel's page faults, against a plain process."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, torch
from horovod_asl.system.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()

def allocate():
    blocks = [torch.ones(48 << 18) for _ in range(2)]  # 48 MiB each, as in a training step: above malloc's 32

for _ in range(10):
    allocate()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    allocate()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(mode: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=True, timeout=120
    )
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's setting")
def test_kept_memory_is_not_asked_for_again() -> None:
    kept, as_it_comes = page_faults("keep"), page_faults("leave")
    assert kept < as_it_comes / 10, (kept, as_it_comes)
