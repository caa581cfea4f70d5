"""The CMC loss at B = 6144, d = 128, forward and backward: ours against the InfoNCE of CLIP, written as two cross entropies, and the
bytes that each keeps for the backward pass."""
import torch
import torch.nn.functional as F
from common import DEVICE, bandwidth, compare, rate

from mulan_min.loss import cmc_loss

B, d = 6144, 128
audio, text = (F.normalize(torch.randn(B, d, device=DEVICE), dim=1).requires_grad_() for _ in range(2))
tau = torch.tensor(0.1, device=DEVICE, requires_grad=True)


def infonce():
    logits, own = audio @ text.T / tau, torch.arange(B, device=DEVICE)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def kept(loss):
    """Bytes kept for the backward pass, each tensor's memory once."""
    seen = {}
    with torch.autograd.graph.saved_tensors_hooks(lambda x: seen.update({x.untyped_storage().data_ptr(): x.untyped_storage().nbytes()}) or x,
                                                  lambda x: x):
        loss()
    return sum(seen.values())


losses = {"ours": lambda: cmc_loss(audio, text, tau), "InfoNCE, two cross entropies": infonce}
floor = 3 * 2 * B * B * d / rate(torch.float32) + 4 * B * B * 6 / bandwidth()
compare(f"contrastive loss, B = {B}, d = {d}, forward + backward, float32", {name: lambda f=f: f().backward() for name, f in losses.items()},
        repeats=5, floor=(floor, "products at the float32 rate, B x B cosines read or written six times"))
sizes = {name: kept(f) for name, f in losses.items()}
print("\nkept for the backward pass: " + ", ".join(f"{name} {size / 2 ** 20:.0f} MiB" for name, size in sizes.items()))
if DEVICE.type == "cuda":
    for name, f in losses.items():
        torch.cuda.reset_peak_memory_stats()
        f().backward()
        print(f"peak memory, {name}: {torch.cuda.max_memory_allocated() / 2 ** 20:.0f} MiB")
