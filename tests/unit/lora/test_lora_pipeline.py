"""LoRAs of a pipeline: strengths, streams, stages, modes, views, text connectors; one transformer for all of them."""
from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ltx23_core import Guidance, Lora, Overlay, Pipeline
from ltx23_core.errors import OverlayError, RequestError
from ltx23_core.lora.layers import LoraLinear
from ltx23_core.lora.plan import lora_pairs
from ltx23_core.lora.settings import family, is_cross, writes_audio
from ltx23_core.run.fingerprint import fingerprint
from ltx23_core.runtime.component import Component
from ltx23_core.runtime.residency import LocalResidency
from tests.goldens.harness import overlay
from tests.support.lora import BLOCK, CPU, RUN, differing, numbers, plain, random, write_kinds
from tests.support.overlay import refuses


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_kinds(tmp_path_factory.mktemp("kinds"))


# ---- streams and stages

def test_every_parameter_has_one_family() -> None:
    names = overlay().require("transformer").tensors
    assert {family(name) for name in names} == {"video", "audio", "cross-modal"}
    for name, audio, cross in (
            ("transformer_blocks.0.attn1.to_q.weight", False, False), ("audio_patchify_proj.weight", True, False),
            ("transformer_blocks.0.audio_ff.net.2.weight", True, False),
            ("transformer_blocks.0.audio_to_video_attn.to_k.weight", False, True),
            ("transformer_blocks.0.video_to_audio_attn.to_k.weight", True, True),
            ("transformer_blocks.0.audio_prompt_scale_shift_table", True, False),
            ("transformer_blocks.0.scale_shift_table_a2v_ca_video", False, True),
            ("transformer_blocks.0.scale_shift_table_a2v_ca_audio", True, True),
            ("av_ca_audio_scale_shift_adaln_single.linear.weight", True, True),
            ("av_ca_a2v_gate_adaln_single.linear.weight", False, True),
            ("av_ca_v2a_gate_adaln_single.linear.bias", True, True), ("adaln_single.linear.weight", False, False),
            ("audio_embeddings_connector.transformer_1d_blocks.0.attn1.to_q.weight", True, False),
            ("video_aggregate_embed.weight", False, False)):
        assert (writes_audio(name), is_cross(name)) == (audio, cross), name


@pytest.mark.parametrize(("factors", "changed"), [
    ({"audio": 0.0}, {"attn1.to_q", "audio_to_video_attn.to_k"}),
    ({"video": 0.0}, {"audio_ff.net.2", "video_to_audio_attn.to_v"}),
    ({"cross": 0.0}, {"attn1.to_q", "audio_ff.net.2"}),
    ({"video": 0.0, "cross": 0.0}, {"audio_ff.net.2"})])
def test_a_factor_of_zero_leaves_its_parameters(tmp_path: Path, factors: dict[str, float], changed: set[str]) -> None:
    modules = [BLOCK + name for name in ("attn1.to_q", "audio_ff.net.2", "audio_to_video_attn.to_k",
                                         "video_to_audio_attn.to_v")]
    path = plain(tmp_path / "all.safetensors", *modules)
    pipe = Pipeline(overlay(), device="cpu", dtype="fp32")
    context = pipe.encode("a", "b")
    pipe.sample(context, steps=1, **RUN)
    base = numbers(pipe.component("transformer").module)
    pipe.with_loras([Lora(path, **factors)]).sample(context, steps=1, **RUN)
    assert differing(numbers(pipe.component("transformer").module), base) == {
        f"{BLOCK}{name}.weight" for name in changed}


def test_strength_is_the_product_of_its_factors(tmp_path: Path) -> None:
    path = plain(tmp_path / "a.safetensors", BLOCK + "video_to_audio_attn.to_v")
    lora = Lora(path, 2.0, video=7.0, audio=0.5, cross=0.25, stages=(0.1, 0.4))
    name = BLOCK + "video_to_audio_attn.to_v.weight"
    assert lora.strength_in(1) * lora.factor(name) == pytest.approx(0.025)
    assert lora.strength_in(2) * lora.factor(name) == pytest.approx(0.1)


