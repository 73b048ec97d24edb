"""What is wrong with this machine's set-up, and the mend; and getting a data set into order."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from bench.doctor_cluster import cluster
from bench.errors import IncompleteError, IntegrityError, RampartError, UsageError
from bench.fetch import FOLDER, Report, obtain_all, unreachable
from bench.files import locked
from bench.ledger import Ledger
from bench.place import cores, pick_device
from bench.recipe import DatasetLoader
from bench.registry import plugins
from bench.zoo import Finding, Zoo

if TYPE_CHECKING:
    from bench.exam import Dataset
    from bench.registry import Registry
    from bench.zoo import State

PACKAGE = "rampart-bench"
PYTHONS = ((3, 11), (3, 12))
LITTLE_DISK = 1_000_000_000
LITTLE_MEMORY = 4_000_000_000


def fetch_dataset(registry: Registry, text: str, root: Path, given: Sequence[Path], report: Report) -> dict[str, Any]:
    """Load a data set, after getting what of it is missing or damaged, and say what it is.

    Loading checks every file; what is there and whole is not fetched again.
    """
    recipe = registry.parse("dataset", text)
    loader = recipe.plugin
    assert isinstance(loader, DatasetLoader)

    def load() -> Dataset:
        report(f"checking {recipe}")
        return loader(root, **recipe.settings)

    if given and not loader.downloads:
        raise UsageError(f"{loader.name} has no published files; --from-file is for those")
    if given or not _loads(load, loader, root):
        with locked(root / FOLDER / loader.name / ".lock"):
            if given or not _loads(load, loader, root):  # another process may have fetched it meanwhile
                command = f"bench fetch {loader.name} --data {shlex.quote(str(root))}"
                obtain_all(loader.name, loader.downloads, root, given, report, command)
    found = load()
    parts = {"train": found.train, "val": found.val, "test": found.test}
    return {
        "name": found.name, "classes": len(found.classes), "channels": found.shape.channels, "size": found.shape.size,
        "images": {name: len(part) for name, part in parts.items()},
        "hashes": {name: part.hash for name, part in parts.items()},
    }  # fmt: skip


def _loads(load: Callable[[], Dataset], loader: DatasetLoader, root: Path) -> bool:
    """Whether a data set loads; an error where a download would not help."""
    try:
        load()
    except IntegrityError:
        if not any(download.urls for download in loader.downloads):
            raise
    except IncompleteError:
        if not any(download.urls for download in loader.downloads) or not _absent(loader, root):
            raise
    else:
        return True
    return False


def _absent(loader: DatasetLoader, root: Path) -> list[str]:
    """What of a data set's files is not there."""
    places = dict.fromkeys(place for download in loader.downloads for place in download.places)
    return [p for p in places if not ((root / p).exists() or (root / p.removesuffix(".gz")).exists())]


def examine(
    ledger: Path, store: Path, data: Path, files: Sequence[str] = (), dataset: str = "", device: str = "auto", *,
    online: bool = False,
) -> list[Finding]:  # fmt: skip
    """Look at everything that a run needs; online: also whether what can be fetched can be reached from here."""
    registry: list[Registry] = []
    looks: list[Callable[[], Iterator[Finding]]] = [
        _python, _packages, lambda: _device(device), _machine,
        lambda: _disks({"--ledger": ledger, "--store": store, "--data": data}),
        lambda: _plugins(files, registry), lambda: _ledger(ledger),
        lambda: _datasets(registry, data), lambda: _dataset(registry, data, dataset), lambda: _zoos(registry, store),
        lambda: _hosts(registry) if online else iter(()),
        lambda: cluster(ledger, store),
    ]  # fmt: skip
    return [finding for look in looks for finding in look()]


def _python() -> Iterator[Finding]:
    """Its version, which must be one that the packages are tested with."""
    said = ".".join(map(str, sys.version_info[:3]))
    good = sys.version_info[:2] in PYTHONS
    mend = "" if good else "make a virtual environment with Python 3.11 or 3.12"
    yield Finding("python", "fine" if good else "wrong", f"{said}, {sys.executable}", mend)


def _packages() -> Iterator[Finding]:
    """What is needed is installed, and torchvision is the one made for this torch."""
    needed = [re.split(r"[<>=!~;\s\[(]", line)[0] for line in requires(PACKAGE) or () if "extra ==" not in line]
    absent = [name for name in needed if _version(name) is None]
    said = f"{', '.join(absent)} not installed" if absent else f"{len(needed)} installed"
    yield Finding("packages", "wrong" if absent else "fine", said, f"pip install {' '.join(absent)}" if absent else "")
    torch, vision = _version("torch"), _version("torchvision")
    for line in requires("torchvision") or () if torch and vision else ():
        wanted = re.fullmatch(r"torch\s*\(?==([\d.]+)\)?", line)
        if wanted and torch and torch.partition("+")[0] != wanted[1]:
            yield Finding(
                "torch", "wrong", f"torch {torch} beside torchvision {vision}, which was made for torch {wanted[1]}",
                f"pip install torch=={wanted[1]} torchvision=={vision}",
            )  # fmt: skip
            return
    yield Finding("torch", "fine", f"torch {torch}, torchvision {vision}")


