# SPDX-License-Identifier: GPL-3.0-or-later
"""A Wan-architecture model of random weights, a quarter of a megabyte, written in the real file formats.

folder = save_model_folder(tmp_path / "model")          # as downloaded: stock classes, stock layout
adapter = save_adapter_file(tmp_path / "ex4d.safetensors")
pipeline = load_pipeline(folder, adapter, dtype=torch.float32, device="cpu", reporter=Silent())
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanImageToVideoPipeline, WanTransformer3DModel
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModel,
    PreTrainedTokenizerFast,
    UMT5Config,
    UMT5EncoderModel,
)

from ex4d_engine.diffusion.bundled_codec import BundledCodec
from ex4d_engine.diffusion.camera_encoder import CameraEncoder
from ex4d_engine.diffusion.checkpoints import ADAPTER_NAME, LORA_TARGETS, save_adapter
from ex4d_engine.diffusion.transformer import Ex4dTransformer3DModel
from ex4d_engine.training.bundled_folder import write_bundled_folder

TEXT_WIDTH = 24
IMAGE_WIDTH = 32
TRANSFORMER: dict[str, Any] = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 36,
    "out_channels": 16,
    "text_dim": TEXT_WIDTH,
    "freq_dim": 16,
    "ffn_dim": 32,
    "num_layers": 2,
    "cross_attn_norm": True,
    "image_dim": IMAGE_WIDTH,
    "added_kv_proj_dim": 24,
    "rope_max_seq_len": 64,
}
CODEC_CHANNELS = 48
BUNDLED_TRANSFORMER: dict[str, Any] = {
    **{name: value for name, value in TRANSFORMER.items() if name != "added_kv_proj_dim"},
    "in_channels": CODEC_CHANNELS + 4 + CODEC_CHANNELS,
    "out_channels": CODEC_CHANNELS,
    "text_dim": 8,
    "image_dim": None,
}
VAE: dict[str, Any] = {
    "base_dim": 3,
    "z_dim": 16,
    "dim_mult": [1, 1, 1, 1],
    "num_res_blocks": 1,
    "temperal_downsample": [False, True, True],
}
_WORDS = ["a camera moves around a quiet street", "a still picture", "blurred, low quality", "a person walks"]


def tokenizer() -> PreTrainedTokenizerFast:
    """A unigram tokenizer like UMT5's, trained here on a few words, so that no download is needed."""
    tokens = Tokenizer(models.Unigram())
    tokens.normalizer = normalizers.NFKC()
    tokens.pre_tokenizer = pre_tokenizers.Metaspace()
    specials = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=48, special_tokens=specials, unk_token="<unk>", show_progress=False)
    tokens.train_from_iterator(_WORDS, trainer)
    tokens.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokens, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )


def save_model_folder(folder: Path, seed: int = 0) -> Path:
    """Writes a model folder as Wan2.1 image-to-video is published, made of diffusers' and transformers' classes."""
    torch.manual_seed(seed)
    words = tokenizer()
    text_encoder = UMT5EncoderModel(
        UMT5Config(
            vocab_size=len(words),
            d_model=TEXT_WIDTH,
            d_kv=6,
            d_ff=32,
            num_heads=4,
            num_layers=1,
            feed_forward_proj="gated-gelu",
            is_encoder_decoder=False,
        )
    )
    image_encoder = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=IMAGE_WIDTH,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=224,
            patch_size=14,
            hidden_act="gelu",
        )
    )
    WanImageToVideoPipeline(
        tokenizer=words,
        text_encoder=text_encoder,
        vae=AutoencoderKLWan(**VAE),
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
        image_processor=CLIPImageProcessorPil(),
        image_encoder=image_encoder,
        transformer=WanTransformer3DModel(**TRANSFORMER),
    ).save_pretrained(folder)
    return folder


