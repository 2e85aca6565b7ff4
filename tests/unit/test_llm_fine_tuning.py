"""The examples that a language model is tuned on. The model itself is tuned in the end-to-end tests."""

from __future__ import annotations

import json

import pytest
from flwr.app import Context, RecordDict

from oneflower.cloud.apps import load_app
from oneflower_appliance.training.data import DataError

from .federation import app_module

CONFIG = dict(load_app("llm-fine-tuning", {}).config)


def load(folder):
    where = {"data-path": str(folder)} if folder else {"partition-id": 0, "num-partitions": 2}
    return app_module("llm-fine-tuning", "texts").load(Context(1, 2, where, RecordDict(), CONFIG))


def write(folder, *lines):
    folder.mkdir(exist_ok=True)
    (folder / "x.jsonl").write_text(
        "".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines)
    )
    return folder


@pytest.mark.parametrize(
    ("entry", "question", "answer"),
    [
        (
            {"instruction": "Add.", "input": "1 2", "output": "3"},
            "### Instruction:\n\nAdd.\n\n1 2\n\n### Response:\n",
            "3",
        ),
        (
            {"instruction": "Sing.", "context": "", "response": "La"},
            "### Instruction:\n\nSing.\n\n### Response:\n",
            "La",
        ),
        ({"prompt": "Hi", "completion": "Ho"}, "### Instruction:\n\nHi\n\n### Response:\n", "Ho"),
        ({"text": "Once upon a time"}, "", "Once upon a time"),
    ],
)
def test_the_usual_layouts_are_read(tmp_path, entry, question, answer):
    train, test, source = load(write(tmp_path, *[entry] * 20))
    assert (len(train), len(test), source) == (18, 2, "own instructions")
    assert (train[0].question, train[0].answer) == (question, answer)


def test_what_cannot_be_used_is_named_with_file_and_line(tmp_path):
    good = {"prompt": "Hi", "completion": "Ho"}
    with pytest.raises(DataError, match=r"x.jsonl, line 2, is not valid JSON"):
        load(write(tmp_path / "a", good, "{oops\n"))
    with pytest.raises(DataError, match=r"x.jsonl, line 2: it has no example(.|\n)*instruction, output"):
        load(write(tmp_path / "b", good, {"question": "?"}))
    with pytest.raises(DataError, match="has 1 examples"):
        load(write(tmp_path / "c", good))
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "x.csv").write_text("")
    with pytest.raises(DataError, match="no JSON Lines file"):
        load(tmp_path / "d")


def test_without_data_and_without_a_hub_it_is_said_what_to_do(monkeypatch):
    import sys
    import types

    def hf_hub_download(repository, name, repo_type):
        raise ConnectionError(f"{repository}: no route")

    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(hf_hub_download=hf_hub_download))
    with pytest.raises(DataError, match="no data folder, and databricks/(.|\n)*no route(.|\n)*FL_DATA_PATH"):
        load(None)
