"""What a step takes of memory: bytes kept for the backward pass, and the most at once."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

Step = Callable[[], object]


def saved_bytes(forward: Callable[[], Tensor], model: nn.Module) -> int:
    """Of all tensors that autograd keeps in one forward pass, the weights left out, each storage once."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = forward()
        total = sum(kept.values())
    del loss
    return total


def peak_bytes(step: Step, device: torch.device) -> int:
    """The most that tensors take at once in a step, beyond what is there before it. The first step comes before."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        return torch.cuda.max_memory_allocated(device) - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    changes = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = most = 0
    for event in sorted(changes, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most
