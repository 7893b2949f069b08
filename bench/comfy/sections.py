"""What is asked of the server, in parts that can be chosen."""
from __future__ import annotations

from collections.abc import Callable

from tools.client import Event

from .graphs import picture, video
from .session import Session
from .watch import Neighbour

BUDGETS = (24.0, 16.0, 12.0, 8.0)
SLACK = 0.3  # GB of a neighbour's pieces and of what the driver keeps for itself
GROWTH = 0.3  # GB
PROMPTS = 20


def running(kind: str, graph: dict) -> Callable[[Event], bool]:
    """Whether an event says that the node of a class begins."""
    node = next(key for key, each in graph.items() if each["class_type"] == kind)
    return lambda event: event.type == "executing" and event.data.get("node") == node


def stepping(graph: dict) -> Callable[[Event], bool]:
    """Whether an event says that the sampler has made a step; what it loads is told in the same way, of another sum."""
    node = next(key for key, each in graph.items() if each["class_type"] == "LTX23Sampler")
    steps = graph[node]["inputs"]["steps"]

    def stepped(event: Event) -> bool:
        state = event.data.get("nodes", {}).get(node) if event.type == "progress_state" else None
        return state is not None and state["value"] >= 1 and state["max"] == steps

    return stepped


def share(session: Session, neighbour: Neighbour) -> None:
    """Ours, again, interrupted in every phase, POST /free, a core model, ours."""
    models, run = session.models, session.run
    run("ours, first", video(models, 1), same_as="a")
    run("ours, other seed", video(models, 2))
    session.free("free: weights", outputs=False)
    graph = video(models, 3)
    session.interrupt("interrupt while the transformer loads", graph, running("LTX23Sampler", graph), 0.3)
    run("ours after it", graph)
    session.free(outputs=False)
    graph = video(models, 4, prompt="another scene")
    session.interrupt("interrupt while Gemma loads", graph, running("LTX23Prompt", graph), 0.3)
    run("ours after it", graph)
    graph = video(models, 5, steps=3 * models.steps)
    session.interrupt("interrupt in a step", graph, stepping(graph))
    graph = video(models, 6, prompt="a third scene")
    session.interrupt("interrupt between Gemma and the transformer", graph, running("LTX23Sampler", graph))
    run("ours after it", video(models, 1), same_as="a")
    run("core model beside ours", picture(models, 1))
    run("ours after it", video(models, 7))
    session.free("free: everything")


def turns(session: Session, neighbour: Neighbour) -> None:
    """Dev and distilled, which are not both wanted in memory."""
    models = session.models
    for turn in range(4):
        name = "dev" if turn % 2 == 0 else "distilled"
        checkpoint = getattr(models, name)
        values = {} if name == "dev" else {"recipe": "distilled_one_stage", "steps": 0}
        session.run(f"{name}, turn {turn // 2 + 1}", video(models, 10 + turn, checkpoint, **values))
    session.free("free: everything")


def twenty(session: Session, neighbour: Neighbour) -> None:
    """20 prompts of alternating sizes; neither the card nor RAM may grow after the first round."""
    models, after = session.models, []
    for number in range(PROMPTS):
        width, height, frames = models.sizes[number % len(models.sizes)]
        graph = video(models, 20 + number, width=width, height=height, frames=frames, steps=2,
                      prompt=f"scene {number}")
        session.run(f"prompt {number + 1}: {width}x{height}x{frames}", graph)
        if number + 1 in (2 * len(models.sizes), PROMPTS):
            session.rest()
            after.append((session.watch.now, session.watch.ram))
    grown = [late - early for early, late in zip(*after, strict=True)]
    verdict = "no growth" if max(grown) <= GROWTH else "GROWN"
    session.table.add("20 prompts, second round to the end", 0.0, session.watch.now, session.watch.ram,
                      f"{verdict}: device {grown[0]:+.2f} GB, RAM {grown[1]:+.2f} GB")
    session.free("free: everything")


def budgets(session: Session, neighbour: Neighbour) -> None:
    """A neighbour holds the rest of the card: ours, a core model that must have room, ours again."""
    models = session.models
    for budget in BUDGETS:
        session.free()
        neighbour.leave(budget)
        most = budget + SLACK
        session.run(f"{budget:.0f} GB: ours", video(models, 1), most, same_as="a")
        session.run(f"{budget:.0f} GB: core model", picture(models, int(budget)), most)
        session.run(f"{budget:.0f} GB: ours again", video(models, 100 + int(budget)), most)
        session.free()
        neighbour.let_go()


def short(session: Session, neighbour: Neighbour) -> None:
    """What matters most, in three minutes: nothing stays after POST /free, interrupts, and every budget."""
    models, run = session.models, session.run
    run("ours, first", video(models, 1, steps=2), same_as="short")
    session.free("free: weights", outputs=False)
    graph = video(models, 3, steps=8)
    session.interrupt("interrupt while the transformer loads", graph, running("LTX23Sampler", graph), 0.3)
    session.interrupt("interrupt in a step", graph, stepping(graph))
    session.free("free: everything")
    for budget in BUDGETS[:-1]:
        neighbour.leave(budget)
        run(f"{budget:.0f} GB: ours", video(models, 1, steps=2), budget + SLACK, same_as="short")
        session.free(f"{budget:.0f} GB: free: everything")
    least(session, neighbour)


def least(session: Session, neighbour: Neighbour) -> None:
    """Within the smallest budget: ours, a core model that must have room, ours."""
    models, budget = session.models, BUDGETS[-1]
    neighbour.leave(budget)
    for what, graph, same_as in (("ours", video(models, 1, steps=2), "short"), ("core model", picture(models, 8), ""),
                                 ("ours again", video(models, 2, steps=2), "")):
        session.run(f"{budget:.0f} GB: {what}", graph, budget + SLACK, same_as=same_as)
    session.free(f"{budget:.0f} GB: free: everything")
    neighbour.let_go()


def small(session: Session, neighbour: Neighbour) -> None:
    """One short run, the core's model and ours, under whatever options the server has; then nothing is left."""
    models = session.models
    width, height, frames = models.sizes[1]
    size = {"width": width, "height": height, "frames": frames, "steps": 2}
    session.run("ours, small", video(models, 1, **size), same_as="small")
    session.run("core model", picture(models, 50))
    session.run("ours again", video(models, 51, **size))
    session.free("free: everything")


SECTIONS = {"short": short, "least": least, "share": share, "turns": turns, "twenty": twenty, "budgets": budgets}
OPTIONS = {"lowvram": ("--lowvram",), "novram": ("--novram",), "cpu-vae": ("--cpu-vae",),
           "reserve-vram": ("--reserve-vram", "64"), "highvram": ("--highvram",),
           "no-async-malloc": ("--disable-cuda-malloc",)}
