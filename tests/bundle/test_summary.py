"""``summarise`` gives plain values."""

from __future__ import annotations

import json

from dit_deploy.bundle import Bundle, summarise


def test_summary_is_json_and_complete(bundle: Bundle) -> None:
    bundle.write_parity("reference", {"psnr": 60.0})
    facts = summarise(Bundle.open(bundle.path))
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    assert facts["family"] == "dit"
    assert facts["scheduler"]["class"] == "DDIMScheduler"
    assert facts["parity"] == ["reference"]
    assert facts["labels"] == 2
    denoiser = facts["components"]["denoiser"]
    assert denoiser["inputs"][0] == "latents float32 [batch, 4, 2·patch_height, 2·patch_width]"
    assert facts["components"]["vae_decoder"]["outputs"] == [
        "images float32 [batch, 3, 8·latent_height, 8·latent_width], -1 … 1"
    ]
    files = bundle.manifest.files
    assert denoiser["size"] == files["denoiser/model.onnx"].size + files["denoiser/model.onnx.data"].size
    assert facts["size"] == sum(record.size for record in files.values())
