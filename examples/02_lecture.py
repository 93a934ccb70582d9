"""The lecture's listing: GPT-2 small with a two-class head, fine-tuned with LoRA, every part written out.

This is PyTorch code. Only the two import lines below differ; with `import torch` and `from torch import nn` in their
place the same file runs on PyTorch and prints the same counts and the same tree.
"""

import tinylora as torch
from tinylora import nn

GPT2_SMALL = {
    "vocab_size": 50257,
    "context_length": 1024,
    "emb_dim": 768,
    "n_heads": 12,
    "n_layers": 12,
    "drop_rate": 0.1,
    "qkv_bias": True,
}


# ------------------------------------------------------------------------------------------- the GPT
class LayerNorm(nn.Module):
    def __init__(self, emb_dim):
        super().__init__()
        self.eps = 1e-5
        self.scale = nn.Parameter(torch.ones(emb_dim))
        self.shift = nn.Parameter(torch.zeros(emb_dim))

    def forward(self, x):
        mean = x.mean(dim=-1, keepdim=True)
        variance = x.var(dim=-1, keepdim=True, unbiased=False)
        return self.scale * (x - mean) / torch.sqrt(variance + self.eps) + self.shift


class GELU(nn.Module):
    def forward(self, x):
        inner = torch.sqrt(torch.tensor(2.0 / torch.pi)) * (x + 0.044715 * torch.pow(x, 3))
        return 0.5 * x * (1 + torch.tanh(inner))


class FeedForward(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(cfg["emb_dim"], 4 * cfg["emb_dim"]),
            GELU(),
            nn.Linear(4 * cfg["emb_dim"], cfg["emb_dim"]),
        )

    def forward(self, x):
        return self.layers(x)


class MultiHeadAttention(nn.Module):
    def __init__(self, d_in, d_out, context_length, dropout, num_heads, qkv_bias=False):
        super().__init__()
        assert d_out % num_heads == 0, "d_out must be divisible by num_heads"
        self.d_out, self.num_heads, self.head_dim = d_out, num_heads, d_out // num_heads
        self.W_query = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.W_key = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.W_value = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.out_proj = nn.Linear(d_out, d_out)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("mask", torch.triu(torch.ones(context_length, context_length), diagonal=1))

    def split_heads(self, x):
        B, T, _ = x.shape
        return x.view(B, T, self.num_heads, self.head_dim).transpose(1, 2)  # (B, H, T, D)

    def forward(self, x):
        B, T, _ = x.shape
        queries, keys, values = (self.split_heads(W(x)) for W in (self.W_query, self.W_key, self.W_value))

        scores = queries @ keys.transpose(2, 3)  # (B, H, T, T)
        scores.masked_fill_(self.mask.bool()[:T, :T], -torch.inf)
        weights = self.dropout(torch.softmax(scores / keys.shape[-1] ** 0.5, dim=-1))

        context = (weights @ values).transpose(1, 2)  # (B, T, H, D)
        return self.out_proj(context.contiguous().view(B, T, self.d_out))


