"""Chooses the device and the precision."""
import torch


def default_device():
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


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
