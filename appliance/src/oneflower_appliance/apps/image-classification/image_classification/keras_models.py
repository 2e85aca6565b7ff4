"""The TensorFlow models: the same two networks in Keras."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from image_classification.models import in_order

if TYPE_CHECKING:
    from image_classification.images import Images
    from image_classification.models import Arrays, TrainingOptions

log = logging.getLogger("flwr")


def _block(images: keras.KerasTensor, outputs: int, stride: int) -> keras.KerasTensor:
    hidden = layers.Conv2D(outputs, 3, stride, "same", use_bias=False)(images)
    hidden = layers.ReLU()(layers.GroupNormalization(8)(hidden))
    hidden = layers.Conv2D(outputs, 3, 1, "same", use_bias=False)(hidden)
    hidden = layers.GroupNormalization(8)(hidden)
    if stride != 1 or images.shape[-1] != outputs:
        images = layers.GroupNormalization(8)(layers.Conv2D(outputs, 1, stride, use_bias=False)(images))
    return layers.ReLU()(layers.Add()([hidden, images]))


def _resnet18(images: keras.KerasTensor) -> keras.KerasTensor:
    hidden = layers.GroupNormalization(8)(layers.Conv2D(64, 7, 2, "same", use_bias=False)(images))
    hidden = layers.MaxPooling2D(3, 2, "same")(layers.ReLU()(hidden))
    for outputs, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        hidden = _block(_block(hidden, outputs, stride), outputs, 1)
    return layers.GlobalAveragePooling2D()(hidden)


def _cnn(images: keras.KerasTensor) -> keras.KerasTensor:
    hidden = layers.MaxPooling2D(2)(layers.Conv2D(16, 3, padding="same", activation="relu")(images))
    hidden = layers.Conv2D(32, 3, padding="same", activation="relu")(hidden)
    return layers.Flatten()(hidden)


_MODELS = {"cnn": _cnn, "resnet18": _resnet18}


def _net(shape: tuple[int, ...], classes: int, model: str) -> keras.Model:
    images = keras.Input(shape)
    return keras.Model(images, layers.Dense(classes)(_MODELS[model](images)))


def initial(shape: tuple[int, int, int], classes: int, model: str, seed: int) -> Arrays:
    """Return Keras's initial weights, the same for the same seed."""
    keras.utils.set_random_seed(seed)
    return _arrays(_net(shape, classes, model))


def train(arrays: Arrays, data: Images, options: TrainingOptions) -> tuple[Arrays, float]:
    """Train by stochastic gradient descent with momentum."""
    net = _loaded(arrays, data, options)
    start = [tf.identity(variable) for variable in net.trainable_variables]
    optimiser = keras.optimizers.SGD(options.rate, momentum=0.9)

    @tf.function(reduce_retracing=True)
    def step(pixels: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            fit = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, net(pixels, training=True)))
            pairs = zip(net.trainable_variables, start, strict=True)
            loss = fit + options.mu / 2 * tf.add_n([tf.reduce_sum((now - then) ** 2) for now, then in pairs])
        gradients = tape.gradient(loss, net.trainable_variables)
        optimiser.apply_gradients(zip(gradients, net.trainable_variables, strict=True))
        return fit

    optimiser.build(net.trainable_variables)
    losses = [
        float(step(_tensor(data, indices), data.labels[indices])) * len(indices)
        for indices in options.batches(len(data))
    ]
    last = -(-len(data) // options.batch)
    return _arrays(net), sum(losses[-last:]) / len(data)


def evaluate(arrays: Arrays, data: Images, options: TrainingOptions) -> tuple[float, float]:
    """Return cross-entropy loss and accuracy."""
    net = _loaded(arrays, data, options)
    loss, correct = 0.0, 0
    for indices in in_order(len(data), 256):
        scores, labels = net(_tensor(data, indices), training=False), data.labels[indices]
        loss += float(tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, scores)))
        correct += int((np.argmax(scores, 1) == labels).sum())
    return loss / len(data), correct / len(data)


def _loaded(arrays: Arrays, data: Images, options: TrainingOptions) -> keras.Model:
    shape = data.batch(np.zeros(1, dtype=np.int64)).shape[1:]
    net = _net(shape, next(reversed(arrays.values())).shape[0], options.model)
    net.set_weights(list(arrays.values()))
    log.info("Training on the %s.", "GPU" if tf.config.list_physical_devices("GPU") else "CPU")
    return net


def _arrays(net: keras.Model) -> Arrays:
    return {f"{number:03d}": weight for number, weight in enumerate(net.get_weights())}


def _tensor(data: Images, indices: np.ndarray) -> tf.Tensor:
    return tf.constant(data.batch(indices), dtype=tf.float32)