def transformer_with_adapter(rank: int = 4, seed: int = 1) -> tuple[Ex4dTransformer3DModel, CameraEncoder]:
    """A transformer with a LoRA attached and its camera encoder, all random, none of it zero."""
    torch.manual_seed(seed)
    return _with_adapter(Ex4dTransformer3DModel(**TRANSFORMER), 16, rank)


def _with_adapter(
    transformer: Ex4dTransformer3DModel, channels: int, rank: int
) -> tuple[Ex4dTransformer3DModel, CameraEncoder]:
    transformer.add_adapter(
        LoraConfig(r=rank, lora_alpha=rank, target_modules=list(LORA_TARGETS), init_lora_weights=False), ADAPTER_NAME
    )
    camera_encoder = CameraEncoder(channels, 20, transformer.width)
    torch.nn.init.normal_(camera_encoder.latent_patch_embedding.weight, std=0.2)
    return transformer, camera_encoder


def save_adapter_file(path: Path, rank: int = 4, seed: int = 1) -> Path:
    """Writes an EX-4D adapter for the model folder, with the published checkpoint's names."""
    save_adapter(path, *transformer_with_adapter(rank, seed))
    return path


def save_bundled_folder(folder: Path, rank: int = 4, seed: int = 0) -> Path:
    """Writes a model folder as the bundled one: its own codec, a constant prompt, the adapter in it, no encoders."""
    torch.manual_seed(seed)
    codec = BundledCodec(encoder_widths=(4, 4, 8), decoder_widths=(8, 4, 4), decoder_blocks=1)
    for layer in (codec.encoder.leave, codec.decoder.leave):
        torch.nn.init.normal_(layer.weight, std=0.05)
    adapter, camera = _with_adapter(Ex4dTransformer3DModel(**BUNDLED_TRANSFORMER), CODEC_CHANNELS, rank)
    with TemporaryDirectory() as temporary:
        save_adapter(Path(temporary) / "ex4d.safetensors", adapter, camera)
        tensors = load_file(Path(temporary) / "ex4d.safetensors")
    transformer = Ex4dTransformer3DModel(**BUNDLED_TRANSFORMER)
    write_bundled_folder(folder, codec, transformer, tensors, torch.zeros(1, 1, BUNDLED_TRANSFORMER["text_dim"]))
    return folder


def save_fast_lora_file(path: Path, rank: int = 2, seed: int = 2) -> Path:
    """Writes a step-distillation LoRA for the model folder, with the names of the original Wan and of its tools."""
    generator = torch.Generator().manual_seed(seed)
    width = TRANSFORMER["num_attention_heads"] * TRANSFORMER["attention_head_dim"]
    linear = {f"self_attn.{name}": (width, width) for name in "qkvo"}
    linear |= {f"cross_attn.{name}": (width, width) for name in ("q", "k", "v", "o", "k_img", "v_img")}
    linear |= {"ffn.0": (width, TRANSFORMER["ffn_dim"]), "ffn.2": (TRANSFORMER["ffn_dim"], width)}
    tensors = {}
    for block in range(TRANSFORMER["num_layers"]):
        for name, (inputs, outputs) in linear.items():
            start = f"diffusion_model.blocks.{block}.{name}"
            tensors[f"{start}.lora_down.weight"] = torch.randn(rank, inputs, generator=generator)
            tensors[f"{start}.lora_up.weight"] = torch.randn(outputs, rank, generator=generator)
            tensors[f"{start}.alpha"] = torch.tensor(float(rank))
    save_file(tensors, path)
    return path


def conditioning(
    frames: int = 9, height: int = 32, width: int = 48, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """A colour video and mask as the pipeline takes them, (1, 3, F, H, W); all of the first frame is seen."""
    generator = torch.Generator().manual_seed(seed)
    seen = (torch.rand(1, 1, frames, height, width, generator=generator) > 0.3).float().repeat(1, 3, 1, 1, 1)
    seen[:, :, 0] = 1
    return torch.rand(1, 3, frames, height, width, generator=generator) * seen * 2 - 1, seen * 2 - 1
