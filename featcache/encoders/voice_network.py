"""The speaker encoder of generalised end-to-end loss: an LSTM of three layers over windows of mel frames, projected."""

import torch
from torch import Tensor, nn

FRAMES, MELS = 160, 40  # of a window
_WIDTH, _LAYERS = 256, 3
_OF_TRAINING = ("similarity_weight", "similarity_bias")  # scale and offset of the loss; no feature depends on them


class VoiceLayer(nn.Module):
    """One layer of the LSTM, run over each window of a recording apart: [b, w * 160, in] to [b, w * 160, 256]."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(inputs, _WIDTH, batch_first=True)

    def forward(self, hidden: Tensor) -> Tensor:
        """As the class says."""
        windows, _ = self.lstm(hidden.reshape(-1, FRAMES, hidden.shape[-1]))
        return windows.reshape(len(hidden), -1, _WIDTH)


class VoiceProjection(nn.Module):
    """Last frames of windows, each projected to unit length; their mean, to unit length: [b, w * 160, d] to [b, d]."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(_WIDTH, _WIDTH)

    def forward(self, hidden: Tensor) -> Tensor:
        """As the class says."""
        ends = hidden.reshape(len(hidden), -1, FRAMES, _WIDTH)[:, :, -1]
        windows = nn.functional.normalize(torch.relu(self.linear(ends)), dim=-1)
        return nn.functional.normalize(windows.mean(1), dim=-1)


class VoiceEncoder(nn.Module):
    """From mel spectrograms, [b, w * 160, 40] of w windows, to the last layer's hidden states.

    Source:
        Wan et al. 2018, arXiv:1710.10467; the sizes are Resemblyzer's.
    """

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(VoiceLayer(_WIDTH if layer else MELS) for layer in range(_LAYERS))
        self.projection = VoiceProjection()

    def forward(self, mels: Tensor) -> Tensor:
        """As the class says."""
        hidden = mels
        for block in self.blocks:
            hidden = block(hidden)
        return hidden

    @staticmethod
    def own_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """A checkpoint's tensors under the names of this network, without those of training alone."""
        own: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            begin, _, layer = name.rpartition("_l")
            if begin.startswith("lstm.") and layer.isdecimal():
                own[f"blocks.{layer}.{begin}_l0"] = tensor
            elif name not in _OF_TRAINING:
                own[f"projection.{name}" if name.startswith("linear.") else name] = tensor
        return own


# Networks that no library has, by the name that an entry gives as `model`.
NETWORKS = {"VoiceEncoder": VoiceEncoder}
