"""What a defense is given to train with: a TrainJob."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.draws import Draws
from bench.errors import UsageError
from bench.extra import extra_images
from bench.feed import Feed
from bench.together import rank, ranks, sum_over_ranks, synced

if TYPE_CHECKING:
    from bench.course import Course
    from bench.exam import Part, Shape
    from bench.feed import Batch
    from bench.threat import ThreatModel

Score = tuple[float, float]
Mode = Literal["eval", "train", "frozen"]
VALIDATED = 128  # images a pass


@dataclass
class TrainJob:
    """All that a defense is given.  The test images are not in it."""

    train: Part
    val: Part
    shape: Shape
    build: Callable[[], nn.Module]  # an untrained module of the job's net
    threat: ThreatModel
    seed: int
    device: torch.device
    scratch: Path  # outlives a crash
    key: str = ""  # names the training in its checkpoint
    report: Callable[[str], None] = print
    log: Callable[[list[dict[str, Any]]], None] = lambda _history: None  # told after every epoch
    build_other: Callable[[str], nn.Module] | None = None  # an untrained module of another net, by its recipe
    history: list[dict[str, Any]] = field(default_factory=list)  # an entry an epoch
    best: dict[str, Tensor] | None = None  # the weights of the best epoch by validation
    best_score: Score = (-1.0, -1.0)
    predicted: int = 0  # how many classes the last validation saw
    passes: list[int] = field(default_factory=lambda: [0, 0])  # forwards and backwards, in images
    watched: dict[str, Tensor] = field(default_factory=dict)  # sums of the running epoch
    _feed: Feed | None = None

    def net(self, recipe: str = "") -> nn.Module:
        """An untrained module on the device, the same one for the same seed; its passes are counted.

        recipe: of another net than the job's, for a helper that is not itself examined.
        """
        if recipe and self.build_other is None:
            raise UsageError(f"the net {recipe} was asked for, and this job knows no net but its own")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            made = self.build_other(recipe) if recipe and self.build_other else self.build()
            module = synced(made.to(self.device))
        module.register_forward_hook(self._count)
        return module

    def _count(self, _module: nn.Module, _inputs: object, logits: object) -> None:
        if isinstance(logits, Tensor):
            self.passes[0] += len(logits)
            if logits.requires_grad:
                logits.register_hook(lambda grad: self._count_backward(len(grad)))

    def _count_backward(self, images: int) -> None:
        self.passes[1] += images

    def aside(self, name: str) -> TrainJob:
        """The same job for a helper's own training, with its own history, best weights and checkpoint."""
        return replace(
            self, scratch=self.scratch / name, history=[], best=None, best_score=(-1.0, -1.0), watched={},
            log=lambda _history: None, report=lambda line: self.report(f"{name}: {line}"),
        )  # fmt: skip

    def feed(self, course: Course | None = None) -> Feed:
        """The training images on the device, with the extra ones of the course."""
        if self._feed is None:
            extra = extra_images(Path(course.extra), self.shape) if course and course.extra else None
            self._feed = Feed(self.train, self.seed, self.device, extra, course.extra_share if course else 0.0)
        return self._feed

    def batches(self, size: int, epoch: int, augment: str = "none") -> Iterator[Batch]:
        """The training images once, shuffled and augmented; the same batches for the same seed and epoch."""
        feed = self.feed()
        for place in range(feed.steps(size)):
            yield feed.batch(size, epoch, place, augment)

    def watch(self, name: str, values: Tensor, y: Tensor | None = None) -> None:
        """Take numbers of a batch (B,) into the epoch's history: their mean, or with labels y their sum by class."""
        values = values.detach().float()
        if y is None:
            more = torch.stack([values.sum(), values.new_tensor(len(values))])
        else:
            more = values.new_zeros(self.shape.classes).index_add_(0, y, values)
        self.watched[name] = self.watched[name] + more if name in self.watched else more

    def seen(self) -> dict[str, float | list[float]]:
        """What was watched since this was last asked, for the history; sums by class are lists."""
        found: dict[str, float | list[float]] = {}
        for name, total in self.watched.items():
            numbers = [float(v) for v in sum_over_ranks(total)]
            found[name] = [round(v, 6) for v in numbers] if name.endswith("_by_class") else numbers[0] / numbers[1]
        self.watched.clear()
        return found

    def validate(self, model: nn.Module) -> Score:
        """Accuracy on the validation images under PGD-10 (step eps/4, random start), and on clean ones."""
        if not len(self.val):
            return 0.0, 0.0
        right, predicted = [0, 0], set()
        with frozen(model):
            for ids in torch.arange(len(self.val)).split(VALIDATED)[rank() :: ranks()]:
                x = torch.from_numpy(self.val.x[ids.numpy()]).to(self.device).float() / 255
                y = torch.from_numpy(self.val.y[ids.numpy()]).to(self.device)
                x_adv = self.threat.random(x, Draws(0, ids.to(self.device), "validate"))
                for _ in range(10):
                    x_adv.requires_grad_()
                    (grad,) = torch.autograd.grad(F.cross_entropy(model(x_adv), y, reduction="sum"), x_adv)
                    up = 0.25 * float(self.threat.eps) * self.threat.uphill(grad)
                    x_adv = self.threat.project(x_adv.detach() + up, x)
                with torch.no_grad():
                    right[0] += int((model(x_adv).argmax(1) == y).sum())
                    guess = model(x).argmax(1)
                    right[1] += int((guess == y).sum())
                    predicted.update(guess.tolist())
        model.eval()
        said = [k in predicted for k in range(self.shape.classes)]
        robust, clean, *classes = sum_over_ranks(torch.tensor([*right, *said], device=self.device)).tolist()
        self.predicted = sum(map(bool, classes))
        return robust / len(self.val), clean / len(self.val)

    def keep_if_best(self, model: nn.Module, score: Score) -> bool:
        """Remember these weights if no earlier epoch scored as well, and say whether that was so."""
        if score <= self.best_score:
            return False
        self.best_score = score
        self.best = weights_of(model)
        return True


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """A copy of a model's weights and statistics as they are now, on the CPU."""
    return {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}


@contextmanager
def frozen(model: nn.Module, bn: Mode = "eval") -> Iterator[None]:
    """No weight gradients inside, and a mode that ends with it.

    bn: eval; train, where every pass moves the batch statistics; or frozen, where they are the batch's and stay.
    """
    training = model.training
    learning = [p for p in model.parameters() if p.requires_grad]
    model.train(bn != "eval")
    tracking = [
        m for m in model.modules()
        if bn == "frozen" and isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats  # noqa: SLF001
    ]  # fmt: skip
    for p in learning:
        p.requires_grad = False
    for module in tracking:
        module.track_running_stats = False
    try:
        yield
    finally:
        for p in learning:
            p.requires_grad_()
        for module in tracking:
            module.track_running_stats = True
        model.train(training)
