"""Every net of RobustBench's zoo, with random weights: built, asked once, and filled as its published files would."""

import gc

import numpy as np
import pytest
import torch

from bench import Part, Shape, ThreatModel, TrainJob
from defenses import zoo
from defenses.zoo_files import files
from defenses.zoo_names import STATISTICS, Weights, fit
from defenses.zoo_robustbench import CLASSES, robustbench

PUBLISHED = [r for r in zoo.records() if r.weights]
SIZES = {"cifar10": 32, "cifar100": 32, "imagenet": 224}
QUICK = {"Wong2020Fast", "Hendrycks2020AugMix_WRN", "Ding2020MMA"}  # small nets of three families


def build(record):
    torch.manual_seed(0)
    return robustbench(
        classes=CLASSES[record.dataset], channels=3, size=SIZES[record.dataset],
        model=record.name, dataset=record.dataset, threat=record.threat,
    ).eval()  # fmt: skip


def as_published(state):
    """Names as data-parallel training leaves them, without the images' mean and std."""
    return {
        f"module.{k.removeprefix('model.')}": v for k, v in state.items() if k.rpartition(".")[2] not in STATISTICS
    }  # fmt: skip


def check(record):
    """It builds, gives finite logits, one a class, and takes back its own weights under published names."""
    module = build(record)
    x = torch.rand(2, 3, *[SIZES[record.dataset]] * 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = module(x)
    assert logits.shape == (2, CLASSES[record.dataset])
    assert logits.isfinite().all()
    filled = {id(p) for piece in files(record) for p in module.get_submodule(piece.place).parameters()}
    # Single numbers are an ensemble's own constants, which its constructor sets.
    assert {id(p) for p in module.parameters() if p.dim()} <= filled
    for piece in files(record):
        wanted = module.get_submodule(piece.place).state_dict()
        found = fit("w", Weights(as_published(wanted)), wanted, statistics=True, extras=piece.extras)
        assert found.state.keys() == wanted.keys()
        assert all(found.state[k] is wanted[k] or found.state[k].equal(wanted[k]) for k in wanted)


@pytest.mark.parametrize(
    "record",
    [r for r in PUBLISHED if r.name in QUICK and r.dataset == "cifar10"],
    ids=lambda r: f"{r.dataset}-{r.threat}-{r.name}",
)
def test_some_nets_of_the_zoo(record):
    """Three families of small nets."""
    check(record)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.cuda.amp.autocast")  # Bai's ensembles still call it, switched off
@pytest.mark.parametrize("record", PUBLISHED, ids=lambda r: f"{r.dataset}-{r.threat}-{r.name}")
def test_every_net_of_the_zoo(record):
    """All 206 with published weights, one at a time; the largest has 567 million weights."""
    check(record)
    gc.collect()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Chen2020Adversarial", "Augustin2020Adversarial", "Andriushchenko2020Understanding"])
def test_models_of_several_files_and_layouts(tmp_path, name):
    """An ensemble of three files, a file with weights too many, one that holds `last` and `best`: as they were."""
    record = next(r for r in PUBLISHED if r.name == name)
    module = build(record)
    with torch.no_grad():  # unlike those that any other net of the seed begins with
        for parameter in module.parameters():
            parameter.mul_(1.01)
    paths = []
    for i, piece in enumerate(files(record)):
        state = as_published(module.get_submodule(piece.place).state_dict())
        if name == "Augustin2020Adversarial":
            state["module.model_preact_hl1.1.weight"] = torch.ones(3)
        content = (
            {"last": state, "best": {k: v * 0 for k, v in state.items()}} if piece.entry else {"state_dict": state}
        )
        torch.save(content, tmp_path / f"{i}.pt")
        paths.append(str(tmp_path / f"{i}.pt"))
    part = Part(np.zeros((1, 3, 32, 32), np.uint8), np.zeros(1, np.int64))
    job = TrainJob(
        train=part, val=part, shape=Shape(10, 3, 32), build=lambda: build(record).requires_grad_(True),
        threat=ThreatModel.parse("linf:8/255"), seed=1, device=torch.device("cpu"),
        scratch=tmp_path / "store" / "scratch" / "one", report=print,
    )  # fmt: skip
    x = torch.rand(4, 3, 32, 32)
    pulled = zoo.robustbench(job, model=name, threat=record.threat, path=tuple(paths)).eval()
    with torch.no_grad():
        assert torch.equal(pulled(x), module(x))
