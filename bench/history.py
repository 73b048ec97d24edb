"""Where the history of a training goes while it runs: a file of JSON lines, and TensorBoard if wanted."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import UsageError
from bench.files import write_atomically


@dataclass(frozen=True)
class Log:
    """Told after every epoch; the file holds every epoch once, also after a crash."""

    path: Path
    tensorboard: str  # a folder; empty for none
    name: str  # of the training, for people

    def __call__(self, history: list[dict[str, Any]]) -> None:
        """Write the history so far, and send its last entry on."""
        write_atomically(self.path, "".join(json.dumps(entry) + "\n" for entry in history).encode())
        if self.tensorboard:
            self._send(history[-1])

    def _send(self, entry: dict[str, Any]) -> None:
        folder = re.sub(r"[^\w.,=() -]", "-", self.name)[:100]  # a recipe may hold slashes, and be long
        writer = summary_writer()(str(Path(self.tensorboard) / f"{folder} {self.path.stem[:8]}"))
        for name, value in entry.items():
            if isinstance(value, int | float) and name != "epoch":
                writer.add_scalar(name, value, entry["epoch"])
            elif isinstance(value, list):
                for place, one in enumerate(value):
                    writer.add_scalar(f"{name}/{place}", one, entry["epoch"])
            elif isinstance(value, str):
                writer.add_text(name, value, entry["epoch"])
        writer.close()


def summary_writer() -> Any:
    """The class that writes for TensorBoard; an error that says how to get it where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UsageError(
            "--tensorboard needs the package tensorboard: pip install 'rampart-bench[tensorboard]'"
        ) from None
    return SummaryWriter
