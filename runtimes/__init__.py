"""Run time: numpy and a backend, never torch. Only :mod:`dit_deploy.runtimes.torch`, the reference, needs it."""

from dit_deploy.runtimes.pipeline import Callback, Output, Pipeline
from dit_deploy.runtimes.runner import Binding, BindingPool, Runner

__all__ = ["Binding", "BindingPool", "Callback", "Output", "Pipeline", "Runner"]
