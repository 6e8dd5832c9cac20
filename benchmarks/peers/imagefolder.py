"""Peer of our loader (P1, P2): torchvision's ImageFolder and torch's DataLoader, as its tutorials use them.

    python benchmarks/peers/imagefolder.py PHOTOS --what float

`uint8`: resized pictures; `float`: normalised floats; `augmented`: ours in transforms.v2, photo by photo.
"""

import argparse
import json
import time

import torch

from horovod_asl.models.torchvision_compat import torchvision_models

torchvision_models()  # makes `import torchvision` work beside a CPU torch

from torchvision.datasets import ImageFolder  # noqa: E402
from torchvision.transforms import v2  # noqa: E402

NORMALISE = v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def pipeline(what: str, size: int) -> v2.Compose:
    resize = v2.Resize((size, size), antialias=True)
    to_float = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    if what == "uint8":
        return v2.Compose([resize, v2.PILToTensor()])
    if what == "float":
        return v2.Compose([resize, to_float, NORMALISE])
    return v2.Compose(
        [
            resize,
            to_float,
            v2.RandomAffine(degrees=20, translate=(0.15, 0.15), scale=(0.7, 1 / 0.7)),
            v2.RandomPerspective(0.25, p=1.0),
            v2.ColorJitter(brightness=0.4, contrast=0.5, saturation=0.5, hue=0.05),
            v2.RandomGrayscale(0.05),
            v2.RandomApply([v2.GaussianBlur(5, (0.4, 1.3))], p=0.3),
            v2.RandomErasing(0.3, scale=(0.01, 0.16), value=0.5),
            NORMALISE,
        ]
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos")
    parser.add_argument("--what", choices=("uint8", "float", "augmented"), default="uint8")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    dataset = ImageFolder(options.photos, pipeline(options.what, options.size))
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=options.batch, shuffle=True, num_workers=options.workers
    )
    started = time.perf_counter()
    count = sum(len(images) for images, _ in loader)
    print(json.dumps({"seconds": time.perf_counter() - started, "photos": count}))
