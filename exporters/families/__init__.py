"""One module a model family: how its checkpoint is opened, and its denoiser traced."""

#: diffusers pipeline class → the module here whose ``open_pipeline`` reads its folder. DiTPipeline has options of its
#: own, see :mod:`dit_deploy.exporters.sources`.
PIPELINES: dict[str, str] = {
    "PixArtAlphaPipeline": "pixart",
    "PixArtSigmaPipeline": "pixart",
    "StableDiffusion3Pipeline": "sd3",
    "FluxPipeline": "flux",
    "HunyuanDiTPipeline": "hunyuan_dit",
    "SanaPipeline": "sana",
    "QwenImagePipeline": "qwen_image",
    "ZImagePipeline": "z_image",
    "LattePipeline": "latte",
    "CogVideoXPipeline": "cogvideox",
    "CogVideoXImageToVideoPipeline": "cogvideox",
    "CogVideoXVideoToVideoPipeline": "cogvideox",
    "LTXPipeline": "ltx",
    "LTXImageToVideoPipeline": "ltx",
    "HunyuanVideoPipeline": "hunyuan_video",
    "HunyuanSkyreelsImageToVideoPipeline": "hunyuan_video",
    "WanPipeline": "wan",
    "WanImageToVideoPipeline": "wan",
    "SpacetimeDiTPipeline": "spacetime_dit",
}
