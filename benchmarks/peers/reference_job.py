"""Peer of the reference job (P6): transfer learning as the first ASL projects on Horovod did it.

    python benchmarks/peers/reference_job.py JOB.json

ImageFolder's way of reading (decode, Resize, ToTensor, Normalize for every photo in every epoch, through a
DataLoader), a ResNet-50 with a frozen backbone and a new head, the whole network forward for every batch, and the
whole validation set after every 150 batches. JOB.json names the photos with their classes, the weights, and the rest.
"""

import json
import sys
import time

import torch
import torch.nn.functional as F
from PIL import Image

from horovod_asl.models.registry import build_model, freeze_backbone, head_of, set_train_mode
from horovod_asl.models.torchvision_compat import torchvision_models

torchvision_models()

from torchvision.transforms import v2  # noqa: E402


class Photos(torch.utils.data.Dataset):
    """ImageFolder over a given list, so that both sides have the same 80 and 20 per cent."""

    def __init__(self, listed: list[tuple[str, int]], size: int) -> None:
        self.listed = listed
        to_float = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
        normalise = v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        self.transform = v2.Compose([v2.Resize((size, size)), to_float, normalise])

    def __len__(self) -> int:
        return len(self.listed)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        path, label = self.listed[index]
        with open(path, "rb") as file:  # noqa: PTH123
            return self.transform(Image.open(file).convert("RGB")), label


@torch.no_grad()
def accuracy(model: torch.nn.Module, loader: torch.utils.data.DataLoader) -> float:
    model.eval()
    hits = sum(int((model(images).argmax(1) == labels).sum()) for images, labels in loader)
    set_train_mode(model)
    return hits / len(loader.dataset)


def main(job: dict) -> None:
    started = time.perf_counter()
    torch.manual_seed(0)
    options = {"batch_size": job["batch"], "num_workers": 2}
    train = torch.utils.data.DataLoader(Photos(job["train"], job["size"]), shuffle=True, **options)
    validation = torch.utils.data.DataLoader(Photos(job["validation"], job["size"]), **options)
    model = build_model(job["model"], num_classes=29, pretrained=job["weights"])
    freeze_backbone(model)
    set_train_mode(model)
    optimizer = torch.optim.AdamW(head_of(model).parameters(), lr=job["learning_rate"])
    seen, best = 0, 0.0
    for _ in range(job["epochs"]):
        for images, labels in train:
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
            seen += 1
            if seen % job["validate_every"] == 0:
                best = max(best, accuracy(model, validation))
    last = accuracy(model, validation)
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "top1": last, "best_top1": max(best, last), "batches": seen}))


if __name__ == "__main__":
    with open(sys.argv[1]) as file:  # noqa: PTH123
        main(json.load(file))
