"""The conformance test of a plugin, or of weights: names to findings."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from bench.check_attack import BATCH_MEND, BATCH_WHY, check_attack
from bench.checked import checked
from bench.checked import thorough as look_thoroughly
from bench.doubts import REASONS, distrusts
from bench.draws import Draws
from bench.errors import IncompleteError, RampartError, UsageError, nearest
from bench.evaluate import Subject
from bench.exam import Condition, Dataset, Part, Shape
from bench.faults import Findings, drawn, place_of, places
from bench.honesty import check_model
from bench.obtain import train
from bench.place import THREADS, build
from bench.recipe import Alias, Attack, Corruption, DatasetLoader, Defense, Net, Plugin, Recipe
from bench.records import Doubted, TrainingRecord
from bench.registry import split_recipe
from bench.threat import ThreatModel
from bench.training import TrainJob, weights_of
from bench.victim import be_exact, freeze, logits_of, small, tile_size

if TYPE_CHECKING:
    from bench.doubts import Doubt
    from bench.honesty import Checked
    from bench.place import Place

KINDS = ("attack", "defense", "net", "corruption", "dataset")
SHAPES = (Shape(10, 1, 8), Shape(10, 1, 28), Shape(10, 3, 32), Shape(5, 3, 64), Shape(5, 3, 224))
TRAINED, EPOCHS = 512, 3  # training images of a defense that is tried
HASH = 7  # letters of a hash that name weights


def check(
    name: str, place: Place, dataset: str, net: str = "", *, thorough: bool = False, threat: str = ""
) -> list[Findings]:
    """What is wrong with everything of that name: `fgsm`, `attack:fgsm`, `trades(beta=3.0)`, or a hash of weights.

    thorough: weights are attacked, too, under a threat, which is the data set's own where none is given.
    """
    be_exact(THREADS)
    kind, colon, text = name.partition(":")
    kinds = (kind,) if colon and kind in KINDS else KINDS
    text = text if colon and kind in KINDS else name
    found = []
    known = [k for k in kinds if _has(place, k, text)]
    if thorough and known:
        raise UsageError(
            f"--thorough is about weights, by the beginning of their hash; {text!r} names another thing: {known[0]}"
        )
    for one in known:
        recipe = place.registry.parse(one, text)
        found.append(_one(recipe, place, dataset, net))
    if not found:
        found += _weights(name, place, dataset, thorough=thorough, threat=threat)
    if not found:
        every = sorted({n for k in kinds for n in place.registry.names(k)})
        raise UsageError(
            f"there is no {' or '.join(kinds)} {text!r}, and no weights whose hash begins so{nearest(text, every)}"
        )
    return found


def _has(place: Place, kind: str, text: str) -> bool:
    """Whether there is a thing of a kind by the name in a recipe."""
    bare, _, _ = split_recipe(text)
    names = {(kind, spelling) for spelling in (bare, bare.replace("_", "-"), bare.replace("-", "_"))}
    return any(isinstance(place.registry.things.get(n), Plugin | Alias) for n in names)


def _one(recipe: Recipe, place: Place, dataset: str, net: str) -> Findings:
    match recipe.plugin:
        case Attack():
            return check_attack(recipe)
        case Corruption():
            return check_corruption(recipe)
        case Net():
            return check_net(recipe)
        case DatasetLoader():
            return check_dataset(recipe, place)
        case Defense():
            return check_defense(recipe, place, dataset, net)
    raise TypeError(recipe.plugin)


def check_corruption(recipe: Recipe) -> Findings:
    """Images stay images, the same alone and together, and the same draws give the same."""
    plugin = recipe.plugin
    assert isinstance(plugin, Corruption)
    found = Findings("corruption", str(recipe), place_of(plugin))
    reasons = {shape: plugin.unfit(shape) if plugin.unfit else "" for shape in SHAPES}
    fitting = [shape for shape, reason in reasons.items() if not reason]
    if not fitting:
        found.skipped.append(reasons[SHAPES[2]])
    for shape in fitting[:2]:
        for severity in Condition.SEVERITIES:
            if not _spoils(found, recipe, shape, severity):
                return found
    return found


def _spoils(found: Findings, recipe: Recipe, shape: Shape, severity: int) -> bool:
    """Whether a corruption keeps its contract at a severity."""
    plugin, n = recipe.plugin, 6
    assert isinstance(plugin, Corruption)
    x = torch.from_numpy(drawn(shape, n).x.copy()).float() / 255
    where = f"severity {severity}, images of {shape.channels}x{shape.size}x{shape.size}"

    def spoil(rows: Tensor) -> Tensor:
        draws = Draws(0, rows, f"corruption/{plugin.name}", step=severity)
        out: Tensor = plugin(x[rows].clone(), severity, draws, **recipe.settings)
        return out

    every = torch.arange(n)
    try:
        whole = spoil(every)
        alone = torch.cat([spoil(every[i : i + 1]) for i in range(n)])
        back = spoil(every.flip(0)).flip(0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(987)
            state = np.random.get_state()  # noqa: NPY002  the global one, which a corruption must not use
            np.random.seed(987)  # noqa: NPY002
            again = spoil(every)
            np.random.set_state(state)  # noqa: NPY002
    except Exception as error:  # noqa: BLE001  whatever a plugin raises
        found.fault(
            "raises", f"it raises {error!r}", where, "every run under this condition fails",
            "refuse shapes that it is not for by @corruption(unfit=…), and take images of (N, C, H, W) in [0, 1]",
        )  # fmt: skip
        return False
    if not isinstance(whole, Tensor) or (whole.shape, whole.dtype) != (x.shape, x.dtype):
        got = f"{tuple(whole.shape)} {whole.dtype}" if isinstance(whole, Tensor) else type(whole).__name__
        found.fault(
            "contract", f"it gives {got} for images of {tuple(x.shape)} {x.dtype}", where,
            "a model cannot be asked about it", "return images shaped as x, float32",
        )  # fmt: skip
        return False
    over = float((whole - whole.clamp(0, 1)).abs().amax()) if whole.isfinite().all() else float("inf")
    if over > 1e-6:
        found.fault(
            "range", f"it leaves [0, 1] by {over:.3g}" if over < 1e9 else "it gives pixels that are not numbers", where,
            "the bench clips: what the corruption does is then not what it says", "end with .clamp(0, 1)",
        )  # fmt: skip
    for code, other, words, why, mend in (
        ("batch", alone, "alone and together", BATCH_WHY, BATCH_MEND),
        ("batch", back, "in another order", BATCH_WHY, BATCH_MEND),
        (
            "seed",
            again,
            "of one seed in two runs",
            "nobody can repeat such a number",
            "take all randomness from `draws`",
        ),
    ):
        apart = (other != whole).flatten(1).any(1)
        if apart.any():
            named = places(apart.nonzero()[:, 0].tolist())
            found.fault(code, f"its {named} differ {words}", where, why, mend)
    if torch.equal(whole, x):
        found.fault(
            "idle", "it changes nothing", where, "a column of clean accuracy under another name", "is severity used?"
        )
    if not found.faults and severity == max(Condition.SEVERITIES):
        found.passed += [f"all severities on {shape.channels}x{shape.size}x{shape.size}"]
    return not found.faults


def check_net(recipe: Recipe) -> Findings:
    """It builds, gives one logit a class, is rebuilt from its weights, and with drawn weights raises no doubt."""
    plugin = recipe.plugin
    assert isinstance(plugin, Net)
    found = Findings("net", str(recipe), place_of(plugin))
    refused = {}
    for shape in SHAPES[:3]:
        try:
            torch.manual_seed(0)
            module, twin = build(recipe, shape), build(recipe, shape)
        except UsageError as error:
            refused[shape] = str(error)
            continue
        where = f"images of {shape.channels}x{shape.size}x{shape.size} in {shape.classes} classes"
        _stir(module)
        if _rebuilt(found, module, twin, shape, where):
            few = 64 if small(module) else 8
            part = drawn(shape, few)
            subject = Subject(freeze(module, torch.device("cpu")), min(few, tile_size(torch.device("cpu"), module)))
            try:
                looked = check_model(replace(subject, random=plugin.random), part, torch.device("cpu"), few)
            except RampartError as error:
                found.fault("contract", str(error), where, "it cannot be attacked", "give logits of (N, classes)")
                return found
            _doubts(found, looked, f"{where}, with weights that are drawn")
            found.passed += [] if found.faults else [where]
        if found.faults:
            return found
    if refused and not found.passed:
        found.skipped.append("; ".join(sorted(set(refused.values()))))
    return found


def _stir(module: nn.Module) -> None:
    """Move all weights: what starts at zero says nothing of what is trained."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weights in module.parameters():
            weights.add_(0.02 * torch.randn(weights.shape, generator=generator).to(weights))


