"""Weights that others published: defenses whose training is a checked download.

What comes is looked at before it is parsed, and never executed (zoo_read); the first pull of an address is trusted and
written to a lock file, which later pulls must agree with (zoo_lock); the weights go to the store as safetensors.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, urlsplit

from torch import nn

from bench import (
    Finding,
    IntegrityError,
    Published,
    RampartError,
    Store,
    TrainJob,
    UsageError,
    Zoo,
    defense,
    download,
    nearest,
)
from defenses.checkpoint import file_hash, hash_of, load, load_public, opened
from defenses.zoo_files import files
from defenses.zoo_lock import Lock, Source, pull, several
from defenses.zoo_names import fit
from defenses.zoo_robustbench import robustbench as robustbench_net

HUB = "https://huggingface.co"
MANUAL = "or fetch {url} by other means, and name the file: checkpoint(path='FILE')"


def _pin_url(settings: dict[str, Any]) -> dict[str, Any]:
    """Refuse an address or a hash that cannot be one, before any work."""
    address = settings["address"]
    parts = urlsplit(address) if isinstance(address, str) else urlsplit("")
    if parts.scheme not in {"http", "https"} or not parts.netloc or re.search(r"\s", address):
        raise UsageError(f"url(address={address!r}): expected an address that begins with https://")
    return {**settings, "sha256": hash_of(settings["sha256"])}


@defense(version=1, pin=_pin_url, trains=False)
def url(job: TrainJob, *, address: str, sha256: str = "", entry: str = "") -> nn.Module:
    """Pull weights from an address into the net; without sha256 the first pull is trusted, and later ones must agree.

    Files are read as checkpoint reads them; entry='ema' chooses among several.
    """
    return _into_net(job, Source(address, sha256=hash_of(sha256), manual=MANUAL.format(url=address)), entry)


def _pin_hf(settings: dict[str, Any]) -> dict[str, Any]:
    """Refuse a repository, file, revision or hash that cannot be one, before any work."""
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", str(settings["repo"])):
        raise UsageError(f"hf(repo={settings['repo']!r}): expected OWNER/NAME, as on {HUB}")
    for name in ("file", "revision"):
        text = str(settings[name])
        if not text or text.startswith("/") or ".." in text.split("/") or re.search(r"[\s\\]", text):
            raise UsageError(f"hf({name}={text!r}): expected a {name} of that repository")
    return {**settings, "sha256": hash_of(settings["sha256"])}


@defense(version=1, pin=_pin_hf, trains=False)
def hf(
    job: TrainJob, *, repo: str, file: str, revision: str = "main", sha256: str = "", entry: str = ""
) -> nn.Module:  # fmt: skip
    """Pull weights from a public repository of the Hugging Face hub into the net; a commit as revision never changes.

    Files are read as checkpoint reads them.  HF_ENDPOINT names another hub, as that hub's own tools read it.
    """
    path = f"/{repo}/resolve/{quote(revision, safe='')}/{quote(file)}"
    address = HUB + path
    hub = os.environ.get("HF_ENDPOINT", "").rstrip("/")
    manual = MANUAL.format(url=address)
    source = Source(
        address, (hub + path,) if hub else (), hash_of(sha256), lambda: _hub_licence(job, hub or HUB, repo), manual
    )
    return _into_net(job, source, entry)


def _hub_licence(job: TrainJob, hub: str, repo: str) -> str:
    """What the repository's card says; empty where it says nothing."""
    try:
        card = download((f"{hub}/api/models/{repo}",), job.scratch / "card.json", sha256=None, md5=None, size=None)
        tags = json.loads(card.read_text(encoding="utf-8"))["tags"]
        return next((str(t).removeprefix("license:") for t in tags if str(t).startswith("license:")), "")
    except (RampartError, OSError, ValueError, KeyError, TypeError):
        return ""


def _into_net(job: TrainJob, source: Source, entry: str) -> nn.Module:
    model = job.net()
    name = source.url.rpartition("/")[2]
    load_public(model, pull(job, source, entry), job, name)
    return model


@lru_cache
def records() -> tuple[Published, ...]:
    """The models of RobustBench's boards, best first; those without weights too."""
    found = json.loads(Path(__file__).with_name("zoo.json").read_text(encoding="utf-8"))
    return tuple(Published(**record) for record in found)


def recipe_of(record: Published) -> str:
    """The shortest recipe that pulls it."""
    said = f"model={record.name!r}"
    if _choose(record.name, "", "").dataset != record.dataset:
        said += f", dataset={record.dataset!r}"
    if _choose(record.name, record.dataset, "").threat != record.threat:
        said += f", threat={record.threat!r}"
    return f"robustbench({said})"


