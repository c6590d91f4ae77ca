"""The table's checks, and its JSON form."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from dit_deploy.errors import InputError
from dit_deploy.sampling import BASIS, SCHEDULERS, SolverTable, solver_table

LEARNED = {"variance_type": "learned_range"}


def columns(table: SolverTable) -> dict[str, Any]:
    return {field.name: getattr(table, field.name) for field in dataclasses.fields(table)}


def changed(**values: Any) -> SolverTable:
    return SolverTable(**{**columns(solver_table({"_class_name": "UniPCMultistepScheduler"}, 4)), **values})


@pytest.mark.parametrize("name", SCHEDULERS)
def test_json_keeps_every_bit(name: str) -> None:
    table = solver_table({"_class_name": name, **(LEARNED if name == "DDPMScheduler" else {})}, 5)
    text = json.dumps(table.to_json(), allow_nan=False)
    again = SolverTable.from_json(json.loads(text))
    for column, value in columns(table).items():
        np.testing.assert_array_equal(value, getattr(again, column), err_msg=column)
    assert json.loads(text)["basis"][:4] == list(BASIS)
    assert again.history == table.history
    assert len(again) == len(table)


def test_columns_cannot_be_written() -> None:
    table = changed()
    with pytest.raises(ValueError, match="read-only"):
        table.sample[0, 0] = 1.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"timesteps": np.zeros(0)}, "0 rows"),
        ({"sample": np.zeros((4, 3))}, "at least 1 over 4"),
        ({"clip": np.zeros(3)}, r"clip has shape \(3,\)"),
        ({"saved": np.zeros((4, 4))}, r"saved has shape \(4, 4\)"),
        ({"input_scale": [1.0, np.nan, 1.0, 1.0]}, "no finite step at timestep .* input_scale"),
        ({"clip": [1.0, -np.inf, 1.0, 1.0]}, "clip"),
        ({"log_variance": np.full((4, 2), [np.nan, 0.0])}, "log_variance"),
        ({"step": [0, 1, 3, 4]}, "step must run from 0 to 3"),
        ({"step": [0, 1, 0, 3]}, "step must run from 0 to 3"),
        ({"num_steps": 5}, "step must run from 0 to 4"),
        ({"noise_draws": [0, -1, 0, 0]}, "draws none"),
        ({"log_variance": np.zeros((4, 2))}, "uses noise and draws none"),
        ({"initial_noise_scale": np.inf}, "must be finite"),
        ({"start": (1.0, np.nan)}, "must be finite"),
    ],
)
def test_a_table_that_cannot_be(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        changed(**values)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda document: document.pop("sample"),
        lambda document: document.update(format=2),
        lambda document: document.update(start=[1.0]),
        lambda document: document.update(start=3),
        lambda document: document.update(sample="none"),
        lambda document: document.update(num_steps=None),
        lambda document: document.update(sample=[[1.0], [1.0, 2.0]]),
    ],
)
def test_json_of_something_else(spoil: Any) -> None:
    document = changed().to_json()
    spoil(document)
    with pytest.raises(InputError, match="solver table"):
        SolverTable.from_json(document)
