"""Models: the layout without torch is the layout of the module, and the first integers are the same everywhere."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fl_engine.errors import ShapeMismatch, UnknownName
from fl_engine.models import MODELS, get_model, initial_model
from fl_engine.params import encode_model
from fl_engine.ring import Grid, dequantise
from fl_engine.training.sgd import Network

ROOT = Path(__file__).resolve().parents[3]
CASES = [
    ("small-cnn", (1, 28, 28), 3),
    ("small-cnn", (3, 28, 28), 9),
    ("small-cnn", (1, 64, 48), 2),
    ("mlp", (62,), 2),
    ("mlp", (1, 28, 28), 4),
    ("resnet-18-narrow", (1, 28, 28), 3),
    ("resnet-18-narrow", (3, 64, 48), 2),
    ("resnet-18", (1, 32, 32), 2),
]
MOST = {"small-cnn": 61_000, "mlp": 61_000, "resnet-18-narrow": 1_100_000, "resnet-18": 11_200_000}
"""Parameters: 4.4 and 45 MB for the residual networks."""


@pytest.mark.parametrize("name, shape, classes", CASES)
def test_the_module_has_exactly_the_layout_and_maps_to_logits(name, shape, classes):
    network = Network(get_model(name), shape, classes)  # raises where layout and module differ
    assert not list(network.module.buffers())
    assert network.module(torch.zeros(2, *shape)).shape == (2, classes)
    assert network.spec.size < MOST[name]


@pytest.mark.parametrize(
    "name, expected",
    [
        ("small-cnn", "e7df5d19ca36d155ddbed4a5013c96f49dda380d17611c4ce58b39f904761d06"),
        ("resnet-18-narrow", "e5487e7ec2297fdb24553e5628bedc90bf8134a89243019bc12bd7ad1cacea35"),
    ],
)
def test_the_initial_bytes_are_the_same_everywhere(name, expected):
    spec = get_model(name).layout((1, 28, 28), 3)
    data = encode_model(spec, initial_model(spec, Grid()))
    assert hashlib.sha256(data).hexdigest() == expected


def test_a_residual_network_learns_and_its_shortcuts_count():
    network = Network(get_model("resnet-18-narrow"), (1, 28, 28), 2)
    network.set_weights(dequantise(initial_model(network.spec, Grid()), Grid()))
    y = np.arange(16) % 2
    x = np.random.Generator(np.random.Philox(3)).normal(0, 0.3, (16, 1, 28, 28)).astype(np.float32)
    x[y == 1, :, :14] += 1.0
    batches = [np.arange(16)]
    first = network.train_epoch(x, y, batches, 0.02)
    for _ in range(5):
        last = network.train_epoch(x, y, batches, 0.02)
    assert last < first / 2
    arrays = network.spec.unflatten(network.weights())
    projecting = [name for name in arrays if name.endswith("conv3.weight")]
    assert len(projecting) == 3, "the first block of every stage but the first projects its shortcut"
    scales = [abs(arrays[name]).max() for name in arrays if name.endswith(".last.weight")]
    assert len(scales) == 8
    assert min(scales) > 0, "what began as the identity takes part"


def test_the_initial_weights_are_he_uniform_zeros_and_ones():
    spec = get_model("small-cnn").layout((1, 28, 28), 3)
    arrays = spec.unflatten(dequantise(initial_model(spec, Grid()), Grid()))
    assert set(arrays["conv1.bias"].tolist()) == {0.0}
    assert set(arrays["norm1.weight"].tolist()) == {1.0}
    weights = arrays["conv2.weight"]
    assert abs(weights).max() <= np.sqrt(6 / (16 * 9))
    assert weights.std() == pytest.approx(np.sqrt(2 / (16 * 9)), rel=0.05)


def test_weights_set_are_weights_read():
    network = Network(get_model("mlp"), (5,), 2)
    vector = np.linspace(-1, 1, network.spec.size, dtype=np.float32)
    network.set_weights(vector)
    assert np.array_equal(network.weights(), vector)


@pytest.mark.parametrize(
    "name, shape, classes, fault",
    [
        ("small-cnn", (62,), 2, "input of small-cnn"),
        ("small-cnn", (2, 28, 28), 2, "input of small-cnn"),
        ("small-cnn", (1, 28, 600), 2, "image sides"),
        ("small-cnn", (1, 28, 28), 1, "number of classes"),
        ("mlp", (), 2, "input of mlp"),
        ("mlp", (3, 512, 512), 2, "input of mlp"),
        ("mlp", (5,), 257, "number of classes"),
        ("resnet-18", (62,), 2, "input of resnet-18"),
        ("resnet-18-narrow", (1, 27, 28), 2, "image sides of resnet-18-narrow"),
    ],
)
def test_input_that_a_model_cannot_take_is_refused(name, shape, classes, fault):
    with pytest.raises(ShapeMismatch, match=fault):
        get_model(name).layout(shape, classes)


def test_an_unknown_model_is_answered_with_the_known_ones():
    with pytest.raises(UnknownName, match="known: mlp, resnet-18, resnet-18-narrow, ridge, small-cnn"):
        get_model("resnet")
    assert set(MODELS) == {"mlp", "resnet-18", "resnet-18-narrow", "ridge", "small-cnn"}


def test_layouts_initial_models_aggregation_and_data_never_load_torch():
    code = (
        "import sys; from fl_engine import aggregation, beacon, evaluate, training, worker_client;"
        "from fl_engine.data import readers, tasks;"
        "from fl_engine.models import get_model, initial_model; from fl_engine.ring import Grid;"
        "initial_model(get_model('mlp').layout((5,), 2), Grid()); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
