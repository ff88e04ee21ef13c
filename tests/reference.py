"""The paper's equations as slow loops in float64 numpy, written from the text alone.

Nothing here imports the package: shapes, orders and sums are spelled out a second time, so that a
test that compares the two can find a transposed axis or a wrong mask in either.
"""

import math

import numpy as np


def conv_tokens(image, weight, bias, token):
    """Conv(X; W, B) with kernel = stride = token. weight (E, tz, ty, tx), bias (E,)."""
    gz, gy, gx = (n // t for n, t in zip(image.shape, token, strict=True))
    out = np.zeros((gz, gy, gx, len(bias)))
    for z in range(gz):
        for y in range(gy):
            for x in range(gx):
                for e in range(len(bias)):
                    total = bias[e]
                    for dz in range(token[0]):
                        for dy in range(token[1]):
                            for dx in range(token[2]):
                                voxel = image[
                                    z * token[0] + dz, y * token[1] + dy, x * token[2] + dx
                                ]
                                total += weight[e, dz, dy, dx] * voxel
                    out[z, y, x, e] = total
    return out.reshape(-1, len(bias))


def dynamic_tokens(image, w, b, projector_w, projector_b, vector, token):
    """Y_i = Conv(X_i; W * w_i, B * b_i) with [w_i, b_i] = P m_i. w (E, p) holds W flattened."""
    both = projector_w @ vector + projector_b
    e = len(b)
    w_i, b_i = both[:e], both[e:]
    updated = np.stack([w[k].reshape(token) * w_i[k] for k in range(e)])
    return conv_tokens(image, updated, b * b_i, token)


def sincos(grid, token_mm, embed_dim):
    """The position table, one token and one frequency at a time."""
    frequencies = embed_dim // 6
    rows = []
    for z in range(grid[0]):
        for y in range(grid[1]):
            for x in range(grid[2]):
                row = []
                for index, mm in zip((z, y, x), token_mm, strict=True):
                    centre = (index + 0.5) * mm
                    periods = [32 * 16 ** (k / frequencies) for k in range(frequencies)]
                    angles = [2 * math.pi * centre / period for period in periods]
                    row += [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
                rows.append(row + [0.0] * (embed_dim - len(row)))
    return np.array(rows)


def layer_norm(x, weight, bias, eps=1e-6):
    out = np.zeros_like(x)
    for t in range(len(x)):
        mean = sum(x[t]) / len(x[t])
        variance = sum((v - mean) ** 2 for v in x[t]) / len(x[t])
        out[t] = (x[t] - mean) / math.sqrt(variance + eps) * weight + bias
    return out


def gelu(x):
    return np.array([[0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in row] for row in x])


def softmax_attention(q, k, v):
    """One head: each token's mean of v (T, width), weighted by softmax(q k / sqrt(width))."""
    out = np.zeros_like(v)
    for t in range(len(q)):
        scores = np.array([q[t] @ k[s] / math.sqrt(q.shape[1]) for s in range(len(k))])
        weights = np.exp(scores - scores.max())
        weights /= weights.sum()
        out[t] = sum(weights[s] * v[s] for s in range(len(k)))
    return out


def attention(x, p, prefix, heads):
    """Softmax attention of every token of x (T, E) on every other."""
    width = x.shape[1] // heads
    qkv = x @ p[f"{prefix}.qkv.weight"].T + p[f"{prefix}.qkv.bias"]
    q, k, v = np.split(qkv, 3, axis=1)
    out = np.zeros_like(x)
    for h in range(heads):
        part = slice(h * width, (h + 1) * width)
        out[:, part] = softmax_attention(q[:, part], k[:, part], v[:, part])
    return out @ p[f"{prefix}.proj.weight"].T + p[f"{prefix}.proj.bias"]


def block(x, p, prefix, heads):
    normed = layer_norm(x, p[f"{prefix}.norm1.weight"], p[f"{prefix}.norm1.bias"])
    x = x + attention(normed, p, f"{prefix}.attn", heads)
    normed = layer_norm(x, p[f"{prefix}.norm2.weight"], p[f"{prefix}.norm2.bias"])
    hidden = gelu(normed @ p[f"{prefix}.mlp.fc1.weight"].T + p[f"{prefix}.mlp.fc1.bias"])
    return x + hidden @ p[f"{prefix}.mlp.fc2.weight"].T + p[f"{prefix}.mlp.fc2.bias"]


def embed_study(images, p, config, prefix="encoder."):
    """Embedded tokens of one study: {contrast row: image (Z, Y, X)} -> {row: (L, E)}."""
    table = sincos(config.grid_size, config.token_mm, config.embed_dim)
    tokens = {}
    for row, image in images.items():
        content = dynamic_tokens(
            image,
            p[f"{prefix}patch_embed.proj.weight"],
            p[f"{prefix}patch_embed.proj.bias"],
            p[f"{prefix}patch_embed.projector.weight"],
            p[f"{prefix}patch_embed.projector.bias"],
            p[f"{prefix}patch_embed.contrast_vectors.weight"][row],
            config.token_size,
        )
        tokens[row] = content + table + p[f"{prefix}contrast_embed.weight"][row]
    return tokens


def encode(x, p, config, prefix="encoder."):
    """Hidden states after each block; the last one is normed."""
    states = [x]
    for i in range(config.depth):
        states.append(block(states[-1], p, f"{prefix}blocks.{i}", config.encoder_heads))
    states[-1] = layer_norm(states[-1], p[f"{prefix}norm.weight"], p[f"{prefix}norm.bias"])
    return states


def mae_study(images, masked, p, config):
    """Squared errors of one study's hidden voxels: {row: list of errors}.

    images {row: (Z, Y, X)}, masked {row: bool (L,)}.
    """
    embedded = embed_study(images, p, config)
    places = [(row, t) for row in images for t in range(config.num_tokens) if not masked[row][t]]
    latent = encode(np.stack([embedded[row][t] for row, t in places]), p, config)[-1]
    latent = latent @ p["decoder_embed.weight"].T + p["decoder_embed.bias"]
    table = sincos(config.grid_size, config.token_mm, config.decoder_embed_dim)
    everything = [(row, t) for row in images for t in range(config.num_tokens)]
    x = []
    for row, t in everything:
        content = latent[places.index((row, t))] if (row, t) in places else p["mask_token"]
        x.append(content + table[t] + p["decoder_contrast_embed.weight"][row])
    x = np.stack(x)
    for i in range(config.decoder_depth):
        x = block(x, p, f"decoder_blocks.{i}", config.decoder_heads)
    x = layer_norm(x, p["decoder_norm.weight"], p["decoder_norm.bias"])
    pred = x @ p["decoder_pred.weight"].T + p["decoder_pred.bias"]
    errors = {row: [] for row in images}
    for (row, t), values in zip(everything, pred, strict=True):
        if masked[row][t]:
            truth = token_voxels(images[row], t, config.token_size)
            errors[row] += [(v - w) ** 2 for v, w in zip(values, truth, strict=True)]
    return errors


def token_voxels(image, t, token):
    """The voxels of token t, one at a time."""
    _, gy, gx = (n // s for n, s in zip(image.shape, token, strict=True))
    z, y, x = t // (gy * gx), t // gx % gy, t % gx
    return [
        image[z * token[0] + dz, y * token[1] + dy, x * token[2] + dx]
        for dz in range(token[0])
        for dy in range(token[1])
        for dx in range(token[2])
    ]
