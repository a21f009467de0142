import librosa
import numpy as np
import pytest
import torch

from techloop.audio.spectral import (
    chroma_filterbank,
    circular_stft,
    log_mel,
    mel_filterbank,
    whole_hop,
    wrap,
)


def test_wrap_is_the_circle() -> None:
    x = torch.arange(5.0)
    assert wrap(x, 2, 3).tolist() == [3, 4, 0, 1, 2, 3, 4, 0, 1, 2]
    assert torch.equal(wrap(x, 12, 13), x.repeat(6).roll(2))


def test_rotation_by_hops_rotates_the_frames() -> None:
    x = torch.randn(2, 30_720)
    a = circular_stft(x, 1024, 128)
    assert a.shape == (2, 513, 240)
    b = circular_stft(x.roll(128 * 5, -1), 1024, 128)
    assert torch.equal(b, a.roll(5, -1))


def test_hops_longer_than_half_a_window() -> None:
    x = torch.randn(1, 3_840)
    a = circular_stft(x, 512, 384)
    assert a.shape == (1, 257, 10)
    assert torch.equal(circular_stft(x.roll(384, -1), 512, 384), a.roll(1, -1))
    assert torch.equal(a, circular_stft(x, 512, 128)[..., ::3])


def test_cached_tensors_allow_gradients() -> None:
    with torch.inference_mode():
        circular_stft(torch.zeros(1, 960), 96, 24)
        log_mel(torch.zeros(1, 960), 16_000, window=96, hop=24, mels=5)
    x = torch.zeros(1, 960, requires_grad=True)
    (circular_stft(x, 96, 24).abs().sum() + log_mel(x, 16_000, 96, 24, 5).sum()).backward()


def test_a_steady_tone_has_its_amplitude_in_every_frame_even_at_the_wrap() -> None:
    t = torch.arange(30_720) / 16_000
    x = torch.sin(2 * torch.pi * 1_000 * t)[None]  # 1,920 whole cycles
    amplitude = circular_stft(x, 1024, 128).abs()[0, 64]
    assert torch.allclose(amplitude, torch.full_like(amplitude, 256.0), rtol=1e-4)


def test_the_stft_is_librosas_away_from_the_wrap() -> None:
    import librosa

    x = torch.zeros(1, 8_192)
    x[0, 3_000:5_000] = torch.randn(2_000)
    theirs = librosa.stft(x[0].numpy(), n_fft=512, hop_length=128, center=True)[:, :-1]
    np.testing.assert_allclose(circular_stft(x, 512, 128)[0].numpy(), theirs, atol=1e-4)


def test_a_circle_is_a_whole_number_of_hops() -> None:
    with pytest.raises(ValueError, match="1000 samples is not a whole number of hops of 128"):
        circular_stft(torch.zeros(1, 1000), 512, 128)


def test_a_whole_hop_divides() -> None:
    assert whole_hop(30_720, 2048) == 512
    assert whole_hop(128 * 241, 2048) == 482
    assert 128 * 241 % 482 == 0


def test_log_mel_is_in_db_of_full_scale() -> None:
    t = torch.arange(30_720) / 16_000
    x = torch.sin(2 * torch.pi * 1_000 * t)[None]
    mels = log_mel(x, 16_000)
    assert mels.shape == (1, 64, 240)
    assert -12 < mels.max() <= 0
    assert torch.allclose(log_mel(x / 10, 16_000).max(), mels.max() - 20, atol=0.01)
    assert (log_mel(torch.zeros(1, 1_280), 16_000) == -100).all()
    assert mel_filterbank(16_000, 1024, 64).shape == (64, 513)


def test_pitch_classes_are_those_of_notes() -> None:
    """Each note of four octaves, as librosa names it; out of tune, between two."""
    bank = chroma_filterbank(16_000, 16_384)
    names = ["C", "C♯", "D", "D♯", "E", "F", "F♯", "G", "G♯", "A", "A♯", "B"]
    for midi in range(48, 96):
        note = librosa.midi_to_note(midi, octave=False)
        k = round(float(librosa.midi_to_hz(midi)) * 16_384 / 16_000)
        assert bank[:, k].argmax() == names.index(note)
        assert bank[:, k].sum() == pytest.approx(1, abs=1e-5)
    quarter = round(float(librosa.midi_to_hz(69.5)) * 16_384 / 16_000)
    assert bank[9:11, quarter].tolist() == pytest.approx([0.5, 0.5], abs=0.05)
    assert bank[:, [1, 8_000]].sum() == 0  # below 60 Hz and above 4 kHz