class TransformerBlock(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.att = MultiHeadAttention(
            d_in=cfg["emb_dim"],
            d_out=cfg["emb_dim"],
            context_length=cfg["context_length"],
            dropout=cfg["drop_rate"],
            num_heads=cfg["n_heads"],
            qkv_bias=cfg["qkv_bias"],
        )
        self.ff = FeedForward(cfg)
        self.norm1 = LayerNorm(cfg["emb_dim"])
        self.norm2 = LayerNorm(cfg["emb_dim"])
        self.drop_resid = nn.Dropout(cfg["drop_rate"])

    def forward(self, x):
        x = x + self.drop_resid(self.att(self.norm1(x)))
        return x + self.drop_resid(self.ff(self.norm2(x)))


class GPTModel(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.tok_emb = nn.Embedding(cfg["vocab_size"], cfg["emb_dim"])
        self.pos_emb = nn.Embedding(cfg["context_length"], cfg["emb_dim"])
        self.drop_emb = nn.Dropout(cfg["drop_rate"])
        self.trf_blocks = nn.Sequential(*[TransformerBlock(cfg) for _ in range(cfg["n_layers"])])
        self.final_norm = LayerNorm(cfg["emb_dim"])
        self.out_head = nn.Linear(cfg["emb_dim"], cfg["vocab_size"], bias=False)

    def forward(self, in_idx):
        _, T = in_idx.shape
        x = self.tok_emb(in_idx) + self.pos_emb(torch.arange(T, device=in_idx.device))
        x = self.trf_blocks(self.drop_emb(x))
        return self.out_head(self.final_norm(x))


# ---------------------------------------------------------------------------------------------- LoRA
class LoRALayer(nn.Module):
    def __init__(self, in_dim, out_dim, rank, alpha):
        super().__init__()
        std_dev = 1 / torch.sqrt(torch.tensor(rank).float())
        self.A = nn.Parameter(torch.randn(in_dim, rank) * std_dev)
        self.B = nn.Parameter(torch.zeros(rank, out_dim))
        self.alpha = alpha

    def forward(self, x):
        return self.alpha * (x @ self.A @ self.B)


class LinearWithLoRA(nn.Module):
    def __init__(self, linear, rank, alpha):
        super().__init__()
        self.linear = linear
        self.lora = LoRALayer(linear.in_features, linear.out_features, rank, alpha)

    def forward(self, x):
        return self.linear(x) + self.lora(x)


def replace_linear_with_lora(model, rank, alpha):
    for name, module in model.named_children():
        if isinstance(module, nn.Linear):
            setattr(model, name, LinearWithLoRA(module, rank, alpha))
        else:
            replace_linear_with_lora(module, rank, alpha)


# ------------------------------------------------------------------------------------------- the run
def count_trainable(model):
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def last_token_loss(model, tokens, labels):
    return nn.functional.cross_entropy(model(tokens)[:, -1, :], labels)


torch.manual_seed(123)
model = GPTModel(GPT2_SMALL)
model.out_head = nn.Linear(GPT2_SMALL["emb_dim"], 2)

before = count_trainable(model)
print(f"Total trainable parameters before: {before:,}")
assert before == 124_441_346

for param in model.parameters():
    param.requires_grad = False
frozen = count_trainable(model)
print(f"Total trainable parameters after freezing: {frozen:,}")
assert frozen == 0

replace_linear_with_lora(model, rank=16, alpha=16)
with_lora = count_trainable(model)
print(f"Total trainable parameters with LoRA: {with_lora:,}")
assert with_lora == 2_666_528 == 12 * 13_824 * 16 + 770 * 16

print(model.trf_blocks[0])
print(model.out_head)

tokens = torch.randint(0, GPT2_SMALL["vocab_size"], (2, 8))
labels = torch.tensor([0, 1])
query = model.trf_blocks[0].att.W_query
base, A, B = (p.detach().clone() for p in (query.linear.weight, query.lora.A, query.lora.B))

model.eval()
with torch.no_grad():
    loss_before = last_token_loss(model, tokens, labels).item()

model.train()
optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=0.1)
optimizer.zero_grad()
last_token_loss(model, tokens, labels).backward()
optimizer.step()

model.eval()
with torch.no_grad():
    loss_after = last_token_loss(model, tokens, labels).item()

print(f"loss before the step: {loss_before:.4f}")
print(f"loss after the step:  {loss_after:.4f}")
assert loss_after < loss_before
assert torch.equal(query.linear.weight, base), "the base is frozen"
assert torch.allclose(query.lora.A, A, atol=1e-4), "B was 0, so A got no gradient yet: only weight decay touched it"
assert not torch.equal(query.lora.B, B), "B moved"
print("B moved, the base did not")
