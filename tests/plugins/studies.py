"""Studies for tests: on digits, of a linear net, over in seconds."""

from __future__ import annotations

from bench import Study

_TRAIN = "epochs=1, drops=(), batch=64"
SMALL = Study(
    "small", "digits", "softmax-regression",
    eps=(("linf", ("0.05", "0.1")), ("l2", ("0.5",))), main=(("linf", "0.1"), ("l2", "0.5")),
    sizes=(
        (0, f"standard({_TRAIN})", f"at({_TRAIN}, steps=2)"), (200, f"standard({_TRAIN})", f"at({_TRAIN}, steps=2)")
    ),
    column="pgd(steps=3)", n=80,
)  # fmt: skip
