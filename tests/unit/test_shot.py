# SPDX-License-Identifier: GPL-3.0-or-later
"""The shot folder: what is written is read back, what is damaged is refused with a sentence, takes never clash."""

from __future__ import annotations

import copy
import errno
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ex4d_engine import shot_documents
from ex4d_engine.camera_frame import IDENTITY, CameraFrame
from ex4d_engine.errors import Ex4dError
from ex4d_engine.shot import Shot, load_shot, save_shot
from ex4d_engine.take import Take, list_takes, load_take, new_take, save_take, take_root, with_record
from tests.shot_material import FOLDER, FPS, LENS, make_shot, still_frames

REPOSITORY = Path(__file__).resolve().parents[2]
quick = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def shot(tmp_path: Path) -> Shot:
    root = tmp_path / FOLDER
    root.mkdir()
    shot = make_shot(root, poses=True)
    save_shot(shot)
    return shot


@pytest.fixture
def take(shot: Shot) -> Take:
    return new_take(shot, still_frames(3), (64, 48), first=7, fps=FPS, label="höher ↑")


def document_of(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return value


# --------------------------------------------------------------------------------------- round trips


def test_a_shot_is_read_back_as_it_was_written(shot: Shot) -> None:
    assert load_shot(shot.root) == shot


def test_a_shot_whose_stages_have_not_run_is_read_back(tmp_path: Path) -> None:
    for shot in (Shot(tmp_path), replace(make_shot(tmp_path), geometry=None)):
        save_shot(shot)
        assert load_shot(tmp_path) == shot
        with pytest.raises(Ex4dError, match="not reconstructed"):
            shot.require_geometry()
    with pytest.raises(Ex4dError, match="not reconstructed"):
        Shot(tmp_path).require_plate()


def test_a_file_name_that_is_no_valid_unicode_survives(tmp_path: Path) -> None:
    name = os.fsdecode(b"/clips/gr\xfc\xdfe.mov")
    shot = make_shot(tmp_path)
    assert shot.plate is not None
    shot = replace(shot, plate=replace(shot.plate, path=name), settings={"source": name})
    save_shot(shot)
    assert load_shot(tmp_path) == shot


def test_a_take_is_read_back_as_it_was_written(shot: Shot, take: Take) -> None:
    take = replace(with_record(take, seconds={"render": 1.5}, seed=2**40), conditioning="engine", preset="preview")
    save_take(take)
    assert load_take(shot, take.name) == take
    assert load_take(shot, 1) == load_take(shot, "1") == take


@quick
@given(
    label=st.text(),
    numbers=st.tuples(st.integers(0, 10**9), st.integers(1, 65536), st.integers(1, 65536)),
    rate=st.fractions(min_value=Fraction(1, 1000), max_value=1000, max_denominator=10**9),
    place=st.tuples(*[st.floats(allow_nan=False, allow_infinity=False)] * 3),
    record=st.dictionaries(st.text(), st.recursive(st.integers() | st.text() | st.none(), st.lists, max_leaves=5)),
)
def test_any_take_is_read_back(
    shot: Shot,
    label: str,
    numbers: tuple[int, int, int],
    rate: Fraction,
    place: tuple[float, float, float],
    record: dict[str, Any],
) -> None:
    first, width, height = numbers
    pose = (*((*IDENTITY[row][:3], place[row]) for row in range(3)), IDENTITY[3])
    root = shot.takes_folder / "take_0001"
    root.mkdir(parents=True, exist_ok=True)
    take = Take(root, root.name, first, width, height, rate, (CameraFrame(7, LENS, pose),), label, record=record)
    save_take(take)
    assert load_take(shot, 1) == take


def test_saving_leaves_only_whole_files(shot: Shot, take: Take) -> None:
    save_shot(shot)
    save_take(take)
    assert sorted(path.name for path in shot.root.rglob("*")) == ["shot.json", "take.json", "take_0001", "takes"]


# -------------------------------------------------------------------------------------- file names


def test_files_are_numbered_as_the_clip_is(shot: Shot, take: Take) -> None:
    plate = shot.require_plate()
    assert list(plate.numbers) == [7, 8, 9, 10, 11]
    assert shot.plate_file(7).relative_to(shot.root).as_posix() == "plate/plate.0007.png"
    assert shot.depth_file(12345).name == "depth.12345.exr"
    assert shot.albedo_file(7).name == "albedo.0007.png"
    assert shot.seen_file(7).name == "seen.0007.png"
    assert take.file("depth", 8).name == "depth.0008.exr"
    assert take.file("color", 8).name == "color.0008.png"
    take.file("mask", 8).write_bytes(b"")
    assert take.missing("mask") == [7, 9]


def test_a_take_is_finished_when_its_movie_is_there_and_it_says_so(take: Take) -> None:
    done = replace(take, preset="preview")
    assert not done.is_finished
    take.result_file.write_bytes(b"film")
    assert done.is_finished and not take.is_finished


def test_source_pose(shot: Shot) -> None:
    poses = shot.require_geometry().poses
    assert shot.source_pose(7) == poses[0] and shot.source_pose(11) == poses[4]
    assert make_shot(shot.root).source_pose(8) == IDENTITY
    for number in (6, 12, -1):  # a negative index would silently be another frame's camera
        with pytest.raises(Ex4dError) as caught:
            shot.source_pose(number)
        assert caught.value.code == "missing_frame"


# ------------------------------------------------------------------------------------------ damages


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from([10**400, -1, 0, 1, "1/0", "1e999999999", "take_0001", [], {}, [[]]]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def places(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a document: the path of keys and indices to it."""
    found = [here] if here else []
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in entries:
        found += places(inner, (*here, key))
    return found


def with_change(document: dict[str, Any], place: tuple[Any, ...], change: Callable[[Any, Any], None]) -> dict[str, Any]:
    document = copy.deepcopy(document)
    holder: Any = document
    for key in place[:-1]:
        holder = holder[key]
    change(holder, place[-1])
    return document


def loads(read: Callable[[], Shot | Take]) -> Shot | Take | None:
    """What was read, if it was; nothing but an Ex4dError with a hint may be raised."""
    try:
        return read()
    except Ex4dError as error:
        assert error.code in {"shot_invalid", "shot_newer"} and error.hint
        return None


@pytest.fixture
def readers(shot: Shot, take: Take) -> list[tuple[Path, dict[str, Any], Callable[[], Shot | Take]]]:
    shot_file, take_file = shot.root / "shot.json", take.root / "take.json"
    return [
        (shot_file, document_of(shot_file), lambda: load_shot(shot.root)),
        (take_file, document_of(take_file), lambda: load_take(shot, 1)),
    ]


Readers = list[tuple[Path, dict[str, Any], Callable[[], Shot | Take]]]


@quick
@given(data=st.data(), which=st.integers(0, 1), value=JSON)
def test_any_value_anywhere_is_read_or_refused(
    shot: Shot, readers: Readers, data: st.DataObject, which: int, value: Any
) -> None:
    path, document, read = readers[which]
    place = data.draw(st.sampled_from(places(document)))
    changed = with_change(document, place, lambda holder, key: holder.__setitem__(key, value))
    path.write_text(json.dumps(changed), "utf-8")
    result = loads(read)
    if isinstance(result, Shot) and result.geometry is not None:  # what is let through can be written again
        save_shot(result)
    elif isinstance(result, Take):
        save_take(result)


@quick
@given(data=st.data(), which=st.integers(0, 1))
def test_anything_missing_is_read_or_refused(shot: Shot, readers: Readers, data: st.DataObject, which: int) -> None:
    path, document, read = readers[which]
    place = data.draw(st.sampled_from(places(document)))
    path.write_text(json.dumps(with_change(document, place, lambda holder, key: holder.pop(key))), "utf-8")
    loads(read)


@quick
@given(content=st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_content_is_refused(shot: Shot, readers: Readers, content: bytes) -> None:
    for path, _, read in readers:
        path.write_bytes(content)
        assert loads(read) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe{}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"schema": 1, "settings": {"near": NaN}}',
        b'{"schema": 1, "settings": {"near": -Infinity}}',
        b'{"schema": 1, "settings": {"near": 1e999}}',
        b'{"schema": 1, "settings": {"near": ' + b"1" * 5000 + b"}}",
        b'{"schema": 0}',
        b'{"schema": "1"}',
        b'{"schema": true}',
        b"{}",
    ],
)
def test_bad_json_is_refused_with_the_name_of_the_file(shot: Shot, content: bytes) -> None:
    (shot.root / "shot.json").write_bytes(content)
    with pytest.raises(Ex4dError, match=r"shot\.json is damaged") as caught:
        load_shot(shot.root)
    assert caught.value.code == "shot_invalid"


def test_every_cut_of_the_file_is_refused(shot: Shot) -> None:
    path = shot.root / "shot.json"
    whole = path.read_bytes().rstrip()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        assert loads(lambda: load_shot(shot.root)) is None


SHOT_DAMAGES: dict[str, tuple[tuple[Any, ...], Any]] = {
    "fps": (("plate", "fps"), "0"),
    "count": (("plate", "count"), 0),
    "first": (("plate", "first"), -1),
    "stride": (("plate", "stride"), True),
    "width": (("plate", "size"), [0, 48]),
    "height": (("plate", "size"), [64, 10**7]),
    "size": (("plate", "size"), [64]),
    "path": (("plate", "path"), None),
    "notes": (("plate", "notes"), "a text is no list"),
    "plate": (("plate",), []),
    "geometry": (("plate",), None),
    "near": (("geometry", "near"), 100.0),
    "far": (("geometry", "far"), 10**400),
    "subject": (("geometry", "subject"), "2"),
    "repaired": (("geometry", "repaired"), 1.5),
    "compat": (("geometry", "compat"), "both"),
    "intrinsics": (("geometry", "intrinsics"), [[0, 0, 32], [0, 70, 24], [0, 0, 1]]),
    "poses": (("geometry", "poses"), [[[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]]),
    "camera_to_world": (("geometry", "poses", 0, 0, 0), 5),
    "settings": (("settings",), []),
}


@pytest.mark.parametrize("field", SHOT_DAMAGES)
def test_a_wrong_field_of_a_shot_is_named(shot: Shot, field: str) -> None:
    place, value = SHOT_DAMAGES[field]
    path = shot.root / "shot.json"
    damaged = with_change(document_of(path), place, lambda holder, key: holder.__setitem__(key, value))
    path.write_text(json.dumps(damaged), "utf-8")
    with pytest.raises(Ex4dError, match=field) as caught:
        load_shot(shot.root)
    assert caught.value.code == "shot_invalid" and str(path) in caught.value.message


TAKE_DAMAGES: dict[str, tuple[tuple[Any, ...], Any]] = {
    "first": (("first",), 1.0),
    "fps": (("fps",), "-25"),
    "camera": (("camera",), []),
    "camera frame": (("camera", 0), None),
    "source": (("camera", 0, "source"), -1),
    "intrinsics": (("camera", 1, "intrinsics", 0, 0), "50"),
    "camera_to_world": (("camera", 2, "camera_to_world"), [[0] * 4] * 4),
    "mirrors": (("camera", 2, "camera_to_world", 0, 0), -1),
    "label": (("label",), 5),
    "conditioning": (("conditioning",), "both"),
    "preset": (("preset",), None),
    "record": (("record",), "none"),
    "wall_share": (("record", "wall_share"), -0.25),
}


@pytest.mark.parametrize("field", TAKE_DAMAGES)
def test_a_wrong_field_of_a_take_is_named(shot: Shot, take: Take, field: str) -> None:
    place, value = TAKE_DAMAGES[field]
    path = take.root / "take.json"
    damaged = with_change(document_of(path), place, lambda holder, key: holder.__setitem__(key, value))
    path.write_text(json.dumps(damaged), "utf-8")
    with pytest.raises(Ex4dError, match=field) as caught:
        load_take(shot, take.name)
    assert caught.value.code == "shot_invalid" and str(path) in caught.value.message


def test_a_rate_that_would_fill_the_memory_is_refused(shot: Shot) -> None:
    path = shot.root / "shot.json"
    document = document_of(path)
    document["plate"]["fps"] = "1e999999999"
    path.write_text(json.dumps(document), "utf-8")
    with pytest.raises(Ex4dError, match="fps is not a fraction"):
        load_shot(shot.root)


def test_a_newer_shot_is_refused_as_that(shot: Shot) -> None:
    path = shot.root / "shot.json"
    path.write_text(json.dumps({"schema": shot_documents.SCHEMA_VERSION + 1, "all": "else"}), "utf-8")
    with pytest.raises(Ex4dError, match="newer EX-4D") as caught:
        load_shot(shot.root)
    assert caught.value.code == "shot_newer" and caught.value.hint == "Update EX-4D."


def test_an_older_shot_is_upgraded_step_by_step(shot: Shot, monkeypatch: pytest.MonkeyPatch) -> None:
    path = shot.root / "shot.json"
    document = document_of(path)
    document["options"] = document.pop("settings")  # as if version 1 had called them so
    document["schema"] = 1
    path.write_text(json.dumps(document), "utf-8")

    def two(document: dict[str, Any]) -> dict[str, Any]:
        if "options" not in document:
            raise ValueError("options are missing")
        return {**document, "schema": 2, "preferences": document["options"]}

    def three(document: dict[str, Any]) -> dict[str, Any]:
        return {**document, "schema": 3, "settings": document["preferences"]}

    monkeypatch.setattr(shot_documents, "SCHEMA_VERSION", 3)
    monkeypatch.setattr(shot_documents, "UPGRADES", {1: two, 2: three})
    assert load_shot(shot.root) == shot
    path.write_text('{"schema": 1}', "utf-8")
    with pytest.raises(Ex4dError, match="options are missing"):
        load_shot(shot.root)


@pytest.mark.parametrize("name", ["gone", "a/b/c", "a\0b", "\ud800"])
def test_a_shot_that_is_not_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(Ex4dError) as caught:
        load_shot(tmp_path / name)
    assert caught.value.code == "shot_missing"


def test_a_folder_or_a_closed_file_in_the_place_of_shot_json(shot: Shot, monkeypatch: pytest.MonkeyPatch) -> None:
    (shot.root / "shot.json").unlink()
    (shot.root / "shot.json").mkdir()
    with pytest.raises(Ex4dError, match="is a folder"):
        load_shot(shot.root)

    def forbidden(self: Path) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", forbidden)
    with pytest.raises(Ex4dError, match="forbids"):
        load_shot(shot.root)


# ------------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize(
    "change",
    [
        lambda shot: replace(shot, settings={"near": math.nan}),
        lambda shot: replace(shot, settings={"near": math.inf}),
        lambda shot: replace(shot, plate=replace(shot.plate, first=-3)),
        lambda shot: replace(shot, plate=replace(shot.plate, count=6)),
        lambda shot: replace(shot, geometry=replace(shot.geometry, near=math.inf)),
        lambda shot: replace(shot, geometry=replace(shot.geometry, poses=(((0.0,) * 4,) * 4,) * 5)),
    ],
)
def test_what_could_not_be_read_back_is_not_written(shot: Shot, change: Callable[[Shot], Shot]) -> None:
    with pytest.raises(Ex4dError, match=r"shot\.json was not written") as caught:
        save_shot(change(shot))
    assert caught.value.code == "shot_invalid"
    assert load_shot(shot.root) == shot


def test_a_full_disk_keeps_the_old_file(shot: Shot, take: Take, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, data: bytes) -> int:
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    before = sorted(shot.root.rglob("*"))
    monkeypatch.setattr(Path, "write_bytes", full)
    for save in (lambda: save_shot(replace(shot, settings={})), lambda: save_take(replace(take, label="new"))):
        with pytest.raises(Ex4dError) as caught:
            save()
        assert caught.value.code == "disk_full"
    with pytest.raises(Ex4dError) as caught:
        new_take(shot, still_frames(2), (64, 48), first=7, fps=FPS)
    assert caught.value.code == "disk_full"
    assert sorted(shot.root.rglob("*")) == before  # no temporary file, no empty take
    assert load_shot(shot.root) == shot and load_take(shot, take.name) == take


# --------------------------------------------------------------------------------------------- takes


def test_takes_are_numbered_from_one_and_listed_by_number(shot: Shot) -> None:
    assert list_takes(shot) == []
    for _ in range(2):
        new_take(shot, still_frames(1), (64, 48), first=7, fps=FPS)
    for name in ("take_10000", "take_0009"):
        (shot.takes_folder / name).mkdir()
        (shot.takes_folder / name / "take.json").write_text("{}")
    (shot.takes_folder / "take_0004.bak").mkdir()
    (shot.takes_folder / "notes").mkdir()
    assert list_takes(shot) == ["take_0001", "take_0002", "take_0009", "take_10000"]
    assert new_take(shot, still_frames(1), (64, 48), first=7, fps=FPS).name == "take_10001"


def test_a_folder_without_a_camera_is_no_take_but_its_number_is_not_used_again(shot: Shot) -> None:
    (shot.takes_folder / "take_0001").mkdir(parents=True)
    (shot.takes_folder / "take_0002").write_bytes(b"a file in the way")
    assert list_takes(shot) == []
    assert new_take(shot, still_frames(1), (64, 48), first=7, fps=FPS).name == "take_0003"


def test_a_file_in_the_place_of_the_takes(shot: Shot) -> None:
    shot.takes_folder.write_bytes(b"a file")
    assert list_takes(shot) == []
    with pytest.raises(Ex4dError, match="a file is in the way") as caught:
        new_take(shot, still_frames(1), (64, 48), first=7, fps=FPS)
    assert caught.value.code == "read_only"


@pytest.mark.parametrize("call", ["mkdir", "iterdir"])
def test_a_takes_folder_that_may_not_be_used(shot: Shot, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def forbidden(self: Path, *arguments: Any, **options: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, call, forbidden)
    with pytest.raises(Ex4dError) as caught:
        new_take(shot, still_frames(1), (64, 48), first=7, fps=FPS)
    assert caught.value.code == "read_only"


@pytest.mark.parametrize(
    ("frames", "size", "first", "fps", "code"),
    [
        ((), (64, 48), 1, FPS, "no_camera"),
        ((CameraFrame(7, LENS, ((0.0,) * 4,) * 4),), (64, 48), 1, FPS, "camera_invalid"),
        ((CameraFrame(7, ((0.0,) * 3,) * 3, IDENTITY),), (64, 48), 1, FPS, "camera_invalid"),
        (still_frames(1), (0, 48), 1, FPS, "shot_invalid"),
        (still_frames(1), (64, 48), -1, FPS, "shot_invalid"),
        (still_frames(1), (64, 48), 1, Fraction(0), "shot_invalid"),
    ],
)
def test_an_impossible_take_is_refused_and_leaves_no_folder(
    shot: Shot, frames: tuple[CameraFrame, ...], size: tuple[int, int], first: int, fps: Fraction, code: str
) -> None:
    with pytest.raises(Ex4dError) as caught:
        new_take(shot, frames, size, first=first, fps=fps)
    assert caught.value.code == code
    assert not list(shot.root.rglob("take_*"))


@pytest.mark.parametrize(
    "name",
    [
        "..", ".", "", "../take_0001", "take_0001/..", "take_0001/../..", "/etc/passwd", "C:\\Windows", "take_1",
        "TAKE_0001", "take_0001\n", "take_0001\0", " take_0001", "take_٠٠٠١", "²", "٣", "-1", "1" * 5000,
        "take_" + "1" * 500, -1, 10**6,
    ],
)  # fmt: skip
def test_names_that_are_no_take_are_refused(shot: Shot, take: Take, name: str | int) -> None:
    with pytest.raises(Ex4dError, match="is not the name of a take") as caught:
        load_take(shot, name)
    assert caught.value.code == "take_missing"


@quick
@given(name=st.text() | st.integers())
def test_any_name_stays_in_the_takes_folder(shot: Shot, name: str | int) -> None:
    try:
        root = take_root(shot, name)
    except Ex4dError:
        return
    assert root.parent == shot.takes_folder and root.resolve().parent == shot.takes_folder.resolve()


def test_a_take_that_is_not_there_is_said_with_those_that_are(shot: Shot, take: Take) -> None:
    with pytest.raises(Ex4dError, match="take_0001") as caught:
        load_take(shot, 5)
    assert caught.value.code == "take_missing"


MAKE_TAKES = """
import sys
from fractions import Fraction
from pathlib import Path
from ex4d_engine.camera_frame import IDENTITY, CameraFrame
from ex4d_engine.shot import Shot
from ex4d_engine.take import new_take
shot = Shot(Path(sys.argv[1]))
frames = (CameraFrame(1, ((50.0, 0.0, 32.0), (0.0, 50.0, 24.0), (0.0, 0.0, 1.0)), IDENTITY),)
sys.stdout.write("ready\\n"); sys.stdout.flush(); sys.stdin.readline()
for _ in range(40):
    print(new_take(shot, frames, (64, 48), first=1, fps=Fraction(24)).name)
"""


def test_two_processes_never_get_the_same_take(shot: Shot) -> None:
    command = [sys.executable, "-c", MAKE_TAKES, str(shot.root)]
    makers = [
        subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for maker in makers:
        assert maker.stdout is not None and maker.stdout.readline() == "ready\n"
    for maker in makers:
        assert maker.stdin is not None
        maker.stdin.write("go\n")
        maker.stdin.flush()
    names = [name for maker in makers for name in maker.communicate(timeout=60)[0].split()]
    assert len(names) == 80 and len(set(names)) == 80
    assert sorted(names) == list_takes(shot)
