# SPDX-License-Identifier: GPL-3.0-or-later
"""Depth networks of random weights, a few hundred kilobytes each, in the file formats they are published in.

Where the engine has a network of its own, the names and shapes stand here by hand, as the authors publish them.

folder = save_depth_anything(tmp_path / "v2")
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

Tensors = dict[str, torch.Tensor]
PATCH = 14


def save_depth_anything(folder: Path, kind: str = "relative", seed: int = 0) -> Path:
    """A folder of transformers' Depth Anything."""
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config

    torch.manual_seed(seed)
    backbone = Dinov2Config(
        hidden_size=64,
        num_hidden_layers=4,
        num_attention_heads=1,
        mlp_ratio=2,
        image_size=4 * PATCH,
        patch_size=PATCH,
        out_indices=[1, 2, 3, 4],
        reshape_hidden_states=False,
    )
    config = DepthAnythingConfig(
        backbone_config=backbone,
        patch_size=PATCH,
        reassemble_hidden_size=64,
        reassemble_factors=[4, 2, 1, 0.5],
        neck_hidden_sizes=[32, 32, 32, 64],
        fusion_hidden_size=32,
        head_hidden_size=32,
        depth_estimation_type=kind,
        max_depth=20 if kind == "metric" else 1,
    )
    model = DepthAnythingForDepthEstimation(config)
    _shake(model)
    torch.nn.init.constant_(model.head.conv3.bias, 1.0)
    model.save_pretrained(folder)
    return folder


def save_depth_pro(folder: Path, seed: int = 0) -> Path:
    """A folder of transformers' Depth Pro, which sees squares of 64 pixels."""
    from transformers import DepthProConfig, DepthProForDepthEstimation

    torch.manual_seed(seed)
    encoder = {
        "model_type": "dinov2",
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "mlp_ratio": 2,
        "image_size": 16,
        "patch_size": 4,
    }
    config = DepthProConfig(
        fusion_hidden_size=8,
        patch_size=16,
        intermediate_hook_ids=[1, 0],
        intermediate_feature_dims=[8, 8],
        scaled_images_ratios=[0.25, 0.5, 1],
        scaled_images_overlap_ratios=[0.0, 0.5, 0.25],
        scaled_images_feature_dims=[16, 16, 8],
        merge_padding_value=1,
        use_fov_model=True,
        num_fov_head_layers=0,
        image_model_config=dict(encoder),
        patch_model_config=dict(encoder),
        fov_model_config=dict(encoder),
    )
    model = DepthProForDepthEstimation(config)
    _shake(model)
    torch.nn.init.zeros_(model.fov_model.head.layers[-1].weight)
    torch.nn.init.constant_(model.fov_model.head.layers[-1].bias, 50.0)
    torch.nn.init.constant_(model.head.layers[-2].bias, 0.5)
    with torch.no_grad():
        model.head.layers[-2].weight *= 0.001
    model.save_pretrained(folder)
    return folder


def _shake(model: torch.nn.Module) -> None:
    """Fresh weights are so small that every pixel comes out alike."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn_like(parameter) * (2.0 / parameter[0].numel()) ** 0.5)


def _random(shapes: dict[str, tuple[int, ...]], seed: int) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=generator)
        if len(shape) > 1:
            values *= (2.0 / values[0].numel()) ** 0.5
        elif name.endswith(("gamma", "norm.weight", "norm1.weight", "norm2.weight")):
            values = 1 + 0.1 * values
        else:
            values *= 0.1
        tensors[name] = values
    return tensors


def _linear(name: str, outputs: int, inputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _convolution(name: str, outputs: int, inputs: int, side: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs, side, side), f"{name}.bias": (outputs,)}


def _encoder(prefix: str, width: int, blocks: int, grid: int, normalised_from: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        f"{prefix}.cls_token": (1, 1, width),
        f"{prefix}.pos_embed": (1, 1 + grid**2, width),
        **_convolution(f"{prefix}.patch_embed.proj", width, 3, PATCH),
        **_norm(f"{prefix}.norm", width),
    }
    for block in (f"{prefix}.blocks.{n}" for n in range(blocks)):
        shapes |= _norm(f"{block}.norm1", width) | _norm(f"{block}.norm2", width)
        shapes |= _linear(f"{block}.attn.qkv", 3 * width, width) | _linear(f"{block}.attn.proj", width, width)
        shapes |= _linear(f"{block}.mlp.fc1", 2 * width, width) | _linear(f"{block}.mlp.fc2", width, 2 * width)
        shapes |= {f"{block}.ls1.gamma": (width,), f"{block}.ls2.gamma": (width,)}
        if int(block.rsplit(".", 1)[1]) >= normalised_from:
            shapes |= _norm(f"{block}.attn.q_norm", 64) | _norm(f"{block}.attn.k_norm", 64)
    return shapes


def _head(
    prefix: str, width: int, channels: list[int], features: int, outputs: int, coarsest: bool
) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for level, count in enumerate(channels):
        shapes |= _convolution(f"{prefix}.projects.{level}", count, width, 1)
        shapes[f"{prefix}.scratch.layer{level + 1}_rn.weight"] = (features, count, 3, 3)
        shapes |= _fusion(f"{prefix}.scratch.refinenet{level + 1}", features, level < 3 or coarsest)
    for level, side in ((0, 4), (1, 2), (3, 3)):
        shapes |= _convolution(f"{prefix}.resize_layers.{level}", channels[level], channels[level], side)
    shapes |= _convolution(f"{prefix}.scratch.output_conv1", features // 2, features, 3)
    shapes |= _convolution(f"{prefix}.scratch.output_conv2.0", 32, features // 2, 3)
    return shapes | _convolution(f"{prefix}.scratch.output_conv2.2", outputs, 32, 1)


def _fusion(name: str, features: int, first: bool) -> dict[str, tuple[int, ...]]:
    shapes = _convolution(f"{name}.out_conv", features, features, 1)
    for unit in ("resConfUnit1", "resConfUnit2") if first else ("resConfUnit2",):
        shapes |= _convolution(f"{name}.{unit}.conv1", features, features, 3)
        shapes |= _convolution(f"{name}.{unit}.conv2", features, features, 3)
    return shapes


def video_depth_tensors(seed: int = 0) -> Tensors:
    """Video Depth Anything's layout: a DINOv2 of four blocks, 32 or 64 channels in the head."""
    width, channels, features = 64, [32, 32, 32, 64], 32
    shapes = _encoder("pretrained", width, 4, 4, normalised_from=99) | {"pretrained.mask_token": (1, width)}
    shapes |= _head("head", width, channels, features, outputs=1, coarsest=True)
    for module, count in enumerate((channels[2], channels[3], features, features)):
        name = f"head.motion_modules.{module}.temporal_transformer"
        block = f"{name}.transformer_blocks.0"
        shapes |= _norm(f"{name}.norm", count) | _linear(f"{name}.proj_in", count, count)
        shapes |= _linear(f"{name}.proj_out", count, count) | _norm(f"{block}.ff_norm", count)
        shapes |= _linear(f"{block}.ff.net.0.proj", 8 * count, count) | _linear(f"{block}.ff.net.2", count, 4 * count)
        for n in range(2):
            attention = f"{block}.attention_blocks.{n}"
            shapes |= {f"{attention}.to_{part}.weight": (count, count) for part in "qkv"}
            shapes |= _linear(f"{attention}.to_out.0", count, count) | _norm(f"{block}.norms.{n}", count)
            shapes[f"{attention}.pos_encoder.pe"] = (1, 32, count)
    tensors = _random(shapes, seed)
    tensors["head.scratch.output_conv2.2.bias"] += 1
    return tensors