def look(store: Path) -> Iterator[Finding]:
    """The package whose nets are built builds one; the lock file can be read, and what it names is in the store."""
    versions = f"robustbench {version('robustbench')} with timm {version('timm')}"
    try:
        robustbench_net(classes=10, channels=3, size=32, model="Wong2020Fast")
    except Exception as error:  # noqa: BLE001 - whatever the package raises is what is wrong with it
        mend = "pip install 'robustbench==1.1.1', with the timm that it asks for"
        yield Finding("zoo nets", "note", f"{versions}: {type(error).__name__}: {error}", mend)
    else:
        yield Finding("zoo nets", "fine", f"{versions}: they build")
    lock = Lock(store)
    try:
        pulled = lock.read().values()
    except RampartError as error:
        yield Finding("zoo lock file", "wrong", str(error), f"mend or delete {lock.path}")
        return
    absent = [p.url for p in pulled if any(name not in Store(store) for name in p.weights.values())]
    said = f"{len(pulled)} file{'s' * (len(pulled) != 1)} pulled" if pulled else "nothing pulled yet"
    gone = f"; to be pulled again, since the store lacks their weights: {', '.join(absent)}" if absent else ""
    yield Finding("zoo lock file", "fine", said + gone)


HOSTS = (HUB, "https://drive.google.com", "https://drive.usercontent.google.com")
ROBUSTBENCH = Zoo("robustbench", records, recipe_of, look, HOSTS)


def _choose(model: str, dataset: str, threat: str) -> Published:
    """The record of that name; of several, CIFAR-10 before CIFAR-100 and ImageNet, Linf before L2 and corruptions."""
    named = [r for r in records() if r.name == model]
    if not named:
        raise UsageError(f"robustbench has no model {model!r}{nearest(model, {r.name for r in records()})}")
    fitting = [r for r in named if r.dataset in {dataset, dataset or r.dataset} and threat in {"", r.threat}]
    if not fitting:
        there = ", ".join(f"{r.dataset} ({r.threat})" for r in named)
        raise UsageError(f"robustbench(model={model!r}) is published for {there}, not {dataset} {threat}".rstrip())
    best = next((r for r in fitting if r.weights), None)
    if best is None:
        raise UsageError(
            f"robustbench(model={model!r}) is on the board by its authors' own figures; no weights are published"
        )
    return best


def _pin_robustbench(settings: dict[str, Any]) -> dict[str, Any]:
    """Fill in data set, threat and the hashes of files given; refuse what is not there, before any work."""
    record = _choose(settings["model"], settings["dataset"], settings["threat"])
    hashes = tuple(hash_of(str(h)) for h in several(settings["sha256"]))
    paths = tuple(str(Path(str(p)).expanduser().resolve()) for p in several(settings["path"]))
    if paths:  # what is keyed is their content
        found = tuple(file_hash(Path(p)) for p in paths)
        for path, has, wanted in zip(paths, found, hashes or found, strict=False):
            if has != wanted:
                raise IntegrityError(f"{path} has the sha256 {has}; expected {wanted}")
        hashes = found
    return {
        **settings, "dataset": record.dataset, "threat": record.threat, "sha256": hashes or None, "path": paths or None
    }  # fmt: skip


def _net_of(settings: dict[str, Any]) -> str:
    """The net that a model of the zoo is."""
    said = ", ".join(f"{name}={settings[name]!r}" for name in ("model", "dataset", "threat"))
    return f"robustbench({said})"


@defense(paper="arXiv:2010.09670", version=1, pin=_pin_robustbench, net=_net_of, unkeyed=("path",), trains=False)
def robustbench(
    job: TrainJob,
    *,
    model: str,
    dataset: Literal["", "cifar10", "cifar100", "imagenet"] = "",
    threat: Literal["", "linf", "l2", "corruptions"] = "",
    sha256: str | tuple[str, ...] | None = None,
    path: str | tuple[str, ...] | None = None,
) -> nn.Module:
    """Pull a model of RobustBench's zoo, its net included; `bench list zoo` names them.

    Without dataset and threat the first that has the model: cifar10, cifar100, imagenet; linf, l2, corruptions.
    path: files that were fetched by hand, instead of a download.  sha256: one a file.
    """
    record = _choose(model, dataset, threat)
    if record.threat != "corruptions" and (
        record.threat != job.threat.norm or record.eps != str(job.threat).partition(":")[2]
    ):
        job.report(f"{model} was made for {record.threat}:{record.eps}; it is examined under {job.threat}")
    built = job.net()
    pieces = files(record)
    addresses = list(dict.fromkeys(piece.source.url for piece in pieces))
    hashes, paths = several(sha256), several(path)
    for given, what in ((paths, "path"), (hashes, "sha256")):
        if given and len(given) != len(addresses):
            raise UsageError(f"robustbench(model={model!r}) is {len(addresses)} files; {what} names {len(given)}")
    for piece in pieces:
        place = addresses.index(piece.source.url)
        if paths:
            weights = opened(Path(paths[place]).expanduser(), piece.entry)[1]
        else:
            weights = pull(job, replace(piece.source, sha256=hash_of(hashes[place]) if hashes else ""), piece.entry)
        into = built.get_submodule(piece.place)
        name = f"{model}{': ' + piece.place if piece.place else ''}"
        wanted = into.state_dict()
        found = fit(name, piece.renamed(weights, wanted), wanted, statistics=True, extras=piece.extras)
        load(into, found, job, name)
    return built
