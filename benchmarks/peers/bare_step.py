"""Peer of our training step (P4): a bare torch loop over tensors that are made before it begins.

    python benchmarks/peers/bare_step.py STORE --model resnet18 --batch 32 --steps 10

No loader, no log, no check: forward, loss, backward, AdamW, as a tutorial writes them.
"""

import argparse
import json
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
import torch.nn.functional as F

from horovod_asl.labels import CLASSES
from horovod_asl.models.registry import build_model

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
WARM = 2

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=10)
    options = parser.parse_args()
    count = (WARM + options.steps) * options.batch
    shards = [np.load(file, mmap_mode="r") for file in sorted(options.store.glob("images-*.npy"))]
    chosen = np.resize(np.random.default_rng(0).permutation(sum(map(len, shards))), count)
    photos = torch.from_numpy(np.concatenate(shards)[chosen]).float() / 255
    inputs = ((photos - MEAN) / STD).permute(0, 3, 1, 2).contiguous().split(options.batch)
    labels = torch.from_numpy(np.load(options.store / "labels.npy")[chosen]).split(options.batch)
    torch.manual_seed(0)
    model = build_model(options.model, num_classes=len(CLASSES))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    ends = []
    for batch, answers in zip(inputs, labels, strict=True):
        optimizer.zero_grad()
        F.cross_entropy(model(batch), answers, label_smoothing=0.1).backward()
        optimizer.step()
        ends.append(time.perf_counter())
    seconds = [after - before for before, after in zip(ends[WARM - 1 :], ends[WARM:], strict=False)]
    print(json.dumps({"seconds": median(seconds), "threads": torch.get_num_threads()}))
