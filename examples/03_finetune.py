"""Fine-tune a classifier with the library's own parts, four ways: what do pre-training and LoRA buy?

python examples/03_finetune.py                               # LoRA on the boxed model and the boxed messages
python examples/03_finetune.py --variant head                # only the head is trained
python examples/03_finetune.py --variant full                # every weight is trained
python examples/03_finetune.py --variant random              # LoRA on a base that was never pre-trained
python examples/03_finetune.py --data sms.tsv --epochs 2     # any TSV, CSV or JSONL of labels and texts
"""

import argparse
import math
import time

import tinylora
from tinylora.adapters import LoRAConfig, apply_lora
from tinylora.app.demo import MESSAGES
from tinylora.models import load_model
from tinylora.tasks.messages import class_names, read_messages, split
from tinylora.training.loop import TrainConfig, evaluate, train


def randomise(model: tinylora.nn.Module) -> None:
    """GPT-2's initial values, in place of what pre-training found."""
    with tinylora.no_grad():
        for name, p in model.named_parameters():
            if p.dim() == 2:
                p.normal_(0.0, 0.02)
            else:
                p.fill_(1.0 if name.endswith("scale") else 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", choices=("lora", "head", "full", "random"), default="lora")
    parser.add_argument("--data", default=MESSAGES)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    messages = read_messages(args.data)
    parts = split(messages, args.seed)
    labels = class_names(messages)

    tinylora.manual_seed(args.seed)
    model = load_model("nano")
    if args.variant == "random":
        randomise(model)
    model.set_classes(labels, bias=True)
    if args.variant in ("lora", "random"):
        apply_lora(model, LoRAConfig(rank=16, alpha=16, scaling="alpha/r", train=("out_head",)))
    elif args.variant == "head":
        model.requires_grad_(False)
        model.out_head.requires_grad_(True)
    print(model.summary())

    started = time.perf_counter()
    losses = []

    def report(event: dict) -> None:
        if "loss" in event:
            losses.append(event["loss"])
        else:
            print(f"epoch {event['epoch']}: loss {math.fsum(losses[-20:]) / len(losses[-20:]):.3f}, "
                  f"validation accuracy {event['valid'].accuracy:.2%}")  # fmt: skip

    train(model, parts.train, parts.valid, labels, TrainConfig(args.epochs, args.lr, 32, args.seed), report)
    found = evaluate(model, parts.test, labels)
    f1 = ", ".join(f"{label} F1 {found.f1(label):.4f}" for label in labels)
    print(f"{args.variant}: test accuracy {found.accuracy:.2%}, {f1}, {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
