"""Tiny random Stable Diffusion 3 and 3.5 pipelines, saved by diffusers, with no parameter at zero.

``sd35`` is what 3.5 Medium is: dual attention in the first block, normalised queries and keys, three text encoders.
``sd3`` has none of these, no T5, and a scheduler with dynamic shifting. Sizes are unlike diffusers' own tests: odd head
counts, an odd position table filled with random numbers as one that was trained, CLIPs of different widths.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from transformers import (
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from tests.families.parts import autoencoder_kl, clip_config
from tests.families.tokenizers import clip_tokenizer, t5_tokenizer
from tests.models import fill_zeros

__all__ = ["CHANNELS", "POSITIONS", "sd3", "sd35", "transformer"]

CHANNELS = 16
#: Patches on a side of the position table.
POSITIONS = 11
_TEXT_WIDTH, _POOLED = 100, (14, 10)


def sd35(folder: Path, *, layers: tuple[int, int] = (1, 2), **options: Any) -> Path:
    """Save a pipeline with T5, dual attention and normalised queries and keys; sizes are multiples of 4 pixels."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    model = transformer(num_layers=2, dual_attention_layers=(0,), qk_norm="rms_norm", **options)
    return _save(folder, model, scheduler, with_t5=True, layers=layers)


def sd3(folder: Path, **options: Any) -> Path:
    """Save a pipeline without T5, with dynamic shifting."""
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_image_seq_len=4, max_image_seq_len=64)
    return _save(folder, transformer(heads=5, head_dim=12, **options), scheduler, with_t5=False)


def transformer(*, heads: int = 3, head_dim: int = 20, seed: int = 0, **options: Any) -> SD3Transformer2DModel:
    """Return a random transformer, of three blocks by default."""
    torch.manual_seed(seed)
    sizes = {
        "sample_size": 12,
        "patch_size": 2,
        "in_channels": CHANNELS,
        "out_channels": CHANNELS,
        "num_layers": 3,
        "num_attention_heads": heads,
        "attention_head_dim": head_dim,
        "caption_projection_dim": heads * head_dim,
        "joint_attention_dim": _TEXT_WIDTH,
        "pooled_projection_dim": sum(_POOLED),
        "pos_embed_max_size": POSITIONS,
    }
    model = SD3Transformer2DModel(**{**sizes, **options})
    if model.pos_embed.pos_embed is not None:
        model.pos_embed.pos_embed.normal_()
    with torch.no_grad():
        for name, parameter in model.transformer_blocks.named_parameters():
            if "norm1" in name:  # modulation, which else would hardly let a block through
                parameter *= 5
    return fill_zeros(model).eval()


def _save(
    folder: Path, model: SD3Transformer2DModel, scheduler: Any, *, with_t5: bool, layers: tuple[int, int] = (1, 2)
) -> Path:
    made = folder / "made"
    words = clip_tokenizer(made / "tokenizer"), clip_tokenizer(made / "tokenizer_2", pad_token="!")
    torch.manual_seed(1)
    first, second = (
        clip_config(
            size,
            width,
            heads,
            intermediate_size=36,
            num_hidden_layers=count,
            projection_dim=pooled,
            hidden_act=activation,
        )
        for size, width, heads, count, pooled, activation in zip(
            words, (36, 60), (3, 5), layers, _POOLED, ("quick_gelu", "gelu"), strict=True
        )
    )
    vae = autoencoder_kl(
        CHANNELS,
        (8, 12),
        layers_per_block=1,
        norm_num_groups=4,
        mid_block_add_attention=False,
        scaling_factor=1.5,
        shift_factor=0.06,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    clips = [fill_zeros(CLIPTextModelWithProjection(config)).eval() for config in (first, second)]
    text_encoder_3 = tokenizer_3 = None
    if with_t5:  # made last: the other parts are the same with it and without
        third = T5Config(
            vocab_size=t5_tokenizer(made / "tokenizer_3"),
            d_model=_TEXT_WIDTH,
            d_kv=12,
            d_ff=52,
            num_layers=1,
            num_heads=5,
            feed_forward_proj="gated-gelu",
            is_encoder_decoder=False,
        )
        text_encoder_3 = T5EncoderModel(third).eval()
        tokenizer_3 = T5Tokenizer.from_pretrained(made / "tokenizer_3")
    StableDiffusion3Pipeline(
        transformer=model,
        scheduler=scheduler,
        vae=fill_zeros(vae).eval(),
        text_encoder=clips[0],
        tokenizer=CLIPTokenizer.from_pretrained(made / "tokenizer"),
        text_encoder_2=clips[1],
        tokenizer_2=CLIPTokenizer.from_pretrained(made / "tokenizer_2"),
        text_encoder_3=text_encoder_3,
        tokenizer_3=tokenizer_3,
    ).save_pretrained(folder / "source")
    return folder / "source"
