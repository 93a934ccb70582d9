"""Fine-tune a classifier with the library's own parts, four ways: what do pre-training and LoRA buy?

python examples/03_finetune.py                               # LoRA on the boxed model and the boxed messages
python examples/03_finetune.py --variant head                # only the head is trained
python examples/03_finetune.py --variant full                # every weight is trained
python examples/03_finetune.py --variant random              # LoRA on a base that was never pre-trained
python examples/03_finetune.py --data sms.tsv --epochs 2     # any TSV, CSV or JSONL of labels and texts
"""

import argparse
import time

import tinylora
from tinylora.adapters import LoRAConfig, apply_lora
from tinylora.app.demo import MESSAGES
from tinylora.models import load_model
from tinylora.runs.recipe import Recipe
from tinylora.tasks import Classify
from tinylora.text.tokenizer import BYTES
from tinylora.training.loop import Trainer
from tinylora.training.report import Reporter


def randomise(model: tinylora.nn.Module) -> None:
    """GPT-2's initial values, in place of what pre-training found."""
    with tinylora.no_grad():
        for name, p in model.named_parameters():
            if p.dim() == 2:
                p.normal_(0.0, 0.02)
            else:
                p.fill_(1.0 if name.endswith("scale") else 0.0)


class Lines(Reporter):
    """A line per epoch."""

    def validated(self, epoch, step, score, best) -> None:
        print(f"epoch {epoch}: validation loss {score.loss:.3f}, {score.headline}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", choices=("lora", "head", "full", "random"), default="lora")
    parser.add_argument("--data", default=MESSAGES)
    parser.add_argument("--epochs", type=int, help="default: as `tinylora finetune` chooses")
    parser.add_argument("--lr", type=float, default=Recipe.lr)
    parser.add_argument("--batch-size", type=int, default=Recipe.batch_size)
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    args = parser.parse_args()

    parts = Classify.split(Classify.read(args.data), args.seed)

    tinylora.manual_seed(args.seed)
    model = load_model("nano")
    if args.variant == "random":
        randomise(model)
    task = Classify(BYTES, model.cfg.context_length, **Classify.found_in(parts))
    task.head(model, bias=True)
    if args.variant in ("lora", "random"):
        apply_lora(model, LoRAConfig(rank=16, alpha=16, scaling="alpha/r", train=("out_head",)))
    elif args.variant == "head":
        model.requires_grad_(False)
        model.out_head.requires_grad_(True)
    print(model.summary())

    started = time.perf_counter()
    recipe = Recipe(
        "nano", str(args.data), "classify", epochs=args.epochs, lr=args.lr, batch_size=args.batch_size, seed=args.seed
    )
    config = recipe.training_on(len(parts.train))
    Trainer(model, task, parts.train, parts.valid, config, Lines()).run()
    found = task.evaluate(model, parts.test)
    f1 = ", ".join(f"{label} F1 {found.f1(label):.4f}" for label in task.labels)
    print(f"{args.variant}: test accuracy {found.accuracy:.2%}, {f1}, {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
