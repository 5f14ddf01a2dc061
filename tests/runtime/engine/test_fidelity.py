"""Fidelity: what docs/musetalk.md states, worked out on paper, beside what the engine computes."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from avatar_runtime import errors
from avatar_runtime.audio.utterance import Utterance
from avatar_runtime.avatars import geometry, masks, preparation
from avatar_runtime.engine.networks import musetalk, network_config, unet, vae, weights, whisper
from avatar_runtime.engine.rendering import blend_host
from avatar_runtime.tools import random_model

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from avatar_runtime.batching.frames import AudioWindow

FULL = random_model.PRESETS["full"]


def windows(seconds: float, fps: int = 25) -> Sequence[AudioWindow]:
    speech = Utterance(16_000, fps)
    speech.append(bytes(2 * round(16_000 * seconds)))
    speech.finish()
    return speech.take()


def steps(window: AudioWindow) -> list[int | None]:
    """Return the real steps that a window reads, `None` where it reads a zero vector.

    The sound is shorter than the context, so steps count from its beginning.
    """
    read = range(window.first_step, window.first_step + 10)
    return [step if 0 <= step < window.steps else None for step in read]


# Section 5.2, at 25 frames a second.
@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (0, [None, None, None, None, 0, 1, 2, 3, 4, 5]),
        (1, [None, None, 0, 1, 2, 3, 4, 5, 6, 7]),
        (2, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (25, [46, 47, 48, 49, 50, 51, 52, 53, 54, 55]),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else "",
)
def test_windows_of_the_worked_example(frame: int, expected: list[int | None]) -> None:
    assert steps(windows(2.0)[frame]) == expected


def test_the_worked_tail_ends_in_zero_vectors() -> None:
    made = windows(1.0)  # 50 real steps, 25 frames
    assert len(made) == 25
    assert steps(made[24]) == [44, 45, 46, 47, 48, 49, None, None, None, None]


@pytest.mark.parametrize("rate", [8_000, 16_000, 24_000])
def test_the_frames_before_a_padded_tail_see_zero_vectors_as_in_musetalk(rate: int) -> None:
    """1.010 s: 50 whole steps and 25 frames in MuseTalk; ours pads the tail to a 26th frame."""
    speech = Utterance(rate, 25)
    speech.append(bytes(2 * (rate + rate // 100)))
    speech.finish()
    made = speech.take()

    assert len(made) == 26
    assert steps(made[23]) == [42, 43, 44, 45, 46, 47, 48, 49, None, None]
    assert steps(made[24]) == [44, 45, 46, 47, 48, 49, None, None, None, None]
    assert steps(made[25]) == [46, 47, 48, 49, 50, 51, None, None, None, None]


@pytest.mark.parametrize(
    ("fps", "first"),
    # floor(50 i / fps) - 4 for i = 0 ... 5
    [
        (10, [-4, 1, 6, 11, 16, 21]),
        (16, [-4, -1, 2, 5, 8, 11]),
        (20, [-4, -2, 1, 3, 6, 8]),
        (25, [-4, -2, 0, 2, 4, 6]),
    ],
)
def test_other_rates_change_the_stride_and_not_the_lead(fps: int, first: list[int]) -> None:
    assert [window.first_step for window in windows(2.0, fps)[:6]] == first


def tokens_of(first_step: int, kept: int) -> list[list[float]]:
    """Return the tokens' first column, one row a step, of features 100 * step + state."""
    features = torch.zeros(100, 5, 384)
    features[:, :, 0] = 100 * torch.arange(100)[:, None] + torch.arange(5)
    whole = musetalk.MuseTalk.window(None, features, first_step, kept)  # type: ignore[arg-type]
    assert whole.shape == (50, 384)
    rows: list[list[float]] = whole[:, 0].reshape(10, 5).tolist()
    return rows


def test_tokens_go_step_by_step_and_state_by_state() -> None:
    assert tokens_of(7, 100)[:2] == [[700, 701, 702, 703, 704], [800, 801, 802, 803, 804]]


def test_missing_steps_are_zero_tokens() -> None:
    rows = tokens_of(-4, 100)
    assert rows[:4] == [[0] * 5] * 4  # the first 20 tokens of frame 0
    assert rows[4] == [0, 1, 2, 3, 4]
    assert tokens_of(44, 50)[5:7] == [[4900, 4901, 4902, 4903, 4904], [0] * 5]


