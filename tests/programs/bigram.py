"""Bigrams: counted, as one layer of weights trained on one-hot vectors, and as a language model with an embedding table."""

import os

import torch
import torch.nn as nn
from torch.nn import functional as F

# hyperparameters
batch_size = 16
block_size = 8
max_iters = 40
learning_rate = 1e-2
device = "cuda" if torch.cuda.is_available() else "cpu"

with open(os.path.join(os.path.dirname(__file__), "names.txt"), encoding="utf-8") as f:
    text = f.read()
chars = sorted(list(set(text)))
vocab_size = len(chars)
stoi = {ch: i for i, ch in enumerate(chars)}
itos = {i: ch for i, ch in enumerate(chars)}
encode = lambda s: [stoi[c] for c in s]
decode = lambda l: "".join([itos[i] for i in l])

data = torch.tensor(encode(text), dtype=torch.long)
n = int(0.9 * len(data))
train_data, val_data = data[:n], data[n:]


def get_batch(split):
    data = train_data if split == "train" else val_data
    ix = torch.randint(len(data) - block_size, (batch_size,))
    x = torch.stack([data[i : i + block_size] for i in ix])
    y = torch.stack([data[i + 1 : i + block_size + 1] for i in ix])
    x, y = x.to(device), y.to(device)
    return x, y


class BigramLanguageModel(nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        self.token_embedding_table = nn.Embedding(vocab_size, vocab_size)

    def forward(self, idx, targets=None):
        logits = self.token_embedding_table(idx)  # (B,T,C)
        if targets is None:
            loss = None
        else:
            B, T, C = logits.shape
            logits = logits.view(B * T, C)
            targets = targets.view(B * T)
            loss = F.cross_entropy(logits, targets)
        return logits, loss

    def generate(self, idx, max_new_tokens):
        for _ in range(max_new_tokens):
            logits, loss = self(idx)
            logits = logits[:, -1, :]
            probs = F.softmax(logits, dim=-1)
            idx_next = torch.multinomial(probs, num_samples=1)
            idx = torch.cat((idx, idx_next), dim=1)
        return idx


@torch.no_grad()
def estimate_loss(model, iters=3):
    out = {}
    model.eval()
    for split in ["train", "val"]:
        losses = torch.zeros(iters)
        for k in range(iters):
            X, Y = get_batch(split)
            logits, loss = model(X, Y)
            losses[k] = loss.item()
        out[split] = losses.mean()
    model.train()
    return out


def counted():
    """The negative log-likelihood of a table of counts."""
    N = torch.zeros((vocab_size, vocab_size), dtype=torch.int32)
    for a, b in zip(train_data, train_data[1:]):
        N[a, b] += 1
    P = (N + 1).float()
    P /= P.sum(1, keepdims=True)
    return -P[train_data[:-1], train_data[1:]].log().mean().item()


def one_layer(W, steps=20):
    """Gradient descent on weights whose softmax is the table."""
    xs, ys = train_data[:-1], train_data[1:]
    num = xs.nelement()
    losses = []
    for _ in range(steps):
        xenc = F.one_hot(xs, num_classes=vocab_size).float()
        logits = xenc @ W
        counts = logits.exp()
        probs = counts / counts.sum(1, keepdims=True)
        loss = -probs[torch.arange(num), ys].log().mean() + 0.01 * (W**2).mean()
        W.grad = None
        loss.backward()
        W.data += -50 * W.grad
        losses.append(loss.item())
    return losses


def build():
    torch.manual_seed(1337)
    model = BigramLanguageModel(vocab_size)
    model.W = nn.Parameter(torch.randn((vocab_size, vocab_size)))
    return model.to(device)


def train(model):
    losses = one_layer(model.W)
    optimizer = torch.optim.AdamW(model.token_embedding_table.parameters(), lr=learning_rate)
    for iter in range(max_iters):
        if iter % 20 == 0:
            estimates = estimate_loss(model)
            print(f"step {iter}: train loss {estimates['train']:.4f}, val loss {estimates['val']:.4f}")
        xb, yb = get_batch("train")
        logits, loss = model(xb, yb)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return [*losses, counted()]


if __name__ == "__main__":
    model = build()
    print(train(model)[-2:])
    context = torch.zeros((1, 1), dtype=torch.long, device=device)
    print(decode(model.generate(context, max_new_tokens=50)[0].tolist()))
