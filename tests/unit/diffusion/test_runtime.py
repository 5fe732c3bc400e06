# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.models.attention_dispatch import _AttentionBackendRegistry

from ex4d_engine import bundled_model
from ex4d_engine.diffusion import attention, runtime
from ex4d_engine.diffusion.attention import CANDIDATES, NATIVE, fastest_backend, read_trials, splitting, trial
from ex4d_engine.diffusion.loading import load_pipeline
from ex4d_engine.diffusion.placement import enable_cache
from ex4d_engine.diffusion.run_plan import ModelPaths, RuntimeOptions, check_memory
from ex4d_engine.diffusion.runtime import open_pipeline
from ex4d_engine.diffusion.text_cache import cached_embeds
from ex4d_engine.diffusion.transformer_size import transformer_size
from ex4d_engine.errors import Cancelled, Ex4dError
from ex4d_engine.progress import Silent
from tests import tiny_model


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> ModelPaths:
    folder = tmp_path_factory.mktemp("models")
    return ModelPaths(
        tiny_model.save_model_folder(folder / "model"), tiny_model.save_adapter_file(folder / "ex4d.safetensors")
    )


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EX4D_CACHE", str(tmp_path / "Ünï cache"))
    return tmp_path / "Ünï cache"


def frames(paths: ModelPaths, options: RuntimeOptions, reporter: Silent | None = None) -> np.ndarray:
    video, mask = tiny_model.conditioning()
    with open_pipeline(
        paths,
        options,
        tokens=18,
        steps=3,
        guidance_scale=5.0,
        prompt="a person walks",
        negative_prompt="blurred",
        reporter=reporter or Silent(),
    ) as ready:
        return ready.pipeline(
            video,
            mask,
            prompt_embeds=ready.prompt_embeds[0],
            negative_prompt_embeds=ready.prompt_embeds[1],
            num_inference_steps=3,
            generator=torch.Generator().manual_seed(0),
            output_type="np",
        ).frames


def plain_frames(paths: ModelPaths) -> np.ndarray:
    pipeline = load_pipeline(paths.folder, paths.adapter, dtype=torch.float32, device="cpu", reporter=Silent())
    video, mask = tiny_model.conditioning()
    return pipeline(
        video,
        mask,
        prompt="a person walks",
        negative_prompt="blurred",
        num_inference_steps=3,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    ).frames


def test_fused_and_with_cached_text_it_is_the_plain_pipeline(paths: ModelPaths, cache: Path) -> None:
    expected = plain_frames(paths)

    assert np.abs(frames(paths, RuntimeOptions()) - expected).max() < 5e-5
    assert len(list((cache / "text").iterdir())) == 2
    assert np.abs(frames(paths, RuntimeOptions()) - expected).max() < 5e-5


