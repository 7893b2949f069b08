"""Audio VAE and vocoder against diffusers, the vocoder with the clamp that the official code has between its stages."""
from __future__ import annotations

import math

import pytest

from .renames import VOCODER, renamed
from .support import DIFFUSERS, randn, random_module, same

pytest.importorskip("diffusers", reason=DIFFUSERS)
from diffusers import AutoencoderKLLTX2Audio, LTX2Pipeline
from diffusers.pipelines.ltx2 import LTX2VocoderWithBWE

# base channels, multipliers, residual blocks, latent channels, mel bins
VAE_SIZES = {"shallow": (6, (1, 2, 2), 1, 3, 32), "deep": (10, (2, 1, 3), 3, 5, 64), "equal": (16, (1, 1, 1), 2, 1, 48)}


def vae_config(size: str) -> dict:
    """``config.audio_vae`` in the official form."""
    base, multipliers, blocks, latent, bins = VAE_SIZES[size]
    return {"model": {"params": {"sampling_rate": 16000, "ddconfig": {
        "in_channels": 2, "out_ch": 2, "ch": base, "ch_mult": list(multipliers), "num_res_blocks": blocks,
        "z_channels": latent, "mel_bins": bins}}}, "preprocessing": {
            "stft": {"filter_length": 1024, "hop_length": 160}, "mel": {"mel_fmin": 0, "mel_fmax": 8000}}}


@pytest.mark.parametrize("size", VAE_SIZES)
def test_vae(size: str) -> None:
    base, multipliers, blocks, latent_channels, bins = VAE_SIZES[size]
    theirs = AutoencoderKLLTX2Audio(base_channels=base, ch_mult=multipliers, num_res_blocks=blocks,
                                    latent_channels=latent_channels, mel_bins=bins).eval()
    states = []
    for component, half in (("audio_encoder", theirs.encoder), ("audio_decoder", theirs.decoder)):
        ours = random_module(component, vae_config(size))
        state = ours.state_dict()
        # Beside the halves: diffusers takes base channels for the length of the statistics, which is so in 2.3 only.
        statistics = [state.pop(f"per_channel_statistics.{name}") for name in ("mean-of-means", "std-of-means")]
        half.load_state_dict(renamed(state), strict=True)
        states.append((ours, statistics))
    (encoder, statistics), (decoder, decoder_statistics) = states
    for frames in (1, 26):  # the second is no multiple of 4
        mel = randn(1, 2, 2, frames, bins)
        tokens = LTX2Pipeline._pack_audio_latents(theirs.encode(mel).latent_dist.mode())
        want = LTX2Pipeline._normalize_audio_latents(tokens, *statistics)
        want = LTX2Pipeline._unpack_audio_latents(want, tokens.shape[1], bins // 4)
        same(f"{size}: latent of {frames} mel frames", encoder(mel), want)
    for length in (1, 9):
        latent = randn(2, 2, latent_channels, length, bins // 4)
        tokens = LTX2Pipeline._denormalize_audio_latents(LTX2Pipeline._pack_audio_latents(latent), *decoder_statistics)
        want = theirs.decode(LTX2Pipeline._unpack_audio_latents(tokens, length, bins // 4)).sample
        same(f"{size}: mel of {length} latents", decoder(latent), want)


# for vocoder and bandwidth extension: first channels, rates, kernels, kernels of the residual blocks, their dilations;
# then input rate, output rate, hop, FFT size, mel bins
VOCODER_SIZES = {
    "other rates": ((64, (4, 5, 2), (8, 11, 4), (3, 5), ((1, 2), (1, 4))),
                    (48, (5, 4, 2), (9, 8, 6), (3,), ((1, 3, 9),)), 8000, 16000, 20, 128, 20),
    "48 kHz": ((96, (2, 5, 4, 4), (4, 7, 8, 6), (7,), ((1, 3, 5, 2),)),
               (56, (6, 10, 4), (10, 12, 8), (3, 7, 5), ((1,), (2,), (5,))), 16000, 48000, 80, 256, 40),
}


def vocoder_config(size: str) -> dict:
    """``config.vocoder`` in the official form."""
    *generators, rate, new_rate, hop, n_fft, bins = VOCODER_SIZES[size]
    first, second = ({"upsample_initial_channel": channels, "upsample_rates": list(rates),
                      "upsample_kernel_sizes": list(kernels), "resblock_kernel_sizes": list(res_kernels),
                      "resblock_dilation_sizes": [list(d) for d in dilations]}
                     for channels, rates, kernels, res_kernels, dilations in generators)
    return {"vocoder": first, "bwe": second | {"input_sampling_rate": rate, "output_sampling_rate": new_rate,
                                               "hop_length": hop, "n_fft": n_fft, "num_mels": bins}}


@pytest.mark.parametrize("size", VOCODER_SIZES)
def test_vocoder(size: str) -> None:
    *generators, rate, new_rate, hop, n_fft, bins = VOCODER_SIZES[size]
    assert math.prod(generators[1][1]) == hop * new_rate // rate, "the sizes must fit each other"
    options = {}
    for prefix, (channels, rates, kernels, res_kernels, dilations) in zip(("", "bwe_"), generators, strict=True):
        options |= {prefix + "in_channels": 2 * bins, prefix + "hidden_channels": channels,
                    prefix + "upsample_factors": rates, prefix + "upsample_kernel_sizes": kernels,
                    prefix + "resnet_kernel_sizes": res_kernels, prefix + "resnet_dilations": dilations}
    theirs = LTX2VocoderWithBWE(**options, final_act_fn="clamp", filter_length=n_fft, window_length=n_fft,
                                hop_length=hop, num_mel_channels=bins, input_sampling_rate=rate,
                                output_sampling_rate=new_rate).eval()
    ours = random_module("vocoder", vocoder_config(size))
    mel = randn(3, 2, 2, 11, bins)
    # So loud that both clamps act, and not everywhere.
    ours.vocoder.conv_post.weight.div_(ours.vocoder(mel.transpose(2, 3)).abs().max() / 2)
    low = ours.base_waveform(mel)
    ours.bwe_generator.conv_post.weight.div_(ours.bwe_generator(ours.mel_stft(low)).abs().max())
    high = ours(mel)
    theirs.load_state_dict(renamed(ours.state_dict(), VOCODER), strict=True)
    for name, waveform in (("first", low), ("second", high)):
        clamped = (waveform.abs() == 1).float().mean().item()
        assert 0.005 < clamped < 0.6, f"{clamped:.1%} of the {name} stage is clamped"
    same(f"{size}: base waveform", low, theirs.vocoder(mel))
    log_mel = theirs.mel_stft(low.flatten(0, 1))[0].unflatten(0, low.shape[:2])
    same(f"{size}: log-mel of it", ours.mel_stft(low), log_mel)
    same(f"{size}: waveform", high, theirs(mel))
