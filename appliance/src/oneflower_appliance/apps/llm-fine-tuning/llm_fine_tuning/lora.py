"""The language model with its adapter, on transformers and PEFT."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from oneflower_appliance.errors import ExitCode, OneflowerError
from oneflower_appliance.gpu_parameters import FULL
from oneflower_appliance.training.devices import torch_device
from oneflower_appliance.training.precision import Precision

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from llm_fine_tuning.texts import Example

disable_progress_bar()
Arrays = dict[str, "NDArray[np.float32]"]
_IGNORED = -100  # the label that transformers ignores


@dataclass(frozen=True)
class TrainingOptions:
    """How a node trains in a round. `mu` is the weight of FedProx's proximal term, `precision` FL_MIXED_PRECISION."""

    epochs: int
    batch: int
    rate: float
    mu: float = 0.0
    seed: int = 0
    precision: str = FULL


class Adapter:
    """A language model, frozen, with a LoRA adapter. Raises `OneflowerError` when it cannot be loaded."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._name = str(config["model"]) or str(config["hub-model"])
        self._length = int(config["max-length"])
        self._device = torch_device()
        torch.manual_seed(int(config["seed"]))
        wanted = LoraConfig(
            r=int(config["lora-rank"]),
            lora_alpha=int(config["lora-alpha"]),
            lora_dropout=float(config["lora-dropout"]),
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        )
        more = _in_4_bits(self._device) if config["load-in-4bit"] else {}
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(self._name)
            base = AutoModelForCausalLM.from_pretrained(self._name, **more)
        except (OSError, ValueError) as error:
            raise OneflowerError(
                f"The model {self._name!r} cannot be loaded: {str(error).splitlines()[0]}",
                "FL_MODEL is a folder on every node whose files Flower can read, or a name on a hub that they reach.",
                ExitCode.INVALID_INPUT,
            ) from error
        self._model: PeftModel = get_peft_model(base, wanted)
        if not more:
            self._model.to(self._device)

    @property
    def arrays(self) -> Arrays:
        """The adapter's arrays, by the names under which PEFT loads them."""
        found = get_peft_model_state_dict(self._model)
        return {name: tensor.detach().float().cpu().numpy() for name, tensor in found.items()}

    @arrays.setter
    def arrays(self, arrays: Arrays) -> None:
        set_peft_model_state_dict(self._model, {name: torch.from_numpy(np.array(a)) for name, a in arrays.items()})

    @property
    def config(self) -> str:
        """The adapter's configuration as JSON, as PEFT saves it with the arrays."""
        found = self._model.peft_config["default"].to_dict()
        found["base_model_name_or_path"] = self._name
        found["inference_mode"] = True
        return json.dumps(found, default=_plain, sort_keys=True)

    def train(self, examples: Sequence[Example], options: TrainingOptions) -> float:
        """Train on the answers and return the mean loss of the last pass."""
        torch.manual_seed(options.seed)
        self._model.train()
        trained = [parameter for parameter in self._model.parameters() if parameter.requires_grad]
        start = [parameter.detach().clone() for parameter in trained]
        optimiser = torch.optim.AdamW(trained, options.rate, weight_decay=0.0)
        rng, precision = np.random.default_rng(options.seed), Precision(options.precision, self._device)
        loss = 0.0
        for _ in range(options.epochs):
            losses = []
            for batch in self._batches([examples[index] for index in rng.permutation(len(examples))], options.batch):
                optimiser.zero_grad()
                with precision.forward():
                    found = self._model(**batch).loss
                losses.append(float(found.detach()))
                if options.mu:
                    pairs = zip(trained, start, strict=True)
                    found = found + options.mu / 2 * sum(((now - then) ** 2).sum() for now, then in pairs)
                precision.step(found, optimiser, partial(torch.nn.utils.clip_grad_norm_, trained, 1.0))
            loss = float(np.mean(losses))
        return loss

    def evaluate(self, examples: Sequence[Example], batch: int) -> float:
        """Return the mean cross-entropy of the answers' tokens."""
        self._model.eval()
        total, tokens = 0.0, 0
        with torch.no_grad():
            for found in self._batches(examples, batch):
                count = int((found["labels"][:, 1:] != _IGNORED).sum())
                total += float(self._model(**found).loss) * count
                tokens += count
        return total / max(tokens, 1)

    def _batches(self, examples: Sequence[Example], size: int) -> Iterator[dict[str, torch.Tensor]]:
        encoded = [pair for example in examples if (pair := self._encode(example)) is not None]
        for start in range(0, len(encoded), size):
            part = encoded[start : start + size]
            longest = max(len(tokens) for tokens, _ in part)
            tokens, labels, mask = (torch.zeros(len(part), longest, dtype=torch.long) for _ in range(3))
            labels += _IGNORED
            for row, (found, asked) in enumerate(part):
                tokens[row, : len(found)] = torch.tensor(found)
                labels[row, asked : len(found)] = torch.tensor(found[asked:])
                mask[row, : len(found)] = 1
            named = {"input_ids": tokens, "labels": labels, "attention_mask": mask}
            yield {name: tensor.to(self._device) for name, tensor in named.items()}

    def _encode(self, example: Example) -> tuple[list[int], int] | None:
        """Return the tokens of an example and how many of them are the question; None if it has nothing to learn."""
        asked = self._tokenizer(example.question)["input_ids"] if example.question else []
        answer = self._tokenizer(example.answer, add_special_tokens=not asked)["input_ids"]
        end = [self._tokenizer.eos_token_id] if self._tokenizer.eos_token_id is not None else []
        tokens = [*asked, *answer, *end][: self._length]
        return (tokens, len(asked)) if len(tokens) > max(len(asked), 1) else None


def _in_4_bits(device: torch.device) -> dict[str, Any]:
    from importlib.util import find_spec  # noqa: PLC0415

    if device.type != "cuda" or find_spec("bitsandbytes") is None:
        raise OneflowerError(
            "Weights in 4 bits need a GPU and the package bitsandbytes on every node.",
            "Set load-in-4bit to false, or use FL_GPU_ENABLED=YES and a runtime with bitsandbytes.",
            ExitCode.INVALID_INPUT,
        )
    from transformers import BitsAndBytesConfig  # noqa: PLC0415

    kind = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
    return {"quantization_config": kind, "device_map": {"": 0}}


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set) else str(value)
