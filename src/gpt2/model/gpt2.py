"""GPT-2, the model and nothing else (Radford et al. 2019; tutorial parts 1 to 3).

Read it from the bottom: `GPT2` embeds tokens and positions, sends them through `n_layer` blocks and
compares the result with every token's embedding. Shapes: B sequences, T tokens of each, C = n_embd
channels, H heads of D = C / H channels, S = places in the cache, V = vocab_size.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gpt2.model.attention import causal_attention
from gpt2.model.config import GPT2Config
from gpt2.model.kv_cache import CacheView


class CausalSelfAttention(nn.Module):
    """Every token looks at itself and at the tokens before it, in H ways at once."""

    def __init__(self, config: GPT2Config, layer: int) -> None:
        super().__init__()
        self.n_head, self.dropout, self.layer = config.n_head, config.dropout, layer
        self.c_attn = nn.Linear(
            config.n_embd, 3 * config.n_embd
        )  # query, key and value in one product
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)
        self.resid_dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, past: CacheView | None, lengths: Tensor | None) -> Tensor:
        B, T, C = x.shape
        qkv = self.c_attn(x).view(B, T, 3, self.n_head, C // self.n_head)  # B T 3 H D
        if past is None:
            y = causal_attention(qkv, self.dropout if self.training else 0.0, lengths)
        else:
            q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))  # each B H T D
            k, v = past.put(self.layer, k, v)  # B H S D
            q = q.to(k.dtype)
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=past.mask).transpose(1, 2)
        out: Tensor = self.resid_dropout(self.c_proj(y.reshape(B, T, C)))
        return out


class MLP(nn.Module):
    """Each token by itself: four times wider, a bend, and back."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.gelu = config.gelu
        self.c_fc = nn.Linear(config.n_embd, config.mlp_width)
        self.c_proj = nn.Linear(config.mlp_width, config.n_embd)
        self.resid_dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.resid_dropout(self.c_proj(F.gelu(self.c_fc(x), approximate=self.gelu)))
        return out


class Block(nn.Module):
    """Attention, then MLP; each reads a normalised copy of the stream and adds to the stream."""

    def __init__(self, config: GPT2Config, layer: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd)
        self.attn = CausalSelfAttention(config, layer)
        self.ln_2 = nn.LayerNorm(config.n_embd)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, past: CacheView | None, lengths: Tensor | None) -> Tensor:
        x = x + self.attn(self.ln_1(x), past, lengths)
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class GPT2(nn.Module):
    """Token ids in, a score for every possible next token out."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.context_length, config.n_embd)
        self.drop = nn.Dropout(config.dropout)
        self.h = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd)
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """OpenAI's: N(0, 0.02), positions N(0, 0.01), biases 0; what a block adds to the stream is
        scaled by 1/sqrt(2 n_layer), so that the stream's variance does not grow with depth."""
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif "ln_" in name:
                nn.init.ones_(parameter)
            elif name.endswith("c_proj.weight"):
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * self.config.n_layer))
            else:
                nn.init.normal_(parameter, std=0.01 if name == "wpe.weight" else 0.02)

    def crop(self, context_length: int) -> None:
        """Keep the first positions only, as nanoGPT's ``crop_block_size`` does."""
        self.config = self.config.model_copy(update={"context_length": context_length})
        self.wpe.weight = nn.Parameter(self.wpe.weight.detach()[:context_length].clone())

    def features(
        self, ids: Tensor, past: CacheView | None = None, lengths: Tensor | None = None
    ) -> Tensor:
        """``(B, T)`` ids to ``(B, T, C)`` normalised features, one step before the logits.

        With a ``past``, the tokens are the next of sequences that a cache holds, and attend to
        those as well. With ``lengths``, the ids are one row, in which texts of these lengths stand
        end to end: each begins at position 0 and sees nothing of the others.

        Raises:
            ValueError: more tokens than `context_length`.
        """
        T = ids.shape[1]
        longest = self.config.context_length
        if longest < T and lengths is None:
            raise ValueError(f"{T} tokens do not fit the context of {longest}")
        place = torch.arange(T, device=ids.device) if past is None else past.positions
        if lengths is not None:
            there = lengths.to(ids.device)
            place = place - (there.cumsum(0) - there).repeat_interleave(there, output_size=T)
        x = self.drop(self.wte(ids) + self.wpe(place))
        for block in self.h:
            x = block(x, past, lengths)
        out: Tensor = self.ln_f(x)
        return out

    @property
    def output_weight(self) -> Tensor:
        """``(V, C)``, a row for each token: in GPT-2 its embedding once more (tied)."""
        return self.wte.weight if self.config.tie_word_embeddings else self.lm_head.weight

    def logits(self, features: Tensor) -> Tensor:
        """``(..., C)`` features to ``(..., V)`` scores: the likeness to each token's row."""
        return F.linear(features, self.output_weight)

    def forward(self, ids: Tensor, past: CacheView | None = None) -> Tensor:
        """``(B, T)`` ids to ``(B, T, V)`` logits of the token that follows each."""
        return self.logits(self.features(ids, past))
