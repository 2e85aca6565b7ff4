"""Run by the PyTorch runtime, which alone has these libraries: make a tiny model and data for it, or try an adapter."""

import json
import sys
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

sys.path.insert(0, str(Path(__file__).parents[2] / "src/oneflower/trial/files"))
from tiny_language_model import COLOURS, PAIRS, make, write_instructions


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
    if act == "make":
        make(Path(folder, "model"))
        for node in range(2):
            write_instructions(Path(folder, f"data-{node}"), node)
    else:
        compare(Path(folder), *rest)
