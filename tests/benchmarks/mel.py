"""Log-mel of 32 clips of 10 s: ours against librosa, transformers' ASTFeatureExtractor and, if installed, torchaudio."""
import numpy as np
import torch
from common import DEVICE, bandwidth, compare, rate

from mulan_min.mel import LogMel

waves = np.random.default_rng(0).standard_normal((32, 160000)).astype(np.float32) * 0.1
waveform, slaney, kaldi = torch.from_numpy(waves).to(DEVICE), LogMel(128, "slaney").to(DEVICE), LogMel(128, "kaldi").to(DEVICE)


def with_librosa():
    import librosa
    for wave in waves:
        mel = librosa.feature.melspectrogram(y=wave, sr=16000, n_fft=512, win_length=400, hop_length=160, n_mels=128)
        np.log(np.maximum(1e-5, mel))


def with_transformers():
    from transformers import ASTFeatureExtractor
    ASTFeatureExtractor()(list(waves), sampling_rate=16000, return_tensors="pt")


contenders = {"ours": lambda: slaney(waveform), "ours, kaldi dialect": lambda: kaldi(waveform), "librosa": with_librosa,
              "ASTFeatureExtractor": with_transformers}
try:
    import torchaudio
    theirs = torchaudio.transforms.MelSpectrogram(16000, 512, 400, 160, n_mels=128).to(DEVICE)
    contenders["torchaudio"] = lambda: theirs(waveform).clamp_min(1e-5).log()
except Exception as error:      # ImportError, or OSError from its libraries
    print(f"torchaudio skipped: {error}")
frames = 32 * 1000
flops = frames * (5 * 512 * 9 / 2 + 2 * 257 * 128)      # real FFT of 512, then the filterbank
memory_bytes = 4 * (waves.size + frames * (2 * 400 + 2 * 514 + 3 * 257 + 3 * 128))      # each stage reads and writes once
medians = compare("log-mel, 32 clips of 10 s", contenders,
                  floor=(flops / rate(torch.float32) + memory_bytes / bandwidth(),
                         "FLOPs at matrix product speed, plus bytes at copy speed"))
step = 32 * 6 * 86e6 * 1190 / rate(torch.bfloat16)
print(f"\nour share of a training step of AST base (only its matrix products): {medians['ours'] / step:.2%}")
