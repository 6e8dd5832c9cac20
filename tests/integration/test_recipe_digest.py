"""The recipe of `make model` trains what it trained before its options were renamed, to the bit, on a small store.

The digests and norms were taken at commit d50f41b, in the words of that version:

    prepare drawn=synthetic STORE --hands --poor-copies 1 --synthetic-recordings 2 --synthetic-photos 1
        --synthetic-size 200 --synthetic-variety 1 --image-size 64
    train --config head.yaml  --store STORE --all-splits --seed 3 --batch-size-per-replica 16 --learning-rate 0.001
        --threads-per-rank 1 --epochs 2 --run-folder HEAD --features-file TRUNK
    train --config tuned.yaml … --run-folder TUNED --pretrained HEAD --features-file TRUNK.maps

Sums are rounded otherwise by other processors, torch releases and hand finders, so the digests hold for the machine
that is named below. On any other the norms of the layers must be those of that time, within what rounding explains.
"""

from __future__ import annotations

import json
import platform
from pathlib import Path

import pytest
import torch

from horovod_asl.data.store import Store
from horovod_asl.runfolder import RunFolder
from tests.launching import BIN, ROOT, launch, ok

pytestmark = pytest.mark.timeout(600)
RECIPES = ROOT / "horovod_asl" / "recipes"
TAKEN_ON = ("x86_64", "AVX512", "2.13.0+cpu", "d2f9642d47ea3504ae2161ede70abaa480957eb07130b0a409f079f3283c25b8")
DIGESTS = {
    "head": "6c5c0aef3f9725df12318fb6c853c2b0c45bb53003f14e0e9205fd263161fc12",
    "tuned": "d4999adb6abcf417ca13db13b5c15c1722d32870e146cbdf7a4b8c85e3df5448",
}
NORMS = json.loads((Path(__file__).with_suffix(".json")).read_text())
"""Stage → name of a parameter → its L2 norm after training: those that training moves the most."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stores") / "drawn"
    words = "--hands --poor-copies 1 --synthetic-recordings 2 --synthetic-photos 1 --synthetic-size 200"
    words += " --synthetic-variety 1 --image-size 64"
    ok(launch([BIN / "horovod-asl", "prepare", "drawn=synthetic", path, *words.split()], timeout=300))
    return path


def test_both_stages_are_those_of_before(store: Path, tmp_path: Path) -> None:
    words = "--all-splits --seed 3 --batch-size-per-replica 16 --learning-rate 0.001 --threads-per-rank 1"
    common = ["--store", store, *words.split(), "--cache-features", tmp_path / "trunk"]
    head, tuned = tmp_path / "head", tmp_path / "tuned"
    train = [BIN / "horovod-asl", "train", "--config"]
    ok(launch([*train, RECIPES / "head.yaml", *common, "--epochs", "2", "--run-folder", head], timeout=300))
    ok(launch([*train, RECIPES / "tuned.yaml", *common, "--run-folder", tuned, "--pretrained", head], timeout=300))
    here = (
        platform.machine(),
        torch.backends.cpu.get_cpu_capability(),
        torch.__version__,
        Store.open(store).digest,
    )
    for run in (head, tuned):
        _, weights = RunFolder(run).best_weights()
        norms = {name: float(weights[name].norm()) for name in NORMS[run.name]}
        assert norms == pytest.approx(NORMS[run.name], rel=1e-2)
        if here == TAKEN_ON:
            assert RunFolder(run).result()["best_weights_digest"] == DIGESTS[run.name]
