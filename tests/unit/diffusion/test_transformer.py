# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel
from peft import LoraConfig

from ex4d_engine.diffusion.checkpoints import LORA_TARGETS, WAN_I2V_14B
from ex4d_engine.diffusion.transformer import Ex4dTransformer3DModel
from tests.tiny_model import TRANSFORMER


@pytest.fixture(scope="module")
def stock() -> WanTransformer3DModel:
    torch.manual_seed(0)
    return WanTransformer3DModel(**TRANSFORMER).eval()


@pytest.fixture(scope="module")
def transformer(stock: WanTransformer3DModel) -> Ex4dTransformer3DModel:
    ours = Ex4dTransformer3DModel.from_config(stock.config).eval()
    ours.load_state_dict(stock.state_dict(), strict=True)
    return ours


@pytest.fixture(scope="module")
def inputs() -> dict[str, Any]:
    torch.manual_seed(1)
    return {
        "hidden_states": torch.randn(1, 36, 2, 4, 6),
        "timestep": torch.tensor([937.5]),
        "encoder_hidden_states": torch.randn(1, 512, TRANSFORMER["text_dim"]),
        "encoder_hidden_states_image": torch.randn(1, 257, TRANSFORMER["image_dim"]),
        "return_dict": False,
    }


@pytest.fixture(scope="module")
def ray_latent() -> torch.Tensor:
    torch.manual_seed(2)
    return torch.randn(1, 24, 2, 2, 3)


@torch.no_grad()
def test_without_a_ray_it_is_the_stock_model(
    stock: WanTransformer3DModel, transformer: Ex4dTransformer3DModel, inputs: dict[str, Any]
) -> None:
    assert torch.equal(transformer(**inputs)[0], stock(**inputs)[0])


@torch.no_grad()
def test_the_ray_is_added_once_to_the_patch_tokens(
    stock: WanTransformer3DModel, transformer: Ex4dTransformer3DModel, inputs: dict[str, Any], ray_latent: torch.Tensor
) -> None:
    hook = stock.patch_embedding.register_forward_hook(lambda _m, _a, tokens: tokens + ray_latent)
    expected = stock(**inputs)[0]
    hook.remove()

    assert torch.equal(transformer(**inputs, ray_latent=ray_latent)[0], expected)
    assert not torch.allclose(transformer(**inputs)[0], expected)


@torch.no_grad()
def test_the_ray_does_not_outlive_a_failed_forward(
    transformer: Ex4dTransformer3DModel, inputs: dict[str, Any], ray_latent: torch.Tensor
) -> None:
    with pytest.raises(RuntimeError):
        transformer(**{**inputs, "encoder_hidden_states": torch.zeros(1, 512, 3)}, ray_latent=ray_latent)

    assert transformer.patch_embedding.ray_latent is None


@torch.no_grad()
def test_compiles_as_one_graph(
    transformer: Ex4dTransformer3DModel, inputs: dict[str, Any], ray_latent: torch.Tensor
) -> None:
    expected = transformer(**inputs, ray_latent=ray_latent)[0]

    compiled = torch.compile(transformer, fullgraph=True, backend="eager")

    torch.testing.assert_close(compiled(**inputs, ray_latent=ray_latent)[0], expected)
    torch.testing.assert_close(
        compiled(**inputs, ray_latent=-ray_latent)[0], transformer(**inputs, ray_latent=-ray_latent)[0]
    )
    torch.compiler.reset()


def test_size_of_the_14b_model_and_its_adapter() -> None:
    with torch.device("meta"):
        transformer = Ex4dTransformer3DModel(**WAN_I2V_14B)
        assert sum(p.numel() for p in transformer.parameters()) == 16_394_878_784

        transformer.add_adapter(LoraConfig(r=16, lora_alpha=16, target_modules=list(LORA_TARGETS)))

    lora = [p for name, p in transformer.named_parameters() if "lora_" in name]
    assert len(lora) == 2 * 10 * 40
    assert sum(p.numel() for p in lora) == 76_677_120
