"""More than 200 weights files that are malicious or damaged: each is refused by name, and none runs code."""

import builtins
import gzip
import importlib
import io
import json
import os
import pickle
import runpy
import shutil
import struct
import subprocess
import tarfile
import timeit
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save as save_safetensors
from torch import nn

from bench import IntegrityError, Part, RampartError, Shape, ThreatModel, TrainJob
from defenses.checkpoint import checkpoint

LEAST = 200


def weights():
    """Weights that fit the net of `job`."""
    return {"1.weight": torch.arange(12.0).view(3, 4) + 1, "1.bias": torch.ones(3)}


def job(tmp_path):
    part = Part(np.zeros((1, 1, 2, 2), np.uint8), np.zeros(1, np.int64))
    return TrainJob(
        train=part, val=part, shape=Shape(3, 1, 2), build=lambda: nn.Sequential(nn.Flatten(), nn.Linear(4, 3)),
        threat=ThreatModel.parse("linf:0.1"), seed=0, device=torch.device("cpu"), scratch=tmp_path, report=print,
    )  # fmt: skip


class Bomb:
    """A pickle that would call something."""

    def __init__(self, call, *args):
        self.call = call, args

    def __reduce__(self):
        return self.call


def bombs(marker, folder):
    """Calls that would leave the marker file, by name."""
    touch = f"open({str(marker)!r}, 'w')"
    script = folder / "payload.py"
    script.write_text(touch)
    yield "system", Bomb(os.system, f"touch {marker}")
    yield "popen", Bomb(os.popen, f"touch {marker}")
    yield "subprocess", Bomb(subprocess.call, ("touch", str(marker)))
    yield "Popen", Bomb(subprocess.Popen, ("touch", str(marker)))
    yield "eval", Bomb(builtins.eval, touch)
    yield "exec", Bomb(builtins.exec, touch)
    yield "open", Bomb(builtins.open, str(marker), "w")
    yield "io-open", Bomb(io.open, str(marker), "w")
    yield "path", Bomb(Path.touch, marker)
    yield "mkdir", Bomb(os.mkdir, str(marker))
    yield "copy", Bomb(shutil.copyfile, str(script), str(marker))
    yield "symlink", Bomb(os.symlink, str(script), str(marker))
    yield "runpy", Bomb(runpy.run_path, str(script))
    yield "timeit", Bomb(timeit.timeit, touch, "pass", timeit.default_timer, 1)
    yield "import", Bomb(importlib.import_module, "antigravity")
    yield "loads", Bomb(pickle.loads, pickle.dumps(Bomb(os.system, f"touch {marker}")))
    yield "torch-hub", Bomb(torch.hub.load, str(folder), "payload", "local")
    yield "savetxt", Bomb(np.savetxt, str(marker), [1])
    yield "savez", Bomb(np.savez, str(marker))
    yield "getattr", Bomb(builtins.getattr, "x", "upper")


def zipped(thing):
    """As torch.save writes since 1.6."""
    buffer = io.BytesIO()
    torch.save(thing, buffer)
    return buffer.getvalue()


