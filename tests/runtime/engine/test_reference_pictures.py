"""Whole pictures beside a reference that is composed of the libraries which MuseTalk uses.

The reference is written from the published steps: diffusers for UNet and VAE, transformers for
the audio, Pillow for crops and masks. It shares nothing with the runtime but the weights. Both
prepare the same frames and draw the same sound.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from avatar_runtime.audio.utterance import Utterance
from avatar_runtime.avatars import cache, geometry, masks, preparation
from avatar_runtime.engine.networks import folding, musetalk
from avatar_runtime.engine.rendering import cpu_parallel, delivery, forward, renderer
from avatar_runtime.tools import random_model

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from avatar_runtime.batching.frames import Frame, FrameRequest

pytestmark = [
    pytest.mark.slow,  # importing the libraries takes seconds, the published shapes a minute
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

Edges = tuple[int, int, int, int]
"""Left, upper, right and lower edge."""

_WIDTH, _HEIGHT = 300, 260
_FACES: list[Edges] = [(90, 60, 211, 203), (0, 101, 113, 260)]
"""Face boxes: one in the middle with odd sides, one whose crop box reaches outside the picture."""
_SAMPLES = 6560
"""0.41 s at 16 kHz: 20 whole steps and 10 frames in MuseTalk, and a padded tail in the runtime."""
_DRAWN = [(8, 0), (9, 0), (9, 1)]
"""Frames of the sound and stored frames: the group of 8 and 9 hears the whole sound."""
_MODES = ("raw", "jaw")
"""Mask modes: the parts of MuseTalk 1.0 and of MuseTalk 1.5."""
_CHEEK_WIDTH = 90


def _lively(config: musetalk.ModelConfig) -> musetalk.MuseTalk:
    """Return random weights whose pictures have contrast and whose latents have a usual size."""
    made = random_model.make(config, seed=5)
    generator = torch.Generator().manual_seed(6)
    side, tokens = config.vae.latent_size, config.tokens
    with torch.inference_mode():
        latents = torch.randn(1, 8, side, side, generator=generator)
        sound = torch.randn(1, tokens, config.unet.cross_attention_dim, generator=generator)
        drawn = made.unet(latents, sound)
        made.unet.conv_out.weight.mul_(1 / drawn.std())
        drawn = made.unet(latents, sound)
        made.vae.decoder.conv_out.weight.mul_(0.5 / made.vae.decode(drawn).std())
        made.vae.quant_conv.weight.mul_(8)
    return made


@dataclass(frozen=True)
class _Reference:
    """The published steps, one function for each."""

    unet: Any
    vae: Any
    whisper: Any
    extract: Any

    def latents(self, frame: NDArray[np.uint8], box: Edges) -> torch.Tensor:
        x1, y1, x2, y2 = box
        size = self.vae.config.sample_size
        face = cv2.resize(frame[y1:y2, x1:x2], (size, size), interpolation=cv2.INTER_LANCZOS4)
        whole = torch.from_numpy(face[:, :, ::-1] / np.float32(255)).permute(2, 0, 1)
        hole = whole * (torch.arange(size) < size // 2)[None, :, None]
        pair = torch.stack([hole, whole]).float()
        modes = self.vae.encode((pair - 0.5) / 0.5).latent_dist.mode() * 0.18215
        return torch.cat([modes[0], modes[1]])

    def tokens(self, sound: NDArray[np.float32], frame: int) -> torch.Tensor:
        mel = self.extract(sound, sampling_rate=16_000, return_tensors="pt").input_features
        states = torch.stack(self.whisper(mel, output_hidden_states=True).hidden_states, dim=2)[0]
        kept = states[: len(sound) * 50 // 16_000]
        around = torch.cat([kept.new_zeros(4, *kept.shape[1:]), kept])
        around = torch.cat([around, kept.new_zeros(12, *kept.shape[1:])])
        chosen = around[2 * frame : 2 * frame + 10].reshape(50, -1)
        position = torch.arange(50, dtype=torch.float64)[:, None]
        rates = 10_000.0 ** (-torch.arange(0, chosen.shape[1], 2) / chosen.shape[1])
        encoding = torch.zeros(chosen.shape, dtype=torch.float64)
        encoding[:, 0::2], encoding[:, 1::2] = (position * rates).sin(), (position * rates).cos()
        return chosen + encoding.float()

    def face(self, latents: torch.Tensor, tokens: torch.Tensor) -> NDArray[np.uint8]:
        drawn = self.unet(latents[None], 0, encoder_hidden_states=tokens[None]).sample
        decoded = self.vae.decode(drawn / 0.18215).sample[0]
        rgb = ((decoded / 2 + 0.5).clamp(0, 1) * 255).round().permute(1, 2, 0).numpy()
        return np.asarray(rgb[:, :, ::-1], np.uint8)


def _reference(made: musetalk.MuseTalk) -> _Reference:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers.models.whisper.configuration_whisper import WhisperConfig
    from transformers.models.whisper.feature_extraction_whisper import WhisperFeatureExtractor
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    config = made.config
    levels = len(config.vae.block_out_channels)
    blocks = {
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
    }
    unet = UNet2DConditionModel.from_config(asdict(config.unet) | dict(musetalk.UNET_FIXED))
    vae = AutoencoderKL.from_config(asdict(config.vae) | dict(musetalk.VAE_FIXED) | blocks)
    whisper = WhisperEncoder(WhisperConfig(**asdict(config.whisper)))
    for theirs, ours in ((unet, made.unet), (vae, made.vae), (whisper, made.whisper)):
        # Copies, since the runtime changes the layout and folds its own in place.
        state = {k: t.detach().clone() for k, t in ours.state_dict().items()}
        theirs.load_state_dict(state, strict=True, assign=True)
        theirs.eval()
    seconds = config.whisper.max_source_positions // 50
    extract = WhisperFeatureExtractor(config.whisper.num_mel_bins, chunk_length=seconds)
    return _Reference(unet, vae, whisper, extract)


def _reference_crop(box: Edges) -> Edges:
    x, y = (box[0] + box[2]) // 2, (box[1] + box[3]) // 2
    half = int(max(box[2] - box[0], box[3] - box[1]) // 2 * 1.5)
    return x - half, y - half, x + half, y + half


def _reference_region(parsed: NDArray[np.uint8], mode: str) -> NDArray[np.bool_]:
    """Return the part of the parsed square that is replaced."""
    mouth = np.isin(parsed, (11, 12, 13))
    skin = np.asarray(parsed == 1)
    if mode == "raw":
        return np.asarray(mouth | skin, np.bool_)
    kernel = np.zeros((33, 33), np.uint8)
    for row in range(33):
        half = min(row - 10, 10)
        if half >= 0:
            kernel[row, 16 - half : 17 + half] = 1
    grown = cv2.dilate(skin.astype(np.uint8), kernel)
    narrow = cv2.erode(grown, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (35, 3)), iterations=2)
    is_cheek = np.abs(np.arange(512) - 256) >= _CHEEK_WIDTH
    jaw = (np.where(is_cheek, narrow, grown) > 0) & (parsed != 10)
    return np.asarray(mouth | jaw, np.bool_)


def _reference_mask(parsed: NDArray[np.uint8], box: Edges, mode: str) -> Image.Image:
    crop = _reference_crop(box)
    side = crop[2] - crop[0]
    region = Image.fromarray(_reference_region(parsed, mode).astype(np.uint8) * 255)
    inside = (box[0] - crop[0], box[1] - crop[1], box[2] - crop[0], box[3] - crop[1])
    kept = Image.new("L", (side, side), 0)
    kept.paste(region.resize((side, side)).crop(inside), inside)
    kept.paste(0, (0, 0, side, side // 2))
    kernel = int(0.1 * side // 2 * 2) + 1
    return Image.fromarray(cv2.GaussianBlur(np.array(kept), (kernel, kernel), 0))


def _reference_picture(
    frame: NDArray[np.uint8], box: Edges, face: NDArray[np.uint8], mask: Image.Image
) -> NDArray[np.uint8]:
    """Return the frame with the face pasted into its crop and the crop into the frame."""
    crop = _reference_crop(box)
    body = Image.fromarray(frame)
    large = body.crop(crop)
    sized = cv2.resize(face, (box[2] - box[0], box[3] - box[1]))
    large.paste(Image.fromarray(sized), (box[0] - crop[0], box[1] - crop[1]))
    body.paste(large, crop[:2], mask)
    return np.array(body)


class _Kept(delivery.HostPostprocessor):
    """Keeps the composed pictures, which JPEG would change."""

    images: Sequence[NDArray[np.uint8]] = ()

    def encode(
        self, batch: Sequence[FrameRequest], images: Sequence[NDArray[np.uint8]]
    ) -> list[Frame]:
        self.images = images
        return []


def _frames() -> list[NDArray[np.uint8]]:
    noise = np.random.default_rng(1).integers(0, 256, (2, _HEIGHT, _WIDTH, 3))
    soft = [cv2.GaussianBlur(each.astype(np.uint8), (0, 0), 4) for each in noise]
    return [cv2.normalize(each, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8) for each in soft]


def _parsed() -> NDArray[np.uint8]:
    """Return classes of a square: skin, a nose, lips and a mouth."""
    classes = np.zeros((512, 512), np.uint8)
    cv2.ellipse(classes, (256, 256), (150, 190), 0, 0, 360, 1, cv2.FILLED)
    cv2.ellipse(classes, (256, 250), (25, 45), 0, 0, 360, 10, cv2.FILLED)
    cv2.ellipse(classes, (256, 345), (60, 25), 0, 0, 360, 12, cv2.FILLED)
    cv2.ellipse(classes, (256, 345), (45, 12), 0, 0, 360, 11, cv2.FILLED)
    return classes


def _sound() -> NDArray[np.int16]:
    rng = np.random.default_rng(2)
    swell = np.sin(np.arange(_SAMPLES) / 900) * 8000
    return np.asarray(rng.uniform(-1, 1, _SAMPLES) * swell, np.int16)


def _drawn_here(
    made: musetalk.MuseTalk, request_of: Callable[..., FrameRequest]
) -> dict[str, list[NDArray[np.uint8]]]:
    """Prepare the frames in each mask mode, and return the pictures of a folded model."""
    avatars = {mode: {"anna": _prepared(made, mode)} for mode in _MODES}
    speech = Utterance(16_000)
    speech.append(_sound().tobytes())
    speech.finish()
    windows = {window.frame_index: window for window in speech.take()}
    assert len(windows) == 11
    drawn = {}
    with torch.inference_mode(), ThreadPoolExecutor(1) as pool:
        folding.fold(made, upsampling=True)
        shards = cpu_parallel.CpuShards(pool, 1)
        for mode, table in avatars.items():
            kept = _Kept(table, pool)
            forwards = forward.EagerForward(made, shards)
            whole = renderer.Renderer(made, table, forwards, kept, shards)
            whole.render([request_of(windows[i], source_frame=j) for i, j in _DRAWN])
            drawn[mode] = list(kept.images)
    return drawn


def _prepared(made: musetalk.MuseTalk, mode: str) -> cache.Avatar:
    frames, boxes = _frames(), [geometry.Box(*face) for face in _FACES]
    blends = []
    for box in boxes:
        crop = geometry.crop_box(box)
        blends.append(masks.feathered(masks.region(_parsed(), crop, mode), box, crop))
    manifest, tensors = preparation.prepare(
        frames, boxes, blends, made, pixels="png", mask_mode=mode
    )
    return cache.Avatar("anna", manifest, "hash", tensors)


@pytest.mark.timeout(1800)  # the published shapes take 2 minutes of CPU, more on a busy machine
@pytest.mark.parametrize("name", ["tiny", "full"])
def test_pictures_are_those_of_the_reference_within_one_level(
    name: str, request_of: Callable[..., FrameRequest]
) -> None:
    made = _lively(random_model.preset(name))
    made.vae_hash = "made for a test"
    reference = _reference(made)
    sound = _sound().astype(np.float32) / np.float32(32768)
    with torch.inference_mode():
        latents = [reference.latents(f, b) for f, b in zip(_frames(), _FACES, strict=True)]
        # The cache stores latents in half precision.
        faces = [
            reference.face(latents[stored].half().float(), reference.tokens(sound, frame))
            for frame, stored in _DRAWN
        ]
    del reference
    made.to(torch.device("cpu"), torch.float32)

    drawn = _drawn_here(made, request_of)

    expected = {mode: _expected(faces, mode) for mode in _MODES}
    for mode in _MODES:
        pictures = zip(drawn[mode], expected[mode], _DRAWN, strict=True)
        for ours, theirs, (_, stored) in pictures:
            assert np.abs(ours.astype(int) - theirs).max() <= 1, mode
            changed = np.abs(theirs.astype(int) - _frames()[stored]).max(axis=2)
            assert (changed > 20).mean() > 0.02  # the face is drawn, and with contrast
        first, second, _ = (each.astype(int) for each in expected[mode])
        assert np.abs(first - second).max() > 3  # the sound matters
    between = np.abs(expected["raw"][0].astype(int) - expected["jaw"][0]).max(axis=2)
    assert (between > 20).any()  # the modes differ


def _expected(faces: Sequence[NDArray[np.uint8]], mode: str) -> list[NDArray[np.uint8]]:
    found = []
    for face, (_, stored) in zip(faces, _DRAWN, strict=True):
        box = _FACES[stored]
        mask = _reference_mask(_parsed(), box, mode)
        found.append(_reference_picture(_frames()[stored], box, face, mask))
    return found
