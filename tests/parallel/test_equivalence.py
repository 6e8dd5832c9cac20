"""N ranks at batch B take the steps of one process at batch N·B, under every launcher and backend.

The reference is one process without any backend but `Serial`. Float tolerance: 1e-4 relative, 2e-5 absolute,
for sums of 32-bit gradients added in another order (seen: 5e-6, under AdamW; one photo more or less in a step
moves weights by 1e-3). BatchNorm is in evaluation mode (the network's
statistics are per rank under Horovod and DDP alike).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from horovod_asl.distributed.base import Serial
from horovod_asl.distributed.dp import DataParallel
from tests.launching import BIN, launch, launcher_words
from tests.parallel import steps_worker

LAUNCHES = [
    ("mpi", 1),
    ("mpi", 2),
    ("mpi", 3),
    ("gloo", 2),
    ("gloo", 3),
    ("mpirun", 2),
    ("torchrun", 1),
    ("torchrun", 2),
    ("torchrun", 3),
]


@pytest.fixture(scope="module")
def reference() -> dict[str, Any]:
    torch.set_num_threads(1)
    backend = Serial(torch.device("cpu"))
    return {
        name: steps_worker.take_steps(backend, scenario) for name, scenario in steps_worker.SCENARIOS.items()
    }


def plain_torch_weights() -> dict[str, torch.Tensor]:
    """The `sgd` scenario written with nothing of ours but the network: the reference's own reference."""
    from torch.utils.data import DistributedSampler

    photos = steps_worker.make_photos()
    model = steps_worker.make_model()
    decayed = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    spared = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    optimizer = torch.optim.SGD(
        [{"params": decayed, "weight_decay": 5e-4}, {"params": spared, "weight_decay": 0.0}],
        lr=0.1,
        momentum=0.9,
        nesterov=True,
    )
    sampler = DistributedSampler(range(steps_worker.NUM_PHOTOS), num_replicas=1, rank=0, seed=9)  # type: ignore[arg-type]
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    step = 0
    for epoch in range(steps_worker.EPOCHS):
        sampler.set_epoch(epoch)
        for chunk in torch.tensor(list(sampler)).split(steps_worker.GLOBAL_BATCH):
            images = torch.from_numpy(photos.gather(chunk.numpy())).permute(0, 3, 1, 2) / 255
            loss = torch.nn.functional.cross_entropy(
                model((images - mean) / std), torch.from_numpy(photos.labels[chunk])
            )
            optimizer.zero_grad()
            loss.backward()
            for group in optimizer.param_groups:
                group["lr"] = 0.02 / (1 + step)
            optimizer.step()
            step += 1
    return model.state_dict()


def assert_close(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(
            actual[name], tensor, rtol=1e-4, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_serial_takes_the_steps_of_a_plain_torch_loop(reference: dict[str, Any]) -> None:
    assert_close(reference["sgd"]["weights"], plain_torch_weights())


def test_the_steps_change_the_weights(reference: dict[str, Any]) -> None:
    fresh = steps_worker.make_model().state_dict()
    for name, result in reference.items():
        assert (result["weights"]["head.weight"] - fresh["head.weight"]).abs().max() > 5e-3, name


def test_dataparallel_on_the_cpu_equals_serial_to_the_bit(reference: dict[str, Any]) -> None:
    backend = DataParallel(torch.device("cpu"))
    for name, scenario in steps_worker.SCENARIOS.items():
        actual = steps_worker.take_steps(backend, scenario)["weights"]
        assert all(torch.equal(actual[key], tensor) for key, tensor in reference[name]["weights"].items()), (
            name
        )


@pytest.mark.timeout(200)
@pytest.mark.parametrize(("launcher", "ranks"), LAUNCHES)
def test_ranks_take_the_steps_of_one_process(
    launcher: str, ranks: int, reference: dict[str, Any], tmp_path: Path
) -> None:
    command = [*launcher_words(launcher, ranks), BIN / "python", Path(steps_worker.__file__), tmp_path]
    finished = launch(command, PYTHONPATH=str(Path(__file__).parents[2]))
    assert finished.returncode == 0, finished.output[-4000:]
    results = [torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True) for rank in range(ranks)]
    check_facts(results[0]["facts"], launcher, ranks)
    for name, expected in reference.items():
        own = [result["steps"][name] for result in results]
        assert_close(own[0]["weights"], expected["weights"])
        for other in own[1:]:
            assert all(
                torch.equal(other["weights"][key], value) for key, value in own[0]["weights"].items()
            ), name
            assert torch.equal(other["confusion"], own[0]["confusion"])
        assert own[0]["sums"][2] == steps_worker.EPOCHS * steps_worker.NUM_PHOTOS  # each photo once per epoch
        torch.testing.assert_close(own[0]["sums"], expected["sums"], rtol=1e-4, atol=1e-6)
        assert own[0]["confusion"].sum() == steps_worker.NUM_PHOTOS  # no padded samples
        assert torch.equal(own[0]["confusion"], expected["confusion"])
        assert own[0]["nll"] == pytest.approx(expected["nll"], rel=1e-4)
    check_verbs([result["verbs"] for result in results])


def check_facts(facts: dict[str, Any], launcher: str, ranks: int) -> None:
    assert facts["world_size"] == ranks
    assert facts["backend"] == ("ddp" if launcher == "torchrun" else "horovod")
    if launcher != "torchrun":
        assert facts["controller"] == ("gloo" if launcher == "gloo" else "mpi")


def check_verbs(verbs: list[dict[str, Any]]) -> None:
    ranks = len(verbs)
    for seen in verbs:
        assert seen["sum_float"].tolist() == [ranks, sum(range(ranks))]
        assert seen["sum_int"].tolist() == [ranks * 2**40 + sum(range(ranks))]
        assert seen["broadcast"][0] == "zero"
        assert seen["broadcast"][1].tolist() == [0, 1, 2]
        assert seen["gather"] == ["x" * rank for rank in range(ranks)]
        torch.testing.assert_close(seen["running_mean"], torch.full((2,), (ranks - 1) / 2))