def save_video_depth(path: Path, seed: int = 0) -> Path:
    """A .pth as torch writes it."""
    torch.save(video_depth_tensors(seed), path)
    return path


def multi_view_tensors(seed: int = 0) -> Tensors:
    """Depth Anything 3's layout, with the parts that depth does not need."""
    width, channels, features = 64, [16, 16, 32, 32], 32
    shapes = _encoder("model.backbone.pretrained", width, 12, 5, normalised_from=4)
    shapes["model.backbone.pretrained.camera_token"] = (1, 2, width)
    shapes |= _head("model.head", 2 * width, channels, features, outputs=2, coarsest=False)
    shapes |= _norm("model.head.norm", 2 * width)
    for layer, outputs in (("backbone.0", 128), ("backbone.2", 128), ("fc_t", 3), ("fc_qvec", 4), ("fc_fov.0", 2)):
        shapes |= _linear(f"model.cam_dec.{layer}", outputs, 128)
    for level in range(1, 5):
        shapes |= _fusion(f"model.head.scratch.refinenet{level}_aux", features, level < 4)
    shapes |= _convolution("model.head.scratch.output_conv1_aux.0.0", features // 2, features, 3)
    shapes |= _norm("model.head.scratch.output_conv2_aux.3.2", 32) | _linear("model.cam_enc.pose_branch.fc1", 32, 9)
    tensors = _random(shapes, seed)
    # an ordinary lens, and cameras that look about the same way
    tensors["model.cam_dec.fc_fov.0.bias"] = torch.tensor([0.7, 1.0])
    tensors["model.cam_dec.fc_qvec.bias"] = torch.tensor([0.0, 0.0, 0.0, 3.0])
    for name in ("fc_fov.0", "fc_qvec", "fc_t"):
        tensors[f"model.cam_dec.{name}.weight"] *= 0.02
    tensors["model.head.scratch.output_conv2.2.weight"] *= 0.02
    return tensors


def save_multi_view(folder: Path, seed: int = 0) -> Path:
    """A folder as Depth Anything 3 is published."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(multi_view_tensors(seed), folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_name": "da3-base"}', encoding="utf-8")
    return folder


def save_depthcrafter(unet: Path, shared: Path, seed: int = 0) -> None:
    """A folder with DepthCrafter's own part, and one with those it takes from Stable Video Diffusion."""
    from diffusers import AutoencoderKLTemporalDecoder, EulerDiscreteScheduler, UNetSpatioTemporalConditionModel
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(seed)
    UNetSpatioTemporalConditionModel(
        block_out_channels=(32, 32),
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24,
        layers_per_block=1,
        cross_attention_dim=16,
        num_attention_heads=(2, 2),
    ).save_pretrained(unet)
    AutoencoderKLTemporalDecoder(
        block_out_channels=(32,) * 4, down_block_types=("DownEncoderBlock2D",) * 4, layers_per_block=1
    ).save_pretrained(shared / "vae")
    CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=28,
            patch_size=14,
            projection_dim=16,
        )
    ).save_pretrained(shared / "image_encoder")
    EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        interpolation_type="linear",
        use_karras_sigmas=True,
        sigma_min=0.002,
        sigma_max=700.0,
        timestep_spacing="leading",
        timestep_type="continuous",
        steps_offset=1,
    ).save_pretrained(shared / "scheduler")
