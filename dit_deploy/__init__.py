"""dit-deploy: a diffusion transformer from PyTorch to production.

    from dit_deploy import Bundle, Pipeline

    pipe = Pipeline(Bundle.open("my-model"))
    pipe(class_labels=[3], seed=0).images[0].save("picture.png")

Nothing here or under :mod:`dit_deploy.runtimes` imports PyTorch; :mod:`dit_deploy.exporters` does.
"""

from dit_deploy.bundle import Bundle
from dit_deploy.errors import DitDeployError
from dit_deploy.runtimes import Pipeline

__all__ = ["Bundle", "DitDeployError", "Pipeline", "__version__"]

__version__ = "0.1.0"
