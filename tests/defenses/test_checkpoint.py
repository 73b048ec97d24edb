"""Weights files, good and bad."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from bench import IncompleteError, IntegrityError, Part, RampartError, Shape, ThreatModel, TrainJob, UsageError
from defenses.checkpoint import checkpoint, pin
from defenses.zoo_names import Weights, fit


def job(tmp_path: Path) -> TrainJob:
    part = Part(np.zeros((1, 1, 2, 2), np.uint8), np.zeros(1, np.int64))
    return TrainJob(
        train=part, val=part, shape=Shape(3, 1, 2), build=lambda: nn.Sequential(nn.Flatten(), nn.Linear(4, 3)),
        threat=ThreatModel.parse("linf:0.1"), seed=0, device=torch.device("cpu"), scratch=tmp_path, report=print,
    )  # fmt: skip


@pytest.fixture
def state() -> dict[str, Tensor]:
    return {"1.weight": torch.arange(12.0).view(3, 4), "1.bias": torch.ones(3)}


def load(tmp_path: Path, content: object, name: str = "w.pth") -> nn.Module:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif name.endswith(".safetensors"):
        save_file(content, path)  # type: ignore[arg-type]
    else:
        torch.save(content, path)
    return checkpoint(job(tmp_path), path=str(path))


def test_every_common_layout_is_understood(
    tmp_path: Path, state: dict[str, Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    """Plain, safetensors, nested, in a list, and with `module.`: the same weights, and it says what it took."""
    wrapped = {f"module.{k}": v for k, v in state.items()}
    other = {k: v + 1 for k, v in state.items()}
    for content, name, said in (
        (state, "w.pth", ""),
        (state, "w.safetensors", ""),
        ({"state_dict": state, "epoch": 3}, "w.pth", "its 'state_dict'"),
        ([state, 1], "w.pth", "the first of a list"),
        ({"model": wrapped}, "w.pth", "its 'model', then 'module.' off the names"),
        (
            {"net": {f"_orig_mod.{k}": v for k, v in wrapped.items()}},
            "w.pth",
            "'_orig_mod.' off the names, then 'module",
        ),
        ({"model": state, "ema": other}, "w.pth", "its 'model' (and not 'ema'; entry='ema' takes that)"),
        ({"ema": {f"model.{k}": v.double() for k, v in state.items()}}, "w.pth", "its 'ema', then 'model.' off"),
        ({"state_dict": state, "best_acc": np.float64(0.5), "counts": np.int64(3)}, "w.pth", "its 'state_dict'"),
    ):
        model = load(tmp_path, content, name)
        assert torch.equal(model.state_dict()["1.weight"], state["1.weight"])
        assert said in capsys.readouterr().out


def test_an_entry_may_be_chosen(tmp_path: Path, state: dict[str, Tensor]) -> None:
    """`entry` names it, also inside another; a wrong one is an error that names the nearest."""
    other = {k: v + 1 for k, v in state.items()}
    torch.save({"model": state, "nets": {"teacher": other}}, tmp_path / "w.pth")
    model = checkpoint(job(tmp_path), path=str(tmp_path / "w.pth"), entry="nets.teacher")
    assert torch.equal(model.state_dict()["1.weight"], other["1.weight"])
    with pytest.raises(UsageError, match="did you mean 'model'"):
        checkpoint(job(tmp_path), path=str(tmp_path / "w.pth"), entry="modle")


def test_counters_that_old_versions_did_not_keep_may_be_missing(tmp_path: Path) -> None:
    """BatchNorm of before torch 0.4.1 has no num_batches_tracked; nothing else of it may be missing."""
    net = nn.BatchNorm2d(2)
    state = {k: v + 1 for k, v in net.state_dict().items() if k != "num_batches_tracked"}
    assert fit("w", Weights(dict(state)), net.state_dict()).state.keys() == net.state_dict().keys()
    del state["running_var"]
    with pytest.raises(UsageError, match="running_var"):
        fit("w", Weights(dict(state)), net.state_dict())


class Bomb:
    """A pickle that would run a command."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch bombed",)


@pytest.mark.parametrize(
    ("content", "error", "said"),
    [
        ({"state_dict": Bomb()}, IntegrityError, "weights alone"),
        (b"<html>Not found</html>", IntegrityError, "a web page"),
        (b"", IntegrityError, "is empty"),
        ({"epoch": 3}, IntegrityError, "no state_dict in the file .*, but: epoch"),
        ({"1.weight": torch.ones(3, 4)}, UsageError, r"missing \['1.bias'\]"),
        ({"1.weight": torch.ones(3, 5), "1.bias": torch.ones(3)}, UsageError, r"is \(3, 5\), the net's is \(3, 4\)"),
        ({"1.weight": torch.full((3, 4), torch.nan), "1.bias": torch.ones(3)}, IntegrityError, "not numbers"),
        ({"1.weight": torch.ones(3, 4), "1.bias": torch.ones(3), "2": torch.ones(1)}, UsageError, r"net \['2'\]"),
    ],
)  # fmt: skip
def test_every_bad_file_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: object, error: type[RampartError], said: str
) -> None:
    """Pickles that carry code, pages saved as weights, wrong names and shapes, and NaN; nothing is executed."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=said):
        load(tmp_path, content)
    assert not (tmp_path / "bombed").exists()


def test_a_truncated_file_is_refused(tmp_path: Path, state: dict[str, Tensor]) -> None:
    """Both formats, at several lengths."""
    torch.save(state, tmp_path / "w.pth")
    save_file(state, tmp_path / "w.safetensors")
    for name in ("w.pth", "w.safetensors"):
        whole = (tmp_path / name).read_bytes()
        for length in (1, len(whole) // 2, len(whole) - 5):
            with pytest.raises(IntegrityError):
                load(tmp_path, whole[:length], name)


def test_the_hash_is_filled_in_or_checked(tmp_path: Path, state: dict[str, Tensor]) -> None:
    """What is keyed is the content, never the path."""
    path = tmp_path / "w.pth"
    torch.save(state, path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert pin({"path": str(path), "sha256": ""})["sha256"] == sha256
    with pytest.raises(IntegrityError, match=f"has the sha256 {sha256}; expected {'0' * 64}"):
        pin({"path": str(path), "sha256": "0" * 64})
    with pytest.raises(IncompleteError, match="No such file"):
        pin({"path": str(tmp_path / "none"), "sha256": ""})
    recipe = checkpoint.recipe(path=str(path), sha256=sha256)
    assert str(path) not in recipe.key
    assert sha256 in recipe.key
