"""Steps of training that are recorded once and replayed on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch


def make_optimiser(parameters: Iterable[torch.nn.Parameter], device: torch.device) -> torch.optim.AdamW:
    """AdamW whose rate is a tensor, which a recorded step reads anew each time."""
    on_gpu = device.type == "cuda"
    rate = torch.zeros((), device=device)
    return torch.optim.AdamW(
        parameters, lr=rate, betas=(0.9, 0.99), weight_decay=0.0, fused=on_gpu or None, capturable=on_gpu
    )


class Step:
    """One optimiser step of `loss_of`, recorded as a CUDA graph where there is a GPU.

    A small network's kernels are shorter than it takes to launch them one by one; a graph launches all at once.
    `loss_of` draws its batch itself, by the device's own generator, and must not wait for the device.
    """

    def __init__(
        self, loss_of: Callable[[], torch.Tensor], optimiser: torch.optim.AdamW, device: torch.device, clip: float = 1.0
    ) -> None:
        self.loss_of, self.optimiser, self.device, self.clip = loss_of, optimiser, device, clip
        self.parameters = [one for group in optimiser.param_groups for one in group["params"]]
        self.graph: torch.cuda.CUDAGraph | None = None
        self.loss = torch.zeros((), device=device)
        if device.type == "cuda":
            self._record()

    def _record(self) -> None:
        """Run a few steps at rate 0, to warm everything up, then record one."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self._run()
        torch.cuda.current_stream().wait_stream(side)
        self.optimiser.zero_grad(set_to_none=True)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self._run()

    def _run(self) -> None:
        self.optimiser.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, torch.bfloat16, self.device.type == "cuda", cache_enabled=False):
            loss = self.loss_of()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.optimiser.step()
        self.loss.copy_(loss.detach())

    def __call__(self, rate: float) -> torch.Tensor:
        """Take a step at this learning rate; the loss, a scalar on the device, is the same tensor each time."""
        for group in self.optimiser.param_groups:
            group["lr"].fill_(rate)
        if self.graph is not None:
            self.graph.replay()
        else:
            self._run()
        return self.loss
