"""The models and images that a picture shows, and the document that keeps what was computed of them.

A kind of picture is three modules of its own: `bench/figure_KIND.py` is its command (light: nothing slow is imported
before it runs), `bench/pictures_KIND.py` computes arrays and numbers, `leaderboard/picture_KIND.py` draws them.
Arrays and numbers go into the ledger, so that the board draws the same pictures again without model or data.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bench.errors import IncompleteError, UsageError
from bench.evaluate import Subject, images
from bench.obtain import existing
from bench.origin import about
from bench.place import THREADS
from bench.records import Picture, PictureModel, TrainingRecord, picture_key
from bench.request import Request, resolve
from bench.victim import Victim, be_exact

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bench.exam import Dataset
    from bench.obtain import Lesson
    from bench.place import Place
    from bench.recipe import Recipe

Arrays = dict[str, "NDArray[np.generic]"]
Row = list[str | int | float | None]


@dataclass(frozen=True, eq=False)
class Answer:
    """What a kind computed: arrays by name, and a table of numbers; None stands where a number is not defined."""

    arrays: Arrays
    heads: Sequence[str]
    rows: Sequence[Row]


@dataclass(frozen=True, eq=False)
class Shown:
    """A model that a picture shows; its training tells of snapshots."""

    about: PictureModel
    training: TrainingRecord
    place: Place
    dataset: Dataset

    @property
    def subject(self) -> Subject:
        """The model itself, frozen on the device."""
        return self.with_weights(self.about.weights)

    def with_weights(self, weights: str) -> Subject:
        """Its net with other weights of the store: a snapshot's."""
        try:
            return self.place.subject(self.about.net, weights, self.dataset.shape)
        except RuntimeError as error:  # torch's, where they do not fit
            raise UsageError(
                f"{self.about.label} ({weights[:8]}) was trained on {self.training.dataset}; its weights are not those "
                f"of a net for images of {self.dataset.name}"
            ) from error

    @property
    def victim(self) -> Victim:
        """The model as an attack with gradients sees it: an image meets the same arithmetic among any others."""
        return victim(self.subject)

    @property
    def snapshots(self) -> dict[int, str]:
        """The weights that its training kept on the way, by epoch."""
        found = {name: w for name, w in self.training.weights.items() if name.startswith("epoch-")}
        return {int(name.partition("-")[2]): w for name, w in sorted(found.items(), key=lambda x: int(x[0][6:]))}


def victim(subject: Subject) -> Victim:
    """A model as an attack with gradients sees it; its passes are counted for nobody, and a random one starts anew."""
    if subject.random:
        torch.manual_seed(0)
    return Victim(
        subject.module, tile=subject.tile, access="gradients", images=1, rows=torch.zeros(0, dtype=torch.long)
    )


