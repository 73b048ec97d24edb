"""What is asked: data sets, conditions, columns, suites, trainings and cells, and the keys that name them."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Literal

from bench.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from bench.threat import Norm

Precision = Literal["exact", "fast"]
Which = Literal["best", "last"]

CLEAN = "clean"  # the condition and the attack of that name


def digest(value: object) -> str:
    """The sha256 of a plain value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class Part:
    """Some images and their labels: x uint8 (N, C, H, W), y int64 (N,).  x may be a file mapped into memory."""

    x: NDArray[np.uint8]
    y: NDArray[np.int64]
    known: str = ""  # its hash, where that was found before: a mapped file takes minutes to read

    def __post_init__(self) -> None:
        if self.x.dtype.name != "uint8" or self.x.ndim != 4:
            raise UsageError(f"images must be uint8 (N, C, H, W), and are {self.x.dtype} {self.x.shape}")
        if self.y.shape != self.x.shape[:1]:
            raise UsageError(f"{len(self.x)} images need as many labels in one row; the labels are {self.y.shape}")
        for name in ("x", "y"):  # all trainings of a process share them, so no defense may write into them
            shared = getattr(self, name).view()
            shared.flags.writeable = False
            object.__setattr__(self, name, shared)

    def __len__(self) -> int:
        return len(self.y)

    @cached_property
    def hash(self) -> str:
        """The identity of the arrays: sha256 over shape, pixels and labels."""
        if self.known:
            return self.known
        import numpy as np

        found = hashlib.sha256(repr(self.x.shape).encode())
        for start in range(0, len(self), 4096):  # never all at once: x may be larger than memory
            found.update(np.ascontiguousarray(self.x[start : start + 4096]).data)
        found.update(np.ascontiguousarray(self.y.astype("<i8")).data)
        return found.hexdigest()


@dataclass(frozen=True, eq=False)
class Dataset:
    """Real images in three fixed parts.  Trainings are named by the first two, cells by the third."""

    name: str
    train: Part
    val: Part
    test: Part
    classes: tuple[str, ...]
    official: Callable[[str, int], Part] | None = None  # published spoilt test images, by corruption and severity
    learnt: str = ""  # the name in trainings, where only some of the training images are used

    def __post_init__(self) -> None:
        for name in ("train", "val", "test"):
            y = getattr(self, name).y
            if len(y) and (y.min() < 0 or y.max() >= len(self.classes)):
                raise UsageError(
                    f"{self.name}: the labels of its {name} part run from {y.min()} to {y.max()}, "
                    f"and there are {len(self.classes)} classes (0 to {len(self.classes) - 1})"
                )
        shapes = {getattr(self, name).x.shape[1:] for name in ("train", "val", "test")}
        if len(shapes) != 1:
            raise UsageError(f"{self.name}: all parts need one image shape, and have {sorted(shapes)}")
        if self.test.x.shape[2] != self.test.x.shape[3]:
            raise UsageError(f"{self.name}: images must be square, and are {self.test.x.shape[2:]}")

    @property
    def shape(self) -> Shape:
        """What a net for it must take and give."""
        return Shape(len(self.classes), self.test.x.shape[1], self.test.x.shape[2])


@dataclass(frozen=True)
class Shape:
    """What a net takes and gives: classes, channels and the side of its square images."""

    classes: int
    channels: int
    size: int


@dataclass(frozen=True)
class Condition:
    """Clean images, or a corruption (its recipe's key) at a severity from 1 to 5."""

    corruption: str = ""
    severity: int = 0

    SEVERITIES: ClassVar[range] = range(1, 6)

    def __str__(self) -> str:
        return f"{self.corruption}:{self.severity}" if self.corruption else CLEAN

    @classmethod
    def parse(cls, text: str) -> Condition:
        """`clean`, or `fog:3`."""
        if text == CLEAN:
            return cls()
        matched = re.fullmatch(r"(.+):([1-5])", text)
        if matched is None:
            raise UsageError(
                f"a condition is {CLEAN!r} or a corruption and a severity from 1 to 5 (fog:3), not {text!r}"
            )
        return cls(matched[1], int(matched[2]))


@dataclass(frozen=True)
class Column:
    """A set of attacks whose union is one number on the board.

    strict: an image that the clean column lost counts as lost and is not attacked.  A column that is not strict
    asks its attacks about every image, ignores `clean`, and stays out of `worst` (some papers score so).
    first: it is asked about so many of the first test images; 0 is all.  A costly attack is so limited.
    by_norm: the attacks under threats of these norms, where they are others.
    """

    name: str
    attacks: tuple[str, ...]  # recipes
    strict: bool = True
    first: int = 0
    by_norm: tuple[tuple[Norm, tuple[str, ...]], ...] = ()

    def under(self, norm: Norm) -> tuple[str, ...]:
        """The recipes of its attacks under a threat of this norm."""
        return dict(self.by_norm).get(norm, self.attacks)


@dataclass(frozen=True)
class Suite:
    """An exam: which columns under which conditions."""

    name: str
    parts: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]  # ((columns, conditions), ...)
    summary: str = ""
    threat: str = ""  # fixed by a paper's protocol; another --threat is then a usage error
    weights: tuple[Which, ...] = ()  # likewise; else --weights decides
    superseded_by: str = ""


@dataclass(frozen=True)
class Study:
    """What robustness costs on a data set: one net, trained for each eps on each number of images, and examined.

    eps: by norm, what is trained for and examined under; standard training, which stands for 0, is not said.
    main: of each norm the eps of the comparisons over training images and between norms.
    sizes: how many training images (0: all), and the recipes of standard and of adversarial training on so many.
    linear: the net is linear and the classes are two, so its weights and the features' correlations tell something.
    """

    name: str
    dataset: str  # recipe, without train_images
    net: str
    eps: tuple[tuple[Norm, tuple[str, ...]], ...]
    main: tuple[tuple[Norm, str], ...]
    sizes: tuple[tuple[int, str, str], ...]
    column: str
    n: int = 0  # of the first test images; 0 is all
    about: str = ""
    linear: bool = False


@dataclass(frozen=True)
class Regions:
    """What a smaller budget on one region of the image does: recipes, in which {low} is its share of eps.

    The first is that of the whole budget everywhere.  {settings} is where further settings go.
    """

    name: str
    recipes: tuple[tuple[str, str], ...]  # region, recipe
    about: str = ""


@dataclass(frozen=True)
class Training:
    """What makes weights: everything that they depend on, but the machine."""

    defense: str  # recipe keys
    net: str
    train: str  # hashes of the parts of the data set
    val: str
    threat: str
    seed: int

    @cached_property
    def key(self) -> str:
        """Its name in the ledger."""
        return digest({"training": asdict(self)})


@dataclass(frozen=True)
class Cell:
    """One attack on one set of weights under one condition and threat."""

    net: str
    weights: str  # hash
    test: str  # hash of the test part
    condition: str
    threat: str | None  # None on clean cells; a minimum-norm attack's has the norm alone
    attack: str  # recipe key
    seed: int
    precision: Precision = "exact"

    @cached_property
    def key(self) -> str:
        """Its name in the ledger."""
        return digest({"cell": {f.name: getattr(self, f.name) for f in fields(self)}})