def test_the_text_encoder_is_not_loaded_for_known_prompts(paths: ModelPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    frames(paths, RuntimeOptions())

    def refuse(*_: object) -> None:
        raise AssertionError("the text encoder was loaded again")

    monkeypatch.setattr(runtime, "embed_texts", refuse)
    frames(paths, RuntimeOptions())


def test_a_damaged_embedding_is_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "encoder"
    folder.mkdir()
    calls: list[list[str]] = []

    def embed(texts: object) -> list[torch.Tensor]:
        calls.append(list(texts))  # type: ignore[call-overload]
        return [torch.full((1, 2, 3), float(len(text))) for text in calls[-1]]

    first = cached_embeds(["a", "bb"], folder, tmp_path / "text", embed)
    next(iter((tmp_path / "text").iterdir())).write_bytes(b"rubbish")
    again = cached_embeds(["a", "bb"], folder, tmp_path / "text", embed)

    assert [len(call) for call in calls] == [2, 1]
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


@pytest.mark.parametrize(("threshold", "is_exact"), [(-1.0, True), (1e9, False)])
def test_first_block_cache_cuts_short_what_its_threshold_allows(
    paths: ModelPaths, monkeypatch: pytest.MonkeyPatch, threshold: float, is_exact: bool
) -> None:
    exact = frames(paths, RuntimeOptions())
    monkeypatch.setattr(runtime, "enable_cache", partial(enable_cache, threshold=threshold))

    difference = np.abs(frames(paths, RuntimeOptions(cache="first-block")) - exact).max()

    assert (difference < 5e-5) == is_exact


@pytest.mark.parametrize("options", [RuntimeOptions(cache="magic"), RuntimeOptions(attention="magic")])
def test_unknown_settings_are_refused(paths: ModelPaths, options: RuntimeOptions) -> None:
    with pytest.raises(Ex4dError) as caught:
        frames(paths, options)

    assert caught.value.code == "bad_request"


def test_cancel_while_loading(paths: ModelPaths) -> None:
    reporter = Silent()
    reporter.cancelled.set()

    with pytest.raises(Cancelled):
        frames(paths, RuntimeOptions(), reporter)


@pytest.mark.parametrize(("has_draft", "offered"), [(True, "preset:draft"), (False, "preset:preview")])
def test_a_big_model_without_a_card_says_what_it_needs(
    paths: ModelPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_draft: bool, offered: str
) -> None:
    monkeypatch.setattr(bundled_model, "has_bundled_model", lambda: has_draft)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    folder = shutil.copytree(paths.folder, tmp_path / "model")
    config = folder / "transformer" / "config.json"
    big = {"num_attention_heads": 40, "attention_head_dim": 128, "num_layers": 40, "ffn_dim": 13824}
    config.write_text(json.dumps({**json.loads(config.read_text(encoding="utf-8")), **big}), encoding="utf-8")

    assert transformer_size(folder).parameters == pytest.approx(16.39e9, rel=0.02)
    for models in (ModelPaths(folder, None), None):  # here, and not here yet
        with pytest.raises(Ex4dError) as caught:
            check_memory(models, RuntimeOptions(), tokens=13312)
        assert caught.value.code == "out_of_memory"
        assert "16 billion" in caught.value.message and "NVIDIA" in caught.value.message
        assert caught.value.action == offered and offered.removeprefix("preset:") in caught.value.hint
        assert has_draft == ("draft" in caught.value.hint)


def test_versions_are_of_all_that_decides_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchao, which float8 computes with, is not everywhere."""
    known = runtime.library_versions()
    assert known["torch"] == torch.__version__
    version = runtime.metadata.version
    monkeypatch.setattr(runtime.metadata, "version", lambda name: "0.18.0" if name == "torchao" else version(name))
    assert runtime.library_versions() == {**known, "torchao": "0.18.0"}


def test_a_lora_of_another_model_is_refused(paths: ModelPaths, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"lora_unet_down.lora_A.weight": torch.zeros(2, 2)}, tmp_path / "fast.safetensors")

    with pytest.raises(Ex4dError) as caught:
        frames(ModelPaths(paths.folder, paths.adapter, tmp_path / "fast.safetensors"), RuntimeOptions())
    assert caught.value.code == "model_invalid"


def test_on_a_cpu_there_is_one_attention(cache: Path) -> None:
    assert fastest_backend((1, 8, 2, 4), torch.device("cpu"), torch.float32, cache / "attention.json") == NATIVE


def test_a_trial_times_only_what_runs() -> None:
    times = trial((1, 8, 2, 4), torch.device("cpu"), torch.float32, (NATIVE, "_flash_3"), seconds=0.01)

    assert set(times) == {NATIVE}


def test_a_backend_is_one_transformers_and_not_the_processs(paths: ModelPaths) -> None:
    def output(attention: str) -> np.ndarray:
        return frames(paths, RuntimeOptions(attention=attention))

    before = _AttentionBackendRegistry.get_active_backend()[0]
    native = output(NATIVE)
    output("_native_math")
    assert _AttentionBackendRegistry.get_active_backend()[0] == before
    np.testing.assert_array_equal(output(NATIVE), native)


def test_only_backends_that_can_split_tokens_are_tried_for_ranks_that_share_them() -> None:
    assert NATIVE in splitting()
    assert set(splitting()) < set(CANDIDATES)
    assert "_native_efficient" not in splitting()


def test_a_trial_is_kept_where_that_is_possible_and_done_without_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials: list[tuple[str, ...]] = []

    def trial_of(shape: object, device: object, dtype: object, candidates: tuple[str, ...]) -> dict[str, float]:
        trials.append(candidates)
        return {name: float(len(candidates) - place) for place, name in enumerate(candidates)}  # the last is fastest

    monkeypatch.setattr(attention, "trial", trial_of)
    monkeypatch.setattr(attention, "trial_key", lambda *_: "a card")
    card, shape = torch.device("cuda"), (1, 8, 2, 4)
    kept = tmp_path / "cache" / "attention.json"
    assert fastest_backend(shape, card, torch.float32, kept) == CANDIDATES[-1]
    assert fastest_backend(shape, card, torch.float32, kept) == CANDIDATES[-1] and len(trials) == 1
    # what cannot split is no answer for ranks that share tokens
    assert fastest_backend(shape, card, torch.float32, kept, splitting()) == splitting()[-1] and len(trials) == 2
    (tmp_path / "file").write_bytes(b"")
    for _ in range(2):
        assert fastest_backend(shape, card, torch.float32, tmp_path / "file" / "attention.json") == CANDIDATES[-1]
    assert len(trials) == 4


def test_a_cache_of_texts_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "encoder").mkdir()
    (tmp_path / "file").write_bytes(b"")
    asked: list[list[str]] = []

    def embed(texts: Sequence[str]) -> list[torch.Tensor]:
        asked.append(list(texts))
        return [torch.ones(1, 2, 3) for _ in texts]

    for _ in range(2):
        found = cached_embeds(["a"], tmp_path / "encoder", tmp_path / "file" / "texts", embed)
        assert torch.equal(found[0], torch.ones(1, 2, 3))
    assert asked == [["a"], ["a"]]


def test_rubbish_in_the_file_of_trials_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "attention.json"
    path.write_text('{"a": "native", "b": "os.system"}', encoding="utf-8")

    assert read_trials(path) == {"a": "native"}
    path.write_text("[", encoding="utf-8")
    assert read_trials(path) == {}
