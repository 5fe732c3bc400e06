# SPDX-License-Identifier: GPL-3.0-or-later
"""The models that presets and depth sources need, and where they are published."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Final, Literal

from ..errors import Ex4dError

Kind = Literal["folder", "adapter", "lora", "depth"]


@dataclass(frozen=True)
class Model:
    """A published model.

    Attributes:
        name: what commands and takes call it; also its folder's name.
        title: what people call it.
        repository: owner and name on the Hugging Face hub.
        files: patterns of the files needed, as of `fnmatch`; `*` crosses folders. One plain name where the model
            is a single file.
        size_bytes: of all files together, about: for people to decide by. The hub tells the exact sizes.
        licence: SPDX name, or what there is to say.
        licence_url: where its text stands.
        needs_acceptance: whether the licence restricts use, so that the user must agree first.
        presets: generation presets that need the model; none for a "depth" model.
        kind: "folder" of a pipeline in diffusers' layout, EX-4D "adapter" (LoRA and camera encoder), "lora", or
            "depth": what a depth source needs, exactly `files`.
        revision: commit or branch to take.
        licence_files: names of the licence's own text in the repository; the first that is there counts.
        sha256: published checksums, by file; what is not here is compared with the hub's own at download.
    """

    name: str
    title: str
    repository: str
    files: tuple[str, ...]
    size_bytes: int
    licence: str
    licence_url: str
    needs_acceptance: bool
    presets: tuple[str, ...]
    kind: Kind
    revision: str = "main"
    licence_files: tuple[str, ...] = ("LICENSE", "LICENSE.md", "LICENSE.txt", "LICENCE")
    sha256: Mapping[str, str] = field(default_factory=dict)

    @property
    def single_file(self) -> str | None:
        """The file's name where the model is one file, else None."""
        return self.files[0] if self.kind != "folder" and len(self.files) == 1 else None

    def selected(self, paths: Iterable[str]) -> list[str]:
        """Those of a repository's files that the model consists of, sorted."""
        return sorted(path for path in paths if any(fnmatchcase(path, pattern) for pattern in self.files))


_ENTRIES: Final = (
    Model(
        name="wan2.1-i2v-14b-480p",
        title="Wan2.1 image-to-video 14B, 480p",
        repository="Wan-AI/Wan2.1-I2V-14B-480P-Diffusers",
        files=(
            "model_index.json",
            "scheduler/*.json",
            "tokenizer/*",
            "text_encoder/*.json",
            "text_encoder/*.safetensors",
            "image_encoder/*.json",
            "image_encoder/*.safetensors",
            "image_processor/*.json",
            "vae/*.json",
            "vae/*.safetensors",
            "transformer/*.json",
            "transformer/*.safetensors",
            "ex4d.safetensors",  # published nowhere: the adapter in a folder that `ex4d models convert` made
        ),
        size_bytes=90_075_953_948,  # in float32, the image encoder in half precision
        revision="b184e23a8a16b20f108f727c902e769e873ffc73",
        licence="Apache-2.0",
        licence_url="https://huggingface.co/Wan-AI/Wan2.1-I2V-14B-480P-Diffusers",
        needs_acceptance=False,
        presets=("final", "fast"),
        kind="folder",
    ),
    Model(
        name="ex4d-lora",
        title="EX-4D adapter for Wan2.1 image-to-video 14B",
        repository="yihouxiang/EX-4D",
        files=("ex4d.ckpt",),
        size_bytes=400_000_000,  # 99.8 million parameters, at most float32
        licence="see its page",  # its authors' pages that we know of name none
        licence_url="https://huggingface.co/yihouxiang/EX-4D",
        needs_acceptance=False,
        presets=("final", "fast"),
        kind="adapter",
    ),
    Model(
        name="wan2.1-fast-lora",
        title="lightx2v's 4-step LoRA for Wan2.1 image-to-video 14B, 480p, rank 64",
        repository="lightx2v/Wan2.1-I2V-14B-480P-StepDistill-CfgDistill-Lightx2v",
        files=("loras/Wan21_I2V_14B_lightx2v_cfg_step_distill_lora_rank64.safetensors",),
        size_bytes=739_472_104,
        revision="fef288b326f4fed6d2983b9800c35363da31fcfe",
        sha256={
            "loras/Wan21_I2V_14B_lightx2v_cfg_step_distill_lora_rank64.safetensors": (
                "8833bd4fd7c8eabebf0bc8ee5cfaf47f4f310ce116928a02c1adf8941dd4b0f1"
            )
        },
        licence="Apache-2.0",
        licence_url="https://huggingface.co/lightx2v/Wan2.1-I2V-14B-480P-StepDistill-CfgDistill-Lightx2v",
        needs_acceptance=False,
        presets=("fast",),
        kind="lora",
    ),
)