# ---- pipelines

@pytest.fixture
def pipe(tiny_overlay: Overlay) -> Pipeline:
    return Pipeline(tiny_overlay, device="cpu", dtype="fp32")


def latents(pipe: Pipeline, recipe: str = "one_stage", **options: object) -> Tensor:
    done = pipe.sample(pipe.encode("a boat on a lake", "noise"), recipe=recipe, steps=1, **RUN, **options)
    return torch.cat((done.video.flatten(), done.audio.flatten()))


def test_views_used_in_turn_each_have_their_weights(pipe: Pipeline, kinds: dict[str, Path]) -> None:
    views = {"base": pipe, "style": pipe.with_loras([Lora(kinds["style"])]),
             "both": pipe.with_loras([Lora(kinds["style"]), Lora(kinds["other"], -0.5, mode="runtime")]),
             "runtime": pipe.with_loras([Lora(kinds["style"], mode="runtime")])}
    first = {name: latents(view) for name, view in views.items()}
    for name in ("runtime", "base", "both", "style", "base", "style", "runtime", "both"):
        assert torch.equal(latents(views[name]), first[name]), name
    assert pipe.component("transformer").loads == 1 and views["both"].components == pipe.components
    assert torch.allclose(first["style"], first["runtime"], atol=1e-4)
    assert not torch.allclose(first["style"], first["base"], atol=1e-3)
    assert not torch.allclose(first["both"], first["style"], atol=1e-3)
    assert views["both"].with_loras(()).loras == () and pipe.loras == ()


def test_a_chain_adds_up_in_order(pipe: Pipeline, kinds: dict[str, Path]) -> None:
    one = pipe.with_loras([Lora(kinds["style"], 0.4)])
    two = one.with_loras([*one.loras, Lora(kinds["other"])])
    assert [lora.strength for lora in two.loras] == [0.4, 1.0] and len(one.loras) == 1
    assert two._loras[0] is one._loras[0], "not read again"
    assert torch.equal(latents(two), latents(pipe.with_loras(two.loras)))


@pytest.mark.parametrize(("stages", "changed"), [("first", (True, False)), ("second", (False, True)),
                                                 ("all", (True, True)), ((0.0, 0.5), (False, True))])
@pytest.mark.parametrize("mode", ["auto", "fused", "runtime"])
def test_stages(pipe: Pipeline, kinds: dict[str, Path], stages: str, changed: tuple[bool, bool], mode: str) -> None:
    context, run = pipe.encode("a", "b"), {"recipe": "two_stage", "seed": 2, "width": 64, "height": 64, "frames": 9}
    view = pipe.with_loras([Lora(kinds["style"], stages=stages, mode=mode)])
    base = pipe.sample(context, steps=1, stages="first", **run)
    start = type(base)(pipe.upscale(base.video), base.audio, base.fps, base.frames, base.seed, base.drawn)
    want = base.video, pipe.sample(context, stages="second", start=start, **run).video
    got = (view.sample(context, steps=1, stages="first", **run).video,
           view.sample(context, stages="second", start=start, **run).video)
    assert tuple(not torch.equal(*pair) for pair in zip(want, got, strict=True)) == changed
    assert pipe.component("transformer").loads == 1


def counted(pipe: Pipeline, recipe: str, **options: object) -> tuple[Tensor, int]:
    """Latents of a run, and bytes that the transformer read in it."""
    before = pipe.component("transformer").bytes_read
    return latents(pipe, recipe, **options), pipe.component("transformer").bytes_read - before


