"""Golden cases: media."""
from __future__ import annotations

from ltx23_core.media import resize_and_crop

from .harness import Case, case


@case("image_resize")
def image_resize(run: Case) -> None:
    for name, target in run.raw_settings.items():
        run.check(f"{name}_pixels", resize_and_crop(run.inputs[name], target["height"], target["width"]))
