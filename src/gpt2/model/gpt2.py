"""GPT-2, the model and nothing else (Radford et al. 2019; tutorial parts 1 to 3).

Shapes: B sequences of T tokens; C = n_embd channels; H heads of D = C / H channels; V = vocab_size;
S cache slots.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gpt2.model.attention import Attention, causal_attention
from gpt2.model.config import GPT2Config
from gpt2.model.kv_cache import CacheView


class GPT2(nn.Module):
    """Token ids in, logits of the next token out."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)  # tokens
        self.wpe = nn.Embedding(config.context_length, config.n_embd)  # positions
        self.drop = nn.Dropout(config.dropout)
        self.h = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd)
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """OpenAI's initialisation: weights N(0, 0.02), positions N(0, 0.01), biases 0.

        The two layers of a block that add to the residual stream are scaled by 1/sqrt(2 n_layer),
        so that the variance of the stream does not grow with depth.
        """
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif "ln_" in name:
                nn.init.ones_(parameter)
            elif name.endswith("c_proj.weight"):
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * self.config.n_layer))
            else:
                nn.init.normal_(parameter, std=0.01 if name == "wpe.weight" else 0.02)

    def forward(self, ids: Tensor, cache: CacheView | None = None) -> Tensor:
        """``(B, T)`` token ids to ``(B, T, V)`` logits of the token after each of them."""
        return self.logits(self.features(ids, cache))

    def features(
        self, ids: Tensor, cache: CacheView | None = None, lengths: Tensor | None = None
    ) -> Tensor:
        """``(B, T)`` token ids to ``(B, T, C)`` features, from which the logits are computed.

        Args:
            ids: the tokens; with a ``cache`` only the new ones of each sequence.
            cache: keys and values of earlier tokens, to which the new tokens attend as well.
            lengths: ``ids`` is one row of packed sequences of these lengths. Each sequence starts
                at position 0 and attends to itself only.

        Raises:
            ValueError: a sequence has more tokens than `context_length`.
        """
        T, limit = ids.shape[1], self.config.context_length
        if limit < T and lengths is None:
            raise ValueError(f"{T} tokens do not fit the context of {limit}")
        positions = torch.arange(T, device=ids.device) if cache is None else cache.positions
        if lengths is not None:
            lengths_here = lengths.to(ids.device)
            starts = lengths_here.cumsum(0) - lengths_here
            positions = positions - starts.repeat_interleave(lengths_here, output_size=T)
        x = self.drop(self.wte(ids) + self.wpe(positions))  # B T C
        for block in self.h:
            x = block(x, cache, lengths)
        out: Tensor = self.ln_f(x)
        return out

    def logits(self, features: Tensor) -> Tensor:
        """``(..., C)`` features to ``(..., V)`` logits: one dot product with each token's row."""
        return F.linear(features, self.output_weight)

    @property
    def output_weight(self) -> Tensor:
        """``(V, C)``, one row for each token. In GPT-2 it is the token embedding (tied weights)."""
        return self.wte.weight if self.config.tie_word_embeddings else self.lm_head.weight


class Block(nn.Module):
    """Attention, then MLP. Each reads the normalised residual stream and adds to the stream."""

    def __init__(self, config: GPT2Config, layer: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd)
        self.attn = CausalSelfAttention(config, layer)
        self.ln_2 = nn.LayerNorm(config.n_embd)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, cache: CacheView | None, lengths: Tensor | None) -> Tensor:
        x = x + self.attn(self.ln_1(x), cache, lengths)
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class CausalSelfAttention(nn.Module):
    """Multi-head attention: every token attends to itself and to the tokens before it."""

    def __init__(self, config: GPT2Config, layer: int) -> None:
        super().__init__()
        self.n_head, self.dropout, self.layer = config.n_head, config.dropout, layer
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)  # queries, keys and values
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)
        self.resid_dropout = nn.Dropout(config.dropout)
        self.attention: Attention = causal_attention

    def forward(self, x: Tensor, cache: CacheView | None, lengths: Tensor | None) -> Tensor:
        B, T, C = x.shape
        qkv = self.c_attn(x).view(B, T, 3, self.n_head, C // self.n_head)  # B T 3 H D
        if cache is None:
            y = self.attention(qkv, self.dropout if self.training else 0.0, lengths)  # B T H D
        else:
            q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))  # each B H T D
            k, v = cache.update(self.layer, k, v)  # each B H S D
            q = q.to(k.dtype)
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=cache.mask).transpose(1, 2)
        out: Tensor = self.resid_dropout(self.c_proj(y.reshape(B, T, C)))  # heads side by side
        return out


class MLP(nn.Module):
    """Two linear layers with a GELU between them, applied to each token by itself."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, config.mlp_width)
        self.activation = nn.GELU(approximate=config.gelu)
        self.c_proj = nn.Linear(config.mlp_width, config.n_embd)
        self.resid_dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.resid_dropout(self.c_proj(self.activation(self.c_fc(x))))
        return out
