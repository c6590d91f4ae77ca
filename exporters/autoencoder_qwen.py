"""The video autoencoder of Qwen-Image (Wu et al. 2025, arXiv 2508.02324), for pictures: one frame, in two dimensions.

Its convolutions are causal in time, with zeros before the first frame. So of a kernel of three frames, a picture meets
the last one only, and the layers that halve or double the number of frames leave the first one alone. What is left is a
network of two dimensions with a third of the multiplications, which is exported; the file knows no time.

Latents are brought to mean 0 and deviation 1 channel by channel; that is inside the graphs.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKLQwenImage
from diffusers.models.autoencoders import autoencoder_kl_qwenimage as theirs
from torch import Tensor, nn
from torch.nn import functional as F

from dit_deploy.exporters import autoencoder_parts as parts
from dit_deploy.exporters.modules import load_diffusers, read_config
from dit_deploy.exporters.source import Graph

__all__ = ["Decoder", "Encoder", "graphs"]


def graphs(folder: Path, channels: int, sample_size: int) -> tuple[list[Graph], int]:
    """Return the two halves to export, and how many pixels a latent pixel stands for along an axis.

    Args:
        folder: of an ``AutoencoderKLQwenImage``.
        channels: of the denoiser's latents, which must be the autoencoder's.
        sample_size: height and width of the latents at which the halves are proved.

    Raises:
        SourceError: the folder holds another class, or one that does not belong to the denoiser.
    """
    config = read_config(AutoencoderKLQwenImage, folder)
    parts.check_channels(folder, config["z_dim"], channels)
    parts.check_statistics(folder, config, channels)
    compression = 2 ** (len(config["dim_mult"]) - 1)
    images = parts.images_tensor(config["input_channels"], compression)
    latents = parts.latents_tensor("latents", channels)
    made = parts.halves(
        (parts.encoder_component(images, latents), parts.decoder_component(latents, images)),
        (Encoder, Decoder),
        (_EncoderReference, _DecoderReference),
        lambda: _load(folder),
        {"batch": 2, "latent_height": sample_size, "latent_width": sample_size},
    )
    return made, compression


def _load(folder: Path) -> AutoencoderKLQwenImage:
    return load_diffusers(AutoencoderKLQwenImage, folder)


class Encoder(nn.Module):
    """Pictures [batch, 3, height, width] in 0 … 1 → ``mean`` and ``std`` of the latents' posterior."""

    def __init__(self, vae: AutoencoderKLQwenImage) -> None:
        super().__init__()
        self.statistics = parts.Statistics(vae.config, 2)
        self.encoder, self.quant_conv = for_one_frame(vae.encoder), for_one_frame(vae.quant_conv)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = parts.moments(self.quant_conv(self.encoder(images * 2 - 1)))
        return self.statistics.normalised(mean), std / self.statistics.std


class Decoder(nn.Module):
    """Latents [batch, channels, height, width] → pictures in 0 … 1 and beyond: a runtime blends, then clips."""

    def __init__(self, vae: AutoencoderKLQwenImage) -> None:
        super().__init__()
        self.statistics = parts.Statistics(vae.config, 2)
        self.decoder, self.post_quant_conv = for_one_frame(vae.decoder), for_one_frame(vae.post_quant_conv)

    def forward(self, latents: Tensor) -> tuple[Tensor]:
        z = self.statistics.back(latents)
        return (self.decoder(self.post_quant_conv(z)) / 2 + 0.5,)


def for_one_frame(module: nn.Module) -> nn.Module:
    """Return ``module`` with every layer of three dimensions, or of frames, replaced by what it does to one frame.

    It then takes and gives [batch, channels, height, width]. ``module`` itself is changed, its weights are shared.
    """
    if isinstance(module, theirs.QwenImageCausalConv3d):
        return _last_frame_of(module)
    if isinstance(module, theirs.QwenImageRMS_norm):
        return _Norm(module)
    if isinstance(module, theirs.QwenImageAttentionBlock):
        return _Attention(module)
    if isinstance(module, theirs.QwenImageResample):
        # time_conv is for frames after the first
        return for_one_frame(module.resample)
    if isinstance(module, nn.Upsample):
        # By whole factors "nearest-exact" is "nearest", which ONNX has.
        return nn.Upsample(scale_factor=module.scale_factor, mode="nearest")
    for name, child in module.named_children():
        setattr(module, name, for_one_frame(child))
    return module


def _last_frame_of(convolution: nn.Conv3d) -> nn.Conv2d:
    """Return what a causal convolution does to a first frame: those before it are zeros."""
    left, right, top, bottom, _, _ = convolution._padding  # type: ignore[misc]
    assert left == right and top == bottom and convolution.dilation == (1, 1, 1) and convolution.groups == 1
    _, kernel_height, kernel_width = convolution.kernel_size
    _, stride_height, stride_width = convolution.stride
    with torch.device("meta"):
        flat = nn.Conv2d(
            convolution.in_channels,
            convolution.out_channels,
            (kernel_height, kernel_width),
            stride=(stride_height, stride_width),
            padding=(top, left),
            bias=convolution.bias is not None,
        )
    flat.weight = nn.Parameter(convolution.weight[:, :, -1].contiguous(), requires_grad=False)
    flat.bias = convolution.bias
    return flat


class _Norm(nn.Module):
    """x · √channels · gamma / ‖x‖ over the channels of [batch, channels, height, width]."""

    def __init__(self, norm: theirs.QwenImageRMS_norm) -> None:
        super().__init__()
        assert norm.channel_first and not isinstance(norm.bias, Tensor)
        self.gamma = nn.Parameter(norm.gamma.reshape(-1, 1, 1), requires_grad=False)
        self.scale = norm.scale

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=1) * self.scale * self.gamma


class _Attention(nn.Module):
    """Attention of one head over the pixels of [batch, channels, height, width]."""

    def __init__(self, block: theirs.QwenImageAttentionBlock) -> None:
        super().__init__()
        self.norm, self.to_qkv, self.proj = for_one_frame(block.norm), block.to_qkv, block.proj

    def forward(self, x: Tensor) -> Tensor:
        pixels = self.to_qkv(self.norm(x)).flatten(2).transpose(1, 2)  # [batch, height · width, 3 · channels]
        q, k, v = pixels[:, None].chunk(3, dim=-1)
        attended = F.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2)
        return x + self.proj(attended.reshape(x.shape))


class _EncoderReference(nn.Module):
    """diffusers' autoencoder, called as ``QwenImageImg2ImgPipeline`` calls it."""

    def __init__(self, vae: AutoencoderKLQwenImage) -> None:
        super().__init__()
        self.vae, self.statistics = vae, parts.Statistics(vae.config, 2)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        posterior = self.vae.encode((images * 2 - 1).unsqueeze(2)).latent_dist
        mean, std = posterior.mean.squeeze(2), posterior.std.squeeze(2)
        return self.statistics.normalised(mean), std / self.statistics.std


class _DecoderReference(nn.Module):
    """diffusers' autoencoder, called as ``QwenImagePipeline`` calls it, but for its clamp, which the runtime does."""

    def __init__(self, vae: AutoencoderKLQwenImage) -> None:
        super().__init__()
        self.vae, self.statistics = vae, parts.Statistics(vae.config, 2)

    def forward(self, latents: Tensor) -> tuple[Tensor]:
        z = self.statistics.back(latents).unsqueeze(2)
        self.vae.clear_cache()
        states = [None] * self.vae._conv_num
        decoded = self.vae.decoder(self.vae.post_quant_conv(z), feat_cache=states, feat_idx=[0])
        return (decoded.squeeze(2) / 2 + 0.5,)
