"""Weights and data files that were changed in any way: read as what they are, or refused by a clear error."""

import gzip
import io
import pickle
import random
import shutil
import struct
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save as save_safetensors
from torch import nn

from bench import Part, RampartError, Shape, ThreatModel, TrainJob
from bench.extra import extra_images
from data.mnist import read_idx
from defenses.checkpoint import checkpoint
from tests.conftest import TINY
from tests.fuzzing import CODES, SEEN, call, folder, often, spoilt_bytes, tally

__all__ = ["tally"]
SEEDS = st.integers(0, 2**32)
PLAN = ("plan", "--net", "tiny", "--plugin", str(TINY), "--defense", "quick", "--columns", "clean")


def weights():
    """Weights that fit the net of `job`."""
    return {"1.weight": torch.arange(12.0).view(3, 4) + 1, "1.bias": torch.ones(3)}


def job(scratch):
    """A job with a net of two tensors."""
    part = Part(np.zeros((1, 1, 2, 2), np.uint8), np.zeros(1, np.int64))
    return TrainJob(
        train=part, val=part, shape=Shape(3, 1, 2), build=lambda: nn.Sequential(nn.Flatten(), nn.Linear(4, 3)),
        threat=ThreatModel.parse("linf:0.1"), seed=0, device=torch.device("cpu"), scratch=scratch,
        report=lambda _line: None,
    )  # fmt: skip


def torch_file(thing, *, new=True):
    """As torch.save writes it, now or before 1.6."""
    buffer = io.BytesIO()
    torch.save(thing, buffer, _use_new_zipfile_serialization=new)
    return buffer.getvalue()


def rezipped(content, rng):
    """A zip of which one entry was changed, renamed, doubled or left out; its checksums fit."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old:
        entries = [(entry.filename, old.read(entry)) for entry in old.infolist()]
    at = rng.randrange(len(entries))
    name, inner = entries[at]
    match rng.randrange(6):
        case 0:
            del entries[at]
        case 1:
            entries[at] = (rng.choice([f"{name}x", f"../{name}", "", name.upper(), "x_more.npy"]), inner)
        case 2:
            entries.append((f"{name}.again", inner))
        case _:
            entries[at] = (name, spoilt_bytes(inner, rng.random()))
    with zipfile.ZipFile(made, "w", rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as new:
        for name, inner in entries:
            new.writestr(name or "x", inner)
    return made.getvalue()


def things(rng):
    """What somebody may have saved."""
    plain = weights()
    wrong = rng.choice([
        {**plain, "1.bias": torch.ones(4)}, {**plain, "2.bias": torch.ones(3)}, {"1.bias": torch.ones(3)}, {},
        {**plain, "1.bias": torch.full((3,), torch.nan)}, {**plain, "1.bias": torch.ones(3, dtype=torch.complex64)},
        {**plain, 3: 4}, {**plain, "1.bias": None}, {**plain, "1.bias": [1.0, 2.0, 3.0]}, [plain], [], (plain,
        plain), 7, "x",
        {**plain, "1.bias": torch.ones(3, dtype=torch.int8)}, {**plain, "1.bias": torch.ones(3).to_sparse()},
        {"state_dict": plain}, {"model": plain, "ema": plain}, {f"module.{k}": v for k, v in plain.items()},
        plain["1.bias"],
        {"a": {"a": {"a": {"a": {"a": plain}}}}}, {**plain, "1.bias": torch.empty(3, device="meta")}, None,
        {"net": None},
    ])  # fmt: skip
    return rng.choice([plain, wrong])


def weights_file(rng):
    """A file of weights in one of the formats, changed in one of the ways."""
    thing, safe = things(rng), save_safetensors(weights())
    match rng.randrange(10):
        case 0:
            return spoilt_bytes(safe, rng.random())
        case 8:
            return rng.choice([safe, torch_file(weights()), torch_file({"state_dict": weights(), "epoch": 3})])
        case 9:
            return torch_file(thing, new=False)
        case 1:  # a header of other values in front of the same bytes
            header = safe[8 : 8 + struct.unpack("<Q", safe[:8])[0]]
            header = spoilt_bytes(header, rng.random())
            return struct.pack("<Q", len(header)) + header + safe[8 + struct.unpack("<Q", safe[:8])[0] :]
        case 2:
            return torch_file(thing)
        case 3:
            return rezipped(torch_file(thing), rng)
        case 4:
            return spoilt_bytes(torch_file(thing, new=False), rng.random())
        case 5:
            return spoilt_bytes(pickle.dumps({"a": [1, 2.5, "x", {"b": (None, True)}]}, rng.randrange(6)), rng.random())
        case 6:
            return spoilt_bytes(torch_file(thing), rng.random())
        case _:
            made = io.BytesIO()
            with tarfile.open(fileobj=made, mode="w") as tar:
                info = tarfile.TarInfo(rng.choice(["pickle", "tensors", "storages"]))
                tar.addfile(info, io.BytesIO(b""))
            return rng.choice(
                [made.getvalue(), gzip.compress(safe), rng.randbytes(rng.randrange(2000)), b"", b"PK\3\4" + bytes(90)]
            )


def named(error, name, kind):
    """An error that a user sees names the file, and has one of the exit codes."""
    assert error.exit_code in CODES and name in str(error), str(error)
    SEEN[kind, f"exit {error.exit_code}"] += 1


@given(SEEDS, st.sampled_from(["", "", "", "ema", "x"]))
@often(1500, 60)
def test_changed_weights_are_loaded_or_refused(seed, entry):
    """safetensors, torch's three formats, bare pickles and other things; what loads fits the net."""
    with folder() as here:
        path = here / random.Random(seed).choice(["w.pt", "w.safetensors", "w.pth", "w.ckpt", "w"])
        path.write_bytes(weights_file(random.Random(seed)))
        try:
            model = checkpoint(job(here), path=str(path), entry=entry)
        except RampartError as error:
            named(error, path.name, "weights")
        else:
            assert {k: v.shape for k, v in model.state_dict().items()} == {k: v.shape for k, v in weights().items()}
            SEEN["weights", "exit 0"] += 1


