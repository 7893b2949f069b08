"""What ranks run in these tests; each function is called on every rank with its world."""
from __future__ import annotations

import torch

from bench.models import Work, config_22b, random_transformer
from ltx23_core.config import TransformerConfig
from ltx23_core.errors import OutOfMemoryError
from ltx23_core.geometry import audio_positions, video_grid, video_positions
from ltx23_core.memory.room import placed_so
from ltx23_core.models.transformer.inputs import Pass, Perturbation, StreamInput
from ltx23_core.models.transformer.nag import NagContext
from ltx23_core.parallel import cut as cuts
from ltx23_core.parallel.assign import Arrangement, Arranger, Part
from ltx23_core.parallel.cost import Rates
from ltx23_core.parallel.gate import Gate, Interrupted
from ltx23_core.parallel.team import Team
from ltx23_core.parallel.transformer import SharedTransformer
from ltx23_core.pipeline import Pipeline
from ltx23_core.plan.guider import Nag
from ltx23_core.runtime.residency import LocalResidency
from ltx23_core.sampling.seen import Seen
from tests.goldens.harness import module

STG = 2
# About an H100 and its NVLink.
H100 = Rates(product=640e12, attention=600e12, memory=2.9e12, link=300e9, latency=25e-6, stage=27e-6)
READ = frozenset(("audio",))


def model():
    """The tiny golden transformer."""
    return module("transformer")


def inputs(made, frames=9, width=96, audio_tokens=9, masked=False):
    """Streams (the first frame held), passes and tables of a small clip; the same numbers on every rank."""
    config, grid = made.config, video_grid(width, 64, frames)
    generator = torch.Generator().manual_seed(3)

    def random(*shape):
        return torch.randn(shape, generator=generator)

    latents = random(1, grid.tokens, config.video.in_channels), random(1, audio_tokens, config.audio.in_channels)
    v, a, nv, na = (random(1, 32, s.width) for s in (config.video, config.audio) * 2)
    rows = ()
    if masked:  # the last tokens stand for a keyframe and two references, of other weights each
        seen = Seen.of_clip(grid.tokens - 6, grid.tokens - 7, torch.device("cpu"))
        for weights in ((0.3, 0.0, 0.8), (0.5, 0.1, 0.9)):
            seen = seen.with_reference(torch.tensor(weights))
        rows = seen.rows(torch.float32)
    tables = made.tables(video_positions(grid, 24.0), audio_positions(audio_tokens), torch.float32, rows)
    index = (torch.arange(grid.tokens) >= grid.height * grid.width).long()
    sigma = torch.full((1,), 0.6)
    streams = (StreamInput(latents[0], sigma, torch.tensor([[0.0, 0.6]]), index),
               StreamInput(latents[1], sigma, sigma[:, None]))
    skip = frozenset((STG,))
    nag = NagContext(Nag(scale=3.0), nv)
    passes = [Pass(v, a, nag=(nag, None)), Pass(nv, na), Pass(v, a, Perturbation(skip, skip), reads=READ),
              Pass(v, a, Perturbation(cross=True))]
    return streams, passes, tables


def everything(world):
    """Velocities of many sizes by one process and by all ranks, both streams cut or the longer one: pairs, by name."""
    found = {}
    for least in (1, 1024):
        cuts.LEAST = least
        for name, pair in sizes_and_arrangements(world).items():
            found[f"{name}, cut from {least}"] = pair
    return found


def sizes_and_arrangements(world):
    """Pairs, by name."""
    found = {}
    made = model()
    shapes = {"divides": {"frames": 25, "width": 128}, "rest": {"frames": 9, "width": 96, "audio_tokens": 11},
              "few": {"frames": 1, "width": 32, "audio_tokens": 3}, "masked": {"masked": True}}
    for name, options in shapes.items():
        streams, passes, tables = inputs(made, **options)
        want = made(*streams, passes, tables)
        whole = Arrangement(((Part(tuple(range(world.size)), (0, 1, 2, 3)),),))
        got = shared(made, world, whole)(*streams, passes, tables)
        found[name] = want, got
        one = streams[0], None
        single = [Pass(passes[0].video_context, None)]
        found[name + ", video alone"] = (made(*one, single, (tables[0], None)),
                                         shared(made, world, None)(*one, single, (tables[0], None)))
        alone = None, streams[1]
        found[name + ", audio alone"] = (made(*alone, [Pass(None, passes[0].audio_context)], (None, tables[1])),
                                         shared(made, world, None)(*alone, [Pass(None, passes[0].audio_context)],
                                                                   (None, tables[1])))
    streams, passes, tables = inputs(made)
    want = made(*streams, passes, tables)
    for name, arrangement in arrangements(world.size).items():
        found[name] = want, shared(made, world, arrangement)(*streams, passes, tables)
    return found


def eight(world):
    """Eight heads on eight ranks: tokens alone, what the plan takes for 22B shapes, and groups that do not divide."""
    cuts.LEAST = 1
    raw = config_22b(tiny=True) | {"num_attention_heads": 8, "audio_num_attention_heads": 8, "num_layers": 4}
    made = random_transformer(raw, torch.device("cpu"), torch.float32)
    work = Work.make("tiny", made.config, torch.device("cpu"), torch.float32, 32)
    want = work.ours(made, guided=True)()
    tables = made.tables(video_positions(work.grid, 24.0), audio_positions(work.latents[1].shape[1]), torch.float32)
    wide = TransformerConfig.from_dict(config_22b())
    planned = Arranger(wide, 8, H100, handing=False)(work.passes(True), (3520, 126), 1024)
    found = {}
    ways = {"tokens": None, str(planned): planned, "handed over": handed_over((0, 1, 2, 3), (4, 5, 6, 7)),
            "uneven": Arrangement(((Part((0, 1, 2), (0, 2)), Part((3, 4, 5), (1,)), Part((6, 7), (3,))),))}
    for name, arrangement in ways.items():
        given = *work.streams(), work.passes(True), tables
        found[name] = want, shared(made, world, arrangement)(*given)
    return found