def _depth_model(
    name: str,
    title: str,
    repository: str,
    size_bytes: int,
    licence: str,
    *,
    files: tuple[str, ...] = ("config.json", "model.safetensors"),
    restricted: bool = False,
    revision: str = "main",
    sha256: Mapping[str, str] | None = None,
) -> Model:
    """What a depth source needs, published at `repository`."""
    return Model(
        name=name,
        title=title,
        repository=repository,
        files=files,
        size_bytes=size_bytes,
        licence=licence,
        licence_url=f"https://huggingface.co/{repository}",
        needs_acceptance=restricted,
        presets=(),
        kind="depth",
        revision=revision,
        sha256=sha256 or {},
    )


_METRIC: Final[Mapping[str, tuple[str, Mapping[str, str]]]] = {
    "Indoor-Small": (
        "8078d68a9c75a972131914f6afd0c1723be0da7f",
        {
            "config.json": "0b1d9fc591693d16b864249a9cfcf5264c8c00be999c1643fa1c64dc105d55f8",
            "model.safetensors": "e990eb82fbf11b05b7813261196a2b841bdcf5a05f64396724a8987fa90504a3",
        },
    ),
    "Outdoor-Small": (
        "fd2c22027eaf20374204f14099b8341e1925ad39",
        {"model.safetensors": "ad065c77a7421ca55159a1f0db9433397a607690f2d76bb8a6fc54b1be7a3124"},
    ),
    "Indoor-Base": (
        "c6d9784685727bfc6d0a7b5452ce94afaee1e7f5",
        {"model.safetensors": "8b902f5d9a8c8a9520f3a8c6a00afe442b464eff5aaf0cb405d1da721cd9f79f"},
    ),
    "Outdoor-Base": ("5b575fded0346068343a6d96d0ce3ab6dbc9fb49", {}),
}
"""Commit and checksums of Depth Anything V2's networks in metres."""