def arrays(rng):
    """Arrays of a data set, one of which may be odd."""
    found = {
        "x_train": rng.integers(0, 256, (8, 1, 4, 4)).astype(np.uint8), "y_train": np.arange(8) % 3,
        "x_test": rng.integers(0, 256, (5, 1, 4, 4)).astype(np.uint8), "y_test": np.arange(5) % 3,
    }  # fmt: skip
    if rng.random() < 0.3:
        found["classes"] = np.array(["a", "b", "c"])
    if rng.random() < 0.25:
        return found
    name = str(rng.choice(sorted(found)))
    odd = [
        lambda a: a.astype(float) / 255 if a.dtype.kind != "U" else a, lambda a: a[:0], lambda a: a[..., None],
        lambda a: a[:-1],
        lambda a: a.astype(object), lambda a: a.astype("U3"), lambda a: a.reshape(-1), lambda a: np.array(3),
        lambda a: a.astype(np.complex64) if a.dtype.kind != "U" else a,
        lambda a: a.astype("datetime64[s]") if a.dtype.kind in "iu" else a,
        lambda a: a.view(np.recarray), lambda a: a.astype(np.int64) - 7 if a.dtype.kind != "U" else a,
        lambda a: a.astype(np.int64) * 10**17 if a.dtype.kind != "U" else a, np.asfortranarray,
        lambda a: a[::-1],
        lambda a: a.astype(">i8") if a.dtype.kind != "U" else a, np.ma.masked_array, lambda a: a,
        lambda a: np.zeros((0, 0, 0, 0), np.uint8), lambda a: np.full(a.shape, 2**63, np.uint64),
        lambda a: a.astype(bool),
    ]  # fmt: skip
    found[name] = odd[rng.integers(len(odd))](found[name])
    if rng.random() < 0.2:
        found[str(rng.choice(["x_val", "y_val", "X_train", "extra", "class"]))] = found.pop(name)
    return found


