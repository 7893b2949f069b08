"""LTX23Solver, LTX23Sigmas: how the sampler walks down the noise levels, and which ones."""
from __future__ import annotations

from comfy_api.latest import io

from ...ltx23_core.plan.solver import SCHEDULES, SOLVERS
from ...ltx23_core.plan.solver import Solver as SolverValues
from ..checks import guarded
from ..sockets import Solver, advanced, schema
from ..validation import before_the_run

MAX_STEPS, MAX_TOKENS = 1000, 1_000_000


class SolverNode(io.ComfyNode):
    """Choose the solver and its options."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See each input's tooltip."""
        return schema(
            node_id="LTX23Solver", display_name="Solver (sampling)",
            aliases=["sampler", "euler", "ancestral", "res_2s"],
            description="The method that the sampler uses in all stages, instead of the recipe's.",
            inputs=[
                io.Combo.Input("name", options=list(SOLVERS), default="euler", tooltip=(
                    "euler (default of most recipes): one evaluation a step. euler_ancestral: adds new noise "
                    "each step. euler_ancestral_cfg_pp: the same along the negative prompt's direction, also "
                    "where CFG is 1; costs its pass. res_2s (default of hq): two evaluations a step, more "
                    "detail. gradient_estimation: Euler that extrapolates from the last step.")),
                io.Float.Input("eta", default=-1.0, min=-1.0, max=1.0, step=0.05, tooltip=(
                    "Of the ancestral solvers and res_2s: share of new noise in each step, 0 to 1. -1 "
                    "(default): the official value, 1, and 0.5 for res_2s. Others pass over it.")),
                advanced(io.Float.Input("s_noise", default=1.0, min=0.0, max=10.0, step=0.01, tooltip=(
                    "Of the ancestral solvers: factor on the new noise, 0 to 10. Official default 1."))),
                advanced(io.Float.Input("gamma", default=2.0, min=0.0, max=10.0, step=0.05, tooltip=(
                    "Of gradient_estimation: how far the direction is extrapolated, 0 to 10; 1 is Euler. "
                    "Official default 2."))),
            ],
            outputs=[Solver.Output(display_name="solver", tooltip="The solver, for Sampler.")],
        )

    validate_inputs = before_the_run()

    @classmethod
    @guarded
    def execute(cls, name: str, eta: float, s_noise: float, gamma: float) -> io.NodeOutput:
        """Collect the values."""
        return io.NodeOutput(SolverValues(name, gamma, None if eta < 0 else eta, s_noise))


class SigmasNode(io.ComfyNode):
    """The official schedules as SIGMAS, for our Sampler and for ComfyUI's own nodes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Defaults are the official one-stage schedule (spec/07 §2)."""
        return schema(
            node_id="LTX23Sigmas", display_name="Sigmas (schedule)", aliases=["scheduler", "schedule", "LTXVScheduler"],
            description="Noise levels for the Sampler, as ComfyUI's SIGMAS, which split, shorten and mix "
                        "with those of other schedulers.",
            inputs=[
                io.Combo.Input("schedule", options=list(SCHEDULES), default="ltx2", tooltip=(
                    "ltx2 (official default): of the dev weights. linear_quadratic, beta: the other official "
                    "schedules. distilled: the fixed 8 steps of the distilled weights. distilled_stage_2: "
                    "the 3 steps after an upscale; _tiled: 2 gentler ones.")),
                io.Int.Input("steps", default=30, min=1, max=MAX_STEPS, tooltip=(
                    "Number of steps, 1 to 1000; the distilled schedules have their own. Official default "
                    "30, for hq 15.")),
                advanced(io.Int.Input("tokens", default=4096, min=1, max=MAX_TOKENS, tooltip=(
                    "Of ltx2: video tokens that set how long the noise stays high, 1 to 1000000. Official "
                    "default 4096 at every size; hq takes the real number: latent frames x width / 32 x "
                    "height / 32."))),
                advanced(io.Float.Input("terminal", default=0.1, min=0.001, max=0.99, step=0.01, tooltip=(
                    "Of ltx2 with stretch: the last sigma before 0, 0.001 to 0.99. Official default 0.1."))),
                advanced(io.Boolean.Input("stretch", default=True, tooltip=(
                    "Of ltx2: stretch the schedule so that it ends in terminal. On (official default)."))),
                advanced(io.Float.Input("max_shift", default=2.05, min=0.0, max=100.0, step=0.01, tooltip=(
                    "Of ltx2: log of the shift at 4096 tokens, 0 to 100; higher spends more steps at high "
                    "noise. Official default 2.05."))),
                advanced(io.Float.Input("base_shift", default=0.95, min=0.0, max=100.0, step=0.01, tooltip=(
                    "Of ltx2: log of the shift at 1024 tokens, 0 to 100. Official default 0.95."))),
            ],
            outputs=[io.Sigmas.Output(display_name="sigmas", tooltip="The noise levels, for Sampler.")],
        )

    validate_inputs = before_the_run()

    @classmethod
    @guarded
    def execute(cls, schedule: str, steps: int, tokens: int, terminal: float, stretch: bool, max_shift: float,
                base_shift: float) -> io.NodeOutput:
        """Calculate the schedule."""
        import torch

        from ...ltx23_core.plan.sigmas import schedule as made

        return io.NodeOutput(torch.tensor(made(schedule, steps, tokens=tokens, terminal=terminal, stretch=stretch,
                                               max_shift=max_shift, base_shift=base_shift)))