def _rebuilt(found: Findings, module: nn.Module, twin: nn.Module, shape: Shape, where: str) -> bool:
    """Whether the net with the weights of another one answers as that does, with a logit a class."""
    x = torch.from_numpy(drawn(shape, 4).x.copy()).float() / 255
    try:
        twin.load_state_dict(module.state_dict())
        one, two = logits_of(module.eval(), x.clone()).detach(), logits_of(twin.eval(), x.clone()).detach()
    except Exception as error:  # noqa: BLE001  whatever a net raises
        found.fault("raises", str(error), where, "nobody can load its weights", "take any shape, or raise UsageError")
        return False
    if one.shape[1] != shape.classes:
        found.fault(
            "classes", f"it gives {one.shape[1]} logits for {shape.classes} classes", where,
            "the classes that it lacks are always misread", "end with a layer of `classes` outputs",
        )  # fmt: skip
        return False
    apart = (one - two).abs().amax() > 1e-4 * one.abs().amax()
    if bool(apart) and not _moves(module, x):
        found.fault(
            "rebuild", "a second one with the same weights answers differently", where,
            "a board names models by net and weights: what is outside the weights is lost",
            "put everything that is drawn or learnt into parameters or buffers that are saved",
        )  # fmt: skip
        return False
    return True


def _moves(module: nn.Module, x: Tensor) -> bool:
    """Whether it answers differently when asked again; then that is what is wrong with it."""
    return not torch.equal(logits_of(module, x.clone()), logits_of(module, x.clone()))


