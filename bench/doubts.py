"""Reasons to distrust a number: a code, a sentence that a person understands, why it matters, and the mend."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True)
class Reason:
    """A kind of doubt."""

    text: str
    why: str
    mend: str
    probe: str = ""  # the column that is asked in an escalation; none where no attack can help


@dataclass(frozen=True)
class Doubt:
    """A reason to distrust a model, with its evidence: test images, and figures."""

    code: str
    images: tuple[int, ...] = ()  # places in the test part
    figures: Mapping[str, float] = field(default_factory=dict)
    what: str = ""  # names of modules, tensors, …

    @property
    def text(self) -> str:
        """The sentence.  It holds no figures, so that it is the same for every model and can be compared."""
        return REASONS[self.code].text


FICKLE = "the model answers differently when asked again: it is random and does not say so, or changes between calls"
MIXES = "the model's answer to an image depends on the images beside it"
DRIFTS = "the model answers differently after the attack than before it: it changes while it is being asked"

REASONS = {
    "not-a-number": Reason(
        "the model answers with values that are not numbers",
        "an attack cannot climb such a value; the judge counts the image as fallen, whatever it shows",
        "look for divisions, logarithms and roots near zero, and for a forward that refuses images on purpose",
    ),
    "coarse": Reason(
        "the model's answers are not float32: small differences between images are lost",
        "rounded logits hide the slope that attacks climb; what looks robust may be rounding",
        "return the logits in float32, and do not round them",
        "probe-margin",
    ),
    "distribution": Reason(
        "the model answers with probabilities, not with logits",
        "the cross-entropy of a softmax of a softmax is nearly flat, so attacks on it find less than there is",
        "leave the softmax out of the forward: the loss applies its own",
        "probe-margin",
    ),
    "training": Reason(
        "parts of the model stay in training mode when they are told to be in eval mode",
        "dropout and batch statistics then make its answers random, or dependent on other images",
        "do not override train() or eval(), and do not pass training=True to functional layers",
    ),
    "state": Reason(
        "the model changes when it is asked",
        "one that remembers what it was asked is another model for every attack, and no number is about one of them",
        "write no buffer, counter, list or cache in the forward",
    ),
    "writes": Reason(
        "the model changes the images that it is given",
        "the attack then goes on from an image that is not its own",
        "use no operation in place (a name that ends in _) on the input",
    ),
    "fickle": Reason(
        FICKLE,
        "an attack that asks a random model once sees one draw; its gradients average to more than it finds",
        "declare the net with @net(random=True), and attack it by aa-rand or with eot=20",
        "aa-rand",
    ),
    "mixes": Reason(
        MIXES,
        "its accuracy depends on who sits beside whom, and an attack changes all images of a batch together",
        "compute nothing across the first axis; put batch normalisation into eval mode",
    ),
    "drifts": Reason(
        DRIFTS,
        "the images were found on another model than the one that was judged",
        "write no buffer, counter, list or cache in the forward",
    ),
    "dynamic": Reason(
        "the model differentiates in its forward, or answers differently when gradients are on",
        "an attack differentiates through its own optimisation, or another model than the one that is judged",
        "let the forward be one function of the image, whatever the grad mode; or name an adaptive attack",
        "probe-blind",
    ),
    "undifferentiable": Reason(
        "the model raises where it is differentiated",
        "attacks with gradients fail on it, and without them little is known of its robustness",
        "mend the backward of its layers, or give them a stand-in: bench.Bpda(layer)",
        "probe-blind",
    ),
    "flat": Reason(
        "the model's margin has gradients that are exactly zero",
        "attacks with gradients stand still there: what they leave standing is not robust but not attacked",
        "give the layer without a gradient a stand-in: bench.Bpda(layer); and look at attacks without gradients",
        "probe-blind",
    ),
    "recognises": Reason(
        "the model has no gradient at test images, and has one at the same images moved by one pixel",
        "it recognises test images, or what is near them, and answers from memory",
        "remove what it stores of the test images",
    ),
    "underflow": Reason(
        "the model's logits are so far apart that the gradients of the cross-entropy are exactly zero",
        "attacks on the cross-entropy (FGSM, PGD, APGD-CE) stand still, and their columns mean nothing",
        "divide the logits by a constant, or look at attacks on the margin alone: cw, apgd-dlr, apgd-t, fab-t, square",
        "probe-margin",
    ),
    "jumps": Reason(
        "the model's answer jumps when one pixel moves by 1/255: it remembers images, or is not continuous",
        "what it says of test images says nothing of images near them",
        "remove what it stores of the test images; a layer that jumps needs a stand-in: bench.Bpda(layer)",
        "probe-blind",
    ),
    "rough": Reason(
        "the model's answer jumps as the image moves a little: its gradients say nothing of what lies beside it",
        "attacks with gradients follow a slope that ends at once",
        "look at attacks without gradients and at larger eot; a layer that sorts or thresholds needs a stand-in",
        "probe-blind",
    ),
    "dishonest": Reason(
        "the model's gradients are not the slopes of its answers",
        "attacks with gradients are sent elsewhere; what they leave standing is not attacked",
        "differentiate what the forward does; where that is impossible, use bench.Bpda(layer, stand_in)",
        "probe-blind",
    ),
    "holds-images": Reason(
        "the model's weights hold test images",
        "it was made with the test images, and no number on them means anything",
        "train without the test part: a defense is never given it",
    ),
}  # fmt: skip


def distrusts(code: str) -> bool:
    """Whether a doubt says that no number is to be trusted, whatever attack is asked."""
    return code in REASONS and (not REASONS[code].probe or code == "dynamic")


def code_of(text: str) -> str:
    """The kind of doubt that a sentence in a record is; empty where it is none of these."""
    return next((code for code, reason in REASONS.items() if reason.text == text), "")


def texts(doubts: Sequence[Doubt]) -> list[str]:
    """Their sentences, as records have them."""
    return [doubt.text for doubt in doubts]
