# SPDX-License-Identifier: Apache-2.0
"""The defaults of `config.model`: the networks of all systems."""

from __future__ import annotations

from ml_collections import ConfigDict


def defaults() -> ConfigDict:
  """Returns the group, unlocked."""
  return ConfigDict(
    dict(
      first_stage="video",  # video (3-D, model.autoencoder) | image (per frame)
      # Of the clips that train the autoencoder, 0: data.frames. One that works frame
      # by frame learns faster from few frames of many videos.
      autoencoder_frames=0,
      # An imported autoencoder instead of one that is trained: a safetensors file of
      # tools.convert sd-vae, which does not carry scale and shift of its latents.
      autoencoder_weights="",
      latent_scale=1.0,
      latent_shift=0.0,
      autoencoder=dict(
        channels=32,
        downsample=(4, 8, 8),  # t, h, w
        latent_channels=4,
        groups=32,
      ),
      # Stable Diffusion's, for first_stage="image".
      image_autoencoder=dict(
        channels=128,
        channel_mult=(1, 2, 4, 4),
        res_blocks=2,
        latent_channels=4,
        groups=32,
      ),
      denoiser=_denoiser(),
      denoiser_weights="",  # Gen-1's image model, a file of tools.convert sd-unet
      text=dict(
        encoder="none",  # none | small (trained with the denoiser) | clip (frozen)
        width=768,
        layers=12,
        heads=12,
        dropout=0.1,  # share of captions that training replaces by the empty one
        weights="",  # clip: a safetensors file made by tools.convert
      ),
      discriminator=dict(
        kind="frame",  # frame (2D per frame) | video (3D)
        channels=64,
        layers=3,
        norm="batch",  # batch | group
      ),
      # weights: a safetensors file made by tools.convert, or none (opt-out).
      perceptual=dict(weights=""),
      motion=_motion(),
      content=_content(),
      structure=dict(
        levels=7,  # T_s, rounds of blur and downsampling of the depth
        depth_weights="",  # DPT-Large for data.depth=estimated, of tools.convert depth
        standardise=False,  # latents of depth, by their statistics: nn/depth_moments.py
      ),
      prior=_prior(),
    )
  )


def _denoiser() -> dict[str, object]:
  return dict(
    channels=256,
    channel_mult=(1, 2, 3, 4),
    res_blocks=3,
    attention_downsample=(2, 4, 8),
    heads=4,
    head_channels=0,  # channels a head, whose number then follows; 0: `heads`
    temporal_kernel=1,
    temporal_length=4,  # latent frames; also the reach of relative positions
    relative_position=True,
    rel_pos_key_transposed=True,  # as in the released LVDM weights
    scale_shift_norm=True,
    resblock_updown=False,
    transformer=False,
    temporal_zero_init=True,  # of the transformer's temporal attention, as released
    noise_level_classes=0,
    # Of Gen-1's alone:
    temporal_layers=True,  # a convolution and a transformer over frames
    frame_positions=64,  # learned positions of frames: clips can be no longer
    temporal_cross_attention=False,  # of the temporal transformer, to the content
  )


def _motion() -> dict[str, object]:
  """LaMD's latent, of one map a clip, and how its generator learns of the content."""
  return dict(
    autoencoder=dict(
      latent_channels=3,
      patch=1,  # side of the squares of pixels that are one position of the finest scale
      content_channels=64,  # 2-D encoder of the first frame
      content_mult=(1, 2, 4),  # one a scale, finest first
      content_blocks=2,  # a scale
      content_attention=False,  # at the coarsest scale
      content_groups=32,  # of its norms
      encoder_widths=(64, 128, 256),  # 3-D encoder, one a scale, finest first
      decoder_widths=(64, 128, 256),
      decoder_blocks=1,  # a doubling of time
      decoder_attention=False,  # over the motion map, before time grows
      fusion="concat",  # concat | spade: how content enters the decoder
      groups=16,  # of the norms of the 3-D networks
    ),
    normalization="batch",  # none | batch | layer | l2: of z_m, before it is decoded
    momentum=0.1,  # of the running statistics, a step
    content_cond="concat",  # concat | crossattn | both: how the generator gets content
    concat_channels=64,
    content_pool=1,  # side of the squares of content that make one token
    context_width=768,  # of a token; with text model.text.width
    num_classes=0,  # 0: the generator takes no class
  )


def _content() -> dict[str, object]:
  """Gen-1's content: embeddings of pictures, and the tokens made of them."""
  return dict(
    encoder="small",  # small (trained by the stage content) | clip (frozen)
    network="l14",  # l14 | b32, of clip
    frames=0,  # of the clips that train the small one, 0: data.frames
    image_weights="",  # clip: files made by tools.convert
    text_weights="",
    width=128,  # small: of an embedding; the following are its sizes too
    image_channels=32,
    text_width=64,
    text_layers=1,
    text_heads=4,
    tokens=4,  # that the network attends to
    context_width=768,  # of a token
    dropout=0.1,  # share of clips that training shows without content
    momentum=0.01,  # of the embeddings' running statistics, a step
  )


def _prior() -> dict[str, object]:
  """From text to image embeddings."""
  return dict(
    kind="diffusion",  # mean_shift | regressor | diffusion
    width=768,
    layers=12,
    heads=12,
    levels=1000,  # of noise
    drop=0.1,  # share of captions that training leaves out
    steps=64,  # of sampling
    guidance=1.0,
  )