def _doubts(found: Findings, looked: Checked, where: str) -> None:
    """Doubts about a model as faults."""
    for doubt in looked.doubts:
        reason = REASONS[doubt.code]
        what = f" ({doubt.what})" if doubt.what else ""
        found.fault(doubt.code, reason.text + what, where + evidence(doubt), reason.why, reason.mend)


def evidence(doubt: Doubt | Doubted) -> str:
    """Where a doubt shows, and how much of it."""
    images = f"; {places(doubt.images)}" if doubt.images else ""
    figures = "".join(
        f"; {100 * value:.3g} % of the images" if name == "share" else f"; {name.replace('_', ' ')} {value:.3g}"
        for name, value in doubt.figures.items()
    )
    return images + figures


def check_dataset(recipe: Recipe, place: Place) -> Findings:
    """It loads twice alike, its parts share no image, and its first images show every class."""
    plugin = recipe.plugin
    assert isinstance(plugin, DatasetLoader)
    found = Findings("dataset", str(recipe), place_of(plugin))
    try:
        one, two = (plugin(place.data_root, **recipe.settings) for _ in range(2))
    except IncompleteError as error:
        found.skipped.append(str(error))
        return found
    parts = {"train": one.train, "val": one.val, "test": one.test}
    where = ", ".join(f"{len(part):,} {name}" for name, part in parts.items()) + " images"
    for name, part in parts.items():
        if part.hash != getattr(two, name).hash:
            found.fault(
                "seed", f"its {name} part is another one each time it is loaded", where,
                "trainings and cells are named by it: nothing would ever be found again",
                "split by a fixed order, as of numpy.random.RandomState(0)",
            )  # fmt: skip
    _shared(found, parts, where)
    first = one.test.y[:1000]
    if len(one.test) >= 1000 and len(np.unique(first)) < min(len(one.classes), 100) / 2:
        found.fault(
            "order", f"the first 1,000 test images show {len(np.unique(first))} of {len(one.classes)} classes", where,
            "-n 1000 is then about these classes alone", "shuffle the test part once, by a fixed order",
        )  # fmt: skip
    if len(one.test) and int(one.test.x[:256].max()) <= 1:
        found.fault(
            "range", "its pixels are 0 and 1 of 255: black", where, "every model is near chance on it",
            "give uint8 from 0 to 255",
        )  # fmt: skip
    found.passed += [] if found.faults else [f"{where} of {one.test.x.shape[1:]} in {len(one.classes)} classes"]
    return found


