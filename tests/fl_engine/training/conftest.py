"""Four small hospitals with different scanners and skewed labels."""

import numpy as np
import pytest

from fl_engine.training.method import TrainingData
from fl_engine.training.reference import Member
from fl_engine.training.sgd import pin_profile

SIDE = 12


def pictures(labels: np.ndarray, rng: np.random.Generator, gain: float, noise: float) -> np.ndarray:
    """Blobs whose number follows the label: 0, 1 or 2 bright spots, float32 [N, 1, 12, 12] in -1..1."""
    yy, xx = np.mgrid[0:SIDE, 0:SIDE]
    images = []
    for label in labels:
        image = np.zeros((SIDE, SIDE))
        for spot in range(int(label) + 1):
            cy, cx = rng.uniform(2, 9), (2.5 if spot % 2 else 8.5) + rng.uniform(-1, 1)
            image += np.exp(-((yy - cy) ** 2 + (xx - cx) ** 2) / (1.5 + spot))
        images.append(np.clip(gain * image + rng.normal(0, noise, image.shape), 0, 1))
    return (np.stack(images)[:, None] * 2 - 1).astype(np.float32)


@pytest.fixture(scope="session", autouse=True)
def _pinned() -> None:
    pin_profile()


@pytest.fixture(scope="session")
def hospitals() -> list[Member]:
    rng = np.random.default_rng(3)
    shares = [(0.8, 0.1, 0.1), (0.1, 0.8, 0.1), (0.1, 0.1, 0.8), (0.4, 0.4, 0.2)]
    members = []
    for i, share in enumerate(shares):
        y = rng.choice(3, size=80 + 20 * i, p=share)
        x = pictures(y, rng, 0.7 + 0.15 * i, 0.02 + 0.02 * i)
        rows = np.arange(len(y), dtype=np.int64)
        members.append(Member(TrainingData(x, y.astype(np.int64), rows, 3), rows))
    return members


@pytest.fixture(scope="session")
def test_records() -> TrainingData:
    rng = np.random.default_rng(4)
    y = rng.integers(0, 3, 300)
    return TrainingData(pictures(y, rng, 0.9, 0.04), y.astype(np.int64), np.arange(300, dtype=np.int64), 3)