@given(SEEDS, st.sampled_from(["arrays", "zip", "bytes"]))
@often(1000, 40)
def test_a_changed_npz_is_read_or_refused(seed, how):
    """Arrays of other names, kinds and shapes; entries or bytes of the file changed."""
    rng = np.random.default_rng(seed)
    made = io.BytesIO()
    (np.savez if rng.random() < 0.5 else np.savez_compressed)(made, **arrays(rng))
    content = made.getvalue()
    if how == "zip":
        content = rezipped(content, random.Random(seed))
    elif how == "bytes":
        content = spoilt_bytes(content, seed)
    with folder() as here:
        (here / "d.npz").write_bytes(content)
        call(here, *PLAN, "--dataset", f"npz:{here}/d.npz", kind="npz")


@given(SEEDS)
@often(400, 20)
def test_changed_images_to_train_on_are_read_or_refused(seed):
    """The file of a course's `extra`."""
    rng = np.random.default_rng(seed)
    found = {"image": rng.integers(0, 256, (6, 4, 4, 1)).astype(np.uint8), "label": np.arange(6) % 3}
    made = io.BytesIO()
    (np.savez if rng.random() < 0.7 else np.savez_compressed)(made, **found)
    content = (
        rezipped(made.getvalue(), random.Random(seed)) if rng.random() < 0.5 else spoilt_bytes(made.getvalue(), seed)
    )
    with folder() as here:
        (here / "e.npz").write_bytes(content)
        try:
            part = extra_images(here / "e.npz", Shape(3, 1, 4))
            assert part.x.dtype == np.uint8 and len(part) == len(part.y)
            part.x[:1].sum()
        except RampartError as error:
            named(error, "e.npz", "extra")
        else:
            SEEN["extra", "exit 0"] += 1


@pytest.fixture(scope="module")
def idx():
    """A small idx file, plain and packed."""
    plain = struct.pack(">4I", 0x803, 3, 4, 4) + bytes(range(48))
    return plain, gzip.compress(plain, mtime=0)


@given(SEEDS, st.booleans(), st.booleans())
@often(600, 40)
def test_a_changed_idx_file_is_read_or_refused(idx, seed, packed, inside):
    """MNIST's format, packed or not, changed before or after it was packed."""
    content = spoilt_bytes(idx[0], seed) if inside or not packed else spoilt_bytes(idx[1], seed)
    if packed and inside:
        content = gzip.compress(content)
    with folder() as here:
        path = here / ("i.gz" if packed else "i")
        path.write_bytes(content)
        try:
            assert read_idx(path, (3, 4, 4)).shape == (3, 4, 4)
        except RampartError as error:
            named(error, path.name, "idx")
        else:
            SEEN["idx", "exit 0"] += 1


@given(
    SEEDS, st.sampled_from(["mnist", "fashion-mnist", "cifar10", "cifar100", "svhn", "tiny-imagenet-200", "imagenet"])
)
@often(400, 20)
def test_a_data_folder_of_anything_is_refused(seed, name):
    """Files and folders of the right names, with anything in them."""
    rng = random.Random(seed)
    with folder() as here:
        for way in (
            "MNIST/raw",
            "FashionMNIST/raw",
            "cifar-10-batches-py",
            "cifar-100-python",
            "svhn",
            "tiny-imagenet-200",
            "imagenet",
        ):
            if rng.random() < 0.5:
                (here / "d" / way).mkdir(parents=True)
                for file in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte.gz", "data_batch_1", "test",
                "meta", "train",
                             "train_32x32.mat", "wnids.txt", "val/val_annotations.txt", "batches.meta"):  # fmt: skip
                    if rng.random() < 0.5:
                        (here / "d" / way / file).parent.mkdir(exist_ok=True)
                        (here / "d" / way / file).write_bytes(
                            rng.choice([b"", rng.randbytes(200), gzip.compress(b"x" * 99)])
                        )
        for file in (
            "cifar-10-python.tar.gz",
            "train_32x32.mat",
            "tiny-imagenet-200.zip",
            "ILSVRC2012_devkit_t12.tar.gz",
        ):
            if rng.random() < 0.3:
                (here / "d").mkdir(exist_ok=True)
                (here / "d" / file).write_bytes(rng.randbytes(300))
        code, _ = call(here, *PLAN, "--dataset", name, "--data", "d", kind="folders")
        assert code
        shutil.rmtree(here / "d", ignore_errors=True)