@pytest.mark.parametrize("recipe", ["two_stage", "hq"])
def test_stages_with_other_strengths_share_one_transformer(tiny_overlay: Overlay, recipe: str) -> None:
    base, factors = (sum(ref.size_bytes for ref in tiny_overlay.require(name).tensors.values())
                     for name in ("transformer", "distilled_lora"))
    touched = sum(tiny_overlay.require("transformer").tensors[name].size_bytes for name in
                  lora_pairs(tiny_overlay.require("distilled_lora").tensors))
    every_run = {"two_stage": touched + factors, "hq": 2 * (touched + factors)}[recipe]
    once = {"two_stage": base + factors, "hq": base + factors + touched + factors}[recipe]
    results = {}
    for mode, first_run, second_run in (("auto", base + factors, 0), ("runtime", base + factors, 0),
                                        ("fused", once, every_run)):
        pipe = Pipeline(tiny_overlay, device="cpu", dtype="fp32", lora_mode=mode)
        results[mode], read = counted(pipe, recipe)
        again, read_again = counted(pipe, recipe)
        print(f"{recipe}, {mode}: {read} bytes read in the first run, {read_again} in the second "
              f"(transformer {base}, LoRA {factors})")
        assert torch.equal(again, results[mode])
        assert (read, read_again) == (first_run, second_run)
        transformer = pipe.component("transformer")
        assert transformer.loads == 1 and [c.name for c in pipe.components].count("transformer") == 1
        held = 0 if mode == "fused" else factors * 2  # stored in bfloat16, here float32
        assert transformer.loaded_bytes == transformer.bytes_with([]) + held
    assert torch.equal(results["auto"], results["runtime"])
    assert torch.allclose(results["fused"], results["runtime"], rtol=1e-3, atol=1e-3)


def relative(got: Tensor, want: Tensor) -> float:
    return ((got.double() - want.double()).norm() / want.double().norm()).item()


@pytest.mark.parametrize("recipe", ["two_stage", "hq", "distilled_one_stage"])
def test_run_time_differs_from_fused_by_rounding(tiny_overlay: Overlay, recipe: str) -> None:
    """In bfloat16; both are as far from float32, so neither is the better one."""
    def run(mode: str, dtype: str) -> Tensor:
        pipe = Pipeline(tiny_overlay, device="cpu", dtype=dtype, lora_mode=mode)
        steps = {} if recipe == "distilled_one_stage" else {"steps": 3}
        done = pipe.sample(pipe.encode("a boat on a lake", "noise"), recipe=recipe, **RUN, **steps)
        return torch.cat((done.video.flatten(), done.audio.flatten())).float()

    fused, runtime, exact = run("fused", "bf16"), run("runtime", "bf16"), run("fused", "fp32")
    print(f"{recipe}: runtime against fused {relative(runtime, fused):.4f}, against float32: fused "
          f"{relative(fused, exact):.4f}, runtime {relative(runtime, exact):.4f}")
    assert 0 < relative(runtime, fused) < 2.5 * relative(fused, exact)
    assert relative(runtime, exact) < 1.5 * relative(fused, exact)


class NotingResidency(LocalResidency):
    """One that remembers the most that a stage of the transformer was said to need beside the weights."""

    activations = 0

    def use(self, *components: Component, activation_bytes: int = 0, how: str = "") -> None:
        if components[0].name == "transformer":
            self.activations = max(self.activations, activation_bytes)
        super().use(*components, activation_bytes=activation_bytes)


def test_auto_fuses_where_factors_do_not_fit(tiny_overlay: Overlay) -> None:
    """First with room for everything, then with room for the transformer and for half of the factors beside it."""
    wanted = Pipeline(tiny_overlay, device="cpu", dtype="fp32", lora_mode="fused")
    pipe = Pipeline(tiny_overlay, dtype="fp32", residency=NotingResidency(CPU, 1 << 32))
    # Without guidance, so that the second stage, which has the LoRA, needs the most.
    context, run = pipe.encode("a", "b"), {"recipe": "two_stage", "steps": 1, "guidance": Guidance(), **RUN}
    fused = wanted.sample(context, **run).video
    size = wanted.component("transformer").size_bytes

    apart = pipe.sample(context, **run)
    factors = pipe.component("transformer").loaded_bytes - size
    assert factors > 0 and not torch.equal(apart.video, fused)

    room = size + pipe.residency.activations + factors // 2
    pipe.residency.release()
    pipe.residency = LocalResidency(CPU, room)
    assert torch.equal(pipe.sample(context, **run).video, fused)
    assert pipe.component("transformer").loaded_bytes == size


