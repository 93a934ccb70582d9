"""Pre-train the boxed model: a byte-level GPT in the lecture's architecture, on plain text, by tinylora alone.

    TINYLORA_DEVICE=cuda CUPY_TF32=1 python examples/pretrain.py DATA --steps 5400 --out runs/nano
    python examples/pretrain.py DATA --evaluate nano          # bits per byte of the model in the box

DATA is a folder with tinyshakespeare.txt, the-verdict.txt and wikitext-2/{train,valid}.raw.gz.
"""

import argparse
import gzip
import math
import re
import time
from pathlib import Path

import numpy as np

import tinylora as torch
from tinylora import nn
from tinylora.models import load_model, save_model
from tinylora.models.gpt import GPTModel
from tinylora.nn.utils import clip_grad_norm_
from tinylora.text.tokenizer import END
from tinylora.training.schedule import learning_rate

NANO = {
    "vocab_size": 257, "context_length": 512, "emb_dim": 256, "n_heads": 4, "n_layers": 4,
    "drop_rate": 0.0, "qkv_bias": True, "tie_head": True,
}  # fmt: skip


def tokens_of(text: bytes) -> np.ndarray:
    """Bytes as tokens, with END before every article (a line ' = Title = ') and after the last."""
    articles = re.split(rb"(?=\n = [^=].* = \n)", text)
    return np.concatenate([np.append(np.frombuffer(a, np.uint8).astype(np.int16), END) for a in articles])


def read(data: Path, split: str) -> np.ndarray:
    """The tokens of WikiText-2's `split`; for "train" the two plain texts as well."""
    texts = [gzip.decompress((data / "wikitext-2" / f"{split}.raw.gz").read_bytes())]
    if split == "train":
        texts += [(data / name).read_bytes() for name in ("tinyshakespeare.txt", "the-verdict.txt")]
    return np.concatenate([np.array([END], np.int16), *[tokens_of(t) for t in texts]])


def language_model_loss(model: GPTModel, windows: np.ndarray, skip: int = 0, reduction: str = "mean") -> torch.Tensor:
    """Cross-entropy in nats of each token after the first `skip + 1`, given those before it. windows (B, T + 1)."""
    ids = torch.tensor(windows.astype(np.int64), device=model.tok_emb.weight.device)
    logits = model(ids[:, :-1])[:, skip:]
    return nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1 + skip :].flatten(), reduction=reduction)


def bits_per_byte(model: GPTModel, tokens: np.ndarray, batch: int = 32) -> float:
    """Bits that the model needs for all `tokens`, END included, over the number of bytes among them.

    Windows overlap by half: a token is predicted from at least context / 2 tokens before it, where there are any.
    """
    context = model.cfg.context_length
    half = context // 2
    nats = 0.0
    with torch.no_grad():
        nats += language_model_loss(model, tokens[None, : context + 1], 0, "sum").item()
        starts = np.arange(half, len(tokens) - 1 - half, half)
        whole = starts[starts + context < len(tokens)]
        for i in range(0, len(whole), batch):
            windows = np.stack([tokens[s : s + context + 1] for s in whole[i : i + batch]])
            nats += language_model_loss(model, windows, half, "sum").item()
        for s in starts[len(whole) :]:  # the last window is shorter
            nats += language_model_loss(model, tokens[None, s:], half, "sum").item()
    return nats / math.log(2) / int((tokens != END).sum())


def initialise(model: GPTModel) -> None:
    """GPT-2's initial values: N(0, 0.02), and less for what is added to the residual stream."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith(("out_proj.weight", "layers.2.weight")):
                p.normal_(0.0, 0.02 / math.sqrt(2 * model.cfg.n_layers))
            elif name.endswith("weight"):
                p.normal_(0.0, 0.02)
            elif name.endswith("bias"):
                p.zero_()


def pretrain(args: argparse.Namespace) -> GPTModel:
    train, valid = read(args.data, "train"), read(args.data, "valid")
    torch.manual_seed(args.seed)
    model = GPTModel(NANO)
    initialise(model)
    matrices = [p for p in model.parameters() if p.dim() == 2]
    others = [p for p in model.parameters() if p.dim() != 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.98))
    rng = np.random.default_rng(args.seed)
    span = np.arange(model.cfg.context_length + 1)
    print(f"{model.summary().total:,} parameters, {len(train):,} tokens, {args.steps:,} steps of {args.batch_size} x 512")
    begin = time.perf_counter()
    for step in range(args.steps):
        for group in optimizer.param_groups:
            group["lr"] = args.lr * learning_rate("cosine", step, args.steps, min(300, args.steps // 10))
        starts = rng.integers(0, len(train) - len(span), args.batch_size)
        loss = language_model_loss(model, train[starts[:, None] + span])
        optimizer.zero_grad()
        loss.backward()
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 500 == 0:
            seconds = time.perf_counter() - begin
            print(f"step {step:6d}  train {loss.item() / math.log(2):.4f} bits  {seconds:.0f} s", flush=True)
        if (step + 1) % 3000 == 0 or step + 1 == args.steps:
            print(f"step {step + 1:6d}  valid {bits_per_byte(model, valid):.4f} bits per byte", flush=True)
            save_model(model, args.out, np.float16)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=5400)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/nano"))
    parser.add_argument("--evaluate", metavar="MODEL", help="only measure this model: 'nano' or a folder")
    args = parser.parse_args()
    if not args.evaluate:
        pretrain(args)
    model = load_model(args.evaluate or args.out)  # as a user will load it: from float16
    print(f"WikiText-2 raw valid: {bits_per_byte(model, read(args.data, 'valid')):.4f} bits per byte")


if __name__ == "__main__":
    main()
