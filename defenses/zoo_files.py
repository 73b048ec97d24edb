"""Where the weights of RobustBench's models lie, and which part of the net each file is for."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, replace

from bench import Published
from defenses.zoo_lock import Source
from defenses.zoo_names import Weights
from defenses.zoo_robustbench import addresses

DRIVE = (  # both give large files without a page in between
    "https://drive.usercontent.google.com/download?id={id}&export=download&confirm=t",
    "https://docs.google.com/uc?export=download&confirm=t&id={id}",
)
# The package loads these with strict=False: their files hold weights that the net has no place for.
LOOSE = (
    "Andriushchenko2020Understanding", "Augustin2020Adversarial", "Augustin2020Adversarial_34_10",
    "Augustin2020Adversarial_34_10_extra", "Bai2024MixedNUTS", "Chen2020Efficient", "Diffenderfer2021Winning_Binary",
    "Diffenderfer2021Winning_Binary_CARD_Deck", "Diffenderfer2021Winning_LRR",
    "Diffenderfer2021Winning_LRR_CARD_Deck", "Engstrom2019Robustness", "Hendrycks2020AugMix_ResNeXt",
    "Hendrycks2020AugMix_WRN", "Huang2022Revisiting_WRN-A4", "Kireev2021Effectiveness_AugMixNoJSD",
    "Kireev2021Effectiveness_Gauss50percent", "Kireev2021Effectiveness_RLAT", "Kireev2021Effectiveness_RLATAugMix",
    "Kireev2021Effectiveness_RLATAugMixNoJSD", "Pang2020Boosting", "Rice2020Overfitting", "Rony2019Decoupling",
    "Wong2020Fast", "Wu2020Adversarial",
)  # fmt: skip
LAST = (
    "Kireev2021Effectiveness",
    "Andriushchenko2020Understanding",
)  # they hold `last` and `best`; the board's is last


@dataclass(frozen=True)
class Piece:
    """A file, what of it is taken, and the submodule that it is for; the empty place is the whole net."""

    source: Source
    place: str = ""
    entry: str = ""
    extras: bool = False  # whether it may hold weights that the net has no place for

    def renamed(self, weights: Weights, wanted: Collection[str]) -> Weights:
        """The weights of a Swin transformer under the names that timm has given its parts since."""
        ours, theirs = (any(k.endswith("head.fc.weight") for k in names) for names in (wanted, weights.state))
        if not ours or theirs or not any(k.endswith("relative_position_bias_table") for k in wanted):
            return weights
        fixed = ("relative_position_index", "attn_mask")  # follow from the size, and are not kept any more
        kept = {_swin(k): v for k, v in weights.state.items() if not k.endswith(fixed)}
        return Weights(kept, [*weights.steps, "timm's older names for the parts of a Swin transformer"])


def files(record: Published) -> tuple[Piece, ...]:
    """The files of a model, in the order in which the package lists them."""
    urls = _addresses(record)
    whole = Piece(_source(urls[0], record), extras=record.name in LOOSE or record.dataset == "imagenet")
    if len(urls) == 1:
        return (replace(whole, entry="last" if record.name.startswith(LAST) else ""),)
    if record.name.startswith("Bai2023Improving"):
        places = [("comp_model.models.0", ""), ("comp_model.models.1", "")]
        places += [("comp_model.policy_net", "model"), ("comp_model.bn", "bn")]
    elif record.name == "Bai2024MixedNUTS":
        places = [("std_model", ""), ("rob_model", "")]
    else:
        places = [(f"models.{i}", "") for i in range(len(urls))]
    return tuple(
        replace(whole, source=_source(urls[min(i, len(urls) - 1)], record), place=place, entry=entry)
        for i, (place, entry) in enumerate(places)
    )


def _addresses(record: Published) -> list[str]:
    """The addresses of a model's files: ids of Google Drive are written out as the first of their addresses."""
    given = addresses(record.name, record.dataset, record.threat)
    return [given_one if "://" in given_one else DRIVE[0].format(id=given_one) for given_one in given]


def _source(url: str, record: Published) -> Source:
    """A file, its other address if it has one, and how to go on by hand."""
    manual = f"or fetch {url} in a browser, and name the file: robustbench(model={record.name!r}, path='FILE')"
    drive = re.search(r"[?&]id=([\w-]+)", url)
    tried = tuple(address.format(id=drive[1]) for address in DRIVE) if drive else ()
    return Source(url, tried, licence=lambda: record.licence, manual=manual, name=f"{record.name}.pt")


def _swin(name: str) -> str:
    """The name that timm now gives a part: a stage's downsampling belongs to the next one, the head has an fc."""
    later = re.sub(r"\blayers\.(\d+)\.downsample", lambda m: f"layers.{int(m[1]) + 1}.downsample", name)
    return re.sub(r"(^|\.)head\.(weight|bias)$", r"\1head.fc.\2", later)
