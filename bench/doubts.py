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
    fatal: bool = False  # no attack can mend it: what the model's row says is not to be trusted


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
        fatal=True,
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
        fatal=True,
    ),
    "state": Reason(
        "the model changes when it is asked",
        "one that remembers what it was asked is another model for every attack, and no number is about one of them",
        "write no buffer, counter, list or cache in the forward",
        fatal=True,
    ),
    "writes": Reason(
        "the model changes the images that it is given",
        "the attack then goes on from an image that is not its own",
        "use no operation in place (a name that ends in _) on the input",
        fatal=True,
    ),
    "fickle": Reason(
        FICKLE,
        "an attack that asks a random model once sees one draw; its gradients average to more than it finds",
        "declare the net with @net(random=True), and attack it by aa-rand or with eot=20",
        "probe-random",
    ),
    "mixes": Reason(
        MIXES,
        "its accuracy depends on who sits beside whom, and an attack changes all images of a batch together",
        "compute nothing across the first axis; put batch normalisation into eval mode",
        fatal=True,
    ),
    "drifts": Reason(
        DRIFTS,
        "the images were found on another model than the one that was judged",
        "write no buffer, counter, list or cache in the forward",
        fatal=True,
    ),
    "dynamic": Reason(
        "the model differentiates in its forward, or answers differently when gradients are on",
        "an attack differentiates through its own optimisation, or another model than the one that is judged",
        "let the forward be one function of the image, whatever the grad mode; or name an adaptive attack",
        "probe-blind",
        fatal=True,
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
        fatal=True,
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
        fatal=True,
    ),
    # What shows when attacks on one model are set side by side; the sentences in records name images and attacks.
    "masked": Reason(
        "images fell to an attack without gradients and to none with them",
        "who has gradients can do all that one can do without: those of this model may be masked (arXiv:1802.00420)",
        "look for layers without a useful gradient, and ask more of it",
        "probe-more",
    ),
    "single-step": Reason(
        "images fell to one step along the gradient and to no long climb of the same loss",
        "a climb begins where the step ends; what stops it are gradients that point nowhere",
        "look at attacks on the margin and without gradients",
        "probe-margin",
    ),
    "imbalanced": Reason(
        "many images fell to attacks on the margin and not to PGD on the cross-entropy",
        "attacks on the cross-entropy find less on this model than there is: its gradients are imbalanced",
        "report attacks on the margin: cw, apgd-t, mde",
        "probe-margin",
    ),
    "silent": Reason(
        "images fell on the way of an attack and stood at its last step",
        "an attack that keeps its last image alone gives back what it had found",
        "report the attack with keep='any'",
    ),
    "missed": Reason(
        "images fell to margin decomposition and to none of AutoAttack",
        "its steps, restarts or targets do not suffice here",
        "ask for more targets, steps and restarts",
        "probe-more",
    ),
    "targets": Reason(
        "many images fell to APGD on several targets and not to APGD on the nearest class",
        "where the nearest class is not the easiest one, attacks that know no other find less than there is",
        "report apgd-t or mde, not attacks on one class alone",
        "probe-more",
    ),
    # What the thorough checks find.
    "scale": Reason(
        "attacks find other images when the model's logits are multiplied by a constant",
        "a constant changes no answer: gradients that are lost or flattened by the scale of the logits hide what falls",
        "look at attacks whose loss has no scale (apgd-dlr, cw), and leave temperatures out of the forward",
        "probe-margin",
    ),
    "budget": Reason(
        "images stand where the adversary may do more than enough, in the whole box or at a larger budget",
        "with an unbounded budget every image falls to an attack that works: these attacks do not work here",
        "look at the gradients, and at attacks without them",
        "probe-blind",
    ),
    "luck": Reason(
        "random images of the ball are misread where attacks with gradients found nothing",
        "what luck finds an attack that works finds too: the gradients lead away from it",
        "look at the gradients, and at attacks without them",
        "probe-blind",
    ),
    "converges": Reason(
        "twice the steps and restarts of an attack find more images",
        "an attack that has not ended says too much robustness",
        "give attacks on this model more steps and restarts",
        "probe-more",
    ),
    "step": Reason(
        "the best size of a step is the smallest or the largest of those that were tried",
        "attacks at their usual steps find less on this model than there is",
        "try smaller and larger steps",
        "probe-more",
    ),
    "active": Reason(
        "an attack did not solve problems on the model's own features whose solution lies in the ball",
        "an attack that misses what is there to be found proves no robustness (arXiv:2206.13991)",
        "look at the gradients of the layers before the last",
        "probe-blind",
    ),
    "rugged": Reason(
        "a little noise changes the model's margin by much",
        "on such a landscape a gradient says nothing of what lies beside the image",
        "look at attacks without gradients and at larger eot",
        "probe-blind",
    ),
    "draws": Reason(
        "gradients that are means of twice as many passes find more, or the model stands where its randomness is held",
        "the attacks have not averaged enough of its randomness away",
        "ask with a larger eot",
        "probe-random",
    ),
}  # fmt: skip


def distrusts(said: str) -> bool:
    """Whether a doubt, given by its code or its sentence, means that no number about the model is to be trusted.

    Then the model is asked to be a function of one image, and is not, or holds the test images: no attack mends that.
    """
    code = said if said in REASONS else code_of(said)
    return code in REASONS and REASONS[code].fatal


def code_of(text: str) -> str:
    """The code of a doubt, from its sentence in a record; empty where no doubt is written so."""
    return next((code for code, reason in REASONS.items() if reason.text == text), "")


def texts(doubts: Sequence[Doubt]) -> list[str]:
    """Their sentences, as records have them."""
    return [doubt.text for doubt in doubts]
