"""What others do with the same model, written anew from what they publish.

`GPT` and `train` keep to nanoGPT's recipe as it is shipped for a CPU: float32, no biases, the exact
GELU, PyTorch's attention, whole logits, AdamW that decays matrices, gradients clipped to norm 1.
"""

from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def hugging_face_is_here() -> bool:
    """Whether its `Trainer` is installed, with what it needs."""
    return bool(find_spec("transformers") and find_spec("accelerate"))


class _Block(nn.Module):
    def __init__(self, n_embd: int, n_head: int) -> None:
        super().__init__()
        self.n_head = n_head
        self.norm_1 = nn.LayerNorm(n_embd, bias=False)
        self.norm_2 = nn.LayerNorm(n_embd, bias=False)
        self.qkv = nn.Linear(n_embd, 3 * n_embd, bias=False)
        self.out = nn.Linear(n_embd, n_embd, bias=False)
        self.up = nn.Linear(n_embd, 4 * n_embd, bias=False)
        self.down = nn.Linear(4 * n_embd, n_embd, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        q, k, v = (
            t.view(B, T, self.n_head, -1).transpose(1, 2)
            for t in self.qkv(self.norm_1(x)).split(C, dim=2)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(B, T, C))
        added: Tensor = x + self.down(F.gelu(self.up(self.norm_2(x))))
        return added


class GPT(nn.Module):
    """Ids ``(B, T)`` to logits ``(B, T, V)``."""

    def __init__(self, V: int, T: int, n_layer: int, n_head: int, n_embd: int) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(V, n_embd), nn.Embedding(T, n_embd)
        self.blocks = nn.Sequential(*(_Block(n_embd, n_head) for _ in range(n_layer)))
        self.norm = nn.LayerNorm(n_embd, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        places = torch.arange(ids.shape[1], device=ids.device)
        x = self.blocks(self.tokens(ids) + self.places(places))
        return F.linear(self.norm(x), self.tokens.weight)

    def take(self, weights: dict[str, Tensor]) -> None:
        """The same numbers as in our model; its biases must be 0."""
        names = {
            "tokens": "wte",
            "places": "wpe",
            "norm": "ln_f",
            "blocks": "h",
            "norm_1": "ln_1",
            "norm_2": "ln_2",
            "qkv": "attn.c_attn",
            "out": "attn.c_proj",
            "up": "mlp.c_fc",
            "down": "mlp.c_proj",
        }
        taken = {
            name: weights[".".join(names.get(part, part) for part in name.split("."))]
            for name in self.state_dict()
        }
        self.load_state_dict(taken)


def training(
    model: nn.Module, autocast: bool = False, fused: bool = False
) -> Callable[[Tensor, Tensor], float]:
    """A function that does one step on ``(inputs, targets)``, both ``(B, T)``, and gives the loss;
    on a GPU the recipe has autocast to bfloat16, and fused AdamW."""
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=6e-4, betas=(0.9, 0.95), fused=fused)

    def step(inputs: Tensor, targets: Tensor) -> float:
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=autocast):
            loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step
