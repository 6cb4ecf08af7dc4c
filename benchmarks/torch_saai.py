"""A training step of SAAI written plainly in torch, which benchmarks.train_step measures ours against.

The same network, losses, mean classifiers, optimiser and augmentation as saai_jax, under the names of
saai_jax.weights.names, so that our weights load. Nothing here waits for a GPU: the rows of a modality are indices that
come with the batch.
`of` has the fields of a configuration's network, `recipe` the numbers of its losses and its augmentation.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saai_jax.augment import LUMINANCE, MEAN, STD


def conv(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)


class Block(nn.Sequential):
    """A block of ResNet-50 (three convolutions) or of ResNet-18 (two); the 3x3 that comes first has the stride."""

    def __init__(self, inputs: int, features: int, stride: int, bottleneck: bool):
        outputs = 4 * features if bottleneck else features
        widths, sizes = ([features, features, outputs], (1, 3, 1)) if bottleneck else ([features] * 2, (3, 3))
        strides = (1, stride, 1) if bottleneck else (stride, 1)
        layers = OrderedDict()
        for i, given in enumerate([inputs, *widths[:-1]]):
            layers[f"conv{i + 1}"] = conv(given, widths[i], sizes[i], strides[i])
            layers[f"bn{i + 1}"] = nn.BatchNorm2d(widths[i])
            layers[f"relu{i + 1}"] = nn.ReLU()
        layers.popitem()  # the last comes after the sum
        shortcut = conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)
        layers["downsample"] = nn.Sequential(*shortcut if stride != 1 or inputs != outputs else ())
        super().__init__(layers)

    def forward(self, x: Tensor) -> Tensor:
        *layers, downsample = self
        y = x
        for layer in layers:
            y = layer(y)
        return F.relu(downsample(x) + y)


class ModalityAttention(nn.Module):
    """MAM: m x + (1 - m) IN(x), the gate m from the channels' means."""

    def __init__(self, channels: int):
        super().__init__()
        squeeze, excite = conv(channels, channels // 16, 1), conv(channels // 16, channels, 1)
        self.channel_attention = nn.Sequential(squeeze, nn.ReLU(), excite, nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        m = self.channel_attention(x.mean((2, 3), keepdim=True))
        return m * x + (1 - m) * F.instance_norm(x)


def resnet(of: Any) -> tuple[nn.Module, int]:
    """Our backbone, channels first, and the channels of its map."""
    layers = OrderedDict(conv1=conv(3, of.width, 7, 2), bn1=nn.BatchNorm2d(of.width), relu=nn.ReLU())
    layers["pool"] = nn.MaxPool2d(3, 2, 1) if of.stem_pool else nn.Identity()
    channels = of.width
    for i, depth in enumerate(of.stages):
        blocks, features = [], of.width * 2**i
        for j in range(depth):
            blocks.append(Block(channels, features, 2 if j == 0 and 0 < i < 3 else 1, of.bottleneck))
            channels = 4 * features if of.bottleneck else features
        layers[f"layer{i + 1}"] = nn.Sequential(*blocks)
        if i + 1 in of.mam:
            layers[f"MAM{i + 1}"] = ModalityAttention(channels)
    return nn.Sequential(layers), channels


class Safl(nn.Module):
    """Part features (b, p, c) and the similarities (b, p, n) of positions and prototypes (Eq. 1 and 2, as released)."""

    def __init__(self, parts: int, positions: int, channels: int):
        super().__init__()
        self.part_tokens = nn.Parameter(torch.randn(parts, channels) * (2 / channels) ** 0.5)
        self.pos_embeding = nn.Parameter(torch.randn(positions, channels) * (2 / channels) ** 0.5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        pixels = x.flatten(2).transpose(1, 2)
        similarity = self.part_tokens @ (pixels + self.pos_embeding).transpose(1, 2)
        return similarity.sigmoid() @ pixels / pixels.shape[1], similarity


class Neck(nn.Module):
    """A batch normalisation without bias for each modality."""

    def __init__(self, features: int):
        super().__init__()
        self.bn_neck_v, self.bn_neck_i = nn.BatchNorm1d(features), nn.BatchNorm1d(features)
        self.bn_neck_v.bias.requires_grad_(False)
        self.bn_neck_i.bias.requires_grad_(False)

    def forward(self, x: Tensor, visible: Tensor, infrared: Tensor) -> Tensor:
        both = torch.cat([self.bn_neck_v(x[visible]), self.bn_neck_i(x[infrared])])
        return torch.empty_like(both).index_copy(0, torch.cat([visible, infrared]), both)


class Network(nn.Module):
    """The network of a SAAI that pools by prototypes; `forward` gives its total loss (saai_jax.train.loss_terms)."""

    def __init__(self, of: Any, recipe: Any, positions: int, identities: int):
        super().__init__()
        if of.pooling != "prototypes" or of.aggregate_position:
            raise ValueError("only the released network is written in torch")
        self.recipe = recipe
        self.backbone, channels = resnet(of)
        self.attn_pool = Safl(of.parts, positions, channels)
        features = (of.parts + 1) * channels
        self.bn_neck = Neck(features)
        for name in ("classifier", "visible_classifier", "infrared_classifier"):
            setattr(self, name, nn.Linear(features, identities, bias=False))
            if name != "classifier":
                setattr(self, f"{name}_", nn.Linear(features, identities, bias=False).requires_grad_(False))

    @torch.no_grad()
    def move_means(self, rate: float) -> None:
        self.visible_classifier_.weight.lerp_(self.visible_classifier.weight, rate)
        self.infrared_classifier_.weight.lerp_(self.infrared_classifier.weight, rate)

    def embed(self, image: Tensor, visible: Tensor, infrared: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features f[b d] before and after the neck, and the parts' similarities, of normalised pictures."""
        x = self.backbone(image)
        parts, similarity = self.attn_pool(x)
        feature = torch.cat([parts.flatten(1), x.mean((2, 3))], 1).float()
        return feature, self.bn_neck(feature, visible, infrared), similarity

    def forward(self, image: Tensor, identity: Tensor, visible: Tensor, infrared: Tensor) -> Tensor:
        feature, embedding, similarity = self.embed(image, visible, infrared)
        r = self.recipe
        of_visible, of_infrared = embedding[visible], embedding[infrared]
        own_visible, own_infrared = self.visible_classifier(of_visible), self.infrared_classifier(of_infrared)
        with torch.no_grad():
            target = torch.cat([self.infrared_classifier_(of_visible), self.visible_classifier_(of_infrared)])
            target = target.float().softmax(1)
        return (
            F.cross_entropy(self.classifier(embedding).float(), identity)
            + F.cross_entropy(own_visible.float(), identity[visible])
            + F.cross_entropy(own_infrared.float(), identity[infrared])
            + F.cross_entropy(torch.cat([own_visible, own_infrared]).float(), target)
            + r.separation * centre_separation(feature, identity, r.rho1, r.rho2)
            + r.diversity * part_diversity(similarity.float())
        )


@torch.autocast("cuda", enabled=False)  # distances do not bear half precision
def centre_separation(feature: Tensor, identity: Tensor, rho1: float, rho2: float) -> Tensor:
    """L_cs (Eq. 5) of batch centres through which gradients flow; every identity counts once in the second term."""
    same = (identity[:, None] == identity[None]).float()
    count = same.sum(1)
    centre = same @ feature / count[:, None]
    gather = F.relu((feature - centre).norm(dim=1) - rho1).mean()
    weight = (1 - same) / (count[:, None] * count[None])
    return gather + (weight * F.relu(rho2 - torch.cdist(centre, centre))).sum() / weight.sum().clamp(min=1)


def part_diversity(similarity: Tensor) -> Tensor:
    """L_pd (Eq. 4), as released: minus the root-mean-square distance of the attentions of two parts."""
    first, second = torch.triu_indices(similarity.shape[1], similarity.shape[1], 1, device=similarity.device)
    maps = similarity.sigmoid()
    return -(maps[:, first] - maps[:, second]).square().mean(2).sqrt().mean()


def normalise(x: Tensor) -> Tensor:
    """f32[b h w 3] in 0..1 by ImageNet's mean and deviation."""
    return (x - torch.tensor(MEAN, device=x.device)) / torch.tensor(STD, device=x.device)


def augment(image: Tensor, recipe: Any) -> Tensor:
    """saai_jax.augment on a batch: flip, symmetric pad and crop, grayscale, normalise, erase; u8[b h w 3] to NCHW."""
    (b, h, w, _), device, pad = image.shape, image.device, recipe.pad

    def cut(size: int) -> Tensor:
        place = torch.arange(size, device=device) + torch.randint(-pad, pad + 1, (b, 1), device=device)
        place = torch.where(place < 0, -1 - place, place)
        return torch.where(place >= size, 2 * size - 1 - place, place)

    rows, columns = cut(h), cut(w)
    columns = torch.where(torch.rand(b, 1, device=device) < 0.5, w - 1 - columns, columns)
    x = image[torch.arange(b, device=device)[:, None, None], rows[:, :, None], columns[:, None]].float() / 255
    draw = torch.randint(11, (b,), device=device)
    if recipe.grayscale == "channel":
        single = x.gather(3, draw.clamp(max=2)[:, None, None, None].expand(b, h, w, 1))
    else:
        single = (x * torch.tensor(LUMINANCE, device=device)).sum(3, keepdim=True)
    x = torch.where((draw < 3)[:, None, None, None], single, x)
    gone = erased(b, h, w, recipe.erasing, device)[..., None]
    return torch.where(gone, torch.randn_like(x), normalise(x)).permute(0, 3, 1, 2)


def erased(b: int, h: int, w: int, probability: float, device: torch.device) -> Tensor:
    """b[b h w]: the first of ten random rectangles that fits, with some probability."""
    size = h * w * torch.empty(b, 10, device=device).uniform_(0.02, 0.33)
    ratio = torch.empty(b, 10, device=device).uniform_(float(np.log(0.3)), float(np.log(3.3))).exp()
    heights, widths = (size * ratio).sqrt().round(), (size / ratio).sqrt().round()
    fits = (heights < h) & (widths < w)
    chosen = fits.int().argmax(1, keepdim=True)
    eh, ew = heights.gather(1, chosen), widths.gather(1, chosen)
    top = (torch.rand(b, 1, device=device) * (h - eh + 1)).floor()
    left = (torch.rand(b, 1, device=device) * (w - ew + 1)).floor()
    rows, columns = torch.arange(h, device=device)[None], torch.arange(w, device=device)[None]
    applies = fits.any(1, keepdim=True) & (torch.rand(b, 1, device=device) < probability)
    inside = (rows >= top) & (rows < top + eh) & applies, (columns >= left) & (columns < left + ew)
    return inside[0][:, :, None] & inside[1][:, None]


def network(of: Any, recipe: Any, weights: Mapping[str, np.ndarray]) -> Network:
    """The network on the device where torch computes, with weights by torch's names (saai_jax.weights.names)."""
    made = Network(of, recipe, len(weights["attn_pool.pos_embeding"]), len(weights["classifier.weight"]))
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in weights.items()}
    missing, unexpected = made.load_state_dict(tensors, strict=False)
    # BatchNorm's counters, and the neck's biases, which stay zero.
    missing = [name for name in missing if not name.endswith((".num_batches_tracked", "_v.bias", "_i.bias"))]
    if missing or unexpected:
        raise ValueError(f"weights are missing: {missing}; or unknown: {unexpected}")
    return made.to("cuda" if torch.cuda.is_available() else "cpu")
