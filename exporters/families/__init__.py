"""One module per model family: how its denoiser is traced, and what its checkpoints are called."""