def _version(name: str) -> str | None:
    """A distribution's version, if it is installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _device(name: str) -> Iterator[Finding]:
    """Where models run; a graphics card whose driver is there and that torch does not see is wrong."""
    import torch

    try:
        picked = pick_device(name)
    except UsageError as error:
        yield Finding("device", "wrong", str(error), "")
        return
    if picked.startswith("cuda"):
        free, total = torch.cuda.mem_get_info(picked)
        said = f"{torch.cuda.get_device_name(picked)}, {_bytes(free)} of {_bytes(total)} free"
        yield Finding("device", "fine", said)
    elif name == "auto" and Path("/proc/driver/nvidia/version").exists():
        built = f"torch {torch.__version__} is built for " + (torch.version.cuda or "no CUDA at all")
        yield Finding(
            "device", "wrong", f"cpu: there is an NVIDIA driver, and torch sees no card ({built})",
            "install a torch for the driver's CUDA version (nvidia-smi says it): https://pytorch.org/get-started",
        )  # fmt: skip
    else:
        yield Finding("device", "fine", picked)


def _machine() -> Iterator[Finding]:
    """Cores and memory of this process."""
    yield Finding("cores", "fine", str(cores()))
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        for limit in (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
            if limit.is_file() and (said := limit.read_text().strip()).isdigit():
                total = min(total, int(said))
        small = total < LITTLE_MEMORY
        mend = "use a smaller --batch and --workers 1" if small else ""
        yield Finding("memory", "note" if small else "fine", _bytes(total), mend)


def _disks(folders: dict[str, Path]) -> Iterator[Finding]:
    """Each folder can be written, and its disk has room."""
    for option, folder in folders.items():
        there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        free = shutil.disk_usage(there).free
        what, said = f"{option} {folder}", f"{_bytes(free)} free"
        if not there.is_dir():
            yield Finding(what, "wrong", f"{there} is not a folder", f"name another {option}")
        elif not os.access(there, os.W_OK):
            state: State = "note" if option == "--data" else "wrong"  # data sets may lie where only others write
            yield Finding(what, state, f"{there} cannot be written", f"name another {option}, or chmod u+w {there}")
        elif free < LITTLE_DISK:
            yield Finding(what, "wrong", said, f"make room, or name another {option}")
        else:
            yield Finding(what, "fine", said)


def _plugins(files: Sequence[str], found: list[Registry]) -> Iterator[Finding]:
    """All plugins import, and no two have one name."""
    try:
        registry = plugins(files)
    except RampartError as error:
        yield Finding("plugins", "wrong", str(error), "mend, rename or uninstall what is named")
        return
    found.append(registry)
    yield Finding("plugins", "fine", f"{len(registry.things)} found")


def _ledger(root: Path) -> Iterator[Finding]:
    """Every record is whole."""
    if not root.is_dir():
        yield Finding("records", "fine", "none yet")
        return
    try:
        yield Finding("records", "fine", f"{sum(1 for _ in Ledger(root).all()):,} whole")
    except RampartError as error:
        yield Finding("records", "wrong", str(error), "take that file from a copy of the ledger, or delete it")


def _datasets(registry: Sequence[Registry], root: Path) -> Iterator[Finding]:
    """Which data sets are there; what is inside them is checked where they are loaded."""
    loaders = [thing for found in registry for thing in found.all("dataset")]
    for loader in (thing for thing in loaders if isinstance(thing, DatasetLoader) and thing.downloads):
        absent = _absent(loader, root)
        places = {place for download in loader.downloads for place in download.places}
        if not absent:
            yield Finding(f"data set {loader.name}", "fine", "there")
        else:
            said = "not there" if len(absent) == len(places) else f"partly there: lacks {', '.join(absent)}"
            mend = f"bench fetch {loader.name} --data {shlex.quote(str(root))}"
            yield Finding(f"data set {loader.name}", "note", said, mend)


def _dataset(registry: Sequence[Registry], root: Path, text: str) -> Iterator[Finding]:
    """The data set that was named loads."""
    if not text or not registry:
        return
    try:
        recipe = registry[0].parse("dataset", text)
        assert isinstance(recipe.plugin, DatasetLoader)
        found = recipe.plugin(root, **recipe.settings)
    except RampartError as error:
        yield Finding(f"--dataset {text}", "wrong", str(error), "")
    else:
        yield Finding(f"--dataset {text}", "fine", f"whole; {len(found.test):,} test images")


def _zoos(registry: Sequence[Registry], store: Path) -> Iterator[Finding]:
    """What the collections of published models need."""
    for zoo in (thing for found in registry for thing in found.all("zoo")):
        assert isinstance(zoo, Zoo)
        yield from zoo.look(store)


def _hosts(registry: Sequence[Registry]) -> Iterator[Finding]:
    """Every host that something is fetched from is asked for an answer, whatever it is; all at once."""
    wanted: dict[str, list[str]] = {}
    for thing in (thing for found in registry for kind in ("dataset", "zoo") for thing in found.all(kind)):
        assert isinstance(thing, Zoo | DatasetLoader)
        urls = thing.hosts if isinstance(thing, Zoo) else [url for file in thing.downloads for url in file.urls]
        for host in dict.fromkeys("{0.scheme}://{0.netloc}".format(urlsplit(url)) for url in urls):
            wanted.setdefault(host, []).append(thing.name)
    with ThreadPoolExecutor(max(1, len(wanted))) as pool:
        for (host, names), failed in zip(wanted.items(), pool.map(unreachable, wanted), strict=True):
            said = f"{failed or 'answers'} (for {', '.join(names)})"
            mend = "other mirrors, or bench fetch --from-file, do without it" if failed else ""
            yield Finding(host, "note" if failed else "fine", said, mend)


def _bytes(count: int) -> str:
    """A size as a person says it."""
    return f"{count / 1e9:,.1f} GB"
