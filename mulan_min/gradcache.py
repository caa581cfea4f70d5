"""Trains on a batch too large for memory in chunks, with the gradients of the whole batch: gradient caching (Gao et al. 2021).

The loss compares every pair with every other pair, so a chunk cannot be trained alone. But it needs only the embeddings. First all
chunks are embedded without a graph. Then the loss and its gradient with respect to the embeddings are computed. Then each chunk
is embedded again, with a graph and the same random numbers, and that gradient is propagated back. This costs one more forward pass.

Batch norm normalises each chunk, which is the same in both passes. Its running statistics are updated only in the second pass. So
the gradients are exact for a model that normalises each chunk. This differs a little from normalising the whole batch, because the
statistics come from fewer clips (our choice, as in other code for large batches).
"""
from contextlib import nullcontext

import torch


def random_state(device):
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def set_random_state(state, device):
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)


def chunked_backward(model, inputs, count, embed, loss_of):
    """Adds the gradient of loss_of(audio, text, temperature) over the whole batch to every parameter's .grad. Returns the loss,
    detached.

    model: a MuLan, or its DistributedDataParallel, which averages the gradients only once, with the last chunk.
    inputs: {name: (B, ...)}. embed: a function that calls `model`, {name: (b, ...)} -> (audio (b, d), text (b, d)). There are `count`
    chunks; each takes every count-th pair, as the pairs are sorted by the length of their texts and batch norm needs a mixture.
    """
    chunks = [{name: x[k::count] for name, x in inputs.items()} for k in range(count)]
    temperature = getattr(model, "module", model).temperature
    device, states, embedded = temperature.device, [], []
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    with torch.no_grad():
        for chunk in chunks:
            states.append(random_state(device))
            embedded.append(embed(chunk))
        for buffer, before in buffers:
            buffer.copy_(before)
    size = len(next(iter(inputs.values())))
    order = torch.cat([torch.arange(k, size, count) for k in range(count)]).argsort().to(device)      # back into the batch's order
    audio, text = (torch.cat(parts)[order].requires_grad_() for parts in zip(*embedded))
    tau = temperature.detach().requires_grad_()
    loss = loss_of(audio, text, tau)
    loss.backward()
    for k, (chunk, state) in enumerate(zip(chunks, states)):
        last, gradients = k == count - 1, [audio.grad[k::count], text.grad[k::count]]
        set_random_state(state, device)
        with nullcontext() if last or not hasattr(model, "no_sync") else model.no_sync():
            outputs = list(embed(chunk))
            if last:
                outputs, gradients = [*outputs, temperature], [*gradients, tau.grad]
            torch.autograd.backward(outputs, gradients)
    return loss.detach()
