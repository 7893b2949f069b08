#!/usr/bin/env bash
# PyAV 18.1.0 with its own libx264: a picture wider than the encoder can (20000x2, valid frame) fails without a word about its size.
# Behaviour: opening the encoder raises av.error.ExternalError, "Generic error in an external library"; 16384x2 is encoded. Whoever
# wants to tell a user what to do has to know the limit and look at the size before.
# Seen 2026-11-28: 16384 ok, 20000 ExternalError Generic error in an external library
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --target "$folder" av==18.1.0 numpy==2.4.6
cat > "$folder/run.py" <<'PY'
import io

import av
import numpy as np


def encode(width: int) -> str:
    try:
        with av.open(io.BytesIO(), "w", format="mp4") as file:
            stream = file.add_stream("libx264", rate=24)
            stream.width, stream.height, stream.pix_fmt = width, 2, "yuv420p"
            frame = av.VideoFrame.from_ndarray(np.zeros((2, width, 3), np.uint8), format="rgb24")
            file.mux(stream.encode(frame))
            file.mux(stream.encode())
        return "ok"
    except av.error.ExternalError as error:
        return f"{type(error).__name__} {error.strerror}"


print(f"16384 {encode(16384)}, 20000 {encode(20000)}")
PY
seen=$(PYTHONPATH="$folder" python3 "$folder/run.py" 2>"$folder/errors") || { cat "$folder/errors"; exit 1; }
echo "$seen"
[ "$seen" = "16384 ok, 20000 ExternalError Generic error in an external library" ]
