"""Every case of the golden data set in $LTX23_GOLDENS (default: the project's own copy)."""
from __future__ import annotations

import pytest

from . import (  # noqa: F401 -- each registers its handlers
    cases_audio,
    cases_conditions,
    cases_guidance,
    cases_media,
    cases_reference,
    cases_retake,
    cases_sampling,
    cases_text,
    cases_transformer,
    cases_video_vae,
    cases_weights,
)
from .harness import HANDLERS, INDEX, Case


@pytest.mark.parametrize("name", list(INDEX["cases"]))
def test_case(name: str) -> None:
    if name not in HANDLERS:
        pytest.fail(f"the data set has a case {name!r} that this runner does not know")
    run = Case(name)
    HANDLERS[name](run)
    run.finish()
