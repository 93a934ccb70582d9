"""GPTModel from and to a folder as Hugging Face writes it. Which name is which stands in formats/hf_gpt2.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import numpy as np

from tinylora import nn
from tinylora.backend import default_device, device, to_device
from tinylora.formats import LoadError, safetensors, shards, strict_json
from tinylora.models import hf_config, hf_gpt2
from tinylora.models.layout import head_of, layers
from tinylora.models.options import configure


class Pretrained(nn.Module):
    """What a GPTModel can do with folders that transformers writes and reads."""

    cfg: dict[str, Any]

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """The GPT2LMHeadModel or GPT2ForSequenceClassification in `folder`, in float32 and evaluation mode.

        Reads `config.json` and `model.safetensors` or its shards, F32, F16 or BF16, on the default device. Everything is
        checked before anything is allocated, and no more than one array is held beside the model. Raises LoadError that
        names the file, the configuration entry or the arrays that do not fit.
        """
        folder = Path(folder)
        cfg = hf_config.to_lecture(strict_json.read(folder / "config.json"), str(folder / "config.json"))
        weights = shards.Weights(folder)
        names = hf_gpt2.aliases(set(weights.shapes), cfg)
        hf_gpt2.check(cfg, {name: weights.shapes[stored] for name, stored in names.items()}, str(folder))
        tied_to = names["transformer.wte.weight"] if cfg.get("tie_head") else "lm_head.weight"
        if "lm_head.weight" in weights.shapes and not weights.same("lm_head.weight", tied_to):
            raise LoadError(f"{folder}: lm_head.weight is not wte.weight, and the configuration says tie_word_embeddings")
        with device("meta"):
            model = cls(cfg)  # type: ignore[call-arg]  # cls is GPTModel
            configure(model)
        if default_device() != "meta":
            _fill(model, weights, names)
        return model.eval()  # type: ignore[return-value]  # itself

    def save_pretrained(
        self, folder: str | Path, labels: list[str] | None = None, max_shard_bytes: int = 5_000_000_000
    ) -> None:
        """Write `config.json` and the weights, in float32, as transformers reads them; a tied head is not written.

        A head that is no language model's becomes `score`, with `labels`, else those of the configuration, as the names
        of its classes. Raises ValueError for what GPT-2 there has no place for: LoRA that is not merged, a head's bias.
        """
        if self.summary().lora.total:
            raise ValueError("the model has LoRA in it: call merge_and_unload first, or save_adapter to store the change")
        count = self.out_head.out_features
        if head_of(self) == "score" or labels:
            labels = labels or self.cfg.get("labels") or [f"LABEL_{i}" for i in range(count)]
            if len(labels) != count:
                raise ValueError(f"{len(labels)} labels for a head of {count} classes")
        if self.out_head.bias is not None and self.out_head.bias.data.any():
            raise ValueError("out_head has a bias, and Hugging Face's GPT-2 has none there: train a head with bias=False")
        tied = self.out_head.weight is self.tok_emb.weight
        Path(folder).mkdir(parents=True, exist_ok=True)
        shards.save(Path(folder), _stored(self, "score" if labels else "lm_head"), max_shard_bytes)
        config = hf_config.to_hugging_face(self.cfg, tied or labels is not None, labels)
        safetensors.write(Path(folder) / "config.json", strict_json.text_of(config))


def _fill(model: nn.Module, weights: shards.Weights, names: dict[str, str]) -> None:
    """Give every parameter its numbers; each array is read once, c_attn's for three parameters."""
    tied = model.out_head.weight is model.tok_emb.weight
    for layer in layers(model, head_of(model)).values():
        if tied and layer.paths == ["out_head"]:
            continue
        for leaf, parameters in layer.parameters().items():
            parts = hf_gpt2.split(weights.floats(names[f"{layer.name}.{leaf}"]), layer.name, len(parameters))
            for parameter, array in zip(parameters, parts, strict=True):
                parameter.data = to_device(array, default_device())


def _stored(model: nn.Module, head: str) -> dict[str, np.ndarray]:
    """The model's arrays by the names they have in a Hugging Face file."""
    found: dict[str, np.ndarray] = {}
    tied = model.out_head.weight is model.tok_emb.weight
    for layer in layers(model, head).values():
        kept = () if tied and layer.paths == ["out_head"] else layer.parameters()
        found |= {f"{layer.name}.{leaf}": layer.stored(leaf) for leaf in kept}
        if layer.name.endswith("c_attn") and not model.cfg["qkv_bias"]:
            found[f"{layer.name}.bias"] = np.zeros(3 * model.cfg["emb_dim"], np.float32)
    found.pop("score.bias", None)  # of zeros
    found.pop("lm_head.bias", None)
    return found
