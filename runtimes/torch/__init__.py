"""The PyTorch reference that a bundle is held against. Needs torch and diffusers; for parity and bench only.

The networks are those that an export is proved against: diffusers' own classes, called as its pipelines call them,
text encoders included. Two things run them. Where diffusers' own pipeline class can serve a request, that class runs,
unmodified, and its pictures count. The steps are those that it takes where it keeps its latents in the bundle's
layout; where it packs them, or cannot serve, they are those of the loop that diffusers' pipelines share, written out
here for arrays of any rank. Either way the scheduler is diffusers'.
"""

from dit_deploy.errors import BackendError

try:
    from dit_deploy.runtimes.torch._recorder import Evaluation
    from dit_deploy.runtimes.torch._reference import Sampled, TorchReference
    from dit_deploy.runtimes.torch._runner import TorchRunner
except ImportError as error:
    raise BackendError(
        f"the PyTorch reference needs torch and diffusers ({error}); install dit-deploy[export]"
    ) from error

__all__ = ["Evaluation", "Sampled", "TorchReference", "TorchRunner"]
