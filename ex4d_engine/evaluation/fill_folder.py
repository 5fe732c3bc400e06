# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a comparison of fills keeps what it has: cases that take long to draw, and each row's scores and pictures.

    settings.json            what the cases were drawn with, and how many scenes were passed over
    cases/<case>.npz         source, depth, intrinsics, path, truth, visible
    rows/<row>/<case>.npz    scores, and the frames that contact sheets show
    rows/<row>.json          of a model's row: what it was made with

So a row can be added to what is there, and a run that was stopped goes on. Arrays only: nothing in these files is code.
"""

from __future__ import annotations

import dataclasses
import io
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import Ex4dError
from ..files import write_bytes
from .fill_cases import SWINGS, FillCase
from .fill_metrics import FillScores
from .fill_table import ScoredCase


@dataclass(frozen=True)
class FillSettings:
    """What cases are drawn with: scenes a swing, frames, (width, height), the first held-out seed's number."""

    scenes: int
    frames: int
    size: tuple[int, int]
    first: int = 0


@dataclass(frozen=True)
class FillFolder:
    """A comparison's folder."""

    root: Path

    @classmethod
    def opened(cls, root: Path, settings: FillSettings) -> FillFolder:
        """The folder, made where it is not there.

        Raises:
            Ex4dError: `bad_request` where it holds cases of other settings.
        """
        folder = cls(root)
        wanted = dataclasses.asdict(settings) | {"size": list(settings.size)}
        if folder._settings_file.is_file():
            said = folder.document()["settings"]
            if said != wanted:
                raise Ex4dError(
                    "bad_request",
                    f"{root} holds cases of other settings: {said} instead of {wanted}.",
                    "Choose another folder, or those settings.",
                )
        else:
            folder._write_document({"settings": wanted, "complete": False, "turned_away": {}})
        return folder

    @property
    def _settings_file(self) -> Path:
        return self.root / "settings.json"

    def document(self) -> dict[str, Any]:
        """settings; complete: whether all cases are drawn; turned_away: scenes passed over, by swing and reason."""
        result: dict[str, Any] = json.loads(self._settings_file.read_text(encoding="utf-8"))
        return result

    def note_drawn(self, complete: bool, turned_away: dict[str, int]) -> None:
        """Notes that all cases are there, or that they are not, and how many scenes were passed over on the way."""
        self._write_document({**self.document(), "complete": complete, "turned_away": turned_away})

    def case_names(self) -> list[str]:
        """In the order of seeds, then of swings: a run that is stopped has then scored every swing."""
        # a name that begins with a dot is of a file that was being written when a run was killed
        paths = (self.root / "cases").glob("[!.]*.npz")
        found = [path.stem.rsplit("_", 1) for path in paths]
        in_order = sorted(found, key=lambda each: (int(each[1]), _swing_number(each[0])))
        return [f"{swing}_{seed}" for swing, seed in in_order]

    def save_case(self, case: FillCase) -> None:
        names = ("source", "depth", "intrinsics", "path", "truth", "visible")
        arrays = {name: getattr(case, name) for name in names}
        self._save(self.root / "cases" / f"{case.name}.npz", arrays)

    def load_case(self, name: str) -> FillCase:
        swing, seed = name.rsplit("_", 1)
        with np.load(self.root / "cases" / f"{name}.npz") as arrays:
            return FillCase(swing, int(seed), **{key: arrays[key] for key in arrays.files})

    def begin_row(self, row: str, made_with: Mapping[str, Any]) -> None:
        """Keeps a row's scores where they were made with the same, else removes them."""
        note = self.root / "rows" / f"{row_folder(row)}.json"
        wanted = (json.dumps(made_with, indent=1) + "\n").encode("utf-8")
        if note.is_file() and note.read_bytes() == wanted:
            return
        scores = self.root / "rows" / row_folder(row)
        if scores.exists():
            shutil.rmtree(scores)  # before the note: a run that is killed here does it again
        note.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(note, wanted)

    def has_row(self, row: str, case: str) -> bool:
        return self._row_file(row, case).is_file()

    def save_row(self, row: str, case: FillCase, scores: FillScores, filled: NDArray[np.uint8]) -> None:
        """A row's scores of a case, and the frames of the fill that are shown."""
        sums = np.stack([getattr(scores, field.name) for field in dataclasses.fields(FillScores)])
        shown = filled[shown_frames(case)]
        self._save(self._row_file(row, case.name), {"sums": sums, "shown": shown, "angles_deg": case.angles_deg})

    def shown(self, row: str, case: str) -> NDArray[np.uint8]:
        """(3,H,W,3) uint8."""
        with np.load(self._row_file(row, case)) as arrays:
            result: NDArray[np.uint8] = arrays["shown"]
        return result

    def scored_cases(self, rows: list[str]) -> list[ScoredCase]:
        """The cases that have scores of all these rows, in the order of swings, then of seeds."""
        result = []
        for name in self.case_names():
            if not all(self.has_row(row, name) for row in rows):
                continue
            scores = {}
            for row in rows:
                with np.load(self._row_file(row, name)) as arrays:
                    scores[row], angles = FillScores(*arrays["sums"]), arrays["angles_deg"]
            swing, seed = name.rsplit("_", 1)
            result.append(ScoredCase(swing, int(seed), angles, scores))
        return sorted(result, key=lambda case: _swing_number(case.swing))

    def _row_file(self, row: str, case: str) -> Path:
        return self.root / "rows" / row_folder(row) / f"{case}.npz"

    def _write_document(self, document: dict[str, Any]) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        write_bytes(self._settings_file, (json.dumps(document, indent=1) + "\n").encode("utf-8"))

    @staticmethod
    def _save(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        write_bytes(path, buffer.getvalue())


def row_folder(row: str) -> str:
    """A row's name as a folder's that every system takes."""
    return re.sub(r"[^0-9a-z]+", "_", row.lower()).strip("_")


def _swing_number(name: str) -> int:
    return [swing.name for swing in SWINGS].index(name)


def shown_frames(case: FillCase) -> list[int]:
    """The three frames of a case that contact sheets show."""
    swing = next(swing for swing in SWINGS if swing.name == case.swing)
    return [round(share * (len(case.path) - 1)) for share in swing.shown]
