"""RobustBench's nets, untrained: the only module that touches its package, of which it asks nothing but architectures.

The package's own loader downloads with whatever is at hand, reads pickles that may run code, and forgives weights that
do not fit; its `__init__` imports packages that are not on the index.  So neither is ever run here: the tables of
`robustbench.model_zoo` name a constructor for each model, and that is called, with every download inside turned off.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import sys
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any, Literal

import torch
from torch import nn

from bench import UsageError, nearest, net

CLASSES = {"cifar10": 10, "cifar100": 100, "imagenet": 1000}
THREATS = {"linf": "Linf", "l2": "L2", "corruptions": "corruptions"}  # ours, and RobustBench's

TORCHVISION = {"Standard_R50": "https://download.pytorch.org/models/resnet50-0676ba61.pth"}  # its `pretrained=True`


@net(paper="arXiv:2010.09670")
def robustbench(
    *,
    classes: int,
    channels: int,
    size: int,
    model: str,
    dataset: Literal["cifar10", "cifar100", "imagenet"] = "cifar10",
    threat: Literal["linf", "l2", "corruptions"] = "linf",
) -> nn.Module:
    """The net of a model of RobustBench's zoo, untrained; `bench list zoo` names them."""
    if classes != CLASSES[dataset] or channels != 3:
        raise UsageError(
            f"robustbench(model={model!r}) takes 3 channels and gives {CLASSES[dataset]} classes, those of {dataset}; "
            f"the images have {channels} and {classes}: name {dataset} with --dataset"
        )
    with _quiet(), _package() as zoo, _no_downloads(zoo):
        return _portable(_construct(zoo, model, dataset, threat))


def addresses(model: str, dataset: str, threat: str) -> list[str]:
    """Where the files of a model lie: addresses, or ids of Google Drive."""
    with _quiet(), _package() as zoo:
        ids = entry(zoo, model, dataset, threat)["gdrive_id"]
        name = timm_name(model, dataset, threat)
        for family in ("xcit", "deit", "alexnet"):
            known = importlib.import_module(f"robustbench.model_zoo.architectures.{family}").default_cfgs
            if name in known:
                return [str(known[name]["url"])]
    if not ids and model in TORCHVISION:
        return [TORCHVISION[model]]
    if not ids:
        raise UsageError(f"robustbench(model={model!r}): the package says nowhere where its weights lie")
    return [ids] if isinstance(ids, str) else list(ids)


def timm_name(model: str, dataset: str, threat: str) -> str:
    """The name under which timm would know a model."""
    return f"{model.lower().replace('-', '_')}_{dataset}_{threat}"


def entry(zoo: ModuleType, model: str, dataset: str, threat: str) -> dict[str, Any]:
    """What the package's table says of a model: its constructor, and the ids of its files on Google Drive."""
    enums = importlib.import_module("robustbench.model_zoo.enums")
    tables = zoo.model_dicts[enums.BenchmarkDataset(dataset)]
    table = tables.get(enums.ThreatModel(THREATS[threat]), {})
    if model not in table:
        others = [k for k, name in THREATS.items() if model in tables.get(enums.ThreatModel(name), {})]
        hint = f"; it is there with threat={others[0]!r}" if others else nearest(model, table)
        raise UsageError(f"robustbench has no {model!r} for {dataset} and {threat}{hint}")
    found: dict[str, Any] = table[model]
    return found


def _construct(zoo: ModuleType, model: str, dataset: str, threat: str) -> nn.Module:
    timm = importlib.import_module("timm")
    known = entry(zoo, model, dataset, threat)
    name = timm_name(model, dataset, threat)
    built: nn.Module
    if timm.is_model(name):  # the order in which its own loader looks
        built = timm.create_model(name, num_classes=CLASSES[dataset], pretrained=False)
    else:
        built = known["model"]()
    return built


def _portable(module: nn.Module) -> nn.Module:
    """The module with every tensor that it holds as a plain attribute made a buffer, which follows it to a device."""
    for part in module.modules():
        for name, value in list(vars(part).items()):
            if isinstance(value, torch.Tensor):
                delattr(part, name)
                part.register_buffer(name, value, persistent=False)
    return module


@contextlib.contextmanager
def _package() -> Iterator[ModuleType]:
    """`robustbench.model_zoo`, imported without running the package's `__init__`."""
    if "robustbench" in sys.modules:
        yield importlib.import_module("robustbench.model_zoo")
        return
    spec = importlib.util.find_spec("robustbench")
    if spec is None or spec.submodule_search_locations is None:
        raise UsageError("the nets of RobustBench need its package: pip install robustbench")
    bare = ModuleType("robustbench")
    bare.__path__ = list(spec.submodule_search_locations)
    sys.modules["robustbench"] = bare
    try:
        yield importlib.import_module("robustbench.model_zoo")
    finally:
        sys.modules.pop("robustbench", None)  # so that whoever imports it later gets the real one


class _Untrained:
    """A library of nets whose constructors ignore `pretrained`."""

    def __init__(self, library: ModuleType) -> None:
        self._library = library

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._library, name)
        if not callable(found) or isinstance(found, type):
            return found

        def build(*args: Any, **settings: Any) -> Any:
            settings.pop("pretrained", None)
            return found(*args, **settings)

        return build


@contextlib.contextmanager
def _no_downloads(zoo: ModuleType) -> Iterator[None]:
    """Constructors that would fetch weights, or insist on a CUDA device, do neither."""
    kept: list[tuple[Any, str, Any]] = [(torch.Tensor, "cuda", torch.Tensor.cuda)]
    torch.Tensor.cuda = lambda self, *_args, **_settings: self  # type: ignore[method-assign]
    for name in ("cifar10", "cifar100", "imagenet"):
        module = importlib.import_module(f"robustbench.model_zoo.{name}")
        for library in ("timm", "pt_models"):
            if hasattr(module, library):
                kept.append((module, library, getattr(module, library)))
                setattr(module, library, _Untrained(getattr(module, library)))
    try:
        yield
    finally:
        for owner, name, value in kept:
            setattr(owner, name, value)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No warnings of old names of timm's, and no prints of constructors."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
