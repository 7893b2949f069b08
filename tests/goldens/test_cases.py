"""Every case of the golden data set in $LTX23_GOLDENS (default: the project's own copy)."""
from __future__ import annotations

import pytest

from . import (  # noqa: F401 -- each registers its handlers
    cases_audio,
    cases_conditions,
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

# Issue 4 brings these; until then they are reported, not run.
NOT_YET = frozenset("guider_variants guider_loops ancestral".split())


@pytest.mark.parametrize("name", list(INDEX["cases"]))
def test_case(name: str) -> None:
    if name not in HANDLERS:
        if name in NOT_YET:
            pytest.skip(f"not yet: {name} belongs to a later issue (everything LTX-2.3 can be asked to do)")
        pytest.fail(f"the data set has a case {name!r} that this runner does not know")
    run = Case(name)
    HANDLERS[name](run)
    run.finish()
