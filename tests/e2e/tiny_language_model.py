"""Run by the PyTorch runtime, which alone has these libraries: make a tiny model and data for it, or try an adapter."""

import json
import sys
from pathlib import Path

import torch
from peft import PeftModel
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

COLOURS = ("red", "green", "blue")
PAIRS = [(f"Say the colour of thing {number}", COLOURS[number % 3]) for number in range(60)]


def make(folder):
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    texts = [f"### Instruction: {asked} ### Response: {answer}" for asked, answer in PAIRS]
    tokenizer.train_from_iterator(texts, trainers.WordLevelTrainer(special_tokens=["<unk>", "<eos>"]))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<eos>", pad_token="<eos>")
    fast.save_pretrained(folder / "model")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=128, initializer_range=0.3,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    for node in range(2):
        data = folder / f"data-{node}"
        data.mkdir()
        lines = [json.dumps({"instruction": asked, "output": answer}) for asked, answer in PAIRS[node::2]]
        (data / "colours.jsonl").write_text("\n".join(lines) + "\n")


def colours_said(model, tokenizer):
    """The share of the questions that are answered by a colour."""
    said = 0
    for asked, _ in PAIRS:
        question = tokenizer(f"### Instruction:\n\n{asked}\n\n### Response:\n", return_tensors="pt")
        with torch.no_grad():
            said += tokenizer.decode(model(**question).logits[0, -1].argmax()).strip() in COLOURS
    return said / len(PAIRS)


def compare(folder, adapter):
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    before = colours_said(model, tokenizer)
    tuned = PeftModel.from_pretrained(model, adapter)
    sys.stdout.write(json.dumps({"before": before, "after": colours_said(tuned, tokenizer)}))


if __name__ == "__main__":
    act, folder, *rest = sys.argv[1:]
    {"make": make, "compare": compare}[act](Path(folder), *rest)