def legacy(thing):
    """As torch.save wrote before."""
    buffer = io.BytesIO()
    torch.save(thing, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def folded(times):
    """A tuple of 2^times parts, in a few bytes: to hash it, as a key of a dictionary, takes for ever."""
    whole = ()
    for _ in range(times):
        whole = (whole, whole)
    return whole


def rezipped(content, change, how=zipfile.ZIP_STORED):
    """A torch file whose entries were changed: (name, bytes) to bytes, or None to leave one out."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w", how) as new:
        for entry in old.infolist():
            changed = change(entry.filename, old.read(entry))
            if changed is not None:
                new.writestr(entry.filename, changed)
    return buffer.getvalue()


def in_pickle(old, new):
    """A change of the structure of a torch file."""

    def change(name, content):
        if name.endswith("data.pkl"):
            assert old in content
            return content.replace(old, new)
        return content

    return rezipped(zipped(weights()), change)


def flipped(content, place):
    """One bit turned."""
    spoilt = bytearray(content)
    spoilt[place] ^= 0x10
    return bytes(spoilt)


def tarred(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def bomb_files(marker, folder):
    """Pickles that carry code: in every format, and hidden in several places."""
    for name, bomb in bombs(marker, folder):
        yield f"{name}-zip", zipped({"state_dict": bomb})
        yield f"{name}-legacy", legacy({**weights(), "extra": bomb})
        for protocol in (0, 2, 4, 5):
            yield f"{name}-bare-{protocol}", pickle.dumps(bomb, protocol)
    bomb = Bomb(os.system, f"touch {marker}")
    ordered = OrderedDict(weights())
    ordered._metadata = bomb
    parameter = nn.Parameter(torch.ones(3))
    parameter.hook = bomb
    for name, thing in (
        ("alone", bomb),
        ("key", {(1, Hashable(marker)): 1}),
        ("in-list", [weights(), [bomb]]),
        ("deep", {"state_dict": {"a": {"b": [{"c": (1, bomb)}]}}}),
        ("metadata", ordered),
        ("on-a-parameter", {**weights(), "1.bias": parameter}),
        ("objects", {**weights(), "1.bias": np.array([bomb], dtype=object)}),
        ("module", nn.Sequential(nn.Flatten(), nn.Linear(4, 3))),
        ("optimizer", {"model": weights(), "args": __import__("argparse").Namespace(lr=bomb)}),
    ):
        yield f"hidden-{name}-zip", zipped(thing)
        yield f"hidden-{name}-legacy", legacy(thing)
    yield "tar", tarred({"storages": pickle.dumps(bomb), "tensors": pickle.dumps(bomb), "pickle": pickle.dumps(bomb)})
    yield "second-pickle", rezipped(zipped(weights()), lambda _, c: c) + pickle.dumps(bomb) * 9000
    yield "torchscript", scripted()
    yield "code-in-data.pkl", rezipped(zipped(weights()), lambda n, c: pickle.dumps(bomb) if "data.pkl" in n else c)
    yield "wanted-by-name", in_pickle(b"ctorch._utils\n_rebuild_tensor_v2\n", b"cposix\nsystem\n")


class Hashable(Bomb):
    """A bomb that may be a key."""

    def __init__(self, marker):
        super().__init__(os.system, f"touch {marker}")

    def __hash__(self):
        return 1


def scripted():
    """A program of TorchScript: a torch file that also has code."""
    buffer = io.BytesIO(zipped(weights()))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("archive/constants.pkl", pickle.dumps(()))
        archive.writestr("archive/code/__torch__.py", "class Net(Module): pass")
    return buffer.getvalue()


def cut_files():
    """Each format, cut short at many lengths."""
    safe = save_safetensors(weights())
    for name, whole, count in (("zip", zipped(weights()), 24), ("legacy", legacy(weights()), 16), ("safe", safe, 12)):
        for i in range(count):
            length = 1 + (len(whole) - 2) * i // (count - 1)
            yield f"cut-{name}-{length}", whole[:length]


def flipped_files():
    """One bit turned in the numbers or the structure of a zip, or in the header of safetensors."""
    whole = zipped(weights())
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        for entry in archive.infolist():
            length = struct.unpack("<HH", whole[entry.header_offset + 26 : entry.header_offset + 30])
            start = entry.header_offset + 30 + sum(length)
            for i in range(0, entry.file_size, max(1, entry.file_size // 4)):
                yield f"flipped-{entry.filename.rpartition('/')[2]}-{i}", flipped(whole, start + i)
    header = save_safetensors(weights())
    for place in (0, 1, 3, 6, 8, 10, 12):
        yield f"flipped-safetensors-{place}", flipped(header, place)


def header(described, content=b"", length=None):
    """Safetensors with a header of one's own."""
    text = described if isinstance(described, bytes) else json.dumps(described).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + content


def false_claims():
    """Files that claim what they do not have: lengths, sizes, shapes, views."""
    one = {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}
    for length in (2**63 - 1, 2**40, 200_000_000, 1000):
        yield f"header-claims-{length}", header({"1.bias": one}, bytes(12), length)
    for name, changed in (
        ("huge-shape", {**one, "shape": [2**40]}),
        ("overflowing-shape", {**one, "shape": [2**33, 2**33]}),
        ("negative-shape", {**one, "shape": [-3]}),
        ("offsets-beyond", {**one, "data_offsets": [0, 2**40]}),
        ("offsets-backwards", {**one, "data_offsets": [12, 0]}),
        ("unknown-dtype", {**one, "dtype": "Q99"}),
        ("no-offsets", {"dtype": "F32", "shape": [3]}),
    ):
        yield f"safetensors-{name}", header({"1.bias": changed}, bytes(12))
    yield "safetensors-overlap", header({"1.bias": one, "1.weight": one}, bytes(12))
    yield "safetensors-nested", header(b'{"a":' * 5000 + b"1" + b"}" * 5000)
    yield "safetensors-not-json", header(b"{" + b"x" * 100)
    yield "safetensors-empty", header({})
    yield (
        "zip-bomb",
        rezipped(zipped(weights()), lambda n, c: bytes(50_000_000) if "data/0" in n else c, zipfile.ZIP_DEFLATED),
    )
    yield "zip-compressed", rezipped(zipped(weights()), lambda _, c: c, zipfile.ZIP_DEFLATED)
    yield "zip-without-pickle", rezipped(zipped(weights()), lambda n, c: None if "data.pkl" in n else c)
    yield "zip-without-numbers", rezipped(zipped(weights()), lambda n, c: None if "data/" in n else c)
    yield "zip-of-nothing", rezipped(zipped(weights()), lambda *_: None)
    yield "zip-short-numbers", rezipped(zipped(weights()), lambda n, c: c[:4] if "data/" in n else c)
    yield "zip-twice", doubled(zipped(weights()))
    yield "zip-claims-more", claiming(zipped(weights()))
    yield "storage-claims-more", in_pickle(b"K\x0c", b"J\xff\xff\xff\x7f")
    yield (
        "greedy-bytearray",
        rezipped(
            zipped(weights()),
            lambda n, c: b"\x80\x02cbuiltins\nbytearray\n\x8a\x06\x00\x00\x00\x00\x00\x01\x85R." if "pkl" in n else c,
        ),
    )
    yield (
        "greedy-tensor",
        rezipped(
            zipped(weights()),
            lambda n, c: b"\x80\x02ctorch\nFloatTensor\n\x8a\x06\x00\x00\x00\x00\x00\x01\x85R." if "pkl" in n else c,
        ),
    )
    view = torch.ones(1).expand(10**9)
    yield "view-of-one-number", zipped({"1.weight": view, "1.bias": torch.ones(3)})
    same = torch.ones(100_000)
    yield "views-of-the-same", zipped({str(i): same for i in range(100)})


def doubled(content):
    """A zip that has every name twice."""
    buffer = io.BytesIO(content)
    with zipfile.ZipFile(buffer, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr(archive.namelist()[0], b"again")
    return buffer.getvalue()


def claiming(content):
    """A zip whose directory claims a terabyte of an entry."""
    place = content.index(b"PK\x01\x02") + 20
    return content[:place] + struct.pack("<II", 2**31, 2**31) + content[place + 8 :]


def wrong_weights():
    """Files that are whole, and hold other weights than the net's, or none."""
    good = weights()
    for name, thing in (
        ("missing", {"1.weight": good["1.weight"]}),
        ("extra", {**good, "2.weight": torch.ones(1)}),
        ("other-names", {"a": torch.ones(1), "b": torch.ones(2)}),
        ("shape", {**good, "1.bias": torch.ones(4)}),
        ("scalar", {**good, "1.bias": torch.tensor(1.0)}),
        ("transposed", {**good, "1.weight": torch.ones(4, 3)}),
        ("nan", {**good, "1.bias": torch.tensor([1, torch.nan, 1])}),
        ("inf", {**good, "1.bias": torch.tensor([1, torch.inf, 1])}),
        ("minus-inf-in-half", {**good, "1.bias": torch.tensor([1, -torch.inf, 1]).half()}),
        ("nan-complex", {**good, "1.bias": torch.full((3,), complex(torch.nan, 0))}),
        ("sparse", {**good, "1.weight": torch.eye(4)[:3].to_sparse()}),
        ("meta", {**good, "1.bias": torch.ones(3, device="meta")}),
        ("tensor-alone", torch.ones(3)),
        ("number", 5),
        ("text", "weights"),
        ("nothing", None),
        ("empty-dict", {}),
        ("empty-list", []),
        ("list-of-lists", [[[[[[[[[[good]]]]]]]]]]),
        ("epochs-only", {"epoch": 3, "best": 0.5}),
        ("half-a-state", {"state_dict": {**good, "epoch": 3}}),
        ("escapes", {"\x1b[2J" + "x" * 100_000: 1}),
        ("escapes-as-names", {"\x1b[2J" + "x" * 100_000: torch.ones(1)}),
    ):
        yield f"wrong-{name}", zipped(thing)
    yield "wrong-safetensors", save_safetensors({"a": torch.ones(1)})


def other_files():
    """What a failed download, or a wrong file, leaves."""
    yield "empty", b""
    yield "blank", b"\n" * 100
    yield "zeros", bytes(1000)
    yield "html", b"<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head></html>"
    yield "html-bare", b"<html>Not found</html>"
    yield "html-later", b"\n\n  <HTML>Sign in</HTML>"
    yield "xml", b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>'
    yield "json", b'{"error": "Invalid username or password."}'
    yield "text", b"Entry not found"
    yield "lfs", b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4" * 64 + b"\nsize 1234\n"
    yield "gzip", gzip.compress(zipped(weights()))
    yield "tar-of-weights", tarred({"w.pth": zipped(weights())})
    yield "npy", b"\x93NUMPY\x01\x00" + bytes(100)
    yield "hdf5", b"\x89HDF\r\n\x1a\n" + bytes(100)
    yield "program", b"\x7fELF" + bytes(100)
    yield "script", b"#!/bin/sh\ntouch bombed\n"
    yield "zip-of-text", zip_of_text()
    yield "bare-of-escapes", b"\x80\x02c\x1b[2J" + b"x" * 100_000 + b"\ny\n."
    yield "html-of-escapes", b"<html><title>\x1b[2J gone</title>"
    yield "noise", np.random.default_rng(0).bytes(5000)


def zip_of_text():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("readme.txt", "weights are elsewhere")
    return buffer.getvalue()


def odd_places(folder):
    """What is no file: made in the folder, by name."""
    (folder / "folder.pth").mkdir()
    (folder / "loop.pth").symlink_to(folder / "loop2.pth")
    (folder / "loop2.pth").symlink_to(folder / "loop.pth")
    (folder / "dangling.pth").symlink_to(folder / "nowhere")
    os.mkfifo(folder / "pipe.pth")
    (folder / "to-folder.pth").symlink_to(folder / "folder.pth")
    (folder / "file").write_bytes(b"x")
    return ("folder.pth", "loop.pth", "dangling.pth", "pipe.pth", "to-folder.pth", "absent.pth", "file/inside.pth")


def test_every_malicious_or_damaged_file_is_refused_and_none_runs_code(tmp_path):
    """At least 200 files and places; each error names it; the marker that code would leave is not there."""
    marker = tmp_path / "bombed"
    contents = [
        *bomb_files(marker, tmp_path), *cut_files(), *flipped_files(), *false_claims(), *wrong_weights(), *other_files()
    ]  # fmt: skip
    names = []
    for name, content in contents:
        path = tmp_path / f"{name}.pth"
        path.write_bytes(content)
        names.append(path.name)
    names += odd_places(tmp_path)
    assert len(set(names)) == len(names) >= LEAST
    accepted, unnamed = [], []
    for name in names:
        with pytest.MonkeyPatch.context() as here:
            here.chdir(tmp_path)
            try:
                checkpoint(job(tmp_path), path=str(tmp_path / name))
            except RampartError as error:
                if Path(name).name not in str(error) or len(str(error)) > 1000 or not str(error).isprintable():
                    unnamed.append((name, str(error)))
            else:
                accepted.append(name)
        assert not marker.exists(), f"{name} ran code"
    assert not accepted
    assert not unnamed


def test_the_bombs_are_live(tmp_path):
    """What the files carry would run, were they read carelessly: a pickle that is loaded leaves the marker."""
    marker = tmp_path / "bombed"
    (tmp_path / "w.pth").write_bytes(legacy({"state_dict": Bomb(os.system, f"touch {marker}")}))
    torch.load(tmp_path / "w.pth", weights_only=False)
    assert marker.exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<!doctype html><title>Quota exceeded</title>", "a web page ('Quota exceeded')"),
        (b'{"message": "Not Found"}', "a text, by its beginning JSON"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4" * 64, "pointer of git-lfs"),
        (b"", "is empty"),
        (zipped({"w": Bomb(os.system, "true")}), "its pickle asks for posix.system"),
        (legacy({"w": Bomb(subprocess.Popen, "true")}), "its pickle asks for subprocess.Popen"),
        (pickle.dumps(Bomb(os.system, "true"), 4), "a bare pickle that asks for posix.system"),
        (pickle.dumps(Bomb(os.system, "true"), 0), "a bare pickle that asks for posix.system"),
        (pickle.dumps(weights(), 0), "a bare pickle that asks for torch.storage._load_from_bytes"),
        (zipped({"w": folded(60)}), "a pickle bomb"),
        (legacy({"w": folded(60)}), "a pickle bomb"),
        (tarred({"pickle": b"x"}), "a tar archive"),
        (header({}, length=2**62), "its safetensors header claims 4,611,686,018,427,387,904 bytes"),
        (zipped(weights())[:900], "a damaged zip, probably cut short"),
        (scripted(), "a TorchScript program"),
        (rezipped(zipped(weights()), lambda _, c: c, zipfile.ZIP_DEFLATED), "a compressed or locked zip"),
        (zipped({"w": torch.ones(1).expand(10**9)}), "w claims 4,000,000,000 bytes and brings 4"),
    ],
)
def test_the_reason_is_said(tmp_path, content, said):
    """What the file is, or which name its pickle asked for; always exit 5."""
    path = tmp_path / "w.pth"
    path.write_bytes(content)
    with pytest.raises(IntegrityError) as raised:
        checkpoint(job(tmp_path), path=str(path))
    assert said in str(raised.value)
    assert raised.value.exit_code == 5
