"""The published exams: columns and suites, as constants."""

from __future__ import annotations

from bench import Column, Condition, Suite

PGD_20 = Column("pgd-20", ("pgd(steps=20, step=0.25)",))
PGD_100 = Column("pgd-100", ("pgd(steps=100, step=0.125)",))
CW = Column("cw", ("cw(steps=20, step=0.25)",))
MMA = Column("mma", ("mma(steps=20, step=0.25)",), strict=False)  # MMA (PART), on all images as its code scores it
FMN_100 = Column("fmn-100", ("fmn(steps=100)",))
SQUARE_5000 = Column("square-5000", ("square(queries=5000)",))
SPSA = Column("spsa", ("spsa",), first=1000)  # 51,200 forwards an image
AA = Column(
    "aa",
    ("apgd-ce", "apgd-t", "fab-t", "square(queries=5000)"),
    by_norm=(("l1", ("apgd-ce(restarts=5)", "apgd-t(targets=5)", "fab-t", "square(queries=5000)")),),
)
# AutoAttack's other published forms.
AA_PLUS = Column(
    "aa-plus",
    ("apgd-ce(restarts=5)", "apgd-dlr(restarts=5)", "fab(restarts=5)", "square(queries=5000)", "apgd-t", "fab-t"),
)
AA_RAND = Column("aa-rand", ("apgd-ce(eot=20)", "apgd-dlr(eot=20)"))  # for models that draw random numbers
# What torchattacks calls AutoAttack: its members at that library's defaults, weaker than AutoAttack's.
AA_TA10 = Column(
    "aa-ta10", ("apgd-ce(steps=10)", "apgd-t(steps=10)", "fab-t(steps=10)", "square(queries=5000, rescale=True)")
)
# The reference implementation, in Linf and L2: verdicts depend on the batch, so it is for comparison alone.
AA_REFERENCE = Column("aa-reference", ("reference-apgd-ce", "reference-apgd-t", "reference-fab-t", "reference-square"))
# What a doubt about a model calls for: where the scale of its logits may hide their slope, where slopes say nothing,
# where answers are random, and where attacks did not get to their end.
PROBE_MARGIN = Column(
    "probe-margin", ("cw(steps=100, step=0.125, keep='any')", "pgd-rescaled(steps=100)", "apgd-dlr", "apgd-t")
)
PROBE_BLIND = Column(
    "probe-blind",
    ("bpda(steps=100)", "square(queries=5000)", "nes"),
    by_norm=(
        ("l2", ("bpda(steps=100)", "square(queries=5000)")), ("l1", ("bpda(steps=100)", "square(queries=5000)")),
        ("l0", ("sparse-rs",)),
    ),
)  # fmt: skip
PROBE_RANDOM = Column(
    "probe-random", ("apgd-ce(eot=20)", "apgd-dlr(eot=20)", "cw(steps=40, step=0.125, eot=40, keep='any')")
)
PROBE_MORE = Column(
    "probe-more",
    (
        "cw(steps=100, step=1.0, keep='any')", "cw(steps=200, step=0.03125, keep='any')",
        "apgd-ce(steps=200, restarts=5)", "apgd-t(steps=200)", "square(queries=20000)",
    ),
)  # fmt: skip
MDE = Column("mde", ("apgd-ce", "md", "mdmt", "fab-t"))

QUICK = Suite(
    "quick",
    parts=((("clean", "fgsm", "pgd-20"), ("clean",)),),
    summary="a minute on a CPU: clean accuracy and two gradient attacks",
)

STANDARD = Suite(
    "standard",
    parts=((("clean", "aa"), ("clean",)),),
    summary="AutoAttack, standard version: four attacks, each on the images that stand",
)

BLACKBOX = Suite(
    "blackbox",
    parts=((("clean", "square-5000", "signhunter", "nes", "simba", "rays", "hopskipjump"), ("clean",)),),
    summary="attacks that see scores alone, or labels alone: 5,000 or 10,000 questions an image (Linf)",
)