def _shared(found: Findings, parts: dict[str, Part], where: str) -> None:
    """No image of the test part is among the others; the first 20,000 of each are looked at."""
    seen = {name: {row.tobytes(): i for i, row in enumerate(part.x[:20_000])} for name, part in parts.items()}
    for name in ("train", "val"):
        both = seen["test"].keys() & seen[name].keys()
        if len(both) > 0.001 * len(seen["test"]):
            named = places(sorted(seen["test"][image] for image in both))
            found.fault(
                "leak", f"{len(both):,} images of its test part are in its {name} part, too: {named}", where,
                "accuracy on them is memory", "make the parts before anything is copied or augmented",
            )  # fmt: skip


def check_defense(recipe: Recipe, place: Place, dataset: str, net: str) -> Findings:
    """It trains in small, to the same weights for the same seed, and its model raises no doubt."""
    plugin = recipe.plugin
    assert isinstance(plugin, Defense)
    found = Findings("defense", str(recipe), place_of(plugin))
    asked = {name: value for name, value in recipe.settings.items() if value != plugin.defaults[name]}
    loader = place.registry.parse("dataset", dataset)
    assert isinstance(loader.plugin, DatasetLoader)
    data = place.dataset(loader)
    chosen = place.registry.parse(
        "net", net or (plugin.net(dict(recipe.settings)) if plugin.net else loader.plugin.net)
    )
    usual = place.registry.preset(plugin.name, data.name, chosen.name)
    brief = {"epochs": EPOCHS} if isinstance(plugin.defaults.get("epochs"), int) else {}
    recipe = plugin.recipe(**{**plugin.defaults, **usual, **asked, **brief})
    where = f"net {chosen}, {min(TRAINED, len(data.train))} training images of {data.name}"
    where += f", {EPOCHS} epochs" if brief else ""
    small_data = _first(data)
    models = []
    try:
        for seed in (0, 0, 1):
            with tempfile.TemporaryDirectory() as folder:
                job = _job(place, small_data, chosen, loader.plugin.threat, seed, Path(folder))
                models.append(train(recipe, chosen, job).cpu().eval())
            if not plugin.trains:
                break
    except (UsageError, IncompleteError):  # something is missing, or was asked for that cannot be
        raise
    except RampartError as error:
        found.fault(
            "contract", str(error).replace("; no record was written", ""), where, "nobody can train it",
            "return a module of job.net(), whose weights are numbers, and raise nothing",
        )  # fmt: skip
        return found
    states = [weights_of(model) for model in models]
    if plugin.trains:
        _seeds(found, states, where)
    subject = Subject(freeze(models[0], torch.device("cpu")), 32)
    assert isinstance(chosen.plugin, Net)
    few = 64 if small(models[0]) else 8
    looked = check_model(
        replace(subject, random=chosen.plugin.random), data.test, torch.device("cpu"), few
    )  # fmt: skip
    _doubts(found, looked, f"{where}; the model after it")
    found.passed += [] if found.faults else ["it trains", "one seed, one model", "its model raises no doubt"]
    return found


