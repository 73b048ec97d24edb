"""Weights and bundles: tensors in safetensors files that are named by the sha256 of their content."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import IncompleteError, IntegrityError
from bench.files import INCOMING, check_content, check_writable, sweep, write_once

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


@dataclass(frozen=True)
class Store:
    """A folder of tensors, and of scratch folders that outlive a crash."""

    root: Path

    def tidy(self) -> list[Path]:
        """Remove, and name, what killed processes left of files that they were writing."""
        found = [folder for depth in ("*", "*/*") for folder in (self.root / "scratch").glob(depth)]
        unfinished = [folder for folder in found if not folder.is_symlink()]  # a training may have made links
        folders = (self.root, self.root / INCOMING, self.root / "histories", self.root / "logs", *unfinished)
        return [path for folder in folders for path in sweep(folder)]

    def check_writable(self) -> None:
        """IncompleteError where nothing can be kept; to be known before any work."""
        check_writable(self.root / INCOMING)

    def put(self, tensors: Mapping[str, Tensor], about: Mapping[str, str] | None = None) -> str:
        """Keep tensors; the hash that is returned brings them back.  Equal content is kept once."""
        from safetensors.torch import save

        # One entry of metadata: safetensors writes several in any order, and the hash would not be of the content.
        described = {"about": json.dumps(dict(about), sort_keys=True)} if about else None
        # Clones: safetensors refuses tensors that share memory, as tied weights do.
        content = save({k: v.detach().cpu().contiguous().clone() for k, v in sorted(tensors.items())}, described)
        name = hashlib.sha256(content).hexdigest()
        write_once(self.path(name), content, self.root / INCOMING)
        return name

    def get(self, name: str) -> dict[str, Tensor]:
        """The tensors of that hash, checked."""
        from safetensors import SafetensorError
        from safetensors.torch import load

        path = self.path(name)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise IncompleteError(
                f"the store {self.root} has no {name}; copy {path.name} there, or train again"
            ) from None
        check_content(path, content, name, "; delete it and run again")
        try:
            return load(content)
        except SafetensorError as error:
            raise IntegrityError(f"{path} holds no tensors: {error}") from None

    def __contains__(self, name: str) -> bool:
        return self.path(name).exists()

    def path(self, name: str) -> Path:
        """Where the tensors of that hash lie."""
        return self.root / name[:2] / f"{name}.safetensors"

    def scratch(self, key: str) -> Path:
        """A folder for work in progress, the same one after a crash."""
        return self.root / "scratch" / key
