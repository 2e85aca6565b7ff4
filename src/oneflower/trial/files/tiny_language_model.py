"""Makes a tiny language model, and instructions to tune it with: usage: python - FOLDER NODE <tiny_language_model.py.

Only the packages of the PyTorch and llm images are needed. There is nothing to download.
"""

import json
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

COLOURS = ("red", "green", "blue")
PAIRS = [(f"Say the colour of thing {number}", COLOURS[number % 3]) for number in range(60)]


def make(model: Path) -> None:
    """Write the model, in the layout of transformers. It knows the words, and nothing else."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))  # noqa: S106 - a word for words that are not known
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    texts = [f"### Instruction: {asked} ### Response: {answer}" for asked, answer in PAIRS]
    tokenizer.train_from_iterator(texts, trainers.WordLevelTrainer(special_tokens=["<unk>", "<eos>"]))
    words = {"unk_token": "<unk>", "eos_token": "<eos>", "pad_token": "<eos>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **words).save_pretrained(model)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=128, initializer_range=0.3,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(model)
    for path in model.iterdir():  # the weights are written for their owner alone, and Flower is another user
        path.chmod(0o644)


def write_instructions(folder: Path, node: int) -> None:
    """Write the instructions of a node: every second one."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"instruction": asked, "output": answer}) for asked, answer in PAIRS[node % 2 :: 2]]
    (folder / "colours.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    make(Path(sys.argv[1], "model"))
    write_instructions(Path(sys.argv[1]), int(sys.argv[2]))
