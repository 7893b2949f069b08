"""Golden case of retake: regions as masks, start states, loops; through `conditioning.retake`."""
from __future__ import annotations

import torch

from ltx23_core.conditioning.retake import region_mask, retake_stream
from ltx23_core.geometry import VideoGrid, audio_positions, video_positions
from ltx23_core.sampling import solvers
from ltx23_core.sampling.state import Streams, audio_to_tokens, map_streams, video_to_tokens

from .cases_conditions import check_state, noised
from .cases_sampling import Loop, grid_of, guidance, plain_states
from .cases_sampling import _finish as finish
from .harness import Case, case

REGENERATED = {"both": ("video", "audio"), "video_only": ("video",), "audio_only": ("audio",)}


@case("retake")
@torch.no_grad()
def retake(run: Case) -> None:
    s, grid = run.settings, grid_of(run.settings.latent_grid)
    sources = (video_to_tokens(run.inputs["source_video_latent"]), audio_to_tokens(run.inputs["source_audio_latent"]))
    plain = plain_states(run, grid, s.audio_frames, s.fps)
    for name, regenerated in REGENERATED.items():
        states = tuple(retake_stream(state, tokens, s.start_time, s.end_time, kind in regenerated)
                       for state, tokens, kind in zip(plain, sources, ("video", "audio"), strict=True))
        start = noised(run, states, 1.0)  # of every loop here, whatever its first sigma
        for kind, state, x in zip(("video", "audio"), states, start, strict=True):
            check_state(run, f"{name}.{kind}.", state, x, positions=False)
        _loop(run, states, start, grid, f"{name}.simple.", run.inputs["sigmas_simple"], guided=False)
        if name == "both":
            _loop(run, states, start, grid, "both.guided.", run.inputs["sigmas"], guided=True)
    _table(run)


def _loop(run: Case, states: Streams, start: Streams, grid: VideoGrid, prefix: str, sigmas: torch.Tensor,
          guided: bool) -> None:
    loop = Loop(run, states, guidance(run) if guided else None)
    x = solvers.euler(loop.model, start, sigmas.tolist())
    held = map_streams(lambda state, part: state.exact(part), states, x)
    assert all(torch.equal(h[:, s.mask[0, :, 0] == 0], s.clean[:, s.mask[0, :, 0] == 0])
               for h, s in zip(held, states, strict=True)), "a held token is not its source bit for bit"
    finish(run, loop, held, grid, prefix)


def _table(run: Case) -> None:
    sizes, masks = run.settings.table_sizes, ([], [])
    for fps, start, end in run.inputs["table"].tolist():
        grid = VideoGrid(sizes["latent_frames"], 1, 1)
        positions = video_positions(grid, fps), audio_positions(sizes["audio_frames"])
        for rows, where in zip(masks, positions, strict=True):
            rows.append(region_mask(where, start, end)[0, :, 0])
    for kind, rows in zip(("video", "audio"), masks, strict=True):
        run.check(f"table.{kind}_mask", torch.stack(rows).to(torch.int64))
