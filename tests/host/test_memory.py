"""Our weights under ComfyUI's memory management, with a device of fixed size (see memory_in_process.py)."""
from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tools.host import clean_environment
from tools.install import FRONT_END, Place


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict:
    comfy = Place(ROOT).comfy(FRONT_END)
    if not (comfy.source / "main.py").exists():
        pytest.skip(f"No ComfyUI in {comfy.source}: `python3 run.py test` installs it.")
    script = Path(__file__).with_name("memory_in_process.py")
    manifest = tmp_path_factory.mktemp("overlay") / "tiny.ltx23.json"
    done = subprocess.run([str(comfy.python), str(script), str(comfy.source), str(ROOT), str(manifest)], check=False,
                          capture_output=True, text=True, env=clean_environment(), cwd=comfy.source, timeout=500)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_first_use_loads_onto_the_compute_device(found: dict) -> None:
    assert found["first"] == ["text_encoder"] and found["device"] == "cpu:0"
    assert found["listed_megabytes"] == [3000], "ComfyUI sees the true size"


def test_second_use_loads_nothing(found: dict) -> None:
    assert found["loads_after_second_use"] == 1


def test_a_part_that_needs_the_room_evicts_another_of_ours(found: dict) -> None:
    assert found["transformer_evicts_text"] == ["transformer"]


def test_parts_that_fit_stay_side_by_side(found: dict) -> None:
    assert found["small_one_fits_beside"] == ["transformer", "video_decoder"]
    assert found["both_used_together"] == ["transformer", "video_decoder"]


def test_activations_are_given_room(found: dict) -> None:
    assert found["activations_evict"] == ["video_decoder"]


def test_parts_used_together_do_not_evict_each_other(found: dict) -> None:
    assert found["transformer_loads"] == 2, "once at first, once after the activations had evicted it"


def test_another_pack_s_model_evicts_ours_whole(found: dict) -> None:
    assert "transformer" not in found["foreign_model_evicts"]
    assert found["foreign_loaded_megabytes"] == 3000


def test_it_comes_back_whole(found: dict) -> None:
    names, whole = found["comes_back_whole"]
    assert "transformer" in names and whole


def test_unload_all_leaves_nothing(found: dict) -> None:
    assert found["after_unload_all"] == [[], 0]


def test_a_tiny_budget_still_loads_whole(found: dict) -> None:
    """--novram offers a tenth of a byte; part of a plain torch module could not run."""
    assert found["no_vram"]


def test_the_entry_ends_with_the_residency(found: dict) -> None:
    assert found["entries_after_del"] == 0 and found["free_after_del"] == 6000


def test_a_real_pipeline_is_counted_at_its_true_size(found: dict) -> None:
    listed, held = found["pipeline_bytes"]
    assert listed == held and found["pipeline_device"] == "cpu:0" and found["pipeline_frames"] == 9


def test_a_real_pipeline_ends_with_its_last_reference(found: dict) -> None:
    """Changing a loader's inputs must free the old model before the new one is loaded, without waiting for gc."""
    assert found["entries_after_pipeline"] == 0


def test_interrupt_while_loading(found: dict) -> None:
    assert found["interrupt_while_loading"] == "stopped" and found["entries_after_interrupt"] == 0


def test_interrupt_while_loras_change(found: dict) -> None:
    """ComfyUI forgets a model whose loading ends in an exception, so its weights must not stay."""
    assert found["bytes_after_interrupted_change"] == 0


def test_capacity_is_all_that_could_be_free(found: dict) -> None:
    assert found["capacity"][0] == found["capacity"][1] == found["capacity_beside_recordings"]


def test_files_are_chosen_by_the_room_that_they_will_have(found: dict) -> None:
    """By the whole card auto would take a file as resident that is streamed when it runs."""
    assert found["for_files"] == found["capacity"][0]


def test_room_beside_what_is_there_is_room_for_which_nothing_leaves(found: dict) -> None:
    assert found["has_room"] == [True, 3000, False, 0, False]


def test_sound_beside_the_picture(found: dict) -> None:
    """All three are in ComfyUI's list before either runs; its cancel is heard while the sound is asked for."""
    assert found["clip_same"] and "the sound beside it; peak" in found["clip_line"]
    assert found["clip_listed"] == ["audio_decoder", "video_decoder", "vocoder"]
    assert found["clip_cancelled"] == "stopped"


def test_a_part_larger_than_the_device_is_partly_there_within_the_budget(found: dict) -> None:
    """6000 MB, of which 1000 are for activations and 400 ComfyUI's own: 23 blocks of 200 MB, places included."""
    assert found["large_megabytes"] == 4600 and found["large_streamed"] == 19
    assert found["large_listed"] == [4600], "ComfyUI sees what is there"
    assert found["large_again"] == [4600, 1]


def test_the_node_says_where_the_weights_are(found: dict) -> None:
    """What ComfyUI gave, not what we would have taken."""
    [line] = found["shown"]
    assert line.endswith("GB free: transformer streamed 19 of 40 blocks; peak 5.9 GB"), line


def test_another_model_gets_blocks_back_and_not_everything(found: dict) -> None:
    megabytes, loads, other = found["beside_another"]
    assert other == 1500 and loads == 1 and 1000 < megabytes <= 6000 - 1500


def test_activations_take_the_place_of_blocks(found: dict) -> None:
    megabytes, loads = found["more_activations"]
    assert megabytes <= 6000 - 3500 and loads == 1


def test_no_vram_streams_all(found: dict) -> None:
    assert found["large_no_vram"] == [40, 400] and found["large_after_unload"] == 0


def test_high_vram_streams_what_does_not_fit(found: dict) -> None:
    """The host gives no limit then; the device still has one."""
    streamed, megabytes = found["large_high_vram"]
    assert 0 < streamed < 40 and 4000 < megabytes <= 6000 - 1000


def test_what_cannot_be_placed_is_refused_before_a_byte_is_read(found: dict) -> None:
    for name in ("refused_resident", "refused_activations"):
        text, loads = found[name]
        assert "GB" in text and "Next:" in text and loads == 0


def test_no_pinned_ram_is_freed_for_a_copy_that_is_never_kept(found: dict) -> None:
    """A newer host frees as much of it as `model_size` says while it loads; to all others we are as large as we are."""
    assert found["pinned_copies"] == [[0], [4000]] and found["size_to_others"] == 4000


def test_text_encoder_and_vaes_run_where_comfyui_wants_them(found: dict) -> None:
    apart = found["apart"]
    for name in ("text_encoder", "video_decoder", "audio_decoder", "vocoder", "video_encoder"):
        assert apart[name] == ["cpu", "torch.float32"], name
    assert apart["transformer"] == ["cpu:0", "torch.bfloat16"]
    assert apart["encoded"][1] == "torch.bfloat16", "what a run takes is in the run's dtype (and cpu:0 is cpu here)"
    assert apart["frames"] == 9 and apart["sound"]
    assert apart["streamed"] > 0, "half of the RAM that is free is too little for all of Gemma"


def test_a_model_answers_what_caches_ask_when_ram_is_short(found: dict) -> None:
    """Weights on the CPU and encoded prompts count, pages of files do not; what it drops comes back from files."""
    apart = found["apart"]
    assert apart["dynamic"] and apart["ram"] == apart["cached_tensors"] > 2 * apart["context"]
