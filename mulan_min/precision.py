"""Float32 or bfloat16, and torch.compile."""
import torch

from mulan_min.errors import UserError


def faster_precision(device):
    """Returns "bf16" if the device has units for matrix products in bfloat16, else "fp32". Nothing is measured, so it is always the
    same on one machine. A CPU that is not an x86 gets "fp32" (our choice)."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    flags = torch.cpu.get_capabilities()
    return "bf16" if flags.get("avx512_bf16") or flags.get("amx_bf16") else "fp32"


def autocast(device, precision):
    """Context for a forward pass: matrix products in bfloat16 if precision is "bf16", else float32 throughout."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def compile_networks(networks, device):
    """Compiles modules in place with torch.compile. networks: [(module, dynamic)]; dynamic: True if the input shapes change from
    step to step. Raises UserError if a compiler is missing."""
    try:
        torch.compile(lambda x: x + 1)(torch.ones(2, device=device))
    except Exception as error:      # torch._dynamo and torch._inductor raise types that change from version to version
        reason = str(error).strip().splitlines()[0][:200]
        raise UserError(f"--compile does not work here ({reason}): it needs a compiler (g++ on a CPU); leave it out") from error
    for module, dynamic in networks:
        module.compile(dynamic=dynamic)
