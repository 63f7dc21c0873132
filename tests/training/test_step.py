# SPDX-License-Identifier: Apache-2.0
"""The compiled step: accumulation, the optimizer's formula, averages, collectives."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy_stage

from lamd_jax import rng
from lamd_jax.training import sharding
from lamd_jax.training import state as state_lib
from lamd_jax.training import step as step_lib

BATCH = 16


class _Setup:
  """A step with its first state, on a mesh."""

  def __init__(self, mesh="dp", devices=1, stage=None, **optim):
    self.stage = stage or toy_stage.ToyStage(statistics=False)
    self.mesh = sharding.make_mesh(mesh, jax.devices()[:devices])
    config = toy_stage.config(batch=BATCH, **optim)
    self.host = state_lib.create(self.stage, config.optim.toy, seed=0)
    self.shardings = sharding.state_shardings(self.host, self.mesh, min_bytes=1)
    frozen = toy_stage.FROZEN
    frozen_shardings = sharding.state_shardings(frozen, self.mesh)
    self.frozen = sharding.place(frozen, frozen_shardings)
    self.root = jax.device_put(rng.root(0), sharding.replicated(self.mesh))
    self.step = step_lib.build(
      self.stage,
      "plain",
      optim=config.optim.toy,
      max_nonfinite=3,
      mesh=self.mesh,
      shardings=self.shardings,
      frozen_shardings=frozen_shardings,
    )
    self.state = sharding.place(self.host, self.shardings)

  def batch(self, number=0):
    loader = toy_stage.ToyLoader(BATCH)
    loader.set_state({"next": number * BATCH})
    return sharding.place_batch(next(loader), self.mesh)

  def run(self, steps=1):
    state = self.state
    with jax.set_mesh(self.mesh):
      for number in range(steps):
        state, report = self.step(state, self.frozen, self.root, self.batch(number))
    return jax.device_get((state, report))


def _relative(a, b):
  pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  return max(float(np.abs(x - y).max() / max(1, np.abs(y).max())) for x, y in pairs)


@pytest.mark.parametrize("mesh, devices", [("dp", 1), ("dp", 4), ("fsdp", 4)])
def test_accumulation_is_the_big_batch(mesh, devices):
  whole, whole_report = _Setup(accumulate=1).run()
  parts, parts_report = _Setup(mesh, devices, accumulate=4).run()
  # Adam divides by the gradient's size, so rounding is enlarged at tiny gradients:
  # compare its first moment, which is linear in the gradient, and the losses.
  moments = lambda state: [s[0].mu for s in state.opt_state.values()]
  assert _relative(moments(parts), moments(whole)) < 1e-6
  for name in ("loss/generator", "loss/discriminator", "gradient_norm/generator"):
    value = whole_report.metrics[name]
    np.testing.assert_allclose(parts_report.metrics[name], value, rtol=2e-6)


class _CriticLess(toy_stage.ToyStage):
  """Its one variant leaves the discriminator alone."""

  def trained(self, variant):
    return ("generator",)

  def forward(self, *args):
    output = super().forward(*args)
    return output._replace(losses={"generator": output.losses["generator"]})


class _Compared(toy_stage.ToyStage):
  """Says how far its averages, as `forward` is given them, are from its parameters."""

  def forward(self, params, extras, frozen, *rest):
    output = super().forward(params, extras, frozen, *rest)
    own = frozen[self.name]["params"]
    off = {
      f"off/{group}": optax.tree.norm(jax.tree.map(jnp.subtract, own[group], params[group]))
      for group in self.groups
    }
    return output._replace(metrics={**output.metrics, **off})


def test_forward_is_given_the_averages_before_the_step():
  made = _Setup(stage=_Compared(statistics=False), ema_decay=0.9, ema_warmup=False)
  before, _ = made.run()
  made.state = sharding.place(before, made.shardings)
  _, report = made.run()
  apart = jax.tree.map(np.subtract, before.ema["generator"], before.params["generator"])
  expected = float(optax.tree.norm(apart))
  assert expected > 0
  np.testing.assert_allclose(report.metrics["off/generator"], expected, rtol=1e-5)
  assert report.metrics["off/discriminator"] == 0  # it keeps no average


@pytest.mark.parametrize("accumulate", [1, 4])
def test_groups_that_a_variant_does_not_train_stay_bit_by_bit(accumulate):
  made = _Setup(stage=_CriticLess(), accumulate=accumulate, weight_decay=0.1)
  state, report = made.run(steps=2)
  for part in ("params", "ema", "opt_state"):
    before, after = getattr(made.host, part), getattr(state, part)
    assert set(after) == set(before)
    if "discriminator" in before:
      chex.assert_trees_all_equal(after["discriminator"], before["discriminator"])
    moved = lambda a, b: not np.array_equal(a, b)
    assert any(
      jax.tree.leaves(jax.tree.map(moved, after["generator"], before["generator"]))
    )
  assert "loss/discriminator" not in report.metrics


def test_extras_are_threaded_through_micro_batches():
  # Four micro-batches move a running mean of rate 0.1 four times; one moves it once.
  # Row sets are k, k+4, ...; the last part's weight is 0.1, the first's 0.1 * 0.9**3.
  stage = toy_stage.ToyStage(statistics=False)
  state, _ = _Setup(accumulate=4, stage=stage).run()
  params = stage.init(0)[0]["generator"]["first"]
  video = np.stack([toy_stage.clip(i) for i in range(BATCH)]).astype(np.float32)
  x = video.reshape(BATCH, -1) / np.float32(127.5) - 1 + np.float32(0.25)
  h = np.maximum(x @ params["kernel"] + params["bias"], 0)
  mean = np.zeros(toy_stage.WIDTH, np.float32)
  for part in range(4):
    mean = 0.9 * mean + 0.1 * h[part::4].mean(0)
  np.testing.assert_allclose(state.extras["mean"], mean, rtol=1e-5, atol=1e-6)


def test_updates_are_those_of_optax_adamw_on_the_tree():
  """Bundles, clipping, decay, schedule and average, written out with optax."""
  setup = _Setup("fsdp", 4, accumulate=1, clip_norm=0.1, schedule="cosine")
  found, _ = setup.run(steps=3)
  stage, optim = setup.stage, toy_stage.config(clip_norm=0.1).optim.toy
  rates = []
  for n in range(3):  # warm-up over two updates, then the first point of the cosine
    cosine = 0.5 * (1 + np.cos(np.pi * max(0, n - 2) / 4))
    rates.append(optim.learning_rate * min(1, (n + 1) / 2) * cosine)
  params, extras = stage.init(0)
  optimizers = {
    g: optax.chain(
      optax.clip_by_global_norm(optim.clip_norm),
      optax.adamw(lambda n: jnp.array(rates)[n], weight_decay=optim.weight_decay),
    )
    for g in stage.groups
  }
  state = {g: optimizers[g].init(params[g]) for g in stage.groups}
  ema = params["generator"]
  frozen = toy_stage.FROZEN

  def loss(params, batch, streams):
    output = stage.forward(params, extras, frozen, batch, streams, "plain")
    return sum(output.losses.values())

  @jax.jit
  def update(params, state, batch, streams):
    gradients = jax.grad(loss)(params, batch, streams)
    for g in stage.groups:
      changes, new = optimizers[g].update(gradients[g], state[g], params[g])
      state = {**state, g: new}
      params = {**params, g: optax.apply_updates(params[g], changes)}
    return params, state, gradients

  for n in range(3):
    streams = rng.Streams(rng.root(0), jnp.int32(n))
    batch = jax.device_get(setup.batch(n))
    params, state, gradients = update(params, state, batch, streams)
    decay = min(0.9, (1 + n + 1) / (10 + n + 1))
    mix = lambda e, p, decay=decay: decay * e + (1 - decay) * p
    ema = jax.tree.map(mix, ema, params["generator"])
  assert _relative(found.params, params) < 2e-5
  assert _relative(found.ema["generator"], ema) < 2e-5
  # The clip did act: gradients are larger than its limit.
  assert float(optax.tree.norm(gradients["discriminator"])) > optim.clip_norm


def test_the_step_is_traced_once_and_donates():
  setup = _Setup(accumulate=2)
  setup.stage.forward = chex.assert_max_traces(setup.stage.forward, n=1)
  given = setup.state
  setup.run(steps=3)
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(given))


def test_arrays_lie_where_they_should_and_packing_adds_no_collective():
  setup = _Setup("fsdp", 4, accumulate=1)
  abstract = state_lib.abstract(setup.host, setup.shardings)
  with jax.set_mesh(setup.mesh):
    lowered = setup.step.lower(abstract, setup.frozen, setup.root, setup.batch())
    text = lowered.compile().as_text()
  # Without the branch XLA fuses unpacking into the arithmetic, array by array.
  assert " conditional(" in text
  # What packing by reshapes across devices would need.
  assert "all-to-all" not in text
  assert "collective-permute" not in text
  # Gathered: the sharded parameters where they are used, and nothing of the
  # optimizer's, which holds twice as many arrays.
  sharded = [s for s in jax.tree.leaves(setup.shardings.params) if s.spec]
  gathers = text.count(" all-gather(") + text.count(" all-gather-start(")
  assert len(sharded) >= 5
  assert 1 <= gathers <= 2 * len(sharded)
  state, _ = setup.step(setup.state, setup.frozen, setup.root, setup.batch())
  for leaf, expected in zip(
    jax.tree.leaves(state), jax.tree.leaves(setup.shardings), strict=True
  ):
    assert leaf.sharding.is_equivalent_to(expected, leaf.ndim)
  kernel = state.opt_state["generator"][0].mu["first"]["kernel"]
  assert kernel.addressable_shards[0].data.shape == (24, 32)  # 96 over 4 devices


def test_a_stage_that_breaks_the_protocol_is_told():
  class Forgetful(toy_stage.ToyStage):
    def forward(self, *args):
      output = super().forward(*args)
      return output._replace(losses={"generator": output.losses["generator"]})

  with pytest.raises(ValueError, match="losses.*groups of plain are.*discriminator"):
    _Setup(stage=Forgetful(), accumulate=1).run()
