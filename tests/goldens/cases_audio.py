"""Golden cases of the audio VAE, the vocoder and the latent upsamplers."""
from __future__ import annotations

import torch
from safetensors import safe_open

from ltx23_core.config import AudioVAEConfig
from ltx23_core.geometry import audio_latent_length
from ltx23_core.media.audio import as_stereo
from ltx23_core.models.audio import mel as melspec
from ltx23_core.models.latent_upsampler import upsample
from ltx23_core.ops.resample import resample, resampled_length
from ltx23_core.sampling.state import fit_latent_length

from .harness import CHECKPOINT, Case, case, config, module


@case("audio_vae")
@torch.no_grad()
def audio_vae(run: Case) -> None:
    vae = AudioVAEConfig.from_dict(config("audio_vae"))
    encoder, decoder = module("audio_encoder"), module("audio_decoder")
    for name, rate in (("16k", vae.sampling_rate), ("other", run.settings.other_rate)):
        mel = melspec.waveform_to_mel(run.inputs[f"waveform_{name}"], rate, vae)
        run.check(f"mel_{name}", mel)
        run.check(f"latent_{name}", encoder(mel))
    run.check("resampled_other",
              resample(run.inputs["waveform_other"], run.settings.other_rate, vae.sampling_rate))
    run.check("latent_of_mel", encoder(run.inputs["mel"]))
    run.check("mel_of_latent", decoder(run.inputs["latent"]))


@case("vocoder")
@case("vocoder_loud")
@torch.no_grad()
def vocoder(run: Case) -> None:
    voice, mel = module("vocoder"), run.inputs["mel"]
    low = voice.base_waveform(mel)
    run.check("waveform_16k", low)
    if "mel_of_16k" in run.entry["outputs"]:
        run.check("mel_of_16k", voice.mel_stft(low))
    run.check("waveform_48k", voice(mel))


@case("upsampler")
@torch.no_grad()
def upsampler(run: Case) -> None:
    prefix = "vae.per_channel_statistics."
    with safe_open(CHECKPOINT, framework="pt") as file:
        mean, std = (file.get_tensor(prefix + name).float() for name in ("mean-of-means", "std-of-means"))
    for name, component in (("x2", "upsampler_x2"), ("x1.5", "upsampler_x1.5"), ("temporal", "upsampler_temporal_x2")):
        if f"{name}.raw" not in run.entry["outputs"]:
            continue
        latent = run.inputs.get(f"latent_{name}", run.inputs["latent"])
        run.check(f"{name}.raw", module(component)(latent))
        run.check(f"{name}.normalized", upsample(module(component), latent, mean, std))


@case("audio_encode")
@torch.no_grad()
def audio_encode(run: Case) -> None:
    vae, rate = AudioVAEConfig.from_dict(config("audio_vae")), run.settings.rate
    latents = {}
    for name, waveform in (("stereo", run.inputs["stereo"]), ("mono_duplicated", run.inputs["mono"])):
        run.check(f"{name}.resampled", resample(as_stereo(waveform), rate, vae.sampling_rate))
        mel = melspec.waveform_to_mel(waveform, rate, vae)
        run.check(f"{name}.mel", mel)
        latents[name] = module("audio_encoder")(mel)
        run.check(f"{name}.latent", latents[name])
    for name in ("cut", "padded"):
        frames = run.tensors[run.entry["outputs"][name]["key"]].shape[2]
        run.check(name, fit_latent_length(latents["stereo"], frames))
    lengths = []
    for old_rate, samples in run.inputs["lengths"].tolist():
        resampled = resampled_length(samples, old_rate, vae.sampling_rate)
        lengths.append([resampled, melspec.mel_frames(resampled, vae), melspec.audio_latent_frames(resampled, vae)])
    run.check("lengths_out", torch.tensor(lengths))
    run.check("audio_frames", torch.tensor([audio_latent_length(int(frames), fps)
                                            for frames, fps in run.inputs["video_lengths"].tolist()]))
