"""Peer of `predict` and `evaluate` on a folder (P8): Pillow and torch, a photo at a time.

python benchmarks/peers/pillow_predict.py PHOTOS WEIGHTS.safetensors
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from horovod_asl.labels import CLASSES
from horovod_asl.models.registry import build_model

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--size", type=int, default=64)
    options = parser.parse_args()
    model = build_model("small_cnn", num_classes=len(CLASSES))
    model.load_state_dict(load_file(options.weights))
    model.eval()
    answers = {}
    with torch.no_grad():
        for path in sorted(options.photos.rglob("*.jpg")):
            photo = Image.open(path).convert("RGB").resize((options.size, options.size))
            pixels = torch.from_numpy(np.array(photo)).float() / 255
            logits = model(((pixels - MEAN) / STD).permute(2, 0, 1)[None])
            answers[str(path)] = CLASSES[int(logits.argmax())]
    print(json.dumps({"photos": len(answers)}))
