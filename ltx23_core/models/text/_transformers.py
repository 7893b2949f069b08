"""The one door to transformers: imported when first needed, because that takes seconds."""
from __future__ import annotations

from ...errors import LTX23Error


def transformers_class(name: str) -> type:
    """A class of transformers by name.

    Raises:
        LTX23Error: transformers cannot be imported. It imports torchvision and torchaudio where they are
            installed, so a build of those for another torch breaks it too.
    """
    try:
        import transformers
        return getattr(transformers, name)
    except (ImportError, AttributeError, OSError, RuntimeError) as error:
        reason = " ".join(str(error.__cause__ or error).split())[:200]
        raise LTX23Error(f"{name} of transformers cannot be imported ({reason})",
                         "transformers 4.50.3 or later, and torchvision and torchaudio built for the "
                         "installed torch",
                         "Reinstall torch, torchvision and torchaudio from one index, then "
                         "transformers.") from error