# CIFAR-10-C's: the fifteen of its tables, and the four that were kept for validation.
CORRUPTIONS = (
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur",
    "snow", "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression",
    "speckle_noise", "gaussian_blur", "spatter", "saturate",
)  # fmt: skip
CORRUPTED = tuple(f"{name}:{severity}" for name in CORRUPTIONS for severity in Condition.SEVERITIES)

CORRUPTION_SUITE = Suite(
    "corruptions",
    parts=((("clean",), CORRUPTED),),
    summary="accuracy under the 19 corruptions of CIFAR-10-C at five severities, for images of 28 pixels or more",
)

OFFICIAL_SUITE = Suite(
    "corruptions-official",
    parts=((("clean",), tuple(f"official/{condition}" for condition in CORRUPTED)),),
    summary="the same on the published images: CIFAR-10-C, CIFAR-100-C or Tiny-ImageNet-C, in the data folder",
)

FULL = Suite(
    "full",
    parts=(
        (
            (
                "clean", "fgsm", "pgd-20", "pgd-100", "cw", "fmn-100", "mma", "aa", "mde", "square-5000", "spsa",
            ),
            ("clean",),
        ),
        (("clean",), CORRUPTED),
    ),
    summary="every column on clean images, and clean under the 19 corruptions at five severities",
)  # fmt: skip

# PART (ICML 2024), by its public code: 20 steps of 2/255 (SVHN: 1/255) at 8/255, the last image of every image.
PART_PGD = Column("part-pgd-20", ("pgd(steps=20, step=0.25)",), strict=False)
PART_SVHN_PGD = Column("part-svhn-pgd-20", ("pgd(steps=20, step=0.125)",), strict=False)
PART_SVHN_MMA = Column("part-svhn-mma", ("mma(steps=20, step=0.125)",), strict=False)
PART = Suite(
    "part",
    parts=((("clean", "part-pgd-20", "mma", "aa-ta10", "aa"), ("clean",)),),
    summary="PART's tables on CIFAR-10; its AutoAttack is aa-ta10, and aa is beside it",
    threat="linf:8/255",
    weights=("last",),
)
PART_SVHN = Suite(
    "part-svhn",
    parts=((("clean", "part-svhn-pgd-20", "part-svhn-mma", "aa-ta10", "aa"), ("clean",)),),
    summary="PART's tables on SVHN",
    threat="linf:8/255",
    weights=("last",),
)

# VIR: steps of 1/255, at 0.031 as its tables' captions say; on Tiny-ImageNet at 8/255, with PGD-20.
_VIR_STEP, _VIR_TINY_STEP = 1 / 255 / 0.031, 0.125
VIR_PGD_100 = Column("vir-pgd-100", (f"pgd(steps=100, step={_VIR_STEP!r})",))
VIR_CW = Column("vir-cw", (f"cw(steps=20, step={_VIR_STEP!r})",))
VIR_TINY_PGD_20 = Column("vir-tiny-pgd-20", (f"pgd(steps=20, step={_VIR_TINY_STEP!r})",))
VIR_TINY_CW = Column("vir-tiny-cw", (f"cw(steps=20, step={_VIR_TINY_STEP!r})",))
VIR = Suite(
    "vir",
    parts=((("clean", "fgsm", "vir-pgd-100", "vir-cw", "fmn-100", "aa", "mde", "square-5000", "spsa"), ("clean",)),),
    summary="VIR's tables on CIFAR-10, CIFAR-100 and SVHN",
    threat="linf:0.031",
)
VIR_TINY = Suite(
    "vir-tiny",
    parts=((("clean", "fgsm", "vir-tiny-pgd-20", "vir-tiny-cw", "fmn-100", "aa", "mde"), ("clean",)),),
    summary="VIR's table on Tiny-ImageNet",
    threat="linf:8/255",
)
