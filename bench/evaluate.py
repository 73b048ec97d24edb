"""The judge: asks an attack for images, trusts none of them, and decides which fell."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bench.draws import Draws
from bench.errors import AttackError, ModelError, RampartError
from bench.recipe import Attack, Corruption, Recipe
from bench.see_through import seen_through
from bench.victim import Victim, be_exact

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import nn

    from bench.exam import Part
    from bench.threat import ThreatModel

VOTES = 20  # forwards by which a random model is judged


@dataclass(frozen=True)
class Subject:
    """What is attacked: a frozen module, its tile, and whether its net declares randomness.

    search: a faster copy, which attacks ask instead.  The judge never does; an image that only the copy misreads is
    attacked again without it.  blind: only attacks without gradients ask it.
    """

    module: nn.Module
    tile: int
    random: bool = False
    search: nn.Module | None = None
    blind: bool = False


@dataclass(frozen=True)
class Verdict:
    """What became of some images: one value an image, in the order asked; `adversarial` holds the fallen ones."""

    asked: Tensor  # (n,) places in the test part
    fell: Tensor  # (n,) bool
    predicted: Tensor  # (n,) int64
    margin: Tensor  # (n,) float32: the true class's logit less the best other one, on the attacked image
    distance: Tensor  # (n,) float32, in the threat's norm; 0 on clean cells; of a minimum-norm attack inf if not fallen
    forwards: Tensor  # (n,) int64, the judge's own pass included
    backwards: Tensor  # (n,) int64
    adversarial: Tensor  # (fallen, C, H, W) float32, in the order asked


def judge(subject: Subject, attack: Recipe, *args: Any, **settings: Any) -> Verdict:
    """The verdict on one attack; the arguments are those of `judge_together`."""
    (verdict,) = judge_together(subject, [attack], *args, **settings)
    return verdict


def judge_together(
    subject: Subject, attacks: Sequence[Recipe], threat: ThreatModel | None, part: Part, asked: Tensor, *,
    seed: int, batch: int, device: torch.device, corruption: Recipe | None = None, severity: int = 0,
    surrogates: Mapping[str, Subject] | None = None,
) -> list[Verdict]:  # fmt: skip
    """Attack the images at the places `asked` (n,), `batch` at a time, and decide on each.

    Several attacks are of one kin: one run answers them all, and its passes are those of the first verdict.

    The verdict on an image does not depend on `batch`, on the order or on the other images.  AttackError names the
    attack and the image when images leave the ball or the box, are not numbers, or when the attack raises.
    """
    verdicts: list[list[Verdict]] = []
    while len(asked):
        now = asked[:batch]
        try:
            x, y = images(part, now, device, corruption, severity)
            verdicts.append(_judge_batch(subject, attacks, threat, x, y, now, seed, surrogates or {}))
        except torch.OutOfMemoryError:
            if batch <= subject.tile:
                raise
            batch = max(subject.tile, batch // 2)
            continue
        asked = asked[batch:]
    return [
        Verdict(*(torch.cat([getattr(v, f) for v in of_one]) for f in Verdict.__dataclass_fields__))
        for of_one in zip(*verdicts, strict=True)
    ]


def images(
    part: Part, asked: Tensor, device: torch.device, corruption: Recipe | None = None, severity: int = 0
) -> tuple[Tensor, Tensor]:
    """The images at these places in [0, 1], spoilt if so asked, and their labels."""
    places = asked.numpy()
    x = torch.from_numpy(part.x[places]).to(device).float() / 255
    y = torch.from_numpy(part.y[places]).to(device)
    if corruption is not None:
        assert isinstance(corruption.plugin, Corruption)
        draws = Draws(0, asked.to(device), f"corruption/{corruption.name}", step=severity)
        x = corruption.plugin(x, severity, draws, **corruption.settings).clamp(0, 1)
    return x, y


def _judge_batch(
    subject: Subject, attacks: Sequence[Recipe], threat: ThreatModel | None, x: Tensor, y: Tensor, asked: Tensor,
    seed: int, surrogates: Mapping[str, Subject],
) -> list[Verdict]:  # fmt: skip
    attack = attacks[0]
    threads = torch.get_num_threads()
    assert isinstance(attack.plugin, Attack)
    if subject.blind and attack.plugin.access == "gradients":
        subject = replace(subject, search=None)
    asked_module = subject.search or subject.module
    if attack.plugin.stand_ins:
        asked_module = seen_through(subject.module, tuple(x.shape[1:]), x.device)
    victim = Victim(asked_module, tile=subject.tile, access=attack.plugin.access, images=len(x))
    draws = Draws(seed, asked.to(x.device, copy=True), attack.name)
    others = {
        name: Victim(other.module, tile=other.tile, access="gradients", images=len(x), meter=victim.meter)
        for name, other in surrogates.items()
    }
    if subject.random:
        torch.manual_seed(int(draws[:1].at("model").bits(1)))
    if len(attacks) == 1:
        answers = [_attacked(attack, victim, x, y, threat, draws, asked, others)]
    else:
        answers = _attacked_together(attacks, victim, x, y, threat, draws, asked)
    be_exact(threads)  # whatever the attack left behind
    verdicts = [_decide(subject, a, answer, x, y, threat, asked) for a, answer in zip(attacks, answers, strict=True)]
    forwards, backwards = victim.passes()
    verdicts[0] = replace(verdicts[0], forwards=forwards + verdicts[0].forwards, backwards=backwards)
    if subject.search is None:
        return verdicts
    deceived = [_deceived(subject, v, answer, y) for v, answer in zip(verdicts, answers, strict=True)]
    rows = torch.stack(deceived).any(0).nonzero()[:, 0]
    if not len(rows):
        return verdicts
    there = rows.to(x.device)
    slow = _judge_batch(
        replace(subject, search=None), attacks, threat, x[there], y[there], asked[rows], seed, surrogates
    )
    return [_instead(v, s, rows, d) for v, s, d in zip(verdicts, slow, deceived, strict=True)]


def _deceived(subject: Subject, verdict: Verdict, x_adv: Tensor, y: Tensor) -> Tensor:
    """Which images the fast search took for fallen, and the judge does not: (n,)."""
    assert subject.search is not None
    found, stands = torch.zeros_like(verdict.fell), ~verdict.fell
    if stands.any():
        there = stands.to(y.device)
        search = Victim(subject.search, tile=subject.tile, access="scores", images=int(stands.sum()))
        logits = search(x_adv.detach()[there].clamp(0, 1))
        found[stands] = ((logits.argmax(1) != y[there]) | ~logits.isfinite().all(1)).cpu()
    return found


def _instead(fast: Verdict, slow: Verdict, rows: Tensor, chosen: Tensor) -> Verdict:
    """The fast verdict with the slow one's in some places; the passes of both count."""
    picked = chosen[rows]
    places = rows[picked]
    adversarial = fast.adversarial.new_zeros(len(fast.fell), *fast.adversarial.shape[1:])
    adversarial[fast.fell] = fast.adversarial
    adversarial[rows[slow.fell & picked]] = slow.adversarial[picked[slow.fell]]
    of_slow = {name: getattr(slow, name)[picked] for name in ("fell", "predicted", "margin", "distance")}
    merged = {name: getattr(fast, name).index_copy(0, places, values) for name, values in of_slow.items()}
    spent = {name: getattr(fast, name).index_add(0, rows, getattr(slow, name)) for name in ("forwards", "backwards")}
    return replace(fast, **merged, **spent, adversarial=adversarial[merged["fell"]])


