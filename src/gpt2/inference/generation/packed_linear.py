"""A linear layer prepared for inference: weights cast once, and packed for oneDNN on x86 CPUs."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gpt2.core.device import Runtime


class PackedLinear(nn.Module):
    """``x W^T + b``, prepared for inference, with an optional GELU behind it.

    The weights are cast to the runtime's dtype once. On x86 they are also stored in the memory
    layout of oneDNN's kernels, which would otherwise reorder them at every call. For a single row
    in float32, MKL with the plain weights is faster, so both are kept.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None, runtime: Runtime, gelu: str | None = None
    ) -> None:
        """
        Args:
            weight: ``(out, in)``.
            bias: ``(out,)``, or None.
            runtime: device and dtype.
            gelu: PyTorch's name of the GELU approximation to apply to the result; None: no GELU.
        """
        super().__init__()
        self.dtype, self.gelu = runtime.dtype, gelu
        self.weight = weight.detach().to(self.dtype)
        self.packed = (
            torch.ops.mkldnn._reorder_linear_weight(self.weight) if _can_pack(runtime) else None
        )
        if self.packed is not None and self.dtype != torch.float32:
            del self.weight  # an unused copy; in float32 it is the model's own tensor
        self.bias = None if bias is None else bias.detach().to(self.dtype)

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.dtype)
        single = self.dtype == torch.float32 and x.numel() == x.shape[-1]
        if self.packed is not None and not single:
            activation = "gelu" if self.gelu else "none"
            out: Tensor = torch.ops.mkldnn._linear_pointwise(
                x, self.packed, self.bias, activation, [], self.gelu
            )
            return out
        out = F.linear(x, self.weight, self.bias)
        return F.gelu(out, approximate=self.gelu) if self.gelu else out


def _can_pack(runtime: Runtime) -> bool:
    if runtime.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]  # torch's
        return False
    if runtime.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return runtime.dtype == torch.float32 and torch.backends.cpu.get_cpu_capability() != "DEFAULT"
