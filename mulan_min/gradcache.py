"""A batch too large for memory, in chunks, with the gradients of the whole: gradient caching (Gao et al. 2021).

The loss compares every pair with every other, so chunks cannot be trained one by one. But all it needs of a clip is its
embedding: embed chunk by chunk without a graph, take the loss and its gradient at the embeddings, then go through the chunks
once more, with a graph and the same random numbers, and push that gradient back. It costs one more forward pass.

Batch norm sees a chunk at a time, in both passes the same one, and its running statistics move in the second pass alone. So the
gradients are exact for a model that normalises by chunk, which is not quite the model of the full batch: its statistics come
from fewer clips (our choice, as in other code for large batches).
"""
from contextlib import nullcontext

import torch


def random_state(device):
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def set_random_state(state, device):
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)


def chunked_backward(model, inputs, chunk_size, embed, loss_of):
    """Adds to every parameter's .grad the gradient of loss_of(audio, text, temperature) over the whole batch; -> the loss,
    detached.

    model: a MuLan, or its DistributedDataParallel, which then averages once, with the last chunk. inputs: {name: (B, ...)}.
    embed: {name: (b, ...)} -> (audio, text), by `model`.
    """
    count = len(next(iter(inputs.values())))
    chunks = [{name: x[start:start + chunk_size] for name, x in inputs.items()} for start in range(0, count, chunk_size)]
    temperature = getattr(model, "module", model).temperature
    device, states, embedded = temperature.device, [], []
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    with torch.no_grad():
        for chunk in chunks:
            states.append(random_state(device))
            embedded.append(embed(chunk))
        for buffer, before in buffers:
            buffer.copy_(before)
    audio, text = (torch.cat(parts).requires_grad_() for parts in zip(*embedded))
    tau = temperature.detach().requires_grad_()
    loss = loss_of(audio, text, tau)
    loss.backward()
    for chunk, state, *gradients in zip(chunks, states, audio.grad.split(chunk_size), text.grad.split(chunk_size)):
        last = chunk is chunks[-1]
        set_random_state(state, device)
        with nullcontext() if last or not hasattr(model, "no_sync") else model.no_sync():
            ends = list(embed(chunk))
            if last:
                ends, gradients = [*ends, temperature], [*gradients, tau.grad]
            torch.autograd.backward(ends, gradients)
    return loss.detach()
