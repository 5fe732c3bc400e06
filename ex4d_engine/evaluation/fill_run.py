# SPDX-License-Identifier: GPL-3.0-or-later
"""A comparison of fills from beginning to end: cases are drawn, rows filled and scored, and the result written.

Scenes are drawn and models sampled in this process, on its device; all else is shared out among worker processes.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import ExitStack
from pathlib import Path
from time import monotonic
from typing import Any, Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import Ex4dError
from ..files import write_bytes
from ..progress import Reporter
from ..training.depth_clips import HELD_OUT_SEED
from .fill_cases import SWINGS, fill_cases
from .fill_conditioning import FillConditioning
from .fill_folder import FillFolder, FillSettings, shown_frames
from .fill_jobs import condition, fill_without_model, score, worker_pool
from .fill_models import FillModel, ModelRow, full_row, made_with, model_rows
from .fill_pictures import contact_sheet, lead_plot
from .fill_rows import CLASSICAL
from .fill_table import ScoredCase, summary, table

SHEET_CASES: Final = 6  # of each swing, in its contact sheet
WAITING: Final = 64  # jobs, of which each may hold the 13 MB of a fill and its holes
AHEAD: Final = 8  # cases whose conditioning is prepared while another is sampled
DRAWING_SHARE: Final = 0.5  # the most of a limited time that drawing takes, where a model is to be sampled too


def compare_fills(
    out: Path,
    settings: FillSettings,
    device: torch.device,
    reporter: Reporter,
    *,
    model: Path | None = None,
    adapters: Mapping[str, Path] | None = None,
    steps: Sequence[int] = (),
    workers: int = 1,
    minutes: float | None = None,
) -> dict[str, Any]:
    """Draws what is not in `out` yet, fills it, scores it and writes fill.json, fill.md and pictures there.

    What earlier runs scored is kept; a row of a model only where it was made with the same (`made_with`).

    Args:
        device: for drawing scenes and for the model.
        model: folder of the model, or None for the rows without one.
        adapters, steps: as in `model_rows`.
        workers: processes beside this one; 0 does everything here.
        minutes: after these nothing more is drawn or sampled, and what was is scored; None takes all the time.

    Returns:
        The document that was written: `fill_table.summary` of the cases that have all rows, what is in the folder's
        settings, and in `cases` how many these are of how many.

    Raises:
        Ex4dError: `bad_request` for other settings than the folder's, and where no case has all rows in the end; as
            `fill_cases` and `FillModel`; `cancelled`.
    """
    if minutes is not None and not minutes >= 0:
        raise Ex4dError("bad_request", f"Nothing can be done in {minutes:g} minutes.", "Give a length of time.")
    begun = monotonic()
    ends = math.inf if minutes is None else begun + 60 * minutes
    folder = FillFolder.opened(out, settings)
    planned = [] if model is None else model_rows(model, adapters or {}, steps)
    with ExitStack() as stack:
        # two pools: what a model waits for must not queue behind all the other rows
        apart = workers // 4 if planned else 0
        scoring = worker_pool(workers - apart)
        stack.callback(scoring.shutdown, cancel_futures=True)
        preparing = worker_pool(apart)
        stack.callback(preparing.shutdown, cancel_futures=True)
        drawn_by = begun + (DRAWING_SHARE if planned else 1) * (ends - begun)
        jobs = _classical(folder, settings, device, reporter, scoring, drawn_by)
        if model is not None:
            for row, making in made_with(model, planned).items():
                folder.begin_row(row, making)
            sampled = _sampled(folder, model, planned, device, reporter, scoring, preparing, ends)
            jobs = itertools.chain(jobs, sampled)
        _finish(jobs, reporter)
    rows = [*CLASSICAL, *(row.name for row in planned)]
    leader = "preview"
    if len(planned) > 1:
        leader = full_row({row.name: row.adapter for row in planned if row.adapter is not None and "," not in row.name})
    return _write_result(folder, rows, leader, settings.scenes * len(SWINGS))


# ------------------------------------------------------------------------------------------- stages


def _finish(jobs: Iterator[Future[None]], reporter: Reporter) -> None:
    """Waits for jobs while others are begun; the first that fails ends it. Few wait, as each may hold a clip."""
    waiting: deque[Future[None]] = deque()
    for job in jobs:
        waiting.append(job)
        while waiting and (waiting[0].done() or len(waiting) > WAITING):
            waiting.popleft().result()
    for done, job in enumerate(waiting):
        reporter.check()
        reporter.progress("score", done, len(waiting))
        job.result()


def _classical(
    folder: FillFolder,
    settings: FillSettings,
    device: torch.device,
    reporter: Reporter,
    pool: Executor,
    ends: float,
) -> Iterator[Future[None]]:
    """Draws the cases that are not there, and has the rows without a model filled meanwhile."""
    before = folder.case_names()
    for name in before:
        if not all(folder.has_row(row, name) for row in CLASSICAL):
            if monotonic() >= ends:
                return
            yield pool.submit(fill_without_model, folder, name)
    if folder.document()["complete"] or monotonic() >= ends:
        return
    turned_away: Counter[str] = Counter()
    cases = fill_cases(
        settings.scenes,
        settings.frames,
        settings.size,
        device,
        first=settings.first,
        drawn=frozenset(before),
        turned_away=turned_away,
    )
    for done, case in enumerate(cases, len(before) + 1):
        reporter.check()
        folder.save_case(case)
        reporter.progress("draw", done, settings.scenes * len(SWINGS))
        yield pool.submit(fill_without_model, folder, case.name)
        if monotonic() >= ends:
            folder.note_drawn(False, dict(turned_away))
            return
    folder.note_drawn(True, dict(turned_away))


def _sampled(
    folder: FillFolder,
    model: Path,
    rows: Sequence[ModelRow],
    device: torch.device,
    reporter: Reporter,
    scoring: Executor,
    preparing: Executor,
    ends: float,
) -> Iterator[Future[None]]:
    """Fills every case by every row of the model that it lacks, one after the other, and has the fills scored."""
    lacking = {name: [row for row in rows if not folder.has_row(row.name, name)] for name in folder.case_names()}
    names = [name for name, rows_of_it in lacking.items() if rows_of_it]
    if not names or monotonic() >= ends:
        return
    needed = list({row: None for name in names for row in lacking[name]})
    models = {adapter: FillModel(model, adapter, device) for adapter in {row.adapter: None for row in needed}}
    kinds = tuple({"mesh": None} | {row.conditioning: None for row in needed})  # holes are the mesh's
    longest = 0.0
    ready: deque[Future[dict[str, FillConditioning]]] = deque()
    for index, name in enumerate(names):
        while len(ready) < AHEAD and index + len(ready) < len(names):
            ready.append(preparing.submit(condition, folder, names[index + len(ready)], kinds))
        case, known = folder.load_case(name), ready.popleft().result()
        for row in lacking[name]:
            reporter.check()
            before = monotonic()
            if before + longest > ends:
                return
            filled = models[row.adapter].fill(case, known[row.conditioning], row.steps)
            longest = max(longest, monotonic() - before)
            yield scoring.submit(score, folder, name, row.name, filled, known["mesh"].holes)
        reporter.progress("sample", index + 1, len(names))


def _write_result(folder: FillFolder, rows: list[str], leader: str, wanted: int) -> dict[str, Any]:
    cases = folder.scored_cases(rows)
    if not cases:
        raise Ex4dError("bad_request", "No case has all rows yet.", "Give more minutes; what is there is kept.")
    counts = {"whole": len(cases), "wanted": wanted}
    document = {**folder.document(), "cases": counts, **summary(cases, rows, leader)}
    write_bytes(folder.root / "fill.json", (json.dumps(_known(document), indent=1) + "\n").encode("utf-8"))
    write_bytes(folder.root / "fill.md", (table(document) + "\n").encode("utf-8"))
    for figure in ("psnr", "ssim", "gradient"):
        _write_picture(folder.root / f"lead_{figure}.png", lead_plot(document, figure))
    for swing in document["by_swing"]:
        _write_picture(
            folder.root / f"sheet_{swing}.png", _sheet(folder, [case for case in cases if case.swing == swing], rows)
        )
    return document


def _known(document: Any) -> Any:
    """The document with null for what is no number, which JSON has no word for."""
    if isinstance(document, dict):
        return {key: _known(value) for key, value in document.items()}
    if isinstance(document, list):
        return [_known(value) for value in document]
    return None if isinstance(document, float) and not math.isfinite(document) else document


def _sheet(folder: FillFolder, cases: Sequence[ScoredCase], rows: Sequence[str]) -> NDArray[np.uint8]:
    lines, labels = [], []
    for scored in cases[:SHEET_CASES]:
        case = folder.load_case(scored.name)
        fills = [folder.shown(row, scored.name) for row in rows]
        for place, frame in enumerate(shown_frames(case)):
            lines.append([case.source[frame], case.truth[frame], *(fill[place] for fill in fills)])
            labels.append(f"{case.angles_deg[frame]:.0f} deg\nscene {case.seed - HELD_OUT_SEED}")
    return contact_sheet(lines, ["source", "truth", *rows], labels)


def _write_picture(path: Path, image: NDArray[np.uint8]) -> None:
    encoded = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1]
    write_bytes(path, encoded.tobytes())  # OpenCV itself fails on some names on Windows