def test_auto_fuses_what_is_the_same_in_all_stages(pipe: Pipeline, kinds: dict[str, Path]) -> None:
    view = pipe.with_loras([Lora(kinds["style"])])
    latents(view, "two_stage")
    module = pipe.component("transformer").module
    layer = module.get_submodule(BLOCK + "attn1.to_q")
    assert isinstance(layer, LoraLinear) and len(layer.changes()) == 1, "the distilled one alone"
    fresh = Pipeline(pipe.overlay, device="cpu", dtype="fp32").with_loras([Lora(kinds["style"], mode="fused")])
    latents(fresh)
    assert torch.equal(layer.weight, fresh.component("transformer").module.get_submodule(BLOCK + "attn1.to_q").weight)


# ---- text connectors

@pytest.fixture(scope="module")
def connector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plain(tmp_path_factory.mktemp("c") / "connector.safetensors",
                 "video_embeddings_connector.transformer_1d_blocks.0.attn1.to_q", BLOCK + "attn1.to_q")


@pytest.mark.parametrize("mode", ["fused", "runtime"])
def test_connectors_change_the_encoded_prompt(pipe: Pipeline, connector: Path, mode: str) -> None:
    base, view = pipe.encode("a", "b"), pipe.with_loras([Lora(connector, mode=mode)])
    changed = view.encode("a", "b")
    assert not torch.equal(changed.positive.video, base.positive.video)
    assert torch.equal(changed.positive.audio, base.positive.audio)
    assert view.encode("a", "b").positive is changed.positive and pipe.encode("a", "b").positive is base.positive
    pipe._shared.contexts.clear()
    again = pipe.encode("a", "b"), view.encode("a", "b")
    assert torch.equal(again[0].positive.video, base.positive.video)
    assert torch.equal(again[1].positive.video, changed.positive.video)
    assert pipe.component("connectors").loads == 1


def test_loras_without_text_parts_share_encoded_prompts(pipe: Pipeline, connector: Path,
                                                        kinds: dict[str, Path]) -> None:
    base = pipe.encode("a", "b")
    for lora in (Lora(kinds["style"]), Lora(connector, video=0.0), Lora(connector, stages="second"),
                 Lora(connector, 0.0)):
        assert pipe.with_loras([lora]).encode("a", "b").positive is base.positive
    assert "no effect" in pipe.with_loras([Lora(connector, stages="second")]).lora_reports[0]


# ---- files

def test_files_for_other_models_are_refused_by_name(pipe: Pipeline, tmp_path: Path) -> None:
    save_file({"double_blocks.0.img_attn.lora_A.weight": random(2, 4)}, tmp_path / "flux.safetensors")
    with refuses(OverlayError, "flux.safetensors is made for Flux"):
        pipe.with_loras([Lora(tmp_path / "flux.safetensors")])
    with refuses(OverlayError, "gone.safetensors"):
        pipe.with_loras([Lora(tmp_path / "gone.safetensors")])
    assert pipe.components == (), "nothing was made or read"


