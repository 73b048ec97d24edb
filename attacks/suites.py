"""The published exams: columns and suites, as constants."""

from __future__ import annotations

from bench import Column, Suite

PGD_20 = Column("pgd-20", ("pgd(steps=20, step=0.25)",))
PGD_100 = Column("pgd-100", ("pgd(steps=100, step=0.125)",))
CW = Column("cw", ("cw(steps=20, step=0.25)",))
MMA = Column("mma", ("mma(steps=20, step=0.25)",), strict=False)  # MMA (PART), on all images as its code scores it
SQUARE_5000 = Column("square-5000", ("square(queries=5000)",))
AA = Column("aa", ("apgd-ce", "apgd-t", "fab-t", "square(queries=5000)"))
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

FULL = Suite(
    "full",
    parts=((("clean", "fgsm", "pgd-20", "pgd-100", "cw", "mma", "aa", "mde", "square-5000"), ("clean",)),),
    summary="every column, on clean images",
)