def test_positional_encoding_at_places_known_by_hand() -> None:
    encoding = whisper.positional_encoding(50, 384)[0]

    assert encoding[0].tolist() == [0.0, 1.0] * 192
    assert encoding[1, :2].tolist() == pytest.approx([0.8414710, 0.5403023], abs=1e-6)
    # Column pair 96 of 192 has the rate 10000 ** -0.5 = 0.01.
    assert encoding[10, 192:194].tolist() == pytest.approx([0.0998334, 0.9950042], abs=1e-6)
    last = 49 / 10_000 ** (382 / 384)
    assert encoding[49, 383].item() == pytest.approx(math.cos(last), abs=1e-6)


def face(bottom: float = 330, bridge: float = 260) -> list[tuple[float, float]]:
    """Return 68 points from x 200 to 300 with the given point 29 and lowest point."""
    points = [(200.0 + i % 2 * 100, 250.0) for i in range(68)]
    points[29], points[8] = (250.0, bridge), (250.0, bottom)
    return points


@pytest.mark.parametrize(
    ("version", "points", "box"),
    [
        ("v1", face(), (200, 190, 300, 330)),
        ("v15", face(), (200, 190, 300, 340)),
        ("v15", face(bottom=396), (200, 124, 300, 400)),  # the margin ends with the picture
        ("v1", face(bottom=390, bridge=190), (200, 0, 300, 390)),  # 2 * 190 - 390 is above it
    ],
    ids=["v1", "v1.5", "at the lower edge", "at the upper edge"],
)
def test_face_boxes_of_the_worked_example(
    version: str, points: list[tuple[float, float]], box: tuple[int, int, int, int]
) -> None:
    made = geometry.face_box(
        points, points[29], 640, 400, version, detector_box=geometry.Box(0, 0, 1, 1)
    )
    assert made == geometry.Box(*box)


def test_the_crop_box_is_a_square_of_one_and_a_half_sides() -> None:
    # Centre (250, 260), half of 140 is 70, times 1.5 is 105.
    made = geometry.crop_box(geometry.Box(200, 190, 300, 330))
    assert made == geometry.Box(145, 155, 355, 365)


def test_the_mask_keeps_the_lower_half_of_the_face_box_and_is_feathered() -> None:
    box, crop = geometry.Box(200, 190, 300, 330), geometry.Box(145, 155, 355, 365)
    mask = masks.feathered(np.full((210, 210), 255, np.uint8), box, crop)

    # In the crop box the face is x 55 to 155, y 35 to 175; its lower half begins at 35 + 70.
    # The kernel is 0.1 * 210 = 21 pixels: its reach is 10.
    assert mask[115:165, 65:145].min() == 255
    assert mask[:95].max() == mask[185:].max() == 0
    assert mask[:, :45].max() == mask[:, 165:].max() == 0
    assert 0 < mask[104, 105] < 128 < mask[106, 105] < 255


def test_decoder_output_becomes_bytes_rounded_and_blue_first() -> None:
    levels = torch.tensor([-1.0, 0.0, 1.0, -2.0, 2.0, 1 / 255, -1 + 0.7 / 127.5])
    picture = torch.zeros(1, 3, 1, 7)
    picture[0, 0, 0] = levels  # red

    made = vae.to_bytes(picture)

    assert made.shape == (1, 1, 7, 3)
    # 127.5 is rounded to the even 128; 0.7 is rounded up and not cut.
    assert made[0, 0, :, 2].tolist() == [0, 128, 255, 0, 255, 128, 1]
    assert made[0, 0, :, 0].tolist() == [128] * 7


def test_latents_carry_the_scaling_factor_that_the_published_file_omits(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"act_fn": "silu"}), encoding="utf-8")
    config = network_config.read(tmp_path / "config.json", vae.VAEConfig, musetalk.VAE_FIXED)
    assert config.scaling_factor == 0.18215

    seen: list[torch.Tensor] = []
    network = vae.VAE(random_model.PRESETS["tiny"].vae)
    network.post_quant_conv = torch.nn.Identity()  # type: ignore[assignment]
    network.decoder.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.inference_mode():
        network.decode(torch.full((1, 4, 2, 2), 0.3643))
    torch.testing.assert_close(seen[0], torch.full((1, 4, 2, 2), 2.0))


class _StandInEncoder:
    """An encoder that keeps what it was given."""

    version, vae_hash, crop_size = "v15", "none", 4

    def __init__(self) -> None:
        self.crops: NDArray[np.float32] | None = None

    def encode(self, crops: NDArray[np.float32]) -> NDArray[np.float32]:
        self.crops = crops
        return np.arange(2 * 4, dtype=np.float32).reshape(2, 4, 1, 1)