def _decide(
    subject: Subject, attack: Recipe, x_adv: Tensor, x: Tensor, y: Tensor, threat: ThreatModel | None, asked: Tensor
) -> Verdict:
    """Check an attack's images and ask the bare model; only the judge's own passes are counted."""
    assert isinstance(attack.plugin, Attack)
    distance = check(str(attack), x_adv, x, threat, asked)
    x_adv = x_adv.detach().clamp(0, 1)
    logits, wrong = misread(subject, x_adv, y)
    fell = wrong.cpu()
    if attack.plugin.goal == "minimum-norm":
        distance = distance.where(fell, torch.inf)
    return Verdict(
        asked=asked,
        fell=fell,
        predicted=logits.argmax(1).cpu(),
        margin=margin(logits, y).cpu(),
        distance=distance,
        forwards=torch.full((len(x),), VOTES if subject.random else 1),
        backwards=torch.zeros(len(x), dtype=torch.long),
        adversarial=x_adv.cpu()[fell],
    )


def _attacked(
    attack: Recipe, victim: Victim, x: Tensor, y: Tensor, threat: ThreatModel | None, draws: Draws, asked: Tensor,
    others: Mapping[str, Victim],
) -> Tensor:  # fmt: skip
    """The attack's images; an exception of its own names the attack and one image that raises it."""
    # A clean cell has no threat, and the attack that it runs has no use for one.
    settings = {**attack.settings, **others}
    try:
        with torch.enable_grad():
            attacked: Tensor = attack.plugin.function(victim, x.clone(), y.clone(), threat, draws, **settings)
    except (torch.OutOfMemoryError, KeyboardInterrupt, ModelError):
        raise
    except BaseException as error:  # also sys.exit(): an attack does not end a run
        place = int(asked[0]) if len(x) == 1 else None
        if place is None:  # halve to find an image that raises; verdicts do not depend on the batch, nor do errors
            for half in (slice(None, len(x) // 2), slice(len(x) // 2, None)):
                fresh = {name: other[half] for name, other in others.items()}
                _attacked(attack, victim[half], x[half], y[half], threat, draws[half], asked[half], fresh)
        said = str(error) if isinstance(error, RampartError) else repr(error)
        named = f"image {place}" if place is not None else f"images {int(asked.min())} to {int(asked.max())} together"
        raise AttackError(f"attack {attack} failed on {named}: {said}; no record was written") from error
    return attacked


def _attacked_together(
    attacks: Sequence[Recipe], victim: Victim, x: Tensor, y: Tensor, threat: ThreatModel | None, draws: Draws,
    asked: Tensor,
) -> list[Tensor]:  # fmt: skip
    """The images of several attacks of one kin, from one run."""
    plugin = attacks[0].plugin
    assert isinstance(plugin, Attack) and plugin.together is not None
    setting, function = plugin.together
    one = attacks[0].with_settings({setting: tuple(a.settings[setting] for a in attacks)})
    several = replace(one, plugin=replace(plugin, function=function))
    found: Any = _attacked(several, victim, x, y, threat, draws, asked, {})
    return list(found)


def check(name: str, x_adv: object, x: Tensor, threat: ThreatModel | None, asked: Tensor) -> Tensor:
    """The distance of each image, in float64 and rounded: (n,); an error that names the first image outside.

    Rounding is allowed for: 1e-6 of the box, and eps * (1 + 1e-6) + 1e-7 of the ball.
    """
    alike = isinstance(x_adv, Tensor) and (x_adv.shape, x_adv.dtype, x_adv.device) == (x.shape, x.dtype, x.device)
    if not isinstance(x_adv, Tensor) or not alike or x_adv.layout != torch.strided:
        got = type(x_adv).__name__
        if isinstance(x_adv, Tensor):
            got = f"{tuple(x_adv.shape)} {x_adv.dtype} on {x_adv.device}, {x_adv.layout}"
        raise AttackError(
            f"attack {name} gave {got}; expected images of shape {tuple(x.shape)}, float32 on {x.device}; "
            "no record was written"
        )
    flat = x_adv.detach().double().flatten(1)

    def stop(bad: Tensor, what: str) -> None:
        if bad.any():
            place = int(bad.nonzero()[0])
            raise AttackError(
                f"attack {name} failed on image {int(asked[place])}: {what.format(place)}; "
                f"{int(bad.sum())} of {len(bad)} images are so; no record was written"
            )

    stop(~flat.isfinite().all(1), "it has pixels that are not numbers")
    box = (flat - flat.clamp(0, 1)).abs().amax(1)
    stop(box > 1e-6, f"it leaves [0, 1] by {float(box[box > 1e-6][:1].sum()):.6g}")
    delta = x_adv.detach().double() - x.double()
    if threat is None:
        moved = delta.flatten(1).abs().amax(1)
        stop(moved > 0, "it was changed, and a clean image must not be")
        return moved.float().cpu()
    size = threat.size(delta)
    excess, outside = size - float(threat.eps), ~threat.holds(size)
    stop(
        outside,
        f"it leaves the ball {threat} by {float(excess[outside][:1].sum()):.6g} "
        f"(size {float(size[outside][:1].sum()):.6g})",
    )
    return size.float().cpu()


def misread(subject: Subject, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The bare model's logits, and whether each image is misread; a logit that is not a number is a misreading.

    A random model is asked 20 times, and the majority decides; its logits are then the mean.
    """
    model = Victim(subject.module, tile=subject.tile, access="scores", images=len(x))
    asks = [model(x) for _ in range(VOTES if subject.random else 1)]
    misread = torch.stack([(z.argmax(1) != y) | ~z.isfinite().all(1) for z in asks])
    return torch.stack(asks).mean(0), misread.float().mean(0) > 0.5


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """z_y - max_{j != y} z_j: (N,)."""
    own = logits.gather(1, y[:, None])[:, 0]
    others = logits.scatter(1, y[:, None], -torch.inf)
    return own - others.amax(1)