@dataclass(frozen=True, eq=False)
class Scene:
    """What a picture is made of: models on one data set, and the places of test images that are shown."""

    place: Place
    dataset: Dataset
    models: tuple[Shown, ...]
    images: tuple[int, ...]
    left_out: tuple[str, ...] = ()  # what was asked for and is not there
    recipe: Recipe | None = None  # of the data set

    @property
    def threat(self) -> str:
        """The data set's own threat, under which a model is shown that was trained for none."""
        return str(getattr(self.recipe and self.recipe.plugin, "threat", ""))

    def look(self, places: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Test images in [0, 1] (n, C, H, W) and their labels (n,)."""
        return images(self.dataset.test, torch.tensor(list(places)), self.place.device)

    def levels(self, places: Sequence[int]) -> NDArray[np.uint8]:
        """The same images as they are kept: uint8 (n, C, H, W)."""
        return self.dataset.test.x[list(places)].copy()

    def names(self, classes: Sequence[int]) -> list[str]:
        """The names of classes."""
        return [self.dataset.classes[int(c)] for c in classes]


def scene(place: Place, options: Mapping[str, Any]) -> Scene:
    """The models and images that the options name, from the ledger and the store; nothing is trained.

    defenses, net, trained_for, seeds, weights: as of run, but for each of several threats; of a defense those models
    count that are there.  models: the first digits of weights' hashes.
    """
    be_exact(THREADS)
    by_hash = [_by_hash(place, prefix) for prefix in options["models"]]
    name = options["dataset"] or (by_hash[0][0].dataset if by_hash else "digits")
    recipe = place.registry.parse("dataset", name)
    dataset = place.dataset(recipe)
    found: dict[tuple[str, str], Shown] = {}
    left_out: list[str] = []
    for text in options["defenses"]:
        named, missing = _by_recipe(place, text, name, options)
        left_out += missing
        by_hash += named
    for training, which in by_hash:
        if training.dataset not in (dataset.name, dataset.learnt) and not options["dataset"]:
            raise UsageError(
                f"weights {training.weights[which][:8]} were trained on {training.dataset}, and {dataset.name} is "
                "what the others look at; say which with --dataset"
            )
        weights = training.weights[which]
        if weights not in place.store:
            raise IncompleteError(
                f"the store {place.store_root} has no weights {weights}; copy them there, or train again"
            )
        about_it = PictureModel(
            label=training.label, threat=training.threat, seed=training.seed, which=which, net=training.net,
            weights=weights,
        )  # fmt: skip
        found.setdefault((training.net, weights), Shown(about_it, training, place, dataset))
    if not found:
        raise UsageError("which models? Name them by --defense RECIPE… or by --model HASH…")
    return Scene(place, dataset, tuple(found.values()), _places(dataset, options["images"]), tuple(left_out), recipe)


def _places(dataset: Dataset, asked: Sequence[int]) -> tuple[int, ...]:
    for place in asked:
        if place >= len(dataset.test):
            raise UsageError(f"--images {place}: {dataset.name} has the test images 0 to {len(dataset.test) - 1}")
    return tuple(dict.fromkeys(asked))


def _by_recipe(
    place: Place, text: str, dataset: str, options: Mapping[str, Any]
) -> tuple[list[tuple[TrainingRecord, str]], list[str]]:
    """The trainings of a defense under the threats, and what of it is not there; an error where none is."""
    lessons: dict[str, Lesson] = {}
    for threat in options["trained_for"] or ("",):
        request = Request(
            defenses=(text,), net=options["net"], dataset=dataset, threat=threat, seeds=options["seeds"],
            columns=("clean",),
        )  # fmt: skip
        lessons |= {lesson.training.key: lesson for lesson in resolve(request, place).lessons}
    found, missing = [], []
    for lesson in lessons.values():
        record = existing(place, lesson.training)
        if record is None:
            missing.append(lesson)
            continue
        for which in options["weights"] or ("best",):
            if which not in record.weights:
                raise UsageError(f"{text}: its training kept {', '.join(record.weights)}, and no {which}")
            found.append((record, which))
    if not found:
        raise IncompleteError(
            f"{place.ledger_root} has no training of {text} on {dataset}{_for(missing[0])}; "
            f"first: {_command(text, dataset, missing[0], options)}"
        )
    return found, [f"{lesson.label}{_for(lesson)}, seed {lesson.training.seed}" for lesson in missing]


def _for(lesson: Lesson) -> str:
    return f" for {lesson.training.threat}" if lesson.training.threat else ""


def _command(text: str, dataset: str, lesson: Lesson, options: Mapping[str, Any]) -> str:
    """The bench run that would train it."""
    words = ["bench", "run", "--defense", f'"{text}"' if "(" in text else text, "--dataset", dataset]
    words += ["--net", options["net"]] if options["net"] else []
    words += ["--threat", lesson.threat] if options["trained_for"] else []
    return " ".join([*words, *(["--seeds", str(lesson.training.seed)] if lesson.training.seed else [])])


def _by_hash(place: Place, prefix: str) -> tuple[TrainingRecord, str]:
    """The training that made the weights whose hash begins so, and which of its weights they are."""
    if not re.fullmatch("[0-9a-f]{4,64}", prefix):
        raise UsageError(f"--model {prefix}: expected the first four or more digits of the hash of weights")
    found: dict[str, tuple[TrainingRecord, str]] = {}
    for document in place.ledger.all():
        if isinstance(document, TrainingRecord):
            for which, weights in document.weights.items():
                kept = found.get(weights)
                # Trainings that differ in what they keep may end in the same weights: the one that kept most counts.
                if weights.startswith(prefix) and (not kept or len(kept[0].weights) < len(document.weights)):
                    found[weights] = document, which
    if len(found) > 1:
        raise UsageError(f"--model {prefix}: several weights begin so: {', '.join(w[:12] for w in found)}")
    if not found:
        raise UsageError(f"--model {prefix}: no training in {place.ledger_root} made weights that begin so")
    return next(iter(found.values()))


def picture(
    scene: Scene, kind: str, version: int, settings: Mapping[str, Any], compute: Callable[[], Answer]
) -> Picture:
    """The picture of a scene's models and images, computed unless the ledger has it."""
    models = [shown.about for shown in scene.models]
    key = key_of(kind, version, models, scene.dataset.test.hash, scene.images, settings)
    there = known(scene.place, key)
    return there or keep(
        scene.place, scene.dataset, compute(), kind=kind, version=version, models=models, images=scene.images,
        settings=settings,
    )  # fmt: skip


def key_of(
    kind: str, version: int, models: Sequence[PictureModel], test: str, images: Sequence[int],
    settings: Mapping[str, Any],
) -> str:  # fmt: skip
    """The name of a picture in the ledger."""
    return picture_key(kind, version, [(m.net, m.weights) for m in models], test, list(images), settings)


def known(place: Place, key: str) -> Picture | None:
    """The picture of that key, with its arrays, if the ledger has it."""
    for there in place.ledger.of(key, Picture):
        if (place.ledger_root / key / f"{there.arrays}.safetensors").exists():
            return there
    return None


def _defined(value: str | float | None) -> str | int | float | None:
    """The value, or None where it is no number."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def keep(
    place: Place, dataset: Dataset, answer: Answer, *, kind: str, version: int, models: Sequence[PictureModel],
    images: Sequence[int], settings: Mapping[str, Any],
) -> Picture:  # fmt: skip
    """Write what was computed into the ledger: the arrays first, then the document that names them."""
    import numpy as np

    key = key_of(kind, version, models, dataset.test.hash, images, settings)
    arrays = {name: np.ascontiguousarray(values) for name, values in answer.arrays.items()}
    document = Picture.model_validate({
        "key": key, "kind": kind, "version": version, "models": list(models), "dataset": dataset.name,
        "test": dataset.test.hash, "images": list(images), "settings": dict(settings), "heads": list(answer.heads),
        "rows": [[_defined(value) for value in row] for row in answer.rows],
        "arrays": place.ledger.put_images(key, arrays), **about(place.device, 0),
    })  # fmt: skip
    place.ledger.add_dataset(dataset)
    place.ledger.add(document)
    return document