def test_what_is_not_used_is_logged_and_reported(pipe: Pipeline, kinds: dict[str, Path], tmp_path: Path,
                                                 caplog: pytest.LogCaptureFixture) -> None:
    with safe_open(kinds["style"], "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}
    save_file(tensors | {"diffusion_model.caption_projection.linear_1.lora_A.weight": random(2, 4)},
              tmp_path / "old.safetensors")
    with caplog.at_level(logging.WARNING, "ltx23"):
        view = pipe.with_loras([Lora(tmp_path / "old.safetensors", 0.5, audio=0.0, mode="runtime"),
                                Lora(kinds["mixed"])])
    assert "caption_projection" in caplog.text and "made for LTX-2.0" in caplog.text
    report = view.lora_reports
    report = "\n".join(report)
    print(report)
    for words in ("changes 6 of transformer", "transformer: 4 video, 1 audio, 1 cross-modal", "strength 0.5 / 0.5",
                  "audio 0", "mode runtime", "made for LTX-2.0", "1 DoRA lora", "1 lokr", "1 loha", "3 diff"):
        assert words in report, words


def test_a_long_run_does_not_go_on_with_other_loras(pipe: Pipeline, tmp_path: Path) -> None:
    """What is kept on disk goes by `lora_state`: strength, order, mode and the file itself."""
    one, two = (plain(tmp_path / f"{name}.safetensors", "proj_out", seed=i) for i, name in enumerate("ab"))
    sets = [(), (Lora(one),), (Lora(one, 0.5),), (Lora(one, mode="runtime"),), (Lora(one), Lora(two)),
            (Lora(two), Lora(one))]
    found = [fingerprint(pipe.with_loras(loras).lora_state) for loras in sets]
    assert len(set(found)) == len(sets) and fingerprint(pipe.with_loras((Lora(one),)).lora_state) == found[1]
    plain(one, "proj_out", seed=7)
    os.utime(one, ns=(1, 1))
    assert fingerprint(pipe.with_loras((Lora(one),)).lora_state) not in found


@pytest.mark.parametrize("make", [
    lambda p: Lora(p, float("nan")), lambda p: Lora(p, cross=float("inf")), lambda p: Lora(p, stages="third"),
    lambda p: Lora(p, stages=(1.0,)), lambda p: Lora(p, mode="fast"), lambda p: Lora(p, stages=(1.0, "x"))])
def test_settings_that_cannot_be(make: Callable[[str], Lora]) -> None:
    with pytest.raises(RequestError):
        make("x.safetensors")


def test_a_changed_file_is_another_lora(pipe: Pipeline, tmp_path: Path) -> None:
    path = plain(tmp_path / "a.safetensors", "proj_out")
    first = latents(pipe.with_loras([Lora(path)]))
    plain(path, "proj_out", seed=5)
    second = latents(pipe.with_loras([Lora(path)]))
    assert not torch.allclose(first, second, atol=1e-3)


def test_a_lora_that_adds_nothing_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As trainers save one before the first step: B is 0. One factor that is not ends the search."""
    tensors = load_file(plain(tmp_path / "x.safetensors", BLOCK + "attn1.to_q", BLOCK + "ff.net.2"))
    still = {key: torch.zeros_like(value) if "lora_B" in key else value for key, value in tensors.items()}
    one = next(key for key in still if "lora_B" in key)
    moving = {**still, one: tensors[one]}
    pipeline = Pipeline.load(overlay())
    for name, content, idle in (("still", still, True), ("moving", moving, False), ("all", tensors, False)):
        caplog.clear()
        save_file(content, tmp_path / f"{name}.safetensors")
        view = pipeline.with_loras([Lora(tmp_path / f"{name}.safetensors")])
        assert view.idle_loras == (idle,), name
        assert ("changes nothing" in view.lora_reports[0]) == ("changes nothing" in caplog.text) == idle


def test_the_preview_map_is_fitted_once_for_all_views(tmp_path: Path, kinds: dict[str, Path],
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    from ltx23_core.run.preview import LatentToRGB
    fitted, fit = [], LatentToRGB.fit.__func__
    monkeypatch.setattr(LatentToRGB, "load", classmethod(lambda cls, path, digest: None))
    monkeypatch.setattr(LatentToRGB, "save", lambda self, path, digest: None)
    monkeypatch.setattr(LatentToRGB, "fit", classmethod(lambda cls, *args: fitted.append(1) or fit(cls, *args)))
    pipeline = Pipeline.load(overlay())
    views = [pipeline.with_loras([Lora(path)]) for path in list(kinds.values())[:3]]
    maps = [view.preview_map() for view in (*views, pipeline, pipeline.with_loras([]))]
    assert len(fitted) == 1 and all(each is maps[0] for each in maps)
