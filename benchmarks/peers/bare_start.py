"""Peer of our start-up (P9): what any Horovod program must do before its first step.

horovodrun -np 2 python benchmarks/peers/bare_start.py
"""

import json
import time

import horovod.torch as hvd
import torch

hvd.init()
if hvd.rank() == 0:
    print(
        json.dumps({"time_s": time.time(), "torch": torch.__version__, "world_size": hvd.size()}), flush=True
    )
hvd.shutdown()
