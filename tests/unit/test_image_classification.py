"""The pre-built image classification, with Flower's own strategies and no processes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Context, RecordDict
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from oneflower_appliance.errors import OneflowerError

from . import federation

USE_CASE = "image-classification"


@pytest.fixture(scope="module")
def images():
    return federation.app_module(USE_CASE, "images")


@pytest.fixture(scope="module")
def softmax():
    return federation.app_module(USE_CASE, "softmax")


def central_accuracy(images, softmax):
    train, test = images.digits(7)
    options = federation.app_module(USE_CASE, "models").TrainingOptions("softmax", 60, 32, 0.5, seed=7)
    arrays, _ = softmax.train(softmax.initial(images.DIGITS_SHAPE, 10), train, options)
    return softmax.evaluate(arrays, test)[1]


def test_federated_training_comes_within_three_points_of_central_training(monkeypatch, images, softmax):
    trained = federation.train(monkeypatch, USE_CASE, framework="sklearn")
    assert trained.accuracy >= central_accuracy(images, softmax) - 0.03
    assert trained.accuracy > 0.93


def test_the_same_seed_gives_the_same_model(monkeypatch):
    one, two, other = (federation.train(monkeypatch, USE_CASE, framework="sklearn", num_server_rounds=1, seed=seed)
                       for seed in (1, 1, 2))  # fmt: skip
    arrays = [trained.result.arrays["weights"].numpy() for trained in (one, two, other)]
    assert np.array_equal(arrays[0], arrays[1])
    assert not np.array_equal(arrays[0], arrays[2])


def test_the_loss_is_the_cross_entropy_and_finite_for_a_model_that_is_sure_and_wrong(images, softmax):
    _, test = images.digits(7)
    arrays = softmax.initial(images.DIGITS_SHAPE, 10)
    assert softmax.evaluate(arrays, test)[0] == pytest.approx(np.log(10)), "of a model that knows nothing"
    arrays["biases"][3] = 1e4
    loss, accuracy = softmax.evaluate(arrays, test)
    assert loss == pytest.approx(-np.log(np.finfo(float).eps) * (1 - accuracy))


def test_the_digits_and_their_split_are_those_of_scikit_learn():
    shipped = federation.app_module(USE_CASE, "shipped")
    pixels, labels = shipped.digits()
    theirs = load_digits(return_X_y=True)
    assert [pixels.dtype, labels.dtype] == [part.dtype for part in theirs]
    assert np.array_equal(pixels, theirs[0])
    assert np.array_equal(labels, theirs[1])
    few = np.array([0, 1, 1, 2, 2, 2, 0, 2, 1, 2, 0])  # equal remainders, which chance decides between
    for seed in range(20):
        for of in (labels, few):
            split = train_test_split(np.arange(len(of)), test_size=0.3, stratify=of, random_state=seed)
            assert all(map(np.array_equal, shipped.split(of, 0.3, seed), split))


def test_the_digits_are_read_without_importing_scikit_learn(images, monkeypatch):
    for module in [name for name in sys.modules if name.partition(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, module)
    assert len(images.digits.__wrapped__(7)[0]) == 1437
    assert "sklearn" not in sys.modules


def test_the_test_set_is_held_out(images):
    train, test = images.digits(7)
    everything, held = train.batch(np.arange(len(train))), test.batch(np.arange(len(test)))
    rows = {image.tobytes() for image in everything}
    assert len(train) + len(test) == 1797
    assert sum(image.tobytes() in rows for image in held) == 0


def test_a_node_with_one_digit_only_can_train(images, softmax):
    train, test = images.digits(7)
    only = train.take(np.flatnonzero(train.labels == 3))
    options = federation.app_module(USE_CASE, "models").TrainingOptions("softmax", 5, 32, 0.5)
    arrays, loss = softmax.train(softmax.initial(images.DIGITS_SHAPE, 10), only, options)
    assert np.isfinite(loss)
    assert np.isfinite(softmax.evaluate(arrays, test)[0])


def paint(folder, colours, count=6):
    """A class of images for each colour, with some noise."""
    rng = np.random.default_rng(len(colours))
    for name, colour in colours.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = np.clip(np.asarray(colour) + rng.integers(-40, 40, (20, 30, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


RED, GREEN, BLUE = (220, 40, 40), (40, 200, 40), (40, 40, 220)


def own(tmp_path, *folders):
    return [{"data-path": str(tmp_path / name), "partition-id": n, "num-partitions": len(folders)}
            for n, name in enumerate(folders)]  # fmt: skip


def only_root_reads_lost_and_found(iterdir):
    def guarded(self):
        if self.name == "lost+found":
            raise PermissionError(self)
        return iterdir(self)

    return guarded


def test_images_of_ones_own_in_a_folder_for_each_class(monkeypatch, tmp_path):
    """Nodes need not have the same classes: the model learns the classes of all nodes."""
    paint(tmp_path / "a", {"red": RED, "green": GREEN})
    paint(tmp_path / "b", {"blue": BLUE, "red": RED})
    (tmp_path / "b" / "lost+found").mkdir()  # of a disk of its own
    monkeypatch.setattr(Path, "iterdir", only_root_reads_lost_and_found(Path.iterdir))
    trained = federation.train(
        monkeypatch, USE_CASE, node_configs=own(tmp_path, "a", "b"), framework="sklearn", image_size=8
    )
    assert trained.result.arrays["weights"].shape == (8 * 8 * 3, 3)
    assert trained.result.evaluate_metrics_clientapp[3]["accuracy"] > 0.9
    assert trained.rounds == [], "there is no test set but the nodes' own"


@pytest.mark.parametrize(
    ("prepare", "sentence"),
    [
        (lambda folder: None, "does not exist on this node"),
        (lambda folder: folder.mkdir(), "is empty on this node"),
        (lambda folder: (folder / "lost+found").mkdir(parents=True), "is empty on this node"),
        (lambda folder: paint(folder / "x", {"red": RED}), "has no images in a folder for each class"),
        (lambda folder: paint(folder, {"red": RED}, 1), "has only one image"),
    ],
)
def test_a_node_with_bad_data_is_named_and_too_few_others_end_the_run(monkeypatch, tmp_path, prepare, sentence):
    paint(tmp_path / "good", {"red": RED, "green": GREEN})
    prepare(tmp_path / "bad")
    with pytest.raises(
        OneflowerError, match=r"1 of 2 nodes have data to train on, and 2 are needed. node 101: .*" + sentence
    ):
        federation.train(monkeypatch, USE_CASE, node_configs=own(tmp_path, "good", "bad"), framework="sklearn")


def test_a_node_with_bad_data_is_passed_over_where_others_are_enough(monkeypatch, tmp_path, caplog):
    paint(tmp_path / "good", {"red": RED, "green": GREEN})
    trained = federation.train(
        monkeypatch, USE_CASE, node_configs=own(tmp_path, "good", "missing"), framework="sklearn", image_size=8,
        num_server_rounds=1, min_available_nodes=1, min_train_nodes=1, min_evaluate_nodes=1,
    )  # fmt: skip
    assert trained.result.arrays is not None


def test_files_that_are_no_images_are_named_before_anything_is_trained(monkeypatch, tmp_path):
    paint(tmp_path / "good", {"red": RED, "green": GREEN})
    paint(tmp_path / "bad", {"red": RED, "green": GREEN})
    (tmp_path / "bad" / "red" / "0.png").write_text("no image")
    whole = (tmp_path / "bad" / "green" / "1.png").read_bytes()
    (tmp_path / "bad" / "green" / "1.png").write_bytes(whole[: len(whole) // 2])
    asked = []

    def spoil(node, message, reply):
        asked.append(message.metadata.message_type)
        return reply

    with pytest.raises(OneflowerError, match=r"1\.png cannot be read as an image: .*0\.png cannot be read as an image"):
        federation.train(
            monkeypatch, USE_CASE, node_configs=own(tmp_path, "good", "bad"), spoil=spoil, framework="sklearn"
        )
    assert set(asked) == {"query"}


def test_a_file_that_is_no_image_is_named_when_it_is_read(images, tmp_path):
    paint(tmp_path / "node", {"red": RED}, 2)
    context = Context(1, 1, {"data-path": str(tmp_path / "node")}, RecordDict(), {"image-size": 8, "seed": 1})
    train, _ = images.load(context, ["red"])
    for path in (tmp_path / "node" / "red").iterdir():
        path.write_text("no image")
    with pytest.raises(OneflowerError, match="png cannot be read as an image"):
        train.batch(np.zeros(1, dtype=int))


def test_digits_here_and_images_there_do_not_fit_together(monkeypatch, tmp_path):
    paint(tmp_path / "good", {"red": RED, "green": GREEN})
    configs = [*own(tmp_path, "good"), {"partition-id": 1, "num-partitions": 2}]
    with pytest.raises(OneflowerError, match="source is 'own images' on node 100; 'digits' on node 101"):
        federation.train(monkeypatch, USE_CASE, node_configs=configs, framework="sklearn")
