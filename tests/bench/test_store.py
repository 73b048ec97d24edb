"""Tensors are found by the hash of their content."""

import hashlib

import pytest
import torch

from bench.errors import IncompleteError, IntegrityError
from bench.store import Store


def test_what_is_put_comes_back(tmp_path):
    """Tensors come back as they were, whatever their type, shape and memory, under the sha256 of the file."""
    store, square = Store(tmp_path), torch.arange(16.0).view(4, 4)
    tensors = {
        "float": square, "transposed": square.T, "half": square.half(), "brain": square.bfloat16(),
        "long": torch.tensor(3), "bool": square > 7, "bytes": square.byte(), "empty": torch.empty(0, 3),
        "row": square[1], "grad": square.clone().requires_grad_(), "tied": square, "wide": square[:1].expand(3, 4),
    }  # fmt: skip
    name = store.put(tensors)
    assert name == hashlib.sha256(store.path(name).read_bytes()).hexdigest()
    back = store.get(name)
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[k], v) and back[k].dtype == v.dtype for k, v in tensors.items())
    assert store.get(store.put({})) == {}


def test_equal_content_is_kept_once(tmp_path):
    """The hash depends on names, values and description, in whatever order they come, and on nothing else."""
    store = Store(tmp_path)
    tensors = {f"t{i}": torch.full((2,), float(i)) for i in range(20)}
    about = {f"k{i}": "ü" for i in range(8)}
    names = {store.put(dict(sorted(tensors.items(), reverse=bool(i % 2))), about) for i in range(30)}
    assert len(names) == 1 and len(list(tmp_path.rglob("*.safetensors"))) == 1
    others = {store.put(tensors), store.put({**tensors, "t0": torch.ones(2)}, about)}
    assert len(names | others) == 3


def test_a_flipped_bit_is_refused(tmp_path):
    """A damaged file is an integrity error (exit 5) that names it; a missing one says how to get it (exit 4)."""
    store = Store(tmp_path)
    name = store.put({"w": torch.randn(100)})
    assert name in store and "0" * 64 not in store
    content = bytearray(store.path(name).read_bytes())
    content[-5] ^= 1
    store.path(name).write_bytes(content)
    with pytest.raises(IntegrityError, match=name) as caught:
        store.get(name)
    assert caught.value.exit_code == 5
    with pytest.raises(IncompleteError, match="0" * 64) as missing:
        store.get("0" * 64)
    assert missing.value.exit_code == 4
