"""Numbers and names as people read them."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping

_UNSEEN = "\N{REPLACEMENT CHARACTER}"


def printable(text: str) -> str:
    """The text on one line, with no character that steers a terminal, a parser or the direction of writing."""
    line = " ".join(text.split())
    # Most names are plain, and a large site has millions of them.
    return line if line.isascii() and line.isprintable() else "".join(_UNSEEN if _steers(c) else c for c in line)


def _steers(character: str) -> bool:
    # Cc controls, Cf formats (bidi overrides among them), Cs surrogates, Cn what Unicode has not assigned.
    return unicodedata.category(character) in {"Cc", "Cf", "Cs", "Cn"}


def short(key: str) -> str:
    """A recipe's key or a condition as it would be typed: `fog@1():3` is `fog:3`; a version above 1 stays.

    Of published images only the start of their hash is shown, `official/fog#0123456:3`.
    """
    key = re.sub(r"\(images='([0-9a-f]{7})[0-9a-f]{57}'\)", r"#\1", key)
    return re.sub(r"@1(?![0-9])", "", key).replace("()", "")


def name_of(key: str) -> str:
    """The plugin's name in a recipe's key."""
    return key.partition("@")[0].partition("(")[0]


def natural(text: str) -> tuple[tuple[str, int], ...]:
    """A sort key by which pgd-20 comes before pgd-100."""
    return tuple((word, int(digits or 0)) for word, digits in re.findall(r"([^0-9]*)([0-9]{0,18})", text))


def told_apart(names: Mapping[str, str]) -> dict[str, str]:
    """Key to name, with a piece of the key behind each name that several keys share."""
    shared = Counter(names.values())
    return {key: name if shared[name] == 1 else f"{name} #{key[:7]}" for key, name in names.items()}


def percent(share: float) -> str:
    """A share of 1 as a percentage with one decimal, without the sign."""
    return f"{100 * share:.1f}"


def amount(value: float) -> str:
    """A count in three figures: 950, 11.2 k, 3.46 M."""
    if value < 1000:
        return f"{value:.0f}"
    power = min(4, int(math.log10(value) // 3))
    if f"{value / 1000**power:.0f}" == "1000" and power < 4:  # 999,999 is 1.00 M
        power += 1
    scaled = value / 1000**power
    digits = 2 if scaled < 9.995 else 1 if scaled < 99.95 else 0
    return f"{scaled:.{digits}f} {'kMGT'[power - 1]}"


def duration(seconds: float) -> str:
    """A time in two or three figures: 3.2 s, 48 s, 12 min, 5.1 h, 2.3 d."""
    for unit, size in (("s", 60), ("min", 60), ("h", 48)):
        if seconds < size:
            return f"{seconds:.{1 if seconds < 9.95 else 0}f} {unit}"
        seconds /= 24 if unit == "h" else 60
    return f"{seconds:.1f} d"
