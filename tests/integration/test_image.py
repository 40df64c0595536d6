"""The image runs: every step of `make image`, where an engine and a base image are at hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from readstates.ops.image import base, engine
from readstates.ops.image.__main__ import DOCKERFILE, IMAGE, LOCK, WHEELS
from readstates.ops.image.engine import Engine
from readstates.ops.image.trial import Trial, closing
from readstates.ops.local.stack import Stack


@pytest.fixture(scope="module")
def built() -> Engine:
    """An engine that has built the image; its layers of an earlier build are used again."""
    found, why = engine.find()
    if found is None:
        pytest.skip(f"no engine: {'; '.join(why)}")
    name = base.at_hand(found, DOCKERFILE)
    if name is None:
        pytest.skip("no base image is at hand: `make image` fetches or makes one")
    found.settle(name)
    upon = base.upon(found, name, LOCK, WHEELS)
    found.build(IMAGE, DOCKERFILE, DOCKERFILE.parents[1], *upon.options)
    return found


def test_a_workers_life_in_the_image(built: Engine, stack: Stack, tmp_path: Path) -> None:
    with closing(Trial(built, IMAGE, stack.env(), tmp_path)) as trial:
        for name, run in trial.steps():
            assert run(), name
