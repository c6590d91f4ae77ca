"""Qwen-Image: our graphs and pictures against diffusers' transformer, autoencoder and pipelines, unmodified."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from diffusers import QwenImageImg2ImgPipeline, QwenImagePipeline, QwenImageTransformer2DModel
from PIL import Image

from dit_deploy import Bundle
from dit_deploy.exporters.families import qwen_image
from dit_deploy.exporters.families._rotary import Rotary
from dit_deploy.runtimes.prompts import PromptReader
from tests.families.checks import (
    EMBEDDINGS,
    GRAPH,
    LATENTS,
    PICTURES,
    Case,
    altered,
    assert_bad_input,
    assert_drawn,
    assert_near,
    assert_real_float32,
    assert_refused,
    check_missing_part,
    draw,
    exported,
    noise_picture,
    quiet,
    run_graph,
    seeded,
)
from tests.families.qwen_image import CHANNELS, WIDTH, make_qwen_image

#: Exporting a whole pipeline takes half a minute.
pytestmark = pytest.mark.slow

PROMPTS = ["a photo of a small cat on a red sofa", "картина маслом: лиса в снегу, 高清细节, une peinture à l'huile"]
NEGATIVES = ["low quality, blurry", ""]
#: Pixels; the smallest has one token, and none is square but that. Odd numbers of rows and columns are among them.
SIZES = [(8, 8), (24, 40), (72, 32)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("qwen_image")
    return exported(make_qwen_image(folder), QwenImagePipeline, folder / "bundle")


def draw_both(made: Case, size: tuple[int, int], *, scale: float = 4.0, seed: int = 5, **arguments: Any) -> None:
    """Draw with both, and compare latents and pictures."""
    height, width = size
    shared = {**arguments, "height": height, "width": width}
    reference = quiet(QwenImageImg2ImgPipeline(**made.theirs.components)) if "image" in arguments else made.theirs
    latents, pictures = draw(reference, generator=seeded(seed), true_cfg_scale=scale, **shared)
    unpacked = QwenImagePipeline._unpack_latents(torch.from_numpy(latents), height, width, reference.vae_scale_factor)
    ours = made.ours(seed=seed, guidance_scale=scale, output_type="numpy", **shared)
    assert_drawn(ours, unpacked.squeeze(2).numpy(), pictures)


@pytest.mark.parametrize("size", SIZES)
def test_pictures_are_diffusers(made: Case, size: tuple[int, int]) -> None:
    draw_both(made, size, prompt=PROMPTS[0], negative_prompt=NEGATIVES[0], num_inference_steps=3)


def test_several_prompts_of_different_lengths_with_negatives(made: Case) -> None:
    draw_both(made, (24, 40), prompt=PROMPTS, negative_prompt=NEGATIVES, scale=2.5, num_inference_steps=3)


def test_several_pictures_of_prompts_of_different_lengths(made: Case) -> None:
    """diffusers repeats the texts' states one by one, but their masks as a whole: states of prompt 0 get the mask of 1.

    So it is given each prompt as often as it is to be drawn. With one prompt there is no difference.
    """
    with torch.no_grad():
        _, masks = made.theirs.encode_prompt(PROMPTS, num_images_per_prompt=2)
    assert masks.sum(dim=1).unique_consecutive().numel() == 4  # of the texts 0, 1, 0, 1; the states are 0, 0, 1, 1
    arguments = {"guidance_scale": 2.5, "height": 24, "width": 40, "num_inference_steps": 3, "seed": 7}
    ours = made.ours(
        prompt=PROMPTS, negative_prompt=NEGATIVES, num_images_per_prompt=2, output_type="latent", **arguments
    )
    twice = [[text for text in texts for _ in range(2)] for texts in (PROMPTS, NEGATIVES)]
    again = made.ours(prompt=twice[0], negative_prompt=twice[1], output_type="latent", **arguments)
    assert np.abs(ours.latents - again.latents).max() <= 1e-5 * np.abs(again.latents).max()
    draw_both(made, (24, 40), prompt=twice[0], negative_prompt=twice[1], scale=2.5, num_inference_steps=3, seed=7)
    draw_both(
        made,
        (24, 40),
        prompt=PROMPTS[0],
        negative_prompt=NEGATIVES[0],
        num_images_per_prompt=2,
        scale=2.5,
        num_inference_steps=3,
    )


def test_it_guides_with_a_negative_prompt_only(made: Case) -> None:
    draw_both(made, (16, 8), prompt=PROMPTS[1], num_inference_steps=2)
    draw_both(made, (16, 8), prompt=PROMPTS[1], negative_prompt="", scale=1.0, num_inference_steps=2)
    guidance = made.bundle.manifest.guidance
    assert (guidance.default_scale, guidance.normalise) == (4.0, "token")


def test_the_length_of_guided_tokens_cannot_be_left_out_unseen(made: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    def draw() -> Any:
        texts = {"prompt": PROMPTS[0], "negative_prompt": NEGATIVES[0]}
        return made.ours(**texts, num_inference_steps=2, seed=5, height=24, width=40, output_type="latent").latents

    manifest, normalised = made.bundle.manifest, draw()
    plain = manifest.model_copy(update={"guidance": manifest.guidance.model_copy(update={"normalise": None})})
    monkeypatch.setattr(Bundle, "manifest", property(lambda self: plain))
    assert np.abs(draw() - normalised).max() > 10 * LATENTS * np.abs(normalised).max()


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_image_to_image_is_diffusers(made: Case, strength: float) -> None:
    draw_both(
        made,
        (24, 40),
        prompt=PROMPTS[0],
        negative_prompt=NEGATIVES[0],
        image=noise_picture(24, 40),
        strength=strength,
        num_inference_steps=5,
    )


def test_images_to_images_for_several_prompts(made: Case) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (2, 16, 24, 3), dtype=np.uint8)
    draw_both(
        made,
        (16, 24),
        prompt=PROMPTS,
        negative_prompt=NEGATIVES,
        image=[Image.fromarray(one) for one in pixels],
        strength=0.7,
        num_inference_steps=4,
    )


def test_one_image_for_several_prompts(made: Case) -> None:
    draw_both(
        made,
        (16, 24),
        prompt=PROMPTS,
        negative_prompt=NEGATIVES,
        image=noise_picture(16, 24, seed=3),
        strength=0.7,
        num_inference_steps=4,
    )


def test_pieces_of_the_autoencoder_are_blended_as_diffusers_blends_them(made: Case) -> None:
    arguments: dict[str, Any] = {"prompt": PROMPTS[0], "image": noise_picture(80, 56, seed=6), "num_inference_steps": 3}
    sizes = {"height": 80, "width": 56, "strength": 0.8}
    ours = made.ours(seed=5, vae_tile=32, output_type="numpy", **arguments, **sizes)
    reference = quiet(QwenImageImg2ImgPipeline(**made.theirs.components))
    reference.vae.enable_tiling(32, 32, 24, 24)
    try:
        images = reference(generator=seeded(5), output_type="np", **arguments, **sizes).images
    finally:
        reference.vae.use_tiling = False
    assert np.abs(ours.images - images).max() <= PICTURES


def test_embeddings_are_the_pipelines(made: Case) -> None:
    texts = [*PROMPTS, "", "cat " * 700]
    with pytest.warns(UserWarning, match="left out"):
        found = PromptReader(made.bundle, made.ours.pool)(texts)
    with torch.no_grad():
        states, mask = made.theirs.encode_prompt(texts, max_sequence_length=512)
    states, mask = states.numpy(), mask.numpy()
    ours, ours_mask = found["encoder_hidden_states"], found["encoder_attention_mask"]
    assert states.shape[1] == 512
    assert_near(ours[:, :512], states, EMBEDDINGS)
    assert (ours_mask[:, :512] == mask).all()
    assert not ours_mask[:, 512:].any()  # as many places as the template had


def test_a_long_prompt_is_cut_with_a_warning(made: Case) -> None:
    with pytest.warns(UserWarning, match="the text_encoder reads 546 tokens; left out: '.*a cat a cat"):
        made.ours(prompt="a cat " * 500, num_inference_steps=2, height=8, width=8, output_type="latent")


@pytest.mark.parametrize(
    ("batch", "rows", "columns", "tokens"), [(1, 1, 1, 1), (3, 9, 4, 6), (2, 3, 17, 130), (1, 40, 25, 2)]
)
def test_the_plain_graph_is_the_transformer(made: Case, batch: int, rows: int, columns: int, tokens: int) -> None:
    """At sizes not traced: run by ONNX Runtime alone, against diffusers' class called as its pipeline calls it."""
    random = np.random.default_rng(batch + tokens)
    lengths = np.array([tokens, 1, max(1, tokens // 2)][:batch])
    feeds: dict[str, Any] = {
        "latents": random.standard_normal((batch, CHANNELS, 2 * rows, 2 * columns)).astype(np.float32),
        "timestep": random.uniform(0, 1, batch).astype(np.float32),
        "encoder_hidden_states": random.standard_normal((batch, tokens, WIDTH)).astype(np.float32),
        "encoder_attention_mask": (np.arange(tokens) < lengths[:, None]).astype(np.int64),
    }
    (found,) = run_graph(made.bundle.component_path("denoiser"), feeds)
    tensors = {name: torch.from_numpy(array) for name, array in feeds.items()}
    assert_near(found, transformer(made.theirs.transformer, **tensors), GRAPH)


@torch.no_grad()
def transformer(
    model: QwenImageTransformer2DModel,
    latents: torch.Tensor,
    timestep: torch.Tensor,
    encoder_hidden_states: torch.Tensor,
    encoder_attention_mask: torch.Tensor,
) -> np.ndarray:
    batch, channels, height, width = latents.shape
    prediction = model(
        QwenImagePipeline._pack_latents(latents, batch, channels, height, width),
        timestep=timestep,
        encoder_hidden_states=encoder_hidden_states,
        encoder_hidden_states_mask=None if encoder_attention_mask.all() else encoder_attention_mask,
        img_shapes=[[(1, height // 2, width // 2)]] * batch,
        return_dict=False,
    )[0]
    return QwenImagePipeline._unpack_latents(prediction, height, width, 1).squeeze(2).numpy()


@pytest.mark.parametrize(("rows", "columns", "tokens"), [(1, 1, 1), (64, 64, 512), (1, 7099, 546), (7100, 2, 546)])
def test_angles_are_diffusers_up_to_the_largest_side(rows: int, columns: int, tokens: int) -> None:
    theirs = QwenImageTransformer2DModel(num_layers=0, num_attention_heads=1).pos_embed
    picture, text = theirs([(1, rows, columns)], max_txt_seq_len=tokens)
    expected = torch.cat([text, picture])
    cos, sin = Rotary(theirs.axes_dim, theirs.theta)(qwen_image._positions(rows, columns, tokens))
    assert torch.equal(cos[:, 0, ::2], cos[:, 0, 1::2]) and torch.equal(sin[:, 0, ::2], sin[:, 0, 1::2])
    torch.testing.assert_close(torch.complex(cos[:, 0, ::2], sin[:, 0, ::2]), expected, rtol=0, atol=3e-7)


@pytest.mark.parametrize("size", [(1, 1), (9, 4), (3, 21)])
def test_the_autoencoder_is_diffusers(made: Case, size: tuple[int, int]) -> None:
    """In two dimensions, at sizes not traced, run by ONNX Runtime alone."""
    vae = made.theirs.vae
    mean, std = (torch.tensor(vae.config[name]).reshape(1, -1, 1, 1, 1) for name in ("latents_mean", "latents_std"))
    random = np.random.default_rng(sum(size))
    latents = random.standard_normal((3, CHANNELS, *size)).astype(np.float32)
    pictures = random.uniform(0, 1, (2, 3, 4 * size[0], 4 * size[1])).astype(np.float32)
    with torch.no_grad():
        decoded = vae.decode(torch.from_numpy(latents).unsqueeze(2) * std + mean).sample.squeeze(2) / 2 + 0.5
        posterior = vae.encode(torch.from_numpy(pictures).unsqueeze(2) * 2 - 1).latent_dist
    found = run_graph(made.bundle.component_path("vae_decoder"), {"latents": latents})[0].clip(0, 1)
    assert np.abs(found - decoded.numpy()).max() <= GRAPH
    encoded = run_graph(made.bundle.component_path("vae_encoder"), {"images": pictures})
    for one, other in zip(encoded, ((posterior.mean - mean) / std, posterior.std / std), strict=True):
        assert_near(one, other.squeeze(2).numpy(), GRAPH)


def test_the_graphs_have_no_time_and_no_complex_numbers(made: Case) -> None:
    names = ("denoiser", "vae_encoder", "vae_decoder")
    assert_real_float32(made.bundle, *names)
    for name in names:
        model = onnx.load(made.bundle.component_path(name), load_external_data=False)
        assert not [tensor for tensor in model.graph.initializer if len(tensor.dims) == 5]


class TestBadInput:
    @pytest.mark.parametrize("part", ["text_encoder", "tokenizer", "vae", "transformer", "scheduler"])
    def test_a_missing_part_is_named(self, made: Case, tmp_path: Path, part: str) -> None:
        check_missing_part(made.folder, tmp_path / "pipeline", part)

    @pytest.mark.parametrize(
        ("part", "fields", "message"),
        [
            ("transformer", {"joint_attention_dim": 64}, "text_encoder makes 36 channels, .*transformer takes 64"),
            ("transformer", {"out_channels": 8}, "20 channels in and 8 out"),
            ("transformer", {"zero_cond_t": True}, "zero_cond_t, which Qwen-Image's text-to-image models do not have"),
            ("transformer", {"_class_name": "FluxTransformer2DModel"}, "expected QwenImageTransformer2DModel"),
            ("vae", {"_class_name": "AutoencoderKL"}, "holds a AutoencoderKL; expected AutoencoderKLQwenImage"),
            ("vae", {"z_dim": 6}, "6 latent channels, the denoiser 5; they do not belong together"),
            ("vae", {"latents_std": [1.0, 2.0]}, "latents_std has 2 numbers for 5 channels"),
        ],
    )
    def test_parts_that_do_not_fit(
        self, made: Case, tmp_path: Path, part: str, fields: dict[str, Any], message: str
    ) -> None:
        assert_refused(altered(made.folder, tmp_path / "pipeline", f"{part}/config.json", **fields), message)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({}, "encoder_hidden_states: this bundle needs it, and none came; give a prompt"),
            ({"prompt": "a", "negative_prompt": ["b", "c"]}, "negative_prompt: 2 came for 1 prompts"),
            ({"prompt": "a", "height": 12}, "height: 12 came, expected a multiple of 8 pixels"),
            ({"prompt": "a", "width": 8 * 7101}, "width: 56808 came, .*at most 56800"),
            ({"prompt": "a", "true_cfg_scale": 4.0}, "true_cfg_scale: .* use guidance_scale"),
        ],
    )
    def test_arguments(self, made: Case, arguments: dict[str, Any], message: str) -> None:
        assert_bad_input(made.ours, message, **{"num_inference_steps": 2, "height": 8, "width": 8, **arguments})
