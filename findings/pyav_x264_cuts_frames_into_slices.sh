#!/usr/bin/env bash
# PyAV 18.1.0 (numpy 2.4.6): a libx264 stream works on slices of one frame unless it is told to work on several frames.
# Behaviour: the information string that x264 writes into the stream says sliced_threads=1 with PyAV's own settings and
# four threads, and sliced_threads=0 with thread_type FRAME.
# Seen 2026-11-28: as it is 1, FRAME 0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --target "$folder" av==18.1.0 numpy==2.4.6
cat > "$folder/run.py" <<'PY'
import io
import re

import av
import numpy as np


def sliced(thread_type):
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width = stream.height = 256
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 4
        if thread_type:
            stream.codec_context.thread_type = thread_type
        for shade in range(8):
            frame = av.VideoFrame.from_ndarray(np.full((256, 256, 3), 20 * shade, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return re.search(rb"sliced_threads=(\d)", file.getvalue()).group(1).decode()


print(f"as it is {sliced(None)}, FRAME {sliced('FRAME')}")
PY
seen=$(PYTHONPATH="$folder" python3 "$folder/run.py")
echo "$seen"
[ "$seen" = "as it is 1, FRAME 0" ]
