"""P7: what a store that all ranks read takes of memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.measure import Answer


def memory(store: str) -> Answer:
    """Read all photos on every rank; the mapped photos' proportional set size, summed over ranks (Linux)."""
    import torch

    from horovod_asl.distributed.create import create
    from horovod_asl.store.store import Store

    backend = create("auto", device="cpu")
    opened = Store.open(store)
    for start in range(0, len(opened), 512):
        opened.gather(np.arange(start, min(start + 512, len(opened))))
    backend.barrier()
    total = backend.sum(torch.tensor([float(_mapped_bytes(Path(store).resolve()))], dtype=torch.float64))
    backend.barrier()  # nobody leaves before all have looked
    backend.close()
    size = sum(file.stat().st_size for file in Path(store).glob("images-*.npy"))
    return {"pss_bytes": float(total), "dataset_bytes": size, "ranks": backend.world_size}


def _mapped_bytes(folder: Path) -> int:
    """The proportional set size of the files below `folder` that this process maps, in bytes."""
    total, ours = 0, False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        words = line.split()
        if "-" in words[0] and not words[0].endswith(":"):
            ours = str(folder) in line
        elif ours and words[0] == "Pss:":
            total += int(words[1]) * 1024
    return total