def interrupted(world):
    """An interrupt before every place of a forward whose pass is handed over: whether it came, and the next forward."""
    found, made = [], model()
    streams, passes, tables = inputs(made)
    want = made(*streams, passes, tables)
    for last in (0, 1000, 1001, 1003, 2000, 2004, 3000, 3001, 3003, 3004, 4000):
        gate = Gate()
        gate.hold()
        gate.release(last)
        try:
            shared(made, world, handed_over((0,), (1,)), gate)(*streams, passes, tables)
            came = False
        except Interrupted:
            came = True
        found.append((last, came, want, shared(made, world, handed_over((0,), (1,)))(*streams, passes, tables)))
    return found


def one_rank_too_small(world, overlay):
    """The last rank has room for nothing; then it has. What was raised, and latents after it."""
    plain = Pipeline(overlay, device="cpu", dtype="fp32")
    pair, small = plain.encode("a boat", "noise"), {"width": 96, "height": 64, "frames": 9, "steps": 1, "seed": 2}
    residency = LocalResidency(world.device)
    pipe = Pipeline(overlay, dtype="fp32", residency=residency, team=Team(world))
    if world.rank == world.size - 1:
        residency._budget = 1000
    try:
        pipe.sample(pair, **small)
        raised = None
    except OutOfMemoryError as error:
        raised = str(error)
    residency._budget = None
    return raised, pipe.sample(pair, **small).video, plain.sample(pair, **small).video


class Asked(LocalResidency):
    """Remembers what a call needed beside the weights."""

    asked = 0

    def use(self, *components, activation_bytes=0):
        self.asked = activation_bytes
        super().use(*components, activation_bytes=activation_bytes)


def sharded(world, overlay):
    """A model that fits on no rank: latents of one process, of two runs of all ranks, and what was placed and read."""
    asking = Asked(world.device)
    plain = Pipeline(overlay, dtype="fp32", residency=asking)
    pair, small = plain.encode("a boat", "noise"), {"width": 96, "height": 64, "frames": 9, "steps": 3, "seed": 2}
    want = plain.sample(pair, **small)
    need = plain.component("transformer").need()
    held = placed_so(need, len(need.blocks)).peak + need.slot
    residency = LocalResidency(world.device, budget_bytes=held + asking.asked + 4096)
    said = []
    pipe = Pipeline(overlay, dtype="fp32", residency=residency, team=Team(world, said.append))
    runs = [pipe.sample(pair, **small) for _ in range(2)]
    component = pipe.component("transformer")
    source = component._policy._shards
    facts = {"reads": source.reads, "loads": component.loads, "streamed": component.streamed, "said": said,
             "bytes": component.loaded_bytes, "whole": component.size_bytes, "held": source.size_bytes}
    return [(want.video, want.audio)], [(run.video, run.audio) for run in runs], facts


def shared(made, world, arrangement, gate=None):
    """The shared form of a plain model, whose attentions it changes: each call puts the plain ones back first."""
    def arrange(passes, tokens, text):
        return arrangement or Arrangement(((Part(tuple(range(world.size)), tuple(range(len(passes)))),),))

    def call(*given):
        from ltx23_core.parallel.attention import install
        try:
            return SharedTransformer(made, world, arrange, gate)(*given)
        finally:
            install(made, cuts.Cut(world.group((world.rank,)) if world.size == 1 else Alone()))

    return call


class Alone:
    """A group of one."""

    size = 1


def handed_over(first, second, goes_on=3):
    """Of four blocks two of one half's second pass; the perturbed pass forks behind the cut."""
    begins = (Part(first, (0, 1, 2), blocks=(0, 2)), Part(second, (3,)))
    between = ((Part(first, (0, 2), blocks=(2, goes_on)),),) if goes_on > 2 else ()
    ends = Part(first, (0, 2), blocks=(goes_on, 4)), Part(second, (1,), blocks=(2, 4), given_by=first)
    return Arrangement((begins, *between, ends))


def arrangements(size):
    """Ways to share out four passes."""
    if size == 2:
        return {"handed over": handed_over((0,), (1,)), "handed over at once": handed_over((0,), (1,), goes_on=2),
                "passes": Arrangement(((Part((0,), (0, 2)), Part((1,), (1, 3))),)),
                "one idle": Arrangement(((Part((1,), (0, 1, 2, 3)),),)),
                "two phases": Arrangement(((Part((0,), (1,)), Part((1,), (3,))), (Part((0, 1), (0, 2)),)))}
    if size != 4:
        return {}
    return {"handed over": handed_over((0, 1), (2, 3)),
            "both": Arrangement(((Part((0, 1), (0, 2)), Part((2, 3), (1, 3))),)),
            "uneven": Arrangement(((Part((0, 1, 2), (0, 1)), Part((3,), (2, 3))),)),
            "each its own": Arrangement((tuple(Part((n,), (n,)) for n in range(4)),)),
            "two phases": Arrangement(((Part((0, 1), (1,)), Part((2, 3), (3,))), (Part((0, 1, 2, 3), (0, 2)),)))}
