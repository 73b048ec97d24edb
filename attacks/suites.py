"""The published exams: columns and suites, as constants."""

from __future__ import annotations

from bench import Column, Suite

PGD_20 = Column("pgd-20", ("pgd(steps=20, step=0.25)",))
PGD_100 = Column("pgd-100", ("pgd(steps=100, step=0.125)",))
CW = Column("cw", ("cw(steps=20, step=0.25)",))
MMA = Column("mma", ("mma(steps=20, step=0.25)",), strict=False)  # MMA (PART), on all images as its code scores it
FMN_100 = Column("fmn-100", ("fmn(steps=100)",))
SQUARE_5000 = Column("square-5000", ("square(queries=5000)",))
AA = Column("aa", ("apgd-ce", "apgd-t", "fab-t", "square(queries=5000)"))
# AutoAttack's other published forms.
AA_PLUS = Column(
    "aa-plus",
    ("apgd-ce(restarts=5)", "apgd-dlr(restarts=5)", "fab(restarts=5)", "square(queries=5000)", "apgd-t", "fab-t"),
)
AA_RAND = Column("aa-rand", ("apgd-ce(eot=20)", "apgd-dlr(eot=20)"))  # for models that draw random numbers
AA_L1 = Column("aa-l1", ("apgd-ce(restarts=5)", "apgd-t(targets=5)", "fab-t", "square(queries=5000)"))
# What torchattacks calls AutoAttack: its members at that library's defaults, weaker than AutoAttack's.
AA_TA10 = Column(
    "aa-ta10", ("apgd-ce(steps=10)", "apgd-t(steps=10)", "fab-t(steps=10)", "square(queries=5000, rescale=True)")
)
# The reference implementation, in Linf and L2: verdicts depend on the batch, so it is for comparison alone.
AA_REFERENCE = Column("aa-reference", ("reference-apgd-ce", "reference-apgd-t", "reference-fab-t", "reference-square"))
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

FULL = Suite(
    "full",
    parts=((("clean", "fgsm", "pgd-20", "pgd-100", "cw", "mma", "aa", "mde", "square-5000"), ("clean",)),),
    summary="every column, on clean images",
)