# Sizes are the published files' where their page tells it, else parameters times four bytes. Checksums stand here where
# two or more independent projects publish the same one; a commit is named where one is known, so that what is
# downloaded tomorrow is what was downloaded today.
_DEPTH_ENTRIES: Final = (
    _depth_model(
        "depth-anything-v2-small",
        "Depth Anything V2 small",
        "depth-anything/Depth-Anything-V2-Small-hf",
        99_174_610,
        "Apache-2.0",
        revision="5426e4f0f36572d16453bbda7a8389317b1bef99",
        sha256={
            "config.json": "c56698d3643dde1f83ea2212759e6b31a22b8f827246a36dd007ee8a22b3ff75",
            "model.safetensors": "3152477ce0d8d6978d76b995120de97cb5b928701fd0f817769f59e249a16b70",
        },
    ),
    _depth_model(
        "depth-anything-v2-base",
        "Depth Anything V2 base",
        "depth-anything/Depth-Anything-V2-Base-hf",
        390_000_000,
        "CC-BY-NC-4.0",
        restricted=True,
        revision="b1958afc87fb45a9e3746cb387596094de553ed8",
    ),
    *(
        _depth_model(
            f"depth-anything-v2-{size.lower()}-metric-{place.lower()}",
            f"Depth Anything V2 {size.lower()}, in metres, {place.lower()}s",
            f"depth-anything/Depth-Anything-V2-Metric-{place}-{size}-hf",
            99_174_723 if size == "Small" else 390_000_000,
            "Apache-2.0" if size == "Small" else "CC-BY-NC-4.0",
            restricted=size != "Small",
            revision=_METRIC[f"{place}-{size}"][0],
            sha256=_METRIC[f"{place}-{size}"][1],
        )
        for size in ("Small", "Base")
        for place in ("Indoor", "Outdoor")
    ),
    _depth_model(
        "depth-anything-3-small",
        "Depth Anything 3 small",
        "depth-anything/DA3-SMALL",
        137_250_142,
        "Apache-2.0",
        revision="e08cab65ca0ec38e7826075418411ab90cab4da3",
        sha256={
            "config.json": "a486e29e82b7ab4a7d4cefc1ea4526cfe2ae438a572c8ca98917cfbcde7447d2",
            "model.safetensors": "364492e38a3a06d221ac75da7f6621ada3f2361cd24fde11ba79091e9f40efcf",
        },
    ),
    _depth_model(
        "depth-anything-3-base",
        "Depth Anything 3 base",
        "depth-anything/DA3-BASE",
        541_519_233,
        "Apache-2.0",
        revision="f4a6c9b3c95e41c82048423d3493a81ec3fa810e",
        sha256={
            "config.json": "5e34115ebc17bd2d8d43033c5f72e9446ac8833fd61d3fa160b7e67e0bb5b7b5",
            "model.safetensors": "e01067dc1659613083d9145a9a2547ccdbe6ccbbf83c4fe7b3e8a4e2bdae78b5",
        },
    ),
    _depth_model(
        "video-depth-anything-small",
        "Video Depth Anything small",
        "depth-anything/Video-Depth-Anything-Small",
        116_440_756,
        "Apache-2.0",
        revision="256875362cff76724b920335dfb4b29dd611f66e",
        files=("video_depth_anything_vits.pth",),
        sha256={"video_depth_anything_vits.pth": "13379300b739e659f076a59d52e9801bd8d38c541a7e71f73bbca4dcfb013609"},
    ),
    _depth_model(
        "depth-pro",
        "Depth Pro",
        "apple/DepthPro-hf",
        1_900_000_000,  # 0.95 billion parameters in half precision
        "Apple Machine Learning Research Model",
        restricted=True,
    ),
    _depth_model(
        "depthcrafter",
        "DepthCrafter",
        "tencent/DepthCrafter",
        3_050_000_000,  # 1.5 billion parameters in half precision
        "DepthCrafter's own, academic use only",
        files=("config.json", "diffusion_pytorch_model.safetensors"),
        restricted=True,
    ),
    _depth_model(
        "stable-video-diffusion",
        "Stable Video Diffusion, the parts that DepthCrafter shares",
        "stabilityai/stable-video-diffusion-img2vid-xt",
        2_920_000_000,  # image encoder and VAE in float32
        "Stability AI Community",
        files=(
            "scheduler/scheduler_config.json",
            "image_encoder/config.json",
            "image_encoder/model.safetensors",
            "vae/config.json",
            "vae/diffusion_pytorch_model.safetensors",
        ),
        restricted=True,
        revision="9e43909513c6714f1bc78bcb44d96e733cd242aa",
        sha256={"image_encoder/model.safetensors": "ed1e5af7b4042ca30ec29999a4a5cfcac90b7fb610fd05ace834f2dcbb763eab"},
    ),
)
MODELS: Final[dict[str, Model]] = {model.name: model for model in (*_ENTRIES, *_DEPTH_ENTRIES)}


def model_named(name: str) -> Model:
    """The registry's entry `name`.

    Raises:
        Ex4dError: `unknown_model`.
    """
    try:
        return MODELS[name]
    except KeyError:
        raise Ex4dError("unknown_model", f"There is no model {name!r}.", f"Use one of: {', '.join(MODELS)}.") from None