def test_the_hole_is_minus_one_and_the_masked_latent_comes_first() -> None:
    encoder = _StandInEncoder()
    box = geometry.Box(0, 0, 4, 4)
    white = np.full((4, 4, 3), 255, np.uint8)
    _, tensors = preparation.prepare(
        [white], [box], [np.zeros((4, 4), np.uint8)], encoder, pixels="png"
    )

    assert encoder.crops is not None
    masked, whole = encoder.crops
    assert whole.min() == masked[:, :2].min() == 1.0
    assert masked[:, 2:].max() == masked[:, 2:].min() == -1.0
    assert tensors["latents"].ravel().tolist() == [0, 1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize(
    ("weight", "mixed"),
    [(0, 10), (255, 210), (128, 110), (1, 11), (64, 60)],
    # 10 + 200 * weight / 255: 110.4, 10.8, 60.2
)
def test_the_face_is_blended_with_the_mask(weight: int, mixed: int) -> None:
    below, above = np.full((1, 1, 3), 10, np.uint8), np.full((1, 1, 3), 210, np.uint8)
    made = blend_host._blend(below, above, np.full((1, 1), weight, np.uint8))
    assert made.ravel().tolist() == [mixed] * 3


# Full-size files, without their gigabytes: one stored value that every element of a tensor shares.


def hollow(network: torch.nn.Module, prefix: str = "") -> dict[str, torch.Tensor]:
    value = torch.zeros(1)
    return {f"{prefix}{k}": value.expand(t.shape) for k, t in network.state_dict().items()}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder as upstream ships it, with both versions."""
    folder = tmp_path_factory.mktemp("published")
    made = musetalk.MuseTalk(FULL, "v15", "")
    sound = hollow(made.whisper, weights.WHISPER_PREFIX)
    sound["model.decoder.embed_tokens.weight"] = torch.zeros(1).expand(51_865, 384)
    files: dict[str, dict[str, torch.Tensor]] = {
        "musetalk/pytorch_model.bin": hollow(made.unet),
        "musetalkV15/unet.pth": hollow(made.unet),
        "sd-vae/diffusion_pytorch_model.bin": {
            old_name(k): t[:, :, None, None] if is_old_linear(k) else t
            for k, t in hollow(made.vae).items()
        },
        "whisper/pytorch_model.bin": sound,
    }
    for name, tensors in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        torch.save(tensors, folder / name)
    for name in ("musetalk/musetalk.json", "musetalkV15/musetalk.json"):
        (folder / name).write_text(json.dumps({**musetalk.UNET_FIXED, "sample_size": 64}))
    for name in ("sd-vae/config.json", "whisper/config.json"):
        (folder / name).write_text("{}")
    return folder


def is_old_linear(name: str) -> bool:
    return "attentions" in name and ".to_" in name and name.endswith("weight")


def old_name(name: str) -> str:
    """Return what the first releases of diffusers, and so the published VAE, call a tensor."""
    if "attentions" not in name:
        return name
    for new, old in {
        "to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn",
    }.items():  # fmt: skip
        name = name.replace(new, old)
    return name


@pytest.mark.parametrize(("version", "folder"), [("v1", "musetalk"), ("v15", "musetalkV15")])
def test_full_size_folders_of_both_versions_fit(published: Path, version: str, folder: str) -> None:
    files = weights.find(published, version)
    assert files.unet.parent.name == folder
    config = musetalk.read_config(files)
    assert config == FULL
    made = musetalk.MuseTalk(config, version, "")
    for name, network in made.networks().items():
        weights.fill(network, musetalk.read_network(files, name), getattr(files, name))
    assert all(parameter.sum() == 0 for parameter in made.unet.conv_in.parameters())


def test_a_file_of_stable_diffusion_gets_one_clear_error(published: Path) -> None:
    """Its UNet takes 4 channels and text 768 wide: easily taken for MuseTalk's."""
    text_to_image = replace(FULL.unet, in_channels=4, cross_attention_dim=768)
    with musetalk._Uninitialised():
        wrong, ours = unet.UNet(text_to_image), unet.UNet(FULL.unet)
    with pytest.raises(errors.AssetError) as caught:
        weights.fill(ours, hollow(wrong), published / "unet.pth")

    message = str(caught.value)
    assert message.count("tensors misshaped") == 1
    assert "conv_in.weight is (320, 4, 3, 3), must be (320, 8, 3, 3)" in message
    assert "attn2.to_k.weight is (320, 768), must be (320, 384)" in message
    assert "and 25 more" in message  # 33 in all: one convolution, two in each of 16 attentions
    assert len(message) < 1500
