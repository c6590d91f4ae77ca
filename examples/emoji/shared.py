"""What this example shares with the two beside it: `../common.py`, which a script in this folder does not see."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

from common import (
    PromptSampler,
    build_t5,
    initialise_linears,
    picture_loss,
    progress,
    save_state,
    save_tensors,
    to_uint8,
    trapezoid,
    versions,
    whole_folder,
    write_json,
)

__all__ = [
    "PromptSampler",
    "build_t5",
    "initialise_linears",
    "picture_loss",
    "progress",
    "save_state",
    "save_tensors",
    "to_uint8",
    "trapezoid",
    "versions",
    "whole_folder",
    "write_json",
]
