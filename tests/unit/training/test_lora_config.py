# SPDX-License-Identifier: GPL-3.0-or-later
"""The training's TOML file: what it may say, what it says when it is silent, and what is refused."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from ex4d_engine.bundled_model import BUNDLED
from ex4d_engine.diffusion.checkpoints import LORA_TARGETS
from ex4d_engine.diffusion.preset_defaults import DEFAULTS
from ex4d_engine.diffusion.scheduler import even_sigmas
from ex4d_engine.errors import Ex4dError
from ex4d_engine.training.bundled_adapter import ADAPTER_SHAPE
from ex4d_engine.training.lora_config import BaseModel, LoraTraining, TrainingData, parse_config, read_config
from tests.conftest import REPOSITORY

CLIPS = {"data": {"clips": "footage"}}


def examples() -> list[LoraTraining]:
    """The configurations that the documentation tells people to write."""
    text = (REPOSITORY / "docs" / "training.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^ *```toml\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE)
    return [parse_config(tomllib.loads(block), Path("/somewhere")) for block in blocks]


def test_the_documented_examples_can_be_read() -> None:
    assert [training.model.name for training in examples()] == ["wan2.1-i2v-14b-480p", BUNDLED]


def test_the_documented_example_of_the_small_model_fits_it() -> None:
    """Its own adapter can be gone on from, and masks are eroded as when it generates."""
    training, draft = examples()[1], DEFAULTS["draft"]
    assert training.adapter == ADAPTER_SHAPE and training.model.start_from == "own"
    assert training.data.height * training.data.width == draft.area
    assert training.masks.least_erosion == training.masks.most_erosion == 2 * draft.erosion + 1
    assert training.run.validation_steps == draft.steps
    learnt = even_sigmas(training.objective.sampling_steps).tolist()
    assert set(even_sigmas(draft.steps).tolist()) <= set(learnt), "the levels that it is sampled at count"
    assert training.objective.noise_levels == "few_steps"
    assert training.optimiser.steps > 10 * training.optimiser.warm_up_steps


def test_what_is_left_out_is_the_references_choice() -> None:
    training = parse_config(CLIPS, Path("/somewhere"))
    assert training.model.name == "wan2.1-i2v-14b-480p"
    assert (training.data.frames, training.data.height, training.data.width) == (49, 512, 512)
    assert (training.adapter.rank, training.adapter.alpha, training.adapter.targets) == (16, 16.0, LORA_TARGETS)
    assert training.objective.noise_levels == "uniform"


def test_relative_paths_start_at_the_file(tmp_path: Path) -> None:
    file = tmp_path / "mein Training ü.toml"
    file.write_text('[model]\nfolder = "wan"\n[data]\nclips = "Aufnahmen ü"\n', encoding="utf-8")
    training = read_config(file)
    assert Path(training.data.clips) == tmp_path / "Aufnahmen ü"
    assert Path(training.model.folder) == tmp_path / "wan"
    assert training.model.start_from == ""


def test_what_is_printed_reads_back_the_same() -> None:
    changes = {"optimiser": {"learning_rate": 3e-05, "steps": 7}, "adapter": {"targets": ["to_q", "ffn.net.2"]}}
    training = parse_config(
        {"data": {"scenes": 12, "prompt": 'a "quoted" street\nat night, übrigens'}, **changes}, Path("/x")
    )
    assert parse_config(tomllib.loads(training.printed()), Path("/elsewhere")) == training
    everything = {f"{section} {name}" for section, values in training.to_json().items() for name in values}
    assert len(training.printed().splitlines()) == len(everything) + 2 * len(dataclasses.fields(LoraTraining)) - 1


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"date": {}}, r"no section \[date\]"),
        ({"data": 3}, "data is no section"),
        ({"data": {"clip": "x"}}, r"\[data\] has no setting 'clip'.*clips, scenes"),
        ({"data": {"clips": 3}}, "data.clips is 3.*a text"),
        ({"optimiser": {"steps": 1.5}}, "optimiser.steps is 1.5.*whole number"),
        ({"optimiser": {"steps": True}}, "optimiser.steps is True.*whole number"),
        ({"optimiser": {"steps": 0}}, "optimiser.steps is 0.*1 to"),
        ({"optimiser": {"learning_rate": float("nan")}}, "learning_rate is nan"),
        ({"optimiser": {"gradient_checkpointing": 1}}, "true or false"),
        ({"optimiser": {"schedule": "linear"}}, "cosine or constant"),
        ({"objective": {"noise_levels": "even"}}, "uniform or logit_normal or few_steps"),
        ({"objective": {"sampled_share": 1.5}}, "objective.sampled_share is 1.5.*0.0 to 1.0"),
        ({"optimiser": {"batch": 3, "micro_batch": 2}}, "batch 3 is no multiple of micro_batch 2"),
        ({"data": {"frames": 48}}, "48.*4k"),
        ({"data": {"width": 500}}, "500x512.*16 pixels"),
        ({"data": {"scenes": 3}}, "data.clips and data.scenes are alternatives"),
        ({"adapter": {"targets": ["to_q", "proj_out"]}}, "proj_out.*to_out.0"),
        ({"adapter": {"targets": []}}, "adapter.targets"),
        ({"adapter": {"targets": "to_q"}}, "a list of texts"),
    ],
)
def test_what_does_not_work_is_said(document: dict[str, Any], message: str) -> None:
    if isinstance(document.get("data", {}), dict):
        document = {**document, "data": {"clips": "footage", **document.get("data", {})}}
    with pytest.raises(Ex4dError, match=f"(?s){message}") as caught:
        parse_config(document, Path())
    assert caught.value.code == "bad_request"


def test_one_of_clips_and_scenes_is_needed() -> None:
    with pytest.raises(Ex4dError, match="alternatives"):
        parse_config({}, Path())


def test_a_file_that_is_no_toml(tmp_path: Path) -> None:
    file = tmp_path / "t.toml"
    file.write_text("[data\n", encoding="utf-8")
    with pytest.raises(Ex4dError, match="is no TOML") as caught:
        read_config(file)
    assert caught.value.code == "bad_request"
    with pytest.raises(Ex4dError) as caught:
        read_config(tmp_path / "none.toml")
    assert caught.value.code == "no_such_file"


def test_what_makes_a_run_itself() -> None:
    one = parse_config(CLIPS, Path("/a"))
    moved = parse_config({**CLIPS, "run": {"checkpoint_every": 5, "log_every": 1}}, Path("/b"))
    assert one.identity() == moved.identity()
    for change in (
        {"run": {"seed": 1}},
        {"adapter": {"rank": 8}},
        {"optimiser": {"steps": 5}},
        {"run": {"validation_clips": 3}},
    ):
        assert one.identity() != parse_config({**CLIPS, **change}, Path("/a")).identity()
    constant = [
        parse_config({**CLIPS, "optimiser": {"schedule": "constant", "steps": n}}, Path()).identity() for n in (5, 9)
    ]
    assert constant[0] == constant[1], "more steps at a constant rate are the same run, longer"
    few = {"sampling_steps": 8}
    assert one.identity() == parse_config({**CLIPS, "objective": few}, Path()).identity(), "they are not looked at"
    assert (
        parse_config({**CLIPS, "objective": {"noise_levels": "few_steps"}}, Path()).identity()
        != parse_config({**CLIPS, "objective": {"noise_levels": "few_steps", **few}}, Path()).identity()
    )


def test_messages_call_the_model_by_its_name_or_its_folder_s() -> None:
    assert BaseModel().title == "wan2.1-i2v-14b-480p"
    assert BaseModel(folder=str(Path("models") / "mein Wan ü")).title == "mein Wan ü"


def test_a_configuration_made_in_code_is_checked_too() -> None:
    with pytest.raises(Ex4dError, match="4k"):
        LoraTraining(data=TrainingData(scenes=3, frames=4))