def _seeds(found: Findings, states: Sequence[dict[str, Tensor]], where: str) -> None:
    """Equal seeds give equal weights, other seeds others."""
    one, same, other = states
    differing = [name for name in one if not torch.equal(one[name], same[name])]
    if differing:
        found.fault(
            "seed", f"two trainings of one seed end in other weights ({', '.join(differing[:3])})", where,
            "nobody can repeat it, and a training that goes on after a kill is another one",
            "take all randomness from feed.draws and job.seed; no torch.rand, and no time or hash()",
        )  # fmt: skip
    if all(torch.equal(one[name], other[name]) for name in one):
        found.fault(
            "one-seed", "seeds 0 and 1 end in the same weights", where,
            "several seeds of it are one, and their deviation is zero", "start from job.net(), which heeds the seed",
        )  # fmt: skip


def _first(data: Dataset) -> Dataset:
    """The data set with few training images."""
    cut = [Part(part.x[:TRAINED], part.y[:TRAINED]) for part in (data.train, data.val)]
    return Dataset(data.name, cut[0], cut[1], Part(data.test.x[:64], data.test.y[:64]), data.classes)


def _job(place: Place, data: Dataset, net: Recipe, threat: str, seed: int, scratch: Path) -> TrainJob:
    """A job as a defense is given, with a folder of its own."""
    be_exact(THREADS)

    def other(recipe: str) -> nn.Module:
        return build(place.registry.parse("net", recipe), data.shape)

    quiet: Callable[[str], None] = lambda _line: None  # noqa: E731
    return TrainJob(
        train=data.train, val=data.val, shape=data.shape, build=partial(build, net, data.shape),
        threat=ThreatModel.parse(threat), seed=seed, device=torch.device("cpu"), scratch=scratch, key="0" * 64,
        report=quiet, build_other=other,
    )  # fmt: skip


def _weights(text: str, place: Place, dataset: str, *, thorough: bool, threat: str) -> list[Findings]:
    """What the checks say of weights in the ledger, whose hash begins so, on a data set's test part."""
    if len(text) < HASH or set(text) - set("0123456789abcdef") or not place.ledger_root.is_dir():
        return []
    known = {w: d for d in place.ledger.all() if isinstance(d, TrainingRecord) for w in d.weights.values()}
    found = []
    for weights in sorted(w for w in known if w.startswith(text)):
        record = known[weights]
        loader = place.registry.parse("dataset", dataset or record.dataset)
        data = place.dataset(loader)
        one = Findings("weights", f"{weights[:12]}, {record.label}", "")
        looks = [checked(place, record.net, weights, data)]
        if thorough and any(distrusts(doubt.code) for doubt in looks[0].doubts):
            one.skipped.append("whether attacks on it converge: no number about it is to be trusted anyway")
        elif thorough:
            assert isinstance(loader.plugin, DatasetLoader)
            under = ThreatModel.parse(threat or loader.plugin.threat)
            looks.append(look_thoroughly(place, record.net, weights, data, under, looks[0]))
        for looked in looks:
            for doubt in looked.doubts:
                reason = REASONS[doubt.code]
                what = f" ({doubt.what})" if doubt.what else ""
                where = f"{data.name}{f', {looked.threat}' if looked.threat else ''}{evidence(doubt)}"
                one.fault(doubt.code, doubt.text + what, where, reason.why, reason.mend)
        honesty = looks[0].figures.get("gradient_honesty")
        said = f" (gradients are right on {100 * honesty:.0f} % of the images)" if honesty is not None else ""
        under_attack = f", nor under attack at {looks[1].threat}" if len(looks) > 1 else ""
        one.passed += [] if one.faults else [f"no doubt on {looks[0].n} images of {data.name}{said}{under_attack}"]
        found.append(one)
    return found
